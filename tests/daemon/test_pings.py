"""Round trips to a contact, over a carrier that loses packets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tunfwd.daemon.peers import Peer

from .joined import Joined

PING, PONG = b"\xc9\x00", b"\xc9\x01"


def losing(joined: Joined, prefix: bytes, count: int) -> None:
    """The serving side's packets that begin so are lost, so many of them."""
    engine = joined.using.daemon.engine if prefix == PONG else joined.serving.daemon.engine
    receive, left = engine.lossy, count

    def lossy(peer: Peer, data: bytes) -> None:
        nonlocal left
        if data.startswith(prefix) and left:
            left -= 1
        else:
            receive(peer, data)

    engine.lossy = lossy  # type: ignore[method-assign]


@pytest.mark.interpreted
@pytest.mark.parametrize("lost", [PING, PONG])
async def test_a_ping_that_is_lost_is_followed_by_another(
    lost: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with Joined.running() as joined:
        await trio.sleep(1)
        losing(joined, lost, 2)
        began = trio.current_time()
        took = await joined.using.daemon.pings.ping(joined.server)
        assert trio.current_time() - began == pytest.approx(2, abs=0.5)
        assert took is not None
        assert took < 0.5, "the round trip of the Ping that was answered"


@pytest.mark.interpreted
async def test_pings_end_with_who_asked(autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running() as joined:
        await trio.sleep(1)
        losing(joined, PING, 1000)
        with trio.move_on_after(30) as scope:
            await joined.using.daemon.pings.ping(joined.server)
        assert scope.cancelled_caught
        sent = len(joined.using.daemon.pings._waiting)
        await trio.sleep(30)
        assert len(joined.using.daemon.pings._waiting) == sent
