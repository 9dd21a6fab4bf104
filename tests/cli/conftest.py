"""The command line, here or as a process, and the real control server with answers of the test's choice."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
import trio

from tunfwd.cli import main
from tunfwd.common.errors import UserError
from tunfwd.control.listener import listening
from tunfwd.control.server import serve

Answer = Mapping[str, object] | UserError | Callable[[dict[str, object]], Mapping[str, object]]


@dataclass
class Result:
    """What a run of the command came to."""

    code: int
    out: str
    err: str


@dataclass
class Daemon:
    """A control server in a thread; `answers` by method, `calls` as they came."""

    socket: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    async def __call__(self, method: str, params: dict[str, object]) -> Mapping[str, object]:
        self.calls.append((method, params))
        answer = self.answers[method]
        if isinstance(answer, UserError):
            raise answer
        return answer(params) if callable(answer) else answer


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's, with nothing in it; what is measured is measured in processes, too."""
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return measured | {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PATH": os.environ["PATH"],
        "TUNFWD_SOCKET": str(tmp_path / "control.sock"),
        "LC_ALL": "C.UTF-8",
        "TUNFWD_PUBLIC_NODES": "0",
    }


class Terminal(io.StringIO):
    """An output that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def tunfwd(environment: dict[str, str]) -> Callable[..., Result]:
    """Runs the command in `environment`: all but what `main` does to the process."""

    def run(*arguments: str, terminal: bool = False, **variables: str) -> Result:
        out, err = (Terminal if terminal else io.StringIO)(), io.StringIO()
        theirs = mock.patch.dict(os.environ, environment | variables, clear=True)
        with theirs, redirect_stdout(out), redirect_stderr(err):
            code = main.run(arguments)
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def process(environment: dict[str, str]) -> Callable[..., Result]:
    """Runs the command as a process of its own."""

    def run(*arguments: str, **variables: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "tunfwd.cli", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def daemon(environment: dict[str, str]) -> Iterator[Daemon]:
    daemon = Daemon(Path(environment["TUNFWD_SOCKET"]))
    ready, tokens, scopes = threading.Event(), [], []

    async def run() -> None:
        with listening(daemon.socket, None) as listener:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, listener, daemon)
                tokens.append(trio.lowlevel.current_trio_token())
                scopes.append(nursery.cancel_scope)
                ready.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert ready.wait(10)
    yield daemon
    trio.from_thread.run_sync(scopes[0].cancel, trio_token=tokens[0])
    thread.join(10)
    assert not thread.is_alive()
