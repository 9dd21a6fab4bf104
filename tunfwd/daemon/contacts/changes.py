"""What a person changes of an offer that stands: paused, of another name, led elsewhere.

Nothing of it is on the wire but the name: contacts keep what they accepted. Used by the commands.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import trio

from tunfwd.daemon.contacts.offers import protocol_name, read_service
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content, StandingOffer
from tunfwd.forwarding.flow import Mapping

UNKNOWN: Final = "an offer that stands has an entry in the state"


class Changes:
    """Changes offers, and the state directory with them."""

    def __init__(
        self, content: Content, rooms: Rooms, scheduler: Scheduler, save: Callable[[], None]
    ) -> None:
        self._content = content
        self._rooms = rooms
        self._scheduler = scheduler
        self._save = save

    def standing(self, one: tuple[Peer, Mapping] | RoomOffer) -> StandingOffer | None:
        """Return what the state has of an offer; None for a member's part of an offer to its group."""
        if isinstance(one, RoomOffer):
            return one.standing
        peer, mapping = one
        place = peer.id, protocol_name(mapping.protocol), mapping.port
        known = ((offer, (offer.contact, offer.protocol, offer.port)) for offer in self._content.offers)
        return next((offer for offer, its in known if its == place), None)

    def apply(self, one: tuple[Peer, Mapping] | RoomOffer, changed: StandingOffer) -> None:
        """Have an offer be as `changed` says, which is of the same port."""
        before = self.standing(one)
        assert before is not None, UNKNOWN
        self._content.offers[self._content.offers.index(before)] = changed
        affected: Iterable[tuple[Peer, Mapping]]
        if isinstance(one, RoomOffer):
            one.standing = changed
            affected = self._rooms.made_from(one)
        else:
            affected = [one]
        now = trio.current_time()
        for peer, mapping in affected:
            details = peer.details_of(mapping)
            if (changed.target, changed.source) != (before.target, before.source):
                details.answers.heard()  # what is said of the service there is not of this one
            details.target, details.source = read_service(changed.target), changed.source
            details.paused = changed.paused
            if changed.paused:
                peer.session.end_flows(mapping, now)
            if changed.name != before.name:
                peer.session.offer_anew(mapping, changed.name, now)
            self._scheduler.touch(peer)
        self._save()

    def pause(self, one: tuple[Peer, Mapping] | RoomOffer, *, paused: bool) -> None:
        """Refuse connections to a service, or take them again. Those that stand are reset."""
        standing = self.standing(one)
        assert standing is not None, UNKNOWN
        self.apply(one, replace(standing, paused=paused))
