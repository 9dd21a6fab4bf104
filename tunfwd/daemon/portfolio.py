"""What stands between us and our contacts, beyond one run: offers, acceptances, requests.

Decides about what contacts offer, by rules and by what was accepted before; keeps the state directory in step
with the sessions; fills the ports of virtual addresses. Commands go through here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from tunfwd.control.api import Source
from tunfwd.control.errors import ControlError
from tunfwd.control.notation import Protocol as ProtocolName
from tunfwd.control.notation import Target as WrittenTarget
from tunfwd.control.notation import read_target
from tunfwd.daemon.logs import caused_by
from tunfwd.daemon.peers import Details, Peer
from tunfwd.daemon.rules import Expose, exposure
from tunfwd.daemon.state import AcceptedMapping, ContactId, Content, StandingOffer, StandingRequest
from tunfwd.forwarding.mapping import Mapping, Origin
from tunfwd.forwarding.negotiation import Misuse
from tunfwd.forwarding.policy import Action, Rule, decide
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.services.target import Target
from tunfwd.wire.packets import Direction, Protocol
from tunfwd.wire.text import clean

MAX_BY_RULE = 256  # acceptances by rule from members of groups that are kept from one run to the next

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about offers."""

    rules: tuple[Rule, ...]
    exposed: tuple[Expose, ...]


