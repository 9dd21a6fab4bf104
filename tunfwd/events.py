"""Kinds of events, and how a log record says that it is one. daemon/process/events.py keeps them.

    log.info("%s is online", name, extra=event("online", contact=name))

writes a line and tells an event with one call, so that the two never differ.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Kind = Literal[
    "network",
    "friend_request",
    "friend_added",
    "friend_removed",
    "online",
    "offline",
    "path",
    "offer",
    "request",
    "accepted",
    "denied",
    "ended",
    "joined",
    "invitation",
    "group",
    "connection_opened",
    "connection_failed",
    "connection_ended",
    "reloaded",
    "warning",
    "error",
]
"""What an event is: docs/events.md says what each means, and what it carries."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

Value = str | int | float | bool | None
"""Of an event's details."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What makes a log record an event."""

    kind: Kind
    details: dict[str, Value]


def event(kind: Kind, **details: Value) -> dict[str, object]:
    """Return the `extra` of a log record that is an event."""
    return {"event": Mark(kind, details)}
