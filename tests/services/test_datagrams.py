import os
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tunfwd.common.streams import DatagramFlow
from tunfwd.common.values import Reason
from tunfwd.services import datagrams
from tunfwd.services.datagrams import KEPT_LIMIT, ServiceFlow
from tunfwd.services.poller import Poller
from tunfwd.services.target import Target

from ..tun.namespace import ip, sysctl
from .conftest import PATIENCE, DatagramRecorder, Resolver


async def bind(host: str = "127.0.0.1", port: int = 0) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    service = trio.socket.socket(family, socket.SOCK_DGRAM)
    await service.bind((host, port))
    return service


@pytest.fixture
async def service() -> AsyncIterator[trio.socket.SocketType]:
    with await bind() as service:
        yield service


def port_of(service: trio.socket.SocketType) -> int:
    return int(service.getsockname()[1])


async def receive(service: trio.socket.SocketType) -> tuple[bytes, tuple[str, int]]:
    with trio.fail_after(PATIENCE):
        return await service.recvfrom(1 << 16)


async def test_datagrams_go_both_ways(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder)
    for payload in (b"one", b"", b"three"):
        assert flow.send(payload)
    for payload in (b"one", b"", b"three"):
        received, sender = await receive(service)
        assert received == payload
        await service.sendto(payload.upper(), sender)
    await recorder.until(lambda: len(recorder.payloads) == 3)
    assert recorder.payloads == [b"ONE", b"", b"THREE"]
    assert recorder.failures == []
    assert flow.dropped == 0
    flow.close()
    assert poller._watchers == {}


async def test_an_address_needs_no_task(
    poller: Poller, service: trio.socket.SocketType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "start", lambda *_: pytest.fail("a task"))
    for host in None, "127.0.0.1":
        flow = ServiceFlow(poller, Target(host, port_of(service)), DatagramRecorder())
        assert flow.send(b"at once")
        assert (await receive(service))[0] == b"at once"
        flow.close()


async def test_flows_are_apart(poller: Poller, service: trio.socket.SocketType) -> None:
    recorders = [DatagramRecorder() for _ in range(50)]
    for number, recorder in enumerate(recorders):
        ServiceFlow(poller, Target(None, port_of(service)), recorder).send(b"%d" % number)
    senders = set()
    for _ in recorders:
        payload, sender = await receive(service)
        senders.add(sender)
        await service.sendto(b"to " + payload, sender)
    assert len(senders) == 50
    for number, recorder in enumerate(recorders):
        await recorder.until(lambda recorder=recorder: recorder.payloads)  # type: ignore[misc]
        assert recorder.payloads == [b"to %d" % number]


async def test_others_cannot_answer(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder)
    flow.send(b"question")
    _, sender = await receive(service)
    with await bind() as stranger:
        await stranger.sendto(b"forged", sender)
        await service.sendto(b"answer", sender)
        await recorder.until(lambda: recorder.payloads)
    assert recorder.payloads == [b"answer"]


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
async def test_refused_is_reported(poller: Poller, closed_port: int, host: str | None) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target(host, closed_port), recorder)
    flow.send(b"anybody there?")
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.REFUSED]
    flow.send(b"and now?")
    await recorder.until(lambda: len(recorder.failures) == 2)
    with await bind("127.0.0.1" if host != "::1" else host, closed_port) as service:
        flow.send(b"and now?")  # a service that comes up later
        payload, sender = await receive(service)
        assert payload == b"and now?"
        await service.sendto(b"yes", sender)
        await recorder.until(lambda: recorder.payloads)
    flow.send(b"still?")
    await recorder.until(lambda: len(recorder.failures) == 3)


async def test_a_service_on_ipv6_only_gets_all_that_was_sent_first(poller: Poller, closed_port: int) -> None:
    with await bind("::1", closed_port) as service:
        recorder = DatagramRecorder()
        flow = ServiceFlow(poller, Target(None, closed_port), recorder)
        for payload in (b"first", b"second"):
            flow.send(payload)
        for payload in (b"first", b"second"):
            received, sender = await receive(service)
            assert received == payload
        await service.sendto(b"answer", sender)
        await recorder.until(lambda: recorder.payloads)
        assert recorder.failures == []
        assert not flow._kept
        flow.send(b"third")
        assert (await receive(service))[0] == b"third"


async def test_refusals_met_while_sending_are_reported(poller: Poller, closed_port: int) -> None:
    """On loopback the refusal is there before the next send, which takes it from the socket."""
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", closed_port), recorder)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(5):
        assert flow.send(b"anybody there?")
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.REFUSED]


