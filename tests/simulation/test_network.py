"""Speed, delay and fairness over a simulated bottleneck.

The figures the design promises, with a margin for the seed.
"""

import pytest

from tests.simulation.bottleneck import after_a_fall, beside_bulk, goodput, latencies, shares
from tunfwd import link as links

pytestmark = pytest.mark.heavy

Controller = links.Bbr | links.Cubic | links.NewReno


@pytest.mark.parametrize(
    ("rtt", "loss", "least"),
    [
        (0.01, 0, 0.90),
        (0.01, 0.01, 0.85),
        (0.01, 0.03, 0.85),
        (0.05, 0, 0.80),
        (0.05, 0.001, 0.8),
        (0.05, 0.03, 0.75),
    ],
)
def test_bbr_fills_the_bottleneck_whatever_is_lost(rtt: float, loss: float, least: float) -> None:
    assert goodput(rtt, loss, links.Bbr, 4.0) > least


@pytest.mark.parametrize("controller", [links.Cubic, links.NewReno])
def test_the_others_fill_it_without_loss(controller: type[Controller]) -> None:
    assert goodput(0.02, 0, controller, 4.0) > 0.85


def test_at_200_ms() -> None:
    assert goodput(0.2, 0.01, links.Bbr, 12.0) > 0.7


@pytest.mark.parametrize("rate", [8e3, 125e3])
def test_slow_paths(rate: float) -> None:
    assert goodput(0.1, 0, links.Bbr, 60.0, rate=rate) > 0.8


def test_second_stream_and_datagrams_under_load() -> None:
    """8 Mbit/s with 100 ms of buffer: at most 60 ms above the base for nearly all of them."""
    stream, stream_worst, datagram, datagram_worst = latencies(seconds=12.0)
    assert stream < 0.03
    assert datagram < 0.03
    assert stream_worst < 0.06
    assert datagram_worst < 0.06


@pytest.mark.parametrize(
    ("rate", "rtt", "queue", "most"),
    [
        (1e6, 0.02, 0.05, 0.025),
        (1e6, 0.02, 0.1, 0.025),
        (1e6, 0.02, 1.0, 0.025),
        (1e6, 0.1, 0.25, 0.08),
        (12.5e6, 0.02, 0.1, 0.02),
    ],
)
def test_who_has_little_to_say_waits_for_no_probe_and_no_standing_queue(
    rate: float, rtt: float, queue: float, most: float
) -> None:
    p99, share = beside_bulk(rate, rtt, queue=queue, seconds=20.0 if rate < 1e7 else 6.0)
    assert p99 < most
    assert share > 0.93


@pytest.mark.parametrize("seed", [2, 4, 6])
def test_a_queue_that_a_fall_of_the_rate_has_left_goes_away(seed: int) -> None:
    assert after_a_fall(seed) < 0.5


@pytest.mark.parametrize(
    ("first", "second", "least"),
    [(links.Bbr, links.Bbr, 0.25), (links.Cubic, links.Cubic, 0.25), (links.Bbr, links.Cubic, 0.1)],
)
def test_two_links_share_a_bottleneck(
    first: type[Controller], second: type[Controller], least: float
) -> None:
    one, other = shares(first, second, rate=2.5e6, seconds=30.0)
    assert one + other > 0.85
    assert min(one, other) > least
