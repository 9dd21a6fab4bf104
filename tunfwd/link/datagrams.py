"""Datagrams on their way out and in: queued with a bound, split where the peer can put them together.

Nothing here is sent twice. What is too old, or too much, is dropped and counted, oldest first; a datagram
that was split arrives whole or not at all.
"""

from collections import deque
from typing import Final

from tunfwd.wire.frames import (
    DATAGRAM,
    DATAGRAM_HEADER,
    DATAGRAM_HEADER_SIZE,
    FRAGMENT,
    FRAGMENT_HEADER,
    FRAGMENT_HEADER_SIZE,
    Fragment,
)

MAX_DATAGRAM: Final = 65_507  # bytes; the most UDP over IPv4 carries
QUEUE_BYTES: Final = 1 << 20  # waiting to leave: 90 ms at 10 000 datagrams of 1 200 bytes a second
QUEUE_AGE: Final = 1.0  # s; older than this nobody waits for it
MAX_PARTIAL: Final = 64  # datagrams being put together
MAX_PARTIAL_BYTES: Final = 2 << 20  # in all of them
MAX_FRAGMENTS: Final = 128  # of one datagram
MIN_PIECE: Final = 512  # bytes of a fragment that is not the last: 65 507 bytes take 128 of them


class DatagramQueue:
    """Datagrams waiting to leave, first in first out."""

    __slots__ = ("_max_frame", "_next_number", "_offset", "_queue", "_queued", "_times", "dropped")

    def __init__(self, max_frame: int) -> None:
        self.dropped = 0
        self._max_frame = max_frame  # bytes a packet has for one frame
        self._queue: deque[tuple[int, bytes]] = deque()
        self._times: deque[float] = deque()  # since when they wait, as far as is known
        self._queued = 0
        self._offset = 0  # of the first one, how much has left as fragments
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, id_: int, data: bytes, fragment: bool) -> bool:
        """Queue a datagram, at the cost of the oldest ones; False if it is larger than can be carried."""
        most = MAX_DATAGRAM if fragment else self._max_frame - DATAGRAM_HEADER_SIZE
        if len(data) > most:
            self.dropped += 1
            return False
        self._queue.append((id_, data))
        self._queued += len(data)
        while self._queued > QUEUE_BYTES:
            self._drop()
        return True

    def expire(self, now: float) -> None:
        """Drop what has waited too long. What is new since the last call waits from now on."""
        self._times.extend([now] * (len(self._queue) - len(self._times)))
        while self._times and self._times[0] < now - QUEUE_AGE:
            self._drop()

    def clear(self) -> None:
        """Drop everything."""
        while self._queue:
            self._drop()

    def _drop(self) -> None:
        self._finish_first()
        self.dropped += 1

    def _finish_first(self) -> None:
        self._queued -= len(self._queue.popleft()[1])
        if self._times:
            self._times.popleft()
        self._offset = 0

    def needs_packet(self, room: int) -> bool:
        """Whether the first datagram fits a packet but not `room` bytes.

        It goes ahead of an Ack that can wait.
        """
        return bool(self._queue) and room < DATAGRAM_HEADER_SIZE + len(self._queue[0][1]) <= self._max_frame

    def take(self, room: int) -> bytes | None:
        """Return the next frame, if it fits into `room` bytes."""
        if not self._queue:
            return None
        id_, data = self._queue[0]
        size = DATAGRAM_HEADER_SIZE + len(data)
        if size <= room and not self._offset:
            self._finish_first()
            return DATAGRAM_HEADER.pack(DATAGRAM, id_, len(data)) + data
        if size <= self._max_frame or room < FRAGMENT_HEADER_SIZE + min(MIN_PIECE, len(data) - self._offset):
            return None
        piece = data[self._offset : self._offset + room - FRAGMENT_HEADER_SIZE]
        frame = (
            FRAGMENT_HEADER.pack(FRAGMENT, id_, self._next_number, len(data), self._offset, len(piece))
            + piece
        )
        self._offset += len(piece)
        if self._offset == len(data):
            self._next_number = (self._next_number + 1) & 0xFFFFFFFF
            self._finish_first()
        return frame


class _Partial:
    __slots__ = ("pieces", "received", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.pieces: dict[int, bytes] = {}


class Reassembly:
    """Datagrams of which some fragments have arrived."""

    __slots__ = ("_bytes", "_partial", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._partial: dict[tuple[int, int], _Partial] = {}  # oldest first
        self._bytes = 0

    def add(self, fragment: Fragment) -> bytes | None:
        """Return the whole datagram, if this fragment was the last one missing."""
        key = fragment.id, fragment.number
        partial = self._partial.get(key)
        if partial is None:
            if fragment.size > MAX_DATAGRAM:
                self.dropped += 1
                return None
            partial = self._partial[key] = _Partial(fragment.size)
        if fragment.offset in partial.pieces:
            return None
        if fragment.size != partial.size or len(partial.pieces) >= MAX_FRAGMENTS:
            self._drop(key)
            return None
        partial.pieces[fragment.offset] = fragment.data
        partial.received += len(fragment.data)
        self._bytes += len(fragment.data)
        if partial.received >= partial.size:
            return self._complete(key, partial)
        while len(self._partial) > MAX_PARTIAL or self._bytes > MAX_PARTIAL_BYTES:
            self._drop(next(iter(self._partial)))
        return None

    def _complete(self, key: tuple[int, int], partial: _Partial) -> bytes | None:
        expected = 0
        for offset in sorted(partial.pieces):
            if offset != expected:
                self._drop(key)  # pieces that overlap: not what we would be sent
                return None
            expected += len(partial.pieces[offset])
        del self._partial[key]
        self._bytes -= partial.received
        return b"".join([partial.pieces[offset] for offset in sorted(partial.pieces)])

    def _drop(self, key: tuple[int, int]) -> None:
        self._bytes -= self._partial.pop(key).received
        self.dropped += 1
