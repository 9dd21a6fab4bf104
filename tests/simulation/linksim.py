"""A network with a virtual clock: links at both ends of paths that delay, queue, lose, repeat, reorder and
corrupt.

Everything random is seeded, so that a run can be repeated exactly.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from tunfwd import link as links
from tunfwd.link import Link

PREFIX = b"\xc9\x02"


class Clock:
    """Events in order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, time: float, action: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action, args))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)
        if not done():
            self.now = until


@dataclass
class Conditions:
    rate: float = 0.0  # bytes/s; 0: without limit
    delay: float = 0.005  # s, one way
    jitter: float = 0.0  # s: each packet's delay is uniform within delay ± jitter; the order is kept
    queue: float = 0.0  # bytes at the bottleneck; 0: without limit
    loss: float = 0.0  # probabilities, for each packet
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0


class Pipe:
    """One direction of a path."""

    def __init__(self, clock: Clock, conditions: Conditions, rng: random.Random) -> None:
        self.clock = clock
        self.conditions = conditions
        self.rng = rng
        self.busy_until = 0.0
        self._last_arrival = 0.0  # of those that keep their order
        self.up = True
        self.delivered_bytes = 0
        self.overflows = 0
        self.delays: list[float] = []

    def send(self, packet: bytes, deliver: Callable[[bytes], None]) -> None:
        c, clock = self.conditions, self.clock
        if not self.up or (c.loss and self.rng.random() < c.loss):
            return
        leave = clock.now
        if c.rate:
            start = max(self.busy_until, clock.now)
            if c.queue and (start - clock.now) * c.rate + len(packet) > c.queue:
                self.overflows += 1
                return
            leave = self.busy_until = start + len(packet) / c.rate
        if c.corrupt and self.rng.random() < c.corrupt:
            packet = self._corrupt(packet)
        arrive = leave + c.delay
        if c.jitter:
            arrive = max(arrive + self.rng.uniform(-c.jitter, c.jitter), self._last_arrival)
            self._last_arrival = arrive
        if c.reorder and self.rng.random() < c.reorder:
            arrive += self.rng.random() * 4 * c.delay
        self.delivered_bytes += len(packet)
        clock.at(arrive, deliver, packet)
        if c.duplicate and self.rng.random() < c.duplicate:
            clock.at(arrive + self.rng.random() * c.delay, deliver, packet)

    def _corrupt(self, packet: bytes) -> bytes:
        """Garbage after a good header, or nothing good at all. (Tox authenticates.

        What decodes is what was sent.)
        """
        if self.rng.random() < 0.5:
            return packet[:10] + b"\xff" + self.rng.randbytes(len(packet) - 11)
        return self.rng.randbytes(len(packet))


class App(Protocol):
    def step(self, node: Node) -> None:
        """Act on what has happened, until nothing is left to do."""


class Node:
    """A link, the pipe it sends into, and an application that is called after everything that happens."""

    def __init__(self, clock: Clock, link: Link, out: Pipe) -> None:
        self.clock = clock
        self.link = link
        self.out = out
        self.peer: Node
        self.app: App | None = None
        self.gone = False
        self._timer: float | None = None
        self._pumping = False

    def deliver(self, packet: bytes) -> None:
        if not self.gone:
            self.link.receive((packet,), self.clock.now)
            self.pump()

    def pump(self) -> None:
        if self.gone:
            return
        now = self.clock.now
        if self.app is not None:
            self.app.step(self)
        while packets := self.link.packets_to_send(now):
            for packet in packets:
                self.out.send(packet, self.peer.deliver)
        self._schedule()

    def _schedule(self) -> None:
        timeout = self.link.next_timeout()
        if timeout is not None and (self._timer is None or timeout < self._timer):
            self._timer = max(timeout, self.clock.now)
            self.clock.at(self._timer, self._wake, self._timer)

    def _wake(self, timer: float) -> None:
        if self._timer != timer or self.gone:
            return
        self._timer = None
        timeout = self.link.next_timeout()
        if timeout is not None and timeout <= self.clock.now:
            self.link.handle_timeout(self.clock.now)
            self.pump()
        else:
            self._schedule()


def connect(
    clock: Clock,
    there: Pipe,
    back: Pipe,
    seed: int = 0,
    controller: type = links.Bbr,
    *,
    epochs: tuple[int, int] = (0x1111, 0x2222),
    **options: Any,
) -> tuple[Node, Node]:
    """Two nodes whose links know each other."""
    a = Node(
        clock,
        Link(*epochs, random.Random(seed), clock.now, prefix=PREFIX, controller=controller, **options),
        there,
    )
    b = Node(
        clock,
        Link(
            *epochs[::-1], random.Random(seed + 1), clock.now, prefix=PREFIX, controller=controller, **options
        ),
        back,
    )
    a.peer, b.peer = b, a
    return a, b


def pair(
    conditions: Conditions, seed: int = 0, controller: type = links.Bbr, back: Conditions | None = None
) -> tuple[Clock, Node, Node]:
    """A clock and two nodes on a path of their own, the same both ways unless `back` says otherwise."""
    clock = Clock()
    rng = random.Random(seed)
    there = Pipe(clock, conditions, rng)
    return clock, *connect(clock, there, Pipe(clock, back or conditions, rng), seed, controller)


class Source:
    """Writes streams of endless, or so many, bytes."""

    CHUNK = bytes(range(256)) * 256

    def __init__(self, node: Node, ids: Collection[int], size: float = float("inf")) -> None:
        self.left = dict.fromkeys(ids, size)
        self.writable = set(ids)
        self.other: deque[links.Event] = deque()
        for id_ in ids:
            node.link.stream_open(id_)
        node.app = self

    def step(self, node: Node) -> None:
        while (event := node.link.next_event()) is not None:
            if type(event) is links.StreamWritable:
                self.writable.add(event.id)
            else:
                self.other.append(event)
        if self.writable:
            for id_ in sorted(self.writable):
                self._write(node, id_)

    def _write(self, node: Node, id_: int) -> None:
        left = self.left[id_]
        while left > 0:
            chunk = self.CHUNK if left >= len(self.CHUNK) else self.CHUNK[: int(left)]
            taken = node.link.stream_write(id_, chunk)
            left -= taken
            if taken < len(chunk):
                break
        self.left[id_] = left
        self.writable.discard(id_)

    def more(self, node: Node, id_: int, size: float) -> None:
        """Write so much more to a stream that has been written out."""
        self.left[id_] = size
        self.writable.add(id_)
        node.pump()


class Sink:
    """Reads everything, and counts by stream."""

    def __init__(self, node: Node) -> None:
        self.read: dict[int, int] = {}
        self.other: deque[links.Event] = deque()
        node.app = self

    def step(self, node: Node) -> None:
        while (event := node.link.next_event()) is not None:
            if type(event) is links.StreamReadable:
                data = node.link.stream_read(event.id, 1 << 30)
                self.read[event.id] = self.read.get(event.id, 0) + len(data)
            else:
                self.other.append(event)

    @property
    def total(self) -> int:
        return sum(self.read.values())
