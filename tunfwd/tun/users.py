"""Whose programs reach contacts by sockets of ours, where `[network] users` names those who may.

With a device nf_tables sees to it (admission.py). Here the kernel's table of sockets says who owns the one
that speaks to ours. One whose program has closed it already has no owner any more, and is not let in.
"""

import time
from collections.abc import Callable, Set
from ipaddress import IPv6Address, ip_address
from typing import Final

from tunfwd.tun.listeners import Listeners
from tunfwd.wire.packets import Protocol

KNOWN: Final = 1.0  # s that an answer about a UDP socket is good for: a question costs half a millisecond
MAX_KNOWN: Final = 1024

Place = tuple[bytes, int]
"""A packed address, and a port."""


class Users:
    """Those who may."""

    def __init__(
        self, listeners: Listeners, users: Set[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`users` by their numbers."""
        self._listeners = listeners
        self._users = users
        self._clock = clock
        self._known: dict[tuple[Place, Place], tuple[float, bool]] = {}

    def permits(self, user: int) -> bool:
        """Whether this user may."""
        return user in self._users

    def allows(self, protocol: Protocol, program: Place, port: Place) -> bool:
        """Whether the owner of the socket at `program`, which speaks to `port`, may reach contacts."""
        if protocol is Protocol.TCP:
            return self._look(protocol, program, port)
        now = self._clock()
        asked, answer = self._known.get((program, port), (-KNOWN, False))
        if now - asked < KNOWN:
            return answer
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        answer = self._look(protocol, program, port)
        self._known[program, port] = now, answer
        return answer

    def _look(self, protocol: Protocol, program: Place, port: Place) -> bool:
        """Ask the kernel; where several sockets share a place, each of their owners has to be one who may."""
        owners = set()
        for found in self._listeners.speaking(protocol, program[1]):
            if not _is_at(found.source, program) or not _is_at(found.destination, port):
                continue
            owners.add(found.uid if found.inode else None)
        return bool(owners) and owners <= self._users


def _is_at(found: tuple[str, int], place: Place) -> bool:
    address, port = ip_address(found[0]), found[1]
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return port in (0, place[1]) and (address.is_unspecified or address.packed == place[0])
