"""The last wall: a mistake of ours is the loss of the one contact or connection that it was made for.

Whatever serves one of many passes through `survives`, which counts and logs what should never have been
raised. What becomes of that one is for the caller to decide.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVarTuple

import trio

Ts = TypeVarTuple("Ts")

PAUSE = 10.0  # s until a task that failed begins again
AGAIN = 60.0  # s until a fault of the same place is logged with its traceback once more

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """The faults of this process."""

    count: int = 0
    told: dict[tuple[str, str, int], float] = field(default_factory=dict)
    """When the traceback of each place was last logged."""


tally = Tally()


def survives(what: str, work: Callable[[*Ts], object], *arguments: *Ts) -> bool:
    """Do something for one of many, `what` in words, and return whether it went well."""
    try:
        work(*arguments)
    except Exception as fault:
        note(what, fault)
        return False
    return True


async def persists(what: str, work: Callable[[], Awaitable[None]], pause: float = PAUSE) -> None:
    """Run a task for good; where it fails, begin it again after `pause` seconds."""
    while True:
        try:
            await work()
        except Exception as fault:
            note(what, fault)
            await trio.sleep(pause)
        else:
            return


def note(what: str, fault: Exception) -> None:
    """Count and log what was raised and should not have been."""
    tally.count += 1
    name = type(fault).__name__
    place = (name, *_place(fault))
    now = time.monotonic()
    if now - tally.told.get(place, -AGAIN) < AGAIN:
        log.error("%s failed, as before: %s", what, name, extra={"cause": (what, what)})
    else:
        tally.told[place] = now
        log.error("%s failed, which is a mistake in this program:", what, exc_info=fault)


def _place(fault: Exception) -> tuple[str, int]:
    traceback = fault.__traceback__
    if traceback is None:
        return "", 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
