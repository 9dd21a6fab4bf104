"""How results show offers and mappings, and whom a service of ours sees."""

from dataclasses import dataclass

import trio

from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.daemon.commands.together import Found
from tunfwd.daemon.contacts.offers import read_service
from tunfwd.daemon.contacts.refusals import Refusal, Refusals
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.services import KnownAs, LocalServices, Unreachable
from tunfwd.daemon.names import Names
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.states import Role
from tunfwd.services.target import Target
from tunfwd.wire.packets import Direction, Protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """Whom a service of ours sees, and what is in the way of reaching it."""

    sees: api.Sees | None = None
    trouble: str | None = None


class Entries:
    """Makes them, from what is there now."""

    def __init__(
        self, peers: Peers, rooms: Rooms, services: LocalServices, names: Names, refusals: Refusals
    ) -> None:
        self._names = names
        self._peers = peers
        self._refusals = refusals
        self._rooms = rooms
        self._services = services

    def all(self) -> list[Found]:
        """Return every mapping with every contact."""
        return [(peer, mapping) for peer in self._peers for mapping in peer.session.mappings]

    def offer(self, peer: Peer, mapping: Mapping) -> api.OfferEntry:
        """Return a mapping as an offer."""
        seen = self.seen(peer, mapping)
        entry: api.OfferEntry = {
            "id": peer.id_of(mapping),
            "contact": peer.label,
            "direction": "server" if mapping.direction is Direction.SERVER else "connection",
            "protocol": "tcp" if mapping.protocol is Protocol.TCP else "udp",
            "port": mapping.port,
            "name": clean(mapping.name),
            "origin": "local" if mapping.origin is Origin.LOCAL else "remote",
            "state": mapping.state.value,
            "target": _target_of(peer, mapping),
            "left": self._refusals.of(peer, mapping) is not None,
            "paused": peer.details_of(mapping).paused,
            "sees": seen.sees,
            "trouble": seen.trouble,
        }
        if (of_all := self._rooms.origin_of(mapping)) is not None:
            entry["room_offer"] = of_all.id
        return entry

    def mapping(self, peer: Peer, mapping: Mapping) -> api.MappingEntry:
        """Return a mapping as a port in use."""
        details, seen = peer.details_of(mapping), self.seen(peer, mapping)
        now, away = trio.current_time(), peer.offline_since
        waits = bool(mapping.flows) and peer.session.outage_ends is not None
        entry: api.MappingEntry = {
            "id": peer.id_of(mapping),
            "contact": peer.label,
            "protocol": "tcp" if mapping.protocol is Protocol.TCP else "udp",
            "address": peer.shown_address,
            "address6": str(peer.address6),
            "dns": self._names.of(peer),
            "port": details.local_port or mapping.port,
            "name": clean(mapping.name),
            "state": mapping.state.value,
            "connections": len(mapping.flows),
            "rx_bytes": mapping.rx_bytes,
            "tx_bytes": mapping.tx_bytes,
            "drops": mapping.drops,
            "target": _target_of(peer, mapping),
            "paused": details.paused,
            "silent_seconds": seconds(peer.silence(now)),
            "interrupted_seconds": seconds(now - away) if waits and away is not None else None,
            "kept_seconds": kept_of(peer) if waits else None,
            "sees": seen.sees,
            "trouble": seen.trouble,
            "origin": "local" if mapping.origin is Origin.LOCAL else "remote",
            "direction": "server" if mapping.direction is Direction.SERVER else "connection",
        }
        if mapping.role is Role.SERVING:
            entry["own_address"] = str(peer.known_as[0]) if peer.known_as else None
        listening = details.listening
        if listening is not None and listening.reason is not None:
            entry["virtual_port"], entry["reason"] = entry["port"], listening.reason
            if listening.port is None:
                entry["trouble"] = seen.trouble or f"cannot listen here: {listening.reason}"
            else:
                entry["port"] = listening.port
        return entry

    def refused(self, refusal: Refusal) -> api.OfferEntry:
        """Return what was declined, or left, and is not on offer now, as an offer."""
        refused = refusal.refused
        return {
            "id": refusal.id,
            "contact": refusal.peer.label,
            "direction": refused.direction,
            "protocol": refused.protocol,
            "port": refused.port,
            "name": clean(refused.name),
            "origin": "remote",
            "state": "left" if refused.left else "declined",
            "target": None,
            "left": refused.left,
        }

    def room_offer(self, offer: RoomOffer) -> api.OfferEntry:
        """Return an offer to a whole room."""
        room, standing = self._rooms.of(offer), offer.standing
        target = read_service(standing.target) or Target(None, standing.port)
        seen = self.look(target, standing.source, offer.protocol)
        taken = sum(mapping.accepted for _, mapping in self._rooms.made_from(offer))
        return {
            "id": offer.id,
            "contact": self._rooms.label(room) if room is not None else standing.contact,
            "direction": "server",
            "protocol": standing.protocol,
            "port": standing.port,
            "name": clean(standing.name),
            "origin": "local",
            "state": "offered",
            "members": len(self._rooms.members(room)) if room is not None else 0,
            "taken": taken,
            "target": str(target),
            "paused": standing.paused,
            "sees": seen.sees,
            "trouble": seen.trouble,
        }

    def seen(self, peer: Peer, mapping: Mapping) -> Seen:
        """Find out whom the service of a mapping sees, where it is ours, and whether it answers."""
        details = peer.details_of(mapping)
        if mapping.role is not Role.SERVING:
            return Seen(None, details.answers.trouble)
        seen = self.look(peer.target_of(mapping), details.source, mapping.protocol, peer.known_as)
        return Seen(seen.sees, seen.trouble or details.answers.trouble)

    def look(self, target: Target, source: api.Source, protocol: Protocol, known_as: KnownAs = None) -> Seen:
        """Find out whom a service of ours sees, and what is in the way of reaching it."""
        try:
            way = self._services.way_to(target, source, protocol, known_as)
        except Unreachable as unreachable:
            return Seen(trouble=str(unreachable))
        if isinstance(way, Target):
            return Seen("host")
        if source == "auto" and not self._services.is_decided(protocol, target.port):
            return Seen(trouble="nothing listens")
        return Seen(way.source)


def seconds(span: float | None) -> int | None:
    """Return a time as results have it."""
    return None if span is None else int(span)


def kept_of(peer: Peer) -> int | None:
    """Return for how long connections wait still for a contact that is offline."""
    ends = peer.session.outage_ends
    return None if ends is None else max(0, int(ends - trio.current_time()))


def _target_of(peer: Peer, mapping: Mapping) -> str | None:
    return str(peer.target_of(mapping)) if mapping.role is Role.SERVING else None
