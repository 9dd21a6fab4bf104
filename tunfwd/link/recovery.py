"""Which packets arrived and which are lost (RFC 9002 6), and how fast the path delivers
(draft-ietf-ccwg-bbr 4.1).

Numbers the packets, and keeps one record for each in flight, in the order of their numbers. packing.py tells
of each that it builds (`on_sent`). Acks and the timer take records out, tell whoever put something into the
packet what became of it, and feed the controller.
"""

from collections import deque
from typing import Final, Protocol, TypeAlias

from tunfwd.common.values import Random
from tunfwd.link.acks import MAX_ACK_DELAY
from tunfwd.link.congestion import Controller, Path, Sample, SendSnapshot
from tunfwd.link.errors import PeerViolation
from tunfwd.link.rtt import GRANULARITY, RttEstimator
from tunfwd.wire.frames import Ack, expand_number

PACKET_THRESHOLD: Final = 3  # packets; RFC 9002 6.1.1
MAX_PACKET_THRESHOLD: Final = 64  # packets; how far it follows a path that reorders
TIME_THRESHOLD: Final = 9 / 8  # of a round trip; RFC 9002 6.1.2
PERSISTENT_CONGESTION: Final = 3  # probe timeouts; RFC 9002 7.6.1
MAX_PROBE_TIMEOUT: Final = 3.0  # s; a path that is back after minutes is found within this
MAX_RTT: Final = 10.0  # s; a longer sample is a clock that jumped, or a suspended machine
MAX_REMEMBERED: Final = 64  # packets declared lost whose late Ack would show that they were not
SKIP_BITS: Final = 10  # a number is skipped about every 2^9 packets, at most one a burst (RFC 9000 21.4)
PROBES: Final = 2  # packets; RFC 9002 6.2.4


class DeliveryHandler(Protocol):
    """Something a packet carries that has to know whether it arrived."""

    def acked(self, start: int, stop: int, fin: bool, /) -> None:
        """The packet arrived."""

    def lost(self, start: int, stop: int, fin: bool, /) -> None:
        """The packet did not arrive, or may not have."""


Item: TypeAlias = tuple[DeliveryHandler, int, int, bool]  # what to tell of, and the arguments to tell


class SentPacket:
    """A packet in flight; one of no size is a number that was left out."""

    __slots__ = ("in_flight", "items", "number", "size", "snapshot")

    def __init__(
        self, number: int, size: int, in_flight: int, snapshot: SendSnapshot, items: tuple[Item, ...]
    ) -> None:
        self.number = number
        self.size = size
        self.in_flight = in_flight  # bytes, when it was sent, it included
        self.snapshot = snapshot
        self.items = items


