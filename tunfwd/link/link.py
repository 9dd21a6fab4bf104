"""The link itself: packets in, packets out, and the calls of its owner.

Stands between the Tox contact, which carries lossy packets, and forwarding, which has streams, control
messages and datagrams. Reads top to bottom as data flows: the owner's calls, what arrives, what leaves, the
timers.

All of it is called with the owner's clock (seconds, monotonic). Nothing raises for what a peer sends: a
packet that makes no sense is counted and dropped, one that breaks the rules ends the link with
`LinkClosed`. `Misuse` is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tunfwd.link.acks import Acknowledger
from tunfwd.link.bbr import Bbr
from tunfwd.link.congestion import ControllerFactory, Flight, Path, Random
from tunfwd.link.datagrams import DatagramQueue, Reassembly
from tunfwd.link.errors import PeerViolation
from tunfwd.link.events import DatagramReceived, Event, LinkClosed
from tunfwd.link.pacing import Pacer
from tunfwd.link.recovery import Item, Recovery
from tunfwd.link.streams import Streams
from tunfwd.wire.frames import (
    HEADER,
    HEADER_SIZE,
    PACKET_HEADER,
    STREAM,
    STREAM_FIN,
    STREAM_HEADER,
    STREAM_HEADER_SIZE,
    Ack,
    Close,
    Datagram,
    Fragment,
    Malformed,
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
MIN_ROOM: Final = STREAM_HEADER_SIZE + 64  # bytes left in a packet that are worth another stream's frame
DATAGRAM_TURNS: Final = 8  # packets of datagrams that may leave one after the other while streams wait
FRAME_ROOM: Final = 20  # bytes; the largest of the small frames
REASON_DONE: Final = 0
REASON_VIOLATION: Final = 1
_MASK: Final = 0xFFFFFFFF


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
    ) -> None:
        """Begin a link; both ends do so when both have said Hello.

        `prefix` is carrier prefix and packet type: it begins each packet, counts in `max_packet`, and is
        skipped in what arrives. `fragment`: the peer puts split datagrams together.
        """
        self.statistics = Statistics()
        self._send_tag = link_tag(local_epoch, remote_epoch)
        self._receive_tag = link_tag(remote_epoch, local_epoch)
        self._prefix = prefix
        self._max_packet = max_packet
        self._fragment = fragment
        self._new_controller = controller
        self._random = random
        self._last = self._skew = 0.0
        self._events: deque[Event] = deque()
        self._streams = Streams(self._events)
        self._acks = Acknowledger()
        self._datagrams = DatagramQueue(max_packet - len(prefix) - HEADER_SIZE)
        self._reassembly = Reassembly()
        self._datagram_turns = 0
        self._pacer = Pacer()
        self._down = False
        self._closed = False
        self._close_frame: bytes | None = None  # to be sent, once
        self._close_answers = 1  # packets still to arrive until we repeat it
        now = self._clock(now)
        self._path = Path(max_packet, now)
        self._recovery = Recovery(self._path, controller(self._path, random, now), random, now)

    # -- the owner's calls: streams are known by a 32-bit id both sides agree on, not 0, used once -------

    def stream_open(self, id_: int) -> None:
        """Claim a stream; the peer's data for it may already be here. Misuse if the id is or was in use."""
        self._streams.open(id_)

    def stream_write(self, id_: int, data: bytes | bytearray | memoryview) -> int:
        """How many bytes were taken; fewer than all: wait for StreamWritable.

        A stream that is gone takes, and forgets, all.
        """
        return self._streams.write(id_, data)

    def stream_space(self, id_: int) -> int:
        """How many bytes stream_write takes now."""
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
        """Up to `limit` bytes; b"" if none are here now. Reading gives the peer credit for more."""
        return self._streams.read(id_, limit)

    def send_control(self, message: bytes) -> bool:
        """Queue a control message of 1 to 1373 bytes; False if the queue is full."""
        return self._streams.send_control(message)

    def send_datagram(self, id_: int, data: bytes) -> bool:
        """Queue a datagram; the oldest make room. False if it is too large for this peer."""
        return self._datagrams.put(id_, data, self._fragment, self._last)

    def next_event(self) -> Event | None:
        """The next thing the owner should know; None when there is nothing."""
        return self._events.popleft() if self._events else None

    def path_lost(self, now: float) -> None:
        """The contact is offline: send nothing, let no timer run, keep everything."""
        self._clock(now)
        self._down = True

    def path_restored(self, now: float) -> None:
        """The contact is back, perhaps by another path.

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

    @property
    def closed(self) -> bool:
        """Whether the link is over."""
        return self._closed

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds; None before there is one."""
        return self._path.smoothed_rtt

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
        self._streams = Streams(self._events)
        self._datagrams = DatagramQueue(self._max_packet - len(self._prefix) - HEADER_SIZE)
        self._reassembly = Reassembly()
        self._recovery.sent.clear()

    def _clock(self, now: float) -> float:
        """The owner's clock without steps back: time stands still over one, and goes on from there."""
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
                eliciting = False
                for frame in frames:
                    if type(frame) is Stream:
                        streams.on_stream(frame)
                        eliciting = True
                    elif type(frame) is Ack:
                        self._recovery.on_ack(frame, now)
                    else:
                        eliciting = True
                        self._on_frame(frame)
                        if self._closed:
                            return
                acks.record(number, eliciting, now)
        except PeerViolation as violation:
            self._close_frame = encode_frame(Close(REASON_VIOLATION))
            self._end()
            self._events.append(LinkClosed(REASON_VIOLATION, str(violation)))
            return
        streams.cwnd = self._recovery.controller.cwnd
        streams.round_trip = self._recovery.rtt.smoothed

    def _on_frame(self, frame: object) -> None:
        """The frames that are not in every packet."""
        match frame:
            case Datagram(id_, data):
                self._events.append(DatagramReceived(id_, data))
            case Fragment():
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
                self._streams.on_stop(frame)
            case Close(reason):
                self._end()
                self._events.append(LinkClosed(reason, None))
            case _:
                pass  # a Ping: being acknowledged is all it wants

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

    def packets_to_send(self, now: float) -> list[bytes]:
        """What may leave now, within window and pace; whole packets, prefix included."""
        now = self._clock(now)
        packets: list[bytes] = []
        if self._down:
            return packets
        if self._closed:
            self._send_close(packets)
            return packets
        recovery, acks = self._recovery, self._acks
        if self._has_work() or recovery.probes_due:
            self._datagrams.expire(now)
            self._send(packets, now)
        elif self._path.in_flight < recovery.controller.cwnd:
            self._path.mark_app_limited()
        if acks.due_at is not None and acks.due_at <= now:
            packets.append(self._ack_only(now))
        if packets:
            self.statistics.packets_sent += len(packets)
            self.statistics.bytes_sent += sum([len(packet) for packet in packets])
        return packets

    def _send(self, packets: list[bytes], now: float) -> None:
        recovery, path, controller = self._recovery, self._path, self._recovery.controller
        controller.on_send(now)
        allowance = self._pacer.allowance(controller.pacing_rate, controller.quantum, now)
        if allowance <= 0 and not recovery.probes_due:
            return
        flight = path.flight(now)
        full = self._max_packet
        window = controller.cwnd - full
        recovery.skip_number(flight)
        first_in_flight = path.in_flight
        stop_at = first_in_flight + allowance
        plain = not self._has_urgent()
        while True:
            probing = recovery.probes_due > 0
            if probing:
                recovery.probes_due -= 1
            elif path.in_flight > window:
                path.cwnd_limited = True
                break
            elif path.in_flight >= stop_at:
                break
            packet = self._bulk_packet(flight) if plain else None
            if packet is None:
                packet = self._mixed_packet(flight, now)
                plain = not self._has_urgent()
            if packet is None:
                if probing:
                    packets.append(self._packet([encode_frame(Ping())], [], flight))
                path.mark_app_limited()
                break
            packets.append(packet)
        sent = path.in_flight - first_in_flight
        if sent:
            recovery.last_sent_time = now
            self._pacer.sent(sent, controller.pacing_rate)

    def _has_urgent(self) -> bool:
        """Whether the next packet is not simply the next stream's data."""
        streams = self._streams
        return bool(
            self._acks.pending
            or self._datagrams
            or streams.credits_due
            or streams.data_credit_due
            or streams.resets_due
            or streams.stops_due
            or streams.control.send.has_pending(_MASK)
        )

    def _has_work(self) -> bool:
        streams = self._streams
        return bool(
            streams.active
            or streams.fresh
            or self._datagrams
            or streams.credits_due
            or streams.data_credit_due
            or streams.resets_due
            or streams.stops_due
            or streams.control.send.has_pending(_MASK)
        )

    def _bulk_packet(self, flight: Flight) -> bytes | None:
        """A packet full of one stream's new data, the usual case.

        None if the next stream has no packet full.
        """
        streams = self._streams
        stream = streams.next_sender()
        if stream is None:
            return None
        prefix = self._prefix
        room = self._max_packet - len(prefix) - HEADER_SIZE - STREAM_HEADER_SIZE
        start = stream.sent
        credit = streams.send_credit
        if (
            stream.lost_ranges
            or stream.written - start < room
            or stream.limit - start < room
            or credit < room
        ):
            streams.fresh.appendleft(stream)
            return None
        streams.send_credit = credit - room
        _, stop, fin = stream.take(room, room)
        streams.active.append(stream)
        recovery, path = self._recovery, self._path
        number = recovery.next_number
        recovery.next_number = number + 1
        header = PACKET_HEADER.pack(
            self._send_tag, number & _MASK, STREAM_FIN if fin else STREAM, stream.id, start, room
        )
        size = self._max_packet
        path.in_flight += size
        recovery.sent.append((number, size, path.in_flight, flight, ((stream, start, stop, fin),)))
        return b"".join((prefix, header, stream.data(start, stop)))

    def _mixed_packet(self, flight: Flight, now: float) -> bytes | None:
        """A packet of whatever is due, in the order of its urgency, and the Ack if one is owed.

        None if nothing is due.
        """
        parts: list[bytes | bytearray] = []
        items: list[Item] = []
        acks, streams = self._acks, self._streams
        room = self._max_packet - len(self._prefix) - HEADER_SIZE
        ack_room = acks.frame_size() if acks.pending else 0
        if ack_room and self._datagrams.needs_packet(room - ack_room):
            ack_room = 0
        room = self._add_small_frames(parts, items, room - ack_room)
        control = streams.control.send
        while room > MIN_ROOM and control.has_pending(_MASK):
            start, stop, _ = control.take(room - STREAM_HEADER_SIZE, _MASK)
            parts += (STREAM_HEADER.pack(STREAM, 0, start, stop - start), control.data(start, stop))
            items.append((control, start, stop, False))
            room -= STREAM_HEADER_SIZE + stop - start
        room = self._add_datagrams(parts, room)
        while room > MIN_ROOM:
            stream = streams.next_sender()
            if stream is None:
                break
            before = stream.sent
            start, stop, fin = stream.take(room - STREAM_HEADER_SIZE, streams.send_credit)
            streams.send_credit -= stream.sent - before
            streams.served(stream)
            kind = STREAM_FIN if fin else STREAM
            parts += (STREAM_HEADER.pack(kind, stream.id, start, stop - start), stream.data(start, stop))
            items.append((stream, start, stop, fin))
            room -= STREAM_HEADER_SIZE + stop - start
        if not parts:
            return None
        if ack_room:
            ack, largest = acks.take(ack_room, now)
            parts.insert(0, ack)
            items.append((acks, largest, largest, False))
        return self._packet(parts, items, flight)

    def _add_datagrams(self, parts: list[bytes | bytearray], room: int) -> int:
        """Datagrams, ahead of streams but not to their exclusion; the room left."""
        streams = self._streams
        if self._datagram_turns >= DATAGRAM_TURNS and (streams.active or streams.fresh):
            self._datagram_turns = 0
            return room
        before = room
        while (frame := self._datagrams.take(room)) is not None:
            parts.append(frame)
            room -= len(frame)
        self._datagram_turns = self._datagram_turns + 1 if room < before else 0
        return room

    def _add_small_frames(self, parts: list[bytes | bytearray], items: list[Item], room: int) -> int:
        """Resets, stops and credit; the room left."""
        streams = self._streams
        while streams.resets_due and room >= FRAME_ROOM:
            id_ = next(iter(streams.resets_due))
            del streams.resets_due[id_]
            reset = streams.reset_frame(id_)
            if reset is not None:
                parts.append(encode_frame(reset))
                items.append((streams.resets, id_, id_, False))
                room -= len(parts[-1])
        while streams.stops_due and room >= FRAME_ROOM:
            id_ = next(iter(streams.stops_due))
            del streams.stops_due[id_]
            stop = streams.stop_frame(id_)
            if stop is not None:
                parts.append(encode_frame(stop))
                items.append((streams.stops, id_, id_, False))
                room -= len(parts[-1])
        if streams.data_credit_due and room >= FRAME_ROOM:
            streams.data_credit_due.clear()
            parts.append(encode_frame(MaxData(streams.granted)))
            items.append((streams.data_credit, 0, 0, False))
            room -= len(parts[-1])
        while streams.credits_due and room >= FRAME_ROOM:
            id_ = next(iter(streams.credits_due))
            del streams.credits_due[id_]
            credit = streams.credit_frame(id_)
            if credit is not None:
                parts.append(encode_frame(credit))
                items.append((streams.credits, id_, id_, False))
                room -= len(parts[-1])
        return room

    def _packet(self, parts: list[bytes | bytearray], items: list[Item], flight: Flight) -> bytes:
        """Number and record a packet that wants an Ack."""
        recovery, path = self._recovery, self._path
        number = recovery.next_number
        recovery.next_number = number + 1
        packet = b"".join((self._prefix, HEADER.pack(self._send_tag, number & _MASK), *parts))
        path.in_flight += len(packet)
        recovery.sent.append((number, len(packet), path.in_flight, flight, tuple(items)))
        return packet

    def _ack_only(self, now: float) -> bytes:
        """An Ack alone: neither acknowledged itself nor counted against the window, unless it asks for it."""
        recovery = self._recovery
        room = self._max_packet - len(self._prefix) - HEADER_SIZE - 1
        ack, largest = self._acks.take(room, now)
        if self._acks.wants_ping():
            flight = self._path.flight(now)
            recovery.last_sent_time = now
            return self._packet([ack, encode_frame(Ping())], [(self._acks, largest, largest, False)], flight)
        number = recovery.next_number
        recovery.next_number = number + 1
        return b"".join((self._prefix, HEADER.pack(self._send_tag, number & _MASK), ack))

    def _send_close(self, packets: list[bytes]) -> None:
        if self._close_frame is not None:
            number = self._recovery.next_number
            self._recovery.next_number = number + 1
            packets.append(self._prefix + HEADER.pack(self._send_tag, number & _MASK) + self._close_frame)
            self._close_frame = None
            self.statistics.packets_sent += 1

    # -- the timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When to call handle_timeout (at the latest), by the owner's clock.

        None while there is nothing to wait for.
        """
        if self._down or self._closed:
            return None
        deadline = self._recovery.next_timeout()
        due = self._acks.due_at
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        if self._has_work():
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
