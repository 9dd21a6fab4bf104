"""The receiving half of a stream.

Bytes that arrived, put in order, and the credit the sender has for more.
"""

from bisect import insort
from collections import deque
from typing import Final

from tunfwd.link.errors import PeerViolation
from tunfwd.link.ranges import RangeSet

# bytes; smaller pieces are put together, so that a peer cannot make us hold millions of objects
_SMALL: Final = 512
_HEAP: Final = 32768  # bytes; up to which they are


class Gaps:
    """What arrived beyond a gap: non-overlapping pieces by offset."""

    __slots__ = ("_have", "_offsets", "_pieces")

    def __init__(self) -> None:
        self._have = RangeSet()
        self._offsets: list[int] = []
        self._pieces: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, data: bytes) -> None:
        """Keep what of `data` is not here yet. What is here is never replaced."""
        stop = offset + len(data)
        for start, end in self._have.missing(offset, stop):
            self._pieces[start] = data[start - offset : end - offset]
            insort(self._offsets, start)
        self._have.add(offset, stop)

    def take(self, offset: int) -> list[bytes]:
        """Return all that continues a stream which is whole up to `offset`; what is below is forgotten."""
        self._have.pop_below(offset)
        stop = self._have.stops[0] if self._have.starts and self._have.starts[0] == offset else offset
        count = 0
        pieces: list[bytes] = []
        for start in self._offsets:
            if start >= stop:
                break
            count += 1
            piece = self._pieces.pop(start)
            end = start + len(piece)
            if end > offset:
                pieces.append(piece[offset - start :] if start < offset else piece)
                offset = end
        del self._offsets[:count]
        self._have.pop_below(stop)
        return pieces


class ReceiveStream:
    """The peer's bytes of one stream."""

    __slots__ = (
        "_gaps",
        "_ready",
        "ended",
        "final_size",
        "granted",
        "highest",
        "id",
        "read_offset",
        "readable",
        "received",
        "reset_reason",
        "stop_reason",
        "window",
    )

    def __init__(self, id_: int, window: int) -> None:
        self.id = id_
        self.received = 0  # all below has arrived
        self.highest = 0  # one above the last byte seen: what counts as credit used
        self.read_offset = 0
        self.granted = window  # offsets below may be sent to us
        self.window = window
        self.final_size: int | None = None
        self.reset_reason: int | None = None
        self.stop_reason: int | None = None  # why we read no further, if so
        self.readable = False  # the owner has been told
        self.ended = False  # the owner has been told of the end
        self._ready: deque[bytes | bytearray] = deque()
        self._gaps: Gaps | None = None

    @property
    def stopped(self) -> bool:
        """Whether we read no further."""
        return self.stop_reason is not None

    @property
    def done(self) -> bool:
        """Whether nothing more can come, and nothing is left to read."""
        return self.reset_reason is not None or (
            self.final_size is not None and self.read_offset == self.final_size
        )

    @property
    def pieces_waiting(self) -> int:
        """Pieces held beyond a gap."""
        return len(self._gaps) if self._gaps is not None else 0

    def on_data(self, offset: int, data: bytes, fin: bool) -> int:
        """Take in a Stream frame; how much more of the link's credit it uses."""
        stop = offset + len(data)
        if stop > self.highest or fin or self.final_size is not None:
            self._check(stop, fin)
        used = stop - self.highest
        if used > 0:
            self.highest = stop
        if self.reset_reason is not None or self.stop_reason is not None:
            self.received = self.read_offset = self.highest
        elif offset == self.received and self._gaps is None:
            self.received = stop
            self._append(data)
        elif stop > self.received:
            self._fill(offset, data)
        return used if used > 0 else 0

    def _check(self, stop: int, fin: bool) -> None:
        if stop > self.granted:
            raise PeerViolation(f"stream {self.id}: {stop - self.granted} bytes beyond its credit")
        if self.final_size is not None and (stop > self.final_size or (fin and stop != self.final_size)):
            raise PeerViolation(f"stream {self.id}: final size {self.final_size} and data up to {stop}")
        if fin:
            if stop < self.highest:
                raise PeerViolation(f"stream {self.id}: final size {stop} below data up to {self.highest}")
            self.final_size = stop

    def _append(self, data: bytes) -> None:
        if len(data) >= _SMALL:
            self._ready.append(data)
        elif data:
            last = self._ready[-1] if self._ready else None
            if type(last) is bytearray and len(last) < _HEAP:
                last += data
            else:
                self._ready.append(bytearray(data))

    def _fill(self, offset: int, data: bytes) -> None:
        if offset > self.received:
            if self._gaps is None:
                self._gaps = Gaps()
            self._gaps.add(offset, data)
            return
        self._append(data[self.received - offset :])
        self.received = offset + len(data)
        if self._gaps is not None:
            for piece in self._gaps.take(self.received):
                self._append(piece)
                self.received += len(piece)
            if not len(self._gaps):
                self._gaps = None

    def on_reset(self, final_size: int, reason: int) -> int:
        """Take in a ResetStream frame; how much more of the link's credit it uses (RFC 9000 4.5)."""
        if final_size > self.granted or final_size < self.highest:
            raise PeerViolation(f"stream {self.id}: reset at {final_size}, data up to {self.highest}")
        if self.final_size is not None and final_size != self.final_size:
            raise PeerViolation(f"stream {self.id}: final size {self.final_size} and then {final_size}")
        used = final_size - self.highest
        self.highest = self.received = self.read_offset = self.final_size = final_size
        self.reset_reason = reason
        self._ready.clear()
        self._gaps = None
        return used

    def stop(self, reason: int) -> None:
        """Forget what is unread, and whatever is still to come."""
        self.stop_reason = reason
        self._ready.clear()
        self._gaps = None
        self.received = self.read_offset = self.highest

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes, in order."""
        ready = self._ready
        if self.received - self.read_offset <= limit:
            data = b"".join(ready)
            ready.clear()
        else:
            pieces: list[bytes | bytearray] = []
            room = limit
            while room > 0:
                piece = ready.popleft()
                if len(piece) > room:
                    ready.appendleft(piece[room:])
                    piece = piece[:room]
                pieces.append(piece)
                room -= len(piece)
            data = b"".join(pieces)
        self.read_offset += len(data)
        return data
