"""A daemon without toxcore, TUN device or kernel: all of its parts but those, and packets that go to a list.

toxcore's side of groups and conferences is played by `SimulatedTox`, which knows members by number, as
toxcore does, and counts each call that a round or a packet causes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from random import Random
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from tunfwd.daemon import wiring
from tunfwd.daemon.contacts.offers import Policy
from tunfwd.daemon.contacts.tracker import AutoAccept
from tunfwd.daemon.datapath.datapath import Machine
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content
from tunfwd.forwarding.policy import Rule
from tunfwd.forwarding.session import CARRIER_FEATURES, Settings
from tunfwd.netstack.connection import Connection
from tunfwd.tox.binding.enums import (
    Tox_Connection,
    Tox_Group_Exit_Type,
    Tox_Group_Privacy_State,
    Tox_Group_Role,
)
from tunfwd.tox.binding.errors import raise_code
from tunfwd.tox.conferences import Conferences
from tunfwd.tox.contacts import UDP, Friend, FriendRequest, Group
from tunfwd.tox.groups import Groups
from tunfwd.tox.handler import Handler
from tunfwd.tox.pacing import Pacing
from tunfwd.tox.policing import Policing, SocketGate
from tunfwd.tun.listeners import Listener
from tunfwd.tun.nodevice import NoDevice
from tunfwd.wire.carriers import GROUP
from tunfwd.wire.packets import Hello, Lossless, Protocol, encode

NO_DEVICE = NoDevice()  # one for all: it has a descriptor
TUN, LO = 7, 1  # indices of interfaces
RANGE, RANGE6 = IPv4Network("10.77.0.0/16"), IPv6Network("fd74:756e:6677::/48")
ROOTLESS_RANGE = IPv4Network("127.77.0.0/16")


def key_of(who: object) -> bytes:
    return sha256(repr(who).encode()).digest()


@dataclass
class SimulatedGroup:
    """What toxcore knows of one group."""

    id: bytes
    name: str
    peers: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    ours: bool = True  # we are its founder


class SimulatedListeners:
    """The kernel's table of listening sockets."""

    def __init__(self) -> None:
        self.table: dict[tuple[Protocol, int], list[Listener]] = {}
        self.users: dict[int, set[int]] = {}
        self.questions = 0

    def ports(self, protocol: Protocol) -> set[int]:
        self.questions += 1
        return {port for (its, port), there in self.table.items() if its is protocol and there}

    def at(self, protocol: Protocol, port: int) -> list[Listener]:
        self.questions += 1
        return list(self.table.get((protocol, port), ()))

    def users_of(self, port: int) -> set[int]:
        return self.users.get(port, set())


