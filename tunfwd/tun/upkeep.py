"""What the device is to have in the kernel, and what of that it has: compared, put back, guarded.

Others change networks too: an administrator by hand, a network manager that takes away what it does not know.
keeper.py puts back what is missing, for which it holds CAP_NET_ADMIN; `tunfwd doctor` asks `inspect`, which
takes no privilege. Both look at the kernel each time and remember nothing. Besides what the device is set up
with (`Layout`) it has the addresses that contacts know this machine by (sources.py), which come and go.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.network import IFA_F_NODAD, RTN_UNICAST, conflict, uses
from tunfwd.tun.sources import Address, Network, Source

Interface = IPv4Interface | IPv6Interface

IFF_UP: Final = 1
RTN_UNREACHABLE: Final = 7  # linux/rtnetlink.h
RT_SCOPE_LINK: Final = 253
MAIN_TABLE: Final = 254
GUARD_METRIC: Final = 2**32 - 1  # the last that a lookup takes
SOURCE_METRIC: Final = 255  # of an IPv6 route that names a source: before the kernel's own, of 256
GUARD_PROTOCOL: Final = 116  # "t"; whose the guards are, for `ip route flush proto 116`


@dataclass(frozen=True, slots=True)
class Layout:
    """What the device is to have: by its index, so that it may be renamed."""

    index: int
    name: str
    ipv4: IPv4Interface
    ipv6: IPv6Interface

    @property
    def addresses(self) -> tuple[IPv4Interface, IPv6Interface]:
        """Both of its own."""
        return self.ipv4, self.ipv6

    @classmethod
    def of(cls, name: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> "Layout":
        """Return the layout of the interface that has this name now."""
        return cls(socket.if_nametoindex(name), name, ipv4, ipv6)


@dataclass(frozen=True, slots=True)
class Missing:
    """Something of the layout that the kernel does not have, and how it is put back."""

    what: str
    problem: str
    put_back: Callable[[], object]


def missing(netlink: IPRoute, layout: Layout, sources: Collection[Source] = ()) -> Iterator[Missing]:
    """Find what is not there, in the order in which to put it back; each is looked for when it is due."""
    index = layout.index
    [link] = netlink.get_links(index)
    if not link["flags"] & IFF_UP:
        put_up = partial(netlink.link, "set", index=index, state="up")
        yield Missing("the link, up", "the link is down", put_up)
    for own in layout.addresses:
        if own.version == 6 and not _has_ipv6(link.get("ifname")):
            continue
        if not _has_address(netlink, index, own):
            yield _gone(str(own), partial(_add_address, netlink, index, own))
        ours = [source for source in sources if source.address.version == own.version]
        for address in dict.fromkeys(source.own for source in ours):
            interface = _interface(address)
            if not _has_address(netlink, index, interface):
                yield _gone(str(address.network_address), partial(_add_address, netlink, index, interface))
        routes = list(_routes(netlink, own))
        source = next((source.address for source in ours if source.destination == own.network), None)
        leading = [route for route in routes if route["type"] == RTN_UNICAST]
        here = [route for route in leading if route.get("oif") == index]
        if not here:
            yield _gone(f"the route to {own.network}", partial(_add_route, netlink, index, own, source))
        elif source is not None and all(route.get("prefsrc") != str(source) for route in here):
            command = "replace" if here == leading else "add"  # another's route is not replaced
            yield _gone(f"{source} as the source", partial(_prefer, command, netlink, index, own, source))
        if not any(_is_guard(route) for route in routes):
            yield _gone(f"the unreachable route behind {own.network}", partial(guard, netlink, own))
        yield from _missing_host_routes(netlink, index, ours)


def _missing_host_routes(netlink: IPRoute, index: int, ours: Collection[Source]) -> Iterator[Missing]:
    """Find which hosts are not spoken to from the address that they know."""
    wanted = {str(source.destination.network_address): source for source in ours if source.is_for_one}
    if not wanted:
        return
    family = socket.AF_INET if next(iter(wanted.values())).address.version == 4 else socket.AF_INET6
    there = {
        (route.get("dst"), route.get("prefsrc"))
        for route in netlink.get_routes(family=family, table=MAIN_TABLE)
        if route.get("oif") == index and route["type"] == RTN_UNICAST
    }
    for host, source in wanted.items():
        if (host, str(source.address)) not in there:
            yield _gone(f"the route to {host}", partial(_host_route, "replace", netlink, index, source))


def withdraw(netlink: IPRoute, layout: Layout, gone: Iterable[Source], kept: Collection[Source]) -> None:
    """Take away what was put there for sources that are no more. What is not there is no failure."""
    addresses = {source.address for source in kept}
    destinations = {source.destination for source in kept}
    for source in gone:
        if source.is_for_one and source.destination not in destinations:
            with contextlib.suppress(NetlinkError):
                _host_route("del", netlink, layout.index, source)
    for address in dict.fromkeys(source.address for source in gone):
        if address not in addresses:
            with contextlib.suppress(NetlinkError):
                length = address.max_prefixlen
                netlink.addr("del", index=layout.index, address=str(address), prefixlen=length)


def _gone(what: str, put_back: Callable[[], object]) -> Missing:
    return Missing(what, f"{what} is missing", put_back)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, and what could not be, with the reason."""

    done: tuple[str, ...]
    failed: tuple[str, ...]


