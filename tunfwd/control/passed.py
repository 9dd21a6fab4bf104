"""Descriptors that a client of the control socket passes with a request (unix(7), SCM_RIGHTS).

server.py takes them in, and closes after the answer what the method has not taken.
"""

import os
import socket
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

LIMIT: Final = 4  # with a request
SPACE: Final = socket.CMSG_SPACE(LIMIT * array("i").itemsize)

_passed: ContextVar[list[int]] = ContextVar("passed")


class Descriptors:
    """Those that a client has passed and nobody has taken."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def take_in(self, ancillary: Iterable[tuple[int, int, bytes]]) -> None:
        """Hold what came with a piece of the client's bytes, as far as there may be more."""
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                self._held += descriptors
        for descriptor in self._held[LIMIT:]:
            os.close(descriptor)
        del self._held[LIMIT:]

    @contextmanager
    def offered(self) -> Iterator[None]:
        """Have the method that is called in here find them; what it leaves is closed."""
        token = _passed.set(self._held)
        try:
            yield
        finally:
            _passed.reset(token)
            self.close()

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()


def take() -> list[int]:
    """Return what came with the request that is being answered; it is the caller's to close."""
    held = _passed.get([])
    taken = list(held)
    held.clear()
    return taken
