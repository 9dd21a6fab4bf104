"""toxcore without a network: nodes of one process that hear each other in their next iteration.

`Network.library` stands where the binding does (tunfwd/tox/binding/library.py), with the methods, errors and
events of pytox that the program uses, so that everything above the binding runs as it is. What is sent
arrives, in order, at once; a test says who is cut off, and which calls toxcore refuses.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from dataclasses import dataclass, field
from functools import reduce
from hashlib import sha256
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest

from tunfwd.tox import client, groups, version
from tunfwd.tox.binding import sodium
from tunfwd.tox.binding.enums import (
    Tox_Conference_Type,
    Tox_Connection,
    Tox_Group_Exit_Type,
    Tox_Group_Join_Fail,
    Tox_Group_Mod_Event,
    Tox_Group_Privacy_State,
    Tox_Group_Role,
)
from tunfwd.tox.binding.errors import CODES, raise_code
from tunfwd.tox.binding.library import Library

NONE, UDP = Tox_Connection.TOX_CONNECTION_NONE, Tox_Connection.TOX_CONNECTION_UDP
COOKIE = bytes(4) + struct.pack("<I", 0x15ED1B1F)
SECTION = struct.Struct("<IHH")
OURS, END, MARK = 200, 255, 0x01CE  # kinds of sections; the first is of our own making


def refuse(family: str, name: str) -> None:
    """Raise the error of that name: of TOX_ERR_FRIEND_ADD, "MALLOC"."""
    raise_code(family, CODES[family][f"{family}_{name}"])


def address_of(key: bytes) -> bytes:
    """The Tox address with no nospam."""
    checked = key + bytes(4)
    return checked + bytes(reduce(lambda sum, byte: sum ^ byte, checked[odd::2]) for odd in (0, 1))


@dataclass(eq=False)
class Group:
    """What all who are in a group agree on."""

    chat_id: bytes
    name: bytes
    public: bool
    founder: bytes
    password: bytes = b""
    here: dict[int, Node] = field(default_factory=dict)
    """By the number that all know a member under."""
    names: dict[bytes, bytes] = field(default_factory=dict)
    """By public key in the group."""
    numbers: dict[Node, int] = field(default_factory=dict)
    """The last number of each who was ever here."""
    met: int = 0

    def enter(self, node: Node) -> int:
        """Give one who comes a number."""
        self.met += 1
        self.here[self.met] = node
        self.numbers[node] = self.met
        return self.met


@dataclass(eq=False)
class Conference:
    """What all who are in a conference agree on."""

    id: bytes
    title: bytes = b""
    here: list[Node] = field(default_factory=list)
    away: list[Node] = field(default_factory=list)


class Network:
    """All nodes, and what they are in together."""

    def __init__(self) -> None:
        self.made = 0
        self.nodes: list[Node] = []
        """Those that run."""
        self.groups: dict[bytes, Group] = {}
        self.conferences: dict[bytes, Conference] = {}
        self.cut: set[frozenset[bytes]] = set()
        """Pairs of long-term keys that do not reach each other."""

    def library(self) -> Library:
        """Return what stands in for the binding."""
        bound: Any = type("Tox_Ptr", (Node,), {"network": self})
        options: Any = Options
        encryption: Any = SimpleNamespace(is_data_encrypted=lambda data: False)
        return Library(bound, options, encryption)

    def node(self, key: bytes) -> Node | None:
        """Return the node with a long-term key, if it runs."""
        return next((node for node in self.nodes if node.public_key == key), None)

    def reach(self, one: Node, other: Node) -> bool:
        """Whether two nodes are connected friends."""
        met = one.number_of(other.public_key) is not None and other.number_of(one.public_key) is not None
        running = one in self.nodes and other in self.nodes
        return met and running and frozenset({one.public_key, other.public_key}) not in self.cut

    def settle(self) -> None:
        """Tell everybody who is online now, and who no longer."""
        for node in self.nodes:
            for number, key in node.friends.items():
                other = self.node(key)
                online = other is not None and self.reach(node, other)
                if online == (number in node.linked):
                    continue
                if other is not None and online:
                    node.linked.add(number)
                    node.learn(other)
                else:
                    node.linked.discard(number)
                node.hear("friend_connection_status", number, UDP if online else NONE)

    def sever(self, one: bytes, other: bytes) -> None:
        """Cut two off from each other."""
        self.cut.add(frozenset({one, other}))
        self.settle()

    def mend(self) -> None:
        """Let all reach each other again."""
        self.cut.clear()
        self.settle()


def installed(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Return the network that every client is in which is made from now on."""
    network = Network()
    library = network.library()
    monkeypatch.setattr(client, "choose", lambda name: library)
    monkeypatch.setattr(version, "inspect", lambda: version.Report(version.FIXED_SINCE, ()))
    monkeypatch.setattr(sodium, "_library", lambda: None)  # toxcore may have one inside
    monkeypatch.setattr(groups, "INVITATION_DELAY", 0.0)
    return network


