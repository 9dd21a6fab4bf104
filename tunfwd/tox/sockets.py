"""Finds what to wait for in a Tox instance, which toxcore has no function for.

toxcore wants `iterate` called every 50 ms and offers nothing to wait for, which would make every round trip
100 ms. Its descriptors are our own process's all the same; waiting for one to become readable brings a round
trip to 0.1 ms. The UDP socket is known from the start by its port. A relay's clients come and go, but share
its port. The TCP connections to other relays cannot be told from anybody's: that is why pacing.py knows
relayed contacts.

The descriptors stay toxcore's: they are neither read nor closed here.
"""

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Iterable
from typing import Final

import trio

from tunfwd.tox.reunion import FIRST_PORT, LAST_PORT
from tunfwd.tox.settings import Settings

_WILDCARDS: Final = {"0.0.0.0", "::"}
_ANY_PORT: Final = 9  # discard
_FAMILIES: Final = {socket.AF_INET, socket.AF_INET6}


def descriptors() -> set[int]:
    """Return the open descriptors of this process."""
    listed = os.listdir("/proc/self/fd")  # the directory's own included, which is closed again
    return {int(name) for name in listed if os.path.lexists(f"/proc/self/fd/{name}")}


class SettingUnusable(Exception):
    """toxcore cannot start as it was told to; the message names the setting and says why."""


def port_trouble(settings: Settings) -> SettingUnusable:
    """Find out which of its ports toxcore could not have, and why, by trying to have them ourselves."""
    relay = settings.tcp_relay_port
    if relay and (why := _bind_trouble(socket.SOCK_STREAM, relay, ipv6=settings.ipv6)):
        return SettingUnusable(f"[tox] tcp_relay_port = {relay}: {why}")
    if not settings.udp_port:
        return SettingUnusable(
            f"UDP ports {FIRST_PORT} to {LAST_PORT} are all in use: choose another in [tox] udp_port"
        )
    why = _bind_trouble(socket.SOCK_DGRAM, settings.udp_port, ipv6=settings.ipv6)
    return SettingUnusable(f"[tox] udp_port = {settings.udp_port}: {why or 'cannot be had now'}")


def _bind_trouble(kind: socket.SocketKind, port: int, *, ipv6: bool) -> str | None:
    """Return why the port cannot be bound; None where it can."""
    families = [(socket.AF_INET, "0.0.0.0"), *([(socket.AF_INET6, "::")] if ipv6 else [])]
    for family, everywhere in families:
        try:
            with socket.socket(family, kind) as own:
                if family == socket.AF_INET6:
                    own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                own.bind((everywhere, port))
        except OSError as error:
            match error.errno:
                case errno.EADDRINUSE:
                    return "in use by another program"
                case errno.EACCES | errno.EPERM:
                    return "not permitted: a port below 1024 takes root, or CAP_NET_BIND_SERVICE"
                case errno.EAFNOSUPPORT:
                    continue
            return error.strerror
    return None


class Activity:
    """Readable when toxcore has something to receive. Closing it leaves toxcore's descriptors alone."""

    def __init__(self, candidates: Iterable[int], udp_port: int | None, relay_port: int | None) -> None:
        """Look for the UDP socket among `candidates`, the descriptors that came with the instance."""
        self._relay_port = relay_port
        wanted = (socket.SOCK_DGRAM, udp_port)
        self.udp = next((fd for fd in sorted(candidates) if _bound(fd, wildcard=True) == wanted), None)
        """toxcore's UDP socket, None when there is none, or it was not found."""
        self._epoll = select.epoll()
        if self.udp is not None:
            self._epoll.register(self.udp, select.EPOLLIN)
        self.refresh()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        if self.udp is not None and not self._relay_port:
            return self.udp  # alone it needs no set
        return self._epoll.fileno()

    def refresh(self) -> None:
        """Look for clients of our relay that are new; closed descriptors are forgotten by themselves."""
        if self._relay_port:
            for fd in descriptors():
                if _bound(fd, wildcard=False) == (socket.SOCK_STREAM, self._relay_port):
                    with contextlib.suppress(FileExistsError):
                        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def seen(self) -> None:
        """Go by what arrives from now on: toxcore leaves half a packet of a relay's client where it is."""
        if self._relay_port:
            self._epoll.poll(0)

    def close(self) -> None:
        """Stop watching."""
        self._epoll.close()


def _bound(fd: int, *, wildcard: bool) -> tuple[int, int] | None:
    """Return type and port of an internet socket, None for anything else; `wildcard`: of all addresses."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):  # socket() would raise, and leave its descriptor open
            return None
        with socket.socket(fileno=os.dup(fd)) as probe:
            if probe.family not in _FAMILIES:
                return None
            host, port = probe.getsockname()[:2]
            return (probe.type, port) if host in _WILDCARDS or not wildcard else None
    except OSError:  # closed by another thread since
        return None


async def resolve(host: str) -> list[str]:
    """Return the addresses of a name, IPv4 first. Raises OSError; ValueError where no resolver takes it."""
    found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return sorted(addresses, key=lambda address: ":" in address)


def is_routable(address: str, *, ipv6: bool, proxied: bool) -> bool:
    """Tell whether this machine has a way to send to an address. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not ipv6:
        return False
    if proxied:  # it is the proxy's to say
        return True
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, _ANY_PORT))  # a UDP socket only looks for the route
        return True
    return False
