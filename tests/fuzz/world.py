"""A whole daemon between toxcore and the device, and everybody around it: who does what, the input decides.

    programs ─ kernel ─ device ─ THE DAEMON ─ toxcore ─ a friend who means well
                                     │               └─ friends and members of a group who do not
                                  a person

The kernel is a netstack of its own with the addresses swapped. After each step nothing may have escaped, all
bounds must hold, and what the well-meaning friend's stream carries is what was written into it. At the end
everybody else leaves, and nothing of them may be left.
"""

from __future__ import annotations

import logging
import socket
import weakref
from collections import deque
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface
from random import Random
from typing import Any

import trio
import trio.testing

from tunfwd import faults
from tunfwd.common.errors import UserError
from tunfwd.common.values import Reason
from tunfwd.daemon.commands.main import dispatcher
from tunfwd.daemon.datapath import inbound as serving
from tunfwd.daemon.datapath.engine import Engine
from tunfwd.daemon.peers import Peer
from tunfwd.netstack import Connection, Endpoint, Frame, HostState, Stack, events
from tunfwd.netstack.states import State
from tunfwd.netstack.types import Exhausted
from tunfwd.tox.binding.enums import Tox_Group_Exit_Type
from tunfwd.tox.binding.errors import raise_code
from tunfwd.tox.contacts import NONE, UDP, Contact, Friend, Member
from tunfwd.tox.friends import Friends
from tunfwd.tun.device import Offload, Statistics
from tunfwd.wire.carriers import FRIEND, GROUP
from tunfwd.wire.packets import Protocol

from ..daemon.simulated import Daemon, SimulatedTox, key_of
from ..forwarding.pair import Side
from ..netstack.lab import flatten
from .bounds import session_in_bounds, stack_in_bounds
from .choices import Choices
from .documents import WORDS
from .endpoints import DELAYS, Program
from .hostile import NAMES, PORTS, Hostile

GOOD = "good"
SERVED = 8080  # the port of the well-meaning friend's service
OWN, OWN6 = "10.77.0.1", "fd74:756e:6677::1"
EVIL = ("mallory", "trudy")
MEMBERS = ("sybil", "eve")
CATCH_UP = 300.0  # s of virtual time for the stream to arrive, once everybody else is quiet
STEPS = 400  # of one input, at most


class Tox(SimulatedTox):
    """toxcore with friends: what is sent goes to whoever plays the contact."""

    def __init__(self) -> None:
        super().__init__([])
        self.sent: deque[tuple[tuple[str, int], bytes]] = deque()
        self.full = False

    def friend_get_name(self, number: int) -> bytes:
        return f"friend {number}".encode()

    def friend_send_lossless_packet(self, number: int, data: bytes) -> None:
        assert len(data) <= 1373
        if self.full:
            raise_code("TOX_ERR_FRIEND_CUSTOM_PACKET", 7)
        self.sent.append((("friend", number), data))

    def friend_send_lossy_packet(self, number: int, data: bytes) -> None:
        assert len(data) <= 1373
        self.sent.append((("friend", number), data))

    def group_send_custom_private_packet(self, number: int, peer: int, lossless: bool, data: bytes) -> None:
        assert len(data) <= 1373
        self.sent.append((("member", peer), data))

    def group_send_custom_packet(self, number: int, lossless: bool, data: bytes) -> None:
        self.sent.append((("members", 0), data))

    def group_kick_peer(self, number: int, peer: int) -> None:
        del self.groups[number].peers[peer]

    def group_invite_friend(self, number: int, friend: int) -> None:
        raise_code("TOX_ERR_GROUP_INVITE_FRIEND", 3)

    def group_join(self, chat_id: bytes, name: bytes, password: bytes) -> int:
        raise_code("TOX_ERR_GROUP_JOIN", 2)


class Device:
    """The TUN device: what the kernel has for us, and what we have for it."""

    def __init__(self) -> None:
        self.name = "tunfwd0"
        self.mtu = 1500
        self.offload = Offload(0)
        self.statistics = Statistics()
        self.full = False
        self.arrived: deque[bytes] = deque()
        self.written: deque[bytes] = deque()
        # Ours is readable while something has arrived, and writable while the device is not full.
        self._ours, self._other = socket.socketpair()
        for end in (self._ours, self._other):
            end.setblocking(False)
            weakref.finalize(self, end.close)

    def fileno(self) -> int:
        return self._ours.fileno()

    def changed(self) -> None:
        """Tell whoever waits."""
        for end in (self._ours, self._other):
            with suppress(BlockingIOError):
                while end.recv(1 << 20):
                    pass
        with suppress(BlockingIOError):
            while self.full:
                self._ours.send(bytes(1 << 16))
        if self.arrived:
            self._other.send(b"x")

    def read(self) -> list[bytes]:
        frames = list(self.arrived)
        self.arrived.clear()
        self.changed()
        return frames

    def write(self, frame: Frame) -> bool:
        if not self.full:
            self.written.append(flatten(frame))
        return not self.full


