"""What the control socket can ask about what happens."""

from datetime import datetime
from typing import Final, cast

import trio

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.process.events import MAX_READERS, Cursor, Event, Events, TooManyReaders
from tunfwd.events import KINDS

BEGINNING: Final = Cursor(0, 0)


class EventCommands:
    """The handler of `events`."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know it."""
        dispatcher.add(api.EVENTS, self._list)

    async def _list(self, params: api.Events) -> api.EventsResult:
        if params.after is None:
            after = self._events.end if params.new else BEGINNING
        else:
            after = self._read(params.after)
        kinds = params.kinds or KINDS
        batch = self._events.read(after, kinds)
        if params.wait and not batch.events and not batch.lost:
            with trio.move_on_after(params.wait):
                try:
                    batch = await self._events.wait(batch.read, kinds)
                except TooManyReaders:
                    raise UserError("failed", f"{MAX_READERS} wait for events already") from None
        return {
            "events": [entry(event) for event in batch.events],
            "next": f"{self._events.run}.{batch.read.others}.{batch.read.connections}",
            "lost": batch.lost,
        }

    def _read(self, text: str) -> Cursor:
        run, others, connections = text.split(".")
        return Cursor(int(others), int(connections)) if run == self._events.run else BEGINNING


def entry(event: Event) -> api.EventEntry:
    """Return an event as people's programs get it."""
    common = {
        "seq": event.number,
        "time": time_text(event.time),
        "event": event.kind,
        "text": event.text,
    }
    return cast(api.EventEntry, common | event.details)


def time_text(time: datetime) -> str:
    """Return a time as 2026-01-31T12:00:00.000Z."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
