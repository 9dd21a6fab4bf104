"""[[hook]]: programs that are run when something happens, by a process of their own."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tunfwd.common.errors import ConfigurationError
from tunfwd.config.document import parse
from tunfwd.config.hooks import Hook
from tunfwd.daemon.process import hooks
from tunfwd.daemon.process.events import Events
from tunfwd.events import KINDS, event

log = logging.getLogger("tunfwd.test")
PATIENCE = 60.0  # s


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield
    logging.getLogger().setLevel(before)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@asynccontextmanager
async def running(*wanted: Hook) -> AsyncIterator[hooks.Hooks]:
    """The process, and a daemon's events."""
    started = hooks.start(wanted, {"PATH": os.environ["PATH"]})
    try:
        with Events() as events:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(started.run, events)
                await trio.testing.wait_all_tasks_blocked()
                yield started
                nursery.cancel_scope.cancel()
    finally:
        started.close()
        os.waitpid(started.pid, 0)  # noqa: ASYNC222  it ends at once


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def written(path: Path, text: str) -> str:
    """What is in a file, once that is there."""
    with trio.fail_after(PATIENCE):
        while not path.exists() or text not in path.read_text():  # noqa: ASYNC110, ASYNC240  another process writes
            await trio.sleep(0.01)
    return path.read_text()  # noqa: ASYNC240


async def test_a_program_is_told_what_happened(tmp_path: Path) -> None:
    run = script(
        tmp_path / "hook",
        f'cat > {tmp_path}/in; echo "$1:$TUNFWD_EVENT:$TUNFWD_CONTACT:$TUNFWD_PORT" > {tmp_path}/out',
    )
    async with running(Hook(("offer",), (run, "x y"))):
        log.info("bob is online", extra=event("online", contact="bob"))
        log.info("offered", extra=event("offer", contact='$(touch /tmp/x) "b', port=80, reason=None))
        assert await written(tmp_path / "out", "\n") == 'x y:offer:$(touch /tmp/x) "b:80\n'
    told = json.loads((tmp_path / "in").read_text())
    assert (told["event"], told["port"], told["text"], told["reason"]) == ("offer", 80, "offered", None)


async def test_programs_run_one_after_the_other_in_order(tmp_path: Path) -> None:
    run = script(
        tmp_path / "hook",
        f'echo "begin $TUNFWD_TEXT" >> {tmp_path}/out; sleep 0.02; echo "end" >> {tmp_path}/out',
    )
    async with running(Hook(("offer",), (run,))):
        for number in range(5):
            log.info("%d", number, extra=event("offer"))
        lines = (await written(tmp_path / "out", "begin 4\nend\n")).splitlines()
    assert lines == [line for number in range(5) for line in (f"begin {number}", "end")]


@pytest.mark.parametrize(
    ("text", "report"),
    [("echo a reason >&2; exit 3", "exit status 3: a reason"), ("kill -9 $$", "exit status -9")],
)
async def test_what_fails_is_logged_and_the_next_one_runs(
    tmp_path: Path, text: str, report: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = script(tmp_path / "hook", text)
    after = script(tmp_path / "after", f"echo > {tmp_path}/out")
    async with running(
        Hook(("offer",), (run,)), Hook(("offer",), ("/no/such/program",)), Hook(("offer",), (after,))
    ):
        log.info("offered", extra=event("offer"))
        await written(tmp_path / "out", "\n")
        with trio.fail_after(PATIENCE):
            while "no/such" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
    assert f"hook {run}: {report}" in caplog.text
    assert "hook /no/such/program: No such file or directory" in caplog.text


async def test_a_hook_on_errors_that_fails_does_not_cause_others(tmp_path: Path) -> None:
    run = script(tmp_path / "hook", f"echo ran >> {tmp_path}/out; exit 1")
    async with running(Hook(KINDS, (run,))):
        log.error("trouble")
        await written(tmp_path / "out", "ran\n")
        log.info("the last", extra=event("offline"))
        await written(tmp_path / "out", "ran\nran\n")
        await trio.sleep(0.2)
    assert (tmp_path / "out").read_text() == "ran\nran\n"


async def test_a_program_that_never_ends_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "RUN_TIME", 0.2)
    run = script(tmp_path / "hook", "sleep 1000")
    async with running(Hook(("offer",), (run,))):
        log.info("offered", extra=event("offer"))
        with trio.fail_after(PATIENCE):
            while "killed after 0.2 s" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_the_daemons_end_is_its_end_and_that_of_what_it_runs(tmp_path: Path) -> None:
    run = script(tmp_path / "hook", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    async with running(Hook(("offer",), (run,))):
        log.info("offered", extra=event("offer"))
        pid = int(await written(tmp_path / "pid", "\n"))
    with trio.fail_after(PATIENCE):
        while runs(pid):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_programs_hold_nothing_of_the_daemons_and_listen_to_signals(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys;"
        "fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'));"
        "caps = [l for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))];"
        "told = repr((fds[:-1], caps, signal.getsignal(signal.SIGTERM)));"
        f"open({str(tmp_path / 'out')!r}, 'w').write(told + '.')"
    )
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        async with running(Hook(("offer",), (sys.executable, "-c", code))):
            log.info("offered", extra=event("offer"))
            told = await written(tmp_path / "out", ".")
    finally:
        os.close(secret)
    assert told.startswith("([0, 1, 2], ")
    assert "CapEff:\\t0000000000000000" in told
    assert "NoNewPrivs:\\t1" in told
    assert "SIG_DFL" in told


async def test_the_process_can_be_killed_and_the_daemon_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Hook(("offer",), ("/bin/true",))) as started:
        os.kill(started.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE):
            while "nothing more is run" not in caplog.text:
                log.info("offered", extra=event("offer"))
                await trio.sleep(0.01)


# As the configuration has them.


def test_hooks_in_the_configuration() -> None:
    one = '[[hook]]\nevent = ["offer", "request"]\nrun = ["/bin/tell", "me"]\n'
    first, second = parse(one + '[[hook]]\nevent = "*"\nrun = ["x"]\n', "file").hook
    assert (first.event, first.run) == (("offer", "request"), ("/bin/tell", "me"))
    assert second.event == KINDS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('event = "sneeze"\nrun = ["x"]', "line 2: [[hook]] event 'sneeze' is not an event"),
        ('event = []\nrun = ["x"]', "line 2: [[hook]] event names no event"),
        ('event = "offer"\nrun = []', "line 3: [[hook]] run is a program and its arguments"),
        ('event = "offer"\nrun = "x"', "line 3: [[hook]] run"),
        ('run = ["x"]', "[[hook]]"),
    ],
)
def test_hooks_that_make_no_sense(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        parse(f"[[hook]]\n{text}\n", "file")
    assert reason in wrong.value.message
