"""Decides what happens to each frame on a link: when it arrives, whether it does, and how many times.

Pure: frames and the time go in, frames that are due come out. emulator.py moves them; no clock is read here.

    sender ─ queue (rate, drop-tail) ─ wire (loss, delay, jitter, reordering, duplication) ─ receiver
"""

import heapq
import random
from dataclasses import dataclass

MAX_IN_FLIGHT = 64 << 20  # bytes of one direction, a second at 500 Mbit/s; what comes on top is dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What one direction of a link does to the frames on it."""

    delay: float = 0.0  # s, one way
    jitter: float = 0.0  # s: each frame's delay is uniform within delay ± jitter; the order is kept
    loss: float = 0.0  # probability of each frame, after it has used its share of the rate
    duplicate: float = 0.0  # probability of a second copy
    reorder: float = 0.0  # probability of crossing without delay, past those that are under way
    rate: float = 0.0  # bit/s of Ethernet frames without their checksums; 0: no limit
    queue: float = 0.1  # s that a frame may wait for its turn at `rate`; else it is dropped
    up: bool = True  # False: the cable is cut, and what was under way is lost

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, from 0 to 100 %")
        for name in ("delay", "jitter", "rate", "queue"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} cannot be negative")


PERFECT = Conditions()


@dataclass(slots=True)
class Counters:
    """Frames of one direction since the start; sent = crossed + lost + overflowed + cut + those under way."""

    sent: int = 0
    bytes: int = 0
    crossed: int = 0
    lost: int = 0  # by chance
    overflowed: int = 0  # no room in the queue
    cut: int = 0  # the cable was out
    duplicated: int = 0  # second copies, counted nowhere else


class Direction:
    """The frames on their way from one host."""

    def __init__(self, conditions: Conditions, chance: random.Random) -> None:
        self.conditions = conditions
        self.counters = Counters()
        self._chance = chance
        self._queue_ends = 0.0  # when the last frame in the queue will have been put on the wire
        self._last_arrival = 0.0  # of those that keep their order
        self._under_way: list[tuple[float, int, bool, bytes]] = []  # heap: arrival, order sent, copy?
        self._bytes_under_way = 0

    def change(self, conditions: Conditions) -> None:
        """From now on. What is under way arrives as was decided when it was sent, unless the cable is cut."""
        self.conditions = conditions
        if not conditions.up:
            self.counters.cut += sum(not copy for _, _, copy, _ in self._under_way)
            self._under_way.clear()
            self._bytes_under_way = 0
        if not (conditions.up and conditions.rate):
            self._queue_ends = 0.0

    def send(self, frame: bytes, now: float) -> None:
        """A frame comes from the host."""
        conditions, counters = self.conditions, self.counters
        counters.sent += 1
        counters.bytes += len(frame)
        if not conditions.up:
            counters.cut += 1
            return
        leaves = now
        if conditions.rate:
            starts = max(now, self._queue_ends)
            if starts - now > conditions.queue:
                counters.overflowed += 1
                return
            leaves = self._queue_ends = starts + len(frame) * 8 / conditions.rate
        if self._bytes_under_way + len(frame) > MAX_IN_FLIGHT:
            counters.overflowed += 1
            return
        if conditions.loss and self._chance.random() < conditions.loss:
            counters.lost += 1
            return
        self._put_under_way(frame, leaves, copy=False)
        if conditions.duplicate and self._chance.random() < conditions.duplicate:
            counters.duplicated += 1
            self._put_under_way(frame, leaves, copy=True)

    def _put_under_way(self, frame: bytes, leaves: float, *, copy: bool) -> None:
        conditions = self.conditions
        if conditions.reorder and self._chance.random() < conditions.reorder:
            arrives = leaves
        else:
            delay = conditions.delay
            if conditions.jitter:
                delay += self._chance.uniform(-conditions.jitter, conditions.jitter)
            arrives = self._last_arrival = max(leaves, leaves + delay, self._last_arrival)
        order = self.counters.sent + self.counters.duplicated
        heapq.heappush(self._under_way, (arrives, order, copy, frame))
        self._bytes_under_way += len(frame)

    def next_arrival(self) -> float | None:
        """When arrived() will next have something."""
        return self._under_way[0][0] if self._under_way else None

    def arrived(self, now: float) -> list[bytes]:
        """The frames that have come to the other end by now, in their order of arrival."""
        frames = []
        while self._under_way and self._under_way[0][0] <= now:
            _, _, copy, frame = heapq.heappop(self._under_way)
            self._bytes_under_way -= len(frame)
            self.counters.crossed += not copy
            frames.append(frame)
        return frames
