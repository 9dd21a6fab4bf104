"""What a process forked beside the daemon does first: it holds nothing of the daemon's but one socket."""

import contextlib
import os
import signal
import socket
from collections.abc import Set
from typing import Final

import pyprctl
from pyprctl import Cap, CapState

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""For the daemon, at whose end a process beside it ends."""


def become_helper(channel: socket.socket, name: str, capabilities: Set[Cap] = frozenset()) -> None:
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
