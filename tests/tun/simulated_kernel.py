"""The kernel's links, addresses and routes in memory, as far as pyroute2's IPRoute is asked for them here.

What the real kernel makes of the same calls is tried in network namespaces (the tests marked netns).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Self

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun import network, upkeep

KINDS = {"unicast": 1, "local": 2, "unreachable": 7}  # linux/rtnetlink.h
GUARD_PROTOCOL = 116


@dataclass
class Kernel:
    """One network namespace; stands in for IPRoute, too."""

    links: dict[int, dict[str, Any]] = field(default_factory=dict)
    addresses: list[dict[str, Any]] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """An errno for what cannot be done: a link's, an address's or a route's change."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _refuse(self, what: str) -> None:
        if code := self.refused.get(what):
            raise NetlinkError(code)

    # What there is.

    def have(self, index: int, name: str, *addresses: str, up: bool = True) -> None:
        """Make a link with addresses, and the routes that come with them."""
        self.links[index] = {"index": index, "ifname": name, "flags": int(up)}
        for text in addresses:
            own = ip_interface(text)
            self.addr("add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen)
            family = socket.AF_INET if own.version == 4 else socket.AF_INET6
            self.route("add", family=family, dst=str(own.network), oif=index)

    def get_links(self, index: int | None = None) -> list[dict[str, Any]]:
        if index is None:
            return list(self.links.values())
        if index not in self.links:
            raise NetlinkError(errno.ENODEV)
        return [self.links[index]]

    def link_lookup(self, ifname: str) -> list[int]:
        return [index for index, link in self.links.items() if link["ifname"] == ifname]

    def get_addr(self, family: int, index: int | None = None) -> list[dict[str, Any]]:
        return [
            address
            for address in self.addresses
            if address["family"] == family and index in (None, address["index"])
        ]

    def get_routes(self, family: int, table: int | None = None) -> list[dict[str, Any]]:
        return [route for route in self.routes if route["family"] == family]

    # What is done.

    def link(self, command: str, *, index: int, **change: Any) -> None:
        self._refuse("link")
        if "state" in change:
            self.links[index]["flags"] = int(change["state"] == "up")

    def addr(self, command: str, *, index: int, address: str, prefixlen: int, flags: int = 0) -> None:
        self._refuse("IPv6 address" if ":" in address else "address")
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        self.addresses.append(
            {"family": family, "index": index, "local": address, "address": address, "prefixlen": prefixlen}
        )

    def route(
        self,
        command: str,
        *,
        dst: str,
        family: int = socket.AF_INET,
        oif: int | None = None,
        type: str = "unicast",
        proto: Any = "kernel",
        **_: Any,
    ) -> list[dict[str, Any]]:
        if command == "get":
            return [self._leads(family, dst)]
        self._refuse("route")
        to, kind = ip_network(dst), KINDS[type]
        number = proto if isinstance(proto, int) else 2
        entry = {"family": family, "dst": str(to.network_address), "dst_len": to.prefixlen, "type": kind}
        entry |= {"oif": oif, "proto": number}
        if command == "del":
            self.routes.remove(entry)
        elif entry in self.routes:
            raise NetlinkError(errno.EEXIST)
        else:
            self.routes.append(entry)
        return []

    def _leads(self, family: int, dst: str) -> dict[str, Any]:
        """The best route: the longest that leads there by a link."""
        fitting = [
            route
            for route in self.get_routes(family)
            if route["oif"] is not None and ip_address(dst) in ip_network((route["dst"], route["dst_len"]))
        ]
        if not fitting:
            raise NetlinkError(errno.EHOSTUNREACH)
        return max(fitting, key=lambda route: route["dst_len"])


def installed(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Return the kernel that is asked and told from now on; every interface of it has IPv6."""
    kernel = Kernel()
    for module in (network, upkeep):
        monkeypatch.setattr(module, "IPRoute", lambda: kernel)
    monkeypatch.setattr(upkeep, "_has_ipv6", lambda name: True)
    return kernel
