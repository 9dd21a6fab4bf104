"""The link that the emulator lays between hosts, under a virtual clock."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.link import MAX_IN_FLIGHT, Conditions, Direction

FRAME = bytes(1250)  # 10 000 bits: 1 ms at 10 Mbit/s
MBIT = 1e6


def direction(seed: int = 0, **conditions: float | bool) -> Direction:
    return Direction(Conditions(**conditions), random.Random(seed))  # type: ignore[arg-type]


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") + bytes(1246) for number in range(count)]


def arrivals(link: Direction, until: float = 1e6) -> list[tuple[float, bytes]]:
    """All that arrives, each with the time that was foretold for it."""
    seen = []
    while (time := link.next_arrival()) is not None and time <= until:
        seen += [(time, frame) for frame in link.arrived(time)]
    return seen


def test_perfect_link_delivers_at_once() -> None:
    link = direction()
    link.send(FRAME, 5.0)
    assert link.arrived(5.0) == [FRAME]
    assert link.next_arrival() is None


def test_delay_passes_before_arrival() -> None:
    link = direction(delay=0.025)
    link.send(FRAME, 1.0)
    assert link.arrived(1.0249) == []
    assert link.next_arrival() == 1.025
    assert link.arrived(1.025) == [FRAME]


def test_rate_spaces_frames() -> None:
    link = direction(rate=10 * MBIT, delay=0.5)
    for frame in (first := numbered(3)):
        link.send(frame, 0.0)
    assert [frame for _, frame in arrivals(link)] == first
    for frame in numbered(3):
        link.send(frame, 10.0)
    assert [time for time, _ in arrivals(link)] == pytest.approx([10.501, 10.502, 10.503])


def test_queue_is_drop_tail() -> None:
    link = direction(rate=10 * MBIT, queue=0.0105)
    for frame in (sent := numbered(100)):
        link.send(frame, 0.0)
    assert [frame for _, frame in arrivals(link)] == sent[:11]
    assert link.counters.overflowed == 89


def test_queue_drains_with_time() -> None:
    link = direction(rate=10 * MBIT, queue=0.0005)
    link.send(FRAME, 0.0)
    link.send(FRAME, 0.0)
    link.send(FRAME, 0.0006)
    assert len(arrivals(link)) == 2
    assert link.counters.overflowed == 1


def test_memory_is_bounded_without_a_rate() -> None:
    link = direction(delay=3600)
    frame = bytes(1 << 20)
    for _ in range(100):
        link.send(frame, 0.0)
    assert len(arrivals(link)) == MAX_IN_FLIGHT >> 20
    assert link.counters.overflowed == 100 - (MAX_IN_FLIGHT >> 20)


def test_loss_is_as_likely_as_asked_and_repeats_with_the_seed() -> None:
    def survivors(seed: int) -> list[bytes]:
        link = direction(seed, loss=0.1)
        for frame in numbered(10_000):
            link.send(frame, 0.0)
        return link.arrived(0.0)

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)
    assert 8_800 < len(survivors(1)) < 9_200


def test_lost_frames_use_the_rate() -> None:
    link = direction(rate=10 * MBIT, loss=1.0, queue=0.0105)
    for frame in numbered(100):
        link.send(frame, 0.0)
    assert link.counters.lost == 11
    assert link.counters.overflowed == 89


def test_jitter_varies_within_bounds_and_keeps_the_order() -> None:
    link = direction(delay=0.05, jitter=0.01)
    sent = numbered(1000)
    for number, frame in enumerate(sent):
        link.send(frame, number * 0.02)  # further apart than the jitter: each delay shows
    seen = arrivals(link)
    delays = [time - number * 0.02 for number, (time, _) in enumerate(seen)]
    assert [frame for _, frame in seen] == sent
    assert 0.04 <= min(delays) < 0.042
    assert 0.058 < max(delays) <= 0.06 + 1e-9


def test_reordered_frames_overtake() -> None:
    link = direction(delay=0.05, reorder=0.1)
    for number, frame in enumerate(numbered(1000)):
        link.send(frame, number * 0.001)
    order = [int.from_bytes(frame[:4], "big") for _, frame in arrivals(link)]
    assert sorted(order) == list(range(1000))
    assert 50 < sum(late < early for early, late in itertools.pairwise(order)) < 150


def test_duplicates_are_second_copies() -> None:
    link = direction(duplicate=1.0)
    link.send(FRAME, 0.0)
    assert link.arrived(0.0) == [FRAME, FRAME]
    assert (link.counters.crossed, link.counters.duplicated) == (1, 1)


def test_cut_cable_loses_what_is_under_way_and_what_is_sent() -> None:
    link = direction(delay=1.0)
    link.send(FRAME, 0.0)
    link.change(Conditions(delay=1.0, up=False))
    link.send(FRAME, 0.5)
    assert link.next_arrival() is None
    assert link.counters.cut == 2
    link.change(Conditions(delay=1.0))
    link.send(FRAME, 2.0)
    assert [time for time, _ in arrivals(link)] == [3.0]


def test_change_holds_for_later_frames() -> None:
    link = direction(delay=1.0)
    link.send(FRAME, 0.0)
    link.change(Conditions(delay=3.0))
    link.send(FRAME, 0.0)
    assert [time for time, _ in arrivals(link)] == [1.0, 3.0]


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.1}, {"loss": -0.1}, {"delay": -1.0}, {"rate": float("nan")}, {"duplicate": 2.0}]
)
def test_impossible_conditions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Conditions(**wrong)  # type: ignore[arg-type]


shares = st.floats(0, 1)


@given(
    conditions=st.builds(
        Conditions,
        delay=st.floats(0, 1),
        jitter=st.floats(0, 1),
        loss=shares,
        duplicate=shares,
        reorder=shares,
        rate=st.one_of(st.just(0.0), st.floats(1e4, 1e9)),
        queue=st.floats(0, 1),
    ),
    gaps=st.lists(st.floats(0, 0.1), max_size=60),
    cut_after=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_every_frame_is_accounted_for(
    conditions: Conditions, gaps: list[float], cut_after: int, seed: int
) -> None:
    link = Direction(conditions, random.Random(seed))
    now, seen = 0.0, 0
    for number, gap in enumerate(gaps):
        if number == cut_after:
            link.change(Conditions(up=False))
        now += gap
        link.send(FRAME, now)
        seen += len(link.arrived(now))
    seen += len(arrivals(link))
    counters = link.counters
    assert counters.sent == len(gaps)
    assert counters.sent == counters.crossed + counters.lost + counters.overflowed + counters.cut
    assert counters.crossed <= seen <= counters.crossed + counters.duplicated
