"""What the control socket can ask about the daemon as a whole: who it is, how it is, who answers."""

import math
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final, Protocol

import trio

from tunfwd import __version__, faults
from tunfwd.common.errors import UserError
from tunfwd.common.text import clean
from tunfwd.control import api, passed
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands import lan
from tunfwd.daemon.commands.doctor import NOT_NAMED, Health, RootlessHealth
from tunfwd.daemon.commands.entries import Entries, kept_of, seconds
from tunfwd.daemon.commands.figures import figures_of
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.commands.rooms import RoomCommands
from tunfwd.daemon.commands.targets import Place, Targets
from tunfwd.daemon.contacts.offers import describe
from tunfwd.daemon.contacts.tracker import link_of
from tunfwd.daemon.peers import NO_ADDRESS, Peer
from tunfwd.daemon.storage.kept import Storage
from tunfwd.daemon.wiring import Daemon
from tunfwd.forwarding.states import MappingState, Role
from tunfwd.link import link
from tunfwd.tox import version
from tunfwd.wire.packets import Feature

NOT_MET: Final = "never met: no yes to our request yet"


class Family(Protocol):
    """Commands of one kind."""

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""


class Checked(Family, Protocol):
    """Commands about something that doctor looks at, too."""

    async def checks(self) -> list[api.Check]:
        """Look at it."""


