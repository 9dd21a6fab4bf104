"""Sockets of this machine that stand at a contact's port: what local programs connect to, and send to.

Where there is no device, these are in its place. Whoever connects, or sends, is handed over at once; nothing
is kept here.
"""

import errno
import socket
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

import trio

from tunfwd.loop import READABLE
from tunfwd.netstack.types import Endpoint
from tunfwd.services.datagrams import BATCH, DATAGRAM_LIMIT, DONT_DISCOVER_MTU, RECEIVE_BUFFER
from tunfwd.services.poller import Poller

BACKLOG: Final = 1024  # connections that wait to be accepted; the kernel cuts it to its somaxconn
ACCEPTED: Final = 64  # connections accepted before other sockets get their turn
MAPPED: Final = bytes(10) + b"\xff\xff"  # what an IPv4 address begins with, as one of IPv6
PAUSE: Final = 0.1  # s until accepting is tried again, where there are no descriptors left

# errnos of accept(2) that concern the machine at this moment, not one connection
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def bind_stream(address: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections in TIME_WAIT
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def bind_datagrams(address: str, port: int) -> socket.socket:
    """Return a UDP socket that is bound. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(*DONT_DISCOVER_MTU[family])
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound


def endpoint_of(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """Return where a socket is, by its name; one of IPv6 that speaks IPv4 is at its IPv4 address."""
    host = name[0]
    if ":" not in host:
        return Endpoint(socket.inet_aton(host), name[1])
    return Endpoint(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]).removeprefix(MAPPED), name[1])


class _Listening:
    """A socket that the poller watches for as long as it is open."""

    def __init__(self, poller: Poller, bound: socket.socket) -> None:
        self._poller = poller
        self._socket = bound
        self._is_open = True
        poller.watch(bound.fileno(), READABLE, self)

    @abstractmethod
    def ready(self, _events: int) -> None:
        """Serve the socket; called by the poller."""

    def close(self) -> None:
        """Take no more; what was handed over goes on."""
        if self._is_open:
            self._is_open = False
            self._poller.watch(self._socket.fileno(), None, self)
            self._socket.close()

    def fail(self) -> None:
        """See Watcher: what failed was one of many, and the next may be served."""

    def discard(self) -> None:
        """See Watcher."""
        self.close()


class ListeningStream(_Listening):
    """Accepts connections."""

    def __init__(
        self, poller: Poller, listener: socket.socket, accepted: Callable[[socket.socket], object]
    ) -> None:
        """`accepted` is given each connection, non-blocking, to keep or close."""
        self._accepted = accepted
        super().__init__(poller, listener)

    def ready(self, _events: int) -> None:
        """Serve the socket; called by the poller."""
        for _ in range(ACCEPTED):
            if not self._is_open:
                return
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._poller.watch(self._socket.fileno(), 0, self)
                    self._poller.start(self._go_on, self)
                    return
                continue  # one that was reset in the meantime
            connection.setblocking(False)
            self._accepted(connection)

    async def _go_on(self) -> None:
        await trio.sleep(PAUSE)
        if self._is_open:
            self._poller.watch(self._socket.fileno(), READABLE, self)


class ListeningDatagrams(_Listening):
    """Takes the datagrams of all who send to a port."""

    def __init__(
        self, poller: Poller, bound: socket.socket, received: Callable[[Endpoint, bytes], object]
    ) -> None:
        """`received` is given each sender and what it sent."""
        self._received = received
        self.dropped = 0
        """Answers that the kernel had no room for."""
        super().__init__(poller, bound)

    def ready(self, _events: int) -> None:
        """Serve the socket; called by the poller."""
        for _ in range(BATCH):
            if not self._is_open:
                return
            try:
                payload, name = self._socket.recvfrom(DATAGRAM_LIMIT)
            except BlockingIOError:
                return
            except OSError:
                continue
            self._received(endpoint_of(name), payload)

    def send(self, remote: Endpoint, payload: bytes) -> None:
        """Send an answer; what the kernel has no room for is lost, as on any network."""
        address = remote.address
        try:
            if self._socket.family == socket.AF_INET6 and len(address) == 4:
                address = MAPPED + address
            self._socket.sendto(payload, (socket.inet_ntop(self._socket.family, address), remote.port))
        except OSError:
            self.dropped += 1
