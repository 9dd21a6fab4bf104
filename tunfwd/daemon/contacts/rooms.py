"""Groups and conferences: their names, and what is offered to all who are in them.

A group's offer goes out as one public packet, and to members who come later privately; each member accepts
for itself and gets a mapping of its own, in its own session. A conference's offer goes to those members who
are friends, over their friend sessions, now and later. Both stand in the state directory.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import trio

from tunfwd.common.errors import Misuse, UserError
from tunfwd.common.names import KEY_PREFIX, folded, harmless
from tunfwd.common.text import clean
from tunfwd.common.values import Random
from tunfwd.control.api import Source
from tunfwd.daemon.contacts.greetings import Greetings
from tunfwd.daemon.contacts.offers import protocol_name, protocol_named, read_service, service_text
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import MappingSettings, Peer, Peers
from tunfwd.daemon.process.logs import caused_by
from tunfwd.daemon.storage.state import Content, StandingOffer, group_id
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.services.target import Target
from tunfwd.tox.conferences import Conferences
from tunfwd.tox.contacts import Conference, ContactOffline, Group, Member, Room, RoomKind, RoomState
from tunfwd.tox.groups import Groups
from tunfwd.wire.carriers import GROUP
from tunfwd.wire.packets import Direction, Kill, Lossless, Offer, Protocol, encode

ID_DIGITS: Final = 8  # hex digits of an id that stand for a room without a name

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class RoomOffer:
    """What is offered to a whole room."""

    standing: StandingOffer
    msg_id: int
    """Of the public Offer."""

    @property
    def id(self) -> str:
        """How people name it without doubt, after a restart as before."""
        standing = self.standing
        what = f"{standing.contact} {standing.protocol} {standing.port}"
        return blake2b(what.encode(), digest_size=4).hexdigest()

    @property
    def protocol(self) -> Protocol:
        """TCP or UDP."""
        return protocol_named(self.standing.protocol)

    def details(self) -> MappingSettings:
        """Return what a mapping made from it needs to know."""
        standing = self.standing
        return MappingSettings(
            target=read_service(standing.target), source=standing.source, paused=standing.paused
        )


def room_id(room: Room) -> str:
    """Return the id that the state directory keeps a room under."""
    return group_id(room.id) if room.kind == "group" else f"conference:{id_text(room)}"


def id_text(room: Room) -> str:
    """Return the id that people know a room by."""
    return room.id.hex().upper()


class Rooms:
    """The groups and conferences we are in, and the offers to them."""

    def __init__(
        self,
        groups: Groups,
        conferences: Conferences,
        peers: Peers,
        scheduler: Scheduler,
        content: Content,
        save: Callable[[], None],
        greetings: Greetings,
        random: Random,
    ) -> None:
        self._groups = groups
        self._conferences = conferences
        self._peers = peers
        self._scheduler = scheduler
        self._content = content
        self._save = save
        self._greetings = greetings
        self._random = random
        self.offers: list[RoomOffer] = [
            RoomOffer(offer, random.getrandbits(32)) for offer in content.offers if _is_room(offer.contact)
        ]
        self.held: Callable[[RoomOffer], str | None] = lambda _offer: None
        """Says why an offer cannot be ended by a command, if so."""
        self._mappings: dict[RoomOffer, dict[Peer, Mapping]] = {offer: {} for offer in self.offers}

    def __iter__(self) -> Iterator[Room]:
        yield from self._groups
        yield from self._conferences

    # Names.

    def name(self, room: Room) -> str:
        """Return a room's name, unique among its kind: the person's, or its own; kept, once we are in."""
        names, key = self._content.names, room_id(room)
        if key in names:
            return harmless(names[key], id_text(room))
        own = harmless(clean(room.name), id_text(room))
        if not own:
            return id_text(room)[:ID_DIGITS].lower()
        name = own if self._has_name(own, room) is None else f"{own}-{id_text(room)[:4].lower()}"
        if room.kind == "conference" or room.state is RoomState.JOINED:
            names[key] = name
            self._save()
        return name

    def _has_name(self, name: str, beside: Room) -> Room | None:
        """Return the other group, or conference, of that name."""
        names = self._content.names
        others = (room for room in self if room.kind == beside.kind and room is not beside)
        return next((room for room in others if folded(names.get(room_id(room), "")) == folded(name)), None)

    def is_named(self, room: Room) -> bool:
        """Whether a person here chose the room's name."""
        return room_id(room) in self._content.named_rooms or room.founded

    def require_free(self, name: str, kind: RoomKind, beside: Room | None = None) -> None:
        """Raise UserError where a person gave another room that name."""
        for room in self:
            other = room.kind == kind and room is not beside
            if other and self.is_named(room) and folded(self.name(room)) == folded(name):
                raise UserError("failed", f"{self.label(room)} exists already; choose another name")

    def rename(self, room: Room, name: str) -> Room | None:
        """Call a room as a person wishes, for good; return the one that had the name from its founder.

        Raises UserError where a person gave another room that name.
        """
        self.require_free(name, room.kind, room)
        other = self._has_name(name, room)
        if other is not None:
            del self._content.names[room_id(other)]
        key = room_id(room)
        self._content.names[key] = name
        if key not in self._content.named_rooms:
            self._content.named_rooms.append(key)
        self._save()
        return other

    def label(self, room: Room) -> str:
        """Return a room's name with its kind, as in `--to`."""
        return f"{room.kind}:{self.name(room)}"

    def find(self, text: str, kind: RoomKind) -> Room:
        """Return the room that a person means by a name or the beginning of an id; raises UserError."""
        text = text.removeprefix(f"{kind}:")
        rooms = [room for room in self if room.kind == kind]
        found = [room for room in rooms if self.name(room) == text] or [
            room for room in rooms if folded(self.name(room)) == folded(text)
        ]
        if not found and len(text) >= KEY_PREFIX:
            found = [room for room in rooms if id_text(room).startswith(text.upper())]
        if not found:
            raise UserError("not_found", f"no {kind} {text!r}; `tunfwd {kind} list` lists them")
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)} {kind}s; write more of the id")
        return found[0]

    def of(self, offer: RoomOffer) -> Room | None:
        """Return the room of an offer, if we are still in it."""
        return next((room for room in self if room_id(room) == offer.standing.contact), None)

    def members(self, room: Room) -> list[Peer]:
        """Return those members of a room who can be reached, now or later."""
        return [peer for peer in self._peers if _is_in(peer, room)]

    # Offers.

    def require_free_port(self, room: Room, protocol: Protocol, port: int) -> None:
        """Raise UserError where a port is offered to a room already."""
        places = ((o.standing.contact, o.protocol, o.standing.port) for o in self.offers)
        if (room_id(room), protocol, port) in places:
            raise UserError("failed", f"{port}/{protocol_name(protocol)} is already offered; kill it first")

    def offer(
        self,
        room: Room,
        protocol: Protocol,
        port: int,
        name: str,
        target: Target | None,
        source: Source,
        *,
        keep: bool = True,
    ) -> RoomOffer:
        """Offer a service to all in a room, from now on; without `keep`, for this run.

        Raises UserError where the port stands.
        """
        self.require_free_port(room, protocol, port)
        standing = StandingOffer(
            room_id(room), protocol_name(protocol), port, name, service_text(target), source
        )
        offer = RoomOffer(standing, self._random.getrandbits(32) or 1)
        self.offers.append(offer)
        self._mappings[offer] = {}
        if keep:
            self._content.offers.append(standing)
            self._save()
        announced = isinstance(room, Group) and self._announce(room, offer)
        for peer in self.members(room):
            self._offer_to(peer, offer, announced=announced)
        return offer

    def _announce(self, group: Group, offer: RoomOffer) -> bool:
        """Send the Offer to all who are there, with one packet; False where some may not have got it."""
        standing, hello, now = offer.standing, self._greetings.hello, trio.current_time()
        sessions = [peer.session for peer in self.members(group) if peer.session.is_online]
        if not all(session.has_greeted for session in sessions):
            same_run = all(session.epoch == hello.epoch for session in sessions)
            if not same_run or not self._send(group, hello):
                return False
            for session in sessions:
                session.hello_was_broadcast(now)
        return self._send(
            group, Offer(offer.msg_id, offer.protocol, Direction.SERVER, standing.port, standing.name)
        )

    def _offer_to(self, peer: Peer, offer: RoomOffer, *, announced: bool = False) -> None:
        standing = offer.standing
        try:
            mapping = peer.session.offer(
                offer.protocol,
                standing.port,
                standing.name,
                trio.current_time(),
                public_id=offer.msg_id if announced and peer.session.is_online else None,
            )
        except Misuse as misuse:  # offered to this contact alone, or by way of another room
            log.info("%s: %s", peer.label, misuse, extra=caused_by(peer))
            return
        peer.details[mapping] = offer.details()
        self._mappings[offer][peer] = mapping
        self._scheduler.touch(peer)

    def joined(self, peer: Peer) -> None:
        """A contact is here who was not: it gets what stands offered to its group, and to its conferences."""
        for offer in self.offers:
            room = self.of(offer)
            if room is not None and _is_in(peer, room) and peer not in self._mappings[offer]:
                self._offer_to(peer, offer)

    def changed(self, conference: Conference) -> None:
        """Who is in a conference has changed: offers follow."""
        present = self.members(conference)
        for offer in self.offers:
            if offer.standing.contact != room_id(conference):
                continue
            for peer in present:
                if peer not in self._mappings[offer]:
                    self._offer_to(peer, offer)
            for peer in self._mappings[offer].keys() - set(present):
                self._end(peer, offer)

    def require_endable(self, offer: RoomOffer) -> None:
        """Raise UserError for an offer that no command may end."""
        if (reason := self.held(offer)) is not None:
            raise UserError("denied", reason)

    def kill(self, offer: RoomOffer) -> None:
        """Withdraw an offer from all, with every mapping made from it."""
        room = self.of(offer)
        if isinstance(room, Group) and any(m.public_id is not None for m in self._mappings[offer].values()):
            self._send(room, Kill(offer.msg_id))
        for peer in list(self._mappings[offer]):
            self._end(peer, offer)
        self.offers.remove(offer)
        del self._mappings[offer]
        self.adopt(offer)

    def adopt(self, offer: RoomOffer) -> None:
        """Have an offer stand because of something else than the state, if at all."""
        if offer.standing in self._content.offers:
            self._content.offers.remove(offer.standing)
            self._save()

    def made_from(self, offer: RoomOffer) -> list[tuple[Peer, Mapping]]:
        """Return the mappings that were made from an offer."""
        return list(self._mappings[offer].items())

    def _end(self, peer: Peer, offer: RoomOffer) -> None:
        peer.session.end(self._mappings[offer].pop(peer), trio.current_time())
        self._scheduler.touch(peer)

    def forget_peer(self, peer: Peer) -> None:
        """A contact is no more."""
        for mappings in self._mappings.values():
            mappings.pop(peer, None)

    def origin_of(self, mapping: Mapping) -> RoomOffer | None:
        """Return the offer to a whole room that a mapping was made from, if so."""
        return next((offer for offer, made in self._mappings.items() if mapping in made.values()), None)

    def mapping_ended(self, peer: Peer, mapping: Mapping) -> None:
        """A mapping has ended; if it was made from a room's offer, that stands for the others."""
        if mapping.origin is Origin.LOCAL:
            for mappings in self._mappings.values():
                if mappings.get(peer) is mapping:
                    del mappings[peer]

    def left(self, room: Room) -> None:
        """We are no longer in a room: nothing stands there."""
        for offer in [o for o in self.offers if o.standing.contact == room_id(room)]:
            self.kill(offer)
        self._content.names.pop(room_id(room), None)
        if room_id(room) in self._content.named_rooms:
            self._content.named_rooms.remove(room_id(room))
        self._save()

    def _send(self, group: Group, packet: Lossless) -> bool:
        try:
            return group.send_lossless(encode(GROUP, packet))
        except ContactOffline:
            return False


def _is_in(peer: Peer, room: Room) -> bool:
    contact = peer.contact
    if isinstance(room, Group):
        return isinstance(contact, Member) and contact.group is room
    assert isinstance(room, Conference)
    return contact.kind == "friend" and any(member.key == contact.key for member in room.members)


def _is_room(contact: str) -> bool:
    return contact.endswith("/") or contact.startswith("conference:")
