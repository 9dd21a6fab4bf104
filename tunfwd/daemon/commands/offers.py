"""What the control socket can ask about offers, requests, and the ports that came of them."""

from tunfwd.common.errors import UserError
from tunfwd.common.names import folded
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.entries import Entries, id_of
from tunfwd.daemon.commands.together import Found, is_one, is_same_to_all, offer_all, places_of
from tunfwd.daemon.contacts.offers import Offers, describe, service
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.tox.contacts import Room


class OfferCommands:
    """The handlers of `offer.*`, `request`, `ports` and `kill`."""

    def __init__(self, datapath: Datapath, offers: Offers, rooms: Rooms, entries: Entries) -> None:
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
        return {
            "offers": [
                self._entries.room_offer(offer)
                if isinstance(offer, RoomOffer)
                else self._entries.offer(*offer)
                for offer in offered
            ]
        }

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
            for room in self._rooms:
                if failure.code == "not_found" and folded(self._rooms.name(room)) == folded(text):
                    meant = self._rooms.label(room)
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
            "unseen": {label: count for label, count in unseen.items() if count},
        }

    async def _accept(self, params: api.OfferAccept) -> api.MappingResult:
        found = self._find_pending(params.offer, params.contact, "accept")
        if len(found) > 1 and (params.port is not None or params.target is not None):
            raise UserError("usage", f"{params.offer!r} is {len(found)} ports; give the id of one")
        peer, mapping = found[0]
        if params.target is not None and mapping.role is Role.USING:
            raise UserError("usage", "--target is for what a contact asks to reach here")
        if params.port is not None and mapping.role is Role.SERVING:
            raise UserError("usage", "--port is for what a contact offers to us")
        target = service(params.target)
        for _, mapping in found:
            self._offers.accept(peer, mapping, params.port, target)
            if mapping.role is Role.SERVING and target is None:
                self._services.decide_anew(mapping.protocol, mapping.port)
        self._scheduler.touch(peer)
        entries = [self._entries.mapping(peer, mapping) for _, mapping in found]
        return {"mapping": entries[0], "mappings": entries}

    async def _deny(self, params: api.OfferDeny) -> api.OffersResult:
        found = self._find_pending(params.offer, params.contact, "deny")
        entries = [self._entries.offer(peer, mapping) for peer, mapping in found]
        for peer, mapping in found:
            self._offers.end(peer, mapping)
            self._scheduler.touch(peer)
        return {"offers": [{**entry, "state": "denied"} for entry in entries]}

    async def _kill(self, params: api.Kill) -> api.KilledResult:
        if offers := self._find_room_offers(params.id, params.contact):
            entries = [self._entries.room_offer(offer) for offer in offers]
            for offer in offers:
                self._rooms.require_endable(offer)
            for offer in offers:
                self._rooms.kill(offer)
            return {"killed": [{"id": e["id"], "contact": e["contact"], "name": e["name"]} for e in entries]}
        found = self._find(params.id, params.contact)
        if not found:
            raise UserError("not_found", f"no offer or mapping {params.id!r}; see `tunfwd offers`")
        if not (is_one(found, params.id) or is_same_to_all(found)):
            raise _ambiguous(params.id, found)
        for _, mapping in found:
            self._offers.require_endable(mapping)
        killed: list[api.Killed] = []
        for peer, mapping in found:
            killed.append({"id": id_of(mapping), "contact": peer.label, "name": clean(mapping.name)})
            self._offers.end(peer, mapping)
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

    def _find_room_offers(self, text: str, contact: str | None) -> list[RoomOffer]:
        """Return the offers to a whole room that a person means: those of one name are one thing."""
        offers = [o for o in self._rooms.offers if contact in (None, self._entries.room_offer(o)["contact"])]
        found = [offer for offer in offers if offer.standing.name == text] or [
            offer for offer in offers if len(text) >= 4 and f"{offer.msg_id:08x}".startswith(text.lower())
        ]
        if len({(offer.standing.contact, offer.standing.name == text) for offer in found}) > 1 or (
            len(found) > 1 and found[0].standing.name != text
        ):
            ids = ", ".join(f"{offer.msg_id:08x}" for offer in found)
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
            or [found for found in mappings if text and id_of(found[1]).startswith(text.lower())]
        )

    def _find_pending(self, text: str, contact: str | None, verb: str) -> list[Found]:
        """Return the undecided offers that a person means: one, or all of a contact that have one name."""
        found = self._find(text, contact)
        pending = [(peer, mapping) for peer, mapping in found if mapping.state is MappingState.PENDING]
        if pending and is_one(pending, text):
            return pending
        if pending:
            raise _ambiguous(text, pending)
        if found:
            peer, mapping = found[0]
            raise UserError(
                "failed",
                f"nothing to {verb}: {describe(mapping)} of {peer.label} is {mapping.state.value}"
                + ("; `tunfwd kill` ends it" if verb == "deny" else ""),
            )
        raise UserError("not_found", f"no offer {text!r}; `tunfwd offers` lists them")

    def _touched(self, found: list[Found]) -> api.OffersResult:
        for peer, _ in found:
            self._scheduler.touch(peer)
        return {"offers": [self._entries.offer(peer, mapping) for peer, mapping in found]}


def _ports_of(mapping: Mapping) -> tuple[str, str]:
    """How a person may name a mapping by its port."""
    return (str(mapping.port), f"{mapping.port}/{mapping.protocol.name.lower()}")


def _ambiguous(text: str, found: list[Found]) -> UserError:
    choices = ", ".join(f"{mapping.msg_id:08x} ({peer.label})" for peer, mapping in found[:8])
    return UserError("ambiguous", f"{text!r} may be any of {choices}; give an id, or --from a contact")
