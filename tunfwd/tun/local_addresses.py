"""The addresses of this machine, so that what it forwards for others is told from what its programs send.

The netstack asks whether it has a packet's source. `follow` hears of each address that comes or goes. One
that is not known may be newer still: the kernel is asked again, at a bounded rate, as anybody on a network
beside us can bring that about.
"""

import time
from collections.abc import Callable
from ipaddress import ip_address
from types import TracebackType
from typing import Final, Self

import trio
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.monitor import ADDRESSES, drain, monitor

SETTLE: Final = 0.05  # s; changes that come together are one
REFRESH: Final = 1.0  # s between two questions to the kernel that unknown addresses cause


class LocalAddresses:
    """A context. Holds a netlink socket, which needs no privilege."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._netlink = IPRoute()
        self._addresses: frozenset[bytes] = frozenset()
        self._next_refresh = 0.0
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    def __contains__(self, address: object) -> bool:
        """Whether a packed address is one of this machine's."""
        if address in self._addresses:
            return True
        if self._clock() < self._next_refresh:
            return False
        self.refresh()
        return address in self._addresses

    async def follow(self) -> None:
        """Ask whenever an address has come or gone, until cancelled."""
        with monitor(ADDRESSES) as changes:
            while True:
                self.refresh()
                await trio.lowlevel.wait_readable(changes)
                await trio.sleep(SETTLE)
                drain(changes)

    def refresh(self) -> None:
        """Ask the kernel. What it does not answer leaves all as it was."""
        self._next_refresh = self._clock() + REFRESH
        try:
            found = [entry.get("local") or entry.get("address") for entry in self._netlink.get_addr()]
        except (NetlinkError, OSError):
            return
        self._addresses = frozenset(ip_address(address).packed for address in found if address)
