"""From which of its addresses this machine speaks to whom, as its keeper is told.

Contacts know this machine by addresses that follow from its keys: one among friends, one in each group. The
device has all of them, and a route for each says which of them programs speak from. Groups come and go while
the daemon runs, which has no privilege then: it sends the whole list to its keeper, which takes from it what
lies within the ranges of the device, and nothing else.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MAX_SOURCES: Final = 1024  # of one list; whoever comes later is spoken to from the address for friends


class Source(NamedTuple):
    """What goes to a network comes from one of our addresses; that itself, where it is only to exist."""

    destination: Network
    address: Address

    @property
    def has_route(self) -> bool:
        """Whether it takes a route: what is our own is the kernel's to route."""
        return self.destination.network_address != self.address

    @property
    def is_for_one(self) -> bool:
        """Whether it takes a route of its own, to one contact."""
        return self.has_route and self.destination.num_addresses == 1

    @property
    def own(self) -> Network:
        """The address alone, as a network."""
        return _network(self.address.packed, self.address.max_prefixlen)


def encode(sources: Iterable[Source]) -> bytes:
    """Return the list as the keeper reads it."""
    message = bytearray()
    for destination, address in list(sources)[:MAX_SOURCES]:
        message += bytes((address.version, destination.prefixlen))
        message += destination.network_address.packed + address.packed
    return bytes(message)


def decode(message: bytes, ranges: Iterable[Network]) -> tuple[Source, ...]:
    """Return the list. Raises ValueError for anything but addresses of hosts of the ranges, and bounded."""
    allowed = tuple(ranges)
    found: list[Source] = []
    while message:
        if len(found) == MAX_SOURCES:
            raise ValueError("too many sources")
        size = {4: 4, 6: 16}.get(message[0], 0)
        if not size or len(message) < 2 + 2 * size:
            raise ValueError("no source")
        destination = _network(message[2 : 2 + size], message[1])
        source = Source(destination, ip_address(message[2 + size : 2 + 2 * size]))
        if not any(_is_within(source, one) for one in allowed):
            raise ValueError(f"{source.address} for {source.destination} is outside of the ranges")
        found.append(source)
        message = message[2 + 2 * size :]
    return tuple(found)


def _network(packed: bytes, length: int) -> Network:
    return IPv4Network((packed, length)) if len(packed) == 4 else IPv6Network((packed, length))


def _is_within(source: Source, network: Network) -> bool:
    """Whether it is a host of the network that speaks to all of it, or to one other host."""
    destination, address = source
    if address not in network or address in (network[0], network[1], network[-1]):
        return False
    return destination == network or (
        destination.prefixlen == address.max_prefixlen and destination.network_address in network
    )
