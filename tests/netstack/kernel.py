"""The stack behind a real TUN device, with small services on its virtual hosts, in a thread of its own.

What passes between device and stack can be lost, repeated and reordered on the way.
"""

from __future__ import annotations

import hashlib
import os
import queue
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tunfwd.netstack import Connection, Endpoint, Frame, HostState, Stack
from tunfwd.netstack import events as ev
from tunfwd.netstack.states import State
from tunfwd.tun.device import Device, Offload

from ..tun.namespace import ip, network_namespace
from .lab import OFFLINE, OWN, OWN4, OWN6, UNKNOWN, flatten

T = TypeVar("T")

TIME = 30.0  # s at most
ECHO, DISCARD, SOURCE = 7, 9, 19
REFUSED, UNREACHABLE, IGNORED, ABORTING, STALLED = 101, 102, 103, 104, 105
SMALL_PATH = 111  # UDP: too big for it, above 1000 bytes
MEGABYTE = random.Random(0).randbytes(1 << 20)


def host_state(address: bytes) -> HostState:
    return {OFFLINE: HostState.OFFLINE, UNKNOWN: HostState.UNKNOWN}.get(address, HostState.ONLINE)


def _space(connection: Connection) -> int:
    """Bytes that a write would take now."""
    return 0 if connection.state is State.CLOSED else connection._send.space


