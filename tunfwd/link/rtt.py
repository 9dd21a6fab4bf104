"""Round-trip time as RFC 9002 5 estimates it. Fed by recovery.py; all times in seconds."""

from typing import Final

# s; RFC 9002 6.2.2 says 333 ms before a handshake, and here the peer has just said Hello
INITIAL_RTT: Final = 0.1
GRANULARITY: Final = 0.001  # s; RFC 9002 6.1.2


class RttEstimator:
    """Smoothed, least and latest round-trip time."""

    __slots__ = ("latest", "least", "measured", "smoothed", "variation")

    def __init__(self) -> None:
        self.measured = False
        self.latest = INITIAL_RTT
        self.least = INITIAL_RTT
        self.smoothed = INITIAL_RTT
        self.variation = INITIAL_RTT / 2

    def update(self, sample: float, ack_delay: float) -> None:
        """Take in a sample; `ack_delay` is what the peer says it waited, already cut to what it may claim."""
        self.latest = sample
        if not self.measured:
            self.measured = True
            self.least = self.smoothed = sample
            self.variation = sample / 2
            return
        self.least = min(self.least, sample)
        if sample >= self.least + ack_delay:
            sample -= ack_delay
        self.variation += (abs(self.smoothed - sample) - self.variation) / 4
        self.smoothed += (sample - self.smoothed) / 8

    def probe_timeout(self, max_ack_delay: float) -> float:
        """Return the probe timeout of RFC 9002 6.2.1, without the backoff."""
        return self.smoothed + max(4 * self.variation, GRANULARITY) + max_ack_delay
