"""What is done to several ports at once: all of it, or nothing.

Ports that share a contact and a name are one thing to a person: offered together, accepted together, ended
together. Used by offers.py.
"""

from collections.abc import Sequence

from tunfwd.common.errors import UserError
from tunfwd.common.notation import PortSpec
from tunfwd.common.text import clean
from tunfwd.control.api import Source
from tunfwd.daemon.contacts.offers import Offers, Place, protocol_named
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.services.target import Target
from tunfwd.tox.contacts import Room
from tunfwd.wire.packets import Direction

Found = tuple[Peer, Mapping]


def places_of(specs: Sequence[PortSpec]) -> list[Place]:
    """Return ports as the offers have them."""
    return [(protocol_named(spec.protocol), spec.port) for spec in specs]


def offer_all(
    offers: Offers,
    rooms: Rooms,
    scheduler: Scheduler,
    recipients: Sequence[Peer | Room],
    ports: Sequence[Place],
    name: str,
    target: Target | None,
    source: Source,
) -> list[Found | RoomOffer]:
    """Offer some ports to some contacts and rooms, or raise UserError and offer none."""
    for recipient in recipients:
        if isinstance(recipient, Peer):
            offers.require_room(recipient, Direction.SERVER, ports)
        else:
            for protocol, port in ports:
                rooms.require_free_port(recipient, protocol, port)
    made: list[Found | RoomOffer] = []
    try:
        for recipient in recipients:
            for protocol, port in ports:
                if isinstance(recipient, Peer):
                    mapping = offers.offer(recipient, protocol, port, name, target, source)
                    made.append((recipient, mapping))
                    scheduler.touch(recipient)
                else:
                    made.append(rooms.offer(recipient, protocol, port, name, target, source))
    except UserError:
        for one in made:
            if isinstance(one, RoomOffer):
                rooms.kill(one)
            else:
                offers.end(*one)
        raise
    return made


def is_one(found: Sequence[Found], text: str) -> bool:
    """Whether `text` names one thing: one mapping, or all that one contact and we call so."""
    alike = {(peer, m.origin, m.direction, clean(m.name)) for peer, m in found}
    return len(found) == 1 or (len(alike) == 1 and clean(found[0][1].name) == text)


def is_same_to_all(found: Sequence[Found]) -> bool:
    """Whether these are ours: to each of some contacts the same port, or the same ports of one name."""
    if len({(m.origin, m.direction) for _, m in found}) > 1 or found[0][1].origin is Origin.REMOTE:
        return False
    ports: dict[Peer, set[Place]] = {}
    for peer, mapping in found:
        ports.setdefault(peer, set()).add((mapping.protocol, mapping.port))
    first, *others = ports.values()
    one_name = len({mapping.name for _, mapping in found}) == 1
    return bool(others) and all(other == first for other in others) and (len(first) == 1 or one_name)
