"""UDP sockets to services, one for each flow, so that a service can tell the flows apart and answer each.

What arrives goes to the handler at once, and what the kernel has no room for is dropped, as on any network.
UDP does not say whether anybody is there; so until something answers, the last few datagrams are kept: for
the time the name is resolved, and for the next address when one refuses.

Until then a second socket beside the connected one, at the same port, hears what other ports of the service's
host answer, as a TFTP server does (RFC 1350 4). The first answer decides which of the two goes on.
"""

import errno
import re
import socket
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

import trio

from tunfwd.common.streams import DatagramHandler
from tunfwd.common.values import Reason
from tunfwd.loop import READABLE, WRITABLE
from tunfwd.services.poller import Poller
from tunfwd.services.target import (
    ConnectFailed,
    SocketAddress,
    Target,
    addresses_at_once,
    failure_of,
    is_self_connect,
    resolve_datagram,
)

RESOLVE_TIMEOUT: Final = 10.0  # s
RESOLVE_AGAIN: Final = 5.0  # s after a failure
KEPT_LIMIT: Final = 8  # datagrams; the oldest goes first
DATAGRAM_LIMIT: Final = 65_535  # bytes
MAX_STRANGERS: Final = 4  # answers from other ports that are judged, half a millisecond each
TFTP_REQUEST: Final = re.compile(rb"\0[\1\2][^\0]+\0(?i:octet|netascii|mail)\0")  # RFC 1350 5
BATCH: Final = 64  # datagrams received before other sockets get their turn
RECEIVE_BUFFER: Final = 1 << 20  # bytes; the kernel cuts it to its rmem_max

# linux/in.h and linux/in6.h: fragment what is larger than the path takes, rather than refuse it
DONT_DISCOVER_MTU: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 0),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 0),
}


