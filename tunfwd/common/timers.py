"""Deadlines of many owners: cheap to set and move, cheap to ask for the earliest."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SLACK: Final = 64  # stale entries that are not worth rebuilding the heap for


class Timers(Generic[T]):
    """One deadline for each owner; an owner without one is not referred to.

    A heap of (time, serial) that is put right only when its top comes due. A deadline that moves later leaves
    its entry alone until then; one that is superseded or cancelled leaves two numbers behind, until most
    entries are so.
    """

    def __init__(self) -> None:
        self._deadlines: dict[T, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._owners: dict[int, T] = {}  # by the serial numbers of the entries that count
        self._entries: dict[T, tuple[float, int]] = {}  # the entry that counts, of each owner
        self._serial = count()

    def __len__(self) -> int:
        """Return how many entries are held, stale ones included."""
        return len(self._heap)

    def set(self, owner: T, deadline: float) -> None:
        """Set or move an owner's deadline."""
        if self._deadlines.get(owner) == deadline:
            return
        self._deadlines[owner] = deadline
        entry = self._entries.get(owner)
        if entry is None:
            self._push(owner, deadline)
        elif deadline < entry[0]:
            del self._owners[entry[1]]
            self._push(owner, deadline)
            self._compact()

    def cancel(self, owner: T) -> None:
        """Forget an owner's deadline, if it has one."""
        if self._deadlines.pop(owner, None) is not None:
            _, serial = self._entries.pop(owner)
            del self._owners[serial]
            self._compact()

    def has(self, owner: T) -> bool:
        """Return whether an owner has a deadline."""
        return owner in self._deadlines

    def clear(self) -> None:
        """Forget all of them."""
        self._deadlines.clear()
        self._heap.clear()
        self._owners.clear()
        self._entries.clear()

    def next(self) -> float | None:
        """Return when to call `expire`: not after the earliest deadline; None where there is none.

        It may be before that where a deadline has moved later, and then nothing expires: deadlines that move
        with each packet cost a call too many now and then, and no work for each packet.
        """
        heap = self._heap
        while heap:
            time, serial = heap[0]
            if serial in self._owners:
                return time
            heappop(heap)
        return None

    def expire(self, now: float) -> list[T]:
        """Take out and return the owners whose deadline has come, earliest first."""
        expired = []
        self._settle()
        while self._heap and self._heap[0][0] <= now:
            owner = self._take_first()
            del self._deadlines[owner]
            expired.append(owner)
            self._settle()
        return expired

    def _settle(self) -> None:
        """Make the top of the heap an entry that is true."""
        while self._heap:
            time, serial = self._heap[0]
            if serial not in self._owners:
                heappop(self._heap)
                continue
            deadline = self._deadlines[self._owners[serial]]
            if deadline == time:
                return
            self._push(self._take_first(), deadline)

    def _take_first(self) -> T:
        """Take out the first entry, which counts, and return its owner."""
        _, serial = heappop(self._heap)
        owner = self._owners.pop(serial)
        del self._entries[owner]
        return owner

    def _push(self, owner: T, deadline: float) -> None:
        entry = deadline, next(self._serial)
        self._entries[owner] = entry
        self._owners[entry[1]] = owner
        heappush(self._heap, entry)

    def _compact(self) -> None:
        """Rebuild the heap when most of its entries are stale."""
        if len(self._heap) > 2 * len(self._owners) + SLACK:
            self._heap = list(self._entries.values())
            heapify(self._heap)
