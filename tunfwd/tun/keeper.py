"""A process beside the daemon that keeps the TUN device as it was set up, whatever others do to it.

That takes CAP_NET_ADMIN, which a process that reads packets from a network is not to have: `keep` forks one
that has it, and reads the kernel's own messages, and one thing of the daemon: by which addresses of the
device's own ranges contacts know this machine (sources.py), which the device then has. Nobody can ask it for
anything else. It reports over a socket what it has put back, one text a packet, and ends when the other end
of that is closed, however the daemon has ended. Its last act is to end the connections that led through the
device.
"""

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio
from pyprctl import Cap
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.connections import end_connections
from tunfwd.tun.helper import REPORT, start_helper
from tunfwd.tun.monitor import EVERYTHING, drain, monitor
from tunfwd.tun.sources import Source, decode, encode
from tunfwd.tun.upkeep import Layout, Restored, missing, restore, withdraw

SETTLE: Final = 0.02  # s; changes that come together are looked at once
LONGEST_PAUSE: Final = 5.0  # s between two rounds with somebody who takes away again what is put back
SHARE: Final = 10  # times as long as a look took is rested before the next, where routes come and go all day
PEACE: Final = 10.0  # s without a change, after which it is put back at once again
REQUEST: Final = 1 << 16  # bytes at most; MAX_SOURCES of IPv6 have half of that


class Keeper:
    """The daemon's end: what the process beside it reports."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.alive = True
        self.sources: tuple[Source, ...] = ()
        """What the device was last asked to have."""
        self._channel = channel
        self._told: tuple[Source, ...] = ()
        self._changed = trio.Event()
        channel.setblocking(False)

    def want(self, sources: Iterable[Source]) -> None:
        """Have the device speak from these of our addresses, and from no others, from soon on."""
        self.sources = tuple(sources)
        self._changed.set()

    async def run(self) -> None:
        """Pass on what is wanted, the latest only, until cancelled or it is no more."""
        while self.alive:
            await self._changed.wait()
            self._changed = trio.Event()
            if self.sources == self._told:
                continue
            try:
                await trio.lowlevel.wait_writable(self._channel)
                self._channel.send(encode(self.sources))
            except BlockingIOError:
                self._changed.set()
            except OSError:  # it has ended, which next_report says
                return
            else:
                self._told = self.sources

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

    def work(channel: socket.socket) -> None:
        watch = _Watch(layout, channel)
        watch.run(confine)
        end_connections(layout.addresses, watch.own)

    return Keeper(*start_helper("tunfwd-keeper", f"keeps {layout.name} as it is", work, {Cap.NET_ADMIN}))


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
        self._sources: tuple[Source, ...] = ()

    @property
    def own(self) -> set[str]:
        """The addresses that the device was given since it was set up."""
        return {str(source.address) for source in self._sources}

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
                    restored = restore(
                        netlink, self._layout, self._sources
                    )  # at first what changed since it was set up
                except NetlinkError as error:
                    if error.code == errno.ENODEV:
                        self._report(f"{self._layout.name} is gone from this network namespace")
                        return
                    restored = Restored((), (str(error),))  # changed while it was read, as a rule
                if restored.done:
                    self._pause.restored(time.monotonic())
                surely = self._tell(restored)
                rest = max(self._pause.length, min(SHARE * (time.monotonic() - began), LONGEST_PAUSE))
                if not self._wait(netlink, waiting, None if surely else 0) or not self._rest(netlink, rest):
                    return

    def _wait(self, netlink: IPRoute, waiting: select.poll, timeout: float | None) -> bool:
        """Wait for a change, or for the daemon. False if that has ended."""
        ready = [fd for fd, _ in waiting.poll(timeout)]
        return self._channel.fileno() not in ready or self._take(netlink)

    def _rest(self, netlink: IPRoute, seconds: float) -> bool:
        """Wait, but for the daemon. False if that has ended."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        return not waiting.poll(seconds * 1000) or self._take(netlink)

    def _take(self, netlink: IPRoute) -> bool:
        """Take what the daemon says, do it, and say nothing of it. False if there is no daemon any more."""
        try:
            message = self._channel.recv(REQUEST)
        except OSError:
            return False
        if not message:
            return False
        try:
            sources = decode(message, (own.network for own in self._layout.addresses))
        except ValueError as error:
            self._report(f"what the daemon asks for is refused: {error}")
            return True
        withdraw(netlink, self._layout, set(self._sources) - set(sources), sources)
        self._sources = sources
        with contextlib.suppress(NetlinkError):  # as with anything else that is missing: looked at again
            for item in missing(netlink, self._layout, sources):
                with contextlib.suppress(NetlinkError):
                    item.put_back()
        return True

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
