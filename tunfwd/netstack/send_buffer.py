"""The sending half of a connection: what may be sent now, and what has to be sent again.

Filled by the owner, emptied by connection.py. Strict about the peer's window, for the peer is a kernel that
drops what exceeds it; without congestion control, pacing or Nagle's algorithm, as the path is a queue in
this machine. Losses are repaired as NewReno does (RFC 6582), without the congestion window. Sequence numbers
are unwrapped; SYN is not counted here, FIN is.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from tunfwd.netstack.byte_queue import ByteQueue
from tunfwd.wire.checksum import Buffer

CAPACITY: Final = 1 << 20  # bytes unacknowledged and unsent together
WRITABLE: Final = CAPACITY // 4  # bytes of space that end a shortage
DUPLICATE_THRESHOLD: Final = 3  # duplicate acknowledgments that tell of a loss; RFC 5681 3.2


@dataclass(init=False, slots=True)
class Piece:
    """The payload of one frame."""

    sequence: int
    data: Buffer
    push: bool
    fin: bool

    def __init__(self, sequence: int, data: Buffer, push: bool, fin: bool) -> None:
        self.sequence = sequence
        self.data = data
        self.push = push
        self.fin = fin


class SendBuffer:
    """Bytes between the owner and the peer."""

    __slots__ = (
        "_duplicates",
        "_fin_sent",
        "_flight",
        "_flight_bytes",
        "_largest_window",
        "_override",
        "_recover",
        "_repair",
        "_short",
        "_unsent",
        "_window_updated_by",
        "closing",
        "edge",
        "max_payload",
        "mss",
        "next",
        "una",
    )

    def __init__(self, first: int, mss: int, max_payload: int) -> None:
        self.una = first
        """The first sequence number not acknowledged (SND.UNA)."""
        self.next = first
        """The first sequence number not sent (SND.NXT)."""
        self.edge = first
        """The right edge of the peer's window: nothing from here on may be sent."""
        self.mss = mss
        self.max_payload = max_payload
        """Bytes of payload in the largest super-segment."""
        self.closing = False
        """Whether FIN follows the last byte."""
        self._fin_sent = False
        self._unsent = ByteQueue()
        self._flight: deque[Buffer] = deque()  # una..next, less FIN
        self._flight_bytes = 0
        self._duplicates = 0
        self._repair = False  # the first piece in flight is to be sent again
        self._recover = first  # losses up to here are being repaired (RFC 6582)
        self._short = False  # a write was cut short, and nobody has been told of space since
        self._override = False
        self._window_updated_by = (0, 0)
        self._largest_window = 0

    # The owner's side

    @property
    def space(self) -> int:
        """Bytes that `write` would take now."""
        return CAPACITY - self._flight_bytes - self._unsent.size

    def write(self, data: Buffer) -> int:
        """Take as many bytes as there is space for, and return how many."""
        accepted = min(len(data), CAPACITY - self._flight_bytes - self._unsent.size)
        if accepted < len(data):
            self._short = True
            data = memoryview(data)[:accepted]
        if accepted:
            self._unsent.append(data if isinstance(data, bytes) else bytes(data))
        return accepted

    def shortage_over(self) -> bool:
        """Whether there is ample space again after a write was cut short; true once."""
        if not self._short or self.space < WRITABLE:
            return False
        self._short = False
        return True

    # What the peer says

    def plausible(self, acknowledgment: int) -> bool:
        """Whether the peer can have sent this number: neither too new nor too old (RFC 5961 5.2)."""
        return self.una - self._largest_window <= acknowledgment <= self.next

    def set_window(self, sequence: int, window: int) -> None:
        """Take the first window (bytes), that of a SYN."""
        self._window_updated_by = (sequence, self.una)
        self._largest_window = window
        self.edge = self.una + window

    def update_window(self, sequence: int, acknowledgment: int, window: int) -> bool:
        """Take the window (bytes) of a segment unless it is an old one (RFC 9293 3.10.7.4).

        Returns whether the right edge moved.
        """
        if (sequence, acknowledgment) < self._window_updated_by:
            return False
        self._window_updated_by = (sequence, acknowledgment)
        self._largest_window = max(self._largest_window, window)
        moved = self.edge != acknowledgment + window
        self.edge = acknowledgment + window
        return moved

    def acknowledge(self, acknowledgment: int) -> None:
        """Release the bytes before `acknowledgment`, which is in una + 1..next."""
        acknowledged = acknowledgment - self.una
        self.una = acknowledgment
        if self._fin_sent and acknowledgment == self.next:
            acknowledged -= 1
        self._flight_bytes -= acknowledged
        flight = self._flight
        while acknowledged:
            length = len(flight[0])
            if length > acknowledged:
                flight[0] = memoryview(flight[0])[acknowledged:]
                break
            acknowledged -= length
            flight.popleft()
        self._duplicates = 0
        self._repair = self.una < self._recover  # partial: what follows was lost as well

    def duplicate(self) -> bool:
        """Count a duplicate acknowledgment; return whether it requires a retransmission at once.

        With fewer pieces in flight than could cause three, fewer suffice (RFC 5827 2.1).
        """
        if self.una < self._recover:
            return False
        self._duplicates += 1
        if self._duplicates < min(DUPLICATE_THRESHOLD, max(1, len(self._flight) - 1)):
            return False
        self.retransmit()
        return True

    def retransmit(self) -> None:
        """Send again all that is in flight, a piece at a time as acknowledgments come in."""
        self._recover = self.next
        self._repair = True
        self._duplicates = 0

    def override(self) -> None:
        """Use the window, however small: no larger one came for a while (RFC 9293 3.8.6.2.1)."""
        self._override = True

    # What goes out

    @property
    def in_flight(self) -> bool:
        """Whether anything is unacknowledged."""
        return self.next > self.una

    @property
    def waiting(self) -> bool:
        """Whether anything has never been sent: bytes, or FIN."""
        return self._unsent.size > 0 or (self.closing and not self._fin_sent)

    @property
    def window_closed(self) -> bool:
        """Whether the peer takes nothing at all, not even what is in flight."""
        return self.edge <= self.una

    @property
    def fin_acknowledged(self) -> bool:
        """Whether everything, FIN included, is acknowledged."""
        return self._fin_sent and self.una == self.next

    def next_piece(self) -> Piece | None:
        """Return the payload to send now; None if there is none, or the window does not allow it."""
        if self._repair:
            self._repair = False
            piece = self._first_in_flight()
            if piece is not None:
                return piece
        return self._new()

    def _first_in_flight(self) -> Piece | None:
        room = self.edge - self.una
        if room <= 0:
            return None
        if not self._flight:
            return Piece(self.una, b"", False, True) if self._fin_sent and self.in_flight else None
        data = self._flight[0]
        fin = self._fin_sent and len(self._flight) == 1 and len(data) < room
        if len(data) > min(room, self.max_payload):  # the window shrank, or the path's MTU did
            data = memoryview(data)[: min(room, self.max_payload)]
            fin = False
        return Piece(self.una, data, True, fin)

    def _new(self) -> Piece | None:
        unsent, room = self._unsent.size, self.edge - self.next
        if room <= 0 or self._fin_sent:
            return None
        length = min(min(unsent, room), self.max_payload)  # noqa: PLW3301 of two at a time compiles to C
        if length < unsent:
            if length > self.mss:
                length -= length % self.mss
            elif length < min(self.mss, self._largest_window // 2) and not self._override:
                return None  # avoids the silly window syndrome (RFC 9293 3.8.6.2.1)
        self._override = False
        fin = self.closing and length == unsent and length < room
        if not length and not fin:
            return None
        sequence = self.next
        data = self._unsent.take(length)
        if data:
            self._flight.append(data)
            self._flight_bytes += length
        self.next += length + fin
        self._fin_sent = fin
        return Piece(sequence, data, 0 < length == unsent, fin)

    def clear(self) -> None:
        """Drop everything: the connection is over."""
        self._unsent.clear()
        self._flight.clear()
        self._flight_bytes = 0
