"""Serves the control socket: lines in, the handler's answers out.

Whoever may connect could end the daemon anyway, so this guards against accidents: programs gone wild,
garbage, clients that stop halfway. Everything is bounded: the connections (the longest idle one gives way to
a new one), the length and time of a line, and the work in flight (one request a connection). A failure of
one request or client stays with it.
"""

import contextlib
import errno
import logging
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from typing import Protocol as Interface

import trio

from tunfwd.common.errors import UserError
from tunfwd.control.listener import Access, Listener, credentials
from tunfwd.control.passed import SPACE, Passed
from tunfwd.control.protocol import MAX_REQUEST, Request, decode_request, encode_error, encode_result
from tunfwd.faults import note

MAX_CONNECTIONS: Final = 64
MAX_BAD_LINES: Final = 8  # what is no request; after that it is no client of ours
IDLE_TIME: Final = 60.0  # s between requests
LINE_TIME: Final = 10.0  # s from a line's first byte to its last
REQUEST_TIME: Final = 120.0  # s for the handler; its own limits are shorter and say more
ANSWER_TIME: Final = 10.0  # s for the client to take its answer

log = logging.getLogger(__name__)


class Handler(Interface):
    """What answers requests; dispatch.Dispatcher is one. Raises UserError to refuse."""

    async def __call__(self, method: str, params: dict[str, object]) -> Mapping[str, object]:
        """Return the result of one call."""
        ...