async def test_the_largest_datagram(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder)
    payload = random.Random(3).randbytes(65_507)
    await trio.testing.wait_all_tasks_blocked()
    assert flow.send(payload)
    received, sender = await receive(service)
    assert received == payload
    await service.sendto(payload, sender)
    await recorder.until(lambda: recorder.payloads)
    assert recorder.payloads == [payload]
    assert not flow.send(bytes(65_508))
    assert flow.dropped == 1


async def test_while_the_name_is_resolved_the_last_few_are_kept(
    poller: Poller, resolver: Resolver, service: trio.socket.SocketType
) -> None:
    resolver.addresses["game.example"] = ["127.0.0.1"]
    flow = ServiceFlow(poller, Target("game.example", port_of(service)), DatagramRecorder())
    for number in range(KEPT_LIMIT + 5):
        flow.send(b"%d" % number)
    for number in range(5, KEPT_LIMIT + 5):
        assert (await receive(service))[0] == b"%d" % number
    assert flow.dropped == 5
    flow.close()


@pytest.mark.parametrize("host", ["unknown.example", "a" * 300, "a..b", "\x00", "\udcff"])
async def test_a_name_that_cannot_be_resolved(poller: Poller, resolver: Resolver, host: str) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target(host, 1), recorder)
    flow.send(b"lost")
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.UNREACHABLE]
    assert flow.dropped == 1
    flow.close()


@pytest.mark.interpreted
async def test_a_name_that_is_resolved_later(
    poller: Poller, resolver: Resolver, service: trio.socket.SocketType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "RESOLVE_TIMEOUT", 0.02)
    monkeypatch.setattr(datagrams, "RESOLVE_AGAIN", 0.05)
    resolver.silence = trio.Event()
    resolver.addresses["game.example"] = ["127.0.0.1"]
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("game.example", port_of(service)), recorder)
    flow.send(b"too early")
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.TIMED_OUT]
    resolver.silence.set()
    flow.send(b"in time")
    assert (await receive(service))[0] == b"in time"
    flow.close()


async def test_a_name_with_several_addresses(
    poller: Poller, resolver: Resolver, service: trio.socket.SocketType
) -> None:
    resolver.addresses["game.example"] = ["::1", "127.0.0.2", "127.0.0.1"]
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("game.example", port_of(service)), recorder)
    flow.send(b"anybody?")
    assert (await receive(service))[0] == b"anybody?"
    assert recorder.failures == []
    flow.close()


async def test_closed_at_any_stage(poller: Poller, service: trio.socket.SocketType) -> None:
    for stages in range(10):
        flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), DatagramRecorder())
        flow.send(b"x")
        for _ in range(stages):
            await trio.lowlevel.checkpoint()
        flow.close()
    await trio.testing.wait_all_tasks_blocked()
    assert poller._watchers == {}


