"""What stands between us and our contacts, beyond one run: offers, acceptances, requests.

Decides about what contacts offer, by rules and by what was accepted before; keeps the state directory in step
with the sessions; fills the ports of virtual addresses. Commands go through here.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import trio

from tunfwd.common.errors import Misuse, UserError
from tunfwd.common.notation import Protocol as ProtocolName
from tunfwd.common.notation import Target as WrittenTarget
from tunfwd.common.notation import read_target
from tunfwd.common.text import clean
from tunfwd.config.rules import Expose, exposure, mistaken, unusable
from tunfwd.control.api import Source
from tunfwd.daemon.contacts.refusals import Refusal, Refusals
from tunfwd.daemon.peers import MappingSettings, Peer
from tunfwd.daemon.process.logs import caused_by
from tunfwd.daemon.storage.state import (
    AcceptedMapping,
    ContactId,
    Content,
    Standing,
    StandingOffer,
    StandingRequest,
)
from tunfwd.events import Kind, Value, event
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS
from tunfwd.forwarding.policy import Action, Rule, decide
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.services.target import Target
from tunfwd.wire.packets import Direction, Protocol

Ending = Literal["withdrawn", "declined", "left"]
"""What a person makes of a mapping by ending it."""

Place = tuple[Protocol, int]
"""A port of a contact, or of ours."""

MAX_BY_RULE: Final = 256  # acceptances by rule from members of groups that are kept from one run to the next

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about offers."""

    rules: tuple[Rule, ...]
    exposed: tuple[Expose, ...]

    @property
    def patterns(self) -> list[str]:
        """Whom the rules name, each once."""
        named = [rule.contact for rule in self.rules] + [entry.contact for entry in self.exposed]
        return list(dict.fromkeys(named))

    def mistaken(self, peer: Peer) -> list[str]:
        """Return the patterns that fit what a contact, or its group's founder, chose, and do not mean it."""
        return mistaken(self.patterns, peer.label, peer.party)

    def explain(self) -> None:
        """Say which rules cannot mean anybody."""
        for pattern in self.patterns:
            if reason := unusable(pattern):
                log.warning('the rule for "%s" means nobody: %s', pattern, reason)


