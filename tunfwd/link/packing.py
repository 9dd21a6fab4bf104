"""Puts frames into packets: what is due, in the order of its urgency, and what bulk data fills.

Called by link.py, which has decided that a packet may leave. Every packet that wants an Ack is recorded in
recovery.py together with what it carries.
"""

from typing import Final

from tunfwd.link.acks import Acknowledger
from tunfwd.link.congestion import SendSnapshot
from tunfwd.link.datagrams import DatagramQueue
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
    Ping,
    encode_frame,
)

MIN_ROOM: Final = STREAM_HEADER_SIZE + 64  # bytes left in a packet that are worth another stream's frame
DATAGRAM_TURNS: Final = 8  # packets of datagrams that may leave one after the other while streams wait
FRAME_ROOM: Final = 20  # bytes; the largest of the small frames
_MASK: Final = 0xFFFFFFFF


class PacketBuilder:
    """Builds the packets of one link."""

    def __init__(
        self,
        prefix: bytes,
        tag: int,
        max_packet: int,
        *,
        recovery: Recovery,
        acks: Acknowledger,
        streams: Streams,
        datagrams: DatagramQueue,
    ) -> None:
        self._prefix = prefix
        self._send_tag = tag
        self._max_packet = max_packet
        self._recovery = recovery
        self._acks = acks
        self._streams = streams
        self._datagrams = datagrams
        self._datagram_turns = 0  # packets of datagrams that have left one after the other
        self.is_shared = False
        """Whether a packet, since this was last set back, held all of one sender and more of another."""

    def has_urgent(self) -> bool:
        """Whether the next packet is not simply the next stream's data."""
        streams = self._streams
        return bool(
            self._acks.pending
            or self._datagrams
            or streams.has_small_frames
            or streams.control.send.has_pending(_MASK)
        )

    def has_work(self) -> bool:
        """Whether anything waits to leave (or may: a stream that has had its turn is looked at then)."""
        streams = self._streams
        return bool(
            streams.active
            or streams.new_streams
            or self._datagrams
            or streams.has_small_frames
            or streams.control.send.has_pending(_MASK)
        )

    def bulk_packet(self, snapshot: SendSnapshot) -> bytes | None:
        """Return a packet full of one stream's new data, the usual case.

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
            streams.unserved(stream)
            return None
        streams.send_credit = credit - room
        _, stop, fin = stream.take(room, room)
        streams.served(stream)
        number = self._recovery.take_number()
        header = PACKET_HEADER.pack(
            self._send_tag, number & _MASK, STREAM_FIN if fin else STREAM, stream.id, start, room
        )
        self._recovery.on_sent(number, self._max_packet, snapshot, ((stream, start, stop, fin),))
        return b"".join((prefix, header, stream.data(start, stop)))

    def mixed_packet(self, snapshot: SendSnapshot, now: float) -> bytes | None:
        """Return a packet of whatever is due, in the order of its urgency, and the Ack if one is owed.

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
        before_datagrams = room
        room = self._add_datagrams(parts, room)
        others = room < before_datagrams
        while room > MIN_ROOM:
            stream = streams.next_sender()
            if stream is None:
                break
            self.is_shared = self.is_shared or others
            others = True
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
        return self.packet(parts, items, snapshot)

    def _add_datagrams(self, parts: list[bytes | bytearray], room: int) -> int:
        """Add datagrams, ahead of streams but not to their exclusion; return the room left."""
        streams = self._streams
        if self._datagram_turns >= DATAGRAM_TURNS and (streams.active or streams.new_streams):
            self._datagram_turns = 0
            return room
        before = room
        while (frame := self._datagrams.take(room)) is not None:
            parts.append(frame)
            room -= len(frame)
        self._datagram_turns = self._datagram_turns + 1 if room < before else 0
        return room

    def _add_small_frames(self, parts: list[bytes | bytearray], items: list[Item], room: int) -> int:
        """Add resets, stops and credit, in this order; return the room left."""
        for frames in self._streams.small_frames:
            while frames.due and room >= FRAME_ROOM:
                id_, frame = frames.take()
                if frame is not None:
                    parts.append(frame)
                    items.append((frames, id_, id_, False))
                    room -= len(frame)
        return room

    def packet(self, parts: list[bytes | bytearray], items: list[Item], snapshot: SendSnapshot) -> bytes:
        """Number and record a packet that wants an Ack."""
        number = self._recovery.take_number()
        packet = b"".join((self._prefix, HEADER.pack(self._send_tag, number & _MASK), *parts))
        self._recovery.on_sent(number, len(packet), snapshot, tuple(items))
        return packet

    def unrecorded(self, frame: bytes) -> bytes:
        """Number a packet that wants no Ack: an Ack alone, or a Close."""
        number = self._recovery.take_number()
        return b"".join((self._prefix, HEADER.pack(self._send_tag, number & _MASK), frame))

    def ack_only(self, now: float) -> bytes:
        """Return an Ack alone: neither acknowledged nor counted against the window, unless it asks for it."""
        room = self._max_packet - len(self._prefix) - HEADER_SIZE - 1
        ack, largest = self._acks.take(room, now)
        if not self._acks.wants_ping():
            return self.unrecorded(ack)
        snapshot = self._recovery.path.snapshot(now)
        return self.packet([ack, encode_frame(Ping())], [(self._acks, largest, largest, False)], snapshot)