class Options:
    """Takes what it is told."""

    savedata_data: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Node:
    """A Tox instance."""

    network: Network
    iteration_interval = 1  # ms

    def __init__(self, options: Options) -> None:
        self.options = options
        self._name = b""
        self.friends: dict[int, bytes] = {}
        self.names: dict[int, bytes] = {}
        """What friends call themselves, as far as they have said it."""
        self.linked: set[int] = set()
        """Friends we are connected to …"""
        self.online: set[int] = set()
        """… and those of whom we have been told so."""
        self.group_numbers: dict[int, Group] = {}
        self.conference_numbers: dict[int, Conference] = {}
        self.bootstraps: list[tuple[str, int, bytes]] = []
        self.refused: set[str] = set()
        """Calls that toxcore refuses, as "TOX_ERR_FAMILY NAME"."""
        self._inbox: deque[tuple[str, tuple[object, ...]]] = deque()
        self.network.made += 1
        self.public_key = sha256(b"%d" % self.network.made).digest()
        if options.savedata_data is not None:
            self._load(options.savedata_data)
        self.secret_key = self.dht_id = sha256(self.public_key).digest()
        self._joined = False

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_traceback: TracebackType | None = None,
    ) -> None:
        if not self._joined:
            return
        for group in list(self.group_numbers.values()):
            self._exit(group, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_TIMEOUT)
        for conference in self.conference_numbers.values():
            conference.here.remove(self)
            conference.away.append(self)
            self._changed(conference)
        self.network.nodes.remove(self)
        self.network.settle()

    def _refuse(self, *errors: str) -> None:
        for error in errors:
            if error in self.refused:
                refuse(*error.split())

    # The instance.

    def hear(self, event: str, *arguments: object) -> None:
        """Have an event happen in the next iteration."""
        self._inbox.append((event, arguments))

    def iterate(self) -> None:
        if not self._joined:
            self._join()
        self.network.settle()  # who is added and deleted between two rounds is not connected to
        for _ in range(len(self._inbox)):
            event, arguments = self._inbox.popleft()
            if event == "friend_connection_status":
                number, connection = arguments
                (self.online.discard if connection is NONE else self.online.add)(number)  # type: ignore[arg-type]
            getattr(self, f"handle_{event}")(*arguments)
            if event == "friend_connection_status":
                return  # nobody comes and goes in one round

    def _join(self) -> None:
        self._joined = True
        self.network.nodes.append(self)
        self.hear("self_connection_status", UDP)
        self.network.settle()
        for number, group in self.group_numbers.items():
            self._enter(number, group)
        for number in self.conference_numbers:
            self._attend(number)

    @property
    def connection_status(self) -> Tox_Connection:
        return UDP if self._joined else NONE

    @property
    def name(self) -> bytes:
        return self._name

    @name.setter
    def name(self, name: bytes) -> None:
        self._name = name
        for number in self.linked:
            if other := self.network.node(self.friends[number]):
                other.learn(self)

    def learn(self, other: Node) -> None:
        """Hear what a friend calls itself."""
        number = self.number_of(other.public_key)
        assert number is not None
        self.names[number] = other.name
        self.hear("friend_name", number, other.name)

    @property
    def address(self) -> bytes:
        return address_of(self.public_key)

    @property
    def udp_port(self) -> int:
        return raise_code("TOX_ERR_GET_PORT", 1)

    tcp_port = udp_port

    def bootstrap(self, host: str, port: int, public_key: bytes) -> bool:
        self.bootstraps.append((host, port, public_key))
        return True

    add_tcp_relay = bootstrap

    @property
    def savedata(self) -> bytes:
        kept = json.dumps(
            {
                "key": self.public_key.hex(),
                "name": self.name.hex(),
                "friends": {number: key.hex() for number, key in self.friends.items()},
                "names": {number: name.hex() for number, name in self.names.items()},
                "groups": {number: group.chat_id.hex() for number, group in self.group_numbers.items()},
                "conferences": {number: one.id.hex() for number, one in self.conference_numbers.items()},
            }
        ).encode()
        return COOKIE + SECTION.pack(len(kept), OURS, MARK) + kept + SECTION.pack(0, END, MARK)

    def _load(self, savedata: bytes) -> None:
        if not savedata.startswith(COOKIE):
            refuse("TOX_ERR_NEW", "LOAD_BAD_FORMAT")
        length, kind, _ = SECTION.unpack_from(savedata, len(COOKIE))
        if kind != OURS:
            refuse("TOX_ERR_NEW", "LOAD_BAD_FORMAT")
        start = len(COOKIE) + SECTION.size
        kept = json.loads(savedata[start : start + length])
        self.public_key, self._name = bytes.fromhex(kept["key"]), bytes.fromhex(kept["name"])
        self.names = {int(number): bytes.fromhex(name) for number, name in kept["names"].items()}
        self.friends = {int(number): bytes.fromhex(key) for number, key in kept["friends"].items()}
        for number, identifier in kept["groups"].items():
            self.group_numbers[int(number)] = self.network.groups[bytes.fromhex(identifier)]
        for number, identifier in kept["conferences"].items():
            self.conference_numbers[int(number)] = self.network.conferences[bytes.fromhex(identifier)]

    # Friends.

    def number_of(self, key: bytes) -> int | None:
        return next((number for number, known in self.friends.items() if known == key), None)

    @property
    def friend_list(self) -> list[int]:
        return list(self.friends)

    def friend_add(self, address: bytes, message: bytes) -> int:
        key = address[:32]
        if address[36:] != address_of(key)[36:]:
            refuse("TOX_ERR_FRIEND_ADD", "BAD_CHECKSUM")
        if key == self.public_key:
            refuse("TOX_ERR_FRIEND_ADD", "OWN_KEY")
        number = self.friend_add_norequest(key)
        other = self.network.node(key)
        if other is not None and other.number_of(self.public_key) is None:
            other.hear("friend_request", self.public_key, message)
        return number

    def friend_add_norequest(self, public_key: bytes) -> int:
        self._refuse("TOX_ERR_FRIEND_ADD MALLOC")
        if public_key in self.friends.values():
            refuse("TOX_ERR_FRIEND_ADD", "ALREADY_SENT")
        number = max(self.friends, default=-1) + 1
        self.friends[number] = public_key
        return number

    def friend_delete(self, friend_number: int) -> None:
        del self.friends[friend_number]
        self.linked.discard(friend_number)
        self.online.discard(friend_number)

    def friend_get_public_key(self, friend_number: int) -> bytes:
        return self.friends[friend_number]

    def friend_get_name(self, friend_number: int) -> bytes:
        return self.names.get(friend_number, b"")

    def friend_get_last_online(self, friend_number: int) -> int:
        return 1_700_000_000 if friend_number in self.online else 0

    def friend_send_lossless_packet(self, friend_number: int, data: bytes) -> None:
        self._to_friend("lossless", friend_number, data)

    def friend_send_lossy_packet(self, friend_number: int, data: bytes) -> None:
        self._to_friend("lossy", friend_number, data)

    def _to_friend(self, how: str, number: int, data: bytes) -> None:
        self._refuse("TOX_ERR_FRIEND_CUSTOM_PACKET SENDQ")
        if data[0] not in (range(160, 192) if how == "lossless" else range(192, 255)):
            refuse("TOX_ERR_FRIEND_CUSTOM_PACKET", "INVALID")
        if number not in self.friends:
            refuse("TOX_ERR_FRIEND_CUSTOM_PACKET", "FRIEND_NOT_FOUND")
        if number not in self.online:
            refuse("TOX_ERR_FRIEND_CUSTOM_PACKET", "FRIEND_NOT_CONNECTED")
        self._tell(number, f"friend_{how}_packet", data)

    def _tell(self, number: int, event: str, *what: object) -> None:
        """Have something happen to a friend, who knows us by a number of its own."""
        if number in self.linked and (other := self.network.node(self.friends[number])):
            other.hear(event, other.number_of(self.public_key), *what)

    # Groups.

    def key_in(self, group: Group) -> bytes:
        return sha256(group.chat_id + self.public_key).digest()

    @property
    def group_number_groups(self) -> int:
        return len(self.group_numbers)

    def _group(self, number: int, family: str = "TOX_ERR_GROUP_STATE_QUERY") -> Group:
        if number not in self.group_numbers:
            refuse(family, "GROUP_NOT_FOUND")
        return self.group_numbers[number]

    def _member(self, number: int, peer_id: int, family: str = "TOX_ERR_GROUP_PEER_QUERY") -> Node:
        here = self._group(number, family).here
        if peer_id not in here:
            refuse(family, "PEER_NOT_FOUND")
        return here[peer_id]

    def number_in(self, group: Group) -> int:
        return next(number for number, other in self.group_numbers.items() if other is group)

    def _take(self, group: Group, name: bytes) -> int:
        number = max(self.group_numbers, default=-1) + 1
        self.group_numbers[number] = group
        group.names[self.key_in(group)] = name
        return number

    def _enter(self, number: int, group: Group) -> None:
        others = dict(group.here)
        entered = group.enter(self)
        self.hear("group_self_join", number)
        for peer_id, other in others.items():
            self.hear("group_peer_join", number, peer_id)
            other.hear("group_peer_join", other.number_in(group), entered)

    def _exit(self, group: Group, why: Tox_Group_Exit_Type, part: bytes = b"") -> None:
        if self not in group.here.values():
            return
        peer_id = group.numbers[self]
        del group.here[peer_id]
        for other in group.here.values():
            name = group.names[self.key_in(group)]
            other.hear("group_peer_exit", other.number_in(group), peer_id, why, name, part)

    def group_new(self, privacy_state: Tox_Group_Privacy_State, group_name: bytes, name: bytes) -> int:
        self._refuse("TOX_ERR_GROUP_NEW INIT")
        chat_id = sha256(b"group %d" % len(self.network.groups)).digest()
        public = privacy_state == Tox_Group_Privacy_State.TOX_GROUP_PRIVACY_STATE_PUBLIC
        group = self.network.groups[chat_id] = Group(chat_id, group_name, public, b"")
        group.founder = self.key_in(group)
        number = self._take(group, name)
        group.enter(self)
        return number

    def group_join(self, chat_id: bytes, name: bytes, password: bytes) -> int:
        self._refuse("TOX_ERR_GROUP_JOIN CORE")
        for number, group in self.group_numbers.items():
            if group.chat_id == chat_id:  # as since 0.2.21
                self.group_reconnect(number)
                return 0
        group = self.network.groups.get(chat_id) or Group(chat_id, b"", True, b"")
        number = self._take(group, name)
        if chat_id in self.network.groups and group.public:
            self._ask(number, group, password)
        return number

    def _ask(self, number: int, group: Group, password: bytes) -> None:
        if password == group.password:
            self._enter(number, group)
        else:
            fail = Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_INVALID_PASSWORD
            self.hear("group_join_fail", number, fail)

    def group_reconnect(self, group_number: int) -> None:
        self._enter(group_number, self._group(group_number, "TOX_ERR_GROUP_RECONNECT"))

    def group_leave(self, group_number: int, part_message: bytes) -> None:
        group = self._group(group_number, "TOX_ERR_GROUP_LEAVE")
        self._exit(group, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT, part_message)
        del self.group_numbers[group_number]

    def group_set_password(self, group_number: int, password: bytes) -> None:
        self._group(group_number).password = password

    def group_invite_friend(self, group_number: int, friend_number: int) -> None:
        self._refuse("TOX_ERR_GROUP_INVITE_FRIEND FAIL_SEND")
        group = self._group(group_number)
        self._tell(friend_number, "group_invite", group.chat_id + self.key_in(group), group.name)

    def group_invite_accept(
        self, friend_number: int, invite_data: bytes, name: bytes, password: bytes
    ) -> int:
        group = self.network.groups[invite_data[:32]]
        number = self._take(group, name)
        if friend_number not in self.online:
            refuse("TOX_ERR_GROUP_INVITE_ACCEPT", "FAIL_SEND")
        self._ask(number, group, password)
        return number

    def group_kick_peer(self, group_number: int, peer_id: int) -> None:
        group = self._group(group_number)
        kicked = self._member(group_number, peer_id, "TOX_ERR_GROUP_KICK_PEER")
        if group.founder != self.key_in(group):
            refuse("TOX_ERR_GROUP_KICK_PEER", "PERMISSIONS")
        what = Tox_Group_Mod_Event.TOX_GROUP_MOD_EVENT_KICK
        for other in group.here.values():
            if other is not self:
                other.hear("group_moderation", other.number_in(group), group.numbers[self], peer_id, what)
        kicked._exit(group, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_KICK)

    def group_get_name(self, group_number: int) -> bytes:
        return self._group(group_number).name

    def group_get_chat_id(self, group_number: int) -> bytes:
        return self._group(group_number).chat_id

    def group_get_privacy_state(self, group_number: int) -> Tox_Group_Privacy_State:
        states = Tox_Group_Privacy_State
        public = self._group(group_number).public
        return states.TOX_GROUP_PRIVACY_STATE_PUBLIC if public else states.TOX_GROUP_PRIVACY_STATE_PRIVATE

    def group_self_get_role(self, group_number: int) -> Tox_Group_Role:
        group = self._group(group_number)
        ours = group.founder == self.key_in(group)
        return Tox_Group_Role.TOX_GROUP_ROLE_FOUNDER if ours else Tox_Group_Role.TOX_GROUP_ROLE_USER

    def group_self_get_peer_id(self, group_number: int) -> int:
        return self._group(group_number).numbers[self]

    def group_self_get_public_key(self, group_number: int) -> bytes:
        return self.key_in(self._group(group_number))

    def group_self_get_name(self, group_number: int) -> bytes:
        group = self._group(group_number)
        return group.names[self.key_in(group)]

    def group_peer_get_public_key(self, group_number: int, peer_id: int) -> bytes:
        return self._member(group_number, peer_id).key_in(self._group(group_number))

    def group_peer_get_name(self, group_number: int, peer_id: int) -> bytes:
        return self._group(group_number).names[self.group_peer_get_public_key(group_number, peer_id)]

    def group_peer_get_connection_status(self, group_number: int, peer_id: int) -> Tox_Connection:
        self._member(group_number, peer_id)
        return UDP

    def group_send_custom_packet(self, group_number: int, lossless: bool, data: bytes) -> None:
        self._refuse("TOX_ERR_GROUP_SEND_CUSTOM_PACKET FAIL_SEND")
        group = self._group(group_number)
        if self not in group.here.values():
            refuse("TOX_ERR_GROUP_SEND_CUSTOM_PACKET", "DISCONNECTED")
        for other in group.here.values():
            if other is not self:
                other.hear("group_custom_packet", other.number_in(group), group.numbers[self], data)

    def group_send_custom_private_packet(
        self, group_number: int, peer_id: int, lossless: bool, data: bytes
    ) -> None:
        family = "TOX_ERR_GROUP_SEND_CUSTOM_PRIVATE_PACKET"
        self._refuse(f"{family} FAIL_SEND")
        group, other = self._group(group_number, family), self._member(group_number, peer_id, family)
        other.hear("group_custom_private_packet", other.number_in(group), group.numbers[self], data)

    # Conferences.

    @property
    def conference_chatlist(self) -> list[int]:
        return list(self.conference_numbers)

    def conference_new(self) -> int:
        self._refuse("TOX_ERR_CONFERENCE_NEW INIT")
        identifier = sha256(b"conference %d" % len(self.network.conferences)).digest()
        self.network.conferences[identifier] = conference = Conference(identifier, here=[self])
        return self._take_conference(conference)

    def _take_conference(self, conference: Conference) -> int:
        number = max(self.conference_numbers, default=-1) + 1
        self.conference_numbers[number] = conference
        return number

    def _attend(self, number: int) -> None:
        conference = self.conference_numbers[number]
        if self in conference.away:
            conference.away.remove(self)
        conference.here.append(self)
        self.hear("conference_connected", number)
        self._changed(conference)

    def _changed(self, conference: Conference) -> None:
        for node in conference.here:
            number = next(n for n, other in node.conference_numbers.items() if other is conference)
            node.hear("conference_peer_list_changed", number)

    def conference_delete(self, conference_number: int) -> None:
        conference = self.conference_numbers.pop(conference_number)
        conference.here.remove(self)
        self._changed(conference)

    def conference_invite(self, friend_number: int, conference_number: int) -> None:
        self._refuse("TOX_ERR_CONFERENCE_INVITE FAIL_SEND")
        cookie = bytes(3) + self.conference_numbers[conference_number].id
        kind = Tox_Conference_Type.TOX_CONFERENCE_TYPE_TEXT
        self._tell(friend_number, "conference_invite", kind, cookie)

    def conference_join(self, friend_number: int, cookie: bytes) -> int:
        self._refuse("TOX_ERR_CONFERENCE_JOIN INIT_FAIL")
        number = self._take_conference(self.network.conferences[cookie[3:]])
        self._attend(number)
        return number

    def conference_get_title(self, conference_number: int) -> bytes:
        title = self.conference_numbers[conference_number].title
        if not title:
            refuse("TOX_ERR_CONFERENCE_TITLE", "INVALID_LENGTH")
        return title

    def conference_set_title(self, conference_number: int, title: bytes) -> None:
        self.conference_numbers[conference_number].title = title

    def conference_get_id(self, conference_number: int) -> bytes:
        return self.conference_numbers[conference_number].id

    def conference_get_peer_count(self, conference_number: int) -> int:
        return len(self.conference_numbers[conference_number].here)

    def conference_get_peer_name(self, conference_number: int, peer_number: int) -> bytes:
        return self.conference_numbers[conference_number].here[peer_number].name

    def conference_peer_get_public_key(self, conference_number: int, peer_number: int) -> bytes:
        return self.conference_numbers[conference_number].here[peer_number].public_key

    def conference_get_offline_peer_count(self, conference_number: int) -> int:
        return len(self.conference_numbers[conference_number].away)

    def conference_offline_peer_get_name(self, conference_number: int, offline_peer_number: int) -> bytes:
        return self.conference_numbers[conference_number].away[offline_peer_number].name

    def conference_offline_peer_get_public_key(
        self, conference_number: int, offline_peer_number: int
    ) -> bytes:
        return self.conference_numbers[conference_number].away[offline_peer_number].public_key
