"""When the loop goes round, by the clock alone."""

from dataclasses import dataclass
from unittest.mock import Mock

import pytest

from tunfwd.tox.contacts import Friend
from tunfwd.tox.pacing import BURST, CALM, LINGER, LONGEST, ROUND, Pacing


@dataclass
class Queue:
    full: bool = False
    accepted: int = 0
    tried: float = 0.0
    wait: float = 0.0


def refuse(pacing: Pacing, queue: Queue, now: float, interval: float = 0.001) -> tuple[float, float]:
    pacing.refused(queue)
    return pacing.next_round(now, interval)


def test_idle_loop_keeps_toxcores_interval() -> None:
    earliest, latest = Pacing().next_round(100.0, 0.05)
    assert earliest <= 100.0
    assert latest == pytest.approx(100.05)


class Toxcore:
    """Says its interval, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def interval(self) -> float:
        self.asked += 1
        return 0.02


def test_toxcore_is_seldom_asked_for_its_interval_as_that_takes_longer_than_a_round() -> None:
    pacing, toxcore = Pacing(), Toxcore()
    for number in range(1000):
        assert pacing.interval(100.0 + number / 1000, toxcore.interval) == 0.02
    assert toxcore.asked == pytest.approx(1 / CALM, abs=1)


def test_toxcore_is_asked_in_each_round_while_lossless_packets_may_be_under_way() -> None:
    pacing, toxcore = Pacing(), Toxcore()
    friend = Friend(Mock(), pacing, Mock(), 0, bytes(32), "")
    pacing.interval(100.0, toxcore.interval)
    assert friend.send_lossless(b"\xa7")
    for number in range(10):
        pacing.interval(100.0 + number * 0.09 * LINGER, toxcore.interval)
    assert toxcore.asked == 11
    friend.send_lossy(b"\xc8")
    for number in range(10):
        pacing.interval(100.0 + LINGER + number / 1000, toxcore.interval)
    assert toxcore.asked == 12


def test_loop_that_hears_of_everything_rests_longer() -> None:
    pacing = Pacing()
    pacing.all_udp = True
    assert pacing.next_round(100.0, 0.05)[1] == pytest.approx(100.2)
    assert pacing.next_round(100.0, 0.02)[1] == pytest.approx(100.02)


def test_short_interval_is_rounded_up() -> None:
    assert Pacing().next_round(100.0, 0.001)[1] == pytest.approx(100.0 + ROUND)


def test_relayed_traffic_shortens_rounds_for_a_while() -> None:
    pacing = Pacing()
    pacing.relayed = True
    assert pacing.next_round(100.0, 0.05)[1] == pytest.approx(100.0 + ROUND)
    assert pacing.next_round(100.0 + 0.9 * LINGER, 0.05)[1] == pytest.approx(100.0 + 0.9 * LINGER + ROUND)
    assert pacing.next_round(100.0 + LINGER, 0.05)[1] == pytest.approx(100.0 + LINGER + 0.05)


def test_backlog_makes_the_next_round_immediate_once() -> None:
    pacing = Pacing()
    pacing.backlog = True
    assert pacing.next_round(100.0, 0.05)[1] == 100.0
    assert pacing.next_round(100.0, 0.05)[1] > 100.0


def test_refusal_keeps_the_loop_still_for_one_interval() -> None:
    earliest, latest = refuse(Pacing(), Queue(), 100.0, 0.008)
    assert earliest == pytest.approx(100.008)
    assert latest >= earliest


@pytest.mark.parametrize(
    ("accepted", "elapsed", "wait"),
    [
        (10, 0.1, 0.04),  # 100 packets/s: four credits
        (100, 0.01, 0.004),  # 10 000/s: no more often than rounds are
        (1000, 0.01, BURST * 0.00001),  # 100 000/s: no more than a burst
        (1, 1.9, LONGEST),  # the least rate
        (64, 60.0, ROUND),  # idle before: nothing is known
    ],
)
def test_full_queue_opens_when_credits_are_due(accepted: int, elapsed: float, wait: float) -> None:
    pacing, queue = Pacing(), Queue(accepted=accepted, tried=100.0)
    now = 100.0 + elapsed
    _, latest = refuse(pacing, queue, now, 0.0005)
    assert queue.wait == pytest.approx(wait)
    assert latest <= now + wait + 1e-6
    pacing.release(now + 0.9 * wait)
    assert queue.full
    pacing.release(now + wait + 1e-6)
    assert not queue.full
    assert queue.accepted == 0


def test_queue_that_takes_nothing_is_tried_ever_more_rarely() -> None:
    pacing, queue, now, waits = Pacing(), Queue(), 100.0, []
    for _ in range(8):
        refuse(pacing, queue, now, 0.05)
        waits.append(queue.wait)
        now += queue.wait
        pacing.release(now)
    assert waits[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert waits[-1] == LONGEST


def test_each_queue_has_its_own_time() -> None:
    pacing = Pacing()
    quick, slow = Queue(accepted=100, tried=99.9), Queue(accepted=10, tried=99.0)
    pacing.refused(quick)
    pacing.refused(slow)
    pacing.next_round(100.0, 0.001)
    pacing.release(100.1)
    assert (quick.full, slow.full) == (False, True)
    pacing.release(100.5)
    assert not slow.full


def test_spent_queue_opens_after_its_time_and_keeps_nobody_still() -> None:
    pacing, queue = Pacing(), Queue(accepted=40)
    pacing.spent(queue, ROUND)
    earliest, latest = pacing.next_round(100.0, 0.05)
    assert earliest <= 100.0
    assert latest == pytest.approx(100.0 + ROUND)
    assert queue.full
    pacing.release(100.0 + ROUND)
    assert not queue.full
    assert queue.accepted == 0
