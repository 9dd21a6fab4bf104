"""What a link makes of a bottleneck: goodput, the delay of a second stream, the share beside another link."""

from __future__ import annotations

import random

from tests.simulation.linksim import Clock, Conditions, Node, Pipe, Sink, Source, connect, pair
from tunfwd import link as links

RATE = 12.5e6  # bytes/s


class Echo:
    """Returns each datagram, and each byte of stream 2; reads everything else."""

    def __init__(self, node: Node) -> None:
        self.total = 0  # bytes read of streams
        node.app = self

    def step(self, node: Node) -> None:
        while (event := node.link.next_event()) is not None:
            if type(event) is links.StreamReadable:
                data = node.link.stream_read(event.id, 1 << 30)
                self.total += len(data)
                if event.id == 2:
                    node.link.stream_write(2, data)
            elif type(event) is links.DatagramReceived:
                node.link.send_datagram(event.id, event.data)


class Pinger(Source):
    """Bulk on stream 1.

    Every 50 ms a byte on stream 2 and a datagram, whose ways back and forth are timed.
    """

    def __init__(self, node: Node, bulk: bool) -> None:
        super().__init__(node, [1] if bulk else [])
        node.link.stream_open(2)
        self.sent: dict[bytes, float] = {}
        self.stream_times: list[float] = []
        self.datagram_times: list[float] = []
        self.asked: float | None = None
        self.count = 0

    def step(self, node: Node) -> None:
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

    def ask(self, node: Node) -> None:
        if self.asked is None:
            self.asked = node.clock.now
            node.link.stream_write(2, b"?")
        data = self.count.to_bytes(8, "little")
        self.count += 1
        self.sent[data] = node.clock.now
        node.link.send_datagram(5, data)
        node.pump()
        node.clock.at(node.clock.now + 0.05, self.ask, node)


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


def beside_bulk(
    rate: float, rtt: float, *, queue: float = 0.1, jitter: float = 0.001, seconds: float = 20.0
) -> tuple[float, float]:
    """Return the 99th percentile of the stream's round trips above the base, and the goodput.

    Both from the third second on. `jitter`: as much as event loops and timers add.
    """
    there = Conditions(rate=rate, delay=rtt / 2, queue=rate * queue, jitter=jitter)
    clock, a, b = pair(there, 3, links.Bbr, Conditions(delay=rtt / 2, jitter=jitter))
    pinger = Pinger(a, bulk=True)
    echo = Echo(b)
    a.pump()
    pinger.ask(a)
    clock.run(3.0)
    pinger.stream_times.clear()
    before = echo.total
    clock.run(3.0 + seconds)
    times = sorted(pinger.stream_times)
    return times[len(times) * 99 // 100] - rtt, (echo.total - before) / (rate * seconds)


def after_a_fall(seed: int) -> float:
    """Return the round trip half a minute after a path has fallen to a twelfth of its rate.

    It has a second of queue, and somebody waits meanwhile.
    """
    there = Conditions(rate=12.5e6, delay=0.01, queue=1.25e6, jitter=0.001)
    clock, a, b = pair(there, seed, links.Bbr, Conditions(delay=0.01, jitter=0.001))
    pinger = Pinger(a, bulk=True)
    Echo(b)
    a.pump()
    clock.run(8.0)
    there.rate = there.queue = 1e6
    clock.at(8.5, pinger.ask, a)
    clock.run(38.0)
    assert a.link.round_trip is not None
    return a.link.round_trip


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