class SimulatedTox:
    """The calls of toxcore that friends, groups and conferences make, for as long as nothing goes wrong."""

    def __init__(self, known: list[SimulatedGroup]) -> None:
        self.keys: dict[int, bytes] = {}
        """Of friends."""
        self.groups = dict(enumerate(known))
        self.conference_peers: dict[int, list[tuple[bytes, str]]] = {}
        self.calls: Counter[str] = Counter()
        self.public: list[bytes] = []
        self.private: list[tuple[int, bytes]] = []
        self.to_friends: list[tuple[int, bytes]] = []
        self.said: deque[tuple[bool, int, bytes]] = deque()
        """To friends, lossless or not, in order, where `on_said` is set to have them carried there."""
        self.on_said: Callable[[], object] | None = None

    # Friends.

    @property
    def friend_list(self) -> list[int]:
        return list(self.keys)

    def friend_get_name(self, number: int) -> bytes:
        return b""

    def friend_get_public_key(self, number: int) -> bytes:
        return self.keys[number]

    def friend_add_norequest(self, key: bytes) -> int:
        if key in self.keys.values():
            raise_code("TOX_ERR_FRIEND_ADD", 5)
        number = max(self.keys, default=-1) + 1
        self.keys[number] = key
        return number

    def friend_add(self, address: bytes, message: bytes) -> int:
        return self.friend_add_norequest(address[:32])

    def friend_delete(self, number: int) -> None:
        del self.keys[number]

    # Groups.

    @property
    def group_number_groups(self) -> int:
        return len(self.groups)

    def group_new(self, state: Tox_Group_Privacy_State, name: bytes, nickname: bytes) -> int:
        number = max(self.groups, default=-1) + 1
        self.groups[number] = SimulatedGroup(key_of(("group", number)), name.decode())
        return number

    def group_get_chat_id(self, number: int) -> bytes:
        return self.groups[number].id

    def group_get_name(self, number: int) -> bytes:
        return self.groups[number].name.encode()

    def group_get_privacy_state(self, number: int) -> Tox_Group_Privacy_State:
        return Tox_Group_Privacy_State.TOX_GROUP_PRIVACY_STATE_PUBLIC

    def group_self_get_public_key(self, number: int) -> bytes:
        return key_of(("us", number))

    def group_self_get_role(self, number: int) -> Tox_Group_Role:
        ours = self.groups[number].ours
        return Tox_Group_Role.TOX_GROUP_ROLE_FOUNDER if ours else Tox_Group_Role.TOX_GROUP_ROLE_USER

    def group_leave(self, number: int, message: bytes) -> None:
        del self.groups[number]

    def group_peer_get_public_key(self, number: int, peer: int) -> bytes:
        if peer not in self.groups[number].peers:
            raise_code("TOX_ERR_GROUP_PEER_QUERY", 2)
        return self.groups[number].peers[peer][0]

    def group_peer_get_name(self, number: int, peer: int) -> bytes:
        return self.groups[number].peers[peer][1].encode()

    def group_peer_get_connection_status(self, number: int, peer: int) -> Tox_Connection:
        self.calls["connection_status"] += 1
        return UDP

    def group_send_custom_packet(self, number: int, lossless: bool, data: bytes) -> None:
        self.calls["public"] += 1
        self.public.append(data)

    def group_send_custom_private_packet(self, number: int, peer: int, lossless: bool, data: bytes) -> None:
        self.calls["private"] += 1
        self.private.append((peer, data))

    # Conferences and friends.

    conference_chatlist: tuple[int, ...] = ()

    def conference_new(self) -> int:
        number = len(self.conference_peers)
        self.conference_peers[number] = []
        return number

    def conference_get_id(self, number: int) -> bytes:
        return key_of(("conference", number))

    def conference_set_title(self, number: int, title: bytes) -> None:
        self.title = title

    def conference_get_title(self, number: int) -> bytes:
        if not hasattr(self, "title"):
            raise_code("TOX_ERR_CONFERENCE_TITLE", 2)  # there is none
        return self.title

    def conference_delete(self, number: int) -> None:
        del self.conference_peers[number]

    def conference_get_peer_count(self, number: int) -> int:
        return len(self.conference_peers[number])

    def conference_peer_get_public_key(self, number: int, peer: int) -> bytes:
        return self.conference_peers[number][peer][0]

    def conference_get_peer_name(self, number: int, peer: int) -> bytes:
        return self.conference_peers[number][peer][1].encode()

    def conference_get_offline_peer_count(self, number: int) -> int:
        return 0

    def friend_send_lossless_packet(self, number: int, data: bytes) -> None:
        self._say(True, number, data)

    def friend_send_lossy_packet(self, number: int, data: bytes) -> None:
        self._say(False, number, data)

    def _say(self, lossless: bool, number: int, data: bytes) -> None:
        if self.on_said is None:
            self.to_friends.append((number, data))
        else:
            self.said.append((lossless, number, data))
            self.on_said()


class SimulatedFriends(list[Friend]):
    """The list of friends, without toxcore."""

    def __init__(self, tox: Any, pacing: Pacing) -> None:
        self._tox = tox
        self._pacing = pacing
        self.nodes: dict[bytes, bytes] = {}
        self.reunion: Any = SimpleNamespace(remember=self.nodes.__setitem__)
        self.requests: list[FriendRequest] = []
        self.dropped_requests = 0
        self.broken = False

    def add_key(self, key: bytes) -> Friend:
        if self.broken:
            raise_code("TOX_ERR_FRIEND_ADD", 8)  # malloc
        friend = Friend(self._tox, self._pacing, self.reunion, len(self), key, "")
        self.append(friend)
        return friend

    def hold(self, request: FriendRequest) -> None:
        self.requests.append(request)

    def reject(self, key: bytes) -> None:
        self.requests = [request for request in self.requests if request.key != key]


