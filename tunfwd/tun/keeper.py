"""A process beside the daemon that keeps the TUN device as it was set up, whatever others do to it.

That takes CAP_NET_ADMIN, which a process that reads packets from a network is not to have: `keep` forks one
that has it, and reads nothing but the kernel's own messages. Nobody can ask it for anything. It reports over
a socket what it has put back, one text a packet, and ends when the other end of that is closed, however the
daemon has ended. Its last act is to end the connections that led through the device.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyprctl
import trio
from pyprctl import Cap, CapState
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.connections import end_connections
from tunfwd.tun.monitor import EVERYTHING, drain, monitor
from tunfwd.tun.upkeep import Layout, Restored, restore

SETTLE: Final = 0.02  # s; changes that come together are looked at once
LONGEST_PAUSE: Final = 5.0  # s between two rounds with somebody who takes away again what is put back
SHARE: Final = 10  # times as long as a look took is rested before the next, where routes come and go all day
PEACE: Final = 10.0  # s without a change, after which it is put back at once again
REPORT: Final = 4096  # bytes at most


class Keeper:
    """The daemon's end: what the process beside it reports."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.alive = True
        self._channel = channel
        channel.setblocking(False)

    async def next_report(self) -> str | None:
        """Return what it has to say next; None when it is no more."""
        while True:
            try:
                report = self._channel.recv(REPORT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel)
            except OSError:
                report = b""
                break
            else:
                break
        self.alive = bool(report)
        return report.decode() if report else None

    def close(self) -> None:
        """Have it end."""
        self._channel.close()


def keep(layout: Layout, confine: Callable[[], object]) -> Keeper:
    """Start the process; `confine` is what it calls before it begins. There must be no other threads."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _become_keeper(theirs)
            _Watch(layout, theirs).run(confine)
            end_connections(layout.addresses)
        except Exception as error:
            with contextlib.suppress(OSError):
                theirs.send(f"the process that keeps {layout.name} as it is fails: {error!r}".encode())
        finally:
            os._exit(0)  # whatever the daemon has to tidy up is the daemon's
    theirs.close()
    return Keeper(pid, ours)


def _become_keeper(channel: socket.socket) -> None:
    """Hold nothing of the daemon's: the device, its locks and its log end with the daemon itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # for the daemon, at whose end this one ends
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor <= 2:
            os.dup2(null, descriptor)
        elif descriptor != channel.fileno():
            with contextlib.suppress(OSError):  # that of the listing
                os.close(descriptor)
    pyprctl.set_name("tunfwd-keeper")
    kept = {Cap.NET_ADMIN} & set(CapState.get_current().permitted)
    CapState(permitted=kept, effective=kept).set_current()


@dataclass(slots=True)
class _Pause:
    """How long to wait before looking: longer each time that what was put back did not last."""

    length: float = SETTLE
    last: float = float("-inf")

    def restored(self, now: float) -> None:
        self.length = min(2 * self.length, LONGEST_PAUSE) if now - self.last < PEACE else SETTLE
        self.last = now


class _Watch:
    """The process: waits for a change, looks, puts back, reports."""

    def __init__(self, layout: Layout, channel: socket.socket) -> None:
        self._layout = layout
        self._channel = channel
        self._failed: tuple[str, ...] = ()
        self._told = False
        self._pause = _Pause()

    def run(self, confine: Callable[[], object]) -> None:
        changes = monitor(EVERYTHING)
        with IPRoute() as netlink:
            confine()
            waiting = select.poll()
            waiting.register(self._channel, select.POLLIN)
            waiting.register(changes, select.POLLIN)
            while True:
                drain(changes)
                began = time.monotonic()
                try:
                    restored = restore(netlink, self._layout)  # at first what changed since it was set up
                except NetlinkError as error:
                    if error.code == errno.ENODEV:
                        self._report(f"{self._layout.name} is gone from this network namespace")
                        return
                    restored = Restored((), (str(error),))  # changed while it was read, as a rule
                if restored.done:
                    self._pause.restored(time.monotonic())
                surely = self._tell(restored)
                rest = max(self._pause.length, min(SHARE * (time.monotonic() - began), LONGEST_PAUSE))
                if self._ended(waiting, None if surely else 0) or self._ended_within(rest):
                    return

    def _ended(self, waiting: select.poll, timeout: float | None) -> bool:
        """Wait for a change. True if the daemon has ended."""
        return any(fd == self._channel.fileno() for fd, _ in waiting.poll(timeout))

    def _ended_within(self, seconds: float) -> bool:
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def _tell(self, restored: Restored) -> bool:
        """Report. False where another look has to show whether a failure was but a change under way."""
        if restored.done:
            self._report(f"{self._layout.name} was changed; put back: {', '.join(restored.done)}")
        if restored.failed and restored.failed != self._failed:
            self._failed, self._told = restored.failed, False
            return False
        self._failed = restored.failed
        if restored.failed and not self._told:
            self._report(f"{self._layout.name} lacks what cannot be put back: {', '.join(restored.failed)}")
            self._told = True
        return True

    def _report(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads; the daemon has other troubles
            self._channel.send(text.encode()[:REPORT], socket.MSG_DONTWAIT)
