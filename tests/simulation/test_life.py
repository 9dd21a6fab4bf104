"""What happens around a link.

Readers that sleep, paths that go and return, peers that vanish, clocks that jump.
"""

import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from tests.simulation.linksim import Clock, Conditions, Node, Pipe, Sink, Source, connect, pair
from tunfwd import link as links
from tunfwd.link.link import Link
from tunfwd.link.streams import LINK_WINDOW, MAX_SEND_BUFFER, SEND_BUDGET

pytestmark = pytest.mark.heavy

LAN = Conditions(rate=12.5e6, delay=0.005)


class Choosy(Sink):
    """Reads all but some streams."""

    def __init__(self, node: Node, asleep: set[int]) -> None:
        super().__init__(node)
        self.asleep = asleep

    def step(self, node: Node) -> None:
        while (event := node.link.next_event()) is not None:
            if type(event) is links.StreamReadable and event.id not in self.asleep:
                self.read[event.id] = self.read.get(event.id, 0) + len(
                    node.link.stream_read(event.id, 1 << 30)
                )
            elif type(event) is links.StreamReadable:
                node.link.stream_read(event.id, 0)
            else:
                self.other.append(event)


def test_a_hundred_sleepers_among_a_thousand_hold_nobody_back() -> None:
    clock, a, b = pair(Conditions(rate=40e6, delay=0.005), 1)
    ids = range(1, 1001)
    asleep = set(range(1, 1001, 10))
    size = 80_000  # more than a stream may carry unread at first
    Source(a, ids, size)
    reader = Choosy(b, asleep)
    a.pump()
    clock.run(20.0, lambda: reader.total == 900 * size)
    assert {reader.read.get(id_) for id_ in ids if id_ not in asleep} == {size}
    assert clock.now < 4.0
    reader.asleep = set()
    for id_ in asleep:
        reader.read[id_] = len(b.link.stream_read(id_, 1 << 30))
    b.pump()
    clock.run(clock.now + 20.0, lambda: reader.total == 1000 * size)
    assert reader.total == 1000 * size


def test_sleepers_with_the_largest_windows_leave_room() -> None:
    """Streams that were fast, and then fall asleep with all the credit they had."""
    clock, a, b = pair(Conditions(rate=40e6, delay=0.005), 1)
    source = Source(a, range(1, 8), 0)
    reader = Choosy(b, set())
    for id_ in range(1, 7):
        source.more(a, id_, 60_000_000)
        clock.run(clock.now + 0.4)
        reader.asleep.add(id_)
    clock.run(clock.now + 1.0)
    assert LINK_WINDOW // 4 < b.link._streams._received - b.link._streams._consumed <= LINK_WINDOW
    before = clock.now
    source.more(a, 7, 20_000_000)
    clock.run(before + 3.0, lambda: reader.read.get(7) == 20_000_000)
    assert reader.read[7] == 20_000_000


def test_a_reader_that_never_reads_stops_its_sender() -> None:
    clock, a, b = pair(LAN, 1)
    Source(a, [1])
    Choosy(b, {1})
    a.pump()
    clock.run(30.0)
    assert a.link._streams.unacked <= MAX_SEND_BUFFER <= SEND_BUDGET
    assert a.link.next_timeout() is None  # nothing outstanding: silence
    sent = a.link.statistics.packets_sent
    clock.run(300.0)
    assert a.link.statistics.packets_sent == sent


def test_streams_take_turns() -> None:
    clock, a, b = pair(LAN, 1)
    Source(a, range(1, 11))
    sink = Sink(b)
    a.pump()
    clock.run(3.0)
    assert max(sink.read.values()) < 1.1 * min(sink.read.values())


def test_datagrams_do_not_silence_streams() -> None:
    clock, a, b = pair(Conditions(rate=1.25e6, delay=0.005, queue=30_000), 1)
    Source(a, [1])
    sink = Sink(b)

    def flood() -> None:
        for _ in range(20):
            a.link.send_datagram(1, bytes(1300))
        a.pump()
        clock.at(clock.now + 0.005, flood)

    flood()
    clock.run(5.0)
    assert sink.total > 0.05 * 1.25e6 * 5
    assert sum(type(event) is links.DatagramReceived for event in sink.other) * 1300 > 0.6 * 1.25e6 * 5


def test_udp_at_ten_thousand_a_second_loses_nothing() -> None:
    clock, a, b = pair(Conditions(rate=100e6, delay=0.0005), 1)
    sink = Sink(b)
    count = 0

    def tick() -> None:
        nonlocal count
        for _ in range(10):
            a.link.send_datagram(1, count.to_bytes(4, "little") * 300)
            count += 1
        a.pump()
        if clock.now < 2.0:
            clock.at(clock.now + 0.001, tick)

    tick()
    clock.run(3.0)
    datagrams = [event for event in sink.other if isinstance(event, links.DatagramReceived)]
    assert len(datagrams) == len(sink.other)
    assert [event.data[:4] for event in datagrams] == [n.to_bytes(4, "little") for n in range(count)]