def restore(netlink: IPRoute, layout: Layout, sources: Collection[Source] = ()) -> Restored:
    """Put back what is missing. Raises NetlinkError (ENODEV) where the device is gone."""
    done, failed = [], []
    for item in missing(netlink, layout, sources):
        try:
            item.put_back()
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                failed.append(f"{item.what} ({os.strerror(error.code)})")
        else:
            done.append(item.what)
    return Restored(tuple(done), tuple(failed))


def guard(netlink: IPRoute, own: Interface) -> None:
    """Have the network be unreachable whenever no device leads there.

    Otherwise, what is meant for a contact would leave by the default route, in clear, when the daemon ends.
    The route outlives the daemon, however that ends.
    """
    netlink.route(
        "add",
        family=_family(own),
        dst=str(own.network),
        type="unreachable",
        priority=GUARD_METRIC,
        proto=GUARD_PROTOCOL,
    )


def set_guards(layout: Layout) -> None:
    """Set the guards of this layout, and take away those that earlier ones have left."""
    with IPRoute() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            routes = list(netlink.get_routes(family=family))
            in_use = {_destination(route) for route in routes if route["type"] == RTN_UNICAST}
            for route in filter(_is_guard, routes):
                if _destination(route) not in in_use:  # another daemon's is
                    with contextlib.suppress(NetlinkError):
                        netlink.route(
                            "del",
                            family=family,
                            dst=_destination(route),
                            type="unreachable",
                            priority=GUARD_METRIC,
                            proto=GUARD_PROTOCOL,
                        )
        for own in layout.addresses:
            with contextlib.suppress(NetlinkError):  # it is there; or there is no IPv6
                guard(netlink, own)


def inspect(layout: Layout, sources: Collection[Source] = ()) -> list[str]:
    """Return what of the device's layout the kernel does not have, or leads elsewhere, each as a clause."""
    with IPRoute() as netlink:
        try:
            problems = [item.problem for item in missing(netlink, layout, sources)]
            name = socket.if_indextoname(layout.index)
        except (NetlinkError, OSError):
            return [f"there is no interface {layout.name} in this network namespace"]
        for own in layout.addresses:
            if own.version == 6 and not _has_ipv6(name):
                problems.append("it has no IPv6 (sysctl disable_ipv6)")
                continue
            if not any(str(own.network) in problem for problem in problems):
                problems += _lookup(netlink, layout.index, own)
            other = conflict(own.network, uses(netlink, name, _family(own)))
            if other is not None:
                problems.append(f"{own.network} overlaps {other}")
    return problems


