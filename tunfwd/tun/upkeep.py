"""What the device is to have in the kernel, and what of that it has: compared, put back, guarded.

Others change networks too: an administrator by hand, a network manager that takes away what it does not know.
keeper.py puts back what is missing, for which it holds CAP_NET_ADMIN; `tunfwd doctor` asks `inspect`, which
takes no privilege. Both look at the kernel each time and remember nothing.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.network import IFA_F_NODAD, RTN_UNICAST, conflict, uses

Interface = IPv4Interface | IPv6Interface

IFF_UP: Final = 1
RTN_UNREACHABLE: Final = 7  # linux/rtnetlink.h
RT_SCOPE_LINK: Final = 253
MAIN_TABLE: Final = 254
GUARD_METRIC: Final = 2**32 - 1  # the last that a lookup takes
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


def missing(netlink: IPRoute, layout: Layout) -> Iterator[Missing]:
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
        routes = list(_routes(netlink, own))
        if not any(route["type"] == RTN_UNICAST and route.get("oif") == index for route in routes):
            yield _gone(f"the route to {own.network}", partial(_add_route, netlink, index, own))
        if not any(_is_guard(route) for route in routes):
            yield _gone(f"the unreachable route behind {own.network}", partial(guard, netlink, own))


def _gone(what: str, put_back: Callable[[], object]) -> Missing:
    return Missing(what, f"{what} is missing", put_back)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, and what could not be, with the reason."""

    done: tuple[str, ...]
    failed: tuple[str, ...]


def restore(netlink: IPRoute, layout: Layout) -> Restored:
    """Put back what is missing. Raises NetlinkError (ENODEV) where the device is gone."""
    done, failed = [], []
    for item in missing(netlink, layout):
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


def inspect(layout: Layout) -> list[str]:
    """Return what of the device's layout the kernel does not have, or leads elsewhere, each as a clause."""
    with IPRoute() as netlink:
        try:
            problems = [item.problem for item in missing(netlink, layout)]
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


def _add_route(netlink: IPRoute, index: int, own: Interface) -> None:
    if own.version == 4:
        netlink.route(
            "add", dst=str(own.network), oif=index, prefsrc=str(own.ip), scope=RT_SCOPE_LINK, proto="kernel"
        )
    else:
        netlink.route("add", family=socket.AF_INET6, dst=str(own.network), oif=index, priority=256)


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
