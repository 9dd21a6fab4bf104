"""Deadlines of many owners: cheap to set and move, cheap to ask for the earliest."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

SLACK = 64  # entries of the heap that need not be true


class Timers(Generic[T]):
    """One deadline for each owner. A heap that is put right only when its top comes due."""

    def __init__(self) -> None:
        self._deadlines: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._queued: dict[T, float] = {}  # the owner's earliest entry in the heap
        self._order = count()

    def set(self, owner: T, deadline: float) -> None:
        """Set or move an owner's deadline."""
        self._deadlines[owner] = deadline
        queued = self._queued.get(owner)
        if queued is None or deadline < queued:
            self._push(owner, deadline)

    def cancel(self, owner: T) -> None:
        """Forget an owner's deadline, if it has one."""
        self._deadlines.pop(owner, None)
        if not self._deadlines:
            self._heap.clear()
            self._queued.clear()

    def next(self) -> float | None:
        """Return the earliest deadline, or None."""
        self._settle()
        return self._heap[0][0] if self._heap else None

    def expire(self, now: float) -> list[T]:
        """Take out and return the owners whose deadline has come, earliest first."""
        expired = []
        self._settle()
        while self._heap and self._heap[0][0] <= now:
            owner = heappop(self._heap)[2]
            del self._queued[owner]
            del self._deadlines[owner]
            expired.append(owner)
            self._settle()
        return expired

    def _settle(self) -> None:
        """Make the top of the heap an entry that is true."""
        while self._heap:
            queued, _, owner = self._heap[0]
            deadline = self._deadlines.get(owner)
            current = self._queued.get(owner) == queued
            if current and deadline == queued:
                return
            heappop(self._heap)
            if current:
                del self._queued[owner]
                if deadline is not None:
                    self._push(owner, deadline)

    def _push(self, owner: T, deadline: float) -> None:
        self._queued[owner] = deadline
        heappush(self._heap, (deadline, next(self._order), owner))
        if len(self._heap) > 2 * len(self._deadlines) + SLACK:  # owners that come and go leave theirs behind
            self._queued = dict(self._deadlines)
            self._heap = [(due, next(self._order), of) for of, due in self._deadlines.items()]
            heapify(self._heap)