def _lookup(netlink: IPRoute, index: int, own: Interface) -> Iterator[str]:
    """Ask where a packet to a contact would go, past all tables and rules."""
    contact = own.network[2]
    try:
        [route] = netlink.route("get", family=_family(own), dst=str(contact))
    except NetlinkError as error:
        yield f"{contact} is unreachable: {error}"
        return
    if route.get("oif") == index:
        return
    leads = f"a rule or table leads {own.network} to {_name(route.get('oif'))} instead"
    if own.version == 4 and _rp_filter(_name(index)) == 1:
        leads += ", and rp_filter = 1 drops what comes from contacts"
    yield leads


def _has_ipv6(name: str) -> bool:
    """Tell whether the interface has IPv6: the kernel has it, it is not switched off, the MTU suffices."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def _rp_filter(name: str) -> int:
    """Return the value in force: the larger of the interface's and that for all (ip-sysctl)."""
    values = []
    for which in ("all", name):
        with contextlib.suppress(OSError, ValueError):
            values.append(int(Path(f"/proc/sys/net/ipv4/conf/{which}/rp_filter").read_text()))
    return max(values, default=0)


def _name(index: int | None) -> str:
    try:
        return socket.if_indextoname(index or 0)
    except OSError:
        return "nowhere"


def _family(own: Interface) -> int:
    return socket.AF_INET if own.version == 4 else socket.AF_INET6


def _has_address(netlink: IPRoute, index: int, own: Interface) -> bool:
    return any(
        (address.get("local") or address.get("address")) == str(own.ip)
        and address["prefixlen"] == own.network.prefixlen
        for address in netlink.get_addr(index=index, family=_family(own))
    )


def _add_address(netlink: IPRoute, index: int, own: Interface) -> None:
    flags = IFA_F_NODAD if own.version == 6 else 0
    netlink.addr("add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, flags=flags)


def _add_route(netlink: IPRoute, index: int, own: Interface, source: Address | None) -> None:
    if source is not None:
        _prefer("add", netlink, index, own, source)
    elif own.version == 4:
        netlink.route(
            "add", dst=str(own.network), oif=index, prefsrc=str(own.ip), scope=RT_SCOPE_LINK, proto="kernel"
        )
    else:
        netlink.route("add", family=socket.AF_INET6, dst=str(own.network), oif=index, priority=256)


def _prefer(command: str, netlink: IPRoute, index: int, own: Interface, source: Address) -> None:
    """Have programs speak from `source`, by a route in place of, or before, the kernel's for the device."""
    version = {"scope": RT_SCOPE_LINK} if own.version == 4 else {"priority": SOURCE_METRIC}
    netlink.route(
        command if own.version == 4 else "add",
        family=_family(own),
        dst=str(own.network),
        oif=index,
        prefsrc=str(source),
        proto=GUARD_PROTOCOL,
        **version,
    )


def _host_route(command: str, netlink: IPRoute, index: int, source: Source) -> None:
    version = source.address.version
    family, scope = (socket.AF_INET, RT_SCOPE_LINK) if version == 4 else (socket.AF_INET6, 0)
    netlink.route(
        command,
        family=family,
        dst=str(source.destination),
        oif=index,
        prefsrc=str(source.address),
        scope=scope,
        proto=GUARD_PROTOCOL,
    )


def _interface(address: Network) -> Interface:
    packed, length = address.network_address.packed, address.prefixlen
    return IPv4Interface((packed, length)) if address.version == 4 else IPv6Interface((packed, length))


def _routes(netlink: IPRoute, own: Interface) -> Iterator[Any]:
    """Find the routes to exactly the network of `own`."""
    for route in netlink.get_routes(family=_family(own), table=MAIN_TABLE):
        if _destination(route) == str(own.network):
            yield route


def _destination(route: Any) -> str:
    destination, length = route.get("dst"), route["dst_len"]
    return "default" if destination is None else str(ip_network((destination, length), strict=False))


def _is_guard(route: Any) -> bool:
    return bool(route["type"] == RTN_UNREACHABLE and route["proto"] == GUARD_PROTOCOL)
