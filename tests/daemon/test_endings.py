"""However a connection ends, nothing refers to it afterwards: two daemons, and the collector off."""

from __future__ import annotations

import gc
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Protocol as Protocol_

import pytest
import trio
import trio.testing

from tunfwd.daemon.datapath.inbound import InboundDatagrams
from tunfwd.daemon.datapath.outbound import OutboundDatagrams
from tunfwd.daemon.datapath.relay import StreamRelay
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.flow_table import Limits
from tunfwd.forwarding.linked import LinkChannel
from tunfwd.forwarding.lossless import LosslessChannel
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Settings
from tunfwd.link.receive import ReceiveStream
from tunfwd.link.send import SendStream
from tunfwd.netstack import Connection
from tunfwd.services.datagrams import ServiceFlow
from tunfwd.services.streams import ServiceStream
from tunfwd.wire.packets import Feature, Protocol

from .joined import Joined, Program

AFTER = 5.0  # s until TIME_WAIT is over and all that was sent is acknowledged
PARTS = (
    Connection,
    StreamRelay,
    OutboundDatagrams,
    InboundDatagrams,
    Flow,
    LinkChannel,
    LosslessChannel,
    ServiceStream,
    ServiceFlow,
)
CARRIERS = {"link": FEATURES, "carriers": CARRIER_FEATURES, "plain": Feature(0)}


class Served(Protocol_):
    """The far end of a connection."""

    reads: bool

    @property
    def read(self) -> bytes | bytearray: ...
    def write(self, data: bytes) -> None: ...
    def shutdown(self) -> None: ...
    def abort(self) -> None: ...
    def exit(self) -> None: ...


class SocketService:
    """A service's end of a connection that came from an ordinary socket."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._socket.setblocking(False)
        self.reads = True

    @property
    def read(self) -> bytes:
        return self._socket.recv(1 << 20)

    def write(self, data: bytes) -> None:
        self._socket.send(data)

    def shutdown(self) -> None:
        if self.reads:
            with suppress(BlockingIOError):
                self._socket.recv(1 << 20)
        self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def exit(self) -> None:
        self._socket.close()

    __del__ = exit


Connect = Callable[[], Awaitable[tuple[Program, Served]]]


@pytest.fixture(autouse=True, scope="module")
def others_aside() -> Iterator[None]:
    """What other tests left in this process is not looked at, which would take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextmanager
