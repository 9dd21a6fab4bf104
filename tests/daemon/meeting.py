"""Simulated daemons that find each other as over Tox: by friend requests, and while both are there.

What toxcore keeps on disk (friends, requests that go on, groups) and the state directory outlive a daemon, so
that any of them can be stopped and started again at any moment. All of it runs on trio's clock.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self

import trio

from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content
from tunfwd.tox.binding.errors import raise_code
from tunfwd.tox.contacts import NONE, UDP, RoomState
from tunfwd.tox.friends import Friends
from tunfwd.tox.handler import Handler

from .joined import Kernel
from .simulated import Daemon, SimulatedGroup, SimulatedTox, key_of
from .test_naming import commands_of

STEP = 0.05  # s between looks at who says what to whom
ASK = 5.0  # s between a friend request and the next
SPAWN = 1_700_000_000.0  # s since 1970 when a meeting begins


def address_of(key: bytes, nospam: int) -> bytes:
    body = key + nospam.to_bytes(4, "big")
    checksum = bytearray(2)
    for at, byte in enumerate(body):
        checksum[at % 2] ^= byte
    return body + checksum


class MeetingTox(SimulatedTox):
    """One person's toxcore: what it keeps from one run to the next."""

    def __init__(self, name: str) -> None:
        super().__init__([])
        self.key = key_of(name)
        self.nospam = 1
        self.asking: dict[int, tuple[bytes, bytes]] = {}  # address and message, of who has not been online
        self.told: deque[bytes] = deque(maxlen=32)  # whose requests were told, as toxcore remembers them
        self.invited: list[tuple[bytes, bytes, bytes]] = []  # key of the friend, chat id, name
        self.group_secrets: dict[bytes, str] = {}
        self.on_said = lambda: None

    @property
    def address(self) -> bytes:
        return address_of(self.key, self.nospam)

    def friend_add(self, address: bytes, message: bytes) -> int:
        if address != address_of(address[:32], int.from_bytes(address[32:36], "big")):
            raise_code("TOX_ERR_FRIEND_ADD", 6)
        number = super().friend_add(address, message)
        self.asking[number] = address, message
        return number

    def friend_delete(self, number: int) -> None:
        key = self.keys[number]
        super().friend_delete(number)
        self.asking.pop(number, None)
        if key in self.told:
            self.told.remove(key)

    def group_get_password(self, number: int) -> bytes:
        return b""

    def group_invite_friend(self, number: int, friend: int) -> None:
        group = self.groups[number]
        self.invited.append((self.keys[friend], group.id, group.name.encode()))

    def group_invite_accept(self, friend: int, data: bytes, name: bytes, password: bytes) -> int:
        number = max(self.groups, default=-1) + 1
        self.groups[number] = SimulatedGroup(data[:32], "lan", ours=False)
        return number

    def group_join(self, chat_id: bytes, name: bytes, password: bytes) -> int:
        number = max(self.groups, default=-1) + 1
        self.groups[number] = SimulatedGroup(chat_id, "", ours=False)
        self.group_secrets[chat_id] = password.decode()
        return number


class MeetingDaemon(Daemon):
    """A daemon whose friends come and go as toxcore has it."""

    def _start(self, handler: Handler) -> Any:
        client = super()._start(handler)
        nothing = lambda *_: None  # noqa: E731
        reunion: Any = SimpleNamespace(remember=nothing, forget=nothing, meet=nothing)
        client.friends = Friends(self.tox, self.pacing, reunion, handler, self._save)
        client.public_key, client.connection = self.tox.key, UDP
        client.address = self.tox.address.hex().upper()
        client.settings = SimpleNamespace(network_nodes=())
        client.joining = SimpleNamespace(records=[])
        client.change_address = self._change_address
        return client

    def _change_address(self) -> None:
        self.tox.nospam += 1
        self.client.address = self.tox.address.hex().upper()


