"""TCP connections to services, and from local programs, as the `Stream` that a netstack connection also is.

Nothing received is kept here: `read` asks the kernel, whose receive buffer is the bound, and its window holds
the service back. What is written goes to the kernel at once, and what the kernel has no room for waits in a
buffer of SEND_LIMIT. Events come from the poller, never from within a call.
"""

import errno
import os
import socket
import struct
from collections.abc import Hashable
from enum import Enum, auto
from typing import Final

import trio

from tunfwd.common.streams import StreamHandler
from tunfwd.common.values import Reason
from tunfwd.loop import BROKEN, READABLE, WRITABLE
from tunfwd.services.poller import Poller
from tunfwd.services.target import ConnectFailed, Target, connect_at_once, connect_stream

SEND_LIMIT: Final = 1 << 20  # bytes that wait for the kernel's send buffer
CONNECT_TIMEOUT: Final = 10.0  # s; a service is near, but its name may need a resolver

OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # the application has decided what belongs together
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20),  # bytes; by itself the kernel goes up to 32 MB
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 18),  # bytes; more only adds to what is in flight
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),  # or the kernel takes urgent data out of the stream
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),  # a machine that is gone is noticed in 2 minutes
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # s
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),  # s
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
RESET_ON_CLOSE: Final = struct.pack("@ii", 1, 0)  # struct linger: on, for 0 s


class State(Enum):
    """Where a connection stands."""

    CONNECTING = auto()
    OPEN = auto()
    OVER = auto()


class Receiving(Enum):
    """Where the direction from the service stands."""

    WAITING = auto()
    """For the kernel to have something."""
    TOLD = auto()
    """The handler knows that there is something, and has not read since."""
    EOF_READ = auto()
    """The end was read; the handler is to hear of it."""
    ENDED = auto()


class Sending(Enum):
    """Where the direction to the service stands."""

    OPEN = auto()
    ENDING = auto()
    """The end follows what is buffered."""
    ENDED = auto()


