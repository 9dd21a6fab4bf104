"""Builds the frames that leave on one path: from a virtual address to an address of the kernel.

Everything that the TUN device wants to know about a frame is decided here: header lengths, checksum position
and partial sum, segmentation. A wrong value would still work on this machine, and be lost where it is
forwarded to another.
"""

import struct
from typing import Final

from tunfwd.netstack.types import Frame
from tunfwd.wire import ip, tcp, udp, vnet
from tunfwd.wire.checksum import Buffer, checksum, ones_complement_sum

# All headers of a packet in which nothing is special: what comes before its length, that length; of IPv4 the
# identification, what follows it, and the checksum, of IPv6 the rest up to the addresses; both addresses;
# then the header of TCP without options, or of UDP.
_TCP_V4: Final = struct.Struct(">12sHH4sH8s HHIIBBHHH")
_TCP_V6: Final = struct.Struct(">14sH2s32s HHIIBBHHH")
_UDP_V4: Final = struct.Struct(">12sHH4sH8s HHHH")
_UDP_V6: Final = struct.Struct(">14sH2s32s HHHH")
_TCP_OFFSET: Final = tcp.HEADER_LENGTH << 2
_MASK: Final = 0xFFFFFFFF


class _Plain:
    """What all packets of one protocol on a path have in common, in which nothing is special."""

    __slots__ = ("first", "second", "total")

    def __init__(self, headers: bytes, is_v4: bool, addresses_sum: int) -> None:
        """`headers` are those of one such packet, without a payload."""
        length_at = vnet.LENGTH + (2 if is_v4 else 4)
        second_at = length_at + (4 if is_v4 else 2)
        self.first = headers[:length_at]
        """Up to the length of the packet."""
        self.second = headers[second_at : second_at + (4 if is_v4 else 2)]
        """From there on, less the identification of IPv4, up to its checksum, or the addresses."""
        self.total = ones_complement_sum(self.first[vnet.LENGTH :] + self.second, addresses_sum)
        """The sum of those parts of an IPv4 header."""