async def serve(
    listener: Listener, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled, on a listener made before privileges were given up."""
    accepting = trio.socket.from_stdlib_socket(listener.socket)
    connections: dict[_Connection, None] = {}  # the one idle for longest first
    task_status.started()
    async with trio.open_nursery() as nursery:
        while True:
            try:
                peer, _ = await accepting.accept()
            except OSError as failure:
                if failure.errno not in _PASSING:
                    raise
                log.warning("the control socket cannot accept now: %s", failure.strerror)
                await trio.sleep(0.1)
                continue
            stream = trio.SocketStream(peer)
            if refusal := _refusal(peer, listener.access, connections):
                await _turn_away(stream, refusal)
            else:
                nursery.start_soon(_Connection(stream, handler, connections).run)


# errnos of accept(2) that concern one connection or this moment, not the listening socket
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPERM)


@dataclass(frozen=True, slots=True)
class _TooLong:
    """In place of a line: it had no end."""


class _Connection:
    """One client: a task that reads lines, and one that answers them in order."""

    def __init__(
        self,
        stream: trio.SocketStream,
        handler: Handler,
        connections: "dict[_Connection, None]",
    ) -> None:
        """`connections` are all there are, this one among them from now on."""
        self._stream = stream
        self._handler = handler
        self._connections = connections
        self._life = trio.CancelScope()
        self._passed = Passed(credentials(stream.socket)[0])
        self._answering = False
        self._bad_lines = 0
        connections[self] = None

    @property
    def idle(self) -> bool:
        """Whether nothing is asked that is not answered."""
        return not self._answering

    def end(self) -> None:
        """Hang up."""
        self._connections.pop(self, None)
        self._life.cancel()

    async def run(self) -> None:
        """Serve the client until one side has had enough; whatever fails in that is this client's loss."""
        try:
            await self._serve()
        except Exception as fault:
            note("a client of the control socket", fault)

    async def _serve(self) -> None:
        # A task apart reads, so that a client that hangs up takes its unfinished request with it.
        send, receive = trio.open_memory_channel[bytes | _TooLong](0)
        try:
            with self._life:
                async with self._stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, send, nursery.cancel_scope)
                    async with receive:
                        async for line in receive:
                            if not await self._answer(line):
                                break
                    nursery.cancel_scope.cancel()
        finally:
            self._passed.close()
            self._connections.pop(self, None)

    async def _read(self, lines: trio.MemorySendChannel[bytes | _TooLong], client: trio.CancelScope) -> None:
        try:
            await self._read_lines(lines, client)
        except trio.BrokenResourceError:  # it has hung up: nothing is read, or answered, any more
            client.cancel()

    async def _read_lines(
        self, lines: trio.MemorySendChannel[bytes | _TooLong], client: trio.CancelScope
    ) -> None:
        buffer = bytearray()
        deadline = trio.current_time() + IDLE_TIME
        async with lines:
            while True:
                with trio.move_on_at(deadline) as patience:
                    data = await self._receive()
                if patience.cancelled_caught:
                    if buffer or not self._answering:
                        return
                    deadline = trio.current_time() + IDLE_TIME
                    continue
                if not data:
                    if self._hung_up():
                        client.cancel()
                    return
                *ends, rest = data.split(b"\n")
                fresh = bool(ends) or not buffer
                for end in ends:
                    line = bytes(buffer + end)
                    buffer.clear()
                    await lines.send(line if len(line) < MAX_REQUEST else _TooLong())
                buffer += rest
                if len(buffer) >= MAX_REQUEST:
                    await lines.send(_TooLong())
                    return
                if fresh:
                    deadline = trio.current_time() + (LINE_TIME if buffer else IDLE_TIME)

    async def _receive(self) -> bytes:
        """Return what came, and hold the descriptors that came with it."""
        try:
            data, passed, _, _ = await self._stream.socket.recvmsg(
                MAX_REQUEST, SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as broken:
            raise trio.BrokenResourceError from broken
        self._passed.take_in(passed)
        return data

    def _hung_up(self) -> bool:
        """At end of file: whether the client is gone, or only has no more to ask (shutdown(2), `nc -N`)."""
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    async def _answer(self, line: bytes | _TooLong) -> bool:
        """Answer what has arrived; False when nothing more is to be answered."""
        self._answering = True
        try:
            go_on, answer = await self._outcome(line)
            with trio.move_on_after(ANSWER_TIME) as patience:
                await self._stream.send_all(answer)
        except trio.BrokenResourceError:
            return False
        else:
            return go_on and not patience.cancelled_caught
        finally:
            self._answering = False
            if self in self._connections:  # to the end of the line
                del self._connections[self]
                self._connections[self] = None

    async def _outcome(self, line: bytes | _TooLong) -> tuple[bool, bytes]:
        """Whether to go on after this line, and the answer to it."""
        if isinstance(line, _TooLong):
            return False, encode_error(None, UserError("usage", f"a line has at most {MAX_REQUEST} bytes"))
        try:
            request = decode_request(line)
        except UserError as wrong:
            self._bad_lines += 1
            return self._bad_lines < MAX_BAD_LINES, encode_error(None, wrong)
        return True, await self._call(request)

    async def _call(self, request: Request) -> bytes:
        try:
            with trio.fail_after(REQUEST_TIME), self._passed.offered():
                result = await self._handler(request.method, request.params)
            return encode_result(request.id, result)
        except UserError as refused:
            return encode_error(request.id, refused)
        except trio.TooSlowError:
            return encode_error(request.id, UserError("timeout", f"{request.method} took too long"))
        except Exception:
            # A mistake of ours in one method; the contacts' connections are not to pay for it.
            log.exception("the request %s failed", request.method)
            return encode_error(
                request.id, UserError("failed", "an error inside the daemon; its log says more")
            )


def _refusal(
    peer: trio.socket.SocketType, access: Access, connections: dict[_Connection, None]
) -> UserError | None:
    if not access.allows(peer):
        return UserError("denied", "you may not use this daemon: ask its owner to add you to [control] group")
    if len(connections) >= MAX_CONNECTIONS:
        if idle := next((connection for connection in connections if connection.idle), None):
            idle.end()
        else:
            return UserError("failed", f"the daemon serves {MAX_CONNECTIONS} clients already; try again")
    return None


async def _turn_away(stream: trio.SocketStream, refusal: UserError) -> None:
    async with stream:
        with trio.move_on_after(0.1):  # an empty socket buffer takes a line at once
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(encode_error(None, refusal))
