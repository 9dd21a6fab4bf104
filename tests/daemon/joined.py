"""Two simulated daemons that are each other's friend, each with a kernel of its own, on trio's clock.

What one says to toxcore the other hears. The kernel is a netstack too: from its side each virtual host is a
program, and a program here is a connection of the kernel's stack.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Interface, IPv6Interface
from random import Random
from typing import Any, Self

import trio

from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import Settings
from tunfwd.netstack import Connection, Endpoint, HostState, Stack
from tunfwd.netstack import events as stack_events
from tunfwd.tun.device import Offload, Statistics
from tunfwd.wire.packets import Protocol

from .simulated import Daemon

OWN = IPv4Interface("10.77.0.1/16").ip.packed
KERNEL = (IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))  # nobody speaks from these


class Signal:
    """A descriptor that is readable when it is told to be."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def set(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)


class Program:
    """One end of a TCP connection in a kernel: reads all, unless it is told not to."""

    def __init__(self, kernel: Kernel, connection: Connection, *, reads: bool = True) -> None:
        self.connection = connection
        self.reads = reads
        self.read = bytearray()
        self.said: list[str] = []
        self._kernel = kernel

    def hear(self, event: stack_events.Event) -> None:
        self.said.append(type(event).__name__)
        if isinstance(event, stack_events.Readable) and self.reads:
            self.read += self.connection.read(1 << 30)
        if isinstance(event, stack_events.ConnectFailed):
            self.said.append(event.reason.words)
        if isinstance(event, stack_events.Aborted):
            self.said.append(event.reason.value)

    def write(self, data: bytes) -> None:
        assert self.connection.write(data) == len(data)
        self._kernel.wake()

    def shutdown(self) -> None:
        self.connection.shutdown()
        self._kernel.wake()

    @property
    def over(self) -> bool:
        return self.connection not in self._kernel.programs

    def exit(self) -> None:
        if not self.over:
            self.abort()

    def abort(self) -> None:
        self.connection.abort()
        self._kernel.programs.pop(self.connection, None)
        self._kernel.wake()


class Kernel:
    """A host's kernel and its programs, behind the daemon's TUN device, which it also plays."""

    name = "tunfwd0"
    mtu = 1500
    offload = Offload(0)

    def __init__(self, seed: int) -> None:
        self.statistics = Statistics()
        self.stack = Stack(KERNEL, lambda address: HostState.ONLINE, Random(seed))
        self.listening: dict[int, Callable[[Program], object]] = {}
        self.programs: dict[Connection, Program] = {}
        self.accepted: list[Program] = []
        self.datagrams: list[stack_events.Datagram] = []
        self.refused: list[stack_events.DatagramRefused] = []
        self.answer: Callable[[stack_events.Datagram], bytes | None] = lambda event: None
        self.next_port = 40000
        self._to_daemon: deque[bytes] = deque()
        self._signal = Signal()
        self._woken = trio.Event()

    # The device, as the daemon's engine sees it.

    def fileno(self) -> int:
        return self._signal.fileno()

    def read(self) -> list[bytes]:
        self._signal.clear()
        frames = list(self._to_daemon)
        self._to_daemon.clear()
        return frames

    def write(self, frame: list[Any]) -> bool:
        self.stack.receive([b"".join(frame)], trio.current_time())
        self.wake()
        return True

    # The kernel's own work.

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            now = trio.current_time()
            self.stack.handle_timeout(now)
            while (event := self.stack.next_event()) is not None:
                self._hear(event)
            for frame in self.stack.packets_to_send(now):
                self._to_daemon.append(b"".join(frame))
                self._signal.set()
            due = self.stack.next_timeout()
            self._woken = trio.Event()
            with trio.move_on_at(float("inf") if due is None else due):
                await self._woken.wait()

    def _hear(self, event: stack_events.Event) -> None:
        match event:
            case stack_events.Incoming(connection):
                serve = self.listening.get(connection.local.port)
                if serve is None:
                    connection.refuse()
                    return
                program = self.programs[connection] = Program(self, connection)
                connection.accept()
                self.accepted.append(program)
                serve(program)
            case stack_events.Datagram():
                self.datagrams.append(event)
                answer = self.answer(event)
                if answer is not None:
                    self.stack.send_datagram(event.destination, event.source, answer)
            case stack_events.DatagramRefused():
                self.refused.append(event)
            case stack_events.EchoRequest() | stack_events.Broadcast():
                pass
            case _:
                assert event.connection is not None
                program = self.programs[event.connection]
                program.hear(event)
                if isinstance(event, stack_events.Closed | stack_events.Aborted | stack_events.ConnectFailed):
                    del self.programs[event.connection]

    # What programs do.

    def connect(self, address: bytes, port: int, *, reads: bool = True) -> Program:
        self.next_port += 1
        local = Endpoint(OWN, self.next_port)
        connection = self.stack.connect(local, Endpoint(address, port), trio.current_time())
        program = self.programs[connection] = Program(self, connection, reads=reads)
        self.wake()
        return program

    def send(self, source_port: int, address: bytes, port: int, payload: bytes) -> None:
        self.stack.send_datagram(Endpoint(OWN, source_port), Endpoint(address, port), payload)
        self.wake()


