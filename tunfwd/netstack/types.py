"""The small values that every module of the stack shares."""

import enum
import math
from typing import Final, NamedTuple

from tunfwd.wire.checksum import Buffer

NEVER: Final[float] = math.inf  # the deadline of what has none

Frame = list[Buffer]
"""The pieces of one write to the TUN device: virtio_net_hdr and headers first, payload after them."""


class Endpoint(NamedTuple):
    """An address, packed into 4 or 16 bytes as `ipaddress` does, and a port."""

    address: bytes
    port: int


class AbortReason(enum.Enum):
    """Why a connection did not end in order."""

    RESET = "reset by peer"
    TIMED_OUT = "timed out"


class HostState(enum.Enum):
    """What stands behind a virtual address."""

    ONLINE = enum.auto()
    OFFLINE = enum.auto()
    UNKNOWN = enum.auto()
    """Nobody has this address."""


class Exhausted(Exception):
    """No room for another connection, or no free port for it."""
