"""Whose session is served when: once for each packet, however often what it does asks for more."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from tunfwd import faults
from tunfwd.daemon.datapath import journal
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Settings
from tunfwd.wire.packets import Protocol

from .joined import Host, Joined
from .simulated import Daemon


def count_servings(hosts: dict[str, Host]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for name, host in hosts.items():
        engine: Any = host.daemon.engine

        def serve(peer: Peer, until: float, name: str = name, real: Any = engine._serve_peer) -> None:
            counted[name] += 1
            real(peer, until)

        engine._serve_peer = serve
    return counted


def whose_turn(scheduler: Scheduler) -> Peer | None:
    turn = scheduler.next_turn()
    return None if turn is None else turn[0]


@pytest.mark.interpreted
async def test_each_packet_is_served_once(autojump_clock: trio.testing.MockClock) -> None:
    async with Joined.running(Settings(CARRIER_FEATURES)) as joined:
        kernel = joined.serving.kernel
        kernel.listening[8080] = lambda program: None
        await joined.offer(Protocol.TCP, 8080)
        client = joined.using.kernel.connect(joined.address, 8080)
        await trio.sleep(1)
        server = kernel.accepted.pop()
        counted = count_servings({"using": joined.using, "serving": joined.serving})
        for sent in range(1, 11):
            client.write(b"x")
            await trio.sleep(1)
            assert len(server.read) == sent
            assert counted == {"using": sent, "serving": sent}


async def test_what_is_touched_between_rounds_asks_for_one() -> None:
    alice = Daemon().befriend("alice")
    woken: list[int] = []
    scheduler = Scheduler(wake=lambda: woken.append(1))
    assert not scheduler.is_requested
    scheduler.touch(alice)
    scheduler.touch(alice)
    assert scheduler.is_requested
    assert len(woken) == 1
    scheduler.begin_round()
    assert whose_turn(scheduler) is alice
    assert whose_turn(scheduler) is None
    scheduler.end_round()
    assert not scheduler.has_work


async def test_what_is_touched_in_a_round_is_served_in_it() -> None:
    alice = Daemon().befriend("alice")
    scheduler = Scheduler()
    scheduler.begin_round()
    scheduler.touch(alice)
    assert whose_turn(scheduler) is alice
    scheduler.touch(alice)
    scheduler.served(alice)  # what it did to itself goes with what is about to be sent
    assert whose_turn(scheduler) is None
    scheduler.touch(alice)  # by something that came after
    scheduler.end_round()
    assert scheduler.is_requested


async def test_who_is_forgotten_has_no_turn() -> None:
    alice = Daemon().befriend("alice")
    scheduler = Scheduler()
    scheduler.touch(alice)
    scheduler.begin_round()
    assert whose_turn(scheduler) is alice
    scheduler.too_short(alice)
    scheduler.touch(alice)
    scheduler.forget(alice)
    assert scheduler.next_round() is None
    assert whose_turn(scheduler) is None


def test_what_is_put_off_is_done_once_and_alone() -> None:
    scheduler = Scheduler()
    done: list[str] = []

    def fails() -> None:
        done.append("fails")
        raise ValueError

    scheduler.afterwards(fails)
    scheduler.afterwards(lambda: done.append("next"))
    assert done == []
    scheduler.catch_up()
    scheduler.catch_up()
    assert done == ["fails", "next"]
    faults.tally.count = 0


async def test_who_connects_is_answered_before_that_is_logged(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    async with Joined.running(Settings(FEATURES)) as joined:
        await joined.offer(Protocol.TCP, 8080)
        joined.serving.kernel.listening[8080] = lambda _program: None
        using = joined.using.daemon
        write = using.device.write

        def answer(frame: Any) -> bool:
            order.append("answered")
            return bool(write(frame))

        monkeypatch.setattr(using.device, "write", answer)
        monkeypatch.setattr(
            journal, "opened", lambda peer, flow: order.append("logged") if peer in using.peers else None
        )
        joined.using.kernel.connect(joined.address, 8080)
        await trio.sleep(1)
    assert order.index("logged") > 0
