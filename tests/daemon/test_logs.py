"""The log never holds anybody up, and a contact cannot fill it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tunfwd.daemon.process import logs, repeats
from tunfwd.daemon.process.logs import Log
from tunfwd.daemon.process.repeats import BURST, GROUP_BURST, GROUP_INTERVAL, INTERVAL, MAX_KINDS, Repeats

TIME = 60.0  # s; what would block, would block for good
LINES = 20_000  # 2 MB: more than any pipe holds
FLOOD = f"""
import logging, sys
from tunfwd.daemon.process.logs import Log
with Log("INFO") as log:
    log.start()
    for number in range({LINES}):
        logging.getLogger("flood").info("line %06d %s", number, 70 * "x")
    print("logged", flush=True)
    if len(sys.argv) > 1:
        sys.stdin.readline()
print("ended", flush=True)
print("and Python's own words at the end do not block either", file=sys.stderr)
"""


def test_nobody_reads_the_pipe() -> None:
    """The program runs on, and ends, while its stderr is full."""
    reader, writer = os.pipe()
    try:
        run = subprocess.run(
            [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=writer, timeout=TIME, check=True
        )
        assert run.stdout.split() == [b"logged", b"ended"]
    finally:
        os.close(reader)
        os.close(writer)


def test_what_was_dropped_is_counted() -> None:
    """Somebody reads late: what is missing is said."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD, "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"logged\n"
        _, told = program.communicate(b"\n", timeout=TIME)
        assert program.returncode == 0
    *said, _ = told.decode().splitlines()  # and what Python said after the log
    lines = list(map(_without_time, said))
    written = [line for line in lines if line.startswith("INFO flood: line ")]
    dropped = [int(line.split()[2]) for line in lines if "were dropped" in line]
    assert sum(dropped) > 0
    assert len(written) + sum(dropped) == LINES
    assert written == sorted(written)


def test_the_reader_goes_away() -> None:
    """EPIPE is no reason to end, nor to spin."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=writer, timeout=TIME, check=False
        )
        assert run.stdout.split() == [b"logged", b"ended"]
    finally:
        os.close(writer)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def _without_time(line: str) -> str:
    """Return a line without the time that every one has."""
    found = re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line)
    assert found, line
    return found[1]


def _lines(reader: int) -> list[str]:
    return [_without_time(line) for line in os.read(reader, 10_000).decode().splitlines()]


def test_the_journal_has_times_of_its_own(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    status = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with Log("INFO", writer):
        logging.getLogger("test").error("the configuration is wrong")
    assert os.read(reader, 1000) == b"<3>ERROR test: the configuration is wrong\n"


def test_what_was_logged_before_the_start_is_written_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = logging.getLogger("test")
    with Log("INFO", writer) as handler:
        log.info("first")
        log.debug("not at this level")
        handler.start()
        log.warning("second: %s", "word")
        handler.emit(logging.LogRecord("test", logging.INFO, "", 0, "no UTF-8: \udcff", None, None))
    assert _lines(reader) == [
        "INFO test: first",
        "WARNING test: second: word",
        "INFO test: no UTF-8: \\udcff",
    ]


def test_an_end_without_a_start_writes_all_the_same(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with Log("INFO", writer):
        logging.getLogger("test").error("the configuration is wrong")
    assert _lines(reader) == ["ERROR test: the configuration is wrong"]


def test_a_call_that_does_not_fit_its_format_does_not_raise(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with Log("INFO", writer) as handler:
        handler.emit(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
    [line] = _lines(reader)
    assert line.startswith("ERROR test: '%d'")


def test_a_contact_that_floods_the_log_is_summed_up(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = logging.getLogger("test")
    with Log("INFO", writer, clock=lambda: 0.0) as handler:
        handler.start()
        for number in range(1244):
            log.info("offered: %d", number, extra={"cause": ("KEY", "bob")})
        log.info("something else", extra={"cause": ("KEY", "bob")})
        log.info("offered: %d", 5, extra={"cause": ("ANOTHER KEY", "carol")})
    assert _lines(reader) == [
        *(f"INFO test: offered: {number}" for number in range(BURST)),
        "INFO test: something else",
        "INFO test: offered: 5",
        "INFO test: offered: 1243 ... and 1 233 more like this from bob",
    ]


# What is written when.


def test_a_line_that_is_only_counted_is_not_put_together() -> None:
    class Counting(logging.Formatter):
        lines = 0

        def format(self, record: logging.LogRecord) -> str:
            Counting.lines += 1
            return super().format(record)

    log = Log("INFO", os.open(os.devnull, os.O_WRONLY))
    log.setFormatter(Counting())
    with log:
        for number in range(BURST + 500):
            logging.getLogger("counted").info("%d", number, extra={"cause": ("KEY", "bob")})
        assert Counting.lines == BURST


def test_a_line_in_each_interval_after_the_burst() -> None:
    """A flood for an hour is as many lines as intervals, and none of it is lost from the count."""
    held = Repeats()
    written, told = 0, 0
    for tick in range(36_000):
        now = tick / 10
        for line in held.due(now):
            written += 1
            told += int(line.split(" ... and ")[1].split(" more")[0].replace(" ", "")) + 1
        admitted = held.admit(("KEY", "bob"), "offered", f"{tick}", now)
        written += admitted
        told += admitted
    assert written <= BURST + 3600 / INTERVAL + 1
    assert 36_000 - told <= INTERVAL * 10


def test_a_quiet_contact_is_not_held_up_by_what_it_did_before() -> None:
    held = Repeats()
    for number in range(BURST):
        assert held.admit(("KEY", "bob"), "kind", f"{number}", 0.0)
    assert not held.admit(("KEY", "bob"), "kind", "one more", 0.0)
    assert held.next_due() == pytest.approx(INTERVAL, rel=0.01)
    assert held.due(INTERVAL - 0.1) == []
    assert held.due(INTERVAL) == ["one more"]
    assert held.next_due() is None
    assert held.admit(("KEY", "bob"), "kind", "later", 3 * INTERVAL)


def test_strangers_of_a_group_have_one_budget_under_however_many_keys() -> None:
    held = Repeats()
    written = sum(
        held.admit((f"GROUP/{number}", f"group:lan/{number}"), "online", f"{number}", 0.0)
        for number in range(10_000)
    )
    assert written == GROUP_BURST
    assert held.due(GROUP_INTERVAL) == [
        f"9999 ... and {9999 - GROUP_BURST:,} more like this from group:lan".replace(",", " ")
    ]
    assert held.admit(("KEY", "a friend"), "online", "friend", 0.0)


@pytest.mark.heavy
def test_the_table_is_bounded() -> None:
    held = Repeats()
    for number in range(5 * MAX_KINDS):
        held.admit((f"{number}", ""), "kind", "line", 0.0)
        held.admit((f"{number}", ""), "other kind", "line", 0.0)
    assert len(held._kinds) <= MAX_KINDS
    held.admit(("KEY", "bob"), "kind", "line", 1e6)
    assert len(held._kinds) == 1


def test_the_queue_is_bounded(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    log = Log("INFO", writer)
    for number in range(3 * logs.MAX_LINES):
        log.emit(logging.LogRecord("test", logging.INFO, "", 0, "line %d", (number,), None))
    assert len(log._lines) == logs.MAX_LINES
    assert log._dropped == 2 * logs.MAX_LINES
    assert repeats.MAX_TEXT < logs.MAX_LINE
