"""UDP headers (RFC 768)."""

import struct
from builtins import memoryview  # where mypyc looks for the type of a field
from dataclasses import dataclass
from typing import Final

from tunfwd.common.errors import Malformed
from tunfwd.wire.checksum import Buffer

HEADER_LENGTH: Final = 8
CHECKSUM_OFFSET: Final = 6
MAX_SEGMENTS: Final = 64  # datagrams in one super-segment; UDP_MAX_SEGMENTS of Linux before 6.9

_HEADER: Final = struct.Struct(">HHHH")


@dataclass(init=False, slots=True)
class Datagram:
    """A datagram in a buffer; checksum 0 means that the sender computed none (IPv4 only)."""

    source_port: int
    destination_port: int
    checksum: int
    payload: memoryview

    def __init__(self, source_port: int, destination_port: int, checksum: int, payload: memoryview) -> None:
        self.source_port = source_port
        self.destination_port = destination_port
        self.checksum = checksum
        self.payload = payload


def parse(data: Buffer, start: int, end: int) -> Datagram:
    """Return the datagram in data[start:end], which may be longer than the datagram; raises Malformed.

    With segmentation offload the length field is that of all datagrams together, and so is the payload.
    """
    if end - start < HEADER_LENGTH:
        raise Malformed("UDP header cut short")
    source_port, destination_port, length, checksum = _HEADER.unpack_from(data, start)
    if not HEADER_LENGTH <= length <= end - start:
        raise Malformed("UDP length")
    payload = memoryview(data)[start + HEADER_LENGTH : start + length]
    return Datagram(source_port, destination_port, checksum, payload)


def build_header(source_port: int, destination_port: int, length: int, checksum: int) -> bytes:
    """Return a header; `length` is that of the payload, in bytes."""
    return _HEADER.pack(source_port, destination_port, HEADER_LENGTH + length, checksum)
