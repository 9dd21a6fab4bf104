"""The Internet checksum (RFC 1071), for headers we write and packets that arrive with a complete sum.

The one's complement sum of 16-bit words is the number they spell, modulo 65535: one big division in C
instead of a loop in Python. Bulk data never comes here: the kernel sums it (see vnet.py).
"""

Buffer = bytes | bytearray | memoryview


def ones_complement_sum(data: Buffer, initial: int = 0) -> int:
    """Return the folded 16-bit one's complement sum of `data`, zero-padded to be even, plus `initial`."""
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    number += initial
    return (number % 0xFFFF or 0xFFFF) if number else 0


def checksum(data: Buffer, initial: int = 0) -> int:
    """Return the checksum for a field that is zero in `data`; 0 over data with the right one in place."""
    return 0xFFFF ^ ones_complement_sum(data, initial)


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Return the folded sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) of `length` bytes of transport.

    The same for both families: only the positions of the words differ, and a sum has none.
    """
    return ones_complement_sum(source + destination, protocol + length)
