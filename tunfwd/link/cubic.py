"""CUBIC (RFC 9438), with the slow start and recovery of newreno.py. Selectable; bbr.py is the default."""

from typing import Final

from tunfwd.common.values import Random
from tunfwd.link.congestion import MIN_PACKETS, Path
from tunfwd.link.newreno import WindowController
from tunfwd.link.rtt import INITIAL_RTT

C: Final = 0.4  # packets/s³; RFC 9438 5.1
BETA: Final = 0.7  # RFC 9438 4.6
ALPHA: Final = 3 * (1 - BETA) / (1 + BETA)  # of the window a Reno flow would have; RFC 9438 4.3


class Cubic(WindowController):
    """Back to the window of the last loss quickly, past it slowly, then quickly again."""

    def __init__(self, path: Path, random: Random, now: float) -> None:
        super().__init__(path, random, now)
        self._epoch: float | None = None  # s: when this congestion avoidance began
        self._most = 0.0  # packets: the window at the last loss, or less when windows shrink
        self._origin = 0.0  # s after the epoch when the curve is back there
        self._reno = 0.0  # packets: what a Reno flow would have

    def _reduce(self, _now: float) -> None:
        packets = self.cwnd / self.path.packet_size
        self._most = packets * (1 + BETA) / 2 if packets < self._most else packets  # RFC 9438 4.7
        self.cwnd = max(int(self.cwnd * BETA), MIN_PACKETS * self.path.packet_size)
        self._epoch = None

    def _avoid(self, acked: int, now: float) -> None:
        size = self.path.packet_size
        packets = self.cwnd / size
        if self._epoch is None:
            self._epoch = now
            self._most = max(self._most, packets)
            self._origin = float(((self._most - packets) / C) ** (1 / 3))
            self._reno = packets
        elapsed = now - self._epoch + (self.path.smoothed_rtt or INITIAL_RTT)
        target = C * (elapsed - self._origin) ** 3 + self._most
        self._reno += ALPHA * acked / self.cwnd
        if target < self._reno:
            self.cwnd = max(self.cwnd, int(self._reno * size))
        else:
            target = min(target, 1.5 * packets)  # RFC 9438 4.2
            self.cwnd += max(int((target - packets) / packets * acked), 0)
