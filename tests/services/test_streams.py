import errno
import hashlib
import os
import random
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from tunfwd.common.streams import Stream
from tunfwd.common.values import Reason
from tunfwd.services import streams
from tunfwd.services.poller import Poller, raise_descriptor_limit
from tunfwd.services.streams import SEND_LIMIT, ServiceStream
from tunfwd.services.target import Target

from ..tun.namespace import ip, sysctl
from .conftest import PATIENCE, Listener, Recorder, Resolver, listen

RESET = struct.pack("@ii", 1, 0)


def space_of(stream: Any) -> int:
    """How many bytes it would take now."""
    return SEND_LIMIT - len(stream._send_buffer)


async def connect(
    poller: Poller, listener: Listener, **handler: Any
) -> tuple[ServiceStream, Recorder, trio.SocketStream]:
    recorder = Recorder(**handler)
    stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    service = await listener.accept()
    await recorder.until_event("connected")
    return stream, recorder, service


async def write_all(stream: ServiceStream, recorder: Recorder, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
        if view:
            recorder.events.append("short")
            await recorder.until(lambda: recorder.events[-1] == "writable")


async def drain(service: trio.SocketStream) -> None:
    while await service.receive_some(1 << 20):
        pass


def reset(service: trio.SocketStream) -> None:
    service.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    service.socket.close()


# Connecting


async def test_a_connection_carries_bytes_both_ways(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    assert stream.write(b"ping") == 4
    assert await service.receive_some() == b"ping"
    await service.send_all(b"pong")
    await recorder.until(lambda: recorder.received == b"pong")
    assert recorder.events == ["connected", "readable"]


async def test_the_loopback_needs_no_task(
    poller: Poller, listener: Listener, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel connects while it is asked to; the handler hears of it from the poller."""
    monkeypatch.setattr(poller, "start", lambda *_: pytest.fail("a task"))
    for target in Target(None, listener.port), Target("127.0.0.1", listener.port, "127.77.1.2"):
        recorder = Recorder()
        stream = ServiceStream(poller, target, recorder)
        assert recorder.events == []
        service = await listener.accept()
        assert service.socket.getpeername()[0] == (target.source or "127.0.0.1")
        await recorder.until_event("connected")
        stream.abort()


async def test_aborted_before_it_was_told(poller: Poller, listener: Listener) -> None:
    recorder = Recorder()
    stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    stream.abort()
    service = await listener.accept()
    assert await service.receive_some(1) == b""
    await trio.sleep(0.05)
    assert recorder.events == []
    assert stream.is_over


async def test_written_before_connected_is_sent_after(poller: Poller, listener: Listener) -> None:
    recorder = Recorder()
    stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    assert stream.write(b"early") == 5
    stream.shutdown()
    service = await listener.accept()
    received = b"".join([part async for part in service])
    assert received == b"early"
    await service.aclose()
    await recorder.until_event("closed")
    assert recorder.events == ["connected", "readable", "eof", "closed"]


async def test_refused_is_refused(poller: Poller, closed_port: int) -> None:
    recorder = Recorder()
    stream = ServiceStream(poller, Target(None, closed_port), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.REFUSED
    assert stream.read(100) == b""
    assert stream.write(b"into the void") == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_this_machine_is_either_loopback_address(poller: Poller, closed_port: int, host: str) -> None:
    """At a port that is nobody's at the other address."""
    recorder = Recorder()
    with await listen(host, port=closed_port) as listener:
        stream = ServiceStream(poller, Target(None, listener.port), recorder)
        await listener.accept()
        await recorder.until_event("connected")
        stream.abort()


async def test_a_name_is_resolved(poller: Poller, listener: Listener, resolver: Resolver) -> None:
    resolver.addresses["web.example"] = ["127.0.0.1"]
    recorder = Recorder()
    ServiceStream(poller, Target("web.example", listener.port), recorder)
    await listener.accept()
    await recorder.until_event("connected")


async def test_of_several_addresses_one_that_answers_is_taken(
    poller: Poller, listener: Listener, resolver: Resolver
) -> None:
    resolver.addresses["web.example"] = ["::1", "127.0.0.2", "127.0.0.1"]
    recorder = Recorder()
    ServiceStream(poller, Target("web.example", listener.port), recorder)
    await listener.accept()
    await recorder.until_event("connected")


async def test_of_several_failures_the_telling_one_is_reported(
    poller: Poller, closed_port: int, resolver: Resolver
) -> None:
    resolver.addresses["web.example"] = ["255.255.255.255", "127.0.0.1"]
    recorder = Recorder()
    ServiceStream(poller, Target("web.example", closed_port), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.REFUSED


@pytest.mark.parametrize("host", ["unknown.example", "a" * 300, "a..b", "\x00", "\udcff"])
async def test_a_name_that_cannot_be_resolved_fails(poller: Poller, resolver: Resolver, host: str) -> None:
    recorder = Recorder()
    ServiceStream(poller, Target(host, 1), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.UNREACHABLE
    assert recorder.events == ["connect_failed"]


async def test_a_resolver_that_does_not_answer_times_out(poller: Poller, resolver: Resolver) -> None:
    resolver.silence = trio.Event()
    recorder = Recorder()
    ServiceStream(poller, Target("web.example", 80), recorder, timeout=0.1)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.TIMED_OUT


async def test_unreachable_is_unreachable(poller: Poller) -> None:
    recorder = Recorder()
    ServiceStream(
        poller, Target("255.255.255.255", 1), recorder
    )  # no TCP to a broadcast address: ENETUNREACH
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.UNREACHABLE


async def test_no_answer_times_out(poller: Poller) -> None:
    with await listen(backlog=0) as full, socket.socket() as waiting:
        waiting.setblocking(False)  # takes the only place in the backlog; the kernel drops further SYNs
        assert waiting.connect_ex(("127.0.0.1", full.port)) in (0, errno.EINPROGRESS)
        await trio.sleep(0.05)
        recorder = Recorder()
        ServiceStream(poller, Target("127.0.0.1", full.port), recorder, timeout=0.3)
        await recorder.until_event("connect_failed")
        assert recorder.failure is Reason.TIMED_OUT
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.events == ["connect_failed"]


async def test_abort_while_connecting_is_silent(poller: Poller, listener: Listener) -> None:
    recorders = [Recorder() for _ in range(20)]
    for number, recorder in enumerate(recorders):
        stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
        for _ in range(number % 10):  # at every stage of connecting
            if stream._state is not streams.State.OPEN:
                await trio.lowlevel.checkpoint()
        stream.abort()
    await trio.sleep(0.05)
    for recorder in recorders:
        assert recorder.events in ([], ["connected"])
    assert poller._watchers == {}


async def test_abort_when_just_connected(
    poller: Poller, listener: Listener, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection may have succeeded although nobody waits for it any more."""
    original = trio.open_tcp_stream

    async def connect(host: str, port: int, **options: object) -> trio.SocketStream:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.02)
            return await original(host, port)
        raise AssertionError

    resolver.addresses["web.example"] = ["127.0.0.1"]
    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    recorder = Recorder()
    stream = ServiceStream(poller, Target("web.example", listener.port), recorder)
    await trio.testing.wait_all_tasks_blocked()
    stream.abort()
    service = await listener.accept()
    assert await service.receive_some() == b""
    assert recorder.events == []
    assert poller._watchers == {}


@pytest.mark.netns
async def test_a_connection_to_itself_is_refused(namespace: None, poller: Poller) -> None:
    """Linux connects a socket to itself when the port it picks for it is the one it connects to."""
    sysctl("net.ipv4.ip_local_port_range", "29871 29871")
    recorder = Recorder()
    ServiceStream(poller, Target("127.0.0.1", 29_871), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.REFUSED
    assert recorder.events == ["connect_failed"]


@pytest.mark.netns
async def test_what_a_blackhole_swallows_times_out(namespace: None, poller: Poller) -> None:
    ip("link", "add", "nowhere", "type", "veth", "peer", "name", "swallows")
    ip("addr", "add", "10.1.0.1/24", "dev", "nowhere")
    ip("link", "set", "nowhere", "up")
    ip("link", "set", "swallows", "up")
    ip("neigh", "add", "10.1.0.2", "lladdr", "02:00:00:00:00:01", "dev", "nowhere")
    recorder = Recorder()
    ServiceStream(poller, Target("10.1.0.2", 80), recorder, timeout=0.3)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.TIMED_OUT


@pytest.mark.netns
@pytest.mark.parametrize(
    ("kind", "failure"),
    [("unreachable", Reason.UNREACHABLE), ("prohibit", Reason.UNREACHABLE)],
)
async def test_what_the_routes_say(namespace: None, poller: Poller, kind: str, failure: Reason) -> None:
    ip("route", "add", kind, "10.2.0.0/16")
    recorder = Recorder()
    ServiceStream(poller, Target("10.2.0.1", 80), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is failure


@pytest.mark.netns
async def test_this_machine_without_ipv6(namespace: None, poller: Poller) -> None:
    sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    recorder = Recorder()
    ServiceStream(poller, Target(None, 9), recorder)
    await recorder.until_event("connect_failed")
    assert recorder.failure is Reason.REFUSED


async def test_no_descriptors_left_fails(poller: Poller, listener: Listener) -> None:
    hoard = []
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError:
        pass
    try:
        recorder = Recorder()
        ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
        await recorder.until_event("connect_failed")
    finally:
        for descriptor in hoard:
            os.close(descriptor)
    assert recorder.failure is Reason.UNREACHABLE


# Back-pressure


async def test_a_service_that_does_not_read_stops_the_writer(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    chunk = bytes(1 << 16)
    written = 0
    with trio.fail_after(PATIENCE):
        while True:
            accepted = stream.write(chunk)
            written += accepted
            if accepted < len(chunk):
                await trio.sleep(0.1)
                if space_of(stream) == 0:
                    break
    assert SEND_LIMIT <= written < 16 << 20  # ours, and the kernel's two buffers
    assert stream.write(b"more") == 0
    assert recorder.events.count("writable") <= written // SEND_LIMIT + 1
    recorder.events.clear()
    received = 0
    while received < written:
        received += len(await service.receive_some(1 << 18))
        if received == written:
            break
    await recorder.until_event("writable")
    assert recorder.events == ["writable"]  # once
    assert space_of(stream) == SEND_LIMIT


async def test_writable_comes_only_after_a_short_write(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    assert stream.write(bytes(SEND_LIMIT)) == SEND_LIMIT  # whole, though the kernel may not have it yet
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_exactly, service, SEND_LIMIT)
    await trio.sleep(0.05)
    assert recorder.events == ["connected"]
    assert stream.write(bytes(SEND_LIMIT + 1)) == SEND_LIMIT
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_exactly, service, SEND_LIMIT)
    await recorder.until_event("writable")


async def test_writable_comes_with_ample_space(poller: Poller, listener: Listener) -> None:
    """Not with every few bytes that the kernel takes."""

    class Measuring(Recorder):
        def writable(self, stream: Stream) -> None:
            super().writable(stream)
            spaces.append(space_of(stream))

    spaces: list[int] = []
    recorder = Measuring()
    stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    service = await listener.accept()
    await recorder.until_event("connected")
    with trio.fail_after(PATIENCE):
        while len(spaces) < 4:
            while stream.write(bytes(1 << 16)) == 1 << 16:
                pass
            before = len(spaces)
            while len(spaces) == before:
                await service.receive_some(1 << 14)
    assert len(spaces) == 4
    assert min(spaces) >= SEND_LIMIT // 2


async def receive_exactly(service: trio.SocketStream, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        parts += await service.receive_some(count - len(parts))
    return bytes(parts)


async def test_an_unread_stream_stops_the_service(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener, appetite=1000)
    sent = 0
    with trio.move_on_after(0.5):
        while True:
            sent += await service.socket.send(bytes(1 << 16))
    assert sent < 32 << 20
    assert len(recorder.received) == 1000
    assert recorder.events.count("readable") <= 3  # not told again until read
    recorder.appetite = 1 << 62
    recorder.eat(stream)
    await recorder.until(lambda: len(recorder.received) == sent)


@pytest.mark.interpreted
async def test_waiting_for_a_reader_is_idle(poller: Poller, listener: Listener) -> None:
    """Unread data, an unread end, and both directions ended: none of them may keep the poller busy."""
    stream, recorder, service = await connect(poller, listener, appetite=0)
    await service.send_all(b"unread")
    await recorder.until_event("readable")
    assert await idle(poller)
    await service.send_eof()
    assert await idle(poller)
    stream.shutdown()
    assert await idle(poller)
    assert await service.receive_some() == b""
    recorder.appetite = 100
    recorder.eat(stream)
    await recorder.until_event("closed")
    assert recorder.received == b"unread"
    assert recorder.events[-2:] == ["eof", "closed"]


async def idle(poller: Poller) -> bool:
    served = 0
    original = poller.loop._pass

    def count(ready: list[tuple[int, int]]) -> None:
        nonlocal served
        served += 1
        original(ready)

    poller.loop._pass = count  # type: ignore[method-assign]
    await trio.sleep(0.1)
    poller.loop._pass = original  # type: ignore[method-assign]
    return served <= 3


# The end of a direction


async def test_our_end_first(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    stream.write(b"request")
    stream.shutdown()
    stream.shutdown()
    with pytest.raises(RuntimeError):
        stream.write(b"afterthought")
    assert b"".join([part async for part in service]) == b"request"
    await service.send_all(b"reply after the end")
    await service.aclose()
    await recorder.until_event("closed")
    assert recorder.received == b"reply after the end"
    assert [event for event in recorder.events if event != "readable"] == ["connected", "eof", "closed"]


@pytest.mark.interpreted
async def test_the_service_s_end_first(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    await service.send_all(b"all there is")
    await service.send_eof()
    await recorder.until_event("eof")
    assert recorder.received == b"all there is"
    assert await idle(poller)
    stream.write(b"still here")
    assert await service.receive_some() == b"still here"
    stream.shutdown()
    assert await service.receive_some() == b""
    await recorder.until_event("closed")
    assert poller._watchers == {}


async def test_the_end_follows_all_that_was_written(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    data = random.Random(1).randbytes(8 << 20)
    digest = hashlib.sha256()

    async def receive_slowly() -> None:
        async for part in service:
            digest.update(part)
            await trio.sleep(0.0005)
        await service.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_slowly)
        await write_all(stream, recorder, data)
        stream.shutdown()
    assert digest.digest() == hashlib.sha256(data).digest()
    await recorder.until_event("closed")


async def test_shutdown_answered_from_within_the_eof_event(poller: Poller, listener: Listener) -> None:
    class Mirror(Recorder):
        def eof(self, stream: Stream) -> None:
            super().eof(stream)
            stream.shutdown()

    recorder = Mirror()
    ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
    service = await listener.accept()
    await service.send_eof()
    await recorder.until_event("closed")
    assert await service.receive_some() == b""


# Resets


async def test_a_reset_is_no_end(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    reset(service)
    await recorder.until_event("aborted")
    assert recorder.events[-1] == "aborted: Connection reset by peer"
    assert "eof" not in recorder.events
    assert stream.write(b"too late") == 0
    assert stream.read(10) == b""
    stream.abort()
    assert poller._watchers == {}


async def test_a_reset_is_told_though_nobody_reads(poller: Poller, listener: Listener) -> None:
    _stream, recorder, service = await connect(poller, listener, appetite=0)
    await service.send_all(b"unread")
    await recorder.until_event("readable")
    reset(service)
    await recorder.until_event("aborted")
    assert recorder.events == ["connected", "readable", "aborted: Connection reset by peer"]


async def test_a_reset_after_the_service_s_end(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    await service.send_eof()
    await recorder.until_event("eof")
    stream.write(b"unread there")
    await trio.sleep(0.02)
    await service.aclose()  # with unread data: a reset
    await recorder.until_event("aborted")


@pytest.mark.interpreted
async def test_a_reset_met_by_a_write_is_no_end(poller: Poller, listener: Listener) -> None:
    """The write takes the error from the socket, which then reads as if it had ended in order."""
    stream, recorder, service = await connect(poller, listener)
    reset(service)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poller.loop, "_pass", lambda ready: None)
        while stream._lost is None:
            stream.write(b"x")
    await recorder.until_event("aborted")
    assert "eof" not in recorder.events


async def test_data_before_a_reset_arrives(poller: Poller, listener: Listener) -> None:
    _stream, recorder, service = await connect(poller, listener)
    await service.send_all(b"last words")
    reset(service)
    await recorder.until_event("aborted")
    assert recorder.received == b"last words"


async def test_a_service_that_resets_at_once(poller: Poller, nursery: trio.Nursery) -> None:
    """Whether the reset is met while connecting or after is chance; either way it is told, once."""

    def reset_all() -> None:
        for _ in range(200):
            connection, _ = service.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.close()

    with socket.create_server(("127.0.0.1", 0), backlog=200) as service:
        nursery.start_soon(trio.to_thread.run_sync, reset_all)
        recorders = [Recorder() for _ in range(200)]
        for number, recorder in enumerate(recorders):
            stream = ServiceStream(poller, Target("127.0.0.1", service.getsockname()[1]), recorder)
            if number % 2:
                stream.write(b"hello")
                stream.shutdown()
        for recorder in recorders:
            await recorder.until_event(("aborted", "connect_failed"))
            assert recorder.events[0] == "connected" or recorder.failure is Reason.REFUSED
            assert "eof" not in recorder.events
    assert poller._watchers == {}


async def test_a_reset_before_the_first_look(
    poller: Poller, listener: Listener, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.addresses["web.example"] = ["127.0.0.1"]
    original = trio.open_tcp_stream

    async def open_and_be_reset(host: str, port: int, **_: object) -> trio.SocketStream:
        opened = await original(host, port)
        reset(await listener.accept())
        await trio.lowlevel.wait_readable(opened.socket)
        return opened

    monkeypatch.setattr(trio, "open_tcp_stream", open_and_be_reset)
    recorder = Recorder()
    stream = ServiceStream(poller, Target("web.example", listener.port), recorder)
    stream.shutdown()
    await recorder.until_event("aborted")
    assert recorder.events == ["connected", "readable", "aborted: Connection reset by peer"]


async def test_our_abort_is_a_reset(poller: Poller, listener: Listener) -> None:
    stream, recorder, service = await connect(poller, listener)
    stream.abort()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await service.receive_some()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    await trio.sleep(0.02)
    assert recorder.events == ["connected"]


async def test_abort_from_within_every_event(poller: Poller, listener: Listener) -> None:
    class Quitter(Recorder):
        quit_on = ""
        stream: ServiceStream

        def _note(self, event: str) -> None:
            super()._note(event)
            if event == self.quit_on:
                self.stream.abort()

    for event in ("connected", "readable", "eof", "writable"):
        recorder = Quitter()
        recorder.quit_on = event
        recorder.stream = ServiceStream(poller, Target("127.0.0.1", listener.port), recorder)
        recorder.stream.write(bytes(SEND_LIMIT * 2))
        service = await listener.accept()
        with trio.move_on_after(2), suppress(trio.BrokenResourceError):
            await service.send_all(b"data")
            if event == "eof":
                await service.send_eof()
            await drain(service)
            pytest.fail("no reset")
        await recorder.until_event(event)
        await trio.sleep(0.01)
        assert recorder.events[-1] == event
        assert poller._watchers == {}


async def test_the_poller_s_end_resets_what_is_open(listener: Listener) -> None:
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        _stream, recorder, service = await connect(poller, listener)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await service.receive_some()
    assert recorder.events == ["connected"]


async def test_urgent_data_stays_in_the_stream(poller: Poller, listener: Listener) -> None:
    _stream, recorder, service = await connect(poller, listener)
    await service.send_all(b"ab")
    await service.socket.send(b"!", socket.MSG_OOB)
    await service.send_all(b"cd")
    await recorder.until(lambda: len(recorder.received) == 5)
    assert recorder.received == b"ab!cd"


# Many


async def serve(listener: Listener, service: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            connection, _ = await listener.socket.accept()
            nursery.start_soon(service, trio.SocketStream(connection))


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_descriptor_limit() == before[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_five_hundred_connections(
    poller: Poller, listener: Listener, nursery: trio.Nursery, many_descriptors: None
) -> None:
    async def echo(service: trio.SocketStream) -> None:
        async with service:
            async for part in service:
                await service.send_all(part)

    nursery.start_soon(serve, listener, echo)
    recorders = [Recorder() for _ in range(500)]
    opened = [ServiceStream(poller, Target(None, listener.port), recorder) for recorder in recorders]
    for number, stream in enumerate(opened):
        stream.write(b"%d" % number)
    for recorder in recorders:
        await recorder.until(lambda recorder=recorder: recorder.received)  # type: ignore[misc]
    assert [bytes(recorder.received) for recorder in recorders] == [b"%d" % number for number in range(500)]
    for stream in opened:
        stream.shutdown()
    for recorder in recorders:
        await recorder.until_event("closed")
    assert poller._watchers == {}
    nursery.cancel_scope.cancel()


async def misbehave(service: trio.SocketStream) -> None:
    """A service that does anything, ending in order or with a reset."""
    chance = random.Random(service.socket.fileno())
    async with service:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await anything(service, chance)
        if chance.random() < 0.5:
            reset(service)


async def anything(service: trio.SocketStream, chance: random.Random) -> None:
    for _ in range(chance.randrange(8)):
        match chance.randrange(4):
            case 0:
                await service.send_all(chance.randbytes(chance.randrange(1, 1 << 17)))
            case 1:
                with trio.move_on_after(0.01):
                    await service.receive_some(chance.randrange(1, 1 << 17))
            case 2:
                await service.send_eof()
            case 3:
                await trio.sleep(chance.random() / 100)


async def use(poller: Poller, port: int, seed: int) -> None:
    """Use a stream in any way, then in order, and see that it ends exactly once."""
    chance = random.Random(seed)
    recorder = Recorder(appetite=chance.choice([0, 1000, 1 << 62]))
    stream = ServiceStream(poller, Target("127.0.0.1", port), recorder)
    ended = False
    for _ in range(chance.randrange(8)):
        match chance.randrange(4):
            case 0 if not ended:
                stream.write(chance.randbytes(chance.randrange(1 << 17)))
            case 1:
                stream.read(chance.randrange(1, 1 << 17))
            case 2:
                stream.shutdown()
                ended = True
            case 3:
                await trio.sleep(chance.random() / 100)
    recorder.appetite = 1 << 62
    recorder.eat(stream)
    stream.shutdown()
    last = ("closed", "aborted")
    await recorder.until(lambda: recorder.events[-1:] and recorder.events[-1].startswith(last))
    assert sum(event.startswith(last) for event in recorder.events) == 1


async def test_any_use_of_any_service_ends_once(
    poller: Poller, listener: Listener, nursery: trio.Nursery
) -> None:
    nursery.start_soon(serve, listener, misbehave)
    async with trio.open_nursery() as users:
        for seed in range(300):
            users.start_soon(use, poller, listener.port, seed)
    assert poller._watchers == {}
    nursery.cancel_scope.cancel()