class Person:
    """A daemon with its disk, which may be up or down."""

    def __init__(self, meeting: "Meeting", name: str) -> None:
        self.name = name
        self.tox = MeetingTox(name)
        self.content = Content()
        self._meeting = meeting
        self._scope: trio.CancelScope | None = None
        self._seed = 0
        self.daemon: Daemon
        self.asked_at: dict[int, float] = {}

    @property
    def is_up(self) -> bool:
        return self._scope is not None

    async def start(self) -> None:
        self._seed += 1
        self.daemon = MeetingDaemon(
            self.content,
            seed=1000 * self._seed + len(self._meeting.people),
            device=Kernel(1),
            clock=trio.current_time,
            tox=self.tox,
        )
        self.daemon.client.name = self.name
        self.daemon.contacts.tickets.invites.clock = self._meeting.clock
        self._dispatcher = commands_of(self.daemon)
        started = trio.Event()
        self._meeting.nursery.start_soon(self._run, started)
        await started.wait()

    async def _run(self, started: trio.Event) -> None:
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.daemon.poller.run)
                await nursery.start(self.daemon.engine.run)
                started.set()

    def stop(self) -> None:
        """As kill -9 does, though what is on disk is whole."""
        assert self._scope is not None
        self._scope.cancel()
        self._scope = None
        self.tox.said.clear()
        self.asked_at.clear()
        self._meeting.lost(self)

    async def __call__(self, method: str, **params: object) -> Any:
        return await self._dispatcher(method, params)

    def peer(self, other: "Person") -> Peer | None:
        friend = self.daemon.client.friends.get(other.tox.key)
        return None if friend is None else self.daemon.peers.of(friend)

    @property
    def accepted(self) -> list[tuple[str, int]]:
        """The ports of others that were accepted, in any state."""
        return [(one.protocol, one.port) for one in self.content.mappings]


class Meeting:
    """People, and the network between them."""

    nursery: trio.Nursery

    def __init__(self) -> None:
        self.people: dict[bytes, Person] = {}
        self.late = 0.0
        """s that the people's clock is ahead."""
        self.step = STEP

    def clock(self) -> float:
        return SPAWN + self.late + trio.current_time()

    @classmethod
    @asynccontextmanager
    async def of(cls, *names: str) -> AsyncIterator[tuple[Self, list[Person]]]:
        meeting = cls()
        async with trio.open_nursery() as meeting.nursery:
            people = [await meeting.comes(name) for name in names]
            meeting.nursery.start_soon(meeting._carry)
            yield meeting, people
            meeting.nursery.cancel_scope.cancel()

    async def comes(self, name: str) -> Person:
        person = Person(self, name)
        self.people[person.tox.key] = person
        await person.start()
        return person

    def lost(self, gone: Person) -> None:
        """Nobody reaches a person any more."""
        for person in self.people.values():
            if person.is_up:
                self._set_connection(person, gone, up=False)

    async def _carry(self) -> None:
        while True:
            for person in self.people.values():
                if person.is_up:
                    self._meet(person)
            for person in self.people.values():
                if person.is_up:
                    self._enter_groups(person)
                    person.daemon.groups.tell_invitations(trio.current_time() + 1e9)
                    person.daemon.client.friends.expire_requests(trio.current_time())
                    person.daemon.contacts.iterated()
            await trio.sleep(self.step)

    def _meet(self, person: Person) -> None:
        for number, key in list(person.tox.keys.items()):
            other = self.people.get(key)
            if other is None or not other.is_up:
                continue
            if person.tox.key in other.tox.keys.values():
                person.tox.asking.pop(number, None)
                self._set_connection(person, other, up=True)
            elif number in person.tox.asking:
                self._ask(person, number, other)
        while person.tox.said:
            lossless, number, packet = person.tox.said.popleft()
            other = self.people.get(person.tox.keys.get(number, b""))
            if other is not None and other.is_up and (peer := other.peer(person)) and peer.contact.online:
                engine = other.daemon.engine
                (engine.lossless if lossless else engine.lossy)(peer, packet)
        for key, chat_id, name in person.tox.invited:
            other = self.people[key]
            if other.is_up and (friend := other.daemon.client.friends.get(person.tox.key)):
                other.daemon.groups.on_invite(friend, chat_id + bytes(32), name)
        person.tox.invited.clear()

    def _enter_groups(self, person: Person) -> None:
        for group in person.daemon.groups:
            others = (other for other in self.people.values() if other is not person and other.is_up)
            there = any(group.id in {one.id for one in other.tox.groups.values()} for other in others)
            if group.state is RoomState.JOINING and there:
                person.daemon.groups.on_self_join(group.number)

    def _ask(self, person: Person, number: int, other: Person) -> None:
        if trio.current_time() < person.asked_at.get(number, 0.0):
            return
        person.asked_at[number] = trio.current_time() + ASK
        address, message = person.tox.asking[number]
        if address == other.tox.address and person.tox.key not in other.tox.told:
            other.tox.told.append(person.tox.key)
            other.daemon.client.friends.on_request(person.tox.key, message)

    def _set_connection(self, person: Person, other: Person, *, up: bool) -> None:
        friend = person.daemon.client.friends.get(other.tox.key)
        if friend is not None and friend.online != up:
            if up:
                person.tox.said = deque(one for one in person.tox.said if one[1] != friend.number)
            person.daemon.client.friends.on_connection(friend.number, UDP if up else NONE)
