"""ICMP errors on their way out, at a bounded rate (RFC 1812 4.3.2.8, RFC 4443 2.4 (f))."""

from collections import deque

from tunfwd.netstack.types import Frame
from tunfwd.wire import icmp, vnet
from tunfwd.wire.checksum import Buffer

RATE = 1000.0  # errors a second; icmp_msgs_per_sec of Linux
BURST = 250.0  # Linux has 50; a page that makes many connections to a host that is offline needs more
MAX_QUEUED = 1024


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


class ErrorQueue:
    """Errors that were decided on, and may be sent if not too many were of late."""

    __slots__ = ("_bucket", "_queue", "suppressed")

    def __init__(self) -> None:
        self._queue: deque[Frame] = deque()
        self._bucket = TokenBucket(RATE, BURST)
        self.suppressed = 0

    def __len__(self) -> int:
        return len(self._queue)

    def append(
        self, error: icmp.Error, source: bytes, destination: bytes, *, quote: Buffer, mtu: int = 0
    ) -> None:
        """Tell `destination` what became of the packet `quote`.

        It comes from `source`, the address in question: the kernel drops what claims to be its own.
        """
        if len(self._queue) >= MAX_QUEUED:
            self.suppressed += 1
            return
        header, message = icmp.build_error(source, destination, error, quote, mtu)
        self._queue.append([vnet.PLAIN + header, message])

    def frames(self, now: float) -> list[Frame]:
        """All that may be sent now; the rest is dropped."""
        frames: list[Frame] = []
        while self._queue:
            frame = self._queue.popleft()
            if self._bucket.take(now):
                frames.append(frame)
            else:
                self.suppressed += 1
        return frames
