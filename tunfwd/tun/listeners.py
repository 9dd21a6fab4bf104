"""Who listens on this machine: the kernel's own table of sockets, asked by netlink (sock_diag(7)).

Takes no privilege for the namespace that this process is in. It is asked before each connection to a service,
hence by hand: pyroute2 takes seven times as long for the same question.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, Self

from tunfwd.wire.packets import Protocol

# linux/tcp_states.h: a socket that takes whoever comes; for UDP, one that is bound and not connected.
AWAITS: Final = {
    Protocol.TCP: (socket.IPPROTO_TCP, 1 << 10),
    Protocol.UDP: (socket.IPPROTO_UDP, 1 << 7),
}
TAKEN: Final = 1 << 7 | 1 << 1  # and one that is connected

EVERY: Final = (1 << 13) - 1 & ~1

NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h, as what follows
SOCK_DIAG_BY_FAMILY: Final = 20
ASK_FOR_ALL: Final = 0x001 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
REQUEST: Final = struct.Struct("=BBxxI48x")  # inet_diag_req_v2: family, protocol, states
# inet_diag_msg: family, ports, addresses, interface; owner and inode.
ENTRY: Final = struct.Struct("=Bxxx2s2s16s16sI8x12xII")
SPORT: Final = slice(4, 6)  # of that
ATTRIBUTE: Final = struct.Struct("=HH")
INET_DIAG_SKV6ONLY: Final = 11
REPLY: Final = 1 << 16  # bytes of one piece of an answer; the kernel sends up to 32 KB

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


class Entry(NamedTuple):
    """One socket of the kernel's table."""

    source: tuple[str, int]
    destination: tuple[str, int]
    uid: int
    inode: int
    interface: int
    v6only: bool


class Listeners:
    """The table."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._asked = 0

    def ports(self, protocol: Protocol) -> set[int]:
        """Return all ports that anybody listens at."""
        number, states = AWAITS[protocol]
        messages = (self._ask(family, number, states) for family in (socket.AF_INET, socket.AF_INET6))
        return {int.from_bytes(message[SPORT], "big") for found in messages for message in found}

    def at(self, protocol: Protocol, port: int) -> list[Listener]:
        """Return all that listen at a port, whichever address they do it at."""
        return [_listener(entry) for entry in self._find(*AWAITS[protocol], port)]

    def speaking(self, protocol: Protocol, port: int) -> Iterator[Speaker]:
        """Return all that have a port and speak to another place, or to any."""
        number = AWAITS[protocol][0]
        for entry in self._find(number, EVERY, port):
            yield Speaker(entry.source, entry.destination, entry.uid, entry.inode)

    def users_of(self, port: int) -> set[int]:
        """Return whose UDP sockets have a port, listening or not."""
        return {entry.uid for entry in self._find(socket.IPPROTO_UDP, TAKEN, port)}

    def _find(self, protocol: int, states: int, port: int) -> Iterator[Entry]:
        wanted = port.to_bytes(2, "big")
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._ask(family, protocol, states):
                if message[SPORT] == wanted:
                    yield _entry(message)

    def _ask(self, family: int, protocol: int, states: int) -> list[bytes]:
        """Return all sockets of a kind, as the kernel writes them; none where it lacks the family."""
        self._asked = self._asked + 1 & 0xFFFFFFFF
        size = HEADER.size + REQUEST.size
        header = HEADER.pack(size, SOCK_DIAG_BY_FAMILY, ASK_FOR_ALL, self._asked, 0)
        self._netlink.sendto(header + REQUEST.pack(family, protocol, states), (0, 0))
        found: list[bytes] = []
        while True:
            reply = self._netlink.recv(REPLY)
            while reply:
                length, kind, _, number, _ = HEADER.unpack_from(reply)
                if number == self._asked:  # not the rest of an answer that nobody has read to its end
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        return found
                    found.append(reply[HEADER.size : length])
                reply = reply[length + 3 & ~3 :]

    def close(self) -> None:
        """Ask no more."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(message: bytes) -> Entry:
    family, sport, dport, source, destination, interface, uid, inode = ENTRY.unpack_from(message)
    size = 4 if family == socket.AF_INET else 16
    return Entry(
        (socket.inet_ntop(family, source[:size]), int.from_bytes(sport, "big")),
        (socket.inet_ntop(family, destination[:size]), int.from_bytes(dport, "big")),
        uid,
        inode,
        interface,
        _is_v6only(message[ENTRY.size :]),
    )


def _is_v6only(attributes: bytes) -> bool:
    while len(attributes) > ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(attributes)
        if kind == INET_DIAG_SKV6ONLY:
            return bool(attributes[ATTRIBUTE.size])
        attributes = attributes[max(length + 3 & ~3, ATTRIBUTE.size) :]
    return False


def _listener(entry: Entry) -> Listener:
    address = ip_address(entry.source[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Listener(address, entry.uid, entry.inode, entry.v6only, entry.interface)


def local_interface() -> int:
    """Return the index of the interface by which this machine reaches its loopback addresses."""
    return socket.if_nametoindex("lo")
