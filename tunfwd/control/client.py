"""Calls the daemon from an ordinary program: blocking, one request at a time, no trio."""

import contextlib
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Final, TypeVar, cast

from tunfwd.common.errors import UserError
from tunfwd.common.schema import Mismatch, decode
from tunfwd.config.paths import SOCKET_PATH_BYTES
from tunfwd.control.glance import Method
from tunfwd.control.protocol import MAX_ANSWER, Request, decode_answer, encode_request

P = TypeVar("P")
R = TypeVar("R")

DEFAULT_TIMEOUT: Final = 15.0  # s for connecting, and for each answer


class Client:
    """A connection to the daemon. Every failure is a UserError, with "no_daemon" where nobody listens."""

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._timeout = timeout
        self._number = 0
        self._socket = _connect(path, timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a request still unanswered is given up by the daemon too."""
        self._socket.close()

    def call(
        self,
        method: Method[P, R],
        params: Mapping[str, object],
        *,
        timeout: float | None = None,
        descriptors: Sequence[int] = (),
    ) -> R:
        """Return the result of `method`, in the shape the API promises.

        Parameters that are None are left out; the daemon gets copies of `descriptors`. UserError: the
        daemon's own, "usage" for parameters that cannot be right, "timeout" when no answer comes in `timeout`
        seconds (default: the client's).
        """
        given = {key: value for key, value in params.items() if value is not None}
        try:
            decode(cast(type[object], method.params), given)
        except Mismatch as wrong:
            raise UserError("usage", str(wrong)) from None
        result = self._exchange(
            method.name, given, self._timeout if timeout is None else timeout, descriptors
        )
        try:
            return decode(method.result, result, ignore_unknown=True)
        except Mismatch as wrong:
            raise UserError(
                "failed",
                f"the daemon's answer makes no sense ({wrong}): is it another version? (tunfwd version)",
            ) from None

    def _exchange(
        self, method: str, params: dict[str, object], timeout: float, descriptors: Sequence[int]
    ) -> dict[str, object]:
        self._number += 1
        line = encode_request(Request(self._number, method, params))
        deadline = monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            # A daemon that turns us away has answered and hung up before it read: its answer still counts.
            with contextlib.suppress(BrokenPipeError):
                if descriptors:
                    line = line[socket.send_fds(self._socket, [line], descriptors, socket.MSG_NOSIGNAL) :]
                self._socket.sendall(line, socket.MSG_NOSIGNAL)
            return decode_answer(self._receive_line(deadline))
        except TimeoutError:
            raise UserError("timeout", f"the daemon did not answer within {timeout:g} s") from None
        except OSError as failure:
            raise UserError("failed", f"the connection to the daemon broke: {failure.strerror}") from None

    def _receive_line(self, deadline: float) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):  # one request at a time: nothing follows its answer
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            data = self._socket.recv(1 << 16)
            if not data:
                raise UserError("failed", "the daemon closed the connection without an answer")
            received += data
            if len(received) > MAX_ANSWER:
                raise UserError("failed", "the daemon's answer is too long")
        return bytes(received)


def _connect(path: str | os.PathLike[str], timeout: float) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise UserError(
            "configuration", f"the socket's path is longer than {SOCKET_PATH_BYTES} bytes: {path}"
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Not settimeout: a non-blocking connect() fails at once when the daemon's backlog is full (unix(7)).
        seconds, fraction = divmod(timeout, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1e6))  # struct timeval
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.connect(os.fspath(path))
    except OSError as failure:
        connection.close()
        raise _unconnected(path, failure, timeout) from None
    return connection


def _unconnected(path: str | os.PathLike[str], failure: OSError, timeout: float) -> UserError:
    match failure:
        case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
            return UserError("no_daemon", f"no daemon runs at {path}; start one with: tunfwd daemon")
        case PermissionError():
            return UserError(
                "denied", f"you may not use the daemon at {path}; ask its owner ([control] group)"
            )
        case BlockingIOError():  # SO_SNDTIMEO is over
            return UserError("timeout", f"the daemon did not answer within {timeout:g} s")
        case _:
            return UserError("no_daemon", f"cannot connect to {path}: {failure.strerror}")
