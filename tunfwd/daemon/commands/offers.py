"""What the control socket can ask about offers, requests, and the ports that came of them."""

from difflib import get_close_matches

from tunfwd.common.errors import UserError
from tunfwd.common.names import folded
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.entries import Entries
from tunfwd.daemon.commands.targets import Targets
from tunfwd.daemon.commands.together import Found, is_one, is_same_to_all, offer_all, places_of
from tunfwd.daemon.contacts.offers import Offers, describe, service
from tunfwd.daemon.contacts.refusals import Refusal
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.tox.contacts import Room
from tunfwd.wire.packets import Direction


class OfferCommands:
    """The handlers of `offer.*`, `request`, `ports` and `kill`."""

    def __init__(
        self, datapath: Datapath, offers: Offers, rooms: Rooms, entries: Entries, targets: Targets
    ) -> None:
        self._targets = targets
        self._peers = datapath.peers
        self._scheduler = datapath.scheduler
        self._services = datapath.services
        self._offers = offers
        self._rooms = rooms
        self._entries = entries

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.OFFER_ADD, self._add)
        dispatcher.add(api.OFFER_LIST, self._list)
        dispatcher.add(api.OFFER_ACCEPT, self._accept)
        dispatcher.add(api.OFFER_DENY, self._deny)
        dispatcher.add(api.REQUEST, self._request)
        dispatcher.add(api.PORTS, self._ports)
        dispatcher.add(api.KILL, self._kill)
        dispatcher.add(api.LEAVE, self._leave)

    async def _add(self, params: api.OfferAdd) -> api.OffersResult:
        recipients = list(dict.fromkeys(one for text in params.to for one in self._places(text)))
        ports = places_of(params.specs)
        target, source = service(params.target), params.source
        offered = offer_all(
            self._offers, self._rooms, self._scheduler, recipients, ports, params.name or "", target, source
        )
        if target is None and source == "auto":
            for protocol, port in ports:
                self._services.decide_anew(protocol, port)
        entries = [
            self._entries.room_offer(offer) if isinstance(offer, RoomOffer) else self._entries.offer(*offer)
            for offer in offered
        ]
        await self._targets.tell(target, entries)
        return {"offers": entries}

    def _places(self, text: str) -> list[Peer | Room]:
        if text != "all":
            return [self._place(text)]
        friends: list[Peer | Room] = [peer for peer in self._peers if peer.contact.kind == "friend"]
        if not friends:
            raise UserError("not_found", "there are no friends yet; make one with: tunfwd friend add ADDRESS")
        return friends

    def _place(self, text: str) -> Peer | Room:
        """Return whom an offer is to go to."""
        if text.startswith("group:") and "/" not in text:
            return self._rooms.find(text, "group")
        if text.startswith("conference:"):
            return self._rooms.find(text, "conference")
        try:
            return self._peers.find(text)
        except UserError as failure:
            rooms = {folded(self._rooms.name(room)): room for room in self._rooms}
            near = [folded(text)] if folded(text) in rooms else []
            if not near and "did you mean" not in failure.message:  # no contact is as near
                near = get_close_matches(folded(text), rooms, 1)
            if failure.code == "not_found" and near:
                meant = self._rooms.label(rooms[near[0]])
                raise UserError("not_found", f"no contact {text!r}; did you mean {meant}?") from None
            raise

    async def _request(self, params: api.Ask) -> api.OffersResult:
        peer = self._peers.find(params.contact)
        asked = self._offers.request_all(peer, places_of(params.specs), params.name or "", params.local_port)
        return self._touched([(peer, mapping) for mapping in asked])

    async def _list(self, _: api.Nothing) -> api.OffersResult:
        to_rooms = [self._entries.room_offer(offer) for offer in self._rooms.offers]
        unseen = {peer.label: peer.session.unseen_offers for peer in self._peers}
        return {
            "offers": to_rooms
            + [self._entries.offer(peer, mapping) for peer, mapping in self._entries.all()],
            "refused": [self._entries.refused(refusal) for refusal in self._refusals()],
            "unseen": {label: count for label, count in unseen.items() if count},
        }

    async def _accept(self, params: api.OfferAccept) -> api.MappingResult:
        if found := self._find_pending(params.offer, params.contact, params.direction):
            entries = self._accept_pending(params, found)
        elif refused := self._find_refused(params):
            entries = self._accept_refused(params, refused)
        else:
            raise self._nothing(params.offer, params.contact, "accept")
        await self._targets.tell(service(params.target), entries)
        return {"mapping": entries[0], "mappings": entries}

    def _accept_pending(self, params: api.OfferAccept, found: list[Found]) -> list[api.MappingEntry]:
        if len(found) > 1 and (params.port is not None or params.target is not None):
            raise UserError("usage", f"{params.offer!r} is {len(found)} ports; give the id of one")
        peer, mapping = found[0]
        _require_fit(params, mapping.direction)
        target = service(params.target)
        for _, mapping in found:
            self._offers.accept(peer, mapping, params.port, target)
            if mapping.role is Role.SERVING and target is None:
                self._services.decide_anew(mapping.protocol, mapping.port)
        self._scheduler.touch(peer)
        return [self._entries.mapping(peer, mapping) for _, mapping in found]

    def _accept_refused(self, params: api.OfferAccept, refused: list[Refusal]) -> list[api.MappingEntry]:
        """Accept what was declined, or left, before."""
        if len(refused) > 1 and (params.port is not None or params.target is not None):
            raise UserError("usage", f"{params.offer!r} is {len(refused)} ports; give the id of one")
        _require_fit(params, refused[0].direction)
        entries = []
        for one in refused:
            mapping = self._offers.accept_refused(one, params.port, service(params.target))
            self._scheduler.touch(one.peer)
            entries.append(self._entries.mapping(one.peer, mapping))
        return entries

    async def _deny(self, params: api.OfferDeny) -> api.OffersResult:
        found = self._find_pending(params.offer, params.contact)
        if not found:
            raise self._nothing(params.offer, params.contact, "deny")
        entries = [self._entries.offer(peer, mapping) for peer, mapping in found]
        for peer, mapping in found:
            self._offers.refuse(peer, mapping)
            self._scheduler.touch(peer)
        return {"offers": [{**entry, "state": "denied"} for entry in entries]}

    async def _kill(self, params: api.Kill) -> api.KilledResult:
        if offers := self._find_room_offers(params.id, params.contact):
            entries = [self._entries.room_offer(offer) for offer in offers]
            for offer in offers:
                self._rooms.require_endable(offer)
            for offer in offers:
                self._rooms.kill(offer)
            return {
                "killed": [
                    {"id": e["id"], "contact": e["contact"], "name": e["name"], "how": "withdrawn"}
                    for e in entries
                ]
            }
        found = self._find(params.id, params.contact)
        if not found:
            raise UserError("not_found", f"no offer or mapping {params.id!r}; see `tunfwd offers`")
        if not (is_one(found, params.id) or is_same_to_all(found)):
            raise _ambiguous(params.id, found)
        return self._end(found)

    async def _leave(self, params: api.Kill) -> api.KilledResult:
        found = self._find(params.id, params.contact)
        used = [(p, m) for p, m in found if m.origin is Origin.REMOTE and m.accepted]
        if not used:
            if not found:
                raise UserError("not_found", f"no port {params.id!r}; see `tunfwd ports`")
            peer, mapping = found[0]
            advice = "kill" if mapping.origin is Origin.LOCAL else "deny"
            raise UserError(
                "failed",
                f"{describe(mapping)}, {peer.label}, is nothing that you have accepted: "
                f"`tunfwd {advice} {params.id}`",
            )
        if not is_one(used, params.id):
            raise _ambiguous(params.id, used)
        return self._end(used)

    def _end(self, found: list[Found]) -> api.KilledResult:
        for _, mapping in found:
            self._offers.require_endable(mapping)
        killed: list[api.Killed] = []
        for peer, mapping in found:
            entry: api.Killed = {
                "id": peer.id_of(mapping),
                "contact": peer.label,
                "name": clean(mapping.name),
            }
            killed.append({**entry, "how": self._offers.refuse(peer, mapping)})
            self._scheduler.touch(peer)
        return {"killed": killed}

    async def _ports(self, _: api.Nothing) -> api.MappingsResult:
        return {
            "ports": [
                self._entries.mapping(p, m)
                for p, m in self._entries.all()
                if m.accepted or m in p.ports.values()
            ]
        }

    def ours(self, text: str, contact: str | None) -> list[Found | RoomOffer]:
        """Return what a person means of what we offer: all that has one name, or one port to several."""
        if to_rooms := self._find_room_offers(text, contact):
            return list(to_rooms)
        found = [
            (peer, mapping)
            for peer, mapping in self._find(text, contact)
            if (mapping.origin, mapping.direction) == (Origin.LOCAL, Direction.SERVER)
        ]
        if not found:
            raise UserError("not_found", f"no offer of ours {text!r}; see `tunfwd offers`")
        if not (is_one(found, text) or is_same_to_all(found)):
            raise _ambiguous(text, found)
        return list(found)

    def _find_room_offers(self, text: str, contact: str | None) -> list[RoomOffer]:
        """Return the offers to a whole room that a person means: those of one name are one thing."""
        offers = [o for o in self._rooms.offers if contact in (None, self._entries.room_offer(o)["contact"])]
        found = [offer for offer in offers if offer.standing.name == text] or [
            offer for offer in offers if len(text) >= 4 and offer.id.startswith(text.lower())
        ]
        if len({(offer.standing.contact, offer.standing.name == text) for offer in found}) > 1 or (
            len(found) > 1 and found[0].standing.name != text
        ):
            ids = ", ".join(offer.id for offer in found)
            raise UserError("ambiguous", f"{text!r} may be any of {ids}; give an id")
        return found

    def _find(self, text: str, contact: str | None) -> list[Found]:
        """Return the mappings that a person may mean: by name, by port, or by the beginning of the id."""
        peer = self._peers.find(contact) if contact is not None else None
        mappings = [found for found in self._entries.all() if peer in (None, found[0])]
        named = [found for found in mappings if found[1].name and clean(found[1].name) == text]
        ported = [found for found in mappings if text.lower() in _ports_of(found[1])]
        return (
            named
            or ported
            or [found for found in mappings if text and found[0].id_of(found[1]).startswith(text.lower())]
        )

    def _find_pending(
        self, text: str, contact: str | None, direction: api.Direction | None = None
    ) -> list[Found]:
        """Return the undecided offers that a person means: one, or all of a contact that have one name.

        Raises UserError where they are of the other `direction`, as who only meant to use something of a
        contact's is not to open something of their own.
        """
        found = self._find(text, contact)
        pending = [(peer, mapping) for peer, mapping in found if mapping.state is MappingState.PENDING]
        fitting = [one for one in pending if direction in (None, one[1].direction.name.lower())]
        if pending and not fitting:
            raise self._other_direction(text, *pending[0])
        if fitting and not is_one(fitting, text):
            raise _ambiguous(text, fitting)
        return fitting

    def _other_direction(self, text: str, peer: Peer, mapping: Mapping) -> UserError:
        if mapping.direction is Direction.CONNECTION:
            what, word = f"asks to reach {peer.target_of(mapping)} here", "allow"
        else:
            what, word = f"offers {describe(mapping)}", "accept"
        return UserError("denied", f"{peer.label} {what}: `tunfwd {word} {text} --from {peer.label}`")

    def _refusals(self) -> list[Refusal]:
        return [refusal for peer in self._peers for refusal in self._offers.refusals.all(peer)]

    def _find_refused(self, params: api.OfferAccept) -> list[Refusal]:
        """Return what was declined, or left, that a person means, if it is not on offer now."""
        text = params.offer
        peer = self._peers.find(params.contact) if params.contact is not None else None
        known = [
            one
            for one in self._refusals()
            if peer in (None, one.peer) and params.direction in (None, one.refused.direction)
        ]
        found = [one for one in known if one.refused.name and clean(one.refused.name) == text] or [
            one
            for one in known
            if text.lower() in (str(one.refused.port), f"{one.refused.port}/{one.refused.protocol}")
            or (text and one.id.startswith(text.lower()))
        ]
        if len({(one.peer, one.refused.name) for one in found}) > 1:
            choices = ", ".join(f"{one.id} ({one.peer.label})" for one in found[:8])
            raise UserError("ambiguous", f"{text!r} may be any of {choices}; give an id")
        return found

    def _nothing(self, text: str, contact: str | None, verb: str) -> UserError:
        """Say why there is nothing to decide on."""
        found = self._find(text, contact)
        if not found:
            return UserError("not_found", f"no offer {text!r}; `tunfwd offers` lists them")
        peer, mapping = found[0]
        advice = "kill" if mapping.origin is Origin.LOCAL else "leave"
        return UserError(
            "failed",
            f"nothing to {verb}: {describe(mapping)} of {peer.label} is {mapping.state.value}"
            + (f"; `tunfwd {advice} {text}` ends it" if verb == "deny" else ""),
        )

    def _touched(self, found: list[Found]) -> api.OffersResult:
        for peer, _ in found:
            self._scheduler.touch(peer)
        return {"offers": [self._entries.offer(peer, mapping) for peer, mapping in found]}


def _require_fit(params: api.OfferAccept, direction: Direction) -> None:
    """Raise UserError where an option is for offers of the other direction."""
    if params.target is not None and direction is Direction.SERVER:
        raise UserError("usage", "--target is for what a contact asks to reach here")
    if params.port is not None and direction is Direction.CONNECTION:
        raise UserError("usage", "--port is for what a contact offers to us")


def _ports_of(mapping: Mapping) -> tuple[str, str]:
    """How a person may name a mapping by its port."""
    return (str(mapping.port), f"{mapping.port}/{mapping.protocol.name.lower()}")


def _ambiguous(text: str, found: list[Found]) -> UserError:
    choices = ", ".join(f"{peer.id_of(mapping)} ({peer.label})" for peer, mapping in found[:8])
    return UserError("ambiguous", f"{text!r} may be any of {choices}; give an id, or --from a contact")