@dataclass
class Weather:
    """Chances for each frame, either way."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0

    def befall(self, frames: list[bytes], chance: random.Random) -> list[bytes]:
        arrived: list[bytes] = []
        for frame in frames:
            if chance.random() < self.loss:
                continue
            arrived.append(frame)
            if chance.random() < self.duplication:
                arrived.append(frame)
            if len(arrived) > 1 and chance.random() < self.reordering:
                arrived.insert(-chance.randrange(1, min(5, len(arrived))), arrived.pop())
        return arrived


@dataclass
class Talk:
    """One connection and what its service has done."""

    connection: Connection
    port: int
    to_send: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    received: int = 0
    backlog: bytes = b""
    log: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


class Machine:
    """A TUN device and the stack behind it."""

    def __init__(self, device: Device, weather: Weather | None, mtu: int) -> None:
        self.device = device
        self.weather = weather
        self.chance = random.Random(1)
        self.stack = Stack(
            OWN, host_state, random.Random(), mtu, udp_segmentation=Offload.USO4 in device.offload
        )
        self.talks: dict[Connection, Talk] = {}
        self._finished: dict[int, Talk] = {}  # by the program's port
        self.refused: list[ev.DatagramRefused] = []
        self.datagrams = 0
        self.failure: BaseException | None = None
        self.cpu = 0.0
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(10)
        os.close(self._wake)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def call(self, function: Callable[[], T]) -> T:
        """Run something where the stack is."""
        done: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._calls.put(lambda: done.put(function()))
        os.eventfd_write(self._wake, 1)
        return done.get(timeout=TIME)

    def connect(self, local: Endpoint, remote: Endpoint, service: int, timeout: float = TIME) -> Talk:
        """Connect from a virtual host, and serve the connection as if it had come to the port `service`."""

        def begin() -> Talk:
            connection = self.stack.connect(local, remote, time.monotonic(), timeout)
            talk = self.talks[connection] = Talk(connection, service, 50 * len(MEGABYTE))
            return talk

        return self.call(begin)

    def finished(self, port: int) -> Talk:
        """What became of a connection from a program's port, once it is over."""
        deadline = time.monotonic() + TIME
        while port not in self._finished and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._finished.pop(port)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self.failure = error

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self.device.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        stack, device = self.stack, self.device
        unwritten: list[Frame] = []
        while not self._stopping:
            self.cpu = time.thread_time()
            deadline = stack.next_timeout()
            pause = 1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))
            for descriptor, _ in poll.poll(0 if unwritten else pause * 1000):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
            now = time.monotonic()
            stack.handle_timeout(now)
            stack.receive(self._befall(device.read()), now)
            while not self._calls.empty():
                self._calls.get()()
            while (event := stack.next_event()) is not None:
                self._handle(event)
            unwritten += self._befall_out(stack.packets_to_send(now)) if not unwritten else []
            while unwritten and device.write(unwritten[0]):
                del unwritten[0]

    def _befall(self, frames: list[bytes]) -> list[bytes]:
        return frames if self.weather is None else self.weather.befall(frames, self.chance)

    def _befall_out(self, frames: list[Frame]) -> list[Frame]:
        if self.weather is None:
            return frames
        return [[frame] for frame in self.weather.befall([flatten(frame) for frame in frames], self.chance)]

    def _handle(self, event: ev.Event) -> None:
        match event:
            case ev.Incoming(connection):
                self._incoming(connection)
            case ev.Connected(connection):
                talk = self.talks[connection]
                talk.log.append("Connected")
                self._fill(talk)
            case ev.Readable(connection):
                self._read(self.talks[connection])
            case ev.Writable(connection):
                self._fill(self.talks[connection])
                self._read(self.talks[connection])
            case ev.Eof(connection):
                self.talks[connection].log.append("Eof")
                if not self.talks[connection].backlog:
                    connection.shutdown()
            case ev.Closed(connection):
                self._end(connection, "Closed")
            case ev.Aborted(connection, reason):
                self._end(connection, reason.name)
            case ev.ConnectFailed(connection, reason):
                self._end(connection, reason.name)
            case ev.Datagram():
                self._datagram(event)
            case ev.DatagramRefused():
                self.refused.append(event)
            case ev.EchoRequest():
                self.stack.answer_echo(event)

    def _incoming(self, connection: Connection) -> None:
        match connection.local.port:
            case 101:
                connection.refuse()
            case 102:
                connection.unreachable()
            case 103:
                pass
            case port:
                self.talks[connection] = Talk(connection, port, 50 * len(MEGABYTE))
                connection.accept()

    def _read(self, talk: Talk) -> None:
        if talk.port == STALLED:
            return
        limit = (1 << 17) if talk.port != ECHO else _space(talk.connection)
        while limit and (data := talk.connection.read(limit)):
            talk.received += len(data)
            if talk.port == DISCARD:
                talk.digest.update(data)
            elif talk.port == ECHO:
                assert talk.connection.write(data) == len(data)
                limit = _space(talk.connection)
            elif talk.port == ABORTING:
                talk.connection.abort()
                self._end(talk.connection, "aborted")
                return
        if talk.port == ECHO and not limit:
            talk.connection.write(b"x")  # short, so that Writable follows

    def _fill(self, talk: Talk) -> None:
        while talk.port == SOURCE and talk.to_send:
            offset = -talk.to_send % len(MEGABYTE)
            accepted = talk.connection.write(memoryview(MEGABYTE)[offset : offset + talk.to_send])
            talk.to_send -= accepted
            if not talk.to_send:
                talk.connection.shutdown()
            elif offset + accepted < len(MEGABYTE):
                return

    def _end(self, connection: Connection, how: str) -> None:
        talk = self.talks.pop(connection, None)
        if talk is not None:
            talk.log.append(how)
            self._finished[connection.remote.port] = talk
            talk.over.set()

    def _datagram(self, event: ev.Datagram) -> None:
        self.datagrams += 1
        match event.destination.port:
            case 7:
                self.stack.send_datagram(event.destination, event.source, bytes(event.payload))
            case 111 if len(event.payload) > 1000:
                self.stack.too_big(event, 1000)
            case 101:
                self.stack.port_unreachable(event)
            case 102:
                self.stack.host_unreachable(event)


@contextmanager
def machine(weather: Weather | None = None, mtu: int = 1500) -> Iterator[Machine]:
    """In a network namespace of its own, in which this thread is until the end."""
    with network_namespace():
        device = Device.open("tun0", mtu)
        try:
            ip("addr", "add", f"{OWN[0]}", "dev", "tun0")
            ip("addr", "add", f"{OWN[1]}", "dev", "tun0", "nodad")
            ip("link", "set", "tun0", "txqueuelen", "10000", "up")
            made = Machine(device, weather, mtu)
            made.start()
            try:
                yield made
            finally:
                made.stop()
        finally:
            device.close()


def own(address: str) -> bytes:
    """Our own address of the family of another."""
    return OWN6 if ":" in address else OWN4
