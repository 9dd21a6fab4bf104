"""ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443): echo, and errors that say why a packet was lost."""

import enum
import struct
from builtins import memoryview  # where mypyc looks for the type of a field
from typing import Final, NamedTuple

from tunfwd.common.errors import Malformed
from tunfwd.wire import ip
from tunfwd.wire.checksum import Buffer, checksum, pseudo_header_sum

HEADER_LENGTH: Final = 8
QUOTE_V4: Final = 576  # bytes an error packet may have at most; RFC 1812 4.3.2.3
QUOTE_V6: Final = ip.MIN_MTU_V6  # bytes; RFC 4443 2.4 (c)

_HEADER: Final = struct.Struct(">BBHI")


class Error(enum.Enum):
    """Why a packet was not delivered, in terms common to both families."""

    PORT_UNREACHABLE = enum.auto()
    HOST_UNREACHABLE = enum.auto()
    PROTOCOL_UNREACHABLE = enum.auto()
    TOO_BIG = enum.auto()


_TYPES_V4 = {  # type, code
    Error.PORT_UNREACHABLE: (3, 3),
    Error.HOST_UNREACHABLE: (3, 1),
    Error.PROTOCOL_UNREACHABLE: (3, 2),
    Error.TOO_BIG: (3, 4),
}
_TYPES_V6 = {
    Error.PORT_UNREACHABLE: (1, 4),
    Error.HOST_UNREACHABLE: (1, 3),
    Error.PROTOCOL_UNREACHABLE: (4, 1),  # unrecognized next header; the value is where it stands
    Error.TOO_BIG: (2, 0),
}
_ERRORS_V4 = {types: error for error, types in _TYPES_V4.items()}
_ERRORS_V6 = {types: error for error, types in _TYPES_V6.items()}
_UNREACHABLE_V4, _UNREACHABLE_V6 = 3, 1  # any other code of these types is read as host unreachable
_ECHO_V4 = (8, 0)  # request, reply
_ECHO_V6 = (128, 129)


class Echo(NamedTuple):
    """An echo request; identifier and sequence number stay one opaque number."""

    rest: int
    payload: memoryview


class Report(NamedTuple):
    """An error about a packet that begins as `quote` does; `mtu` (bytes) is 0 unless TOO_BIG."""

    error: Error
    mtu: int
    quote: memoryview


class Quoted(NamedTuple):
    """Which of our packets an error is about; `sequence` is TCP's."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    sequence: int


def parse(data: Buffer, packet: ip.Packet) -> Echo | Report | None:
    """Return the message in `packet`; None if it is of a kind that we do not use. Raises Malformed."""
    if packet.end - packet.payload < HEADER_LENGTH:
        raise Malformed("ICMP header cut short")
    kind, code, _, rest = _HEADER.unpack_from(data, packet.payload)
    body = memoryview(data)[packet.payload + HEADER_LENGTH : packet.end]
    if packet.version == 4:
        request, errors, unreachable, mtu = _ECHO_V4[0], _ERRORS_V4, _UNREACHABLE_V4, rest & 0xFFFF
    else:
        request, errors, unreachable, mtu = _ECHO_V6[0], _ERRORS_V6, _UNREACHABLE_V6, rest
    if kind == request:
        return Echo(rest, body)
    error = errors.get((kind, 0 if kind == 2 else code))
    if error is None:
        if kind != unreachable:
            return None
        error = Error.HOST_UNREACHABLE
    return Report(error, mtu if error is Error.TOO_BIG else 0, body)


def parse_quote(quote: memoryview) -> Quoted:
    """Return what a Report quotes: the IP header and 8 bytes of ours, possibly no more. Raises Malformed."""
    version = quote[0] >> 4 if quote else 0
    offset = 0
    if version == 4 and len(quote) >= 28:
        start, protocol = (quote[0] & 15) * 4, quote[9]
        source, destination = bytes(quote[12:16]), bytes(quote[16:20])
        offset = int.from_bytes(quote[6:8], "big") & 0x1FFF
    elif version == 6 and len(quote) >= 48:
        start, protocol = ip.HEADER_LENGTH_V6, quote[6]
        source, destination = bytes(quote[8:24]), bytes(quote[24:40])
        if protocol == ip.FRAGMENT:  # the only extension header that we send
            start, protocol = start + ip.FRAGMENT_HEADER_LENGTH, quote[40]
            offset = int.from_bytes(quote[42:44], "big") & 0xFFF8
    else:
        raise Malformed("ICMP quote")
    if offset or len(quote) < start + 8:
        raise Malformed("ICMP quote without ports")
    source_port, destination_port, sequence = struct.unpack_from(">HHI", quote, start)
    return Quoted(source, destination, protocol, source_port, destination_port, sequence)


def build_error(
    source: bytes, destination: bytes, error: Error, quote: Buffer, mtu: int = 0
) -> tuple[bytes, bytes]:
    """Return the header and message of an error from `source`, which quotes as much as it may of a packet."""
    if len(source) == 4:
        kind, code = _TYPES_V4[error]
        limit = QUOTE_V4 - ip.HEADER_LENGTH_V4 - HEADER_LENGTH
    else:
        kind, code = _TYPES_V6[error]
        limit = QUOTE_V6 - ip.HEADER_LENGTH_V6 - HEADER_LENGTH
    rest = mtu
    if (kind, code) == (4, 1):
        rest = 6  # offset of Next Header in the quoted IPv6 header
    return _build(source, destination, (kind, code, rest), quote[:limit])


def build_echo_reply(source: bytes, destination: bytes, echo: Echo) -> bytes:
    """Return the message that answers `echo`; an IP header goes before it, or fragments' headers."""
    kind = (_ECHO_V4 if len(source) == 4 else _ECHO_V6)[1]
    return _build(source, destination, (kind, 0, echo.rest), echo.payload)[1]


def _build(
    source: bytes, destination: bytes, header: tuple[int, int, int], body: Buffer
) -> tuple[bytes, bytes]:
    kind, code, rest = header
    message = _HEADER.pack(kind, code, 0, rest) + body
    protocol, initial = ip.ICMP, 0
    if len(source) == 16:
        protocol = ip.ICMPV6
        initial = pseudo_header_sum(source, destination, protocol, len(message))
    summed = checksum(message, initial)
    message = b"%b%b%b" % (message[:2], summed.to_bytes(2, "big"), message[4:])
    return ip.build_header(source, destination, protocol, len(message)), message
