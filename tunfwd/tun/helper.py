"""Starts a process beside the daemon, which holds nothing of the daemon's but one socket."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Set
from typing import Final

import pyprctl
from pyprctl import Cap, CapState

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""For the daemon, at whose end a process beside it ends."""
REPORT: Final = 4096  # bytes of what it says at most


def start_helper(
    name: str,
    purpose: str,
    work: Callable[[socket.socket], object],
    capabilities: Set[Cap] = frozenset(),
) -> tuple[int, socket.socket]:
    """Fork a process that does `work` with its end of a socket; return its number and our end.

    It has these capabilities at most. Where it fails, it says so, and its `purpose`, by the socket, and ends.
    There must be no other threads.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _become(theirs, name, capabilities)
            work(theirs)
        except Exception as error:
            with contextlib.suppress(OSError):
                theirs.send(f"the process that {purpose} fails: {error!r}".encode()[:REPORT])
        finally:
            os._exit(0)  # whatever the daemon has to tidy up is the daemon's
    theirs.close()
    return pid, ours


def _become(channel: socket.socket, name: str, capabilities: Set[Cap] = frozenset()) -> None:
    """Go on as the process of that name, with these capabilities at most.

    The device, its locks and its log end with the daemon itself.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor <= 2:
            os.dup2(null, descriptor)
        elif descriptor != channel.fileno():
            with contextlib.suppress(OSError):  # that of the listing
                os.close(descriptor)
    pyprctl.set_name(name)
    pyprctl.set_no_new_privs()
    kept = {capability for capability in capabilities if capability in CapState.get_current().permitted}
    CapState(permitted=kept, effective=kept).set_current()