class Offers:
    """The standing offers, acceptances and requests."""

    def __init__(self, content: Content, policy: Policy, save: Callable[[], None]) -> None:
        """`save` writes `content`, soon, whenever it has changed."""
        self._content = content
        self._at_start: dict[ContactId, list[Standing]] | None = {}
        """What stood with each contact, until all are restored."""
        for standing in _in_order(content):
            self._at_start.setdefault(standing.contact, []).append(standing)
        self.policy = policy
        self._save = save
        self.refusals = Refusals(content, save)
        self.agreed: Callable[[Peer], None] = lambda _peer: None
        """Told of each contact that something stands with from now on."""
        self.ended: Callable[[Peer, Mapping], None] = lambda _peer, _mapping: None
        """Told of each mapping that ends."""
        self.held: Callable[[Mapping], str | None] = lambda _mapping: None
        """Says why a mapping cannot be ended by a command, if so."""

    # From the state directory.

    def restore(self, peer: Peer) -> None:
        """Give a contact's new session what stood when the daemon last ran; put aside what cannot."""
        for standing in self._standing(peer.id):
            try:
                self._restore(peer, standing)
            except (UserError, Misuse) as wrong:
                self._remove(standing)
                self._content.put_aside(standing, f"{peer.label}: {wrong}")
                what = describe(standing)
                log.warning("put aside: %s with %s: %s", what, peer.label, wrong, extra=caused_by(peer))
                self._save()

    def started(self) -> None:
        """All contacts that were known at the start are restored."""
        self._at_start = None

    def _standing(self, contact: ContactId) -> list[Standing]:
        """Return what stands with a contact, first what has a port of its own that others must leave free."""
        if self._at_start is not None:
            return self._at_start.get(contact, [])
        return [standing for standing in _in_order(self._content) if standing.contact == contact]

    def _restore(self, peer: Peer, standing: Standing) -> None:
        """Raises UserError or Misuse, before anything has changed."""
        protocol = protocol_named(standing.protocol)
        match standing:
            case StandingOffer():
                mapping = self._stand(peer, standing, Direction.SERVER)
                peer.details[mapping] = MappingSettings(
                    target=read_service(standing.target), source=standing.source, paused=standing.paused
                )
                return
            case AcceptedMapping(direction="connection"):
                mapping = peer.session.restore_acceptance(
                    Direction.CONNECTION, protocol, standing.port, standing.name
                )
                peer.details[mapping] = MappingSettings(target=read_service(standing.target))
                return
            case AcceptedMapping():
                port = peer.free_port(protocol, standing.port, standing.local_port)
                mapping = peer.session.restore_acceptance(
                    Direction.SERVER, protocol, standing.port, standing.name
                )
            case StandingRequest():
                port = peer.free_port(protocol, standing.port, standing.local_port)
                mapping = self._stand(peer, standing, Direction.CONNECTION)
        peer.give_port(mapping, port)
        if (stored := _stored(port, standing.port)) != standing.local_port:
            self._remove(standing)  # it is to stay there, whatever comes first at the next start
            self._append(replace(standing, local_port=stored))
            self._save()

    def _append(self, standing: Standing) -> None:
        match standing:
            case StandingOffer():
                self._content.offers.append(standing)
            case AcceptedMapping():
                self._content.mappings.append(standing)
            case StandingRequest():
                self._content.requests.append(standing)

    def _remove(self, standing: Standing) -> None:
        """Take out an entry: the one itself, as to compare them takes long."""
        content = self._content
        entries: Sequence[Standing]
        match standing:
            case StandingOffer():
                entries = content.offers
            case AcceptedMapping():
                entries = content.mappings
            case StandingRequest():
                entries = content.requests
        del entries[next(place for place, entry in enumerate(entries) if entry is standing)]

    def _stand(self, peer: Peer, what: StandingOffer | StandingRequest, direction: Direction) -> Mapping:
        """Offer it; raises UserError where that cannot be."""
        try:
            return peer.session.offer(
                protocol_named(what.protocol), what.port, what.name, trio.current_time(), direction=direction
            )
        except Misuse as misuse:
            raise UserError("failed", f"{peer.label}: {misuse}") from None

    def forget(self, contact: ContactId) -> None:
        """The contact is no more: nothing stands. What a member was refused stays so."""
        content = self._content
        if "/" not in contact:
            self.refusals.forget(contact)
        before = len(content.offers) + len(content.requests) + len(content.mappings)
        content.offers = [offer for offer in content.offers if offer.contact != contact]
        content.requests = [request for request in content.requests if request.contact != contact]
        content.mappings = [mapping for mapping in content.mappings if mapping.contact != contact]
        if len(content.offers) + len(content.requests) + len(content.mappings) != before:
            self._save()

    # What a contact does.

    def offered(self, peer: Peer, mapping: Mapping) -> None:
        """A contact offers something that was not accepted before, and may have withdrawn it since."""
        if mapping.state is not MappingState.PENDING:
            return
        refused = self.refusals.of(peer, mapping)
        if refused is not None and not refused.left:
            log.debug("declined before: %s from %s", describe(mapping), peer.label, extra=caused_by(peer))
            self.refusals.declined(refused, mapping)
            peer.session.end(mapping, trio.current_time())
            return
        asked = self.policy.rules if refused is None else ()  # a person left it: no rule takes it again
        rule = decide(asked, peer.party, mapping.protocol, mapping.port, mapping.direction)
        what = f"{describe(mapping)} from {peer.label}"
        by = caused_by(peer)
        about = _about(peer, mapping)
        match rule.action:
            case Action.ACCEPT:
                self._accept_by_rule(peer, mapping, rule, what)
            case Action.DENY:
                log.info("denied by rule: %s", what, extra=caused_by(peer, "denied", **about))
                peer.session.end(mapping, trio.current_time())
            case Action.ASK:
                kind: Kind = "offer" if mapping.direction is Direction.SERVER else "request"
                told = caused_by(peer, kind, **about)
                what_and_id = what, peer.id_of(mapping)
                if kind == "offer":
                    log.info("offered: %s; `tunfwd accept %s` takes it", *what_and_id, extra=told)
                else:
                    log.info("asked for: %s; `tunfwd allow %s` allows it", *what_and_id, extra=told)
                for pattern in self.policy.mistaken(peer):
                    log.info("%s", mistake(pattern, peer), extra=by)

    def reconsider(self, peer: Peer) -> None:
        """Apply rules that are new to what a contact offers and nobody has decided on."""
        for mapping in peer.session.mappings:
            if mapping.state is MappingState.PENDING and mapping.origin is Origin.REMOTE:
                asked = (mapping.protocol, mapping.port, mapping.direction)
                action = decide(self.policy.rules, peer.party, *asked).action
                if action is not Action.ASK:
                    self.offered(peer, mapping)

    def _accept_by_rule(self, peer: Peer, mapping: Mapping, rule: Rule, what: str) -> None:
        target = read_service(rule.target)
        if mapping.role is Role.SERVING and target is None:
            exposed = exposure(self.policy.exposed, peer.party, mapping.protocol, mapping.port)
            if exposed is None:
                log.info(
                    "%s: a rule accepts it, but no [[expose]] says what it leads to; left to you",
                    what,
                    extra=caused_by(peer),
                )
                return
            target = service(exposed.target)
        try:
            self.accept(peer, mapping, None, target, by_rule=True)
        except UserError as error:
            log.warning("%s: a rule accepts it, but %s", what, error.message, extra=caused_by(peer))
        else:
            by = caused_by(peer, "accepted", **_about(peer, mapping))
            log.info("accepted by rule: %s", what, extra=by)

    def changed(self, peer: Peer, mapping: Mapping) -> None:
        """A mapping has a new state; one that ended is forgotten here and on disk."""
        if mapping.state is not MappingState.ENDED:
            return
        known = mapping in peer.details  # False: told before, of more than one change in the same round
        peer.forget(mapping)
        self.ended(peer, mapping)
        if not known:
            return
        content = self._content
        entries: Sequence[Standing]
        if mapping.origin is Origin.REMOTE:
            entries = content.mappings if mapping.accepted else ()
        else:
            entries = content.offers if mapping.direction is Direction.SERVER else content.requests
        # The first: a later one is a new offer of the same port, made since.
        there = (
            entry for entry in entries if entry.port == mapping.port
        )  # most are not: the rest costs more
        if found := next((entry for entry in there if _is_of(entry, peer, mapping)), None):
            self._remove(found)
            self._save()

    # What a person does.

    def require_room(self, peer: Peer, direction: Direction, ports: Sequence[Place]) -> None:
        """Raise UserError where not all of some ports can be offered to a contact, or asked for."""
        ours = [mapping for mapping in peer.session.mappings if mapping.origin is Origin.LOCAL]
        standing = {(m.protocol, m.port) for m in ours if m.direction is direction}
        done = "offered" if direction is Direction.SERVER else "asked for"
        for protocol, port in ports:
            if (protocol, port) in standing:
                raise UserError(
                    "failed",
                    f"{peer.label}: {port}/{protocol_name(protocol)} is already {done}; kill it first",
                )
        if len(ours) + len(ports) > MAX_MAPPINGS:
            raise UserError(
                "failed", f"{peer.label}: {MAX_MAPPINGS} offers and requests at most; kill some first"
            )

    def offer(
        self,
        peer: Peer,
        protocol: Protocol,
        port: int,
        name: str,
        target: Target | None,
        source: Source,
        *,
        keep: bool = True,
    ) -> Mapping:
        """Offer a service of ours from now on; without `keep`, for this run."""
        standing = StandingOffer(peer.id, protocol_name(protocol), port, name, service_text(target), source)
        mapping = self._stand(peer, standing, Direction.SERVER)
        peer.details[mapping] = MappingSettings(target=target, source=source)
        if keep:
            self._content.offers.append(standing)
        self._stands(peer)
        return mapping

    def adopt(self, peer: Peer, mapping: Mapping) -> None:
        """Have an offer of ours stand because of something else than the state."""
        self._content.offers = [offer for offer in self._content.offers if not _is_of(offer, peer, mapping)]
        self._save()

    def require_endable(self, mapping: Mapping) -> None:
        """Raise UserError for an offer that no command may end."""
        if (reason := self.held(mapping)) is not None:
            raise UserError("denied", reason)

    def request(
        self, peer: Peer, protocol: Protocol, port: int, name: str, local_port: int | None
    ) -> Mapping:
        """Ask for a contact's port from now on."""
        place = peer.free_port(protocol, port, local_port or port)
        standing = StandingRequest(peer.id, protocol_name(protocol), port, name, _stored(place, port))
        mapping = self._stand(peer, standing, Direction.CONNECTION)
        peer.give_port(mapping, place)
        self._content.requests.append(standing)
        self._stands(peer)
        return mapping

    def request_all(
        self, peer: Peer, ports: Sequence[Place], name: str, local_port: int | None
    ) -> list[Mapping]:
        """Ask for some of a contact's ports from now on, or raise UserError and ask for none."""
        self.require_room(peer, Direction.CONNECTION, ports)
        if local_port is not None:
            peer.free_port(ports[0][0], ports[0][1], local_port)
        made: list[Mapping] = []
        try:
            for protocol, port in ports:
                made.append(self.request(peer, protocol, port, name, local_port))
        except UserError:
            for mapping in made:
                self.end(peer, mapping)
            raise
        return made

    def accept(
        self,
        peer: Peer,
        mapping: Mapping,
        port: int | None,
        target: Target | None,
        *,
        by_rule: bool = False,
    ) -> None:
        """Accept what a contact offers, now and whenever it offers the same again."""
        using = mapping.role is Role.USING
        place = peer.free_port(mapping.protocol, mapping.port, port) if using else 0
        try:
            peer.session.accept(mapping, trio.current_time())
        except Misuse as misuse:
            raise UserError("failed", f"{describe(mapping)} from {peer.label}: {misuse}") from None
        if using:
            peer.give_port(mapping, place)
        else:
            peer.details_of(mapping).target = target
        self.refusals.remove(peer, mapping)
        if not by_rule:
            self._say("accepted: %s from %s", peer, mapping)
        if by_rule and self._is_full_of_rules(peer):
            return  # it runs all the same, and the rule accepts it again in the next run
        self._content.mappings.append(
            AcceptedMapping(
                peer.id,
                "server" if mapping.direction is Direction.SERVER else "connection",
                protocol_name(mapping.protocol),
                mapping.port,
                mapping.name,
                _stored(place, mapping.port) if using else None,
                service_text(target),
                by_rule,
            )
        )
        self._stands(peer)

    def accept_refused(self, refusal: Refusal, port: int | None, target: Target | None) -> Mapping:
        """Accept what was declined, or left, and is not on offer now; the contact is told, if it is there."""
        peer, refused = refusal.peer, refusal.refused
        using = refusal.direction is Direction.SERVER
        place = peer.free_port(refusal.protocol, refused.port, port) if using else 0
        last_id = self.refusals.last_id(refused)
        try:
            mapping = peer.session.restore_acceptance(
                refusal.direction, refusal.protocol, refused.port, refused.name
            )
        except Misuse as misuse:
            raise UserError("failed", f"{peer.label}: {misuse}") from None
        stored = _stored(place, refused.port) if using else None
        if using:
            peer.give_port(mapping, place)
        else:
            peer.details_of(mapping).target = target
        self._append(
            AcceptedMapping(
                peer.id,
                refused.direction,
                refused.protocol,
                refused.port,
                refused.name,
                stored,
                service_text(target),
            )
        )
        self.refusals.discard(refused)
        if last_id is not None:
            peer.session.accept_late(mapping, last_id, trio.current_time())
        self._say("accepted after all: %s from %s", peer, mapping)
        self._stands(peer)
        return mapping

    def accept_ahead(self, peer: Peer, ports: Sequence[Place], name: str) -> list[Place]:
        """Accept some of a contact's servers, offered or not yet; return those that were not before."""
        theirs = {
            (mapping.protocol, mapping.port): mapping
            for mapping in peer.session.mappings
            if (mapping.origin, mapping.direction) == (Origin.REMOTE, Direction.SERVER)
        }
        taken = []
        for protocol, port in ports:
            known = theirs.get((protocol, port))
            if known is not None and known.state is MappingState.PENDING:
                self.accept(peer, known, None, None)
            elif known is None:
                self._accept_unoffered(peer, protocol, port, name)
            else:
                continue
            taken.append((protocol, port))
        return taken

    def _accept_unoffered(self, peer: Peer, protocol: Protocol, port: int, name: str) -> None:
        """Accept what may have been declined before, or never seen."""
        for refusal in self.refusals.all(peer):
            same = (refusal.direction, refusal.protocol, refusal.refused.port)
            if same == (Direction.SERVER, protocol, port):
                self.accept_refused(refusal, None, None)
                return
        self._expect(peer, protocol, port, name)

    def _expect(self, peer: Peer, protocol: Protocol, port: int, name: str) -> None:
        place = peer.free_port(protocol, port, None)
        try:
            mapping = peer.session.restore_acceptance(Direction.SERVER, protocol, port, name)
        except Misuse as misuse:
            raise UserError("failed", f"{peer.label}: {misuse}") from None
        peer.give_port(mapping, place)
        stored = _stored(place, port)
        self._append(AcceptedMapping(peer.id, "server", protocol_name(protocol), port, name, stored))
        self._stands(peer)

    def _is_full_of_rules(self, peer: Peer) -> bool:
        """Whether no more is kept of what rules accept from members of groups: strangers, perhaps."""
        by_rule = (stored for stored in self._content.mappings if stored.by_rule and "/" in stored.contact)
        return "/" in peer.id and sum(1 for _ in by_rule) >= MAX_BY_RULE

    def _stands(self, peer: Peer) -> None:
        self.agreed(peer)
        self._save()

    def refuse(self, peer: Peer, mapping: Mapping) -> Ending:
        """End a mapping as a person says: withdraw what is ours, decline or leave what is the contact's."""
        how: Ending = "withdrawn"
        if mapping.origin is Origin.REMOTE:
            how = "left" if mapping.accepted and mapping.direction is Direction.SERVER else "declined"
            self.refusals.add(peer, mapping, left=how == "left")
        self._say(f"{how}: %s, %s", peer, mapping, "denied" if how == "declined" else "ended")
        self.end(peer, mapping)
        return how

    def _say(self, line: str, peer: Peer, mapping: Mapping, kind: Kind = "accepted") -> None:
        """Log what a person here has decided."""
        log.info(
            line,
            describe(mapping),
            peer.label,
            extra=event(kind, contact=peer.label, **_about(peer, mapping)),
        )

    def end(self, peer: Peer, mapping: Mapping) -> None:
        """End a mapping, and remember nothing of it."""
        peer.session.end(mapping, trio.current_time())
        self.changed(peer, mapping)  # now, so that it is saved with the command that did it