async def test_closed_when_just_resolved(
    poller: Poller, service: trio.socket.SocketType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver may come back with an answer although nobody waits for it any more."""
    original = trio.socket.getaddrinfo

    async def resolve(*arguments: Any, **keywords: Any) -> object:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.02)
            return await original(*arguments, **keywords)
        raise AssertionError

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), DatagramRecorder())
    flow.send(b"x")
    await trio.testing.wait_all_tasks_blocked()
    flow.close()
    await trio.sleep(0.05)
    assert poller._watchers == {}


async def test_closed_from_within_an_event(poller: Poller, service: trio.socket.SocketType) -> None:
    class Quitter(DatagramRecorder):
        def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
            super().datagram(flow, payload)
            flow.close()

    recorder = Quitter()
    ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder).send(b"hello")
    _, sender = await receive(service)
    await service.sendto(b"one", sender)
    await service.sendto(b"two", sender)
    await recorder.until(lambda: recorder.payloads)
    await trio.testing.wait_all_tasks_blocked()
    assert recorder.payloads == [b"one"]


async def test_a_flood_neither_grows_nor_starves(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(20_000):  # the service does not read; the kernel drops, and we go on
        flow.send(bytes(1000))
    assert len(flow._kept) <= KEPT_LIMIT
    assert recorder.failures == []


async def test_no_descriptors_left_is_reported(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    hoard = []
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError:
        pass
    try:
        flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), recorder)
        flow.send(b"now")
        await recorder.until(lambda: recorder.failures)
    finally:
        for descriptor in hoard:
            os.close(descriptor)
    flow.send(b"later")
    assert (await receive(service))[0] == b"later"


@pytest.mark.netns
async def test_no_route_is_reported_and_a_later_one_used(namespace: None, poller: Poller) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("10.1.0.1", 53), recorder)
    flow.send(b"too early")
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.UNREACHABLE]
    ip("addr", "add", "10.1.0.1/32", "dev", "lo")
    with await bind("10.1.0.1", 53) as service:
        assert flow.send(b"in time")
        assert (await receive(service))[0] == b"in time"


@pytest.mark.netns
async def test_a_route_that_goes_away_is_reported(namespace: None, poller: Poller) -> None:
    """The send itself fails, and the handler hears of it from the poller."""
    ip("route", "add", "10.2.0.0/16", "dev", "lo")
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("10.2.0.1", 53), recorder)
    await trio.testing.wait_all_tasks_blocked()
    assert flow.send(b"one")
    ip("route", "del", "10.2.0.0/16")
    ip("route", "add", "unreachable", "10.2.0.0/16")
    assert not flow.send(b"another")
    assert recorder.failures == []
    await recorder.until(lambda: recorder.failures)
    assert recorder.failures == [Reason.UNREACHABLE]
    assert not flow.send(b"and another")


@pytest.mark.netns
async def test_what_is_larger_than_the_path_is_fragmented(namespace: None, poller: Poller) -> None:
    ip("link", "set", "lo", "mtu", "1500")
    with await bind() as service:
        flow = ServiceFlow(poller, Target("127.0.0.1", port_of(service)), DatagramRecorder())
        payload = bytes(9000)
        flow.send(payload)
        assert (await receive(service))[0] == payload


@pytest.mark.netns
async def test_a_flow_connected_to_itself_is_refused(namespace: None, poller: Poller) -> None:
    sysctl("net.ipv4.ip_local_port_range", "29871 29871")
    recorder = DatagramRecorder()
    flow = ServiceFlow(poller, Target("127.0.0.1", 29_871), recorder)
    flow.send(b"echo?")
    await recorder.until(lambda: recorder.failures)
    await trio.testing.wait_all_tasks_blocked()
    assert recorder.payloads == []


async def ask_and_answer_elsewhere(
    poller: Poller, service: trio.socket.SocketType, may_answer: bool
) -> tuple[ServiceFlow, DatagramRecorder, trio.socket.SocketType, tuple[str, int]]:
    """A flow whose first question another port of the host answers."""
    recorder = DatagramRecorder()
    flow = ServiceFlow(
        poller, Target(None, port_of(service)), recorder, "owner", lambda port, other: may_answer
    )
    flow.send(b"question")
    _, sender = await receive(service)
    worker = await bind()
    await worker.sendto(b"from the worker", sender)
    return flow, recorder, worker, sender


async def test_the_first_answer_may_come_from_another_port_of_the_host(
    poller: Poller, service: trio.socket.SocketType
) -> None:
    flow, recorder, worker, sender = await ask_and_answer_elsewhere(poller, service, True)
    with worker:
        await recorder.until(lambda: recorder.payloads == [b"from the worker"])
        flow.send(b"next")
        assert await receive(worker) == (b"next", sender)
        await service.sendto(b"too late", sender)
        await worker.sendto(b"and more", sender)
        await recorder.until(lambda: recorder.payloads[1:] == [b"and more"])
        request = b"\0\1another\0octet\0"
        flow.send(request)
        payload, sender = await receive(service)
        assert payload == request
        await worker.sendto(b"again", sender)
        await recorder.until(lambda: recorder.payloads[2:] == [b"again"])
    flow.send(b"unheard")  # the worker has ended: the service is asked again
    assert (await receive(service))[0] == b"unheard"
    assert recorder.failures == []
    flow.close()
    assert poller._watchers == {}
    assert poller.sockets.taken == 0


async def test_who_may_not_answer_is_not_heard(poller: Poller, service: trio.socket.SocketType) -> None:
    flow, recorder, worker, sender = await ask_and_answer_elsewhere(poller, service, False)
    with worker:
        for _ in range(20):
            await worker.sendto(b"believe me", sender)
        await service.sendto(b"answer", sender)
        await recorder.until(lambda: recorder.payloads == [b"answer"])
        assert poller.sockets.taken == 1
    flow.close()
    assert poller._watchers == {}
    assert poller.sockets.taken == 0


async def test_another_host_is_not_heard(poller: Poller, service: trio.socket.SocketType) -> None:
    recorder = DatagramRecorder()
    flow = ServiceFlow(
        poller, Target("127.0.0.1", port_of(service)), recorder, "owner", lambda port, other: True
    )
    flow.send(b"question")
    _, sender = await receive(service)
    with await bind("127.0.0.2") as stranger:
        await stranger.sendto(b"believe me", sender)
        await service.sendto(b"answer", sender)
        await recorder.until(lambda: recorder.payloads == [b"answer"])
    flow.close()
    assert poller.sockets.taken == 0
