"""Bounds the log lines that one contact can cause, and sums up the rest. Fed by logs.py; writes nothing.

Lines of one kind, which is the format string of the call, have a budget for each contact. Beyond it the
newest one is kept and the others are counted, until the budget allows one more: the newest, "... and 1 234
more like this from NAME". The members of a group share a second budget, as a stranger may come back under any
number of keys.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from tunfwd.common.budget import Budget

BURST: Final = 10  # lines of one kind from one contact
INTERVAL: Final = 10.0  # s for each further one: 8 640 a day, or 1 MB
GROUP_BURST: Final = 60  # the same from all members of a group together
GROUP_INTERVAL: Final = 5.0  # s
MAX_KINDS: Final = 1024  # budgets kept
MAX_TEXT: Final = 1000  # characters of a line that is kept


Cause = tuple[str, str]
"""Who causes a line: an id that stays, and a name for people. Those of a group's members are GROUP/MEMBER."""


class Key(NamedTuple):
    """Who causes lines of which kind."""

    id: str
    kind: str


@dataclass(slots=True)
class Kind:
    """Lines of one kind from one contact, or from all members of a group."""

    budget: Budget
    who: str = ""
    held: int = 0
    newest: object = ""  # of the lines held


class Repeats:
    """Decides which lines are written."""

    def __init__(self) -> None:
        self._kinds: dict[Key, Kind] = {}
        self._holding: dict[Key, Kind] = {}

    def admit(self, cause: Cause, kind: str, line: object, now: float) -> bool:
        """Whether a line is to be written; where not, `due` sums it up.

        The line is `str(line)`, which is asked for once it is written: most are only counted.
        """
        id_, who = cause
        group, of_group, _ = id_.partition("/")
        if of_group:
            name, _, _ = who.partition("/")
            if not self._admit(Key(group, kind), name, Budget(GROUP_BURST, GROUP_INTERVAL), line, now):
                return False
        return self._admit(Key(id_, kind), who, Budget(BURST, INTERVAL), line, now)

    def _admit(self, key: Key, who: str, budget: Budget, line: object, now: float) -> bool:
        kind = self._kinds.get(key)
        if kind is None:
            self._make_room(now)
            kind = self._kinds[key] = Kind(budget)
        if not kind.held and kind.budget.spend(now):
            return True
        kind.held += 1
        kind.who, kind.newest = who, line
        self._holding[key] = kind
        return False

    def _make_room(self, now: float) -> None:
        if len(self._kinds) < MAX_KINDS:
            return
        self._kinds = {
            key: kind for key, kind in self._kinds.items() if kind.held or not kind.budget.is_full(now)
        }
        while len(self._kinds) >= MAX_KINDS:
            oldest = next(iter(self._kinds))
            del self._kinds[oldest]
            self._holding.pop(oldest, None)

    def due(self, now: float) -> list[str]:
        """Return the sums that may be written now."""
        lines = [_sum(kind) for kind in self._holding.values() if kind.budget.spend(now)]
        self._holding = {key: kind for key, kind in self._holding.items() if kind.held}
        return lines

    @property
    def sums(self) -> int:
        """How many `due` has to write, sooner or later."""
        return len(self._holding)

    def next_due(self) -> float | None:
        """Return when `due` has something, or None."""
        return min((kind.budget.ready_at() for kind in self._holding.values()), default=None)

    def all_due(self) -> list[str]:
        """Return all sums, at the end."""
        lines = [_sum(kind) for kind in self._holding.values()]
        self._holding.clear()
        return lines


def _sum(kind: Kind) -> str:
    """Write what was held, and hold nothing."""
    first, _, _ = str(kind.newest).partition("\n")
    newest, kind.newest = first[:MAX_TEXT], ""
    more, kind.held = kind.held - 1, 0
    count = f"{more:,}".replace(",", " ")
    return f"{newest} ... and {count} more like this from {kind.who}" if more else newest