class Recovery:
    """The packets in flight, the round-trip time and the timers that watch them."""

    __slots__ = (
        "_loss_time",
        "_newest_acked_time",
        "_next_number",
        "_packet_threshold",
        "_probe_count",
        "_random",
        "_recovery_end",
        "_remembered",
        "_rtt_since",
        "_skip",
        "_spurious",
        "controller",
        "largest_acked",
        "last_sent_time",
        "path",
        "probes_due",
        "rtt",
        "sent",
        "spurious_losses",
        "timeouts",
    )

    def __init__(self, path: Path, controller: Controller, random: Random, now: float) -> None:
        self.sent: deque[SentPacket] = deque()
        self._next_number = 0
        self.largest_acked = -1
        self.last_sent_time = now
        self.probes_due = 0  # packets that may leave whatever the window says
        self.timeouts = 0  # statistics
        self.spurious_losses = 0  # statistics
        self._random = random
        self._skip = 1 + random.getrandbits(SKIP_BITS)
        self._packet_threshold = PACKET_THRESHOLD
        self._start(path, controller, now)

    def _start(self, path: Path, controller: Controller, now: float) -> None:
        self.path = path
        self.controller = controller
        self.rtt = RttEstimator()
        self._rtt_since = now
        self._loss_time: float | None = None
        self._newest_acked_time = now
        self._probe_count = 0
        self._recovery_end = -1  # the highest number sent when the episode of losses began
        self._remembered: dict[int, int] = {}
        self._spurious = True  # every loss of the episode, so far

    def restart(self, path: Path, controller: Controller, now: float) -> None:
        """Send again what is in flight and measure everything anew: the path may be another."""
        lost = list(self.sent)
        self.sent.clear()
        self.probes_due = 0
        self._start(path, controller, now)
        for record in lost:
            for item, start, stop, fin in record.items:
                item.lost(start, stop, fin)

    # -- what leaves -------------------------------------------------------------------------------------

    def take_number(self) -> int:
        """Return the number of the packet that leaves next."""
        number = self._next_number
        self._next_number = number + 1
        return number

    def on_sent(self, number: int, size: int, snapshot: SendSnapshot, items: tuple[Item, ...]) -> None:
        """Record a packet that wants an Ack."""
        path = self.path
        path.in_flight += size
        self.last_sent_time = snapshot.time
        self.sent.append(SentPacket(number, size, path.in_flight, snapshot, items))

    def skip_number(self, snapshot: SendSnapshot) -> None:
        """Leave out a number now and then: a peer that acknowledges it has not seen what it acknowledges."""
        if self._next_number >= self._skip:
            self.sent.append(SentPacket(self.take_number(), 0, 0, snapshot, ()))
            self._skip = self._next_number + 1 + self._random.getrandbits(SKIP_BITS)

    # -- what arrives ------------------------------------------------------------------------------------

    def on_ack(self, ack: Ack, now: float) -> bool:
        """Take in an Ack frame; False where it tells nothing new."""
        largest = expand_number(ack.largest, self._next_number)
        if largest >= self._next_number or largest - ack.ranges[-1][0] < 0:
            raise PeerViolation("acknowledges a packet that was never sent")
        acked = self._take_acked(largest, ack)
        if self._remembered:
            self._find_spurious(largest, ack, now)
        if not acked:
            return False
        newest = acked[-1]
        snapshot = newest.snapshot
        self.largest_acked = max(self.largest_acked, newest.number)
        sample = Sample()
        if newest.number == largest and 0 <= now - snapshot.time <= MAX_RTT:
            self.rtt.update(now - snapshot.time, min(ack.delay, MAX_ACK_DELAY))
            self.path.smoothed_rtt = self.rtt.smoothed
            sample.rtt = now - snapshot.time
        self._probe_count = 0
        self.probes_due = 0
        self._deliver(acked)
        self._measure(sample, newest, sum([record.size for record in acked]), now)
        self._declare_lost(now, acked[0].snapshot.time)
        sample.lost = self.path.lost - snapshot.lost
        if self.largest_acked > self._recovery_end:
            self.path.in_recovery = False
        self._newest_acked_time = max(self._newest_acked_time, snapshot.time)
        self.controller.on_ack(sample, now)
        return True

    def _take_acked(self, largest: int, ack: Ack) -> list[SentPacket]:
        """Remove from `sent`, and return, the records the Ack names."""
        sent = self.sent
        acked: list[SentPacket] = []
        if not sent or sent[0].number > largest:
            return acked
        oldest = largest - sent[0].number
        index = len(ack.ranges) - 1
        while index > 0 and ack.ranges[index][1] > oldest:
            index -= 1
        low, high = largest - ack.ranges[index][0], largest - ack.ranges[index][1]
        kept: list[SentPacket] = []
        while sent and sent[0].number <= largest:
            record = sent.popleft()
            number = record.number
            while number > high:
                index -= 1
                low, high = largest - ack.ranges[index][0], largest - ack.ranges[index][1]
            if number >= low:
                if not record.size:
                    raise PeerViolation("acknowledges a number that was left out")
                acked.append(record)
            else:
                kept.append(record)
        if kept:
            sent.extendleft(reversed(kept))
        return acked

    def _deliver(self, acked: list[SentPacket]) -> None:
        """Tell the items, with neighbouring ranges of a stream put together."""
        pending: DeliveryHandler | None = None
        first = last = 0
        for record in acked:
            for item, start, stop, fin in record.items:
                if item is pending and start == last and not fin:
                    last = stop
                    continue
                if pending is not None:
                    pending.acked(first, last, False)
                    pending = None
                if fin:
                    item.acked(start, stop, True)
                else:
                    pending, first, last = item, start, stop
        if pending is not None:
            pending.acked(first, last, False)

    def _measure(self, sample: Sample, newest: SentPacket, size: int, now: float) -> None:
        """Compute the delivery rate, as draft-ietf-ccwg-bbr 4.1.2.3 has it."""
        path, snapshot = self.path, newest.snapshot
        path.in_flight -= size
        path.delivered += size
        path.delivered_time = now
        path.first_sent_time = max(path.first_sent_time, snapshot.time)
        if path.app_limited and path.delivered > path.app_limited:
            path.app_limited = 0
        sample.acked = size
        sample.sent_time = snapshot.time
        sample.sent_in_flight = newest.in_flight
        sample.app_limited = snapshot.app_limited
        sample.prior_delivered = snapshot.delivered
        sample.delivered = path.delivered - snapshot.delivered
        interval = max(snapshot.time - snapshot.first_sent_time, now - snapshot.delivered_time)
        if interval > 0 and interval >= self.rtt.least:
            sample.rate = sample.delivered / interval

    def _declare_lost(self, now: float, acked_after: float) -> None:
        """Find the lost among the packets older than the newest acknowledged one (RFC 9002 6.1).

        `acked_after`: nothing sent before this moment has just been acknowledged.
        """
        self._loss_time = None
        delay = max(TIME_THRESHOLD * max(self.rtt.smoothed, self.rtt.latest), GRANULARITY)
        threshold = self.largest_acked - self._packet_threshold
        sent = self.sent
        lost: list[SentPacket] = []
        while sent and sent[0].number < self.largest_acked:
            record = sent[0]
            deadline = record.snapshot.time + delay
            if record.number > threshold and deadline > now:
                self._loss_time = deadline
                break
            sent.popleft()
            if record.size:
                lost.append(record)
        if lost:
            self._on_lost(lost, acked_after, now)

    def _on_lost(self, lost: list[SentPacket], acked_after: float, now: float) -> None:
        path, controller = self.path, self.controller
        entering = not path.in_recovery
        if entering:
            self._recovery_end = self._next_number - 1
            self._remembered.clear()
            self._spurious = True
        for record in lost:
            path.in_flight -= record.size
            path.lost += record.size
            if len(self._remembered) < MAX_REMEMBERED:
                self._remembered[record.number] = self.largest_acked - record.number
            else:
                self._spurious = False
            controller.on_packet_lost(record.size, record.in_flight, record.snapshot, now)
            for item, start, stop, fin in record.items:
                item.lost(start, stop, fin)
        path.in_recovery = True
        since = max(self._newest_acked_time, self._rtt_since)
        times = [record.snapshot.time for record in lost if since < record.snapshot.time < acked_after]
        timeout = self.rtt.probe_timeout(MAX_ACK_DELAY)
        if self.rtt.measured and times and times[-1] - times[0] > PERSISTENT_CONGESTION * timeout:
            controller.on_persistent_congestion(now)

    def _find_spurious(self, largest: int, ack: Ack, now: float) -> None:
        """See whether packets declared lost have arrived after all, and wait longer next time if so."""
        remembered, ranges = self._remembered, ack.ranges
        found: list[int] = []
        index = len(ranges) - 1
        for number in remembered:  # ascending, as the ranges from the last one on
            distance = largest - number
            while index >= 0 and distance < ranges[index][1]:
                index -= 1
            if index < 0:
                break
            if distance <= ranges[index][0]:
                found.append(number)
        for number in found:
            gap = remembered.pop(number)
            self.spurious_losses += 1
            self._packet_threshold = min(max(self._packet_threshold, gap + 1), MAX_PACKET_THRESHOLD)
        if found and not remembered and self._spurious:
            self.controller.on_spurious_loss(now)

    # -- the timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when to call `on_timeout`; None while nothing is in flight."""
        if self._loss_time is not None:
            return self._loss_time
        if self.path.in_flight == 0:
            return None
        timeout = self.rtt.probe_timeout(MAX_ACK_DELAY) * 2.0 ** min(self._probe_count, 16)
        return self.last_sent_time + min(timeout, MAX_PROBE_TIMEOUT)

    def on_timeout(self, now: float) -> None:
        """Do what is due at `next_timeout`."""
        if self._loss_time is not None:
            self._declare_lost(now, now)
            return
        self._probe_count += 1
        self.timeouts += 1
        self.last_sent_time = now  # the next timeout counts from this one, whether or not a probe can leave
        self.probes_due = PROBES
        found = 0
        for record in self.sent:
            if record.size:
                for item, start, stop, fin in record.items:
                    item.lost(start, stop, fin)
                found += 1
                if found == PROBES:
                    break
