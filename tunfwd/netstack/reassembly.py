"""Puts IP fragments together (RFC 791 3.2, RFC 8200 4.5), within bounds.

A UDP datagram larger than the MTU reaches us this way. Fragments that overlap spoil their packet, as RFC 5722
demands of IPv6; an exact repetition is harmless.
"""

from collections import OrderedDict
from typing import Final

from tunfwd.netstack.types import NEVER
from tunfwd.wire import ip
from tunfwd.wire.checksum import Buffer

LIFETIME: Final = 30.0  # s; as Linux has it; RFC 8200 says 60 s
MAX_PACKETS: Final = 256  # incomplete at a time; the oldest gives way
MAX_BYTES: Final = 4 << 20  # bytes of fragments kept
MAX_FRAGMENTS: Final = 128  # of one packet; 64 KB over the smallest MTU of IPv6 are 53

_Key = tuple[bytes, bytes, int, int]


class _Partial:
    """Fragments of one packet."""

    __slots__ = ("deadline", "first", "pieces", "received", "total")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.pieces: dict[int, memoryview] = {}
        self.received = 0
        self.total: int | None = None
        self.first: memoryview | None = None  # the packet with offset 0, which errors quote


class Reassembly:
    """All packets that are incomplete."""

    __slots__ = ("_bytes", "_partials", "dropped")

    def __init__(self) -> None:
        self._partials: OrderedDict[_Key, _Partial] = OrderedDict()  # oldest first
        self._bytes = 0
        self.dropped = 0
        """Packets given up: too old, too many, or contradicting themselves."""

    def add(self, data: Buffer, packet: ip.Packet, now: float) -> tuple[bytes, memoryview] | None:
        """Take a fragment. Returns the upper-layer payload and the first fragment, once all are there."""
        assert packet.fragment is not None
        identification, offset, more = packet.fragment
        key = (packet.source, packet.destination, packet.protocol, identification)
        partial = self._partials.get(key)
        if partial is None:
            if len(self._partials) >= MAX_PACKETS:
                self._drop(next(iter(self._partials)))
            partial = self._partials[key] = _Partial(now + LIFETIME)
        piece = memoryview(data)[packet.payload : packet.end]
        if not self._fits(partial, offset, piece, more):
            self._drop(key)
            return None
        if offset in partial.pieces:
            return None
        partial.pieces[offset] = piece
        partial.received += len(piece)
        self._bytes += len(piece)
        if offset == 0:
            partial.first = memoryview(data)[packet.start : packet.end]
        if partial.received == partial.total and partial.first is not None:
            del self._partials[key]
            self._bytes -= partial.received
            return b"".join(partial.pieces[at] for at in sorted(partial.pieces)), partial.first
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._partials)))
        return None

    @staticmethod
    def _fits(partial: _Partial, offset: int, piece: memoryview, more: bool) -> bool:
        end = offset + len(piece)
        if not more:
            if partial.total not in (None, end):
                return False
            partial.total = end
        known = partial.pieces.get(offset)
        if known is not None:
            return len(known) == len(piece)
        if len(partial.pieces) >= MAX_FRAGMENTS:
            return False
        total = partial.total
        return all(at >= end or at + len(other) <= offset for at, other in partial.pieces.items()) and (
            total is None or (end <= total and all(at < total for at in partial.pieces))
        )

    def _drop(self, key: _Key) -> None:
        partial = self._partials.pop(key)
        self._bytes -= partial.received
        self.dropped += 1

    @property
    def deadline(self) -> float:
        """When the oldest is given up; NEVER if there is none."""
        for partial in self._partials.values():
            return partial.deadline
        return NEVER

    def expire(self, now: float) -> None:
        """Give up what is too old."""
        while self.deadline <= now:
            self._drop(next(iter(self._partials)))
