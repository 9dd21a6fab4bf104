"""The link itself: packets in, packets out, and the calls of its owner.

Stands between the Tox contact, which carries lossy packets, and forwarding, which has streams, control
messages and datagrams. Reads top to bottom as data flows: the owner's calls, what arrives, what leaves, the
timers.

All of it is called with the owner's clock (seconds, monotonic). Nothing raises for what a peer sends: a
packet that makes no sense is counted and dropped, one that breaks the rules ends the link with
`LinkClosed`. `Misuse` is ours.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tunfwd.common.errors import Malformed
from tunfwd.common.values import Random
from tunfwd.link.acks import Acknowledger
from tunfwd.link.bbr import Bbr
from tunfwd.link.congestion import ControllerFactory, Path
from tunfwd.link.datagrams import DatagramQueue, Reassembly
from tunfwd.link.errors import PeerViolation
from tunfwd.link.events import DatagramReceived, Event, LinkClosed
from tunfwd.link.pacing import Pacer
from tunfwd.link.packing import PacketBuilder
from tunfwd.link.recovery import Recovery
from tunfwd.link.streams import Streams
from tunfwd.wire.frames import (
    HEADER,
    HEADER_SIZE,
    Ack,
    Close,
    Datagram,
    Fragment,
    MaxData,
    MaxStreamData,
    Ping,
    ResetStream,
    StopSending,
    Stream,
    decode_frames,
    encode_frame,
    expand_number,
    link_tag,
)

MAX_PACKET: Final = 1373  # bytes; the most a Tox custom packet holds
BRIEF: Final = (
    32  # packets that leave at once while somebody waits for little: what comes next waits for them
)
BRIEF_TIME: Final = 0.25  # s after a packet held the little of one stream or datagram, and more of another
REASON_DONE: Final = 0
REASON_VIOLATION: Final = 1


@dataclass(slots=True)
class Statistics:
    """Totals since the link began."""

    packets_sent: int = 0
    packets_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    foreign: int = 0  # packets of another pair of epochs
    malformed: int = 0
    duplicates: int = 0
    refused: int = 0  # for want of room; they count as lost
    idle: int = 0  # that told nothing new: only Pings, and Acks of what was acknowledged before


class Link:
    """One link to one contact, for one pair of epochs."""

    def __init__(
        self,
        local_epoch: int,
        remote_epoch: int,
        random: Random,
        now: float,
        *,
        prefix: bytes = b"",
        max_packet: int = MAX_PACKET,
        fragment: bool = True,
        controller: ControllerFactory = Bbr,
        is_wanted: Callable[[int], bool] = lambda _: True,
        is_trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin a link; both ends do so when both have said Hello.

        `prefix` is carrier prefix and packet type: it begins each packet, counts in `max_packet`, and is
        skipped in what arrives. `fragment`: the peer puts split datagrams together. `is_wanted`: whether we
        are to put those together that come for a flow of that id. `is_trusted`: whether anything is agreed on
        that could have streams; until then, and before the first, the peer has room for a few KB.
        """
        self.statistics = Statistics()
        self._send_tag = link_tag(local_epoch, remote_epoch)
        self._receive_tag = link_tag(remote_epoch, local_epoch)
        self._prefix = prefix
        self._max_packet = max_packet
        self._fragment = fragment
        self._is_wanted = is_wanted
        self._is_trusted = is_trusted
        self._new_controller = controller
        self._random = random
        self._last = self._skew = 0.0
        self._events: deque[Event] = deque()
        self._streams = Streams(self._events, self._is_trusted)
        self._acks = Acknowledger()
        self._datagrams = DatagramQueue(max_packet - len(prefix) - HEADER_SIZE)
        self._reassembly = Reassembly()
        self._pacer = Pacer()
        self._down = False
        self._closed = False
        self._close_frame: bytes | None = None  # to be sent, once
        self._brief_until = 0.0  # time until which little leaves at once
        self._close_answers = 1  # packets still to arrive until we repeat it
        now = self._clock(now)
        self._path = Path(max_packet, now)
        self._recovery = Recovery(self._path, controller(self._path, random, now), random, now)
        self._builder = PacketBuilder(
            prefix,
            self._send_tag,
            max_packet,
            recovery=self._recovery,
            acks=self._acks,
            streams=self._streams,
            datagrams=self._datagrams,
        )

    # -- the owner's calls: streams are known by a 32-bit id both sides agree on, not 0, used once -------

    def stream_open(self, id_: int) -> bool:
        """Claim a stream; the peer's data for it may already be here. False if the id is or was in use."""
        return self._streams.open(id_)

    def discard(self) -> None:
        """Drop all that the link holds: it is over. Calls about streams find none from then on."""
        self._streams.clear()
        self._events.clear()
        self._datagrams.clear()
        self._reassembly = Reassembly()

    def stream_is_known(self, id_: int) -> bool:
        """Whether the id is in use by the owner, or was so not long ago."""
        return self._streams.is_known(id_)

    def stream_write(self, id_: int, data: bytes | bytearray | memoryview) -> int:
        """Return how many bytes were taken; fewer than all: wait for StreamWritable.

        A stream that is gone takes, and forgets, all.
        """
        return self._streams.write(id_, data)

    def stream_space(self, id_: int) -> int:
        """Return how many bytes stream_write takes now."""
        return self._streams.space(id_)

    def stream_finish(self, id_: int) -> None:
        """End our half after what was written."""
        self._streams.finish(id_)

    def stream_reset(self, id_: int, reason: int) -> None:
        """End our half at once; `reason` (16 bits) goes to the peer."""
        self._streams.reset(id_, reason)

    def stream_stop(self, id_: int, reason: int) -> None:
        """Read no further; the peer's half is reset."""
        self._streams.stop(id_, reason)

    def stream_read(self, id_: int, limit: int) -> bytes:
        """Return up to `limit` bytes; b"" if none are here now. Reading gives the peer credit for more."""
        return self._streams.read(id_, limit)

    def send_control(self, message: bytes) -> bool:
        """Queue a control message of 1 to 1373 bytes; False if the queue is full."""
        return self._streams.send_control(message)

    def send_datagram(self, id_: int, data: bytes) -> bool:
        """Queue a datagram; the oldest make room. False: too large for this peer, or the path is down."""
        if self._down:
            self._datagrams.dropped += 1
            return False
        return self._datagrams.put(id_, data, self._fragment)

    def next_event(self) -> Event | None:
        """Return the next thing the owner should know; None when there is nothing."""
        return self._events.popleft() if self._events else None

    def path_lost(self, now: float) -> None:
        """Send nothing, let no timer run, keep everything but datagrams: the contact is offline."""
        self._clock(now)
        self._down = True
        self._datagrams.clear()

    def path_restored(self, now: float) -> None:
        """Go on: the contact is back, perhaps by another path, or was never away but is reached by another.

        What was in flight is sent again, and all is measured anew.
        """
        now = self._clock(now)
        self._down = False
        path = self._path = Path(self._max_packet, now)
        self._pacer = Pacer()
        self._recovery.restart(path, self._new_controller(path, self._random, now), now)

    def close(self, reason: int = REASON_DONE) -> None:
        """End the link, telling the peer if the path allows. Every stream is gone."""
        if not self._closed:
            self._close_frame = encode_frame(Close(reason))
            self._end()

    def close_again(self) -> None:
        """Repeat our Close: the first may be lost, and who has nothing to send will not ask for it."""
        if self._closed:
            self._close_frame = encode_frame(Close(REASON_DONE))

    @property
    def closed(self) -> bool:
        """Whether the link is over."""
        return self._closed

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds; None before there is one."""
        return self._path.smoothed_rtt

    @property
    def receive_tag(self) -> int:
        """What packets of the peer begin with, after the prefix, that belong to this link."""
        return self._receive_tag

    @property
    def recovery(self) -> Recovery:
        """For statistics: packets in flight, round-trip time, controller."""
        return self._recovery

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams that were too many, too old or too large, or came in pieces that did not all arrive."""
        return self._datagrams.dropped + self._reassembly.dropped

    def _end(self) -> None:
        self._closed = True
        self._streams = Streams(self._events, self._is_trusted)
        self._datagrams = DatagramQueue(self._max_packet - len(self._prefix) - HEADER_SIZE)
        self._reassembly = Reassembly()
        self._recovery.sent.clear()

    def _clock(self, now: float) -> float:
        """Return the owner's clock without steps back: time stands still over one, and goes on from there."""
        now += self._skew
        if now < self._last:
            self._skew += self._last - now
            now = self._last
        self._last = now
        return now

    # -- what arrives ------------------------------------------------------------------------------------

    def receive(self, packets: Iterable[bytes], now: float) -> None:
        """Take in packets as they arrived, prefix included. Afterwards: events, then packets_to_send."""
        now = self._clock(now)
        if self._closed:
            self._receive_closed(packets)
            return
        statistics, acks, streams = self.statistics, self._acks, self._streams
        streams.now = now
        start = len(self._prefix)
        body = start + HEADER_SIZE
        try:
            for packet in packets:
                statistics.packets_received += 1
                statistics.bytes_received += len(packet)
                if len(packet) <= body:
                    statistics.malformed += 1
                    continue
                tag, truncated = HEADER.unpack_from(packet, start)
                if tag != self._receive_tag:
                    statistics.foreign += 1
                    continue
                number = expand_number(truncated, acks.expected)
                if acks.is_duplicate(number):
                    statistics.duplicates += 1
                    continue
                try:
                    frames = decode_frames(packet, body)
                except Malformed:
                    statistics.malformed += 1
                    continue
                eliciting, kept, news = False, True, False
                for frame in frames:
                    if type(frame) is Stream:
                        if not streams.on_stream(frame):
                            kept = False
                        eliciting = news = True
                    elif type(frame) is Ack:
                        if self._recovery.on_ack(frame, now):
                            news = True
                    else:
                        eliciting = True
                        if type(frame) is not Ping:
                            news = True
                        if not self._on_frame(frame):
                            kept = False
                        if self._closed:
                            return
                if not news:
                    statistics.idle += 1
                if kept:
                    acks.record(number, eliciting, now)
                else:  # as if it were lost: what it brought comes again, when there may be room
                    statistics.refused += 1
        except PeerViolation as violation:
            self._violated(violation)
            return
        streams.cwnd = self._recovery.controller.cwnd
        streams.round_trip = self._recovery.rtt.smoothed

    def _violated(self, violation: PeerViolation) -> None:
        self._close_frame = encode_frame(Close(REASON_VIOLATION))
        self._end()
        self._events.append(LinkClosed(REASON_VIOLATION, str(violation)))

    def trust_lost(self) -> None:
        """End the link where it holds more than it may now that `is_trusted` is false."""
        try:
            self._streams.check_unearned()
        except PeerViolation as violation:
            self._violated(violation)

    @property
    def control_waiting(self) -> int:
        """Bytes of control messages that the peer has not acknowledged."""
        return self._streams.control.send.unacked

    def _on_frame(self, frame: object) -> bool:
        """Take in a frame that is not in every packet; False where there is no room for what it asks for."""
        match frame:
            case Datagram(id_, data):
                self._events.append(DatagramReceived(id_, data))
            case Fragment() if self._is_wanted(frame.id):
                whole = self._reassembly.add(frame)
                if whole is not None:
                    self._events.append(DatagramReceived(frame.id, whole))
            case MaxStreamData():
                self._streams.on_stream_credit(frame)
            case MaxData(limit):
                self._streams.on_credit(limit)
            case ResetStream():
                self._streams.on_reset(frame)
            case StopSending():
                return self._streams.on_stop(frame)
            case Close(reason):
                self._end()
                self._events.append(LinkClosed(reason, None))
            case _:
                pass  # a Ping: being acknowledged is all it wants
        return True

    def _receive_closed(self, packets: Iterable[bytes]) -> None:
        """Repeat our Close to a peer that has missed it, ever more rarely."""
        start = len(self._prefix)
        for packet in packets:
            if len(packet) < start + HEADER_SIZE or HEADER.unpack_from(packet, start)[0] != self._receive_tag:
                continue
            self._close_answers -= 1
            if self._close_answers == 0:
                self._close_answers = self.statistics.packets_sent + 1
                self._close_frame = self._close_frame or encode_frame(Close(REASON_DONE))

    # -- what leaves -------------------------------------------------------------------------------------

    def packets_to_send(self, now: float, *, brief: bool = False) -> list[bytes]:
        """Return what may leave now, within window and pace; whole packets, prefix included.

        `brief`: not much of it, as others wait; the rest is due at once (`next_timeout`).
        """
        now = self._clock(now)
        packets: list[bytes] = []
        if self._down:
            return packets
        if self._closed:
            self._send_close(packets)
            return packets
        recovery, acks = self._recovery, self._acks
        if self._builder.has_work() or recovery.probes_due:
            self._datagrams.expire(now)
            self._send(packets, now, brief or now < self._brief_until)
        elif self._path.in_flight < recovery.controller.cwnd:
            self._path.mark_app_limited()
        if acks.due_at is not None and acks.due_at <= now:
            packets.append(self._builder.ack_only(now))
        if packets:
            self.statistics.packets_sent += len(packets)
            self.statistics.bytes_sent += sum([len(packet) for packet in packets])
        return packets

    def _send(self, packets: list[bytes], now: float, brief: bool) -> None:
        recovery, path, controller = self._recovery, self._path, self._recovery.controller
        controller.on_send(now)
        allowance = self._pacer.allowance(controller.pacing_rate, controller.quantum, now)
        if allowance <= 0 and not recovery.probes_due:
            return
        snapshot = path.snapshot(now)
        full = self._max_packet
        window = controller.cwnd - full
        recovery.skip_number(snapshot)
        first_in_flight = path.in_flight
        stop_at = first_in_flight + (min(allowance, BRIEF * full) if brief else allowance)
        plain = not self._builder.has_urgent()
        while True:
            probing = recovery.probes_due > 0
            if probing:
                recovery.probes_due -= 1
            elif path.in_flight > window:
                path.cwnd_limited = True
                break
            elif path.in_flight >= stop_at:
                break
            packet = self._builder.bulk_packet(snapshot) if plain else None
            if packet is None:
                packet = self._builder.mixed_packet(snapshot, now)
                plain = not self._builder.has_urgent()
            if packet is None:
                if probing:
                    packets.append(self._builder.packet([encode_frame(Ping())], [], snapshot))
                path.mark_app_limited()
                break
            packets.append(packet)
        if self._builder.is_shared:
            self._builder.is_shared = False
            self._brief_until = now + BRIEF_TIME
            path.shared_at = now
        sent = path.in_flight - first_in_flight
        if sent:
            self._pacer.sent(sent, controller.pacing_rate)

    def _send_close(self, packets: list[bytes]) -> None:
        if self._close_frame is not None:
            packets.append(self._builder.unrecorded(self._close_frame))
            self._close_frame = None
            self.statistics.packets_sent += 1

    # -- the timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when to call handle_timeout (at the latest), by the owner's clock.

        None while there is nothing to wait for.
        """
        if self._down or self._closed:
            return None
        deadline = self._recovery.next_timeout()
        due = self._acks.due_at
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        if self._builder.has_work():
            leave = self._pacer.next_time
            may_leave = self._path.in_flight + self._max_packet <= self._recovery.controller.cwnd
            if (may_leave or self._recovery.probes_due) and (deadline is None or leave < deadline):
                deadline = leave
        return None if deadline is None else deadline - self._skew

    def handle_timeout(self, now: float) -> None:
        """Do what is due by now; then call packets_to_send."""
        now = self._clock(now)
        if self._down or self._closed:
            return
        deadline = self._recovery.next_timeout()
        if deadline is not None and deadline <= now:
            self._recovery.on_timeout(now)
