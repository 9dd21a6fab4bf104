"""What comes with a request to the control socket beside its line: descriptors, and whose it is (unix(7)).

server.py takes the descriptors in, and closes after the answer what the method has not taken.
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
_user: ContextVar[int] = ContextVar("user")


class Passed:
    """Whose program a client is, and the descriptors that it has passed and nobody has taken."""

    def __init__(self, user: int) -> None:
        self._user = user
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
        """Have the method that is called in here find them; descriptors that it leaves are closed."""
        held, user = _passed.set(self._held), _user.set(self._user)
        try:
            yield
        finally:
            _passed.reset(held)
            _user.reset(user)
            self.close()

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()


def user() -> int:
    """Return the number of the user who asks; this process's, where nobody does."""
    return _user.get(os.geteuid())


def take() -> list[int]:
    """Return the descriptors of the request that is being answered; they are the caller's to close."""
    held = _passed.get([])
    taken = list(held)
    held.clear()
    return taken
