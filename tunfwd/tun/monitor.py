"""Tells that something in the kernel's network has changed; what, is for the reader to look at."""

import socket
from typing import Final

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40  # linux/rtnetlink.h
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400
ADDRESSES: Final = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
EVERYTHING: Final = ADDRESSES | RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE


def monitor(groups: int) -> socket.socket:
    """Return a socket that is readable when something of `groups` has changed; takes no privilege."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    made.bind((0, groups))
    return made


def drain(made: socket.socket) -> None:
    """Read all that waits at a monitor: that something has changed is enough, or was too much to be told."""
    while True:
        try:
            made.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: more than it could hold
            continue
