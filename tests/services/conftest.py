"""A running poller, handlers that remember, and services on loopback to connect to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
import trio

from tunfwd.common.streams import DatagramFlow, Stream
from tunfwd.common.values import Reason
from tunfwd.services.poller import Poller

from ..tun.namespace import network_namespace

PATIENCE = 60.0  # s until what does not come is taken for lost, however busy the machine is


@dataclass
class Recorder:
    """A stream handler that reads all it can, up to `appetite` bytes, and notes every event in order."""

    appetite: int = 1 << 62
    events: list[str] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    failure: Reason | None = None
    _changed: trio.Event = field(default_factory=trio.Event)

    def _note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()

    def connected(self, stream: Stream) -> None:
        self._note("connected")

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        self.failure = failure
        self._note("connect_failed")

    def readable(self, stream: Stream) -> None:
        self.eat(stream)
        self._note("readable")

    def eat(self, stream: Stream) -> None:
        while room := min(self.appetite - len(self.received), 1 << 18):
            data = stream.read(room)
            self.received += data
            if not data:
                break

    def writable(self, stream: Stream) -> None:
        self._note("writable")

    def eof(self, stream: Stream) -> None:
        self._note("eof")

    def aborted(self, stream: Stream, reason: str) -> None:
        self._note(f"aborted: {reason}")

    def closed(self, stream: Stream) -> None:
        self._note("closed")

    async def until(self, condition: Callable[[], Any]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()

    async def until_event(self, start: str | tuple[str, ...]) -> None:
        await self.until(lambda: any(event.startswith(start) for event in self.events))


@dataclass
class DatagramRecorder:
    payloads: list[bytes] = field(default_factory=list)
    failures: list[Reason] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event)

    def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
        self.payloads.append(payload)
        self._note()

    def datagram_failed(self, flow: DatagramFlow, failure: Reason) -> None:
        self.failures.append(failure)
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, condition: Callable[[], Any]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()


@dataclass
class Resolver(trio.abc.HostnameResolver):
    """A name server of our own: the real one is not for tests to ask. What is no name fails as there."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    silence: trio.Event | None = None
    """If set, no answer before this event."""

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        assert host is not None
        name = host.decode()
        name.encode("idna")
        if "\0" in name:
            raise ValueError("embedded null character")
        if self.silence is not None:
            await self.silence.wait()
        if name not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            entry
            for address in self.addresses[name]
            for entry in socket.getaddrinfo(address, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        ]

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def resolver() -> Resolver:
    resolver = Resolver()
    trio.socket.set_custom_hostname_resolver(resolver)
    return resolver


@pytest.fixture
def namespace() -> Iterator[None]:
    with network_namespace():
        yield


@pytest.fixture
async def poller(nursery: trio.Nursery) -> Poller:
    poller = Poller()
    await nursery.start(poller.run)
    return poller


@dataclass
class Listener:
    socket: trio.socket.SocketType
    port: int
    accepted: list[trio.SocketStream] = field(default_factory=list)

    async def accept(self) -> trio.SocketStream:
        with trio.fail_after(PATIENCE):
            connection, _ = await self.socket.accept()
        self.accepted.append(trio.SocketStream(connection))
        return self.accepted[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        for service in self.accepted:
            service.socket.close()


async def listen(host: str = "127.0.0.1", backlog: int = 1024, port: int = 0) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = trio.socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind((host, port))
    listener.listen(backlog)
    return Listener(listener, listener.getsockname()[1])


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    with await listen() as listener:
        yield listener


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, on either loopback address, but a test that does so by its number."""
    with socket.socket(socket.AF_INET6) as holder:  # bound, not listening: nobody else is given it meanwhile
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("::", 0))
        yield int(holder.getsockname()[1])
