"""Broadcasts of this machine go to the contacts whose port they are for, and to nobody else."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tunfwd.daemon.datapath.fanout import ALL_COPIES, DENIED, MAX_PORTS, PORT_COPIES, FanOut
from tunfwd.forwarding.udp_flows import UNASKED_IDLE
from tunfwd.netstack import Endpoint
from tunfwd.netstack.events import Broadcast, Datagram
from tunfwd.wire.packets import Protocol

from .joined import OWN, Joined
from .simulated import Daemon

ALL = bytes((255, 255, 255, 255))
PORT = 8303


class Party:
    """A daemon with friends that serve, and what was sent to each."""

    def __init__(self, count: int, port: int = PORT, **options: Any) -> None:
        self.daemon = Daemon()
        self.sent: list[Datagram] = []
        self.fan_out = FanOut(self.daemon.peers, self.sent.append, **options)
        self.peers = [self.daemon.befriend(f"friend{number}") for number in range(count)]
        mapping: Any = object()
        for peer in self.peers:
            peer.ports[Protocol.UDP, port] = mapping

    def broadcast(self, port: int = PORT, destination: bytes = ALL, source: bytes = OWN) -> int:
        """How many copies went out."""
        before = len(self.sent)
        payload = memoryview(b"anybody?")
        self.fan_out.broadcast(Broadcast(Endpoint(source, 4000), Endpoint(destination, port), payload))
        return len(self.sent) - before


async def test_each_gets_it_at_its_own_address() -> None:
    party = Party(3)
    del party.peers[1].ports[Protocol.UDP, PORT]
    party.daemon.engine.offline(party.peers[2])
    party.daemon.befriend("who offers nothing")
    assert party.broadcast() == 1
    [copy] = party.sent
    assert copy.source == Endpoint(OWN, 4000)
    assert party.peers[0].address is not None
    assert copy.destination == Endpoint(party.peers[0].address.packed, PORT)
    assert not copy.packet
    assert party.broadcast(PORT + 1) == 0
    assert list(party.fan_out.ports) == [PORT]


async def test_over_ipv6_they_are_asked_at_theirs() -> None:
    party = Party(1)
    assert party.broadcast(source=bytes(15) + b"\1", destination=b"\xff\2" + bytes(14)) == 1
    assert party.sent[0].destination.address == party.peers[0].address6.packed


@pytest.mark.parametrize("port", sorted(DENIED))
async def test_names_and_addresses_are_asked_of_nobody(port: int) -> None:
    """A contact that was accepted at such a port could be taken for whatever is looked for."""
    party = Party(3, port)
    assert party.broadcast(port) == 0
    assert party.fan_out.denied == 1


async def test_it_can_be_switched_off() -> None:
    assert Party(3, enabled=False).broadcast() == 0


async def test_what_is_sent_too_often_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    party = Party(4)
    while party.broadcast():
        pass
    assert PORT_COPIES[0] <= len(party.sent) <= PORT_COPIES[0] + 4
    assert party.fan_out.over_rate == 1
    party.sent.clear()
    for _ in range(1000):
        await trio.sleep(0.01)
        party.broadcast()
    assert len(party.sent) == pytest.approx(10 / PORT_COPIES[1], rel=0.02)


async def test_many_ports_have_a_bound_in_all(autojump_clock: trio.testing.MockClock) -> None:
    party = Party(4)
    mapping: Any = object()
    for port in range(1000, 1000 + 2 * MAX_PORTS):
        for peer in party.peers:
            peer.ports[Protocol.UDP, port] = mapping
        for _ in range(64):
            party.broadcast(port)
    assert len(party.sent) <= ALL_COPIES[0] + 4
    assert len(party.fan_out.ports) == MAX_PORTS


async def test_a_crowd_is_asked_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    party = Party(300)
    assert party.broadcast() == 300


async def test_what_was_sent_is_said() -> None:
    party = Party(2)
    party.broadcast()
    party.broadcast()
    [entry] = party.fan_out.entries(trio.current_time())
    assert (entry["port"], entry["contacts"], entry["broadcasts"], entry["copies"]) == (PORT, 2, 2, 4)


async def test_a_question_to_all_is_answered_from_the_contact_s_address(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        serving.answer = lambda event: b"here I am"
        await joined.offer(Protocol.UDP, PORT)
        using.send(4000, ALL, PORT, b"anybody?")
        await trio.sleep(0.5)
        [asked] = serving.datagrams
        assert (bytes(asked.payload), asked.source.port) == (b"anybody?", PORT)
        [answer] = using.datagrams
        assert (answer.source, answer.destination) == (Endpoint(joined.address, PORT), Endpoint(OWN, 4000))
        using.send(4000, joined.address, PORT, b"let me in")  # by the same flow
        await trio.sleep(0.5)
        assert serving.datagrams[-1].source == asked.source
        [entry] = joined.using.daemon.datapath.fan_out.entries(trio.current_time())
        assert entry["copies"] == 1


async def test_nobody_is_told_that_nobody_answers(autojump_clock: trio.testing.MockClock) -> None:
    """A kernel answers no broadcast with an error; and the flow goes soon, at both ends."""
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        await joined.offer(Protocol.UDP, PORT)
        using.send(4000, ALL, PORT, b"anybody?")
        await trio.sleep(0.5)
        assert len(joined.server.session.mappings[0].flows) == 1
        await trio.sleep(UNASKED_IDLE)
        assert not joined.server.session.mappings[0].flows
        assert not joined.user.session.mappings[0].flows
        using.send(4000, ALL, PORT, b"anybody?")
        await trio.sleep(0.5)
        serving.stack.port_unreachable(serving.datagrams[-1])
        serving.wake()
        await trio.sleep(1.0)
        using.send(4000, ALL, PORT, b"x" * 60000)
        await trio.sleep(100.0)
        assert using.refused == []


async def test_what_a_contact_sends_goes_to_one(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever it says, its datagrams come to our service alone, and start no fan-out."""
    async with Joined.running() as joined:
        await joined.offer(Protocol.UDP, PORT)
        joined.using.kernel.send(4000, joined.address, PORT, b"to you")
        await trio.sleep(0.5)
        assert [event.destination.port for event in joined.serving.kernel.datagrams] == [PORT]
        assert not joined.serving.daemon.datapath.fan_out.ports


async def test_a_storm_of_answers_goes_to_who_asked_and_no_further(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A contact that answers one question a thousand times: nothing of ours goes out in return."""
    async with Joined.running() as joined:
        using, serving = joined.using, joined.serving
        serving.kernel.answer = lambda event: b"here I am"
        await joined.offer(Protocol.UDP, PORT)
        using.kernel.send(4000, ALL, PORT, b"anybody?")
        await trio.sleep(0.5)
        [asked] = serving.kernel.datagrams
        sent = joined.server.session.mappings[0].tx_bytes
        for number in range(1000):
            serving.kernel.stack.send_datagram(asked.destination, asked.source, b"and here %d" % number)
            serving.kernel.wake()
        await trio.sleep(5.0)
        heard = using.kernel.datagrams
        assert len(heard) > 100
        assert {event.destination for event in heard} == {Endpoint(OWN, 4000)}
        assert {event.source for event in heard} == {Endpoint(joined.address, PORT)}
        assert joined.server.session.mappings[0].tx_bytes == sent
        [entry] = using.daemon.datapath.fan_out.entries(trio.current_time())
        assert (entry["broadcasts"], entry["copies"]) == (1, 1)
        assert len(serving.kernel.datagrams) == 1