class SocketStream:
    """One TCP connection of this machine's kernel as a stream; the classes below say how it comes to be."""

    __slots__ = (
        "_has_place",
        "_interest",
        "_lost",
        "_owner",
        "_poller",
        "_receiving",
        "_send_buffer",
        "_sending",
        "_socket",
        "_starved",
        "_state",
        "handler",
    )

    def __init__(self, poller: Poller, handler: StreamHandler | None, owner: Hashable) -> None:
        """`owner` is whose share of sockets it is of."""
        self.handler = handler
        """Who hears what happens; None where nobody does, as at the end."""
        self._poller = poller
        self._owner = owner
        self._has_place = poller.sockets.take(owner)
        self._state = State.CONNECTING
        self._receiving = Receiving.WAITING
        self._sending = Sending.OPEN
        self._send_buffer = bytearray()
        self._starved = False  # a write was cut short
        self._lost: str | None = None  # why the kernel gave up the connection
        self._interest: int | None = None  # what the poller waits for; None: not registered
        self._socket: socket.socket

    @property
    def is_over(self) -> bool:
        """Whether nothing can be read or written any more."""
        return self._state is State.OVER

    def _open(self, connected: socket.socket) -> None:
        for level, option, value in OPTIONS:
            connected.setsockopt(level, option, value)
        self._socket = connected
        self._state = State.OPEN
        self._end_sending()
        self._wait()

    def ready(self, events: int) -> None:
        """Serve the socket; called by the poller."""
        if events & WRITABLE:
            self._flush()
        if events & (READABLE | BROKEN):
            self._receive(events)
        if self._state is State.OPEN:
            self._conclude()

    def _wait(self) -> None:
        """Ask the poller for what matters now: a broken socket, too, unless reading is all that is left."""
        receives = self._receiving in (Receiving.WAITING, Receiving.EOF_READ)
        sends = self._send_buffer or self._starved
        interest: int | None = (READABLE if receives else 0) | (WRITABLE if sends else 0)
        if not interest and self._sending is Sending.ENDED:
            interest = None
        if interest != self._interest:
            self._poller.watch(self._socket.fileno(), interest, self)
            self._interest = interest

    # From the other end

    def _receive(self, events: int) -> None:
        if self._receiving is Receiving.WAITING and self._state is State.OPEN:
            self._receiving = Receiving.TOLD
            if self.handler is not None:
                self.handler.readable(self)
        elif events & BROKEN and self._state is State.OPEN:
            self._find_out()
        if self._receiving is Receiving.EOF_READ and self._state is State.OPEN:
            self._receiving = Receiving.ENDED
            if self.handler is not None:
                self.handler.eof(self)

    def read(self, limit: int) -> bytes:
        """See Stream."""
        if self._state is not State.OPEN or self._receiving in (Receiving.EOF_READ, Receiving.ENDED):
            return b""
        self._receiving = Receiving.WAITING
        try:
            data = self._socket.recv(limit)
            if not data and limit > 0 and self._lost is None:  # once told, a lost one reads as ended
                self._receiving = Receiving.EOF_READ
        except BlockingIOError:
            data = b""
        except OSError as error:
            self._lose(error)
            data = b""
        self._wait()
        return data

    # To the other end

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """See Stream. Raises RuntimeError after `shutdown`."""
        if self._sending is not Sending.OPEN:
            raise RuntimeError("write after shutdown")
        if self._state is State.OVER or self._lost is not None:
            return 0
        accepted = min(len(data), SEND_LIMIT - len(self._send_buffer))
        if accepted < len(data):
            self._starved = True
            data = memoryview(data)[:accepted]
        if self._send_buffer or self._state is State.CONNECTING:
            self._send_buffer += data
            return accepted
        sent = self._send(data)
        if sent < accepted:
            self._send_buffer += memoryview(data)[sent:]
        self._wait()
        return accepted

    def shutdown(self) -> None:
        """See Stream."""
        if self._sending is Sending.OPEN:
            self._sending = Sending.ENDING
            self._starved = False
            self._end_sending()

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error)
            return 0

    def _flush(self) -> None:
        if self._send_buffer:
            sent = self._send(self._send_buffer)
            del self._send_buffer[:sent]
        self._end_sending()
        if self._starved and self._lost is None and len(self._send_buffer) <= SEND_LIMIT // 2:
            self._starved = False
            if self.handler is not None:
                self.handler.writable(self)

    def _end_sending(self) -> None:
        if self._sending is Sending.ENDING and self._state is State.OPEN and not self._send_buffer:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:  # ENOTCONN: reset before the poller said so
                self._lose(error)
            self._sending = Sending.ENDED

    # The end

    def _lose(self, error: OSError) -> None:
        """Remember why; the poller goes on reporting a dead socket, and `ready` tells the handler."""
        if self._lost is None:
            pending = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # says more than ENOTCONN
            self._lost = os.strerror(pending or error.errno or errno.ECONNRESET)

    def _find_out(self) -> None:
        """The socket is broken and nobody reads from it: reset, lost, or both directions ended in order."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error or self._sending is not Sending.ENDED:
            self._lost = self._lost or os.strerror(error or errno.ECONNRESET)

    def _conclude(self) -> None:
        handler = self.handler
        if self._lost is not None:
            self._close()
            if handler is not None:
                handler.aborted(self, self._lost)
        elif self._receiving is Receiving.ENDED and self._sending is Sending.ENDED:
            self._close()
            if handler is not None:
                handler.closed(self)
        else:
            self._wait()

    def abort(self) -> None:
        """See Stream."""
        if self._state is State.OPEN:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._close()

    def fail(self) -> None:
        """See Watcher."""
        if self._state is not State.OVER:
            handler = self.handler
            self.abort()
            if handler is not None:
                handler.aborted(self, "a failure in here")

    def discard(self) -> None:
        """See Watcher."""
        self.abort()

    def _close(self) -> None:
        """Be over, and let go of the handler, which refers to this stream."""
        if self._state is State.OVER:
            return
        self.handler = None
        if self._has_place:
            self._poller.sockets.give_back(self._owner)
        if self._state is State.OPEN:
            self._poller.watch(self._socket.fileno(), None, self)
            self._socket.close()
        self._state = State.OVER
        self._send_buffer.clear()


class ServiceStream(SocketStream):
    """A connection to a service. `connected` or `connect_failed` is the first event."""

    __slots__ = ("_connecting", "_failure", "_made", "target")

    def __init__(
        self,
        poller: Poller,
        target: Target,
        handler: StreamHandler,
        timeout: float = CONNECT_TIMEOUT,
        owner: Hashable = None,
    ) -> None:
        """Start to connect. `timeout` in seconds covers resolving the name, too; where the share of sockets
        of `owner` is used up, the connection fails.
        """
        super().__init__(poller, handler, owner)
        self.target = target
        self._connecting = trio.move_on_after(timeout)
        self._made: socket.socket | None = None
        """Is connected, of which the handler hears from the poller."""
        self._failure: Reason | None = None if self._has_place else Reason.UNREACHABLE
        if self._has_place:
            try:
                self._made = connect_at_once(target)
            except ConnectFailed as failed:
                self._failure = failed.failure
        if self._made is None:
            poller.start(self._connect, self)
        else:
            poller.watch(self._made.fileno(), WRITABLE, self)
            self._interest = WRITABLE

    def ready(self, events: int) -> None:
        """Serve the socket; called by the poller."""
        if self._made is not None:
            made, self._made = self._made, None
            self._connected(made)
        else:
            super().ready(events)

    async def _connect(self) -> None:
        failure = self._failure or Reason.TIMED_OUT
        with self._connecting:
            try:
                if self._failure is None:
                    self._connected(await connect_stream(self.target))
            except ConnectFailed as failed:
                failure = failed.failure
        if self._state is State.CONNECTING:
            handler = self.handler
            self._close()
            if handler is not None:
                handler.connect_failed(self, failure)

    def _connected(self, connected: socket.socket) -> None:
        if self._state is State.OVER:  # aborted when it had just succeeded
            connected.close()
            return
        self._open(connected)
        if self.handler is not None:
            self.handler.connected(self)

    def abort(self) -> None:
        """See Stream."""
        if self._made is None:
            self._connecting.cancel()
        else:
            self._poller.watch(self._made.fileno(), None, self)
            self._made.close()
            self._made = None
        super().abort()


class CallerStream(SocketStream):
    """A local program's connection to a port of a contact: made already, and read once somebody answers.

    The kernel has accepted it before the contact's service is known, so where that cannot be reached all that
    is left is a reset, whatever the reason.
    """

    __slots__ = ()

    def __init__(self, poller: Poller, accepted: socket.socket, owner: Hashable) -> None:
        """Where the share of sockets of `owner` is used up, the connection is over at once."""
        super().__init__(poller, None, owner)
        self._open(accepted)
        if not self._has_place:
            self.abort()

    def accept(self) -> None:
        """Tell the program that the service is there: the kernel has."""

    def refuse(self) -> None:
        """Tell the program that nothing listens there."""
        self.handler = None
        self.abort()

    def unreachable(self) -> None:
        """Tell the program that the host cannot be reached."""
        self.refuse()

    def ignore(self) -> None:
        """Answer as a dead host does."""
        self.refuse()