class Portfolio:
    """The standing offers, acceptances and requests."""

    def __init__(self, content: Content, policy: Policy, save: Callable[[], None]) -> None:
        """`save` writes `content`, soon, whenever it has changed."""
        self._content = content
        self._policy = policy
        self._save = save
        self.agreed: Callable[[Peer], None] = lambda _peer: None
        """Told of each contact that something stands with from now on."""
        self.ended: Callable[[Peer, Mapping], None] = lambda _peer, _mapping: None
        """Told of each mapping that ends."""

    # From the state directory.

    def restore(self, peer: Peer) -> None:
        """Give a contact's new session what stood when the daemon last ran."""
        for offer in self._content.offers:
            if offer.contact == peer.id:
                mapping = self._stand(peer, offer, Direction.SERVER)
                peer.details[mapping] = Details(target=read_service(offer.target), source=offer.source)
        for request in self._content.requests:
            if request.contact == peer.id:
                mapping = self._stand(peer, request, Direction.CONNECTION)
                peer.give_port(mapping, request.local_port)
        for accepted in self._content.mappings:
            if accepted.contact == peer.id:
                mapping = peer.session.expect(
                    Direction[accepted.direction.upper()],
                    protocol_named(accepted.protocol),
                    accepted.port,
                    accepted.name,
                )
                peer.details[mapping] = Details(target=read_service(accepted.target))
                if mapping.role is Role.USING:
                    peer.give_port(mapping, accepted.local_port)

    def _stand(self, peer: Peer, what: StandingOffer | StandingRequest, direction: Direction) -> Mapping:
        """Offer it; raises ControlError where that cannot be."""
        try:
            return peer.session.offer(
                protocol_named(what.protocol), what.port, what.name, trio.current_time(), direction=direction
            )
        except Misuse as misuse:
            raise ControlError("failed", f"{peer.label}: {misuse}") from None

    def forget(self, contact: ContactId) -> None:
        """The contact is no more: nothing stands."""
        content = self._content
        before = len(content.offers) + len(content.requests) + len(content.mappings)
        content.offers = [offer for offer in content.offers if offer.contact != contact]
        content.requests = [request for request in content.requests if request.contact != contact]
        content.mappings = [mapping for mapping in content.mappings if mapping.contact != contact]
        if len(content.offers) + len(content.requests) + len(content.mappings) != before:
            self._save()

    # What a contact does.

    def offered(self, peer: Peer, mapping: Mapping) -> None:
        """A contact offers something that was not accepted before."""
        rule = decide(self._policy.rules, peer.known_as, mapping.protocol, mapping.port, mapping.direction)
        what = f"{describe(mapping)} from {peer.label}"
        by = caused_by(peer)
        match rule.action:
            case Action.ACCEPT:
                self._accept_by_rule(peer, mapping, rule, what)
            case Action.DENY:
                log.info("denied by rule: %s", what, extra=by)
                peer.session.end(mapping, trio.current_time())
            case Action.ASK:
                log.info("offered: %s; `tunfwd accept %08x` takes it", what, mapping.msg_id, extra=by)

    def _accept_by_rule(self, peer: Peer, mapping: Mapping, rule: Rule, what: str) -> None:
        target = read_service(rule.target)
        if mapping.role is Role.SERVING and target is None:
            exposed = exposure(self._policy.exposed, peer.known_as, mapping.protocol, mapping.port)
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
        except ControlError as error:
            log.warning("%s: a rule accepts it, but %s", what, error.message, extra=caused_by(peer))
        else:
            log.info("accepted by rule: %s", what, extra=caused_by(peer))

    def changed(self, peer: Peer, mapping: Mapping) -> None:
        """A mapping has a new state; one that ended is forgotten here and on disk."""
        if mapping.state is not MappingState.ENDED:
            return
        peer.forget(mapping)
        self.ended(peer, mapping)
        content = self._content
        if mapping.origin is Origin.REMOTE:
            if mapping.taken:
                content.mappings = [m for m in content.mappings if not _is_of(m, peer, mapping)]
                self._save()
        elif mapping.direction is Direction.SERVER:
            content.offers = [offer for offer in content.offers if not _is_of(offer, peer, mapping)]
            self._save()
        else:
            content.requests = [r for r in content.requests if not _is_of(r, peer, mapping)]
            self._save()

    # What a person does.

    def offer(
        self, peer: Peer, protocol: Protocol, port: int, name: str, target: Target | None, source: Source
    ) -> Mapping:
        """Offer a service of ours from now on."""
        standing = StandingOffer(peer.id, protocol_name(protocol), port, name, service_text(target), source)
        mapping = self._stand(peer, standing, Direction.SERVER)
        peer.details[mapping] = Details(target=target, source=source)
        self._content.offers.append(standing)
        self._stands(peer)
        return mapping

    def request(
        self, peer: Peer, protocol: Protocol, port: int, name: str, local_port: int | None
    ) -> Mapping:
        """Ask for a contact's port from now on."""
        if local_port is not None and (protocol, local_port) in peer.ports:
            raise ControlError("usage", f"port {local_port} of {peer.label} is in use; choose another")
        standing = StandingRequest(peer.id, protocol_name(protocol), port, name, local_port)
        mapping = self._stand(peer, standing, Direction.CONNECTION)
        peer.give_port(mapping, local_port)
        self._content.requests.append(standing)
        self._stands(peer)
        return mapping

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
        if mapping.role is Role.USING:
            peer.give_port(mapping, port)
        else:
            peer.details_of(mapping).target = target
        try:
            peer.session.take(mapping, trio.current_time())
        except Misuse as misuse:
            raise ControlError("failed", f"{describe(mapping)} from {peer.label}: {misuse}") from None
        if by_rule and self._is_full_of_rules(peer):
            return  # it runs all the same, and the rule accepts it again in the next run
        self._content.mappings.append(
            AcceptedMapping(
                peer.id,
                "server" if mapping.direction is Direction.SERVER else "connection",
                protocol_name(mapping.protocol),
                mapping.port,
                mapping.name,
                port,
                service_text(target),
                by_rule,
            )
        )
        self._stands(peer)

    def _is_full_of_rules(self, peer: Peer) -> bool:
        """Whether no more is kept of what rules accept from members of groups: strangers, perhaps."""
        by_rule = (stored for stored in self._content.mappings if stored.by_rule and "/" in stored.contact)
        return "/" in peer.id and sum(1 for _ in by_rule) >= MAX_BY_RULE

    def _stands(self, peer: Peer) -> None:
        self.agreed(peer)
        self._save()

    def end(self, peer: Peer, mapping: Mapping) -> None:
        """Deny, withdraw or kill."""
        peer.session.end(mapping, trio.current_time())


def describe(mapping: Mapping) -> str:
    """Name a mapping for a person."""
    name = f' "{clean(mapping.name)}"' if mapping.name else ""
    verb = "" if mapping.direction is Direction.SERVER else "a connection to "
    return f"{verb}{mapping.port}/{mapping.protocol.name.lower()}{name}"


def _is_of(stored: AcceptedMapping | StandingOffer | StandingRequest, peer: Peer, mapping: Mapping) -> bool:
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