class Daemon(wiring.Daemon):
    """All that `tunfwd daemon` wires together, between toxcore and the device."""

    client: Any

    def __init__(
        self,
        content: Content | None = None,
        known: list[SimulatedGroup] | None = None,
        rules: tuple[Rule, ...] = (),
        seed: int = 1,
        clock: Callable[[], float] = perf_counter,
        network: IPv4Network = RANGE,
        device: Any = None,
        settings: Settings | None = None,
        auto_accept: frozenset[bytes] = frozenset(),
        tox: Any = None,
        rootless: bool = False,
    ) -> None:
        self.saved = 0
        self.tox: Any = tox or SimulatedTox(known or [])
        self.device: Any = NO_DEVICE if rootless or device is None else device
        if rootless:
            network = ROOTLESS_RANGE
        self.pacing = Pacing()
        self.policing = Policing(SocketGate(None))
        self.friends = SimulatedFriends(self.tox, self.pacing)
        self.listeners = SimulatedListeners()
        machine = Machine(
            device=self.device,
            addresses=(IPv4Interface((network[1], network.prefixlen)), IPv6Interface((RANGE6[1], 48))),
            interface=LO if rootless else TUN,
            loopback=LO,
            listeners=self.listeners,
            rootless=rootless,
            random=Random(seed),
            clock=clock,
        )
        accept = AutoAccept(friends=auto_accept, groups=frozenset())
        options = wiring.Options(Policy(rules, ()), 5.0, settings or Settings(), accept)
        super().__init__(machine, content or Content(), self._save, options, self._start)
        datapath = self.datapath
        self.peers, self.stack, self.scheduler = datapath.peers, datapath.stack, datapath.scheduler
        self.engine, self.services, self.pings = datapath.engine, datapath.services, datapath.pings
        self.poller = datapath.poller

    def _start(self, handler: Handler) -> Any:
        self.groups = Groups(self.tox, self.pacing, handler, self._save, self._save, lambda: "us")
        self.conferences = Conferences(self.tox, handler, self._save, key_of("us"))
        return SimpleNamespace(
            groups=self.groups,
            conferences=self.conferences,
            friends=self.friends,
            policing=self.policing,
            dht_key=b"",
            public_key=key_of("us"),
            name="us",
            connection=UDP,
            joining=SimpleNamespace(offline_since=None),
        )

    def _save(self) -> None:
        self.saved += 1

    @property
    def is_behind(self) -> bool:
        """Whether somebody's turn was too short."""
        return self.scheduler.next_round() is not None

    @property
    def connections(self) -> list[Connection]:
        """Those of local programs and services that are still held here."""
        known = self.stack._table._connections.values()
        return [connection for connection in known if connection.handler is not None]

    def settle(self) -> None:
        """As after each round of toxcore's loop."""
        self.contacts.iterated()
        while self.scheduler.has_work or self.is_behind:
            self.engine.round()

    def join(self, group: Group, number: int, name: str, key: bytes | None = None) -> Peer:
        """A member comes, under one of toxcore's numbers."""
        key = key or key_of(name)
        self.tox.groups[group.number].peers[number] = (key, name)
        self.groups.on_peer_join(group.number, number)
        self.settle()
        peer = self.peers.of(group.members[key])
        assert peer is not None
        return peer

    def exit(self, group: Group, number: int) -> None:
        del self.tox.groups[group.number].peers[number]
        self.groups.on_peer_exit(group.number, number, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_TIMEOUT)
        self.settle()

    def rename(self, group: Group, number: int, name: str) -> None:
        self.groups.on_peer_name(group.number, number, name.encode())

    def hear(self, group: Group, number: int, *packets: Lossless) -> None:
        """Packets of a member, to us alone."""
        for packet in packets:
            self.groups.on_private(group.number, number, encode(GROUP, packet))
        self.settle()

    def hear_public(self, group: Group, number: int, *packets: Lossless) -> None:
        for packet in packets:
            self.groups.on_public(group.number, number, encode(GROUP, packet))
        self.settle()

    def greet(self, group: Group, number: int) -> None:
        """A member says Hello, and that it knows what we know."""
        self.hear(group, number, Hello(CARRIER_FEATURES, number + 1))

    def befriend(self, name: str, *, given: bool = True) -> Peer:
        """Make a friend whose nickname is `name`; `given`: a person calls it so, too."""
        friend = Friend(self.tox, self.pacing, self.friends.reunion, len(self.friends), key_of(name), name)
        self.friends.append(friend)
        friend.connection = UDP
        peer = self.contacts.added(friend, name if given else None)
        self.contacts.contact_online(friend)
        self.settle()
        return peer

    def forget_traffic(self) -> None:
        self.tox.calls.clear()
        self.tox.public.clear()
        self.tox.private.clear()
        self.tox.to_friends.clear()