def cut(clock: Clock, nodes: tuple[Node, Node], start: float, length: float, tell: bool = True) -> None:
    def down() -> None:
        for node in nodes:
            node.out.up = False
            if tell:
                node.link.path_lost(clock.now)

    def up() -> None:
        for node in nodes:
            node.out.up = True
            if tell:
                node.link.path_restored(clock.now)
            node.pump()

    clock.at(start, down)
    clock.at(start + length, up)


@pytest.mark.parametrize("tell", [True, False])
@pytest.mark.parametrize("controller", [links.Bbr, links.Cubic, links.NewReno])
def test_three_cuts_of_ten_seconds(
    controller: type[links.Bbr | links.Cubic | links.NewReno], tell: bool
) -> None:
    """Whether Tox notices that the path is gone or not; nothing is lost, and speed is back within seconds."""
    clock, a, b = pair(Conditions(rate=2.5e6, delay=0.02, queue=100_000), 1, controller)
    Source(a, [1], 30_000_000)
    sink = Sink(b)
    a.pump()
    sent = []
    for start in (2.0, 14.0, 26.0):
        cut(clock, (a, b), start, 10.0, tell)
        clock.at(start + 1, lambda: sent.append(a.link.statistics.packets_sent))
        clock.at(start + 9, lambda: sent.append(a.link.statistics.packets_sent))
    clock.run(70.0, lambda: sink.total == 30_000_000)
    assert sink.total == 30_000_000
    assert clock.now < 62.0
    if tell:
        assert sent[::2] == sent[1::2]  # silence while the path is down
    assert not a.link.closed


def test_a_path_that_comes_back_ten_times_slower() -> None:
    clock, a, b = pair(Conditions(rate=10e6, delay=0.005, queue=100_000), 1)
    Source(a, [1])
    sink = Sink(b)
    a.pump()
    cut(clock, (a, b), 2.0, 1.0)
    clock.at(2.5, lambda: setattr(a.out, "conditions", Conditions(rate=1e6, delay=0.1, queue=100_000)))
    clock.run(6.0)
    before = sink.total
    clock.run(16.0)
    assert sink.total - before > 0.75 * 1e6 * 10


@pytest.mark.parametrize("longer", [True, False], ids=["to a relay", "to a direct path"])
def test_another_path_without_an_outage(longer: bool) -> None:
    """The round trip grows fifty-fold, or shrinks, in mid-flight; both ends are told of the new path."""
    direct = Conditions(rate=10e6, delay=0.001, queue=200_000)
    relayed = Conditions(rate=5e6, delay=0.05, queue=1_000_000)
    first, second = (direct, relayed) if longer else (relayed, direct)
    clock, a, b = pair(first, 1)
    Source(a, [1])
    sink = Sink(b)
    a.pump()

    def move() -> None:
        for node in (a, b):
            node.out.conditions = second
            node.link.path_restored(clock.now)
            node.pump()

    clock.at(3.0, move)
    clock.run(5.0)
    before = sink.total
    clock.run(8.0)
    assert sink.total - before > 0.75 * second.rate * 3


STATES = ["fresh", "started", "busy", "finishing", "reset", "waiting"]


@pytest.mark.parametrize("state", STATES)
def test_the_peer_vanishes(state: str) -> None:
    """From every state: the link asks ever more rarely, holds what it has, and goes when it is told to."""
    clock, a, b = pair(LAN, 1)
    Source(a, [1], 3_000_000 if state != "fresh" else 0)
    sink = Sink(b)
    a.pump()
    clock.run(0.0001 if state == "started" else 0.05)
    if state == "finishing":
        a.link.stream_finish(1)
    elif state == "reset":
        a.link.stream_reset(1, 4)
    elif state == "waiting":
        clock.run(5.0)
    b.gone = True
    a.pump()
    sent = a.link.statistics.packets_sent
    clock.run(65.0)
    packets = a.link.statistics.packets_sent - sent
    assert packets < 400
    assert (packets == 0) == (state in ("fresh", "waiting"))
    a.link.close()
    a.pump()
    assert a.link.next_timeout() is None
    assert a.link.closed
    assert sink.total <= 3_000_000


def test_an_idle_link_is_silent() -> None:
    clock, a, b = pair(LAN, 1)
    Source(a, [1], 100_000)
    Sink(b)
    a.pump()
    clock.run(5.0)
    sent = a.link.statistics.packets_sent, b.link.statistics.packets_sent
    assert a.link.next_timeout() is None
    assert b.link.next_timeout() is None
    clock.run(3600.0)
    assert (a.link.statistics.packets_sent, b.link.statistics.packets_sent) == sent


