"""The benchmark takes away what it made, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netns.topology import OWNED_LABEL, labels

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


def made_by(process: int) -> set[str]:
    """The topologies of a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    owners = {str(process), *children}
    return {label for label in labels() if (owned := OWNED_LABEL.fullmatch(label)) and owned[1] in owners}


def test_a_benchmark_that_is_told_to_end_leaves_no_namespace() -> None:
    command = [sys.executable, "-m", "scripts.benchmarks.whole", "--packet", "--seconds", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as benchmark:
        deadline = time.monotonic() + 60
        while not (made := made_by(benchmark.pid)):
            assert benchmark.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)  # into what it measures
        benchmark.send_signal(signal.SIGTERM)
        assert benchmark.wait(60) == 128 + signal.SIGTERM
    assert not made & labels()
