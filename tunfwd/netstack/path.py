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

# What is before the header of TCP or UDP in a packet in which nothing is special: what comes before its
# length, that length; of IPv4 the identification, what follows it, and the checksum, of IPv6 the rest; both
# addresses.
_V4: Final = struct.Struct(">12sHH4sH8s")
_V6: Final = struct.Struct(">14sH2s32s")


class _Plain:
    """What is before the transport's header in packets of one protocol in which nothing is special."""

    __slots__ = ("_addresses", "_first", "_is_v4", "_second", "_sum")

    def __init__(self, front: bytes, addresses: bytes) -> None:
        """`front` is that of one such packet, the virtio_net_hdr included."""
        self._addresses = addresses
        self._is_v4 = len(addresses) == 8
        length_at = vnet.LENGTH + (2 if self._is_v4 else 4)
        second_at = length_at + (4 if self._is_v4 else 2)
        self._first = front[:length_at]
        self._second = front[second_at : second_at + (4 if self._is_v4 else 2)]
        self._sum = ones_complement_sum(self._first[vnet.LENGTH :] + self._second + addresses)

    def front(self, length: int, identification: int) -> bytes:
        """Return that of a packet with `length` bytes of transport, its header included, in one step."""
        if not self._is_v4:
            return _V6.pack(self._first, length, self._second, self._addresses)
        total = ip.HEADER_LENGTH_V4 + length
        identification &= 0xFFFF
        checksum = 0xFFFF ^ ((self._sum + total + identification) % 0xFFFF or 0xFFFF)
        return _V4.pack(self._first, total, identification, self._second, checksum, self._addresses)


class Path:
    """Two addresses of one family, packed, and the MTU (bytes) between them."""

    __slots__ = (
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
        self._addresses_sum = ones_complement_sum(source + destination)
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
        transport_length = tcp.HEADER_LENGTH + len(options)
        length = transport_length + len(payload)
        if options or len(payload) > mss:
            gso_type, gso_size = vnet.GSO_NONE, 0
            if len(payload) > mss:
                gso_type = vnet.GSO_TCPV4 if len(self.source) == 4 else vnet.GSO_TCPV6
                gso_size = mss
            front = self._tcp_front(gso_type, gso_size, transport_length, length)
        else:
            if self._plain_tcp is None:
                plain = self._tcp_front(vnet.GSO_NONE, 0, tcp.HEADER_LENGTH, tcp.HEADER_LENGTH)
                self._plain_tcp = _Plain(plain, self.source + self.destination)
            front = self._plain_tcp.front(length, 0)
        header = front + tcp.build_header(
            source_port,
            destination_port,
            sequence=sequence,
            acknowledgment=acknowledgment,
            flags=flags,
            window=window,
            checksum=self._pseudo_header_sum(ip.TCP, length),
            options=options,
        )
        return [header, payload] if payload else [header]

    def _tcp_front(self, gso_type: int, gso_size: int, header_length: int, length: int) -> bytes:
        """Return what is before the TCP header; `length` is of that and the payload, in bytes."""
        return vnet.build(
            gso_type,
            self.network_length + header_length,
            gso_size,
            self.network_length,
            tcp.CHECKSUM_OFFSET,
        ) + ip.build_header(self.source, self.destination, ip.TCP, length, dont_fragment=True)

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
        if len(payloads) > 1:
            front = self._udp_front(vnet.GSO_UDP_L4, size, length, identification)
        else:
            if self._plain_udp is None:
                plain = self._udp_front(vnet.GSO_NONE, 0, udp.HEADER_LENGTH, 0)
                self._plain_udp = _Plain(plain, self.source + self.destination)
            front = self._plain_udp.front(length, identification)
        header = front + udp.build_header(
            source_port,
            destination_port,
            length - udp.HEADER_LENGTH,
            self._pseudo_header_sum(ip.UDP, length),
        )
        return [[header, *payloads]]

    def _udp_front(self, gso_type: int, gso_size: int, length: int, identification: int) -> bytes:
        """Return what is before the UDP header; `length` is of that and the payloads, in bytes."""
        return vnet.build(
            gso_type,
            self.network_length + udp.HEADER_LENGTH,
            gso_size,
            self.network_length,
            udp.CHECKSUM_OFFSET,
        ) + ip.build_header(self.source, self.destination, ip.UDP, length, identification=identification)

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
