"""The log: written by a thread of its own, so that whoever reads it, or does not, never holds up the engine.

A line is put into a queue. When nobody reads (a pipe that is full, a
terminal that is stopped, a disk that hangs) the queue fills, and further lines are dropped and counted. A
record with a `cause` is one that a contact can bring about over and over: repeats.py bounds those.

The thread begins with `start`, after privileges were given up: they belong to threads. What was logged before
waits in the queue.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from tunfwd.daemon.peers import Peer
from tunfwd.daemon.process.repeats import Cause, Repeats
from tunfwd.events import Kind, Value, event

MAX_LINES: Final = 1024  # waiting to be written
MAX_LINE: Final = 16_384  # bytes; a longer one is cut
FLUSH_TIME: Final = 1.0  # s for what waits at the end
STDERR: Final = 2
OURS: Final = "tunfwd"  # loggers: what libraries say at level debug is for those who work on them
FORMAT: Final = "%(levelname)s %(name)s: %(message)s"
TIMED: Final = f"%(asctime)s {FORMAT}"
TIME: Final = "%Y-%m-%d %H:%M:%S"  # of this machine's zone


def caused_by(contact: Peer, kind: Kind | None = None, **details: Value) -> dict[str, object]:
    """Return the `extra` of a record that this contact can cause; of a `kind`, it is an event."""
    cause: dict[str, object] = {"cause": (contact.id, contact.label)}
    if kind is None:
        return cause
    return cause | event(kind, contact=contact.label, public_key=contact.key, **details)


def set_level(level: int | str) -> None:
    """Write records of this level and above. Events are told, whatever is written."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, Log):
            handler.setLevel(level)
            root.setLevel(logging.INFO)
            logging.getLogger(OURS).setLevel(min(handler.level, logging.INFO))


PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # syslog(3)


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written there goes to systemd's journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _JournalFormatter(logging.Formatter):
    """Begins each line with its priority, which the journal takes off again (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def record_little() -> None:
    """Have records hold what a line has and no more, as "Optimization" in logging's own documentation says.

    Where each was logged, and in which thread and process, takes as long to find out as all the rest.
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Log(logging.Handler):
    """The handler of all records, a context: at its end what waits is written, within `FLUSH_TIME`."""

    def __init__(
        self, level: str, descriptor: int = STDERR, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(level)
        journal = is_journal(descriptor)  # has times of its own
        self.setFormatter(_JournalFormatter(FORMAT) if journal else logging.Formatter(TIMED, TIME))
        self._descriptor = descriptor
        self._clock = clock
        self._repeats = Repeats()
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._ending = False
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        set_level(self.level)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        logging.getLogger().removeHandler(self)
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(FLUSH_TIME)
        if self._thread.is_alive():  # nobody reads: nothing else that is written there is to hold us up
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self._descriptor)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; called by `logging`, from any thread."""
        line = _Line(self, record)
        cause: Cause | None = getattr(record, "cause", None)
        with self._changed:
            if cause is not None:
                sums = self._repeats.sums
                if not self._repeats.admit(cause, str(record.msg), line, self._clock()):
                    if self._repeats.sums > sums:  # one more to wait for; else it costs no change of threads
                        self._changed.notify()
                    return
            self._queue(str(line))
            self._changed.notify()

    def line_of(self, record: logging.LogRecord) -> str:
        """Return what is written of a record."""
        try:
            return self.format(record)
        except Exception as error:  # a call that does not fit its format string is no reason to fail
            return self._line(logging.ERROR, f"{record.msg!r}: {error!r}", record.name)

    def _line(self, level: int, text: str, name: str = __name__) -> str:
        """Return a line of our own, with what every line has."""
        return self.format(logging.LogRecord(name, level, __file__, 0, text, None, None))

    def _queue(self, line: str) -> None:
        if len(self._lines) < MAX_LINES:
            self._lines.append(line)
        else:
            self._dropped += 1

    # The thread.

    def _write_all(self) -> None:
        while lines := self._take():
            for line in lines:
                self._write(line.encode("utf-8", "backslashreplace"))

    def _take(self) -> list[str]:
        """Wait for lines; none: it is the end."""
        with self._changed:
            while not self._lines and not self._ending:
                due = self._repeats.next_due()
                self._changed.wait(None if due is None else max(0.0, due - self._clock()))
                for line in self._repeats.due(self._clock()):
                    self._queue(line)
            if self._ending:
                self._lines.extend(self._repeats.all_due())
            if self._lines and self._dropped:
                told = f"{self._dropped} lines were dropped: nobody read them"
                self._lines.append(self._line(logging.WARNING, told))
                self._dropped = 0
            lines = list(self._lines)
            self._lines.clear()
            return lines

    def _write(self, line: bytes) -> None:
        line = line[:MAX_LINE] + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:  # nobody is there to read any more, or the disk is full
            with self._changed:
                self._dropped += 1


class _Line:
    """A record's line, put together when it is written: most that a contact causes are only counted."""

    __slots__ = ("_log", "_record")

    def __init__(self, log: Log, record: logging.LogRecord) -> None:
        self._log = log
        self._record = record

    def __str__(self) -> str:
        return self._log.line_of(self._record)
