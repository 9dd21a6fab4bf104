"""Traces of links: those that a command asks for, and those that `[log] qlog` has written for every contact.

A command's trace lasts for as long as somebody takes what it has to say: one that nobody asks about ends.
"""

import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.datapath.tap import Tap
from tunfwd.daemon.datapath.trace import Sink, Trace
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.daemon.process.qlog import MAX_FILE, QlogFiles

MAX_TRACES: Final = 8  # that commands have at a time
MAX_BUFFER: Final = 4 << 20  # bytes of a trace that nobody has taken yet
MAX_TAKEN: Final = 1 << 20  # bytes in one answer
LEASE: Final = 15.0  # s without a question until a trace ends
GATHER: Final = 0.2  # s of records in one answer, at least


class Buffer:
    """The records of a trace that a command has not taken yet."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._size = 0
        self.more = trio.Event()
        self.until = math.inf
        """When it is given up, as nobody has asked about it."""
        self.give_up: Callable[[], object] = lambda: None

    def __call__(self, record: bytes, *, must: bool = False) -> bool:
        """Take a record; see Sink."""
        if trio.current_time() > self.until:
            self.until = math.inf
            self.give_up()
            return False
        if self._size + len(record) > MAX_BUFFER and not must:
            return False
        self._records.append(record)
        self._size += len(record)
        self.more.set()
        return True

    def __bool__(self) -> bool:
        return bool(self._records)

    def take(self) -> bytes:
        """Return the oldest, as many as an answer has room for."""
        taken: list[bytes] = []
        size = 0
        while self._records and size + len(self._records[0]) <= MAX_TAKEN:
            taken.append(self._records.popleft())
            size += len(taken[-1])
        self._size -= size
        if not self._records:
            self.more = trio.Event()
        return b"".join(taken)


@dataclass(eq=False, slots=True)
class _Asked:
    """A trace that a command has."""

    peer: Peer
    trace: Trace
    buffer: Buffer
    waits: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))


class TraceCommands:
    """The handlers of traces."""

    def __init__(self, tap: Tap, peers: Peers) -> None:
        self._tap = tap
        self._peers = peers
        self._asked: dict[str, _Asked] = {}

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.TRACE_BEGIN, self._begin)
        dispatcher.add(api.TRACE_NEXT, self._next)

    async def _begin(self, params: api.TraceBegin) -> api.TraceResult:
        self._sweep()
        peer = self._peers.find(params.contact)
        if len(self._asked) >= MAX_TRACES:
            raise UserError("failed", f"there are {MAX_TRACES} traces already")
        buffer = Buffer()
        trace = start(peer, buffer, limit=params.limit)
        asked = _Asked(peer, trace, buffer)
        buffer.give_up = lambda: self._give_up(asked)
        buffer.until = trio.current_time() + LEASE
        self._asked[asked.id] = asked
        self._tap.add(peer, trace)
        return _answer(asked)

    async def _next(self, params: api.TraceNext) -> api.TraceResult:
        self._sweep()
        asked = self._asked.get(params.trace)
        if asked is None:
            raise UserError("not_found", "that trace is over")
        asked.waits += 1
        asked.buffer.until = math.inf
        try:
            if params.end is not None:
                asked.trace.end(params.end, trio.current_time())
                self._tap.sweep(asked.peer)
            elif params.wait:
                with trio.move_on_after(params.wait):
                    await asked.buffer.more.wait()
                    await trio.sleep(GATHER)
        finally:
            asked.waits -= 1
            asked.buffer.until = math.inf if asked.waits else trio.current_time() + LEASE
        answer = _answer(asked)
        if answer["over"]:
            self._asked.pop(asked.id, None)
        return answer

    def _sweep(self) -> None:
        """End what nobody asks about any more."""
        now = trio.current_time()
        for asked in list(self._asked.values()):
            if asked.buffer.until < now:
                self._give_up(asked)
                self._tap.sweep(asked.peer)

    def _give_up(self, asked: _Asked) -> None:
        self._asked.pop(asked.id, None)
        asked.trace.end("not_asked_for", trio.current_time())


class Following:
    """`[log] qlog`: traces of every contact, into files."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._files: QlogFiles | None = None

    async def switch(self, folder: Path | None) -> str | None:
        """Write to that folder from now on, or to none; return what is in the way of it."""
        if folder == (None if self._files is None else self._files.folder):
            return None
        await self.close()
        problem = await trio.to_thread.run_sync(self._open, folder)
        self._follow()
        return problem

    def begin(self, folder: Path | None) -> str | None:
        """Do the same at start. What waits at the end of the process is written then."""
        problem = self._open(folder)
        self._follow()
        return problem

    def _open(self, folder: Path | None) -> str | None:
        try:
            self._files = None if folder is None else QlogFiles(folder)
        except OSError as failure:
            return f"[log] qlog: {folder}: {failure.strerror}; the daemon writes below its state directory"
        return None

    def _follow(self) -> None:
        files = self._files
        if files is not None:
            self._tap.follow_all(lambda peer: start(peer, files.open(_stem(peer)), limit=MAX_FILE))

    async def close(self) -> None:
        """End what is written."""
        files, self._files = self._files, None
        if files is not None:
            self._tap.follow_none("stopped")
            await trio.to_thread.run_sync(files.close)


def start(peer: Peer, sink: Sink, *, limit: int) -> Trace:
    """Return a trace of a contact that begins now."""
    return Trace(
        peer.contact.carrier,
        sink,
        trio.current_time(),
        title=f"link to {peer.label}",
        wall=time.time(),
        first=peer.own_key < peer.contact.key,
        limit=limit,
    )


def _answer(asked: _Asked) -> api.TraceResult:
    trace, records = asked.trace, asked.buffer.take()
    return {
        "trace": asked.id,
        "contact": asked.peer.label,
        "records": records.decode(),
        "packets_sent": trace.packets_sent,
        "packets_received": trace.packets_received,
        "packets_lost": trace.packets_lost,
        "dropped": trace.dropped,
        "over": trace.over if not asked.buffer else None,
    }


def _stem(peer: Peer) -> str:
    """Return a name for a contact's file: of harmless characters, and no other contact's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", peer.label).lstrip(".")[:40]
    return f"{name}-{peer.key[:8].lower()}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
