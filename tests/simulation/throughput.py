"""Prints goodput by controller over a bottleneck of 100 Mbit/s.

python tests/simulation/throughput.py [SECONDS]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from linksim import Conditions, Sink, Source, pair

from tunfwd.link import Bbr, Cubic, NewReno

RATE = 12.5e6  # bytes/s


def goodput(
    rtt: float, loss: float, controller: type, seconds: float, *, seed: int = 1, rate: float = RATE
) -> float:
    """Share of the bottleneck that reaches the application, start-up included.

    The buffer holds one round trip.
    """
    queue = max(rate * rtt, 50_000)
    there = Conditions(rate=rate, delay=rtt / 2, queue=queue, loss=loss)
    back = Conditions(delay=rtt / 2, loss=loss)
    clock, a, b = pair(there, seed, controller, back)
    Source(a, [1])
    sink = Sink(b)
    a.pump()
    clock.run(seconds)
    return sink.total / (rate * seconds)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
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


if __name__ == "__main__":
    main()
