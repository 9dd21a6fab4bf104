"""The receiving half of a connection: puts segments in order and decides what window to offer.

Fed by connection.py with segments it found acceptable; read by the owner. RFC 9293 3.10.7.4 (seventh and
eighth step) and 3.8.6.2.2, RFC 2018.
"""

import enum
from bisect import bisect_right
from operator import attrgetter
from typing import Final

from tunfwd.netstack.byte_queue import ByteQueue
from tunfwd.wire import tcp

CAPACITY: Final = 1 << 20  # bytes read in and not read out; also the largest window
WINDOW_SCALE: Final = 8
MAX_UNSCALED_WINDOW: Final = 65535  # bytes; all that a SYN, or a peer without window scaling, can be told
UPDATE_STEP: Final = CAPACITY // 4  # bytes by which the window must have opened to be worth a segment
MAX_RANGES: Final = 256  # islands kept beyond a gap; what would make more is dropped, and sent again


class Arrival(enum.Enum):
    """What a segment brought."""

    IN_ORDER = enum.auto()
    OUT_OF_ORDER = enum.auto()
    """Beyond a gap, or received already: acknowledged at once, so that the sender learns of the gap."""


class _Range:
    """An island of bytes beyond a gap."""

    __slots__ = ("data", "end", "start", "touched")

    def __init__(self, start: int, touched: int) -> None:
        self.start = start
        self.end = start
        self.touched = touched
        self.data = ByteQueue()

    def append(self, chunk: memoryview) -> None:
        self.data.append(chunk)
        self.end += len(chunk)


_start = attrgetter("start")
_touched = attrgetter("touched")


class ReceiveBuffer:
    """Reassembles one direction of one connection. Sequence numbers are unwrapped."""

    __slots__ = ("_arrivals", "_fin", "_ranges", "_ready", "edge", "finished", "next", "window_scale")

    def __init__(self) -> None:
        self.next = 0
        """The first sequence number not received (RCV.NXT)."""
        self.edge = 0
        """The right edge of the window as the peer knows it; it never moves back."""
        self.window_scale = 0
        self.finished = False
        """Whether the peer's FIN has been reached."""
        self._ready = ByteQueue()
        self._ranges: list[_Range] = []  # sorted, disjoint, not adjacent
        self._fin: int | None = None
        self._arrivals = 0

    def begin(self, first: int, window_scale: int) -> None:
        """Expect `first`, with the window that a SYN offers."""
        self.next = first
        self.edge = first + MAX_UNSCALED_WINDOW
        self.window_scale = window_scale

    def __len__(self) -> int:
        """Bytes that can be read."""
        return self._ready.size

    def acceptable(self, start: int, end: int) -> bool:
        """Whether a segment that occupies start..end touches the window (RFC 9293 3.10.7.4, first step).

        An empty one may also stand at the right edge: it is where a peer that has used up its window sends
        acknowledgments from.
        """
        if start == end:
            return self.next <= start <= self.edge
        return start < self.edge and end > self.next

    def insert(self, start: int, data: memoryview, fin: bool) -> Arrival:
        """Take an acceptable segment's data and FIN, cut to the window."""
        end = start + len(data)
        if fin and self._fin is None and end <= self.edge:
            self._fin = end
        limit = self.edge if self._fin is None else min(self.edge, self._fin)
        if end > limit:
            data = data[: limit - start] if limit > start else data[:0]
        if start < self.next:
            data = data[self.next - start :]
            start = self.next
        if start > self.next:
            if data:
                self._keep(start, data)
            return Arrival.OUT_OF_ORDER
        if data:
            self._fill(data)
        elif self._fin != self.next or self.finished:
            return Arrival.OUT_OF_ORDER
        if self.next == self._fin and not self.finished:
            self.finished = True
            self.next += 1
        return Arrival.IN_ORDER

    def _keep(self, start: int, data: memoryview) -> None:
        """Store data beyond a gap, less what is there already."""
        self._arrivals += 1
        ranges = self._ranges
        index = bisect_right(ranges, start, key=_start)
        end = start + len(data)
        if index and ranges[index - 1].end >= start:  # continues, or lies within, an island
            island = ranges[index - 1]
        elif len(ranges) >= MAX_RANGES:
            return
        else:
            island = _Range(start, 0)
            ranges.insert(index, island)
            index += 1
        island.touched = self._arrivals
        while island.end < end:
            following = ranges[index] if index < len(ranges) else None
            stop = end if following is None else min(end, following.start)
            if stop > island.end:
                island.append(data[island.end - start : stop - start])
            if following is None or following.start > island.end:
                return
            island.data.extend(following.data)
            island.end = following.end
            del ranges[index]

    def _fill(self, data: memoryview) -> None:
        """Append data at `next`, and the islands that it reaches."""
        start, end = self.next, self.next + len(data)
        while self._ranges and self._ranges[0].start <= end:
            island = self._ranges.pop(0)
            if island.start > self.next:
                self._ready.append(data[self.next - start : island.start - start])
            self._ready.extend(island.data)
            self.next = island.end
        if self.next < end:
            self._ready.append(data[self.next - start :])
            self.next = end

    def sack_blocks(self) -> list[tuple[int, int]]:
        """Return the islands, the one extended last first (RFC 2018 4), as many as an option holds."""
        if not self._ranges:
            return []
        latest = sorted(self._ranges, key=_touched, reverse=True)[: tcp.MAX_SACK_BLOCKS]
        return [(island.start, island.end) for island in latest]

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes in order."""
        return bytes(self._ready.take(limit))

    def _reachable(self) -> int:
        """Return how far the window could extend now."""
        room = CAPACITY - self._ready.size
        if self.window_scale == 0:
            room = min(room, MAX_UNSCALED_WINDOW)
        return self.next + room

    def update_due(self) -> bool:
        """Whether the window has opened far enough to tell the peer of it without being asked."""
        step = UPDATE_STEP if self.window_scale else MAX_UNSCALED_WINDOW // 2
        return not self.finished and self._reachable() - self.edge >= step

    def advertise(self) -> int:
        """Return the window field of a segment sent now, which the peer may use from now on."""
        field = max(self._reachable() - self.next, self.edge - self.next) >> self.window_scale
        field = max(0, min(field, MAX_UNSCALED_WINDOW))
        self.edge = max(self.edge, self.next + (field << self.window_scale))
        return field
