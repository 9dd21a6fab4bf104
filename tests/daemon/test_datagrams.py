"""Datagrams of programs here, through two whole daemons, in moments that are hard to come by otherwise."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Settings
from tunfwd.netstack import Endpoint
from tunfwd.netstack import events as stack_events
from tunfwd.wire.packets import Feature, Protocol

from .joined import OWN, Joined, Kernel

WORKER = 40404  # the port from which a service answers


@pytest.mark.parametrize("features", [CARRIER_FEATURES, FEATURES], ids=["carriers", "link"])
async def test_a_question_at_the_moment_its_flow_ends_begins_another(
    features: Feature, autojump_clock: trio.testing.MockClock
) -> None:
    """A deadline and a frame may be there in the same round, and the program's port is the same."""
    async with Joined.running(Settings(features)) as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        serving.answer = lambda event: bytes(event.payload)
        await joined.offer(Protocol.UDP, 5353)
        flows = joined.server.session._negotiation._flows
        for question in (b"one", b"two", b"three"):
            for flow in list(flows._flows):
                flows._end_idle(flow)
            using.send(5000, joined.address, 5353, question)
            await trio.sleep(0.3)
            using.send(5000, joined.address, 5353, b"and " + question)
            await trio.sleep(0.3)
        answers = [bytes(event.payload) for event in using.datagrams]
        assert answers == [b"one", b"and one", b"two", b"and two", b"three", b"and three"]
        assert len(flows._flows) == 1


async def test_a_question_that_meets_the_end_of_its_flow_is_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The serving side may let flows rest for less time, or have too many."""
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        serving.answer = lambda event: bytes(event.payload)
        await joined.offer(Protocol.UDP, 5353)
        using.send(5000, joined.address, 5353, b"one")
        await trio.sleep(40.0)
        flows = joined.user.session._negotiation._flows
        [flow] = flows._flows
        flows._end_idle(flow)  # the Kill is not on its way before the question is, either
        using.send(5000, joined.address, 5353, b"two")
        await trio.sleep(1.0)
        assert [bytes(event.payload) for event in using.datagrams] == [b"one", b"two"]
        assert [bytes(event.payload) for event in serving.datagrams] == [b"one", b"two"]


async def test_what_is_never_answered_is_not_asked_again_and_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Joined.running() as joined:
        await joined.offer(Protocol.UDP, 514)
        joined.using.kernel.send(5000, joined.address, 514, b"log")
        flows = joined.user.session._negotiation._flows
        for _ in range(10):
            await trio.sleep(0.5)
            for flow in list(flows._flows):
                flows._end_idle(flow)
            joined.serving.daemon.scheduler.touch(joined.user)
        await trio.sleep(100.0)
        assert [bytes(event.payload) for event in joined.serving.kernel.datagrams] == [b"log", b"log"]


async def test_a_contact_comes_from_the_service_s_own_port_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Games that use one port at both ends hear no other; several programs are told apart all the same."""
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        serving.answer = lambda event: bytes(event.payload)
        await joined.offer(Protocol.UDP, 6112)
        for port in (6112, 6113):
            using.send(port, joined.address, 6112, b"%d" % port)
            await trio.sleep(0.5)
        first, second = (event.source.port for event in serving.datagrams)
        assert first == 6112
        assert second >= 49152
        assert [(e.destination.port, bytes(e.payload)) for e in using.datagrams] == [
            (6112, b"6112"),
            (6113, b"6113"),
        ]
        for port in (6113, 6112):  # it is free again when the flow is over
            await trio.sleep(1000.0)
            using.send(port, joined.address, 6112, b"again")
            await trio.sleep(0.5)
            assert serving.datagrams[-1].source.port == 6112


def answer_from(kernel: Kernel, port: int, event: stack_events.Datagram, payload: bytes) -> None:
    kernel.stack.send_datagram(Endpoint(OWN, port), event.source, payload)
    kernel.wake()


async def test_the_answer_of_another_port_reaches_who_asked(autojump_clock: trio.testing.MockClock) -> None:
    """A TFTP server answers from a port of its own for each file, and goes on with that."""
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        joined.serving.daemon.listeners.users = {69: {0}, WORKER: {65534}, WORKER + 1: {0}}
        await joined.offer(Protocol.UDP, 69)

        async def ask(payload: bytes) -> stack_events.Datagram:
            using.send(5000, joined.address, 69, payload)
            await trio.sleep(0.5)
            return serving.datagrams[-1]

        for worker, request in ((WORKER, b"\0\1file\0octet\0"), (WORKER + 1, b"\0\2file\0netascii\0")):
            event = await ask(request)
            assert (event.destination.port, bytes(event.payload)) == (69, request)
            answer_from(serving, worker, event, b"\0\3\0\1data")
            await trio.sleep(0.5)
            assert bytes(using.datagrams[-1].payload) == b"\0\3\0\1data"
            assert using.datagrams[-1].source == Endpoint(joined.address, 69)
            for _ in range(2):
                event = await ask(b"\0\4\0\1")
                assert event.destination.port == worker
        serving.stack.port_unreachable(
            event
        )  # the process has ended; what it did not take goes to the service
        serving.wake()
        await trio.sleep(0.5)
        assert serving.datagrams[-1].destination.port == 69
        assert len(joined.user.session._negotiation._flows._flows) == 1


@pytest.mark.parametrize(
    ("users", "source", "believed"),
    [
        ({53: {1000}, WORKER: {1000}}, OWN, True),
        ({53: {1000}, WORKER: {0}}, OWN, True),
        ({53: {0}, WORKER: {33}}, OWN, True),
        ({53: {1000}, WORKER: {1001}}, OWN, False),
        ({53: {0}, WORKER: {1000}}, OWN, False),
        ({53: {1000}, WORKER: {1000, 1001}}, OWN, False),
        ({53: {1000}}, OWN, False),
        ({53: {1000}, WORKER: {1000}}, bytes((192, 0, 2, 7)), False),
    ],
)
async def test_whose_port_is_believed_to_answer(
    users: dict[int, set[int]], source: bytes, believed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        joined.serving.daemon.listeners.users = users
        await joined.offer(Protocol.UDP, 53)
        using.send(5000, joined.address, 53, b"question")
        await trio.sleep(0.5)
        [event] = serving.datagrams
        serving.stack.send_datagram(Endpoint(source, WORKER), event.source, b"answer")
        serving.wake()
        await trio.sleep(0.5)
        assert [bytes(event.payload) for event in using.datagrams] == [b"answer"] * believed
        assert bool(serving.refused) is not believed
        answer_from(serving, 53, event, b"the service's own")
        await trio.sleep(0.5)
        assert bytes(using.datagrams[-1].payload) == b"the service's own"


async def test_what_was_answered_already_hears_no_other_port(autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        joined.serving.daemon.listeners.users = {53: {0}, WORKER: {0}}
        serving.answer = lambda event: b"answer"
        await joined.offer(Protocol.UDP, 53)
        using.send(5000, joined.address, 53, b"question")
        await trio.sleep(0.5)
        answer_from(serving, WORKER, serving.datagrams[0], b"from elsewhere")
        await trio.sleep(0.5)
        assert [bytes(event.payload) for event in using.datagrams] == [b"answer"]
