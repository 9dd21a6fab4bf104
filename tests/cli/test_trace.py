"""`tunfwd trace`: where it writes, and how it ends."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunfwd.common.errors import UserError

from .conftest import Daemon, Result

Run = Callable[..., Result]


def answer(records: str = "", over: str | None = None, **figures: int) -> dict[str, Any]:
    return {
        "trace": "0123456789abcdef",
        "contact": "group:lan/../b b",
        "records": records,
        "packets_sent": 12,
        "packets_received": 9,
        "packets_lost": 2,
        "dropped": 0,
        "over": over,
    } | figures


@pytest.fixture
def tracing(daemon: Daemon) -> Daemon:
    daemon.answers["trace.begin"] = answer("\x1eheader\n")

    def more(params: dict[str, object]) -> dict[str, Any]:
        end = params.get("end")
        return answer("\x1eend\n", over="time") if end else answer("\x1eevent\n")

    daemon.answers["trace.next"] = more
    return daemon


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_for_some_seconds_into_a_file_of_its_owner_s(process: Run, tracing: Daemon, folder: Path) -> None:
    result = process("trace", "bob", "--seconds", "0.1", "--limit", "3")
    assert result.code == 0
    assert tracing.calls[0] == ("trace.begin", {"contact": "bob", "limit": 3 << 20})
    (file,) = folder.iterdir()
    assert file.name.startswith("group_lan_.._b_b-")
    assert file.suffix == ".sqlog"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert text.startswith("\x1eheader\n")
    assert text.endswith("\x1eend\n")
    assert "12 packets of the link sent, 2 of them lost; 9 received." in result.err
    assert file.name in result.err


def test_to_the_standard_output(process: Run, tracing: Daemon, folder: Path) -> None:
    result = process("trace", "bob", "--seconds", "0.1", "-o", "-")
    assert result.out.startswith("\x1eheader\n")
    assert result.out.endswith("\x1eend\n")
    assert not list(folder.iterdir())


def test_a_file_that_is_there_stays(process: Run, tracing: Daemon, folder: Path) -> None:
    (folder / "mine").write_text("before")
    result = process("trace", "bob", "-o", "mine")
    assert (result.code, result.err) == (1, "tunfwd: mine is there already; it is not written over\n")
    assert (folder / "mine").read_text() == "before"
    assert tracing.calls[-1][1]["end"] == "stopped"  # the daemon is not left with it
    assert process("trace", "bob", "-o", "no/trace").err == "tunfwd: no/trace: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_until_it_is_interrupted_and_nothing_is_missing(
    tracing: Daemon, folder: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tunfwd.cli", "trace", "bob", "-o", "trace"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "Tracing group:lan/../b b into trace; Ctrl-C ends it.\n"
    while len(tracing.calls) < 5:
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == 0
    process.stderr.close()
    assert tracing.calls[-1] == ("trace.next", {"trace": "0123456789abcdef", "end": "stopped"})
    answered = len(tracing.calls) - 2
    assert (folder / "trace").read_text() == "\x1eheader\n" + answered * "\x1eevent\n" + "\x1eend\n"


def test_the_daemon_ends_it(process: Run, tracing: Daemon, folder: Path) -> None:
    tracing.answers["trace.next"] = answer("\x1elast\n", over="size_limit", dropped=7)
    result = process("trace", "bob", "-o", "trace")
    assert result.code == 0
    assert "as large as it may be" in result.err
    assert "7 records are missing" in result.err
    assert (folder / "trace").read_text() == "\x1eheader\n\x1elast\n"


def test_a_quiet_link_and_nobody_there(process: Run, tracing: Daemon, folder: Path) -> None:
    tracing.answers["trace.next"] = answer(over="time", packets_sent=0, packets_received=0)
    assert "The link was quiet" in process("trace", "bob", "-o", "-").err
    tracing.answers["trace.begin"] = UserError("not_found", "no contact 'bob'")
    assert process("trace", "bob").code == 5
    assert not list(folder.iterdir())
