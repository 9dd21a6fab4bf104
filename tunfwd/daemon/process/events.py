"""Keeps what happens in the daemon for whoever wants to hear of it: commands, pages, hooks.

An event is a log record that says so (tunfwd/events.py); warnings and errors are events of themselves.

Nothing waits for a reader. The newest `KEPT` events of each class are kept; a reader says how far it has
read, and one that is too slow is told how many it has missed. Connections, of which a contact can make
thousands, are a class of their own, lest they take the place of what a person has to decide.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

import trio

from tunfwd.common.text import clean
from tunfwd.events import KINDS, Kind, Mark, Value

KEPT: Final = 1024
"""Events of a class."""
MAX_TEXT: Final = 1000  # characters of an event's text
MAX_READERS: Final = 16  # who wait at a time


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    number: int
    """From 1 on, in each run of the daemon."""
    time: datetime
    kind: Kind
    text: str
    """One line for people."""
    details: dict[str, Value]
    """What it is about, by the keys of docs/events.md."""


class Cursor(NamedTuple):
    """How far a reader has read: how many events of each class there were."""

    others: int
    connections: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a reader is given."""

    events: tuple[Event, ...]
    read: Cursor
    """Where to read on."""
    lost: int
    """Events that were no longer kept when the reader came for them."""


class Events(logging.Handler):
    """Turns records into events and keeps them; a context, in which it hears of all records."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(logging.INFO)
        self.run = secrets.token_hex(4)
        """Tells a cursor of this run of the daemon from another's."""
        self._now = now
        self._others = _Kept()
        self._connections = _Kept()
        self._more = trio.Event()
        self._waiting = 0
        self._token: trio.lowlevel.TrioToken | None = None

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    @property
    def end(self) -> Cursor:
        """After all that has happened up to now."""
        return Cursor(self._others.count, self._connections.count)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is an event; called by `logging`, from any thread, one at a time."""
        mark: Mark | None = getattr(record, "event", None)
        if mark is None:
            if record.levelno < logging.WARNING:
                return
            mark = Mark("error" if record.levelno >= logging.ERROR else "warning", {})
        try:
            text = record.getMessage()
        except Exception:  # a call that does not fit its format string, as the log says
            text = str(record.msg)
        number = self._others.count + self._connections.count + 1
        kept = self._connections if of_connections(mark.kind) else self._others
        kept.add(Event(number, self._now(), mark.kind, clean(text, MAX_TEXT), mark.details))
        if self._waiting and self._token is not None:
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        self._more.set()
        self._more = trio.Event()

    def read(self, after: Cursor, kinds: Collection[Kind] = KINDS) -> Batch:
        """Return what has happened since, of some kinds, oldest first."""
        classes = []
        if any(not of_connections(kind) for kind in kinds):
            classes.append((self._others, after.others))
        if any(of_connections(kind) for kind in kinds):
            classes.append((self._connections, after.connections))
        found = [event for kept, read in classes for event in kept.after(read) if event.kind in kinds]
        lost = sum(kept.lost_after(read) for kept, read in classes)
        return Batch(tuple(sorted(found, key=lambda event: event.number)), self.end, lost)

    async def wait(self, after: Cursor, kinds: Collection[Kind] = KINDS) -> Batch:
        """Return the same, when there is something. Raises TooManyReaders."""
        if self._waiting >= MAX_READERS:
            raise TooManyReaders
        self._token = trio.lowlevel.current_trio_token()
        self._waiting += 1
        try:
            while True:
                more = self._more
                batch = self.read(after, kinds)
                if batch.events or batch.lost:
                    return batch
                after = batch.read
                await more.wait()
        finally:
            self._waiting -= 1


def of_connections(kind: Kind) -> bool:
    """Whether events of a kind are of the class of connections."""
    return kind.startswith("connection_")


class TooManyReaders(Exception):
    """`MAX_READERS` wait already."""


class _Kept:
    """The newest events of a class."""

    def __init__(self) -> None:
        self.count = 0
        self._events: deque[Event] = deque(maxlen=KEPT)

    def add(self, event: Event) -> None:
        self.count += 1
        self._events.append(event)

    def after(self, read: int) -> list[Event]:
        """Return what is kept of those after the first `read`."""
        new = min(self.count - read, len(self._events))
        return list(self._events)[len(self._events) - new :] if new > 0 else []

    def lost_after(self, read: int) -> int:
        return max(0, self.count - len(self._events) - read)
