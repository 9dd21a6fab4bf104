"""When each connection wants to be woken, without looking at all of them.

A heap of (time, serial). A deadline that moves later, as a retransmission timer does with every
acknowledgment, leaves the heap alone: the entry is moved when it comes up. An entry that is superseded or
cancelled stays in the heap as two numbers, without its connection, until it comes up or most entries are so.
"""

import heapq
import math
from collections.abc import Iterator
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

NEVER = math.inf
SLACK: Final = 64  # stale entries that are not worth rebuilding the heap for


class Deadline(Protocol):
    """A time that may change."""

    deadline: float
    """Seconds, on the clock of the stack's caller; NEVER if there is none."""
    wake_up: float
    """The time of its entry in the heap; NEVER if it has none. Written only here."""
    entry: int
    """The serial number of that entry. Written only here."""


class Item(Protocol):
    """What has a deadline."""

    @property
    def timer(self) -> Deadline:
        """Its deadline."""


ItemT = TypeVar("ItemT", bound=Item)


class Timers(Generic[ItemT]):
    """The deadlines of any number of items. An item without a deadline is not referred to."""

    __slots__ = ("_heap", "_items", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._items: dict[int, ItemT] = {}  # by the serial numbers of the entries that count
        self._serial = count()

    def __len__(self) -> int:
        """How many entries are held, stale ones included."""
        return len(self._heap)

    def update(self, item: ItemT) -> None:
        """Note that an item's deadline may have changed."""
        timer = item.timer
        if timer.deadline < timer.wake_up:
            self._forget(timer)
            timer.wake_up = timer.deadline
            timer.entry = next(self._serial)
            self._items[timer.entry] = item
            heapq.heappush(self._heap, (timer.deadline, timer.entry))
        elif timer.deadline == NEVER:
            self._forget(timer)

    def _forget(self, timer: Deadline) -> None:
        """Make the entry of a timer, if it has one, stale."""
        if timer.wake_up == NEVER:
            return
        timer.wake_up = NEVER
        del self._items[timer.entry]
        if len(self._heap) > 2 * len(self._items) + SLACK:
            self._heap = [entry for entry in self._heap if entry[1] in self._items]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """The earliest deadline, or NEVER."""
        while self._heap:
            time, serial = self._heap[0]
            item = self._items.get(serial)
            if item is None:
                heapq.heappop(self._heap)
            elif item.timer.deadline > time:
                self._take_first()
                self.update(item)
            else:
                return time
        return NEVER

    def expired(self, now: float) -> Iterator[ItemT]:
        """The items whose deadlines have passed. Each must set a new one before the next is asked for."""
        while self.next() <= now:
            item = self._take_first()
            yield item
            self.update(item)

    def _take_first(self) -> ItemT:
        """Take out the first entry, which counts, and return its item."""
        _, serial = heapq.heappop(self._heap)
        item = self._items.pop(serial)
        item.timer.wake_up = NEVER
        return item
