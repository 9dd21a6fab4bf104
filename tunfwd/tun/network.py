"""The addresses and routes of the TUN device: ranges nobody else uses, ours until the device closes.

Called by daemon between opening the device and giving up privileges. Nothing is ever undone here: addresses
and routes go when the device does. Only this package uses pyroute2; a call blocks for a few milliseconds.
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from typing import Final, Generic, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

TXQUEUELEN: Final = 10_000
"""Packets the kernel keeps for us; its 500 overflow under load, and TCP pays for each loss."""
RTN_UNICAST, RTN_LOCAL = 1, 2  # linux/rtnetlink.h
IFA_F_NODAD: Final = 0x02  # linux/if_addr.h
IN6_ADDR_GEN_MODE_NONE: Final = 1  # linux/if_link.h

# Where another range is looked for: RFC 1918 without 192.168 (too often a home network), the shared space of
# RFC 6598, and at last the benchmarking space of RFC 2544.
PRIVATE: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "198.18.0.0/15")))
UNIQUE_LOCAL: Final = IPv6Network("fd00::/8")  # RFC 4193
PREFIXES: Final = 4096  # that are tried in IPv6, where each has more room than all of IPv4

Network = IPv4Network | IPv6Network
N = TypeVar("N", IPv4Network, IPv6Network)


class NetworkError(Exception):
    """The network cannot be set up as asked; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Use:
    """A network that something else on this machine already uses."""

    network: Network
    interface: str

    def __str__(self) -> str:
        return f"{self.network} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Range(Generic[N]):
    """The range to use, and what stood in the way of the preferred one."""

    network: N
    conflict: Use | None


def choose_range(preferred: N, interface: str) -> Range[N]:
    """Return `preferred`, or where that is in use the next one of its size that is not.

    In use means that a route or an address of an interface other than `interface` overlaps it, in any routing
    table; default routes, also in the two halves that VPNs install, do not count. Raises NetworkError if no
    range of that size is free.
    """
    with IPRoute() as netlink:
        family = socket.AF_INET if preferred.version == 4 else socket.AF_INET6
        others = list(uses(netlink, interface, family))
    in_the_way = conflict(preferred, others)
    if in_the_way is None:
        return Range(preferred, None)
    for network in _alternatives(preferred):
        if conflict(network, others) is None:
            return Range(network, in_the_way)
    raise NetworkError(f"the range {preferred} overlaps {in_the_way}, and no other of that size is free")


def uses(netlink: IPRoute, interface: str, family: int) -> Iterator[Use]:
    """Find the networks that interfaces other than `interface` have, or lead to."""
    names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
    for address in netlink.get_addr(family=family):  # an interface that is down has these, but no routes yet
        name = names.get(address["index"], "no interface")
        if name != interface:
            for end in {address.get("local"), address.get("address")} - {None}:  # two on point-to-point links
                yield Use(ip_network((end, address["prefixlen"]), strict=False), name)
    for route in netlink.get_routes(family=family):
        destination, length = route.get("dst"), route["dst_len"]
        if destination is None or length <= 1 or route["type"] not in (RTN_UNICAST, RTN_LOCAL):
            continue
        hops = route.get("multipath") or ()
        index = route.get("oif") or (hops[0]["oif"] if hops else 0)
        if (name := names.get(index, "no interface")) != interface:
            yield Use(ip_network((destination, length), strict=False), name)


def conflict(network: Network, others: Iterable[Use]) -> Use | None:
    """Return the first of the others that has some of the network."""
    return next((use for use in others if use.network.overlaps(network)), None)


def _alternatives(preferred: N) -> Iterator[N]:
    if isinstance(preferred, IPv4Network):
        yield from _alternatives4(preferred)
    else:
        yield from _alternatives6(preferred)


def _alternatives6(preferred: IPv6Network) -> Iterator[IPv6Network]:
    """Prefixes of the same length after `preferred`, around the end of the unique local ones."""
    step = preferred.num_addresses
    first, size = int(UNIQUE_LOCAL.network_address), UNIQUE_LOCAL.num_addresses
    start = int(preferred.network_address) - first
    for number in range(1, PREFIXES):
        yield IPv6Network((first + (start + number * step) % size, preferred.prefixlen))


def _alternatives4(preferred: IPv4Network) -> Iterator[IPv4Network]:
    """Ranges of the same size, one in each /16: after `preferred`, before it, then in other spaces."""
    step = min(preferred.prefixlen, 16)
    for space in PRIVATE:
        if step < space.prefixlen:
            continue
        blocks = list(space.subnets(new_prefix=step))
        after = [block for block in blocks if block.network_address > preferred.network_address]
        before = [block for block in blocks if block.network_address <= preferred.network_address]
        for block in after + before:
            yield IPv4Network((block.network_address, preferred.prefixlen))


def configure(interface: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> str | None:
    """Give the device its own addresses, whose networks become its routes, and bring it up.

    Returns why it has IPv4 only, or None if it has both. Raises NetworkError if it cannot be configured.
    """
    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=interface)
        if not found:
            raise NetworkError(f"there is no interface {interface}")
        index = found[0]
        try:
            _silence_ipv6(netlink, index)
            netlink.link("set", index=index, txqlen=TXQUEUELEN)
            netlink.addr("add", index=index, address=str(ipv4.ip), prefixlen=ipv4.network.prefixlen)
            netlink.link("set", index=index, state="up")
            return _add_ipv6(netlink, index, ipv6)
        except NetlinkError as error:
            raise NetworkError(f"{interface} cannot be configured: {error}") from error


def _silence_ipv6(netlink: IPRoute, index: int) -> None:
    """Keep the kernel from making a link-local address, from which it would solicit routers."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
    try:
        netlink.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
    except NetlinkError as error:
        if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # no IPv6, no noise
            raise


def _add_ipv6(netlink: IPRoute, index: int, ipv6: IPv6Interface) -> str | None:
    try:
        netlink.addr(
            "add", index=index, address=str(ipv6.ip), prefixlen=ipv6.network.prefixlen, flags=IFA_F_NODAD
        )
    except NetlinkError as error:
        match error.code:
            case errno.EACCES:
                return "IPv6 is switched off (sysctl disable_ipv6)"
            case errno.EAFNOSUPPORT | errno.EOPNOTSUPP:
                return "this kernel has no IPv6"
            case errno.EINVAL:
                return "the interface's MTU is below the 1280 bytes that IPv6 needs"
        raise
    return None
