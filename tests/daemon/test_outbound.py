"""What programs here are told where a contact's service cannot be reached, as their own network would."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tunfwd.common.values import Reason
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.session import CARRIER_FEATURES, Settings
from tunfwd.wire.packets import Protocol

from .joined import Joined, Program


def connect(joined: Joined, port: int) -> Program:
    return joined.using.kernel.connect(joined.address, port)


async def test_a_port_where_nothing_is_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running() as joined:
        program = connect(joined, 81)
        joined.using.kernel.send(5000, joined.address, 81, b"anybody there?")
        await trio.sleep(0.5)
        assert program.said == ["ConnectFailed", "refused"]
        [refused] = joined.using.kernel.refused
        assert (refused.source.port, refused.destination.port) == (5000, 81)


async def test_a_service_that_has_ended_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running() as joined:
        await joined.offer(Protocol.TCP, 80)
        program = connect(joined, 80)
        await trio.sleep(0.5)
        assert program.said == ["ConnectFailed", "refused"]
        [mapping] = joined.server.session.mappings
        assert joined.server.details_of(mapping).answers.trouble == "refused 1 x"


@pytest.mark.parametrize("protocol", list(Protocol))
async def test_who_is_away_is_unreachable(protocol: Protocol, autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running() as joined:
        await joined.offer(protocol, 53)
        away: Peer = joined.server
        joined.using.daemon.engine.offline(away)
        await trio.sleep(0.1)
        if protocol is Protocol.TCP:
            program = connect(joined, 53)
            await trio.sleep(5.0)
            assert program.said == ["ConnectFailed", "unreachable"]
        else:
            joined.using.kernel.send(5000, joined.address, 53, b"anybody there?")
            await trio.sleep(5.0)
            assert not joined.serving.kernel.datagrams
            assert [refused.reason for refused in joined.using.kernel.refused] == [Reason.UNREACHABLE]


async def test_a_datagram_larger_than_packets_carry_is_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without a link to cut it into pieces."""
    async with Joined.running(Settings(CARRIER_FEATURES)) as joined:
        await joined.offer(Protocol.UDP, 53)
        joined.using.kernel.send(5000, joined.address, 53, bytes(1400))
        joined.using.kernel.send(5000, joined.address, 53, b"small")
        await trio.sleep(0.5)
        assert [bytes(event.payload) for event in joined.serving.kernel.datagrams] == [b"small"]


async def test_a_datagram_after_the_contact_went_away_finds_no_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A flow that stands is no way either, until the contact is back."""
    async with Joined.running() as joined:
        await joined.offer(Protocol.UDP, 53)
        send = joined.using.kernel.send
        send(5000, joined.address, 53, b"one")
        await trio.sleep(0.5)
        joined.using.daemon.engine.offline(joined.server)
        send(5000, joined.address, 53, b"two")
        await trio.sleep(0.5)
        joined.using.daemon.engine.online(joined.server)
        joined.serving.daemon.engine.offline(joined.user)
        joined.serving.daemon.engine.online(joined.user)
        await trio.sleep(2.0)
        send(5000, joined.address, 53, b"three")
        await trio.sleep(2.0)
        assert [bytes(event.payload) for event in joined.serving.kernel.datagrams] == [b"one", b"three"]
