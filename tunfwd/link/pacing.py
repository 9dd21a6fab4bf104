"""When the next burst may leave (RFC 9002 7.7; draft-ietf-ccwg-bbr 5.6.2).

Asked by link.py, told the rate by it.
"""

from typing import Final

SLACK: Final = 0.002  # s a late wake-up may make up for: the timers of an event loop are not finer


class Pacer:
    """A bucket that a rate fills: one quantum may leave once the last one has had its time."""

    __slots__ = ("next_time",)

    def __init__(self) -> None:
        self.next_time = 0.0  # when the next quantum may leave

    def allowance(self, rate: float, quantum: int, now: float) -> int:
        """Return bytes that may leave now; 0 before `next_time`."""
        if self.next_time > now:
            return 0
        self.next_time = max(self.next_time, now - SLACK)
        return quantum + int((now - self.next_time) * rate)

    def sent(self, size: int, rate: float) -> None:
        """Count `size` bytes that have left."""
        self.next_time += size / rate