class ServiceFlow:
    """The datagrams between one remote application and one service."""

    __slots__ = (
        "_addresses",
        "_answered",
        "_beside",
        "_failure",
        "_handler",
        "_has_place",
        "_kept",
        "_may_answer",
        "_next",
        "_owner",
        "_poller",
        "_resolving",
        "_socket",
        "dropped",
        "is_led_elsewhere",
        "target",
    )

    def __init__(
        self,
        poller: Poller,
        target: Target,
        handler: DatagramHandler,
        owner: Hashable = None,
        may_answer: Callable[[int, int], bool] | None = None,
    ) -> None:
        """`owner` is whose share of sockets it is of: where that is used up, the service is not there.

        `may_answer` is asked whether, on this machine, the second port answers for a service at the first;
        None: no other port is heard, of whatever host.
        """
        self.target = target
        self.dropped = 0
        """Datagrams to the service that were lost on this machine."""
        self.is_led_elsewhere = False
        """Whether another port of the service's host has answered, and is sent to."""
        self._may_answer = may_answer
        self._beside: _Beside | None = None
        self._poller = poller
        self._owner = owner
        self._has_place = poller.sockets.take(owner)
        self._handler: DatagramHandler | None = handler  # None once it is closed
        self._addresses: list[SocketAddress] = []
        self._next = 0  # of them, the one to try
        self._socket: socket.socket | None = None
        self._kept: deque[bytes] = deque(maxlen=KEPT_LIMIT)
        self._answered = False
        self._failure: Reason | None = None  # met by a call, to be told by the poller
        self._resolving = trio.CancelScope()
        self._addresses = addresses_at_once(target)
        if not (self._addresses and self._open()):
            self._addresses = []
            poller.start(self._resolve, self)

    async def _resolve(self) -> None:
        with self._resolving:
            while (failure := await self._look_up()) is not None:
                self._give_up(failure)
                await trio.sleep(RESOLVE_AGAIN)
            if not self._resolving.cancel_called:
                self._try_next(Reason.UNREACHABLE)

    async def _look_up(self) -> Reason | None:
        """Ask for the service's addresses; return why there are none, if so."""
        failure: Reason | None = Reason.TIMED_OUT
        with trio.move_on_after(RESOLVE_TIMEOUT):
            try:
                self._addresses = await resolve_datagram(self.target)
                failure = None
            except ConnectFailed as failed:
                failure = failed.failure
        return failure

    # Addresses

    def _try_next(self, failure: Reason) -> None:
        """Send what nobody has answered to the next address, or report `failure` where there is none."""
        if self._open():
            for payload in self._kept:
                self._send(payload)
        else:
            self._give_up(failure)

    def _give_up(self, failure: Reason) -> None:
        if self._kept:
            self.dropped += len(self._kept)
            self._kept.clear()
            self._tell_failure(failure)

    def _tell_failure(self, failure: Reason) -> None:
        if self._handler is not None:
            self._handler.datagram_failed(self, failure)

    def _open(self) -> bool:
        """Connect to the next address that there is a route to. After the last the first will be next."""
        self._close_socket()
        if not self._has_place:
            return False
        while self._next < len(self._addresses):
            family, address = self._addresses[self._next]
            self._next += 1
            try:
                opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                continue
            try:
                opened.setsockopt(*DONT_DISCOVER_MTU[opened.family])
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                if self.target.source is not None:
                    opened.bind((self.target.source, 0))
                opened.connect(address)
                found = not is_self_connect(opened)
            except OSError:
                found = False
            if found:
                self._socket = opened
                self._wait()
                if self._may_answer is not None:
                    self._listen_beside(opened)
                return True
            opened.close()
        self._next = 0
        return False

    def _wait(self) -> None:
        if self._socket is not None:
            # Room to send is always at hand: asking for it is asking to be called.
            interest = READABLE if self._failure is None else READABLE | WRITABLE
            self._poller.watch(self._socket.fileno(), interest, self)

    # To the service

    def send(self, payload: bytes) -> bool:
        """See DatagramFlow."""
        if self.is_led_elsewhere:
            self._kept.clear()
            if TFTP_REQUEST.match(payload):  # for the next file, which another process will send
                self._lead_back()
            else:
                self._kept.append(payload)
        if not self._answered:
            if len(self._kept) == KEPT_LIMIT and not self._addresses:
                self.dropped += 1
            self._kept.append(payload)
            if not self._addresses:
                return True
        if self._socket is None and not self._open():
            self.dropped += 1
            return False
        return self._send(payload)

    def _send(self, payload: bytes) -> bool:
        assert self._socket is not None
        for _ in range(
            2
        ):  # the first attempt may meet the answer to an earlier datagram, and is not made then
            try:
                self._socket.send(payload)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM):
                    break
                self._failure = failure_of(error)
                self._wait()
            else:
                return True
        self.dropped += 1
        return False

    # From the service

    def ready(self, _events: int) -> None:
        """Serve the socket; called by the poller."""
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                payload = self._socket.recv(DATAGRAM_LIMIT)
            except BlockingIOError:
                break
            except OSError as error:
                self._failure = failure_of(error)
                continue
            self._hear_answer()
            if self._handler is not None:
                self._handler.datagram(self, payload)
        failure, self._failure = self._failure, None
        if failure is None:
            return
        self._wait()
        if self.is_led_elsewhere:
            self._lead_back()
            self._try_next(failure)
        elif self._answered:
            self._tell_failure(failure)
        else:
            self._try_next(failure)

    def _hear_answer(self) -> None:
        self._answered = True
        if not self.is_led_elsewhere:
            self._kept.clear()
        self.forget_beside()

    # Another port of the service's

    def _listen_beside(self, opened: socket.socket) -> None:
        if not self._poller.sockets.take(self._owner):
            return
        beside = socket.socket(opened.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for one in (opened, beside):  # only now: a port that may be shared is not taken for a free one
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            beside.bind(opened.getsockname())
        except OSError:
            beside.close()
            self._poller.sockets.give_back(self._owner)
            return
        self._beside = _Beside(self, beside, opened.getpeername()[0])
        self._poller.watch(beside.fileno(), READABLE, self._beside)

    def may_answer(self, address: Any) -> bool:
        """Whether what another port of the service's host says is the answer."""
        assert self._socket is not None
        assert self._may_answer is not None
        here, service = self._socket.getsockname(), self._socket.getpeername()
        if here[0] != service[0] and not ip_address(service[0].partition("%")[0]).is_loopback:
            return True  # on another host, as if we were in its network
        return self._may_answer(service[1], address[1])

    def lead_to(self, beside: socket.socket, payload: bytes) -> None:
        """Go on with the other port, by the socket that is connected to it now."""
        self._beside = None
        self._poller.watch(beside.fileno(), None, self)
        self._poller.sockets.give_back(self._owner)
        self._close_socket()
        self._socket = beside
        self._failure = None
        self._wait()
        self.is_led_elsewhere = self._answered = True
        if self._handler is not None:
            self._handler.datagram(self, payload)

    def _lead_back(self) -> None:
        self._close_socket()
        self.is_led_elsewhere = self._answered = False
        self._next = max(self._next - 1, 0)

    def forget_beside(self) -> None:
        """Hear no other port."""
        if self._beside is not None:
            beside, self._beside = self._beside, None
            self._poller.watch(beside.socket.fileno(), None, beside)
            beside.socket.close()
            self._poller.sockets.give_back(self._owner)

    # The end

    def close(self) -> None:
        """See DatagramFlow. Lets go of the handler, which refers to this flow."""
        self._resolving.cancel()
        self._addresses = []
        self._kept.clear()
        self._close_socket()
        self._handler = None
        if self._has_place:
            self._has_place = False
            self._poller.sockets.give_back(self._owner)

    def fail(self) -> None:
        """See Watcher."""
        handler = self._handler
        self.close()
        if handler is not None:
            handler.datagram_failed(self, Reason.UNREACHABLE)

    def discard(self) -> None:
        """See Watcher."""
        self.close()

    def _close_socket(self) -> None:
        self.forget_beside()
        if self._socket is not None:
            self._poller.watch(self._socket.fileno(), None, self)
            self._socket.close()
            self._socket = None


class _Beside:
    """The socket beside that of an unanswered flow."""

    def __init__(self, flow: ServiceFlow, bound: socket.socket, host: str) -> None:
        self._flow = flow
        self.socket = bound
        self._host = host
        self._judged = 0

    def ready(self, _events: int) -> None:
        """Look for an answer; see Watcher."""
        for _ in range(BATCH):
            try:
                payload, address = self.socket.recvfrom(DATAGRAM_LIMIT)
            except OSError:
                return
            if address[0] != self._host:
                continue
            self._judged += 1
            if self._flow.may_answer(address):
                with suppress(OSError):
                    self.socket.connect(address)
                    self._flow.lead_to(self.socket, payload)
                return
            if self._judged >= MAX_STRANGERS:
                self._flow.forget_beside()
                return

    def fail(self) -> None:
        """See Watcher."""
        self._flow.fail()

    def discard(self) -> None:
        """See Watcher."""
        self._flow.discard()
