"""The bytes of a link packet: a header, then frames (LINK.md has the tables and vectors).

The transport that gives these frames their meaning is `tunfwd.link`. Decoding is strict and all or
nothing: a packet with one bad frame is Malformed as a whole, so that it changes no state. Integers are
little-endian.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from tunfwd.common.errors import Malformed

__all__ = [
    "HEADER_SIZE",
    "MAX_OFFSET",
    "MAX_RANGES",
    "Ack",
    "Close",
    "Datagram",
    "Fragment",
    "Frame",
    "Malformed",
    "MaxData",
    "MaxStreamData",
    "Ping",
    "ResetStream",
    "StopSending",
    "Stream",
    "decode_frames",
    "encode_ack",
    "encode_frame",
    "expand_number",
    "link_tag",
]

_MASK: Final = 0xFFFFFFFF
# of a stream; RFC 9000 4.5 has the same bound. 80 MB/s take 1 800 years to reach it
MAX_OFFSET: Final = (1 << 62) - 1
MAX_RANGES: Final = 64  # in an Ack: a second at 100 Mbit/s and 1 % loss
_MAX_RUN: Final = 0xFFFF  # packets in one lower range or gap of an Ack

PING: Final = 0x01
ACK: Final = 0x02
STREAM: Final = 0x03
STREAM_FIN: Final = 0x04
RESET_STREAM: Final = 0x05
STOP_SENDING: Final = 0x06
MAX_STREAM_DATA: Final = 0x07
MAX_DATA: Final = 0x08
DATAGRAM: Final = 0x09
FRAGMENT: Final = 0x0A
CLOSE: Final = 0x0B

_STREAMS: Final = (STREAM, STREAM_FIN)

HEADER: Final = struct.Struct("<II")  # tag, low 32 bits of the packet number
HEADER_SIZE: Final = 8
STREAM_HEADER: Final = struct.Struct("<BIQH")  # type, stream, offset, length
STREAM_HEADER_SIZE: Final = 15
PACKET_HEADER: Final = struct.Struct("<IIBIQH")  # both of the above, for packets full of bulk data
DATAGRAM_HEADER: Final = struct.Struct("<BIH")  # type, flow, length
DATAGRAM_HEADER_SIZE: Final = 7
FRAGMENT_HEADER: Final = struct.Struct("<BIIHHH")  # type, flow, datagram number, its size, offset, length
FRAGMENT_HEADER_SIZE: Final = 15
ACK_HEADER: Final = struct.Struct(
    "<BIIBI"
)  # type, largest, delay in microseconds, further ranges, first range
ACK_HEADER_SIZE: Final = 14
ACK_RANGE_SIZE: Final = 4
_RESET: Final = struct.Struct("<BIHQ")  # type, stream, reason, final size
_STOP: Final = struct.Struct("<BIH")  # type, stream, reason
_MAX_STREAM_DATA: Final = struct.Struct("<BIQ")  # type, stream, limit
_MAX_DATA: Final = struct.Struct("<BQ")  # type, limit
_CLOSE: Final = struct.Struct("<BH")  # type, reason
_RANGES: Final = tuple(struct.Struct(f"<{2 * count}H") for count in range(MAX_RANGES))


class Ping(NamedTuple):
    """Asks for an Ack and nothing else."""


@dataclass(init=False, slots=True)
class Ack:
    """Packets received, newest first: each range from its lowest number to its highest, below `largest`."""

    largest: int  # low 32 bits
    delay: float  # s
    ranges: tuple[
        tuple[int, int], ...
    ]  # (distance to the lowest, distance to the highest); the first ends in 0

    def __init__(self, largest: int, delay: float, ranges: tuple[tuple[int, int], ...]) -> None:
        self.largest = largest
        self.delay = delay
        self.ranges = ranges


@dataclass(init=False, slots=True)
class Stream:
    """Bytes of a stream from `offset`; `fin`: the stream ends with them."""

    id: int
    offset: int
    data: bytes
    fin: bool

    def __init__(self, id: int, offset: int, data: bytes, fin: bool) -> None:
        self.id = id
        self.offset = offset
        self.data = data
        self.fin = fin


class ResetStream(NamedTuple):
    """The sender abandons its half of the stream, after `final_size` bytes."""

    id: int
    reason: int
    final_size: int


class StopSending(NamedTuple):
    """The receiver reads no further, and asks the sender to reset its half."""

    id: int
    reason: int


class MaxStreamData(NamedTuple):
    """Credit: the stream may grow to `limit` bytes."""

    id: int
    limit: int


class MaxData(NamedTuple):
    """Credit: all streams together may grow to `limit` bytes."""

    limit: int


@dataclass(init=False, slots=True)
class Datagram:
    """A datagram of a flow, whole; sent once."""

    id: int
    data: bytes

    def __init__(self, id: int, data: bytes) -> None:
        self.id = id
        self.data = data


class Fragment(NamedTuple):
    """A piece of datagram `number` of a flow, which is `size` bytes in all."""

    id: int
    number: int
    size: int
    offset: int
    data: bytes


class Close(NamedTuple):
    """The sender closes the link."""

    reason: int


Frame: TypeAlias = (
    Stream | Ack | Datagram | MaxStreamData | MaxData | Fragment | Ping | ResetStream | StopSending | Close
)


def link_tag(sender_epoch: int, receiver_epoch: int) -> int:
    """Return the 32 bits that mark packets of this pair of epochs in this direction."""
    return zlib.crc32(struct.pack("<QQ", sender_epoch, receiver_epoch))


def expand_number(truncated: int, expected: int) -> int:
    """Return the number nearest to `expected` with these 32 low bits (RFC 9000 A.3); it may be below 0."""
    return expected + ((truncated - expected + 0x80000000) & _MASK) - 0x80000000


def decode_frames(packet: bytes, position: int) -> list[Frame]:
    """Return all frames from `position` to the end of the packet.

    Raises Malformed if there is none, or one is unknown or cut short.
    """
    end = len(packet)
    frames: list[Frame] = []
    if position >= end:
        raise Malformed("no frames")
    try:
        while position < end:
            kind = packet[position]
            if kind in _STREAMS:
                _, stream, offset, length = STREAM_HEADER.unpack_from(packet, position)
                position += STREAM_HEADER_SIZE
                stop = position + length
                if stop > end or offset + length > MAX_OFFSET:
                    raise Malformed("stream data outside of the packet or the stream")
                frames.append(Stream(stream, offset, packet[position:stop], kind == STREAM_FIN))
                position = stop
            elif kind == ACK:
                ack, position = _decode_ack(packet, position)
                frames.append(ack)
            elif kind == DATAGRAM:
                _, flow, length = DATAGRAM_HEADER.unpack_from(packet, position)
                position += DATAGRAM_HEADER_SIZE
                stop = position + length
                if stop > end:
                    raise Malformed("datagram outside of the packet")
                frames.append(Datagram(flow, packet[position:stop]))
                position = stop
            elif kind == FRAGMENT:
                fragment, position = _decode_fragment(packet, position)
                frames.append(fragment)
            elif kind == MAX_STREAM_DATA:
                _, stream, limit = _MAX_STREAM_DATA.unpack_from(packet, position)
                frames.append(MaxStreamData(stream, limit))
                position += _MAX_STREAM_DATA.size
            elif kind == MAX_DATA:
                _, limit = _MAX_DATA.unpack_from(packet, position)
                frames.append(MaxData(limit))
                position += _MAX_DATA.size
            elif kind == PING:
                frames.append(Ping())
                position += 1
            elif kind == RESET_STREAM:
                _, stream, reason, final_size = _RESET.unpack_from(packet, position)
                if final_size > MAX_OFFSET:
                    raise Malformed("final size out of range")
                frames.append(ResetStream(stream, reason, final_size))
                position += _RESET.size
            elif kind == STOP_SENDING:
                _, stream, reason = _STOP.unpack_from(packet, position)
                frames.append(StopSending(stream, reason))
                position += _STOP.size
            elif kind == CLOSE:
                _, reason = _CLOSE.unpack_from(packet, position)
                frames.append(Close(reason))
                position += _CLOSE.size
            else:
                raise Malformed(f"unknown frame type {kind:#04x}")
    except struct.error:
        raise Malformed("frame cut short") from None
    return frames


def _decode_ack(packet: bytes, position: int) -> tuple[Ack, int]:
    _, largest, delay, count, first = ACK_HEADER.unpack_from(packet, position)
    position += ACK_HEADER_SIZE
    if count >= MAX_RANGES:
        raise Malformed("too many ranges")
    ranges = [(first, 0)]
    if count:
        numbers = _RANGES[count].unpack_from(packet, position)
        position += ACK_RANGE_SIZE * count
        low = first
        for index in range(0, 2 * count, 2):
            high = low + numbers[index] + 2  # a gap of n stands for n + 1 packets missing (RFC 9000 19.3.1)
            low = high + numbers[index + 1]
            ranges.append((low, high))
        first = low
    if first > _MASK >> 1:
        raise Malformed("ranges longer than half of the number space")
    return Ack(largest, delay * 1e-6, tuple(ranges)), position


def _decode_fragment(packet: bytes, position: int) -> tuple[Fragment, int]:
    _, flow, number, size, offset, length = FRAGMENT_HEADER.unpack_from(packet, position)
    position += FRAGMENT_HEADER_SIZE
    stop = position + length
    if stop > len(packet) or not length or offset + length > size:
        raise Malformed("fragment outside of the packet or its datagram")
    return Fragment(flow, number, size, offset, packet[position:stop]), stop


def encode_ack(starts: list[int], stops: list[int], delay: float, room: int) -> bytes:
    """Make an Ack of the half-open ranges [start, stop), ascending.

    The oldest are left out where `room` bytes end.
    """
    newest = len(starts) - 1
    largest = stops[newest] - 1
    low = starts[newest]
    numbers: list[int] = []
    most = min(MAX_RANGES - 1, (room - ACK_HEADER_SIZE) // ACK_RANGE_SIZE, newest)
    for index in range(newest - 1, newest - 1 - most, -1):
        gap = low - stops[index] - 1
        length = stops[index] - starts[index] - 1
        if gap > _MAX_RUN or largest - starts[index] > _MASK >> 1:
            break
        if length > _MAX_RUN:
            numbers += (gap, _MAX_RUN)
            break
        numbers += (gap, length)
        low = starts[index]
    count = len(numbers) // 2
    microseconds = min(max(int(delay * 1e6), 0), _MASK)
    first = min(largest - starts[newest], _MASK >> 1)
    header = ACK_HEADER.pack(ACK, largest & _MASK, microseconds, count, first)
    return header + _RANGES[count].pack(*numbers) if count else header


def encode_frame(frame: Frame) -> bytes:
    """Encode any frame but an Ack, whose ranges `encode_ack` takes from where they are kept."""
    match frame:
        case Stream(stream, offset, data, fin):
            return STREAM_HEADER.pack(STREAM_FIN if fin else STREAM, stream, offset, len(data)) + data
        case Datagram(flow, data):
            return DATAGRAM_HEADER.pack(DATAGRAM, flow, len(data)) + data
        case Fragment(flow, number, size, offset, data):
            return FRAGMENT_HEADER.pack(FRAGMENT, flow, number & _MASK, size, offset, len(data)) + data
        case ResetStream(stream, reason, final_size):
            return _RESET.pack(RESET_STREAM, stream, reason, final_size)
        case StopSending(stream, reason):
            return _STOP.pack(STOP_SENDING, stream, reason)
        case MaxStreamData(stream, limit):
            return _MAX_STREAM_DATA.pack(MAX_STREAM_DATA, stream, limit)
        case MaxData(limit):
            return _MAX_DATA.pack(MAX_DATA, limit)
        case Ping():
            return bytes((PING,))
        case Close(reason):
            return _CLOSE.pack(CLOSE, reason)
        case Ack():
            raise TypeError("use encode_ack")
