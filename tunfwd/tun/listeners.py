"""Who listens on this machine: the kernel's own table of sockets, asked by netlink (sock_diag(7)).

Takes no privilege for the namespace that this process is in. A question costs half a millisecond.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Self

from pyroute2 import DiagSocket
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.wire.packets import Protocol

# linux/tcp_states.h: a socket that takes whoever comes; for UDP, one that is bound and not connected.
AWAITS: Final = {
    Protocol.TCP: (socket.IPPROTO_TCP, 1 << 10),
    Protocol.UDP: (socket.IPPROTO_UDP, 1 << 7),
}
TAKEN: Final = 1 << 7 | 1 << 1  # and one that is connected

EVERY: Final = (1 << 13) - 1 & ~1

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that waits for connections, or for datagrams."""

    address: Address
    """Where it listens; an unspecified one stands for every address."""
    uid: int
    """Whose it is."""
    inode: int
    """Which socket it is: no other has this number while it lives."""
    v6only: bool = False
    interface: int = 0
    """The index of the only interface it listens on; 0 stands for all."""

    def takes(self, address: Address, interface: int) -> bool:
        """Whether it gets what comes to an address of this machine by way of an interface."""
        if self.interface not in (0, interface):
            return False
        if not self.address.is_unspecified:
            return self.address == address
        return self.address.version == address.version or (self.address.version == 6 and not self.v6only)


@dataclass(frozen=True, slots=True)
class Speaker:
    """One socket, with both of its ends."""

    source: tuple[str, int]
    destination: tuple[str, int]
    """Unspecified, and 0, where it is not connected."""
    uid: int
    inode: int
    """0: its program has closed it."""


class Listeners:
    """The table."""

    def __init__(self) -> None:
        self._diag = DiagSocket()
        self._diag.bind()

    def at(self, protocol: Protocol, port: int) -> list[Listener]:
        """Return all that listen at a port, whichever address they do it at."""
        return [_listener(message) for message in self._find(*AWAITS[protocol], port)]

    def speaking(self, protocol: Protocol, port: int) -> Iterator[Speaker]:
        """Return all that have a port and speak to another place, or to any."""
        number = AWAITS[protocol][0]
        for message in self._find(number, EVERY, port):
            yield Speaker(
                (message["idiag_src"], message["idiag_sport"]),
                (message["idiag_dst"], message["idiag_dport"]),
                message["idiag_uid"],
                message["idiag_inode"],
            )

    def users_of(self, port: int) -> set[int]:
        """Return whose UDP sockets have a port, listening or not."""
        return {message["idiag_uid"] for message in self._find(socket.IPPROTO_UDP, TAKEN, port)}

    def _find(self, protocol: int, states: int, port: int) -> Iterator[Any]:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                messages = self._diag.get_sock_stats(family, states, protocol, sport=port)
            except NetlinkError:  # a kernel without this family
                continue
            yield from (message for message in messages if message["idiag_sport"] == port)

    def close(self) -> None:
        """Ask no more."""
        self._diag.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listener(message: Any) -> Listener:
    address = ip_address(message["idiag_src"])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Listener(
        address,
        message["idiag_uid"],
        message["idiag_inode"],
        bool(message.get_attr("INET_DIAG_SKV6ONLY")),
        message["idiag_if"],
    )


def local_interface() -> int:
    """Return the index of the interface by which this machine reaches its loopback addresses."""
    return socket.if_nametoindex("lo")
