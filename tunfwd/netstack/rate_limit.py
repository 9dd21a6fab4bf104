"""A token bucket, for ICMP errors (RFC 1812 4.3.2.8, RFC 4443 2.4 (f))."""


class TokenBucket:
    """Lets `burst` pass at once and `rate` a second in the long run."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may pass at `now` (s)."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
