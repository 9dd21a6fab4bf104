"""Datagrams of programs here, through two whole daemons, in moments that are hard to come by otherwise."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Settings
from tunfwd.wire.packets import Feature, Protocol

from .joined import Joined


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
