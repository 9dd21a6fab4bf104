"""Ends the connections of this machine's programs to virtual addresses, once no device leads there any more.

Nothing can be sent to a program when the device is gone: without this, one that only reads would wait for
ever, and one that writes for the quarter of an hour that the kernel tries. The kernel ends a socket for
whoever has CAP_NET_ADMIN (sock_diag(7), SOCK_DESTROY): the program has ECONNABORTED at once.
"""

import socket
import struct
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from pyroute2 import DiagSocket
from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.diag import SOCK_DESTROY, inet_diag_req
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.upkeep import Interface

# linux/tcp_states.h: all that have another end, but for TIME_WAIT, which no program has any more.
CONNECTED: Final = (1 << 12) - 1 & ~(1 << 6 | 1 << 7 | 1 << 10)


def end_connections(ours: Iterable[Interface], also_own: Collection[str] = ()) -> int:
    """End all TCP connections with the networks of these addresses; return how many.

    Those of this machine with itself, by these or by what is `also_own`, are left alone: they need no device.
    So are UDP sockets, which work again with the next daemon.
    """
    ours = tuple(ours)
    ended = 0
    with DiagSocket() as diag:
        diag.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in _connected(diag, family):
                remote = message["idiag_dst"]
                if remote not in also_own and any(_is_remote(remote, own) for own in ours):
                    _destroy(diag, message)
                    ended += 1
    return ended


def _connected(diag: DiagSocket, family: int) -> Iterable[Any]:
    try:
        return diag.get_sock_stats(family, CONNECTED, socket.IPPROTO_TCP)  # type: ignore[no-any-return]
    except NetlinkError:  # a kernel without this family
        return ()


def _is_remote(text: str, own: Interface) -> bool:
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address.version == own.version and address in own.network and address != own.ip


def _destroy(diag: DiagSocket, message: Any) -> None:
    """Have the kernel end exactly this socket: the cookie is no other's. There is no answer."""
    request = inet_diag_req()
    request["sdiag_family"] = message["idiag_family"]
    request["sdiag_protocol"] = socket.IPPROTO_TCP
    request["idiag_states"] = CONNECTED
    for name in ("idiag_sport", "idiag_dport", "idiag_if", "idiag_cookie"):
        request[name] = message[name]
    for name in ("idiag_src", "idiag_dst"):
        request[name] = struct.unpack(">4I", ip_address(message[name]).packed.ljust(16, b"\0"))
    diag.put(request, SOCK_DESTROY, NLM_F_REQUEST)
