"""The sending half of a stream: bytes written and not yet acknowledged, and which of them to send next.

Bytes live in blocks of 64 KiB, so that any range of them is found by a shift, whatever was acknowledged or
lost in between, and an idle stream holds none. link.py asks for ranges; recovery.py reports what became of
them.
"""

from __future__ import annotations

from typing import Final, Protocol

from tunfwd.common.errors import Misuse
from tunfwd.link.ranges import RangeSet

_BLOCK_BITS: Final = 16
_BLOCK: Final = 1 << _BLOCK_BITS
_BLOCK_MASK: Final = _BLOCK - 1


class Activity(Protocol):
    """Where a half tells that its situation has changed."""

    def sendable(self, half: SendStream) -> None:
        """The half may have something to send that it had not."""

    def progressed(self, half: SendStream, freed: int) -> None:
        """`freed` bytes more are acknowledged, or the half is done."""


class SendStream:
    """Our bytes of one stream."""

    __slots__ = (
        "_acked",
        "_activity",
        "_blocks",
        "_fin_acked",
        "_fin_sent",
        "_missing",
        "_partial",
        "active",
        "base",
        "blocked",
        "finished",
        "id",
        "limit",
        "lost_ranges",
        "reset_acked",
        "reset_reason",
        "sent",
        "written",
    )

    def __init__(self, id_: int, limit: int, activity: Activity) -> None:
        self.id = id_
        self.base = 0  # all below is acknowledged
        self.sent = 0  # all below has been sent at least once
        self.written = 0
        self.limit = limit  # the peer's credit
        self.finished = False
        self.reset_reason: int | None = None
        self.reset_acked = False
        self.active = False  # in the link's queue of streams with something to send
        self.blocked = False  # the owner waits for room
        self.lost_ranges: RangeSet | None = None
        self._activity = activity
        self._blocks: dict[int, bytearray] = {}
        self._partial = -1  # the block whose first `_missing` bytes are not held
        self._missing = 0
        self._acked: RangeSet | None = None  # above base
        self._fin_sent = False
        self._fin_acked = False

    @property
    def done(self) -> bool:
        """Whether the peer has everything, or knows that it will not get it."""
        return self.reset_acked or (self._fin_acked and self.base == self.written)

    @property
    def unacked(self) -> int:
        """Bytes held here."""
        return self.written - self.base if self.reset_reason is None else 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take `data` over; the caller has made sure of the room."""
        if self.finished or self.reset_reason is not None:
            raise Misuse("write to a finished stream")
        view = memoryview(data)
        position = 0
        while position < len(view):
            block = self._blocks.get(self.written >> _BLOCK_BITS)
            if block is None:
                block = self._blocks[self.written >> _BLOCK_BITS] = bytearray()
                if self.written & _BLOCK_MASK:  # its beginning was acknowledged, and dropped, before
                    self._partial = self.written >> _BLOCK_BITS
                    self._missing = self.written & _BLOCK_MASK
            piece = view[position : position + _BLOCK - (self.written & _BLOCK_MASK)]
            block += piece
            self.written += len(piece)
            position += len(piece)
        self._activity.sendable(self)

    def finish(self) -> None:
        """End the half after what was written."""
        if not self.finished and self.reset_reason is None:
            self.finished = True
            self._activity.sendable(self)

    def reset(self, reason: int) -> bool:
        """Give up what the peer has not acknowledged; whether a ResetStream is to be sent."""
        if self.done or self.reset_reason is not None:
            return False
        self.reset_reason = reason
        self._blocks.clear()
        self._acked = self.lost_ranges = None
        return True

    def ready(self, credit: int) -> int:
        """Return how many new bytes may be sent, by what is written, the stream's credit and the link's."""
        return min(min(self.written, self.limit) - self.sent, credit)  # of two at a time compiles to C

    def has_pending(self, credit: int) -> bool:
        """Whether `take` has something."""
        if self.reset_reason is not None:
            return False
        sent = self.sent
        if sent < self.written and sent < self.limit and credit > 0:
            return True
        if self.finished and not self._fin_sent and sent == self.written:
            return True
        return self.lost_ranges is not None and bool(self.lost_ranges)

    def take(self, room: int, credit: int) -> tuple[int, int, bool]:
        """Return the next [start, stop) to send and whether it is the end. Call only if `has_pending`."""
        if self.lost_ranges:
            start = self.lost_ranges.starts[0]
            stop = min(self.lost_ranges.stops[0], start + room)
            self.lost_ranges.remove(start, stop)
        else:
            start = self.sent
            stop = self.sent = start + min(room, self.ready(credit))
        fin = self.finished and stop == self.written
        if fin:
            self._fin_sent = True
        return start, stop, fin

    def data(self, start: int, stop: int) -> bytes | bytearray:
        """Return the bytes of a range that is not acknowledged."""
        index = start >> _BLOCK_BITS
        first = start & _BLOCK_MASK
        length = stop - start
        if not length:
            return b""
        if index == self._partial:
            first -= self._missing
        data = self._blocks[index][first : first + length]
        if len(data) < length:
            data += self._blocks[index + 1][: length - len(data)]
        return data

    def acked(self, start: int, stop: int, fin: bool) -> None:
        """Forget a range: the peer has it."""
        if self.reset_reason is not None:
            return
        if fin:
            self._fin_acked = True
        if self.lost_ranges:
            self.lost_ranges.remove(start, stop)
        before = self.base
        if start <= before:
            base = max(before, stop)
            if self._acked is not None:
                self._acked.pop_below(base)
                if self._acked.starts and self._acked.starts[0] == base:
                    base = self._acked.stops[0]
                    self._acked.pop_below(base)
                if not self._acked:
                    self._acked = None
            self.base = base
            for index in range(before >> _BLOCK_BITS, base >> _BLOCK_BITS):
                del self._blocks[index]
            if base == self.written:
                self._blocks.clear()
        else:
            if self._acked is None:
                self._acked = RangeSet()
            self._acked.add(start, stop)
        if self.base != before or fin:
            self._activity.progressed(self, self.base - before)

    def lost(self, start: int, stop: int, fin: bool) -> None:
        """Send a range again: it was in a packet that is lost, or may be."""
        if self.reset_reason is not None:
            return
        start = max(start, self.base)
        for gap in self._acked.missing(start, stop) if self._acked is not None else [(start, stop)]:
            if gap[0] < gap[1]:
                if self.lost_ranges is None:
                    self.lost_ranges = RangeSet()
                self.lost_ranges.add(*gap)
        if fin and not self._fin_acked:
            self._fin_sent = False
        self._activity.sendable(self)
