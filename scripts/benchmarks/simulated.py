"""Prints what links make of simulated bottlenecks: goodput, the delay of a second stream, and shares.

python -m scripts.benchmarks.simulated [SECONDS]
"""

import sys

from tests.simulation.bottleneck import goodput, latencies, shares
from tunfwd.link import Bbr, Cubic, NewReno


def print_goodput(seconds: float) -> None:
    print(f"goodput as a share of 100 Mbit/s, {seconds:g} s with start-up, buffer of one round trip")
    print(
        f"{'':>10} "
        + " ".join(f"{f'{rtt} ms {loss:g} %':>13}" for rtt in (10, 50, 200) for loss in (0, 0.1, 1, 3))
    )
    for controller in (Bbr, Cubic, NewReno):
        cells = [
            goodput(rtt / 1000, loss / 100, controller, seconds)
            for rtt in (10, 50, 200)
            for loss in (0, 0.1, 1, 3)
        ]
        print(f"{controller.__name__:>10} " + " ".join(f"{cell:>13.2f}" for cell in cells), flush=True)


def print_latencies() -> None:
    print("8 Mbit/s, 20 ms, 100 ms of buffer, bulk: ms above the base (median, 95 %) of stream and datagram")
    for controller in (Bbr, Cubic, NewReno):
        values = latencies(controller)
        print(
            f"{controller.__name__:>10} " + " ".join(f"{value * 1000:>8.1f}" for value in values), flush=True
        )


def print_shares() -> None:
    print("100 Mbit/s, 40 ms: shares of two links, by buffer in round trips")
    pairs = [
        (Bbr, Bbr),
        (Cubic, Cubic),
        (Bbr, Cubic),
        (Bbr, NewReno),
    ]
    for one, other in pairs:
        for buffer in (0.5, 1.0, 2.0):
            a, b = shares(one, other, buffer=buffer)
            print(f"{one.__name__:>8} and {other.__name__:>8} {buffer:>5}: {a:.2f} {b:.2f}", flush=True)


if __name__ == "__main__":
    print_goodput(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
    print_latencies()
    print_shares()
