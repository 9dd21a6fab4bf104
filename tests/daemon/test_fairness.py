"""A contact that sends all it can has the time that others leave. Work is counted; no test measures time.

The clock goes on with the work that sessions do: each packet costs what its sender makes it cost.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import trio

from tunfwd.daemon.datapath.engine import FLOOD, FLOOD_BURST, FLOOD_INTERVAL, MAX_INBOX
from tunfwd.daemon.datapath.scheduler import REST, TURN, TURN_ALONE
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.process.repeats import BURST, Repeats
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import CARRIER_FEATURES
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Direction, Hello, Kill, Offer, Protocol, encode

from .simulated import Daemon

CHEAP, DEAR = 1e-6, 2e-4  # s of work for a packet


class Work:
    """Time that passes only with work; who did how much of it, and in which order."""

    def __init__(self) -> None:
        self.now = 100.0
        self.packets: Counter[str] = Counter()
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def cost(self, peer: Peer, seconds: float) -> None:
        """Make each lossy packet of a peer cost so much."""
        receive = peer.session.receive_lossy

        def counted(packet: bytes, now: float) -> None:
            self.now += seconds
            self.packets[peer.name] += 1
            self.order.append(peer.name)
            receive(packet, now)

        session: Any = peer.session
        session.receive_lossy = counted


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def daemon(work: Work) -> Daemon:
    return Daemon(clock=work)


def arrive(daemon: Daemon, peer: Peer, count: int = 1) -> None:
    for _ in range(count):
        daemon.contacts.lossy(peer.contact, b"\xc8" + bytes(20))


@pytest.mark.interpreted
async def test_who_is_not_behind_goes_first(daemon: Daemon, work: Work) -> None:
    """In each round one turn of the flood, and all that a friend has sent before it."""
    eve, bob = daemon.befriend("eve"), daemon.befriend("bob")
    work.cost(eve, DEAR)
    work.cost(bob, CHEAP)
    arrive(daemon, eve, MAX_INBOX)
    daemon.contacts.iterated()
    for _ in range(100):
        work.order.clear()
        before = work.packets["eve"]
        arrive(daemon, eve, 100)
        arrive(daemon, bob, 3)
        daemon.contacts.iterated()
        assert work.order[:3] == ["bob"] * 3
        assert work.packets["eve"] - before <= TURN / DEAR + 2
    assert work.packets["bob"] == 300


@pytest.mark.interpreted
async def test_a_flood_leaves_time_to_others(daemon: Daemon, work: Work) -> None:
    """Beside a friend it rests after each turn, for as long as the turn was."""
    eve, bob = daemon.befriend("eve"), daemon.befriend("bob")
    work.cost(eve, DEAR)
    work.cost(bob, CHEAP)
    began = work.now
    for _ in range(1000):
        arrive(daemon, eve, 10)
        arrive(daemon, bob)
        daemon.contacts.iterated()
        work.now += TURN / 10
    assert work.packets["bob"] == 1000
    assert work.packets["eve"] * DEAR <= (work.now - began) / (1 + REST) + TURN_ALONE


@pytest.mark.interpreted
async def test_alone_it_has_all_the_time_there_is(daemon: Daemon, work: Work) -> None:
    eve = daemon.befriend("eve")
    work.cost(eve, DEAR)
    work.now += 10.0
    arrive(daemon, eve, 40)
    daemon.contacts.iterated()
    assert work.packets["eve"] == 40
    assert not daemon.is_behind


@pytest.mark.interpreted
async def test_two_that_are_behind_take_turns(daemon: Daemon, work: Work) -> None:
    eve, mallory = daemon.befriend("eve"), daemon.befriend("mallory")
    for peer in (eve, mallory):
        work.cost(peer, DEAR)
        arrive(daemon, peer, MAX_INBOX)
    for _ in range(60):
        daemon.engine.round()
        work.now += TURN
    assert abs(work.packets["eve"] - work.packets["mallory"]) <= TURN_ALONE / DEAR


@pytest.mark.interpreted
async def test_an_inbox_is_bounded_and_nothing_is_left_over(daemon: Daemon, work: Work) -> None:
    eve = daemon.befriend("eve")
    work.cost(eve, CHEAP)
    arrive(daemon, eve, 3 * MAX_INBOX)
    assert len(eve.inbox) == MAX_INBOX
    assert eve.session.counters["inbox_full"] == 2 * MAX_INBOX
    daemon.settle()
    assert work.packets["eve"] == MAX_INBOX
    assert not eve.inbox


@pytest.mark.interpreted
async def test_dear_packets_are_taken_in_one_by_one(daemon: Daemon, work: Work) -> None:
    """However many wait, a turn is over by not much more than what one of them costs."""
    eve, bob = daemon.befriend("eve"), daemon.befriend("bob")
    work.cost(eve, 10 * TURN)
    for _ in range(10):
        arrive(daemon, eve, 50)
        arrive(daemon, bob)
        daemon.contacts.iterated()
        work.now += 100 * TURN
    before = work.packets["eve"]
    arrive(daemon, bob)
    daemon.contacts.iterated()
    assert work.packets["eve"] - before == 1


@pytest.mark.interpreted
async def test_what_came_before_a_contact_left_is_read(daemon: Daemon, work: Work) -> None:
    eve = daemon.befriend("eve")
    work.cost(eve, CHEAP)
    arrive(daemon, eve, 5)
    daemon.contacts.contact_offline(eve.contact)
    assert work.packets["eve"] == 5
    assert not eve.inbox


@pytest.mark.interpreted
async def test_who_is_removed_has_no_turn(daemon: Daemon, work: Work) -> None:
    eve, bob = daemon.befriend("eve"), daemon.befriend("bob")
    work.cost(eve, DEAR)
    arrive(daemon, bob)
    arrive(daemon, eve, 200)
    daemon.contacts.iterated()
    assert daemon.is_behind
    daemon.contacts.contact_offline(eve.contact)
    daemon.contacts.contact_removed(eve.contact)
    assert not daemon.is_behind
    daemon.settle()


# Who floods.


def flood(daemon: Daemon, peer: Peer, count: int) -> None:
    """Have packets arrive for an id that nobody knows."""
    for start in range(0, count, MAX_INBOX):
        arrive(daemon, peer, min(count - start, MAX_INBOX))
        daemon.settle()


async def next_look(daemon: Daemon) -> None:
    """Until after it was looked who floods."""
    await trio.sleep(FLOOD_INTERVAL + 0.01)
    daemon.settle()


@pytest.fixture
def judged(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> list[set[object]]:
    """Who was found to flood, at each look."""
    judged: list[set[object]] = []
    monkeypatch.setattr(daemon.policing, "judge", judged.append)
    return judged


async def test_packets_to_no_avail_are_a_flood(
    daemon: Daemon, judged: list[set[object]], autojump_clock: object
) -> None:
    eve, bob = daemon.befriend("eve"), daemon.befriend("bob")
    for _ in range(5):
        flood(daemon, eve, int(FLOOD_BURST / 2))
        flood(daemon, bob, 3)
        await next_look(daemon)
    assert judged[-1] == {eve.contact}
    assert not any(bob.contact in flooding for flooding in judged)
    await next_look(daemon)
    assert judged[-1] == set()  # it has stopped
    for _ in range(3):
        flood(daemon, eve, int(2 * FLOOD * FLOOD_INTERVAL))
        await next_look(daemon)
    assert judged[-1] == {eve.contact}  # it has not: nothing more is tolerated so soon


async def test_what_was_on_its_way_when_a_stream_ended_is_no_flood(
    daemon: Daemon, judged: list[set[object]], autojump_clock: object
) -> None:
    """It would cost the contact its datagrams, half of which the filter drops."""
    eve = daemon.befriend("eve")
    for _ in range(10):
        for _ in range(3):
            flood(daemon, eve, int(FLOOD_BURST / 4))
            await next_look(daemon)
        await trio.sleep(FLOOD_BURST / FLOOD)
        daemon.settle()
    assert eve.session.counters["data_unknown"] == 30 * int(FLOOD_BURST / 4)
    assert set().union(*judged) == set()


# What it leaves in the log and on the disk.


async def test_offers_and_kills_without_end_are_a_few_lines(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """Each line that a contact can cause says who, so that it is summed up."""
    caplog.set_level(logging.INFO)
    daemon = Daemon(
        rules=(Rule(Action.ACCEPT, ports=(range(8000, 8100),)), Rule(Action.DENY, ports=(range(1, 50),)))
    )
    eve = daemon.befriend("eve")
    hear(daemon, eve, Hello(CARRIER_FEATURES, 7))
    for number in range(3000):
        port = (20, 8080, 9000)[number % 3]
        hear(daemon, eve, Offer(2 + number, Protocol.TCP, Direction.SERVER, port, "web"), Kill(2 + number))
    about_eve = [record for record in caplog.records if "eve" in record.getMessage()]
    assert about_eve
    assert all(getattr(record, "cause", ("",))[0] == eve.id for record in about_eve)
    held = Repeats()
    lines = [(vars(record)["cause"], str(record.msg)) for record in about_eve]
    written = sum(held.admit(cause, kind, "", 0.0) for cause, kind in lines)
    assert len(about_eve) > 10 * written
    assert written <= 5 * BURST
    assert not eve.session.mappings
    assert not eve.ports


def hear(daemon: Daemon, peer: Peer, *packets: Hello | Offer | Kill) -> None:
    for packet in packets:
        daemon.contacts.lossless(peer.contact, encode(FRIEND, packet))
        daemon.settle()
