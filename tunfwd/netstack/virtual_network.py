"""Which addresses the stack stands for, and between which of them it takes packets."""

import enum
from collections.abc import Container, Iterable
from ipaddress import IPv4Interface, IPv6Interface

from tunfwd.wire import ip


class Verdict(enum.Enum):
    """What to think of a packet's addresses."""

    FINE = enum.auto()
    FOR_ALL = enum.auto()
    """Multicast or broadcast of this machine."""
    NOISE = enum.auto()
    """That of others."""
    BAD_SOURCE = enum.auto()
    """Whoever sent this would not get an answer, or we would: through a kernel that forwards."""
    FOREIGN = enum.auto()
    """From another machine, for which the kernel forwards."""


class VirtualNetwork:
    """The networks behind the device, one of each family, in which only our own addresses are not virtual."""

    __slots__ = ("_broadcast", "_device", "_local", "_networks", "_own")

    def __init__(self, own: tuple[IPv4Interface, IPv6Interface], local: Container[bytes] | None) -> None:
        """`local` has all addresses of this machine, packed; None: packets may come from any."""
        self._local = local
        self._device = frozenset([interface.ip.packed for interface in own])
        self._own = self._device
        self._networks = {
            len(interface.ip.packed): (
                int(interface.network.network_address),
                int(interface.network.netmask),
            )
            for interface in own
        }
        network = own[0].network
        self._broadcast = {network.broadcast_address.packed, network.network_address.packed}

    def set_own(self, addresses: Iterable[bytes]) -> None:
        """Have these be our own, too, and no others that once were."""
        self._own = self._device.union(addresses)

    def is_own(self, address: bytes) -> bool:
        """Whether an address is one of ours on the device."""
        return address in self._own

    def judge(self, source: bytes, destination: bytes) -> Verdict:
        """Whether a packet may be answered."""
        if not ip.is_unicast(destination) or destination in self._broadcast:
            return Verdict.FOR_ALL if self.is_ours(source) else Verdict.NOISE
        if not ip.is_unicast(source) or destination in self._own:
            return Verdict.BAD_SOURCE
        network, mask = self._networks[len(source)]
        if source in self._own:
            return Verdict.FINE
        if int.from_bytes(source, "big") & mask == network:
            return Verdict.BAD_SOURCE
        return Verdict.FINE if self._local is None or source in self._local else Verdict.FOREIGN

    def is_outside(self, address: bytes) -> bool:
        """Whether an address is nobody's in the networks."""
        network, mask = self._networks[len(address)]
        return int.from_bytes(address, "big") & mask != network

    def is_ours(self, source: bytes) -> bool:
        """Whether this machine speaks from an address for sure."""
        return source in self._own or (self._local is not None and source in self._local)
