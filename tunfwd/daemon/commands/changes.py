"""What the control socket can ask to change of offers that stand."""

from dataclasses import replace

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.entries import Entries
from tunfwd.daemon.commands.offers import OfferCommands
from tunfwd.daemon.commands.targets import Targets
from tunfwd.daemon.commands.together import Found, offer_all
from tunfwd.daemon.contacts.changes import Changes
from tunfwd.daemon.contacts.offers import Offers, protocol_named, read_service, service_text
from tunfwd.daemon.contacts.offers import service as service_of
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import StandingOffer
from tunfwd.tox.contacts import Room


class ChangeCommands:
    """The handlers of `offer.pause`, `offer.resume` and `offer.change`."""

    def __init__(
        self,
        datapath: Datapath,
        offers: Offers,
        rooms: Rooms,
        entries: Entries,
        commands: OfferCommands,
        changes: Changes,
        targets: Targets,
    ) -> None:
        self._targets = targets
        self._scheduler = datapath.scheduler
        self._services = datapath.services
        self._offers = offers
        self._rooms = rooms
        self._entries = entries
        self._commands = commands
        self._changes = changes

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.OFFER_PAUSE, self._pause)
        dispatcher.add(api.OFFER_RESUME, self._resume)
        dispatcher.add(api.OFFER_CHANGE, self._change)

    async def _pause(self, params: api.Kill) -> api.OffersResult:
        return self._set_paused(params, paused=True)

    async def _resume(self, params: api.Kill) -> api.OffersResult:
        return self._set_paused(params, paused=False)

    def _set_paused(self, params: api.Kill, *, paused: bool) -> api.OffersResult:
        found = self._find(params.id, params.contact)
        for one in found:
            self._changes.pause(one, paused=paused)
        return {"offers": [self._entry(one) for one in found]}

    async def _change(self, params: api.OfferChange) -> api.OffersResult:
        found = self._find(params.id, params.contact)
        led = params.target is not None or params.here or params.port is not None
        if led and len({self._place(one) for one in found}) > 1:
            raise UserError("usage", f"{params.id!r} is several ports: give one of them, or its id")
        wanted = [self._wanted(one, params) for one in found]
        if params.port is not None:
            return {"offers": [self._entry(new) for new in self._move(found, wanted, params.port)]}
        for one, changed in zip(found, wanted, strict=True):
            self._changes.apply(one, changed)
            if changed.target is None and changed.source == "auto":
                self._services.decide_anew(protocol_named(changed.protocol), changed.port)
        entries = [self._entry(one) for one in found]
        await self._targets.tell(service_of(params.target), entries)
        return {"offers": entries}

    def _wanted(self, one: Found | RoomOffer, params: api.OfferChange) -> StandingOffer:
        standing = self._changes.standing(one)
        assert standing is not None
        changed = replace(
            standing,
            name=standing.name if params.name is None else params.name,
            target=None if params.here else service_text(service_of(params.target)) or standing.target,
            source=params.source or standing.source,
        )
        if changed.source == "peer" and changed.target is not None:
            raise UserError("usage", f"what is reached at {changed.target} sees this machine, not the peer")
        return changed

    def _move(
        self, found: list[Found | RoomOffer], wanted: list[StandingOffer], port: int
    ) -> list[Found | RoomOffer]:
        """Offer at another port what was offered, and withdraw it at the old one: both, or neither."""
        recipients = [self._recipient(one) for one in found]
        first = wanted[0]
        made = offer_all(
            self._offers,
            self._rooms,
            self._scheduler,
            recipients,
            [(protocol_named(first.protocol), port)],
            first.name,
            read_service(first.target),
            first.source,
        )
        for one in found:
            if isinstance(one, RoomOffer):
                self._rooms.kill(one)
            else:
                self._offers.end(*one)
                self._scheduler.touch(one[0])
        return made

    def _recipient(self, one: Found | RoomOffer) -> Peer | Room:
        if not isinstance(one, RoomOffer):
            return one[0]
        room = self._rooms.of(one)
        assert room is not None, "offers end with their room"
        return room

    def _place(self, one: Found | RoomOffer) -> tuple[str, int]:
        standing = self._changes.standing(one)
        assert standing is not None
        return standing.protocol, standing.port

    def _find(self, text: str, contact: str | None) -> list[Found | RoomOffer]:
        """Return the offers of ours that a person means; raises UserError."""
        found = self._commands.ours(text, contact)
        for one in found:  # what the configuration says is changed there
            if isinstance(one, RoomOffer):
                self._rooms.require_endable(one)
            else:
                self._offers.require_endable(one[1])
        if any(self._changes.standing(one) is None for one in found):
            raise UserError("usage", f"{text!r} is offered to a whole room: change it there, without --from")
        return found

    def _entry(self, one: Found | RoomOffer) -> api.OfferEntry:
        return self._entries.room_offer(one) if isinstance(one, RoomOffer) else self._entries.offer(*one)
