"""What a congestion controller sees and decides.

recovery.py measures (delivery, loss, round trips: `Path` and `Sample`), a controller turns that into a
window and a rate, link.py obeys. The controllers stand in bbr.py, cubic.py and newreno.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from tunfwd.common.values import Random

INITIAL_PACKETS: Final = 10  # RFC 9002 7.2
MIN_PACKETS: Final = 2  # RFC 9002 7.2


class SendSnapshot:
    """What all packets sent at one moment are to remember (the P.* of draft-ietf-ccwg-bbr 4.1.2.1)."""

    __slots__ = ("app_limited", "delivered", "delivered_time", "first_sent_time", "lost", "time")

    def __init__(self, path: Path, now: float) -> None:
        self.time = now
        self.delivered = path.delivered
        self.delivered_time = path.delivered_time
        self.first_sent_time = path.first_sent_time
        self.lost = path.lost
        self.app_limited = path.app_limited != 0


class Path:
    """Running totals of one path, in bytes (the C.* of the draft)."""

    __slots__ = (
        "app_limited",
        "cwnd_limited",
        "delivered",
        "delivered_time",
        "first_sent_time",
        "in_flight",
        "in_recovery",
        "lost",
        "packet_size",
        "shared_at",
        "smoothed_rtt",
    )

    def __init__(self, packet_size: int, now: float) -> None:
        self.packet_size = packet_size  # of a full packet, everything included: the draft's SMSS
        self.in_flight = 0
        self.delivered = 0
        self.lost = 0
        self.delivered_time = now
        self.first_sent_time = now
        self.app_limited = (
            0  # `delivered` until which samples are limited by the application; 0: they are not
        )
        self.cwnd_limited = False  # the window has stopped us in this round trip
        self.in_recovery = False
        self.smoothed_rtt: float | None = None
        self.shared_at = float("-inf")  # when somebody with little to say last shared a packet with others

    def snapshot(self, now: float) -> SendSnapshot:
        """Return what packets sent now are to remember."""
        if self.in_flight == 0:
            self.first_sent_time = self.delivered_time = now
        return SendSnapshot(self, now)

    def mark_app_limited(self) -> None:
        """Have samples say how little there was to send, until what is in flight is delivered."""
        self.app_limited = max(self.delivered + self.in_flight, 1)


class Sample:
    """What one Ack tells (the RS.* of the draft). Bytes, seconds, bytes a second."""

    __slots__ = (
        "acked",
        "app_limited",
        "delivered",
        "lost",
        "prior_delivered",
        "rate",
        "rtt",
        "sent_in_flight",
        "sent_time",
    )

    def __init__(self) -> None:
        self.acked = 0  # newly acknowledged
        self.delivered = 0  # between the sending of the newest acknowledged packet and now
        self.prior_delivered = 0  # Path.delivered when that packet was sent
        self.rate = 0.0  # 0: no reliable sample
        self.rtt = -1.0  # of that packet; below 0: none
        self.lost = 0  # since that packet was sent
        self.sent_in_flight = 0  # when that packet was sent, it included
        self.sent_time = 0.0
        self.app_limited = False


class Controller(Protocol):
    """Decides how much may be in flight, and how fast it leaves."""

    cwnd: int  # bytes
    pacing_rate: float  # bytes a second
    quantum: int  # bytes that may leave at once

    def on_send(self, now: float) -> None:
        """Packets are about to leave."""

    def on_packet_lost(self, size: int, in_flight: int, snapshot: SendSnapshot, now: float) -> None:
        """A packet is lost; `in_flight` is how much was in flight when it was sent, it included."""

    def on_ack(self, sample: Sample, now: float) -> None:
        """An Ack has been taken in, and the losses it shows."""

    def on_persistent_congestion(self, now: float) -> None:
        """Everything was lost for several probe timeouts (RFC 9002 7.6)."""

    def on_spurious_loss(self, now: float) -> None:
        """Every loss of the last episode turned out to be none."""


ControllerFactory: TypeAlias = Callable[[Path, Random, float], Controller]
