"""NewReno as RFC 9002 7 and appendix B have it. Selectable; bbr.py is the default."""

from typing import Final

from tunfwd.common.values import Random
from tunfwd.link.congestion import INITIAL_PACKETS, MIN_PACKETS, Path, Sample, SendSnapshot
from tunfwd.link.rtt import INITIAL_RTT

LOSS_REDUCTION: Final = 0.5  # RFC 9002 B.1
PACING_GAIN: Final = 1.25  # RFC 9002 7.7
QUANTUM_TIME: Final = 0.001  # s


class WindowController:
    """What NewReno and CUBIC share.

    Slow start, one reduction a round trip, pacing from window and round trip.
    """

    def __init__(self, path: Path, _random: Random, now: float) -> None:
        self.path = path
        self.cwnd = INITIAL_PACKETS * path.packet_size
        self.pacing_rate = 2 * self.cwnd / INITIAL_RTT
        self.quantum = self.cwnd
        self._threshold: float = float("inf")  # bytes: above it, congestion avoidance
        self._recovery_start = now - 1.0
        self._before_loss: tuple[int, float] | None = None

    def on_send(self, now: float) -> None:
        """Do nothing."""

    def on_packet_lost(self, _size: int, _in_flight: int, snapshot: SendSnapshot, now: float) -> None:
        """React once to the losses of a round trip."""
        if snapshot.time <= self._recovery_start:
            return
        self._recovery_start = now
        self._before_loss = self.cwnd, self._threshold
        self._reduce(now)
        self._threshold = float(self.cwnd)

    def on_ack(self, sample: Sample, now: float) -> None:
        """Grow, unless the application or an unfinished recovery forbids it (RFC 9002 7.8)."""
        if sample.sent_time > self._recovery_start and self.path.cwnd_limited:
            if self.cwnd < self._threshold:
                self.cwnd += sample.acked
            else:
                self._avoid(sample.acked, now)
        if self.path.in_flight + sample.acked < self.cwnd // 2:
            self.path.cwnd_limited = False
        self._pace()

    def on_persistent_congestion(self, now: float) -> None:
        """Start again from the least window."""
        self.cwnd = MIN_PACKETS * self.path.packet_size
        self._recovery_start = now - 1.0
        self._pace()

    def on_spurious_loss(self, _now: float) -> None:
        """Take the last reduction back."""
        if self._before_loss is not None:
            cwnd, self._threshold = self._before_loss
            self.cwnd = max(self.cwnd, cwnd)
            self._before_loss = None

    def _reduce(self, now: float) -> None:
        raise NotImplementedError

    def _avoid(self, acked: int, now: float) -> None:
        raise NotImplementedError

    def _pace(self) -> None:
        gain = 2.0 if self.cwnd < self._threshold else PACING_GAIN
        self.pacing_rate = gain * self.cwnd / max(self.path.smoothed_rtt or INITIAL_RTT, 1e-4)
        self.quantum = int(min(max(2 * self.path.packet_size, self.pacing_rate * QUANTUM_TIME), 65536))


class NewReno(WindowController):
    """One packet more a round trip; half at a loss."""

    def __init__(self, path: Path, random: Random, now: float) -> None:
        super().__init__(path, random, now)
        self._credit = 0

    def _reduce(self, _now: float) -> None:
        self.cwnd = max(int(self.cwnd * LOSS_REDUCTION), MIN_PACKETS * self.path.packet_size)

    def _avoid(self, acked: int, _now: float) -> None:
        self._credit += acked
        if self._credit >= self.cwnd:
            self._credit -= self.cwnd
            self.cwnd += self.path.packet_size
