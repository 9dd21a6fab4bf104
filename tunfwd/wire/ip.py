"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

Addresses are packed bytes, 4 or 16 of them: that is what tables are keyed by, and what costs least.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from tunfwd.common.errors import Malformed
from tunfwd.wire.checksum import Buffer, checksum

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
FRAGMENT: Final = 44  # IPv6 alone
ICMPV6: Final = 58

MAX_PACKET: Final = 65535  # bytes; what a TUN device takes and IPv4 can say
MIN_MTU_V4: Final = 68  # bytes; RFC 791
MIN_MTU_V6: Final = 1280  # bytes; RFC 8200 5
HEADER_LENGTH_V4: Final = 20
HEADER_LENGTH_V6: Final = 40
FRAGMENT_HEADER_LENGTH: Final = 8

_V4: Final = struct.Struct(">BBHHHBBH4s4s")
_V6: Final = struct.Struct(">IHBB16s16s")
_FRAGMENT_V6: Final = struct.Struct(">BxHI")

_DONT_FRAGMENT: Final = 0x4000
_MORE_FRAGMENTS: Final = 0x2000

_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_DESTINATION_OPTIONS: Final = 60
_MAX_EXTENSION_HEADERS: Final = 8


class Fragment(NamedTuple):
    """Where a fragment belongs; offset in bytes."""

    identification: int
    offset: int
    more: bool


@dataclass(init=False, slots=True)
class Packet:
    """An IP packet in a buffer: data[start:end], its upper-layer payload data[payload:end]."""

    version: int
    source: bytes
    destination: bytes
    protocol: int
    start: int
    payload: int
    end: int
    dont_fragment: bool  # always true of IPv6, where no router fragments
    fragment: Fragment | None

    def __init__(
        self,
        version: int,
        source: bytes,
        destination: bytes,
        protocol: int,
        start: int,
        payload: int,
        end: int,
        dont_fragment: bool,
        fragment: Fragment | None,
    ) -> None:
        self.version = version
        self.source = source
        self.destination = destination
        self.protocol = protocol
        self.start = start
        self.payload = payload
        self.end = end
        self.dont_fragment = dont_fragment
        self.fragment = fragment


def parse(data: Buffer, start: int = 0) -> Packet:
    """Return the packet that begins at `start`; what follows its end is link padding. Raises Malformed."""
    if len(data) <= start:
        raise Malformed("no packet")
    version = data[start] >> 4
    if version == 4:
        return _parse_v4(data, start)
    if version == 6:
        return _parse_v6(data, start)
    raise Malformed("neither IPv4 nor IPv6")


def _parse_v4(data: Buffer, start: int) -> Packet:
    if len(data) < start + HEADER_LENGTH_V4:
        raise Malformed("IPv4 header cut short")
    first, _, total, identification, fragmentation, _, protocol, _, source, destination = _V4.unpack_from(
        data, start
    )
    payload = start + (first & 15) * 4
    end = start + total
    if payload < start + HEADER_LENGTH_V4 or end < payload or end > len(data):
        raise Malformed("IPv4 lengths disagree")
    if checksum(data[start:payload]) != 0:
        raise Malformed("IPv4 header checksum")
    fragment = None
    if fragmentation & 0x3FFF:
        more = bool(fragmentation & _MORE_FRAGMENTS)
        fragment = _fragment(identification, (fragmentation & 0x1FFF) * 8, more, end - payload)
    return Packet(
        4,
        source,
        destination,
        protocol,
        start,
        payload,
        end,
        bool(fragmentation & _DONT_FRAGMENT),
        fragment,
    )


def _parse_v6(data: Buffer, start: int) -> Packet:
    payload = start + HEADER_LENGTH_V6
    if len(data) < payload:
        raise Malformed("IPv6 header cut short")
    _, length, protocol, _, source, destination = _V6.unpack_from(data, start)
    end = payload + length
    if end > len(data):
        raise Malformed("IPv6 packet cut short")
    fragment = None
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, FRAGMENT, _DESTINATION_OPTIONS):
            return Packet(6, source, destination, protocol, start, payload, end, True, fragment)
        if payload + 8 > end:
            raise Malformed("IPv6 extension header cut short")
        if protocol == FRAGMENT:
            if fragment is not None:
                raise Malformed("fragment of a fragment")
            protocol, offset, identification = _FRAGMENT_V6.unpack_from(data, payload)
            payload += FRAGMENT_HEADER_LENGTH
            if offset & 0xFFF9:  # otherwise whole: an atomic fragment (RFC 6946)
                fragment = _fragment(identification, offset & 0xFFF8, bool(offset & 1), end - payload)
                if fragment.offset:
                    return Packet(6, source, destination, protocol, start, payload, end, True, fragment)
            continue
        if protocol == _ROUTING and data[payload + 3]:
            raise Malformed("source routed")
        protocol, payload = data[payload], payload + 8 + data[payload + 1] * 8
        if payload > end:
            raise Malformed("IPv6 extension header cut short")
    raise Malformed("too many IPv6 extension headers")


def _fragment(identification: int, offset: int, more: bool, length: int) -> Fragment:
    if more and (length == 0 or length % 8):
        raise Malformed("fragment not a multiple of 8 bytes")
    if offset + length > MAX_PACKET:
        raise Malformed("fragment beyond the largest packet")
    return Fragment(identification, offset, more)


def build_header(
    source: bytes,
    destination: bytes,
    protocol: int,
    length: int,
    *,
    identification: int = 0,
    fragment: Fragment | None = None,
    dont_fragment: bool = False,
    hop_limit: int = 64,
) -> bytes:
    """Return the header for `length` bytes of payload, checksum (IPv4) or fragment header (IPv6) included.

    `identification` is for IPv4 packets that others may fragment; a fragment's own goes before it.
    """
    if len(source) == 16:
        return _build_v6(source, destination, protocol, length, fragment=fragment, hop_limit=hop_limit)
    fragmentation = _DONT_FRAGMENT if dont_fragment else 0
    if fragment is not None:
        identification = fragment.identification
        fragmentation |= fragment.offset >> 3 | (_MORE_FRAGMENTS if fragment.more else 0)
    total = HEADER_LENGTH_V4 + length
    header = _V4.pack(
        0x45, 0, total, identification & 0xFFFF, fragmentation, hop_limit, protocol, 0, source, destination
    )
    return b"%b%b%b" % (header[:10], checksum(header).to_bytes(2, "big"), header[12:])


def _build_v6(
    source: bytes,
    destination: bytes,
    protocol: int,
    length: int,
    *,
    fragment: Fragment | None,
    hop_limit: int,
) -> bytes:
    if fragment is None:
        return _V6.pack(0x6000_0000, length, protocol, hop_limit, source, destination)
    header = _V6.pack(0x6000_0000, FRAGMENT_HEADER_LENGTH + length, FRAGMENT, hop_limit, source, destination)
    return header + _FRAGMENT_V6.pack(protocol, fragment.offset | fragment.more, fragment.identification)


def is_unicast(address: bytes) -> bool:
    """Whether `address` can be one host: neither multicast, limited broadcast, loopback nor unspecified."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and any(address[:15])
