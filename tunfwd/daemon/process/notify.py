"""Tells the service manager how the daemon is: ready, alive, ending (sd_notify(3)). Without one, nothing.

The socket is connected at start: later the daemon may not connect to any outside of its confinement.
"""

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import trio

log = logging.getLogger(__name__)


class Notifier:
    """The way to the service manager, if one has started us."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        self._interval: float | None = None
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError as error:
            made.close()
            log.warning("the service manager cannot be told how the daemon is: %s", error.strerror)
            return
        self._socket = made
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if microseconds.isdecimal() and int(microseconds) > 0 and ours:
            self._interval = int(microseconds) / 1e6 / 2  # half of it, as sd_watchdog_enabled(3) advises

    def tell(self, state: str) -> None:
        """Say it, as READY=1; what cannot be said is not waited for."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(state.encode())

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def keep_alive(self) -> None:
        """Say that we are alive for as long as the loop goes round, where that is asked for."""
        while self._interval is not None:
            self.tell("WATCHDOG=1")
            await trio.sleep(self._interval)