class Disk:
    """The files of the daemon, which take everything."""

    async def save(self) -> None: ...

    async def warnings(self) -> list[str]:
        return []

    async def checks(self) -> list[Any]:
        return []


class Nodes:
    """The nodes by which the network is joined: there are none."""

    is_online = True

    def register(self, _dispatcher: object) -> None: ...

    def offline(self) -> None: ...

    async def checks(self) -> list[Any]:
        return []


class Reunion:
    """The DHT keys of friends, which nobody needs here."""

    def remember(self, friend: bytes, dht_key: bytes) -> None: ...

    def forget(self, friend: bytes) -> None: ...

    def meet(self) -> None: ...


class Health:
    """What `doctor` finds out from the kernel."""

    def checks(self) -> list[Any]:
        return []


class NoService:
    """An ordinary socket to a service, which nobody listens for: no packet leaves a fuzzer."""

    def __init__(self, _poller: object, _target: object, owner: Any, *_: object) -> None:
        self._owner = owner
        self._token = trio.lowlevel.current_trio_token()
        self._token.run_sync_soon(self._fail)
        self._over = False

    def _fail(self) -> None:
        if not self._over and hasattr(self._owner, "connect_failed"):
            self._owner.connect_failed(self, Reason.REFUSED)

    def send(self, payload: bytes) -> bool:
        return bool(payload)

    def close(self) -> None:
        self._over = True

    abort = close


