"""tunfwd, whose calls are counted: how many functions of Python a packet passes through.

    python -m scripts.benchmarks.counted FILE daemon …    as `tunfwd daemon …`

At each SIGUSR1 a line is added to FILE: how many calls there were so far in the main thread, which moves all
packets. Functions of ours that are compiled are no longer calls of Python's: what is left is what is
interpreted, and what that calls of builtins.
"""

import cProfile
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from netns.node import Node

GROUPS: Final = ("tunfwd", "trio", "builtins", "other")
TIME_LIMIT: Final = 20.0  # s until a daemon has said its counts

Counts = dict[str, float]


def group(code: object) -> str:
    """Return whose function it is that was called."""
    if isinstance(code, str):
        return "builtins"  # and what is compiled
    parts = Path(code.co_filename).parts  # type: ignore[attr-defined]
    return next((name for name in ("trio", "tunfwd") if name in parts), "other")


def main(file: str) -> None:
    """Be tunfwd, and count."""
    from tunfwd.cli.entry import main as tunfwd  # noqa: PLC0415  as its own script does

    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # while anything may be opened
    profile = cProfile.Profile()

    def tell(*_: object) -> None:
        counts: Counter[str] = Counter()
        for entry in profile.getstats():
            counts[group(entry.code)] += entry.callcount
        os.write(descriptor, json.dumps(counts).encode() + b"\n")

    signal.signal(signal.SIGUSR1, tell)
    profile.enable()
    tunfwd()


class CountedNode(Node):
    """A node whose daemon counts its calls."""

    @property
    def calls_file(self) -> Path:
        """Where it says them."""
        return self.folder / "calls"

    def command(self, *arguments: str) -> list[str | Path]:
        """Return a tunfwd command."""
        if arguments[0] != "daemon":
            return super().command(*arguments)
        return [sys.executable, "-m", "scripts.benchmarks.counted", self.calls_file, *arguments]

    def calls(self) -> Counts:
        """Ask how many there were so far, of each kind."""
        assert self.daemon is not None
        known = self._said()
        self.daemon.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + TIME_LIMIT
        while (said := self._said()) == known:
            assert time.monotonic() < deadline, "the daemon does not say its counts"
            time.sleep(0.02)
        counts: Counts = json.loads(said[-1])
        return counts

    def _said(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


def each(before: Counts, after: Counts, times: float) -> Counts:
    """Return the calls of one of so many times, of each kind."""
    return {kind: (after.get(kind, 0) - before.get(kind, 0)) / times for kind in GROUPS}


if __name__ == "__main__":
    target = sys.argv.pop(1)
    main(target)
