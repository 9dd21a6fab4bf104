"""TCP headers and the options we use (RFC 9293 3.1, RFC 7323 2, RFC 2018)."""

import struct
from builtins import memoryview  # where mypyc looks for the type of a field
from dataclasses import dataclass
from typing import Final, NamedTuple

from tunfwd.common.errors import Malformed
from tunfwd.wire.checksum import Buffer

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

HEADER_LENGTH: Final = 20
CHECKSUM_OFFSET: Final = 16
DEFAULT_MSS_V4: Final = 536  # bytes; RFC 9293 3.7.1, when the option is missing
DEFAULT_MSS_V6: Final = 1220
MAX_WINDOW_SCALE: Final = 14  # RFC 7323 2.3
MAX_SACK_BLOCKS: Final = 4  # what 40 bytes of options hold; RFC 2018 3

_HEADER: Final = struct.Struct(">HHIIBBHHH")
_END: Final = 0
_NOP: Final = 1
_MSS: Final = 2
_WINDOW_SCALE: Final = 3
_SACK_PERMITTED: Final = 4


@dataclass(init=False, slots=True)
class Segment:
    """A segment in a buffer; sequence numbers and window as on the wire (32 bits, unscaled)."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    options: Buffer
    payload: memoryview

    def __init__(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        options: Buffer,
        payload: memoryview,
    ) -> None:
        self.source_port = source_port
        self.destination_port = destination_port
        self.sequence = sequence
        self.acknowledgment = acknowledgment
        self.flags = flags
        self.window = window
        self.options = options
        self.payload = payload


class Options(NamedTuple):
    """What a SYN says; None is an option that was not there."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False


def parse(data: Buffer, start: int, end: int) -> Segment:
    """Return the segment in data[start:end]; raises Malformed. The checksum is not verified."""
    if end - start < HEADER_LENGTH:
        raise Malformed("TCP header cut short")
    source_port, destination_port, sequence, acknowledgment, offset, flags, window, _, _ = (
        _HEADER.unpack_from(data, start)
    )
    options = start + HEADER_LENGTH
    payload = start + (offset >> 4) * 4
    if not options <= payload <= end:
        raise Malformed("TCP data offset")
    return Segment(
        source_port,
        destination_port,
        sequence,
        acknowledgment,
        flags,
        window,
        data[options:payload],
        memoryview(data)[payload:end],
    )


def parse_options(options: Buffer) -> Options:
    """Return the values of the options that we know; one of a wrong length is ignored, as others do."""
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted = False
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == _END:
            break
        if kind == _NOP:
            position += 1
            continue
        if position + 2 > len(options):
            break
        length = options[position + 1]
        if length < 2 or position + length > len(options):
            break
        if kind == _MSS and length == 4:
            mss = options[position + 2] << 8 | options[position + 3]
        elif kind == _WINDOW_SCALE and length == 3:
            window_scale = min(options[position + 2], MAX_WINDOW_SCALE)
        elif kind == _SACK_PERMITTED and length == 2:
            sack_permitted = True
        position += length
    return Options(mss, window_scale, sack_permitted)


def build_syn_options(options: Options) -> bytes:
    """Return the options of a SYN, padded to a multiple of 4 bytes."""
    built = b""
    if options.mss is not None:
        built += struct.pack(">BBH", _MSS, 4, options.mss)
    if options.sack_permitted:
        built += bytes((_NOP, _NOP, _SACK_PERMITTED, 2))
    if options.window_scale is not None:
        built += bytes((_NOP, _WINDOW_SCALE, 3, options.window_scale))
    return built


def build_sack(blocks: list[tuple[int, int]]) -> bytes:
    """Return a SACK option of at most MAX_SACK_BLOCKS blocks (left edge, right edge), numbers of any size."""
    edges = [edge & 0xFFFFFFFF for block in blocks[:MAX_SACK_BLOCKS] for edge in block]
    return struct.pack(f">BBBB{len(edges)}I", _NOP, _NOP, 5, 2 + 4 * len(edges), *edges)


def build_header(
    source_port: int,
    destination_port: int,
    *,
    sequence: int,
    acknowledgment: int,
    flags: int,
    window: int,
    checksum: int,
    options: bytes = b"",
) -> bytes:
    """Return a header; sequence numbers of any size are cut to 32 bits."""
    offset = (HEADER_LENGTH + len(options)) << 2
    header = _HEADER.pack(
        source_port,
        destination_port,
        sequence & 0xFFFFFFFF,
        acknowledgment & 0xFFFFFFFF,
        offset,
        flags,
        window,
        checksum,
        0,
    )
    return header + options
