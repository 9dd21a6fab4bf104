"""The small values that every module of the stack shares."""

import enum
from typing import NamedTuple

from tunfwd.wire.checksum import Buffer

Frame = list[Buffer]
"""The pieces of one write to the TUN device: virtio_net_hdr and headers first, payload after them."""


class Endpoint(NamedTuple):
    """An address, packed into 4 or 16 bytes as `ipaddress` does, and a port."""

    address: bytes
    port: int


class HostState(enum.Enum):
    """What stands behind a virtual address."""

    ONLINE = enum.auto()
    OFFLINE = enum.auto()
    UNKNOWN = enum.auto()
    """Nobody has this address."""


class Exhausted(Exception):
    """No room for another connection, or no free port for it."""
