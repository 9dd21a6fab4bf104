"""What the control socket can ask of the daemon: each method of `control.api`, and its answer."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

import trio

from tunfwd import __version__, faults
from tunfwd.common.errors import UserError
from tunfwd.common.names import folded, is_key_prefix
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.doctor import Health
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.commands.rooms import RoomCommands
from tunfwd.daemon.commands.together import Found, is_one, is_same_to_all, offer_all, places_of
from tunfwd.daemon.contacts.offers import Portfolio, describe, read_service, service
from tunfwd.daemon.contacts.rooms import RoomOffer, Rooms
from tunfwd.daemon.contacts.tracker import Contacts, link_of
from tunfwd.daemon.datapath.pings import Pings
from tunfwd.daemon.datapath.services import LocalServices, Unreachable
from tunfwd.daemon.datapath.switch import Switch
from tunfwd.daemon.peers import NO_ADDRESS, Peer, Peers
from tunfwd.daemon.storage.addresses import AddressBook
from tunfwd.daemon.storage.kept import Storage
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.link import link
from tunfwd.services.target import Target
from tunfwd.tox import version
from tunfwd.tox.binding.errors import (
    FriendAddAlreadySent,
    FriendAddBadChecksum,
    FriendAddOwnKey,
    ToxError,
)
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import FriendRequest, Member, Room
from tunfwd.tox.friends import parse_address
from tunfwd.tun.device import Device
from tunfwd.wire.packets import Direction, Feature, Protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """Whom a service of ours sees, and what is in the way of reaching it."""

    sees: api.Sees | None = None
    trouble: str | None = None


class Commands:
    """The handlers; `dispatcher` is what the control server calls."""

    def __init__(
        self,
        client: Client,
        contacts: Contacts,
        peers: Peers,
        portfolio: Portfolio,
        pings: Pings,
        switch: Switch,
        book: AddressBook,
        device: Device,
        health: Health,
        rooms: Rooms,
        room_commands: RoomCommands,
        node_commands: NodeCommands,
        storage: Storage,
        services: LocalServices,
    ) -> None:
        self._client = client
        self._contacts = contacts
        self._peers = peers
        self._portfolio = portfolio
        self._pings = pings
        self._switch = switch
        self._book = book
        self._device = device
        self._health = health
        self._rooms = rooms
        self._room_commands = room_commands
        self._node_commands = node_commands
        self._services = services
        self._storage = storage
        self.dispatcher = dispatcher = Dispatcher(storage.save)
        dispatcher.add(api.IDENTITY, self._identity)
        dispatcher.add(api.STATUS, self._status)
        dispatcher.add(api.VERSION, self._version)
        dispatcher.add(api.DOCTOR, self._doctor)
        dispatcher.add(api.PING, self._ping)
        dispatcher.add(api.FRIEND_ADD, self._friend_add)
        dispatcher.add(api.FRIEND_ACCEPT, self._friend_accept)
        dispatcher.add(api.FRIEND_REJECT, self._friend_reject)
        dispatcher.add(api.FRIEND_REMOVE, self._friend_remove)
        dispatcher.add(api.FRIEND_RENAME, self._friend_rename)
        dispatcher.add(api.FRIEND_LIST, self._friend_list)
        dispatcher.add(api.OFFER_ADD, self._offer_add)
        dispatcher.add(api.OFFER_LIST, self._offer_list)
        dispatcher.add(api.OFFER_ACCEPT, self._offer_accept)
        dispatcher.add(api.OFFER_DENY, self._offer_deny)
        dispatcher.add(api.REQUEST, self._request)
        dispatcher.add(api.PORTS, self._ports)
        dispatcher.add(api.KILL, self._kill)
        room_commands.register(dispatcher)
        node_commands.register(dispatcher)

    # Ourselves.

    async def _identity(self, _: api.Nothing) -> api.IdentityResult:
        client = self._client
        return {
            "address": client.address,
            "public_key": client.public_key.hex().upper(),
            "dht_key": client.dht_key.hex().upper(),
            "udp_port": client.udp_port or 0,
            "nickname": client.name,
            "virtual_address": str(self._book.own),
            "virtual_address6": str(self._book.own6),
            "interface": self._device.name,
            "version": __version__,
            "toxcore": version.inspect().text,
        }

    async def _version(self, _: api.Nothing) -> api.VersionResult:
        compiled = not link.__file__.endswith(".py")
        return {"version": __version__, "compiled": compiled, "toxcore": version.inspect().text}

    async def _status(self, _: api.Nothing) -> api.StatusResult:
        status: api.StatusResult = {
            "network": self._network,
            "contacts": [_contact_entry(peer) for peer in self._peers],
            "drops": self._drops(),
            "groups": self._room_commands.entries(),
            "warnings": await self._storage.warnings(),
            "load": self._load(),
        }
        if offline := self._node_commands.offline():
            status["offline"] = offline
        return status

    @property
    def _network(self) -> Literal["online", "offline"]:
        return "online" if self._node_commands.is_online else "offline"

    def _load(self) -> api.Load:
        statistics = self._switch.stack.statistics()
        return {
            "flows": sum(len(mapping.flows) for _, mapping in self._all()),
            "connections": statistics.connections,
            "timers": statistics.timers + sum(peer.session.timers for peer in self._peers),
        }

    def _drops(self) -> dict[str, int]:
        drops: Counter[str] = Counter()
        for peer in self._peers:
            drops.update(peer.session.counters)
        drops["friend_requests"] = self._client.friends.dropped_requests
        for name, count in asdict(self._switch.stack.statistics()).items():
            if name not in ("frames", "fragments", "connections", "incoming", "timers", "resets_sent"):
                drops[f"packets_{name}"] = count
        for name, count in asdict(self._device.statistics).items():
            if name.startswith("dropped_"):
                drops[f"device_{name.removeprefix('dropped_')}"] = count
        drops["faults"] = faults.tally.count
        return {name: count for name, count in sorted(drops.items()) if count}

    async def _doctor(self, _: api.Nothing) -> api.DoctorResult:
        report = version.inspect()
        checks: list[api.Check] = [
            *await self._node_commands.checks(),
            *(_check("libtoxcore", False, warning) for warning in report.warnings),
            *await self._storage.checks(),
            *await trio.to_thread.run_sync(lambda: list(self._health.checks())),
            self._addresses(),
        ]
        checks += [
            _check("service", False, f"{describe(mapping)}, {verb} {peer.label}: {trouble}")
            for peer, mapping in self._all()
            if mapping.accepted and (trouble := self._seen(peer, mapping).trouble)
            for verb in ("for" if mapping.role is Role.SERVING else "of",)
        ]
        return {"checks": checks}

    def _addresses(self) -> api.Check:
        book, without = self._book, self._contacts.residents.without
        taken = f"{len(book)} of {book.capacity} addresses of {book.network} are taken"
        if without:
            taken += f", and {without} contacts have none: set a larger [network] range"
        return _check("addresses", not without, taken)

    async def _ping(self, params: api.Ping) -> api.PingResult:
        peer = self._peers.find(params.name)
        if not peer.session.is_online:
            raise UserError("offline", f"{peer.label} is offline")
        with trio.move_on_after(params.timeout):
            seconds = await self._pings.ping(peer)
            if seconds is None:
                raise UserError("failed", f"{peer.label} does not answer pings: its program is another")
            path: Literal["direct", "relay"] = "direct" if link_of(peer) == "direct" else "relay"
            return {"contact": peer.label, "seconds": seconds, "path": path}
        if not peer.session.features:
            raise UserError(
                "timeout", f"{peer.label} is online, but its program has not said that it answers pings"
            )
        raise UserError("timeout", f"{peer.label} did not answer within {params.timeout:g} s")

    # Friends.

    async def _friend_add(self, params: api.FriendAdd) -> api.FriendResult:
        address = parse_address(params.address)
        if params.name is not None:
            self._require_new_name(params.name, address[:32].hex().upper())
        try:
            friend = self._client.friends.add(address, params.message or f"tunfwd of {self._client.name}")
        except FriendAddOwnKey:
            raise UserError("usage", "this is our own address") from None
        except FriendAddAlreadySent:
            raise UserError("failed", "this is a friend already; `tunfwd friend list` shows it") from None
        except FriendAddBadChecksum:
            raise UserError("usage", "the address has a mistake in it: its checksum is wrong") from None
        except ToxError as error:
            raise UserError("failed", f"toxcore: {error}") from None
        return {"friend": _friend_entry(self._contacts.added(friend, params.name)), "network": self._network}

    async def _friend_accept(self, params: api.FriendAccept) -> api.FriendResult:
        request = self._find_request(params.key)
        if params.name is not None:
            self._require_new_name(params.name, request.key.hex().upper())
        try:
            friend = self._client.friends.accept(request.key)
        except ToxError as error:
            raise UserError("failed", f"toxcore: {error}") from None
        return {"friend": _friend_entry(self._contacts.added(friend, params.name))}

    async def _friend_reject(self, params: api.FriendReject) -> api.FriendResult:
        request = self._find_request(params.key)
        self._client.friends.reject(request.key)
        return {"friend": _request_entry(request)}

    async def _friend_remove(self, params: api.FriendRemove) -> api.FriendResult:
        peer = self._peers.find(params.name)
        friend = self._client.friends.get(peer.contact.key)
        if friend is None or friend is not peer.contact:
            raise UserError("usage", f"{peer.label} is a member of a group, not a friend")
        entry = _friend_entry(peer)
        self._client.friends.remove(friend)
        return {"friend": entry}

    async def _friend_list(self, _: api.Nothing) -> api.FriendsResult:
        friends = [_friend_entry(peer) for peer in self._peers if peer.contact.kind == "friend"]
        return {"friends": friends + [_request_entry(request) for request in self._client.friends.requests]}

    def _require_new_name(self, name: str, key: str) -> None:
        """Raise UserError where a person gave another friend that name, or a key begins with it."""
        others = [peer for peer in self._peers if peer.key != key]
        if any(peer.party.name is not None and folded(peer.party.name) == folded(name) for peer in others):
            raise UserError("failed", f"there is a contact named {name!r} already; choose another name")
        keys = [peer.key for peer in others]
        keys += [request.key.hex().upper() for request in self._client.friends.requests]
        if is_key_prefix(name) and any(other.startswith(name.upper()) for other in keys if other != key):
            raise UserError("failed", f"{name!r} is how another's public key begins; choose another name")

    async def _friend_rename(self, params: api.FriendRename) -> api.FriendResult:
        peer = self._peers.find(params.name)
        if isinstance(peer.contact, Member):
            raise UserError("usage", f"{peer.label} is a member of a group, not a friend")
        self._require_new_name(params.to, peer.key)
        self._contacts.rename(peer, params.to)
        return {"friend": _friend_entry(peer)}

    def _find_request(self, text: str) -> FriendRequest:
        key = text.upper()
        found = [r for r in self._client.friends.requests if key and r.key.hex().upper().startswith(key)]
        if not found:
            raise UserError(
                "not_found", f"nobody with a key {text!r} asks to be a friend; see `tunfwd friend list`"
            )
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)} keys; write more of it")
        return found[0]

    # Offers.

    async def _offer_add(self, params: api.OfferAdd) -> api.OffersResult:
        recipients = list(dict.fromkeys(self._place(text) for text in params.to))
        ports = places_of(params.specs)
        target, source = service(params.target), params.source
        offered = offer_all(
            self._portfolio, self._rooms, self._switch, recipients, ports, params.name or "", target, source
        )
        if target is None and source == "auto":
            for protocol, port in ports:
                self._services.decide_anew(protocol, port)
        return {
            "offers": [
                self._room_offer_entry(offer) if isinstance(offer, RoomOffer) else self._offer_entry(*offer)
                for offer in offered
            ]
        }

    def _place(self, text: str) -> Peer | Room:
        """Return whom an offer is to go to."""
        if text.startswith("group:") and "/" not in text:
            return self._rooms.find(text, "group")
        if text.startswith("conference:"):
            return self._rooms.find(text, "conference")
        return self._peers.find(text)

    async def _request(self, params: api.Ask) -> api.OffersResult:
        peer = self._peers.find(params.contact)
        asked = self._portfolio.request_all(
            peer, places_of(params.specs), params.name or "", params.local_port
        )
        return self._touched([(peer, mapping) for mapping in asked])

    async def _offer_list(self, _: api.Nothing) -> api.OffersResult:
        to_rooms = [self._room_offer_entry(offer) for offer in self._rooms.offers]
        unseen = {peer.label: peer.session.unseen_offers for peer in self._peers}
        return {
            "offers": to_rooms + [self._offer_entry(peer, mapping) for peer, mapping in self._all()],
            "unseen": {label: count for label, count in unseen.items() if count},
        }

    async def _offer_accept(self, params: api.OfferAccept) -> api.MappingResult:
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
            self._portfolio.accept(peer, mapping, params.port, target)
            if mapping.role is Role.SERVING and target is None:
                self._services.decide_anew(mapping.protocol, mapping.port)
        self._switch.touch(peer)
        entries = [self._mapping_entry(peer, mapping) for _, mapping in found]
        return {"mapping": entries[0], "mappings": entries}

    async def _offer_deny(self, params: api.OfferDeny) -> api.OffersResult:
        found = self._find_pending(params.offer, params.contact, "deny")
        entries = [self._offer_entry(peer, mapping) for peer, mapping in found]
        for peer, mapping in found:
            self._portfolio.end(peer, mapping)
            self._switch.touch(peer)
        return {"offers": [{**entry, "state": "denied"} for entry in entries]}

    async def _kill(self, params: api.Kill) -> api.KilledResult:
        if offers := self._find_room_offers(params.id, params.contact):
            entries = [self._room_offer_entry(offer) for offer in offers]
            for offer in offers:
                self._rooms.kill(offer)
            return {"killed": [{"id": e["id"], "contact": e["contact"], "name": e["name"]} for e in entries]}
        found = self._find(params.id, params.contact)
        if not found:
            raise UserError("not_found", f"no offer or mapping {params.id!r}; see `tunfwd offers`")
        if not (is_one(found, params.id) or is_same_to_all(found)):
            raise _ambiguous(params.id, found)
        killed: list[api.Killed] = []
        for peer, mapping in found:
            killed.append({"id": _id(mapping), "contact": peer.label, "name": clean(mapping.name)})
            self._portfolio.end(peer, mapping)
            self._switch.touch(peer)
        return {"killed": killed}

    async def _ports(self, _: api.Nothing) -> api.MappingsResult:
        return {
            "ports": [
                self._mapping_entry(p, m) for p, m in self._all() if m.accepted or m in p.ports.values()
            ]
        }

    def _find_room_offers(self, text: str, contact: str | None) -> list[RoomOffer]:
        """Return the offers to a whole room that a person means: those of one name are one thing."""
        offers = [o for o in self._rooms.offers if contact in (None, self._room_offer_entry(o)["contact"])]
        found = [offer for offer in offers if offer.standing.name == text] or [
            offer for offer in offers if len(text) >= 4 and f"{offer.msg_id:08x}".startswith(text.lower())
        ]
        if len({(offer.standing.contact, offer.standing.name == text) for offer in found}) > 1 or (
            len(found) > 1 and found[0].standing.name != text
        ):
            ids = ", ".join(f"{offer.msg_id:08x}" for offer in found)
            raise UserError("ambiguous", f"{text!r} may be any of {ids}; give an id")
        return found

    def _room_offer_entry(self, offer: RoomOffer) -> api.OfferEntry:
        room, standing = self._rooms.of(offer), offer.standing
        target = read_service(standing.target) or Target(None, standing.port)
        seen = self._look(target, standing.source, offer.protocol)
        return {
            "id": f"{offer.msg_id:08x}",
            "contact": self._rooms.label(room) if room is not None else standing.contact,
            "direction": "server",
            "protocol": standing.protocol,
            "port": standing.port,
            "name": clean(standing.name),
            "origin": "local",
            "state": "offered",
            "target": str(target),
            "sees": seen.sees,
            "trouble": seen.trouble,
        }

    def _offer_entry(self, peer: Peer, mapping: Mapping) -> api.OfferEntry:
        seen = self._seen(peer, mapping)
        return {
            "id": _id(mapping),
            "contact": peer.label,
            "direction": "server" if mapping.direction is Direction.SERVER else "connection",
            "protocol": "tcp" if mapping.protocol is Protocol.TCP else "udp",
            "port": mapping.port,
            "name": clean(mapping.name),
            "origin": "local" if mapping.origin is Origin.LOCAL else "remote",
            "state": mapping.state.value,
            "target": _target_of(peer, mapping),
            "sees": seen.sees,
            "trouble": seen.trouble,
        }

    def _mapping_entry(self, peer: Peer, mapping: Mapping) -> api.MappingEntry:
        details, seen = peer.details_of(mapping), self._seen(peer, mapping)
        return {
            "id": _id(mapping),
            "contact": peer.label,
            "protocol": "tcp" if mapping.protocol is Protocol.TCP else "udp",
            "address": peer.shown_address,
            "address6": str(peer.address6),
            "port": details.local_port or mapping.port,
            "name": clean(mapping.name),
            "state": mapping.state.value,
            "connections": len(mapping.flows),
            "rx_bytes": mapping.rx_bytes,
            "tx_bytes": mapping.tx_bytes,
            "drops": mapping.drops,
            "target": _target_of(peer, mapping),
            "sees": seen.sees,
            "trouble": seen.trouble,
            "origin": "local" if mapping.origin is Origin.LOCAL else "remote",
            "direction": "server" if mapping.direction is Direction.SERVER else "connection",
        }

    def _seen(self, peer: Peer, mapping: Mapping) -> Seen:
        """Find out whom the service of a mapping sees, where it is ours, and whether it answers."""
        details = peer.details_of(mapping)
        if mapping.role is not Role.SERVING:
            return Seen(None, details.answers.trouble)
        seen = self._look(peer.target_of(mapping), details.source, mapping.protocol)
        return Seen(seen.sees, seen.trouble or details.answers.trouble)

    def _look(self, target: Target, source: api.Source, protocol: Protocol) -> Seen:
        try:
            way = self._services.way_to(target, source, protocol)
        except Unreachable as unreachable:
            return Seen(trouble=str(unreachable))
        if isinstance(way, Target):
            return Seen("host")
        if source == "auto" and not self._services.is_decided(protocol, target.port):
            return Seen(trouble="nothing listens")
        return Seen(way.source)

    def _all(self) -> list[Found]:
        return [(peer, mapping) for peer in self._peers for mapping in peer.session.mappings]

    def _find(self, text: str, contact: str | None) -> list[Found]:
        """Return the mappings that a person may mean: by name, by port, or by the beginning of the id."""
        peer = self._peers.find(contact) if contact is not None else None
        mappings = [found for found in self._all() if peer in (None, found[0])]
        named = [found for found in mappings if found[1].name and clean(found[1].name) == text]
        ported = [found for found in mappings if text.lower() in _ports_of(found[1])]
        return (
            named
            or ported
            or [found for found in mappings if text and _id(found[1]).startswith(text.lower())]
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
            self._switch.touch(peer)
        return {"offers": [self._offer_entry(peer, mapping) for peer, mapping in found]}


def _id(mapping: Mapping) -> str:
    return f"{mapping.msg_id:08x}"


def _ports_of(mapping: Mapping) -> tuple[str, str]:
    """How a person may name a mapping by its port."""
    return (str(mapping.port), f"{mapping.port}/{mapping.protocol.name.lower()}")


def _ambiguous(text: str, found: list[Found]) -> UserError:
    choices = ", ".join(f"{mapping.msg_id:08x} ({peer.label})" for peer, mapping in found[:8])
    return UserError("ambiguous", f"{text!r} may be any of {choices}; give an id, or --from a contact")


def _check(name: str, fine: bool, detail: str) -> api.Check:
    return {"name": name, "ok": True, "level": "ok" if fine else "warning", "detail": detail}


def _contact_entry(peer: Peer) -> api.ContactEntry:
    mappings = peer.session.mappings
    since = peer.offline_since
    features = peer.session.features
    entry: api.ContactEntry = {
        "name": peer.name,
        "public_key": peer.key,
        "kind": peer.contact.kind,
        "via": peer.via,
        "address": peer.shown_address,
        "address6": str(peer.address6),
        "link": link_of(peer),
        "offline_seconds": None if since is None else math.floor(trio.current_time() - since),
        "ports": sum(mapping.accepted for mapping in mappings),
        "connections": sum(len(mapping.flows) for mapping in mappings),
        "tx_bytes": sum(mapping.tx_bytes for mapping in mappings),
        "rx_bytes": sum(mapping.rx_bytes for mapping in mappings),
        "extended": bool(features),
        "features": [str(feature.name).lower() for feature in Feature if feature in features],
    }
    if peer.address is None:
        entry["reason"] = NO_ADDRESS
    return entry


def _friend_entry(peer: Peer) -> api.FriendEntry:
    return {
        "public_key": peer.key,
        "name": peer.name,
        "state": "online" if peer.session.is_online else "offline",
        "address": peer.shown_address,
        "address6": str(peer.address6),
        "message": None,
    }


def _request_entry(request: FriendRequest) -> api.FriendEntry:
    return {
        "public_key": request.key.hex().upper(),
        "name": "",
        "state": "pending",
        "address": None,
        "address6": None,
        "message": request.message,
    }


def _target_of(peer: Peer, mapping: Mapping) -> str | None:
    return str(peer.target_of(mapping)) if mapping.role is Role.SERVING else None
