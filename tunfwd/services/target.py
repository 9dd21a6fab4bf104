"""Where a service is, how to open a socket to it, and what a failure to do so means.

Used by streams.py and datagrams.py.
"""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

import trio

from tunfwd.common.values import Reason

LOOPBACK: Final = ("127.0.0.1", "::1")  # in this order: more services listen on IPv4 only than on IPv6 only

IP_BIND_ADDRESS_NO_PORT: Final = 24  # <linux/in.h>; socket has no name for it

FAILURES: Final = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ECONNRESET: Reason.REFUSED,  # accepted, and reset before we could look
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.ENETDOWN: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.EACCES: Reason.UNREACHABLE,  # a prohibit route, or a firewall's icmp-admin-prohibited
    errno.EPERM: Reason.UNREACHABLE,  # a local firewall's drop
    errno.EADDRNOTAVAIL: Reason.UNREACHABLE,  # ::1 where IPv6 is switched off
    errno.EAFNOSUPPORT: Reason.UNREACHABLE,
    errno.ETIMEDOUT: Reason.TIMED_OUT,
}

# Of several addresses that failed, the failure to report: the one that says most about the service.
TELLING: Final = (
    Reason.REFUSED,
    Reason.TIMED_OUT,
    Reason.UNREACHABLE,
)


class Target(NamedTuple):
    """A service: `host` is a name, an address, or None for this machine's loopback."""

    host: str | None
    port: int
    source: str | None = None
    """The address of this machine that it is to see; None: whichever the kernel takes."""

    def __str__(self) -> str:
        host = self.host or "localhost"
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What to try, in this order."""
        return LOOPBACK if self.host is None else (self.host,)


class SocketAddress(NamedTuple):
    """One resolved address, as socket.socket and connect want it."""

    family: int
    address: tuple[object, ...]


class ConnectFailed(Exception):
    """A service does not answer."""

    def __init__(self, failure: Reason, detail: str) -> None:
        super().__init__(f"{failure.words}: {detail}")
        self.failure = failure


def failure_of(error: BaseException) -> Reason:
    """Return what an error of the socket calls, or of trio.open_tcp_stream, says about the service."""
    return most_telling([_failure(leaf) for leaf in _leaves(error)])


def most_telling(failures: list[Reason]) -> Reason:
    """Return that of several failures which says most about the service."""
    return next(failure for failure in TELLING if failure in failures)


def _failure(error: BaseException) -> Reason:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror):  # whose numbers are no errno
        return FAILURES.get(error.errno or 0, Reason.UNREACHABLE)
    return Reason.UNREACHABLE


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of single attempts: trio raises one OSError from a group of them."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
        yield from _leaves(error.__cause__)
    else:
        yield error


async def connect_stream(target: Target) -> socket.socket:
    """Open a TCP connection: names resolved, addresses raced as in RFC 8305. Returns a non-blocking socket.

    Raises ConnectFailed.
    """
    failures: list[Reason] = []  # not the errors: their tracebacks refer to this frame, which has them
    details: list[str] = []
    for host in target.hosts:
        try:
            stream = await trio.open_tcp_stream(host, target.port, local_address=target.source)
        except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
            failures.append(failure_of(error))
            details.append(str(error))
            for leaf in _leaves(error):
                leaf.__traceback__ = None  # refers to trio's frames, which refer to the error
            continue
        connected = socket.socket(fileno=stream.socket.detach())
        if not is_self_connect(connected):
            connected.setblocking(False)
            return connected
        connected.close()
        failures.append(Reason.REFUSED)
        details.append(os.strerror(errno.ECONNREFUSED))
    raise ConnectFailed(most_telling(failures), f"{target}: {details[0]}")


def connect_at_once(target: Target) -> socket.socket | None:
    """Open a TCP connection to this machine's loopback, which the kernel makes while it is asked to.

    Returns None where it does not, and for any other target: `connect_stream` waits, or says why. A task for
    each connection would cost more than the connection. Raises ConnectFailed where nobody listens.
    """
    for host in target.hosts:
        if not _is_loopback(host):
            return None
        try:
            connected, result = _ask_to_connect(host, target)
        except OSError:
            return None
        if result == 0 and not is_self_connect(connected):
            return connected
        connected.close()
        if result not in (0, errno.ECONNREFUSED):
            return None
    raise ConnectFailed(Reason.REFUSED, f"{target}: {os.strerror(errno.ECONNREFUSED)}")


def _ask_to_connect(host: str, target: Target) -> tuple[socket.socket, int]:
    """Return a non-blocking socket, and the errno of connecting: 0 where it is made already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if target.source is not None:
            connecting.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            connecting.bind((target.source, 0))
        result = connecting.connect_ex((host, target.port))
        if result == errno.EINPROGRESS:
            result = connecting.connect_ex((host, target.port))  # 0, the first time it is asked when made
    except BaseException:
        connecting.close()
        raise
    return connecting, result


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def is_self_connect(connected: socket.socket) -> bool:
    """Whether nobody is there, and the kernel took for our own the very port that we connected to."""
    try:
        return bool(connected.getsockname() == connected.getpeername())
    except OSError:  # no peer any more: reset already, as the next call will tell
        return False


def addresses_at_once(target: Target) -> list[SocketAddress]:
    """Return the addresses of a UDP service that is known by them; none where there is a name to resolve."""
    found: list[SocketAddress] = []
    for host in target.hosts:
        try:
            family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        except ValueError:
            return []
        found.append(SocketAddress(family, (host, target.port)))
    return found


async def resolve_datagram(target: Target) -> list[SocketAddress]:
    """Return the addresses of a UDP service in the order to try. Raises ConnectFailed."""
    found: list[SocketAddress] = []
    for host in target.hosts:
        try:
            entries = await trio.socket.getaddrinfo(host, target.port, type=socket.SOCK_DGRAM)
        except (OSError, ValueError) as error:
            raise ConnectFailed(Reason.UNREACHABLE, f"{target}: {error}") from error
        found += [SocketAddress(family, address) for family, _, _, _, address in entries]
    return found
