"""A mistake in serving one socket ends that one: its handler is told, and the poller serves the others."""

from __future__ import annotations

import pytest
import trio

from tunfwd.services.datagrams import ServiceFlow
from tunfwd.services.poller import Poller
from tunfwd.services.streams import ServiceStream
from tunfwd.services.target import Target

from .conftest import PATIENCE, Listener, Recorder


def fail(*_: object) -> None:
    raise KeyError("a mistake")


class Clumsy(Recorder):
    """A handler that fails over an event."""

    def __init__(self, over: str) -> None:
        super().__init__()
        setattr(self, over, fail)


@pytest.mark.parametrize("over", ["connected", "readable", "eof"])
async def test_a_stream_whose_handler_fails(over: str, poller: Poller, listener: Listener) -> None:
    clumsy, recorder = Clumsy(over), Recorder()
    ServiceStream(poller, Target("127.0.0.1", listener.port), clumsy)
    first = await listener.accept()
    other = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    second = await listener.accept()
    if over != "connected":
        await first.send_all(b"hello")
    if over == "eof":
        await first.send_eof()
    await clumsy.until_event("aborted: a failure in here")
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(PATIENCE):
        await first.receive_some()
    await second.send_all(b"hello")
    await recorder.until(lambda: recorder.received == b"hello")
    assert len(poller._watchers) == 1
    other.abort()


async def test_a_stream_that_fails_to_tell(poller: Poller, listener: Listener) -> None:
    clumsy = Clumsy("readable")
    clumsy.aborted = fail  # type: ignore[method-assign,assignment]
    ServiceStream(poller, Target("127.0.0.1", listener.port), clumsy)
    service = await listener.accept()
    await service.send_all(b"hello")
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(PATIENCE):
        await service.receive_some()
    assert poller._watchers == {}


async def test_a_flow_whose_handler_fails(poller: Poller) -> None:
    failed = trio.Event()

    class Handler:
        def datagram(self, _flow: object, payload: bytes) -> None:
            raise KeyError(payload)

        def datagram_failed(self, _flow: object, _failure: object) -> None:
            failed.set()

    service = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await service.bind(("127.0.0.1", 0))
    flow = ServiceFlow(poller, Target("127.0.0.1", service.getsockname()[1]), Handler())
    flow.send(b"question")
    with trio.fail_after(PATIENCE):
        _, address = await service.recvfrom(100)
        await service.sendto(b"answer", address)
        await failed.wait()
    assert poller._watchers == {}
    service.close()
