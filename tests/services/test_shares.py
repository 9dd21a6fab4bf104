"""Descriptors are this process's alone: no contact takes those of another."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tunfwd.common.values import Reason
from tunfwd.services.datagrams import ServiceFlow
from tunfwd.services.poller import LEAST, RESERVED, Poller
from tunfwd.services.streams import ServiceStream
from tunfwd.services.target import Target

from .conftest import DatagramRecorder, Recorder

SPARE = 64


@pytest.fixture
async def poller(nursery: trio.Nursery) -> AsyncIterator[Poller]:
    poller = Poller(RESERVED + SPARE)
    await nursery.start(poller.run)
    yield poller
    nursery.cancel_scope.cancel()


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=SPARE) as listener:
        yield listener


async def streams(poller: Poller, service: socket.socket, owner: str, count: int) -> list[ServiceStream]:
    """The connections that come to be of those that one contact asks for at once."""
    target = Target("127.0.0.1", service.getsockname()[1])
    recorders = [Recorder() for _ in range(count)]
    made = [ServiceStream(poller, target, recorder, owner=owner) for recorder in recorders]
    for recorder in recorders:
        await recorder.until(lambda recorder=recorder: recorder.events)  # type: ignore[misc]
        assert recorder.failure in (None, Reason.UNREACHABLE)
    return [stream for stream, recorder in zip(made, recorders, strict=True) if recorder.failure is None]


async def test_no_contact_takes_anothers_sockets(poller: Poller, service: socket.socket) -> None:
    greedy = await streams(poller, service, "greedy", SPARE)
    assert len(greedy) == LEAST
    others = [await streams(poller, service, owner, 2) for owner in ("one", "other")]
    assert [len(made) for made in others] == [2, 2]
    for stream in greedy:
        stream.abort()
        stream.abort()  # counts once
    assert len(await streams(poller, service, "greedy", SPARE)) == LEAST
    assert poller.sockets.taken == LEAST + 4


async def test_datagrams_have_the_same_share(poller: Poller, service: socket.socket) -> None:
    greedy = await streams(poller, service, "greedy", SPARE)
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        target = Target("127.0.0.1", udp.getsockname()[1])
        recorder = DatagramRecorder()
        without = ServiceFlow(poller, target, recorder, owner="greedy")
        without.send(b"question")
        await recorder.until(lambda: recorder.failures)
        ServiceFlow(poller, target, DatagramRecorder(), owner="other").send(b"another")
        udp.settimeout(5)
        assert await trio.to_thread.run_sync(udp.recv, 100) == b"another"
        without.close()
        greedy[0].abort()
        flow = ServiceFlow(poller, target, recorder, owner="greedy")
        flow.send(b"question")
        assert await trio.to_thread.run_sync(udp.recv, 100) == b"question"
        flow.close()
        flow.close()
    assert poller.sockets.taken == LEAST