class StatusCommands:
    """The handlers of `id`, `status`, `stop`, `version`, `doctor` and `ping`."""

    def __init__(
        self,
        daemon: Daemon,
        storage: Storage,
        health: Health | RootlessHealth,
        rooms: RoomCommands,
        nodes: NodeCommands,
        entries: Entries,
        targets: Targets,
        checked: Sequence[Checked] = (),
    ) -> None:
        """`checked` are looked at by doctor, too."""
        self._targets = targets
        self._checked = checked
        self._client = daemon.client
        self._contacts = daemon.contacts
        self._datapath = daemon.datapath
        self._book = daemon.book
        self._names = daemon.names
        self._resolver = daemon.resolver
        self._storage = storage
        self._health = health
        self._rooms = rooms
        self._nodes = nodes
        self._entries = entries

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.IDENTITY, self._identity)
        dispatcher.add(api.STATUS, self._status)
        dispatcher.add(api.VERSION, self._version)
        dispatcher.add(api.STOP, self._stop)
        dispatcher.add(api.DOCTOR, self._doctor)
        dispatcher.add(api.PING, self._ping)

    async def _identity(self, _: api.Nothing) -> api.IdentityResult:
        client, own = self._client, self._contacts.own.among_friends
        return {
            "address": client.address,
            "public_key": client.public_key.hex().upper(),
            "dht_key": client.dht_key.hex().upper(),
            "udp_port": client.udp_port or 0,
            "nickname": client.name,
            "virtual_address": str(own.address or self._book.own),
            "virtual_address6": str(own.address6),
            "dns": [str(self._book.resolver), str(self._book.resolver6)] if self._resolver else [],
            "domain": self._names.domain,
            "device_address": str(self._book.own),
            "device_address6": str(self._book.own6),
            "interface": self._datapath.device.name,
            "mode": "device" if self._datapath.doors is None else "rootless",
            "version": __version__,
            "toxcore": version.inspect().text,
        }

    async def _version(self, _: api.Nothing) -> api.VersionResult:
        report = version.inspect()
        return {
            "version": __version__,
            "compiled": not link.__file__.endswith(".py"),
            "toxcore": report.text,
            "toxcore_package": report.package.version if report.package else None,
            "binding": self._client.binding,
        }

    async def _stop(self, _: api.Nothing) -> api.StopResult:
        signal.raise_signal(signal.SIGTERM)  # as from outside: main.py ends in order, once this is answered
        return {"pid": os.getpid()}

    async def _status(self, _: api.Nothing) -> api.StatusResult:
        status: api.StatusResult = {
            "network": "online" if self._nodes.is_online else "offline",
            "contacts": [
                {**contact_entry(peer), "dns": self._names.of(peer)} for peer in self._datapath.peers
            ],
            "drops": self._drops(),
            "groups": self._rooms.entries(),
            "warnings": await self._storage.warnings(),
            "load": self._load(),
            "lan": self._datapath.fan_out.entries(trio.current_time()),
            "waiting": self._waiting(),
        }
        if offline := self._nodes.offline():
            status["offline"] = offline
        return status

    def _waiting(self) -> api.Waiting:
        offers = {
            (peer, clean(mapping.name) or mapping.msg_id)
            for peer, mapping in self._entries.all()
            if mapping.state is MappingState.PENDING
        }
        client = self._client
        return {
            "friend_requests": len(client.friends.requests),
            "offers": len(offers),
            "invitations": len(client.groups.invitations) + len(client.conferences.invitations),
        }

    def _load(self) -> api.Load:
        statistics = self._datapath.stack.statistics()
        return {
            "flows": sum(len(mapping.flows) for _, mapping in self._entries.all()),
            "connections": statistics.connections,
            "timers": statistics.timers + sum(peer.session.timers for peer in self._datapath.peers),
        }

    def _drops(self) -> dict[str, int]:
        drops = Counter(self._datapath.peers.dropped)
        for peer in self._datapath.peers:
            drops.update(peer.session.counters)
        client = self._client
        drops["friend_requests"] = client.friends.dropped_requests
        drops["invitations"] = client.groups.dropped_invitations + client.conferences.dropped_invitations
        drops["unannounced"] = client.groups.unannounced_dropped
        for name, count in asdict(self._datapath.stack.statistics()).items():
            if name not in ("frames", "fragments", "connections", "incoming", "timers", "resets_sent"):
                drops[f"packets_{name}"] = count
        for name, count in asdict(self._datapath.device.statistics).items():
            if name.startswith("dropped_"):
                drops[f"device_{name.removeprefix('dropped_')}"] = count
        drops["broadcasts_denied"] = self._datapath.fan_out.denied
        drops["broadcasts_over_rate"] = self._datapath.fan_out.over_rate
        tickets = self._contacts.tickets
        drops["friend_requests_blocked"] = tickets.blocked_requests
        drops["tickets_unknown"] = tickets.invites.wrong
        drops["tickets_unread"] = tickets.invites.unread
        drops["dns_malformed"] = self._resolver.malformed if self._resolver is not None else 0
        drops["faults"] = faults.tally.count
        return {name: count for name, count in sorted(drops.items()) if count}

    async def _doctor(self, _: api.Nothing) -> api.DoctorResult:
        report = version.inspect()
        checks: list[api.Check] = [
            *await self._nodes.checks(),
            _check("libtoxcore", not report.warnings, " ".join(report.warnings) or report.full_text),
            *await self._storage.checks(),
            *await trio.to_thread.run_sync(lambda: list(self._health.checks())),
            self._addresses(),
            self._names_answered(),
            *self._users(),
            await lan.check(self._datapath, captures=self._health.captures),
            *self._friends(),
        ]
        for family in self._checked:
            checks += await family.checks()
        return {"checks": [*checks, *await self._services()]}

    async def _services(self) -> list[api.Check]:
        """Look at what is accepted: whether ours are there, and theirs answer."""
        accepted = [(peer, mapping) for peer, mapping in self._entries.all() if mapping.accepted]
        places = {
            mapping: (target, mapping.protocol)
            for peer, mapping in accepted
            if mapping.role is Role.SERVING and (target := peer.target_of(mapping)).host is not None
        }
        away = await self._targets.troubles(places.values())
        return [
            _check("service", False, f"{describe(mapping)}, {verb} {peer.label}: {trouble}")
            for peer, mapping in accepted
            for verb in ("for" if mapping.role is Role.SERVING else "of",)
            if (trouble := _at(places.get(mapping), away) or self._entries.seen(peer, mapping).trouble)
        ]

    def _names_answered(self) -> api.Check:
        if self._resolver is None:
            return _check("names", True, "nobody answers for names of contacts: [dns] enabled = false")
        detail = f"*.{self._names.domain} is answered for at {self._book.resolver} and {self._book.resolver6}"
        return _check("names", True, f"{detail}; tunfwd dns status says who asks there")

    def _users(self) -> Iterator[api.Check]:
        """Whether whoever asks is one of those whose programs reach contacts, where only some are."""
        if (admission := self._datapath.admission) is not None:
            named = admission.permits(passed.user())
            yield _check("users", named, "[network] users names you" if named else NOT_NAMED)

    def _friends(self) -> Iterator[api.Check]:
        friends = [peer for peer in self._datapath.peers if peer.contact.kind == "friend"]
        away = [peer.label for peer in friends if not peer.session.is_online]
        if friends:
            told = f"{len(friends) - len(away)} of {len(friends)} are there"
            more = f" and {len(away) - 8} more" if len(away) > 8 else ""
            told += f"; offline: {', '.join(away[:8])}{more}" if away else ""
            yield _check("friends", len(away) < len(friends), told)

    def _addresses(self) -> api.Check:
        book, without = self._book, self._contacts.residents.without
        taken = f"{len(book)} of {book.capacity} addresses of {book.network} are taken"
        if without:
            taken += f", and {without} contacts have none: set a larger [network] range"
        return _check("addresses", not without, taken)

    async def _ping(self, params: api.Ping) -> api.PingResult:
        peer = self._datapath.peers.find(params.name)
        if not peer.session.is_online:
            raise UserError("offline", f"{peer.label} is offline")
        with trio.move_on_after(params.timeout):
            seconds = await self._datapath.pings.ping(peer)
            if seconds is None:
                raise UserError("failed", f"{peer.label} does not answer pings: its program is another")
            measured = figures_of(peer)
            return {
                "contact": peer.label,
                "seconds": seconds,
                "path": measured.path or "relay",
                "path_seconds": measured.path_seconds,
                "rtt": measured.rtt,
                "loss": measured.loss,
                "window": measured.window,
            }
        if not peer.session.features:
            raise UserError(
                "timeout", f"{peer.label} is online, but its program has not said that it answers pings"
            )
        raise UserError("timeout", f"{peer.label} did not answer within {params.timeout:g} s")


def _at(place: Place | None, away: Mapping[Place, str]) -> str | None:
    """Say which place elsewhere does not answer, and how."""
    return f"{place[0]}: {away[place]}" if place is not None and place in away else None


def _check(name: str, fine: bool, detail: str) -> api.Check:
    return {"name": name, "ok": True, "level": "ok" if fine else "warning", "detail": detail}


def contact_entry(peer: Peer) -> api.ContactEntry:
    """Return a contact as `status` lists it."""
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
    measured = figures_of(peer)
    entry["path"], entry["path_seconds"] = measured.path, measured.path_seconds
    entry["rtt"], entry["loss"], entry["window"] = measured.rtt, measured.loss, measured.window
    entry["silent_seconds"] = seconds(peer.silence(trio.current_time()))
    entry["kept_seconds"] = kept_of(peer)
    if peer.contact.kind == "friend" and entry["link"] == "offline" and not peer.contact.nickname:
        entry["reason"] = NOT_MET
    if peer.address is None:
        entry["reason"] = NO_ADDRESS
    return entry
