"""Which packets have arrived, and when to say so (RFC 9000 13.2). Fed and asked by link.py; never sends."""

from typing import Final

from tunfwd.link.ranges import RangeSet
from tunfwd.wire.frames import ACK_HEADER_SIZE, ACK_RANGE_SIZE, MAX_RANGES, encode_ack

# s an Ack may wait for company. Path times are of milliseconds; timers are as fine
MAX_ACK_DELAY: Final = 0.002
# ack-eliciting packets that do not wait: below the initial window of 10, so no round stalls
ACK_AFTER: Final = 8
# Acks with several ranges until one asks to be acknowledged itself, so that ranges can go
PING_AFTER: Final = 8


class Acknowledger:
    """The packets received, as ranges, and the Ack that is owed for them."""

    __slots__ = ("_floor", "_largest_time", "_several", "due_at", "expected", "pending", "received")

    def __init__(self) -> None:
        self.received = RangeSet()
        self.expected = 0  # one above the largest number received
        self.pending = 0  # ack-eliciting packets not yet acknowledged
        self.due_at: float | None = None
        self._floor = 0  # what is below counts as received: the peer knows, or has given up on it
        self._largest_time = 0.0
        self._several = 0

    def is_duplicate(self, number: int) -> bool:
        """Whether the packet has been here (or is too old to tell)."""
        return number < self._floor or (number < self.expected and number in self.received)

    def record(self, number: int, eliciting: bool, now: float) -> None:
        """Note a new packet, fully processed."""
        received = self.received
        in_order = number == self.expected
        if in_order and received.stops:
            received.stops[-1] = self.expected = number + 1
            self._largest_time = now
        else:
            received.add(number, number + 1)
            if number >= self.expected:
                self.expected = number + 1
                self._largest_time = now
            if len(received) > MAX_RANGES:
                self._floor = received.stops[0]
                received.pop_below(self._floor)
        if eliciting:
            self.pending += 1
            if self.pending >= ACK_AFTER or not in_order:
                self.due_at = now
            elif self.due_at is None:
                self.due_at = now + MAX_ACK_DELAY

    def frame_size(self) -> int:
        """Return how many bytes the Ack takes at most."""
        return ACK_HEADER_SIZE + ACK_RANGE_SIZE * (len(self.received) - 1)

    def take(self, room: int, now: float) -> tuple[bytes, int]:
        """Return the Ack frame to send now, and the largest number in it."""
        self.pending = 0
        self.due_at = None
        received = self.received
        if len(received) > 1:
            self._several += 1
        return encode_ack(received.starts, received.stops, now - self._largest_time, room), self.expected - 1

    def wants_ping(self) -> bool:
        """Whether a packet with nothing but an Ack should ask for an Ack itself (RFC 9000 13.2.4)."""
        if self._several < PING_AFTER:
            return False
        self._several = 0
        return True

    def acked(self, largest: int, _stop: int, _fin: bool) -> None:
        """Repeat no more of what is below `largest`: the peer has our Ack up to it."""
        if self.received.starts:
            self._floor = max(self._floor, min(largest + 1, self.received.starts[-1]))
            self.received.pop_below(self._floor)

    def lost(self, largest: int, _stop: int, _fin: bool) -> None:
        """Do nothing: the next Ack says the same and more."""
