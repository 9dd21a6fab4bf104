"""Fuzz one target, or all in turn, led by what each input reaches: `scripts/fuzz` says how.

What is reached is told by atheris (libFuzzer); where it is not installed, inputs are changed at random.
Inputs that reach something new are kept in .fuzz/TARGET for the next time. One that fails is made as short as
it can be and added to the corpus, so that the unit tests fail until the fault is mended; the fuzzing goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

PROJECT = Path(__file__).resolve().parents[2]
WORK = PROJECT / ".fuzz"
LONGEST = 4096  # bytes of an input
ONE_INPUT = 60  # s
MEMORY = 2048  # MB
GRACE = 120  # s that a run may take longer than it was told to
SHRINK_TIME = 20.0  # s
MERGE_TIME = 3600  # s
KEPT = 250  # inputs in the corpus of a target, at most

Place = tuple[str, ...]


def main() -> int:
    """Do as the command line says; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", default="all")
    parser.add_argument("minutes", nargs="?", type=float, default=1.0, help="for each target")
    parser.add_argument("--save", action="store_true", help="afterwards keep what reaches most as the corpus")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--merge", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.merge is not None:
        merge(arguments.target, arguments.merge)
    if arguments.child:
        return fuzz(arguments.target, arguments.minutes * 60)
    from .targets import TARGETS  # noqa: PLC0415  not before what it imports is instrumented, in the child

    names = list(TARGETS) if arguments.target == "all" else [arguments.target]
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"no target {unknown.pop()}; there are: all, {', '.join(TARGETS)}")
    signal.signal(signal.SIGTERM, _interrupt)
    failed = 0
    for name in names:
        failed += run(name, arguments.minutes)
        if arguments.save:
            save(name)
    return 1 if failed else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(name: str, minutes: float) -> int:
    """Fuzz a target in a process of its own; returns how many kinds of failure there were."""
    from .targets import corpus, keep  # noqa: PLC0415

    grown, failures = WORK / name, WORK / f"{name}.failed"
    for folder in (grown, failures):
        folder.mkdir(parents=True, exist_ok=True)
    for old in failures.iterdir():
        old.unlink()
    for data in corpus(name):
        (grown / hashlib.sha1(data).hexdigest()).write_bytes(data)
    began = time.monotonic()
    log = WORK / f"{name}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", name, str(minutes)]
        status = _finish(subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output), minutes * 60)
    found = [file.read_bytes() for file in sorted(failures.iterdir())]
    keep(name, corpus(name) + found)
    stopped = "" if status == 0 else f", ended with {status}: see {log}"
    spent = time.monotonic() - began
    print(f"{name}: {spent:.0f} s, {_inputs(log)}, {len(found)} kinds of failure{stopped}", flush=True)
    for file in sorted(failures.iterdir()):
        print(f"  {file}")
    return len(found) + (status != 0)


def _finish(process: subprocess.Popen[bytes], seconds: float) -> int:
    try:
        return process.wait(seconds + GRACE)
    finally:
        process.kill()
        process.wait()


def _inputs(log: Path) -> str:
    """What libFuzzer, or we, say of the run."""
    lines = log.read_text(errors="replace").splitlines()
    told = [line for line in lines if re.match(r"#\d+\s", line)] or ["#0"]
    found = re.match(r"#(\d+)\s+\S+\s+(?:cov: (\d+))?", told[-1] + " ")
    assert found is not None
    return f"{found[1]} inputs" + (f", {found[2]} branches reached" if found[2] else "")


# --- in the process of its own ------------------------------------------------------------------------------


def fuzz(name: str, seconds: float) -> int:
    """Fuzz until the time is over."""
    guided = find_spec("atheris") is not None
    logging.getLogger("tunfwd").addHandler(logging.NullHandler())
    logging.getLogger("tunfwd").propagate = False
    if not guided:
        return _at_random(name, seconds)
    import atheris  # noqa: PLC0415

    with atheris.instrument_imports(include=["tunfwd"]):
        from .targets import TARGETS  # noqa: PLC0415
    options = {
        "max_total_time": int(seconds),
        "max_len": LONGEST,
        "len_control": 10,  # long inputs soon: what goes wrong takes several steps
        "timeout": ONE_INPUT,
        "rss_limit_mb": MEMORY,
        "artifact_prefix": f"{WORK}/{name}.failed/",
        "reload": 0,
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup(["fuzz", *flags, str(WORK / name)], Watched(name, TARGETS[name]))
    atheris.Fuzz()
    return 0


def _at_random(name: str, seconds: float) -> int:
    from .targets import TARGETS, corpus, mutations  # noqa: PLC0415

    watched = Watched(name, TARGETS[name])
    ends = time.monotonic() + seconds
    count = 0
    inputs = mutations(corpus(name), time.time_ns())
    while time.monotonic() < ends:
        watched(next(inputs))
        count += 1
    print(f"#{count} DONE")
    return 0


class Watched:
    """A target that notes each kind of failure once, and goes on."""

    def __init__(self, name: str, target: Callable[[bytes], None]) -> None:
        self._target = target
        self._folder = WORK / f"{name}.failed"
        self._seen: set[Place] = set()

    def __call__(self, data: bytes) -> None:
        place = self._try(data)
        if place is not None and place not in self._seen:
            self._seen.add(place)
            short = self._shorten(data, place)
            digest = hashlib.sha1(short).hexdigest()[:12]
            (self._folder / f"{place[0]}-{digest}").write_bytes(short)
            try:
                self._target(short)
            except Exception:
                traceback.print_exc()

    def _try(self, data: bytes) -> Place | None:
        """Where it fails, if it does."""
        try:
            self._target(data)
        except Exception as error:  # whatever it is, it is what we look for
            return place_of(error)
        return None

    def _shorten(self, data: bytes, place: Place) -> bytes:
        """The shortest input found that fails in the same place."""
        ends = time.monotonic() + SHRINK_TIME
        size = len(data)
        while size:
            at = 0
            while at < len(data):
                shorter = data[:at] + data[at + size :]
                if time.monotonic() > ends:
                    return data
                if self._try(shorter) == place:
                    data = shorter
                else:
                    at += size
            size //= 2
        return data


def place_of(error: BaseException) -> Place:
    """The kind of an exception and where it came from."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-2:]
    return (type(error).__name__, *(f"{frame.filename}:{frame.lineno}" for frame in frames))


# --- the corpus ---------------------------------------------------------------------------------------------


def save(name: str) -> None:
    """Make the fewest inputs that reach all that was reached the corpus, the shortest first."""
    from .targets import keep  # noqa: PLC0415

    with _folder() as chosen:
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--merge", "-merge=1"]
        command += [str(chosen), str(WORK / name)]
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=MERGE_TIME)
        inputs = sorted((file.read_bytes() for file in chosen.iterdir()), key=len)
    keep(name, inputs[:KEPT])


def merge(name: str, arguments: list[str]) -> None:
    """Be the libFuzzer that copies what is needed of one folder to another; it calls itself by a shell."""
    import atheris  # noqa: PLC0415

    logging.disable()
    with atheris.instrument_imports(include=["tunfwd"]):
        from .targets import TARGETS  # noqa: PLC0415
    ourselves = f"{sys.executable} -m tests.fuzz.run {name} --merge"
    atheris.Setup([ourselves, *arguments], Unwatched(TARGETS[name]))
    atheris.Fuzz()


class Unwatched:
    """A target whose failures are not the question."""

    def __init__(self, target: Callable[[bytes], None]) -> None:
        self._target = target

    def __call__(self, data: bytes) -> None:
        with contextlib.suppress(Exception):
            self._target(data)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
