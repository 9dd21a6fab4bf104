"""Finds the one thing a person means by a name, or by the beginning of an id. For the daemon's handlers."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from tunfwd.control.errors import ControlError
from tunfwd.wire.text import clean

T = TypeVar("T")

SHOWN = 5  # candidates in a message


def find(
    wanted: str,
    things: Iterable[T],
    what: str,
    *,
    name: Callable[[T], str],
    id: Callable[[T], str],
    describe: Callable[[T], str],
) -> T:
    """The thing named `wanted`, or else the one whose hexadecimal id begins so.

    A name is exact and goes before ids, so that nobody's id can hide what has a name. ControlError
    "not_found", or "ambiguous" with what to choose from. `what` is a word such as "offer"; `describe` tells
    things apart.
    """
    candidates = list(things)
    found = [thing for thing in candidates if wanted and name(thing) == wanted]
    if wanted and not found:
        found = [thing for thing in candidates if id(thing).lower().startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    shown = clean(wanted)
    if not found:
        raise ControlError("not_found", f"there is no {what} {shown!r}")
    some = "; ".join(clean(describe(thing), 100) for thing in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ControlError("ambiguous", f"{shown!r} fits more than one {what}: {some}{more}")
