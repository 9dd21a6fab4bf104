"""Prints what links sharing a bottleneck do to each other: delay of a second stream, and shares of bandwidth.

python tests/simulation/shared.py
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from linksim import Clock, Conditions, Pipe, Sink, Source, connect, pair

from tunfwd import link as links


class Echo:
    """Returns each datagram, and each byte of stream 2; reads everything else."""

    def __init__(self, node) -> None:
        node.app = self

    def step(self, node) -> None:
        while (event := node.link.next_event()) is not None:
            if type(event) is links.StreamReadable:
                data = node.link.stream_read(event.id, 1 << 30)
                if event.id == 2:
                    node.link.stream_write(2, data)
            elif type(event) is links.DatagramReceived:
                node.link.send_datagram(event.id, event.data)


class Pinger(Source):
    """Bulk on stream 1.

    Every 50 ms a byte on stream 2 and a datagram, whose ways back and forth are timed.
    """

    def __init__(self, node, bulk: bool) -> None:
        super().__init__(node, [1] if bulk else [])
        node.link.stream_open(2)
        self.sent: dict[bytes, float] = {}
        self.stream_times: list[float] = []
        self.datagram_times: list[float] = []
        self.asked: float | None = None
        self.count = 0

    def step(self, node) -> None:
        super().step(node)
        while self.other:
            event = self.other.popleft()
            if (
                type(event) is links.StreamReadable
                and node.link.stream_read(2, 10)
                and self.asked is not None
            ):
                self.stream_times.append(node.clock.now - self.asked)
                self.asked = None
            elif type(event) is links.DatagramReceived:
                self.datagram_times.append(node.clock.now - self.sent.pop(event.data))

    def ask(self, node) -> None:
        if self.asked is None:
            self.asked = node.clock.now
            node.link.stream_write(2, b"?")
        data = self.count.to_bytes(8, "little")
        self.count += 1
        self.sent[data] = node.clock.now
        node.link.send_datagram(5, data)
        node.pump()
        node.clock.at(node.clock.now + 0.05, self.ask, node)


def latencies(
    controller: type = links.Bbr,
    rate: float = 1e6,
    rtt: float = 0.02,
    queue: float = 0.1,
    seconds: float = 20.0,
) -> tuple[float, float, float, float]:
    """Median and 95th percentile above the base, of the stream and of datagrams, from the third second on."""
    there = Conditions(rate=rate, delay=rtt / 2, queue=rate * queue)
    clock, a, b = pair(there, 3, controller)
    pinger = Pinger(a, bulk=True)
    Echo(b)
    a.pump()
    pinger.ask(a)
    clock.run(3.0)
    pinger.stream_times.clear()
    pinger.datagram_times.clear()
    clock.run(seconds)
    found = []
    for times in (pinger.stream_times, pinger.datagram_times):
        times.sort()
        found += [times[len(times) // 2] - rtt, times[len(times) * 95 // 100] - rtt]
    return found[0], found[1], found[2], found[3]


def shares(
    first: type,
    second: type,
    *,
    rate: float = 12.5e6,
    rtt: float = 0.04,
    buffer: float = 1.0,
    seconds: float = 30.0,
) -> tuple[float, float]:
    """What two links get of one bottleneck; the second begins 2 s later. Measured over the second half."""
    clock = Clock()
    rng = random.Random(5)
    there = Pipe(clock, Conditions(rate=rate, delay=rtt / 2, queue=max(rate * rtt * buffer, 30_000)), rng)
    back = Pipe(clock, Conditions(delay=rtt / 2), rng)
    sinks = []
    for index, controller in enumerate((first, second)):
        a, b = connect(clock, there, back, 10 * index, controller)
        Source(a, [1])
        sinks.append(Sink(b))
        clock.at(2.0 * index, a.pump)
    clock.run(seconds / 2)
    before = [sink.total for sink in sinks]
    clock.run(seconds)
    first_share, second_share = (
        (sink.total - b) / (rate * seconds / 2) for sink, b in zip(sinks, before, strict=True)
    )
    return first_share, second_share


def main() -> None:
    print("8 Mbit/s, 20 ms, 100 ms of buffer, bulk: ms above the base (median, 95 %) of stream and datagram")
    for controller in (links.Bbr, links.Cubic, links.NewReno):
        values = latencies(controller)
        print(
            f"{controller.__name__:>10} " + " ".join(f"{value * 1000:>8.1f}" for value in values), flush=True
        )
    print("100 Mbit/s, 40 ms: shares of two links, by buffer in round trips")
    pairs = [
        (links.Bbr, links.Bbr),
        (links.Cubic, links.Cubic),
        (links.Bbr, links.Cubic),
        (links.Bbr, links.NewReno),
    ]
    for one, other in pairs:
        for buffer in (0.5, 1.0, 2.0):
            a, b = shares(one, other, buffer=buffer)
            print(f"{one.__name__:>8} and {other.__name__:>8} {buffer:>5}: {a:.2f} {b:.2f}", flush=True)


if __name__ == "__main__":
    main()
