"""What carries packets to a contact: the prefixes and limits of each kind (SPEC.md, "Carriers").

A carrier is chosen once for a contact; everything above writes `carrier.lossless + ...` and never asks
what kind of contact it serves.
"""

from dataclasses import dataclass
from typing import Final

MAX_PACKET: Final = 1373  # bytes, prefix included; toxcore's TOX_MAX_CUSTOM_PACKET_SIZE
GROUP_CHUNK: Final = 500  # bytes; toxcore splits longer lossless group packets, at more than half the speed


@dataclass(frozen=True, slots=True)
class Carrier:
    """Prefixes and limits of one kind of contact."""

    name: str
    lossless: bytes
    """Prefix of everything ordered and reliable."""
    lossy: bytes
    """Prefix of lossy Data; no type byte follows."""
    extension: bytes
    """Prefix of every other lossy packet; a type byte follows."""
    lossless_limit: int
    """Bytes of a whole lossless packet that this carrier moves at its best speed."""

    @property
    def stream_payload(self) -> int:
        """Bytes of stream that fit one lossless Data packet."""
        return self.lossless_limit - len(self.lossless) - 5

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest UDP payload that fits one lossy Data packet."""
        return MAX_PACKET - len(self.lossy) - 4


FRIEND: Final[Carrier] = Carrier("friend", b"\xa7", b"\xc8", b"\xc9", MAX_PACKET)
GROUP: Final[Carrier] = Carrier("group", b"\xa7\xa7", b"\xa7\xc8", b"\xa7\xc9", GROUP_CHUNK)
