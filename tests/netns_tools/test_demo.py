"""The demo: the first thing that anybody runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netns.topology import PROJECT, labels

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

DEMO = [sys.executable, "-m", "netns.demo"]


def left_behind(pid: int) -> list[str]:
    """What a demo that ran as `pid` did not take away: hosts, and processes that know its folder."""
    label = f"p{pid}x1"
    remains = [label for left in labels() if left == label]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"/{label}/".encode() in environment:
                remains.append(process.name)
    return remains


def test_demo_does_the_main_job_and_leaves_nothing() -> None:
    with subprocess.Popen(
        DEMO, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        output, _ = demo.communicate(timeout=250)
    assert demo.returncode == 0, output
    assert "All of it worked" in output
    assert left_behind(demo.pid) == []


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, "alice$ tunfwd daemon &"),
        (signal.SIGINT, "alice$ tunfwd id"),
        (signal.SIGTERM, "bob$ tunfwd friend add"),
        (signal.SIGINT, "bob$ python3 -m http.server"),
    ],
)
def test_interrupted_demo_leaves_nothing(number: signal.Signals, after: str) -> None:
    with subprocess.Popen(
        DEMO,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        assert any(line.startswith(after) for line in demo.stdout)
        os.killpg(demo.pid, number)  # as a terminal does
        rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert rest.endswith("demo: interrupted\n")
    assert left_behind(demo.pid) == []
