"""Every byte arrives once and in order, whatever the path does."""

import os
import random

import pytest

from tests.simulation.linksim import Clock, Conditions, Node, pair
from tunfwd import link as links

pytestmark = pytest.mark.heavy

RUNS = 1000  # TUNFWD_SIMULATION_RUNS sets another number; 200 take a second


class Talker:
    """Sends random streams, control messages and datagrams.

    Checks what it gets against what the other meant to send.
    """

    def __init__(self, node: Node, rng: random.Random, first_id: int, streams: int, most: int) -> None:
        self.node = node
        self.rng = rng
        self.plan = {}
        self.ids = range(first_id, first_id + streams)
        for id_ in self.ids:
            self.plan[id_] = rng.randbytes(rng.choice((0, 1, rng.randrange(1, 3000), rng.randrange(1, most))))
        self.messages = [rng.randbytes(rng.randrange(1, 1374)) for _ in range(rng.randrange(8))]
        self.to_say = list(self.messages)
        self.datagrams = [
            rng.randbytes(rng.choice((0, 10, 1300, 5000, 65507))) for _ in range(rng.randrange(4))
        ]
        self.written = dict.fromkeys(self.ids, 0)
        self.finished: set[int] = set()
        self.received: dict[int, bytes] = {}
        self.heard: list[bytes] = []
        self.got_datagrams: list[bytes] = []
        self.ended: set[int] = set()
        self.closed: set[int] = set()
        node.app = self
        for id_ in self.ids:
            node.link.stream_open(id_)
        for datagram in self.datagrams:
            node.link.send_datagram(9, datagram)

    def step(self, node: Node) -> None:
        link = node.link
        while (event := link.next_event()) is not None:
            match event:
                case links.StreamReadable(id_):
                    limit = self.rng.choice((100, 5000, 1 << 20))
                    while data := link.stream_read(id_, limit):
                        self.received[id_] = self.received.get(id_, b"") + data
                case links.StreamEnded(id_):
                    self.ended.add(id_)
                    link.stream_finish(id_)
                case links.StreamClosed(id_):
                    self.closed.add(id_)
                case links.ControlReceived(message):
                    self.heard.append(message)
                case links.DatagramReceived(9, data):
                    self.got_datagrams.append(data)
                case links.StreamWritable():
                    pass
                case _:
                    raise AssertionError(f"unexpected {event}")
        if self.to_say:
            assert link.send_control(self.to_say.pop(0))
        for id_ in self.ids:
            plan, done = self.plan[id_], self.written[id_]
            if done < len(plan):
                piece = plan[done : done + self.rng.choice((1, 700, 60_000))]
                self.written[id_] += link.stream_write(id_, piece)
            if self.written[id_] == len(plan) and id_ not in self.finished:
                self.finished.add(id_)
                link.stream_finish(id_)

    def done(self) -> bool:
        return not self.to_say and len(self.closed) == 2 * len(self.ids)


def conditions(rng: random.Random) -> Conditions:
    return Conditions(
        rate=rng.choice((0, 125_000, 1_250_000, 12_500_000)),
        delay=rng.choice((0.0001, 0.005, 0.05)),
        queue=rng.choice((0, 20_000, 200_000)),
        loss=rng.choice((0, 0.01, 0.1, 0.3)),
        duplicate=rng.choice((0, 0.02, 0.2)),
        reorder=rng.choice((0, 0.02, 0.3)),
        corrupt=rng.choice((0, 0.05)),
    )


def run(seed: int) -> float:
    rng = random.Random(seed)
    controller = rng.choice((links.Bbr, links.Bbr, links.Cubic, links.NewReno))
    clock, a, b = pair(conditions(rng), seed, controller, conditions(rng))
    streams = rng.randrange(1, 5)
    talkers = Talker(a, rng, 1, streams, 60_000), Talker(b, rng, 1001, streams, 60_000)
    cuts = rng.random() < 0.3
    clock.at(0.0, a.pump)
    clock.at(0.0, b.pump)
    for node in (a, b):  # something to wake the applications that write in pieces
        for tick in range(1, 40):
            clock.at(tick * 0.02, node.pump)
    if cuts:
        for start, length in ((0.1, 0.5), (1.0, 3.0)):
            cut(clock, (a, b), start, length)

    def finished() -> bool:
        return talkers[0].done() and talkers[1].done()

    clock.run(600.0, finished)
    assert finished(), (seed, clock.now, [(t.done(), len(t.closed), t.to_say) for t in talkers])
    for one, other in (talkers, talkers[::-1]):
        assert one.heard == other.messages[: len(one.heard)], seed
        assert {id_: one.received.get(id_, b"") for id_ in other.ids} == other.plan, seed
        assert one.ended >= set(other.ids)
        assert set(one.got_datagrams) <= set(other.datagrams), seed
        assert len(one.got_datagrams) <= len(other.datagrams), seed
        assert not one.node.link.closed
    return clock.now


def cut(clock: Clock, nodes: tuple[Node, Node], start: float, length: float) -> None:
    def down() -> None:
        for node in nodes:
            node.out.up = False
            node.link.path_lost(clock.now)

    def up() -> None:
        for node in nodes:
            node.out.up = True
            node.link.path_restored(clock.now)
            node.pump()

    clock.at(start, down)
    clock.at(start + length, up)


@pytest.mark.timeout(1800)
def test_seeded_runs() -> None:
    for seed in range(int(os.environ.get("TUNFWD_SIMULATION_RUNS", RUNS))):
        run(seed)
