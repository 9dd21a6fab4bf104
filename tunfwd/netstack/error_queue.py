"""ICMP errors on their way out, at a bounded rate (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)).

The rate is shared among the virtual addresses that errors come from: errors about a contact that is asked for
closed ports very often do not suppress those about another.
"""

from typing import Final

from tunfwd.netstack.shares import Shares
from tunfwd.netstack.types import Frame
from tunfwd.wire import icmp, vnet
from tunfwd.wire.checksum import Buffer

WINDOW: Final = 0.5  # s
RATE: Final = 500  # errors in a window: icmp_msgs_per_sec of Linux
BURST: Final = 250  # errors of one address in a window; Linux has 50, a page with many connections needs more
MAX_QUEUED: Final = 1024  # errors since frames were last asked for; of one address half as many


class ErrorQueue:
    """Errors to be sent, as far as the rate allows."""

    __slots__ = ("_queue", "_queued", "_sent", "_until", "suppressed")

    def __init__(self) -> None:
        self._queue: list[tuple[bytes, Frame]] = []
        # By address:
        self._queued: Shares[bytes] = Shares(MAX_QUEUED, MAX_QUEUED // 2, 0)
        self._sent: Shares[bytes] = Shares(RATE, BURST, 0)
        self._until = 0.0
        self.suppressed = 0

    def __len__(self) -> int:
        return len(self._queue)

    def append(
        self, error: icmp.Error, source: bytes, destination: bytes, *, quote: Buffer, mtu: int = 0
    ) -> None:
        """Tell `destination` what became of the packet `quote`.

        The error comes from `source`, the address in question: the kernel drops packets from its own.
        """
        if not self._queued.take(source):
            self.suppressed += 1
            return
        header, message = icmp.build_error(source, destination, error, quote, mtu)
        self._queue.append((source, [vnet.PLAIN + header, message]))

    def frames(self, now: float) -> list[Frame]:
        """Return all that may be sent now; the rest is dropped."""
        frames: list[Frame] = []
        if not self._queue:
            return frames
        if now >= self._until:
            self._until = now + WINDOW
            self._sent = Shares(RATE, BURST, 0)
        for source, frame in self._queue:
            if self._sent.take(source):
                frames.append(frame)
            else:
                self.suppressed += 1
        self._queue.clear()
        self._queued = Shares(MAX_QUEUED, MAX_QUEUED // 2, 0)
        return frames
