"""What the service manager is told, and how the journal knows what a line is worth."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tunfwd.daemon.process.logs import Log, is_journal
from tunfwd.daemon.process.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind(str(tmp_path / "notify"))
    return made


def heard(manager: socket.socket) -> list[bytes]:
    said = []
    while True:
        try:
            said.append(manager.recv(100))
        except BlockingIOError:
            return said


async def test_the_manager_is_told(manager: socket.socket, autojump_clock: MockClock) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "10000000"})
    notifier.tell("READY=1")
    with trio.move_on_after(12):
        await notifier.keep_alive()
    assert heard(manager) == [b"READY=1", *[b"WATCHDOG=1"] * 3]  # at 0, 5 and 10 s
    manager.close()
    notifier.tell("STOPPING=1")  # nobody hears it
    notifier.close()
    notifier.tell("STOPPING=1")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/nonexistent/socket"},
        {"NOTIFY_SOCKET": "@nobody-listens-there"},
    ],
)
async def test_without_a_manager_nothing_is_told(environ: dict[str, str], autojump_clock: MockClock) -> None:
    notifier = Notifier(environ | {"WATCHDOG_USEC": "1000"})
    notifier.tell("READY=1")
    with trio.fail_after(1):
        await notifier.keep_alive()


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
async def test_a_watchdog_that_is_not_ours_is_not_fed(
    manager: socket.socket, more: dict[str, str], autojump_clock: MockClock
) -> None:
    default = {"WATCHDOG_USEC": "1000"} if "WATCHDOG_PID" in more else {}
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()} | default | more)
    with trio.fail_after(1):
        await notifier.keep_alive()
    assert heard(manager) == []
    manager.close()
    notifier.close()


def test_each_line_of_the_journal_has_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    assert not is_journal(writer, {})
    assert not is_journal(writer, {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(-1, {"JOURNAL_STREAM": "1:2"})
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log = Log("DEBUG", writer)
    for level, text in ((10, "a"), (20, "b"), (30, "c"), (40, "d\ne")):
        log.handle(logging.LogRecord("x", level, "", 0, text, None, None))
    log.__exit__(None, None, None)
    os.close(writer)
    with open(reader, "rb") as read:
        lines = read.read().decode().splitlines()
    assert lines == ["<7>DEBUG x: a", "<6>INFO x: b", "<4>WARNING x: c", "<3>ERROR x: d", "<3>e"]