@pytest.mark.parametrize("jump", [-5000.0, -0.5, -0.001, 0.5, 30.0, 4000.0])
def test_clock_jumps(jump: float) -> None:
    """The owner's clock steps, in the middle of a transfer, at one end and then at the other."""
    clock, a, b = pair(Conditions(rate=2.5e6, delay=0.02, queue=100_000), 1)
    skew = {a: 10_000.0, b: 10_000.0}

    class Skewed:
        def __init__(self, node: Node, link: Link) -> None:
            self.node, self.link = node, link

        def __getattr__(self, name: str) -> Any:
            return getattr(self.link, name)

        def receive(self, packets: Sequence[bytes], now: float) -> None:
            self.link.receive(packets, now + skew[self.node])

        def packets_to_send(self, now: float) -> list[bytes]:
            return self.link.packets_to_send(now + skew[self.node])

        def handle_timeout(self, now: float) -> None:
            self.link.handle_timeout(now + skew[self.node])

        def next_timeout(self) -> float | None:
            timeout = self.link.next_timeout()
            return None if timeout is None else timeout - skew[self.node]

    for node in (a, b):
        node.link = Skewed(node, node.link)  # type: ignore[assignment]  # the same but for the clock
    Source(a, [1], 10_000_000)
    sink = Sink(b)
    a.pump()

    def step(node: Node) -> None:
        skew[node] += jump
        node.pump()

    clock.at(1.0, step, a)
    clock.at(2.0, step, b)
    clock.run(20.0, lambda: sink.total == 10_000_000)
    assert sink.total == 10_000_000


def test_epochs_flip_in_mid_stream() -> None:
    """A peer that has started again: its packets are foreign to the old link, and the old ones to the new."""
    clock, a, b = pair(LAN, 1)
    Source(a, [1])
    sink = Sink(b)
    a.pump()
    clock.run(0.5)
    total = sink.total
    _, renewed = connect(clock, a.out, b.out, 5, epochs=(0x1111, 0x3333))
    renewed.peer, a.peer = a, renewed
    unread = Sink(renewed)
    clock.run(3.0)
    assert unread.total == 0
    assert renewed.link.statistics.foreign > 0
    assert sink.total - total < 1_000_000
    assert len(renewed.link._streams) == 0


@pytest.mark.parametrize("base", [(1 << 32) - 500, (1 << 31) - 500, (1 << 33) - 500])
def test_packet_numbers_past_32_bits(base: int) -> None:
    clock, a, b = pair(Conditions(rate=2.5e6, delay=0.02, loss=0.02, duplicate=0.02, reorder=0.02), 1)
    for node in (a, b):
        node.link.recovery._next_number = base
        node.link.recovery.largest_acked = base - 1
        node.link.recovery._skip = base + 100
        node.link._acks.expected = base
    source = Source(a, [1], 3_000_000)
    sink = Sink(b)
    a.pump()
    clock.run(20.0, lambda: sink.total == 3_000_000)
    assert sink.total == 3_000_000
    assert source.left[1] == 0
    assert a.link.recovery._next_number > base + 2000


def test_a_thousand_idle_streams_take_little() -> None:
    clock, a, b = pair(LAN, 1)
    Source(a, range(1, 1001), 3000)
    sink = Sink(b)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    a.pump()
    clock.run(10.0)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sink.total == 3_000_000
    assert used < 4_000_000  # both ends


def test_reset_and_stop_reach_the_other_side() -> None:
    clock, a, b = pair(LAN, 1)
    source = Source(a, [1, 2], 10_000_000)
    b.link.stream_open(1)
    b.link.stream_open(2)
    sink = Sink(b)
    a.pump()
    clock.run(0.1)
    a.link.stream_reset(1, 11)
    b.link.stream_stop(2, 12)
    a.pump()
    b.pump()
    clock.run(1.0)
    assert links.StreamReset(1, 11) in sink.other
    assert links.StreamStopped(2, 12) in source.other
    for node in (a, b):
        for id_ in (1, 2):
            node.link.stream_finish(id_)
            node.link.stream_stop(id_, 0)
        node.pump()
    clock.run(2.0)
    for node, app in ((a, source), (b, sink)):
        assert {1, 2} <= {event.id for event in app.other if type(event) is links.StreamClosed}
        assert len(node.link._streams) == 0
        assert node.link._streams._charged == 0
        assert node.link._streams.unacked == 0


def test_sparse_stream_does_not_wait_behind_bulk() -> None:
    """A byte written while ten streams are full leaves with the next packet."""
    rng = random.Random(1)
    clock = Clock()
    a, b = connect(clock, Pipe(clock, LAN, rng), Pipe(clock, LAN, rng))
    Source(a, range(1, 11))
    Sink(b)
    a.pump()
    clock.run(1.0)
    a.link.stream_open(99)
    a.link.stream_write(99, b"!")
    packets: list[bytes] = []
    while not packets:
        clock.now += 0.001
        packets = a.link.packets_to_send(clock.now)
    assert (99).to_bytes(4, "little") in packets[0]