def mistake(pattern: str, peer: Peer) -> str:
    """Say why a rule does not mean a contact of that name, and what to do about it."""
    what = f'the rule for "{pattern}" does not mean {peer.label}'
    if peer.party.group is not None:
        return f"{what}: it, or its group's founder, chose that name; write the key or the chat id"
    return (
        f"{what}, which calls itself so: `tunfwd friend rename {peer.name} NAME` names it, or write its key"
    )


def _in_order(content: Content) -> list[Standing]:
    """Return all that stands, in the order in which it is to be restored."""
    using: list[AcceptedMapping | StandingRequest] = [*content.requests, *content.mappings]
    using.sort(key=lambda standing: standing.local_port is None)
    return [*content.offers, *using]


def describe(what: Mapping | Standing) -> str:
    """Name a mapping, or what the state has of one, for a person."""
    name = f' "{clean(what.name)}"' if what.name else ""
    match what:
        case Mapping(direction=Direction.CONNECTION) | AcceptedMapping(direction="connection"):
            verb = "a connection to "
        case StandingRequest():
            verb = "a request for "
        case _:
            verb = ""
    protocol = what.protocol.name.lower() if isinstance(what, Mapping) else what.protocol
    return f"{verb}{what.port}/{protocol}{name}"


def _about(peer: Peer, mapping: Mapping) -> dict[str, Value]:
    """Return what an event says of a mapping."""
    return {
        "id": peer.id_of(mapping),
        "protocol": protocol_name(mapping.protocol),
        "port": mapping.port,
        "name": clean(mapping.name),
    }