def collector_off() -> Iterator[None]:
    """Meanwhile nothing may come to be that only the collector would find, in the whole process."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() == 0
    finally:
        gc.enable()


def parts() -> Counter[str]:
    """What there is of connections in this process, of both daemons and both kernels."""
    found = Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, PARTS))
    found.update(
        type(o).__name__ for o in gc.get_objects() if isinstance(o, SendStream | ReceiveStream) and o.id
    )
    return found


@pytest.fixture(params=CARRIERS)
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(CARRIERS[request.param])


# Ways to end. Each is given a program that is connected, and the one that serves it.

Ending = Callable[[Program, Served], Awaitable[None]]


async def orderly(client: Program, server: Served) -> None:
    client.write(b"question")
    await trio.sleep(0.1)
    server.write(b"answer")
    await trio.sleep(0.1)
    client.shutdown()
    await trio.sleep(0.1)
    server.shutdown()


async def closed_with_the_answer(client: Program, server: Served) -> None:
    client.write(b"question")
    await trio.sleep(0.1)
    server.write(b"answer" * 10_000)
    server.shutdown()
    await trio.sleep(0.1)
    client.shutdown()


async def closed_unread(client: Program, server: Served) -> None:
    client.reads = False
    server.write(b"answer" * 100_000)
    await trio.sleep(0.1)
    client.abort()


async def reset_by_the_client(client: Program, server: Served) -> None:
    client.write(b"question" * 10_000)
    client.abort()


async def reset_by_the_service(client: Program, server: Served) -> None:
    server.reads = False
    client.write(b"question" * 100_000)
    await trio.sleep(0.1)
    server.abort()


async def read_after_the_end(client: Program, server: Served) -> None:
    """The window updates of a program that shut its sending side long ago come in TIME_WAIT."""
    client.reads = False
    client.shutdown()
    await trio.sleep(0.1)
    server.write(b"answer" * 50_000)
    server.shutdown()
    await trio.sleep(0.3)
    client.read += client.connection.read(1 << 30)
    client._kernel.wake()


async def data_for_one_who_has_gone(client: Program, server: Served) -> None:
    """Each side still sends when the other has ended both directions."""
    server.shutdown()
    server.reads = False
    await trio.sleep(0.1)
    client.write(b"anybody there?")
    server.abort()
    await trio.sleep(0.1)


ENDINGS: list[Ending] = [
    orderly,
    closed_with_the_answer,
    closed_unread,
    reset_by_the_client,
    reset_by_the_service,
    read_after_the_end,
    data_for_one_who_has_gone,
]


def tables(joined: Joined) -> Counter[str]:
    found: Counter[str] = Counter()
    for host in (joined.using, joined.serving):
        daemon = host.daemon
        mappings = [mapping for peer in daemon.peers for mapping in peer.session.mappings]
        found["ends"] += sum(flow.end is not None for mapping in mappings for flow in mapping.flows)
        found["connections"] += len(daemon.connections)
        found["datagrams"] += len(daemon.engine._inbound._datagrams)
    return found


@asynccontextmanager
async def serving(settings: Settings, source: str) -> AsyncIterator[tuple[Joined, Connect]]:
    """Two daemons, and how to have a connection between a program and a service of the kind."""
    async with Joined.running(settings) as joined:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            kernel = joined.serving.kernel
            port = listener.getsockname()[1]
            kernel.listening[port] = lambda program: None
            await joined.offer(Protocol.TCP, port, source)

            async def connect() -> tuple[Program, Served]:
                client = joined.using.kernel.connect(joined.address, port)
                await trio.sleep(0.3)
                if source == "host":
                    return client, SocketService(listener.accept()[0])
                return client, kernel.accepted.pop()

            yield joined, connect


@pytest.mark.parametrize("source", ["peer", "host"])
@pytest.mark.parametrize("end", ENDINGS)
async def test_nothing_is_kept_of_what_is_over(
    end: Ending, source: str, settings: Settings, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(settings, source) as (joined, connect):
        if settings.features:  # a plain contact has one connection at a time
            standing = await connect()
        with collector_off():
            before, tables_before = parts(), tables(joined)
            for _ in range(3):
                client, server = await connect()
                await end(client, server)
                await trio.sleep(AFTER)
                if not settings.features:  # v0.1 has no reset: the program hears of an end, and ends
                    client.exit()
                    server.exit()
                    await trio.sleep(AFTER)
                assert client.over
                del client, server
            assert parts() - before == Counter()
            assert tables(joined) - tables_before == Counter()
        if settings.features:
            standing[0].write(b"still here")
            await trio.sleep(0.3)
            assert standing[1].read == b"still here"


@pytest.mark.parametrize("source", ["peer", "host"])
async def test_nothing_is_kept_of_what_never_came_to_be(
    source: str, settings: Settings, autojump_clock: trio.testing.MockClock
) -> None:
    """Refused; given up by the program before there is an answer; and everybody leaves in the midst of it."""
    async with serving(settings, source) as (joined, _):
        kernel = joined.serving.kernel
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        await joined.offer(Protocol.TCP, port, source)
        with collector_off():
            before, tables_before = parts(), tables(joined)
            for patience in (1.0, 0.0):
                client = joined.using.kernel.connect(joined.address, port)
                await trio.sleep(patience)
                client.abort()
                del client
                await trio.sleep(100.0)  # a plain contact's mapping waits, to be offered again
            assert parts() - before == Counter()
            assert tables(joined) - tables_before == Counter()
        assert not kernel.programs


@pytest.mark.parametrize("source", ["peer", "host"])
@pytest.mark.parametrize("carrier", ["link", "carriers"])
async def test_nothing_is_kept_of_datagrams(
    source: str, carrier: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with Joined.running(Settings(CARRIERS[carrier])) as joined:
        with socket.socket(type=socket.SOCK_DGRAM) as service:
            service.bind(("127.0.0.1", 0))
            port = service.getsockname()[1]
            joined.serving.kernel.answer = lambda event: b"answer"
            await joined.offer(Protocol.UDP, port, source)
            with collector_off():
                before = parts()
                for program in range(5):
                    joined.using.kernel.send(5000 + program, joined.address, port, b"question")
                    await trio.sleep(0.3)
                    if source == "host":
                        _, sender = service.recvfrom(100)
                        service.sendto(b"answer", sender)
                    await trio.sleep(0.3)
                answers = [bytes(event.payload) for event in joined.using.kernel.datagrams]
                assert answers == [b"answer"] * 5
                joined.using.kernel.datagrams.clear()
                joined.serving.kernel.datagrams.clear()
                await trio.sleep(Limits().udp_idle + AFTER)
                assert parts() - before == Counter()
                assert not +tables(joined)


async def test_nothing_is_kept_when_a_contact_leaves(
    settings: Settings, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(settings, "peer") as (joined, connect):
        with collector_off():
            before = parts()
            client, server = await connect()
            client.write(b"question" * 1000)
            await trio.sleep(0.1)
            joined.using.daemon.engine.part(joined.server)
            joined.serving.daemon.engine.part(joined.user)
            await trio.sleep(AFTER)
            assert "Aborted" in client.said
            del client, server
            assert parts() - before == Counter()
            assert not +tables(joined)