class Overheard(logging.Handler):
    """Listens to the log: a traceback there is an escape, though the last wall caught it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        faults.tally.told.clear()  # or the traceback of a fault that was there before would be left out
        self.lines = 0
        self.failure: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        record.getMessage().encode()
        if record.exc_info and record.exc_info[1] is not None:
            self.failure = record.exc_info[1]


class World:
    """Everything, and the steps that an input can take."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.device = Device()
        self.tox = Tox()
        # No turn takes time, so that nothing depends on this machine.
        self.daemon = daemon = Daemon(tox=self.tox, device=self.device, clock=trio.current_time)
        self.client = self._client()
        self.engine: Engine = daemon.engine
        self.overheard = Overheard()
        self.good = Side(7, features=daemon.contacts._settings.features)
        self.hostile: dict[tuple[str, int], Hostile] = {}
        self.contacts: dict[tuple[str, int], Contact] = {}
        self.program = Program()
        self.kernel = Stack(
            (IPv4Interface("10.99.0.1/16"), IPv6Interface("fd99::1/48")),
            lambda _address: HostState.ONLINE,
            Random(3),
            1500,
        )
        self.connections: list[Connection] = []
        self.stream: Connection | None = None
        self.written = bytearray()
        self.echoed = bytearray()

    def _client(self) -> Any:
        daemon = self.daemon
        client: Any = daemon.client
        client.friends = Friends(self.tox, daemon.pacing, Reunion(), daemon.contacts, daemon._save)  # type: ignore[arg-type]
        client.address, client.name, client.connection = "A" * 76, "us", UDP
        client.public_key = client.dht_key = bytes(32)
        client.udp_port = 33445
        storage: Any = Disk()
        health: Any = Health()
        nodes: Any = Nodes()
        self.commands = dispatcher(daemon, storage, health, nodes)
        return client

    # --- the beginning --------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Bring up the well-meaning friend with a stream, and the others."""
        friend = self._befriend(GOOD)
        self.group = self.daemon.groups.create("lan", public=True)
        for name in EVIL:
            friend = self._befriend(name)
            self.hostile["friend", friend.number] = Hostile(FRIEND)
        for number, name in enumerate(MEMBERS):
            self._join(number, name)
        self.good.session.offer(Protocol.TCP, SERVED, "served", trio.current_time())
        await self._soon()
        await self._command("offer.accept", offer="served", contact=GOOD)
        await self._command("offer.add", protocol="tcp", port=80, to=["mallory"], name="ours", source="peer")
        await self._command("offer.add", protocol="udp", port=53, to=["group:lan"], name="dns", source="peer")
        peer = self.daemon.peers.find(GOOD)
        assert peer.address is not None
        mine, theirs = Endpoint(_packed(OWN), 0), Endpoint(peer.address.packed, SERVED)
        self.stream = self.kernel.connect(mine, theirs, trio.current_time())
        await self._soon()
        assert self.stream.state is State.ESTABLISHED

    async def _soon(self) -> None:
        """Let a few round trips go by."""
        for _ in range(10):
            await self.settle()
            await trio.sleep(0.005)

    def _befriend(self, name: str) -> Friend:
        friend: Friend = self.client.friends.add_key(key_of(name))
        self.contacts["friend", friend.number] = friend
        self.daemon.contacts.added(friend, name)
        self.client.friends.on_connection(friend.number, UDP)
        if name == GOOD:
            self.good.session.online(trio.current_time())
        return friend

    def _join(self, number: int, name: str) -> None:
        self.tox.groups[self.group.number].peers[number] = (key_of(name), name)
        self.daemon.groups.on_peer_join(self.group.number, number)
        self.contacts["member", number] = self.group.by_peer[number]
        self.hostile.setdefault(("member", number), Hostile(GROUP))

    # --- what happens by itself -----------------------------------------------------------------------------

    async def settle(self, most: int = 200) -> None:
        """Let everything happen that needs no time."""
        for _ in range(most):
            self.daemon.contacts.iterated()
            await trio.testing.wait_all_tasks_blocked()
            if not self._carry_packets() | self._carry_frames():
                return

    def _carry_packets(self) -> bool:
        now = trio.current_time()
        sent, self.tox.sent = self.tox.sent, deque()
        for (kind, number), data in sent:
            if (kind, number) == ("friend", 0):
                self._to_good(data, now)
            elif kind == "members":
                for (place, _), hostile in self.hostile.items():
                    if place == "member":
                        hostile.heard(data)
            elif (kind, number) in self.hostile:
                self.hostile[kind, number].heard(data)
        side = self.good
        side.drain(now)
        answers = list(side.session.lossy_to_send(now))
        for packet in answers:
            self.client.friends.on_lossy(0, packet)
        while (lossless := side.session.next_packet()) is not None:
            answers.append(lossless)
            self.client.friends.on_lossless(0, lossless)
        timeout = side.session.next_timeout()
        if timeout is not None and timeout <= now:
            side.session.handle_timeout(now)
        self._echo(now)
        return bool(sent or answers)

    def _to_good(self, data: bytes, now: float) -> None:
        receive = self.good.session.receive_lossless if data[0] == 0xA7 else self.good.session.receive_lossy
        receive(data, now)

    def _echo(self, now: float) -> None:
        """The well-meaning friend's service sends back what it got."""
        for flow, got in self.good.got.items():
            del got[: flow.write(bytes(got))]

    def _carry_frames(self) -> bool:
        now = trio.current_time()
        written, self.device.written = self.device.written, deque()
        for frame in written:
            self.program.hear(frame)
        self.kernel.receive(written, now)
        timeout = self.kernel.next_timeout()
        if timeout is not None and timeout <= now:
            self.kernel.handle_timeout(now)
        while (event := self.kernel.next_event()) is not None:
            self._on_kernel(event)
        frames = [flatten(frame) for frame in self.kernel.packets_to_send(now)]
        self.device.arrived.extend(frames)
        if frames:
            self.device.changed()
        return bool(written or frames)

    def _on_kernel(self, event: events.Event) -> None:
        match event:
            case events.Incoming(connection):
                connection.accept()
                self.connections.append(connection)
            case events.Datagram() if len(event.payload) % 2:
                self.kernel.send_datagram(event.destination, event.source, bytes(event.payload))
            case events.Datagram():
                self.kernel.port_unreachable(event)
            case events.Readable(connection) if connection is self.stream:
                self.echoed += connection.read(1 << 20)
            case events.Aborted(connection) | events.Closed(connection) | events.Eof(connection):
                assert connection is not self.stream, event

    # --- what somebody does ---------------------------------------------------------------------------------

    async def step(self) -> None:
        """One thing, by whoever's turn it is."""
        choices = self.choices
        match choices.below(12):
            case 0 | 1 | 2 | 3 | 4:
                self._hostile_step()
            case 5:
                self._comes_or_goes()
            case 6 | 7:
                self._program_step()
            case 8 | 9:
                await self._person_step()
            case 10:
                await trio.sleep(choices.one_of(DELAYS))
            case 11:
                self.device.full = choices.yes(4)
                self.tox.full = choices.yes(4)
                self.device.changed()
        self._write_stream(choices.below(2) * choices.below(5000))

    def _hostile_step(self) -> None:
        place = self.choices.one_of(list(self.hostile))
        kind, number = place
        for _ in range(1 + self.choices.below(3)):
            for way, packet in self.hostile[place].say(self.choices):
                if kind == "friend":
                    if number in self.tox.keys and self.contacts[place].online:
                        friends = self.client.friends
                        receive = friends.on_lossy if way == "lossy" else friends.on_lossless
                        receive(number, packet)
                elif number in self.tox.groups[self.group.number].peers:
                    groups = self.daemon.groups
                    receive = groups.on_public if way == "public" else groups.on_private
                    receive(self.group.number, number, packet)

    def _comes_or_goes(self) -> None:
        choices = self.choices
        place = choices.one_of(list(self.hostile))
        kind, number = place
        contact = self.contacts[place]
        peers = self.tox.groups[self.group.number].peers
        if kind == "friend":
            if number in self.tox.keys and choices.below(4):
                self.client.friends.on_connection(number, NONE if contact.online else UDP)
            elif number in self.tox.keys:
                self.client.friends.on_name(number, choices.one_of((*NAMES, *WORDS)).encode()[:128])
        elif number not in peers:
            self._join(number, MEMBERS[number % len(MEMBERS)])
        elif choices.below(3):
            del peers[number]
            why = choices.one_of(list(Tox_Group_Exit_Type))
            self.daemon.groups.on_peer_exit(self.group.number, number, why)
        else:
            name = choices.one_of((*NAMES, *WORDS)).encode()[:128]
            self.daemon.groups.on_peer_name(self.group.number, number, name)

    def _program_step(self) -> None:
        """A program of this machine, or whoever else can send frames to the device."""
        choices, now = self.choices, trio.current_time()
        someone: Peer = choices.one_of(list(self.daemon.peers))
        assert someone.address is not None
        remote = Endpoint(someone.address.packed, choices.one_of((80, 22, 53, SERVED, 65535, 49152)))
        match choices.below(6):
            case 0 | 1:
                with suppress(Exhausted):
                    connection = self.kernel.connect(Endpoint(_packed(OWN), 0), remote, now)
                    self.connections.append(connection)
            case 2:
                local = Endpoint(_packed(OWN), 5000 + choices.below(4))
                self.kernel.send_datagram(local, remote, choices.payload(3000))
            case 3:
                self.device.arrived.append(self.program.frame(choices))
                self.device.changed()
            case _:
                del self.connections[:-8]
                if self.connections:
                    self._on_connection(choices.one_of(self.connections[::-1]))

    def _on_connection(self, connection: Connection) -> None:
        match self.choices.below(5):
            case 0 | 1:
                if not connection._send.closing:
                    connection.write(self.choices.payload(20_000))
            case 2:
                connection.read(1 << self.choices.below(20))
            case 3:
                connection.shutdown()
            case 4:
                connection.abort()

    async def _person_step(self) -> None:
        choices = self.choices
        others = [peer.label for peer in self.daemon.peers if peer.name != GOOD]
        who = choices.one_of([*others, "group:lan", "nobody"])
        ids = [f"{m.msg_id:08x}" for p in self.daemon.peers if p.name != GOOD for m in p.session.mappings]
        what = choices.one_of([*ids[-16:], "web"])
        port, protocol = choices.one_of(PORTS), choices.one_of(("tcp", "udp"))
        match choices.below(10):
            case 0 | 1 | 2:
                await self._command("offer.accept", offer=what, contact=choices.one_of((who, None)))
            case 3:
                await self._command("offer.deny", offer=what)
            case 4:
                await self._command("kill", id=what, contact=choices.one_of((who, None)))
            case 5:
                offer = {"protocol": protocol, "port": port, "to": [who], "source": "peer"}
                await self._command("offer.add", **offer)
            case 6:
                local = choices.one_of((None, 80, 22))
                await self._command("request", protocol=protocol, port=port, contact=who, local_port=local)
            case 7:
                # Not "doctor": it asks the kernel in a thread, over which the clock would jump.
                for method in ("status", "ports", "offer.list", "friend.list", "group.list"):
                    await self._command(method)
            case 8:
                await self._command("ping", name=who, timeout=1.0)
            case 9:
                if choices.yes(3) and who != "group:lan":
                    await self._command("friend.remove", name=who)
                elif choices.yes(3):
                    await self._command("group.kick", group="lan", member=who)

    async def _command(self, method: str, **params: object) -> None:
        given = {name: value for name, value in params.items() if value is not None}
        with suppress(UserError):
            await self.commands(method, given)

    def _write_stream(self, size: int) -> None:
        assert self.stream is not None
        data = bytes((len(self.written) + at) % 251 for at in range(size))
        self.written += data[: self.stream.write(data)]

    # --- what must hold -------------------------------------------------------------------------------------

    def check(self) -> None:
        """After each step."""
        if self.overheard.failure is not None:
            raise self.overheard.failure
        for peer in self.daemon.peers:
            session_in_bounds(peer.session)
        stack_in_bounds(self.engine._stack)
        assert self.written.startswith(self.echoed)
        assert self.stream is not None
        assert self.stream.state is State.ESTABLISHED

    async def finish(self) -> None:
        """The stream arrives whole; then all leave, and nothing is left."""
        self.device.full = self.tox.full = False
        self.device.changed()
        for contact in self.contacts.values():
            self._leave(contact)
        ends = trio.current_time() + CATCH_UP
        while len(self.echoed) < len(self.written) and trio.current_time() < ends:
            await self.settle()
            await trio.sleep(0.01 if trio.current_time() < ends - CATCH_UP + 5 else 1.0)
        assert self.echoed == self.written
        self.check()
        for connection in self.connections:
            connection.abort()
        for _ in range(3):
            await self.settle()
            await trio.sleep(CATCH_UP)
        await self.settle()
        self.check()
        others = [peer for peer in self.daemon.peers if peer.name != GOOD]
        mappings = [mapping for peer in others for mapping in peer.session.mappings]
        left = [flow for mapping in mappings for flow in mapping.flows if flow.end is not None]
        assert not left, left
        assert len(self.daemon.connections) == 1
        assert not self.engine._inbound._datagrams
        assert self.engine._stack.statistics().connections == 1

    def _leave(self, contact: Contact) -> None:
        if isinstance(contact, Member):
            peers = self.tox.groups[self.group.number].peers
            if contact.peer_id is not None and contact.peer_id in peers:
                number = contact.peer_id
                del peers[number]
                why = Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT
                self.daemon.groups.on_peer_exit(self.group.number, number, why)
        elif isinstance(contact, Friend) and contact.number != 0 and contact.number in self.tox.keys:
            self.client.friends.remove(contact)