def _stored(place: int, port: int) -> int | None:
    """Return how the state has where a mapping of `port` is reached."""
    return place if place != port else None


def _is_of(stored: Standing, peer: Peer, mapping: Mapping) -> bool:
    same = (stored.contact, stored.protocol, stored.port) == (
        peer.id,
        protocol_name(mapping.protocol),
        mapping.port,
    )
    if isinstance(stored, AcceptedMapping):
        same &= stored.name == mapping.name and stored.direction == mapping.direction.name.lower()
    return same


def service(written: WrittenTarget | None) -> Target | None:
    """Return the service that a person wrote; None is this machine, at the port in question."""
    return None if written is None else Target(written.host, written.port)


def protocol_named(name: ProtocolName) -> Protocol:
    """Return what people write as "tcp" or "udp"."""
    return Protocol[name.upper()]


def protocol_name(protocol: Protocol) -> ProtocolName:
    """Return how people write a protocol."""
    return "tcp" if protocol is Protocol.TCP else "udp"


def read_service(text: str | None) -> Target | None:
    """Return the service that the state file has as HOST:PORT."""
    return None if text is None else service(read_target(text))


def service_text(target: Target | None) -> str | None:
    """Return a service as HOST:PORT, for the state file."""
    return None if target is None else str(target)
