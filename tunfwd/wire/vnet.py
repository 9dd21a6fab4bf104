"""virtio_net_hdr, the 10 bytes before every packet of a TUN with IFF_VNET_HDR (VIRTIO 1.2, 5.1.6).

It lets one read or write carry up to 64 KB of one TCP stream (or a run of equal datagrams), and leaves their
checksums to whoever forwards them to a network. Fields are little-endian: tun.Device asks for that
(TUNSETVNETLE).
"""

import struct
from dataclasses import dataclass
from typing import Final

from tunfwd.wire.checksum import Buffer

LENGTH: Final = 10

FLAG_NEEDS_CSUM: Final = 1  # the transport checksum field holds only the pseudo-header's sum
FLAG_DATA_VALID: Final = 2  # checked already

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80  # a bit beside the type: CWR is set in the first segment only

_HEADER: Final = struct.Struct("<BBHHHH")


@dataclass(init=False, slots=True)
class Header:
    """Offsets and lengths in bytes, from the first byte of the IP header."""

    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    checksum_start: int
    checksum_offset: int

    def __init__(
        self,
        flags: int,
        gso_type: int,
        header_length: int,
        gso_size: int,
        checksum_start: int,
        checksum_offset: int,
    ) -> None:
        self.flags = flags
        self.gso_type = gso_type
        self.header_length = header_length
        self.gso_size = gso_size
        self.checksum_start = checksum_start
        self.checksum_offset = checksum_offset


PLAIN = _HEADER.pack(0, GSO_NONE, 0, 0, 0, 0)  # a packet that needs neither checksum nor segmentation


def parse(frame: Buffer) -> Header:
    """Return the header of a frame of at least LENGTH bytes."""
    flags, gso_type, header_length, gso_size, checksum_start, checksum_offset = _HEADER.unpack_from(frame)
    return Header(flags, gso_type, header_length, gso_size, checksum_start, checksum_offset)


def build(
    gso_type: int, header_length: int, gso_size: int, checksum_start: int, checksum_offset: int
) -> bytes:
    """Return a header that asks for the checksum and, unless `gso_type` is GSO_NONE, for segmentation."""
    return _HEADER.pack(FLAG_NEEDS_CSUM, gso_type, header_length, gso_size, checksum_start, checksum_offset)