class Path:
    """Two addresses of one family, packed, and the MTU (bytes) between them."""

    __slots__ = (
        "_addresses",
        "_addresses_sum",
        "_plain_tcp",
        "_plain_udp",
        "destination",
        "mtu",
        "network_length",
        "source",
    )

    def __init__(self, source: bytes, destination: bytes, mtu: int) -> None:
        self.source = source
        self.destination = destination
        self.mtu = mtu
        self.network_length = ip.HEADER_LENGTH_V4 if len(source) == 4 else ip.HEADER_LENGTH_V6
        self._addresses = source + destination
        self._addresses_sum = ones_complement_sum(self._addresses)
        self._plain_tcp: _Plain | None = None
        self._plain_udp: _Plain | None = None

    @property
    def mss(self) -> int:
        """Bytes of TCP payload in a packet without options."""
        return self.mtu - self.network_length - tcp.HEADER_LENGTH

    @property
    def default_mss(self) -> int:
        """What a peer takes that does not say (RFC 9293 3.7.1)."""
        return tcp.DEFAULT_MSS_V4 if len(self.source) == 4 else tcp.DEFAULT_MSS_V6

    @property
    def max_payload(self) -> int:
        """Bytes of TCP payload in the largest super-segment."""
        return ip.MAX_PACKET - self.network_length - tcp.HEADER_LENGTH

    def segment(
        self,
        source_port: int,
        destination_port: int,
        *,
        sequence: int,
        acknowledgment: int = 0,
        flags: int,
        window: int = 0,
        options: bytes = b"",
        payload: Buffer = b"",
        mss: int = 0,
    ) -> Frame:
        """Return a TCP segment; with a payload above `mss` (bytes), a super-segment for the kernel to cut."""
        size = len(payload)
        if options or size > mss:
            gso_type, gso_size = vnet.GSO_NONE, 0
            if size > mss:
                gso_type = vnet.GSO_TCPV4 if len(self.source) == 4 else vnet.GSO_TCPV6
                gso_size = mss
            header = self._headers(
                gso_type,
                gso_size,
                size,
                source_port,
                destination_port,
                sequence=sequence,
                acknowledgment=acknowledgment,
                flags=flags,
                window=window,
                options=options,
            )
        else:
            header = self._plain_headers(
                source_port,
                destination_port,
                sequence,
                acknowledgment,
                flags,
                window,
                tcp.HEADER_LENGTH + size,
            )
        return [header, payload] if size else [header]

    def _headers(
        self,
        gso_type: int,
        gso_size: int,
        size: int,
        source_port: int,
        destination_port: int,
        *,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        options: bytes = b"",
    ) -> bytes:
        """Return all headers of a segment with `size` bytes of payload."""
        transport_length = tcp.HEADER_LENGTH + len(options)
        length = transport_length + size
        return (
            vnet.build(
                gso_type,
                self.network_length + transport_length,
                gso_size,
                self.network_length,
                tcp.CHECKSUM_OFFSET,
            )
            + ip.build_header(self.source, self.destination, ip.TCP, length, dont_fragment=True)
            + tcp.build_header(
                source_port,
                destination_port,
                sequence=sequence,
                acknowledgment=acknowledgment,
                flags=flags,
                window=window,
                checksum=self._pseudo_header_sum(ip.TCP, length),
                options=options,
            )
        )

    def _plain_headers(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        length: int,
    ) -> bytes:
        """Return the same as `_headers` in one step, where nothing is special; `length` is TCP's part."""
        plain = self._plain_tcp
        if plain is None:
            headers = self._headers(
                vnet.GSO_NONE, 0, 0, 0, 0, sequence=0, acknowledgment=0, flags=0, window=0
            )
            plain = self._plain_tcp = _Plain(headers, len(self.source) == 4, self._addresses_sum)
        transport_sum = self._pseudo_header_sum(ip.TCP, length)
        sequence &= _MASK
        acknowledgment &= _MASK
        if len(self.source) == 16:
            return _TCP_V6.pack(
                plain.first,
                length,
                plain.second,
                self._addresses,
                source_port,
                destination_port,
                sequence,
                acknowledgment,
                _TCP_OFFSET,
                flags,
                window,
                transport_sum,
                0,
            )
        total = ip.HEADER_LENGTH_V4 + length
        return _TCP_V4.pack(
            plain.first,
            total,
            0,
            plain.second,
            0xFFFF ^ ((plain.total + total) % 0xFFFF or 0xFFFF),
            self._addresses,
            source_port,
            destination_port,
            sequence,
            acknowledgment,
            _TCP_OFFSET,
            flags,
            window,
            transport_sum,
            0,
        )

    def datagrams(
        self, source_port: int, destination_port: int, payloads: list[bytes], identification: int
    ) -> list[Frame]:
        """Return datagrams: several of one size (the last may be shorter) in one frame, or one in fragments.

        Several must fit the MTU each, and one packet together.
        """
        size = len(payloads[0])
        length = udp.HEADER_LENGTH + sum(map(len, payloads))
        if self.network_length + udp.HEADER_LENGTH + size > self.mtu:
            message = udp.build_header(source_port, destination_port, size, 0) + payloads[0]
            summed = checksum(message, self._pseudo_header_sum(ip.UDP, length)) or 0xFFFF
            message = b"%b%b%b" % (message[:6], summed.to_bytes(2, "big"), message[8:])
            return self.fragments(ip.UDP, message, identification)
        if len(payloads) == 1:
            header = self._plain_datagram_headers(source_port, destination_port, length, identification)
        else:
            header = self._datagram_headers(
                vnet.GSO_UDP_L4, size, source_port, destination_port, length, identification
            )
        return [[header, *payloads]]

    def _datagram_headers(
        self,
        gso_type: int,
        gso_size: int,
        source_port: int,
        destination_port: int,
        length: int,
        identification: int,
    ) -> bytes:
        """Return all headers of datagrams that are `length` bytes together, one header of UDP included."""
        return (
            vnet.build(
                gso_type,
                self.network_length + udp.HEADER_LENGTH,
                gso_size,
                self.network_length,
                udp.CHECKSUM_OFFSET,
            )
            + ip.build_header(self.source, self.destination, ip.UDP, length, identification=identification)
            + udp.build_header(
                source_port,
                destination_port,
                length - udp.HEADER_LENGTH,
                self._pseudo_header_sum(ip.UDP, length),
            )
        )

    def _plain_datagram_headers(
        self, source_port: int, destination_port: int, length: int, identification: int
    ) -> bytes:
        """Return the same as `_datagram_headers` in one step, for one datagram."""
        plain = self._plain_udp
        if plain is None:
            headers = self._datagram_headers(vnet.GSO_NONE, 0, 0, 0, udp.HEADER_LENGTH, 0)
            plain = self._plain_udp = _Plain(headers, len(self.source) == 4, self._addresses_sum)
        transport_sum = self._pseudo_header_sum(ip.UDP, length)
        if len(self.source) == 16:
            return _UDP_V6.pack(
                plain.first,
                length,
                plain.second,
                self._addresses,
                source_port,
                destination_port,
                length,
                transport_sum,
            )
        total = ip.HEADER_LENGTH_V4 + length
        identification &= 0xFFFF
        return _UDP_V4.pack(
            plain.first,
            total,
            identification,
            plain.second,
            0xFFFF ^ ((plain.total + total + identification) % 0xFFFF or 0xFFFF),
            self._addresses,
            source_port,
            destination_port,
            length,
            transport_sum,
        )

    def fragments(self, protocol: int, message: bytes, identification: int) -> list[Frame]:
        """Return a message whose checksum is complete, in as many packets as the MTU asks for."""
        if self.network_length + len(message) <= self.mtu:
            header = ip.build_header(self.source, self.destination, protocol, len(message))
            return [[vnet.PLAIN + header, message]]
        room = self.mtu - self.network_length
        if len(self.source) == 16:
            room -= ip.FRAGMENT_HEADER_LENGTH
        room &= ~7
        frames: list[Frame] = []
        view = memoryview(message)
        for offset in range(0, len(message), room):
            part = view[offset : offset + room]
            more = offset + room < len(message)
            header = ip.build_header(
                self.source,
                self.destination,
                protocol,
                len(part),
                fragment=ip.Fragment(identification, offset, more),
            )
            frames.append([vnet.PLAIN + header, part])
        return frames

    def _pseudo_header_sum(self, protocol: int, length: int) -> int:
        return (self._addresses_sum + protocol + length) % 0xFFFF or 0xFFFF
