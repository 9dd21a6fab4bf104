"""A process beside the daemon that runs the programs of [[hook]], each when something happens.

The daemon itself can start no program, and is not to (confinement.py). `start` forks this process before that
is so; it has the daemon's user and no privilege, and hears of events over a socket. It runs one program at a
time, in the order of the events. While it is busy, events wait: in the socket, and then among those that the
daemon keeps, of which the oldest are lost, which the log says. It ends when the daemon does, however.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from tunfwd.config.hooks import Hook
from tunfwd.daemon.process.events import Cursor, Event, Events, TooManyReaders
from tunfwd.events import KINDS, Kind
from tunfwd.tun.helper import SIGNALS, start_helper

RUN_TIME: Final = 60.0  # s that a program may take
MAX_PACKET: Final = 32_768  # bytes of an event, or a report
MAX_TOLD: Final = 200  # bytes of what a program says, in the log

log = logging.getLogger(__name__)


class Hooks:
    """The daemon's end."""

    def __init__(self, hooks: Sequence[Hook], channel: socket.socket, pid: int) -> None:
        self.pid = pid
        self._channel = channel
        self._kinds: tuple[Kind, ...] = tuple(
            kind for kind in KINDS if any(hook.wants(kind) for hook in hooks)
        )
        channel.setblocking(False)

    async def run(self, events: Events) -> None:
        """Tell it of events, from now on, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log_reports)
            await self._tell(events, events.end)

    async def _tell(self, events: Events, read: Cursor) -> None:
        while True:
            try:
                batch = await events.wait(read, self._kinds)
            except TooManyReaders:  # whoever else reads has to ask again after a time, and then there is room
                await trio.sleep(1.0)
                continue
            read = batch.read
            if batch.lost:
                log.info("hooks: %d events were lost, as programs take too long", batch.lost)
            for event in batch.events:
                if not await self._send(packet(event)):
                    log.error("the process that runs hooks has ended: nothing more is run")
                    return

    async def _send(self, data: bytes) -> bool:
        while True:
            try:
                self._channel.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._channel)
            except OSError:
                return False
            else:
                return True

    async def _log_reports(self) -> None:
        while True:
            try:
                report = self._channel.recv(MAX_PACKET)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel)
                continue
            except OSError:
                return
            if not report:
                return
            # Not a warning: those are events, of which a hook that fails would make ever more.
            log.info("%s", report.decode("utf-8", "replace"), extra={"cause": ("hooks", "hooks")})

    def close(self) -> None:
        """Have it end, and what it runs."""
        self._channel.close()


def packet(event: Event) -> bytes:
    """Return an event as the other process gets it."""
    content = {"seq": event.number, "time": event.time.isoformat(timespec="milliseconds")}
    return json.dumps(content | {"event": event.kind, "text": event.text} | event.details).encode()


def start(hooks: Sequence[Hook], environment: Mapping[str, str]) -> Hooks:
    """Start the process. There must be no other threads. `environment` is what programs get, and more."""

    def work(channel: socket.socket) -> None:
        os.chdir("/")
        _Runner(hooks, channel, environment).run()

    pid, channel = start_helper("tunfwd-hooks", "runs hooks", work)
    return Hooks(hooks, channel, pid)


class _Runner:
    """The process."""

    def __init__(self, hooks: Sequence[Hook], channel: socket.socket, environment: Mapping[str, str]) -> None:
        self._hooks = hooks
        self._channel = channel
        self._environment = environment

    def run(self) -> None:
        while data := self._channel.recv(MAX_PACKET):
            event = json.loads(data)
            for hook in self._hooks:
                if hook.wants(event["event"]) and not self._run(hook.run, data, event):
                    return

    def _run(self, command: Sequence[str], data: bytes, event: Mapping[str, object]) -> bool:
        """Run one program; False: the daemon has ended."""
        told, given = os.memfd_create("stderr"), os.memfd_create("stdin")
        try:
            os.write(given, data + b"\n")
            os.lseek(given, 0, os.SEEK_SET)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=given,
                    stdout=told,
                    stderr=told,
                    env={**self._environment, **variables(event)},
                    start_new_session=True,
                    preexec_fn=_listen_to_signals,  # noqa: PLW1509  there is one thread only
                )
            except OSError as error:
                self._report(f"hook {command[0]}: {error.strerror}")
                return True
            with process:
                return self._wait(process, command[0], told)
        finally:
            os.close(told)
            os.close(given)

    def _wait(self, process: subprocess.Popen[bytes], name: str, told: int) -> bool:
        descriptor = os.pidfd_open(process.pid)
        try:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            waiting.register(self._channel, 0)  # its end
            ready = {fd for fd, _ in waiting.poll(RUN_TIME * 1000)}
        finally:
            os.close(descriptor)
        if descriptor not in ready:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if ready:
                return False
            self._report(f"hook {name}: killed after {RUN_TIME:g} s")
        elif process.wait() != 0:
            words = os.pread(told, MAX_TOLD, max(0, os.fstat(told).st_size - MAX_TOLD))
            text = words.decode("utf-8", "replace").strip()
            self._report(f"hook {name}: exit status {process.returncode}" + f": {text}" * bool(text))
        return True

    def _report(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the daemon has ended, or has too much to read
            self._channel.send(text.encode()[:MAX_PACKET], socket.MSG_DONTWAIT)


def _listen_to_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def variables(event: Mapping[str, object]) -> dict[str, str]:
    """Return what a program finds in its environment: TUNFWD_EVENT, TUNFWD_CONTACT, …"""
    return {
        f"TUNFWD_{key.upper()}": str(value).replace("\0", "")
        for key, value in event.items()
        if value is not None
    }
