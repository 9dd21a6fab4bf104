"""A benchmark takes away what it made, however and whenever it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netns.topology import OWNED_LABEL, labels

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

MARK = "TUNFWD_BENCHMARK"  # in the environment of all that a benchmark starts
IN_THE_MIDST = """
import time
from scripts.benchmarks.ending import tidily
with tidily():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("tidied")
"""


def made_by(process: int) -> set[str]:
    """The topologies of a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    owners = {str(process), *children}
    return {label for label in labels() if (owned := OWNED_LABEL.fullmatch(label)) and owned[1] in owners}


def marked(mark: str) -> list[str]:
    """The command lines of all that runs with this mark."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended meanwhile
    return found


@contextmanager
def python(*arguments: str, mark: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *arguments]
    environment = os.environ | {MARK: mark}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "processes", "number"),
    [
        (["scripts.benchmarks.whole", "--packet", "--seconds", "1"], 2, signal.SIGTERM),  # the bare carrier
        (["scripts.benchmarks.idle", "--contacts", "1"], 6, signal.SIGINT),  # daemons, and who they know
    ],
)
def test_a_benchmark_that_is_told_to_end_leaves_neither_namespace_nor_process(
    arguments: list[str], processes: int, number: signal.Signals
) -> None:
    mark = f"{os.getpid()} {arguments[0]}"
    with python("-m", *arguments, mark=mark) as benchmark:
        while not (made := made_by(benchmark.pid)) or len(marked(mark)) <= processes:
            assert benchmark.poll() is None
            time.sleep(0.05)
        benchmark.send_signal(number)
        assert benchmark.wait(60) == 128 + number
    assert not made & labels()
    assert marked(mark) == []


def test_what_is_being_taken_away_is_taken_away_whatever_signals_come() -> None:
    with python("-c", IN_THE_MIDST) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        assert process.stdout.read() == "tidied\n"
        assert process.wait(60) in {128 + one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