def _packed(address: str) -> bytes:
    return IPv4Interface(address).ip.packed


def whole_daemon(data: bytes) -> None:
    """The target: as many steps as the input has."""
    with _Deterministic():
        trio.run(_live, data, clock=trio.testing.MockClock(autojump_threshold=0))


async def _live(data: bytes) -> None:
    choices = Choices(data)
    world = World(choices)
    logger = logging.getLogger("tunfwd")
    logger.addHandler(world.overheard)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(world.daemon.datapath.loop.run)
            await nursery.start(world.engine.run)
            await world.begin()
            for _ in range(STEPS):
                if not choices:
                    break
                await world.step()
                await world.settle()
                world.check()
            await world.finish()
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(world.overheard)


# Both are changed from outside.
SCHEDULER: Any = trio._core._run
SERVING: Any = serving


class _Deterministic:
    """Tasks in the same order each time, and no ordinary sockets."""

    def __enter__(self) -> None:
        SCHEDULER._ALLOW_DETERMINISTIC_SCHEDULING = True
        SCHEDULER._r.seed(1)
        self._sockets = SERVING.ServiceStream, SERVING.ServiceFlow
        SERVING.ServiceStream = SERVING.ServiceFlow = NoService

    def __exit__(self, *_: object) -> None:
        SERVING.ServiceStream, SERVING.ServiceFlow = self._sockets
        SCHEDULER._ALLOW_DETERMINISTIC_SCHEDULING = False


def questions(data: bytes) -> None:
    """A message to the resolver of names: answered or not, as whom it came from can tell."""
    from tests.daemon.simulated import Daemon  # noqa: PLC0415  whose toxcore is made when it is needed

    resolver = Daemon().resolver
    assert resolver is not None
    for stream in (False, True):
        for message in (data, b"\0\1\1\0\0\1\0\0\0\0\0\0" + data):
            answer = resolver.answer(message, stream=stream)
            assert answer is None or (answer[:2] == message[:2] and answer[2] & 0x80)
            assert answer is None or stream or len(answer) <= 1232