class Host:
    """A daemon and its kernel."""

    def __init__(self, seed: int, settings: Settings | None, *, rootless: bool = False) -> None:
        self.kernel = Kernel(seed)
        self.daemon = Daemon(
            rules=(Rule(Action.ACCEPT),),
            seed=seed,
            device=self.kernel,
            rootless=rootless,
            settings=settings,
            clock=trio.current_time,  # a turn takes no time, however loaded the machine is
        )
        self.filled = trio.Event()

    def befriend(self, name: str) -> Peer:
        self.daemon.tox.on_said = lambda: self.filled.set()  # noqa: PLW0108 - it is replaced
        return self.daemon.befriend(name)

    async def carry(self, other: Host, peer: Peer) -> None:
        """Hand what the other says to this one."""
        said = other.daemon.tox.said
        while True:
            await other.filled.wait()
            other.filled = trio.Event()
            while said:
                lossless, _, packet = said.popleft()
                (self.daemon.engine.lossless if lossless else self.daemon.engine.lossy)(peer, packet)
            self.daemon.engine.iterated()
            await trio.lowlevel.checkpoint()


class Joined:
    """`using` reaches what `serving` offers."""

    def __init__(self, settings: Settings | None = None, *, rootless: bool = False) -> None:
        """`rootless`: by sockets of this machine, whose kernel is not simulated, and on its clock."""
        self.using = Host(1, settings, rootless=rootless)
        self.serving = Host(2, settings, rootless=rootless)

    @classmethod
    @asynccontextmanager
    async def running(
        cls, settings: Settings | None = None, *, rootless: bool = False
    ) -> AsyncIterator[Self]:
        joined = cls(settings, rootless=rootless)
        using, serving = joined.using, joined.serving
        async with trio.open_nursery() as nursery:
            for host in (using, serving):
                await nursery.start(host.daemon.poller.run)
                await nursery.start(host.daemon.engine.run)
                nursery.start_soon(host.kernel.run)
            joined.server = using.befriend("server")
            joined.user = serving.befriend("user")
            nursery.start_soon(using.carry, serving, joined.server)
            nursery.start_soon(serving.carry, using, joined.user)
            yield joined
            nursery.cancel_scope.cancel()

    server: Peer
    """Whom the using daemon knows as the server."""
    user: Peer

    async def offer(self, protocol: Protocol, port: int, source: str = "peer") -> Mapping:
        offers: Any = self.serving.daemon.offers
        mapping: Mapping = offers.offer(self.user, protocol, port, f"port {port}", None, source)
        self.serving.daemon.scheduler.touch(self.user)
        await trio.sleep(0.5)
        with trio.fail_after(60):  # of a busy machine, where the clock is not the test's
            while (protocol, port) not in self.server.ports:  # noqa: ASYNC110  there is no event for it
                await trio.sleep(0.1)
        return mapping

    @property
    def address(self) -> bytes:
        assert self.server.address is not None
        return self.server.address.packed
