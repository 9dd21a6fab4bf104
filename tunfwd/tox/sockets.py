"""Finds toxcore's UDP socket, which toxcore has no function for.

toxcore wants `iterate` called every 50 ms and offers nothing to wait for, which would make every round trip
100 ms. Its socket is a descriptor of our own process all the same; waiting for it to become readable brings a
round trip to 0.1 ms. The descriptor stays toxcore's: it is neither read nor closed here.
"""

import os
import socket
import stat

_WILDCARDS = {"0.0.0.0", "::"}


def udp_sockets() -> set[int]:
    """Return the descriptors of this process that are UDP sockets, IPv4 or IPv6."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode) and _bound_port(fd) is not None:
                found.add(fd)
        except OSError:  # the one that listed the directory, or closed by another thread since
            continue
    return found


def find_udp_socket(port: int, older: set[int]) -> int | None:
    """Return the UDP socket bound to `port` of all addresses, unless it is one of `older`."""
    return next((fd for fd in sorted(udp_sockets() - older) if _bound_port(fd) == port), None)


def _bound_port(fd: int) -> int | None:
    """Return the port of a UDP socket bound to all addresses (0: not bound), None for any other socket."""
    with socket.socket(fileno=os.dup(fd)) as probe:
        if probe.type != socket.SOCK_DGRAM or probe.family not in {socket.AF_INET, socket.AF_INET6}:
            return None
        host, port = probe.getsockname()[:2]
        return int(port) if host in _WILDCARDS else None
