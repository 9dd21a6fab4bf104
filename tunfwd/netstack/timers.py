"""When each connection wants to be woken, without looking at all of them.

A heap of (time, connection). A deadline that moves later, as a retransmission timer does with every
acknowledgment, leaves the heap alone: the entry is moved when it comes up.
"""

import heapq
import math
from collections.abc import Iterator
from itertools import count
from typing import Generic, Protocol, TypeVar

NEVER = math.inf


class Deadline(Protocol):
    """A time that may change."""

    deadline: float
    """Seconds, on the clock of the stack's caller; NEVER if there is none."""
    wake_up: float
    """The time of its entry in the heap that counts. Written only here."""


class Item(Protocol):
    """What has a deadline."""

    @property
    def timer(self) -> Deadline:
        """Its deadline."""


ItemT = TypeVar("ItemT", bound=Item)


class Timers(Generic[ItemT]):
    """The deadlines of any number of items."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ItemT]] = []
        self._serial = count()

    def update(self, item: ItemT) -> None:
        """Note that an item's deadline may have changed."""
        timer = item.timer
        if timer.deadline < timer.wake_up:
            timer.wake_up = timer.deadline
            heapq.heappush(self._heap, (timer.deadline, next(self._serial), item))

    def next(self) -> float:
        """The earliest deadline, or NEVER."""
        heap = self._heap
        while heap:
            time, _, item = heap[0]
            if item.timer.wake_up != time:  # superseded by an earlier one
                heapq.heappop(heap)
            elif item.timer.deadline > time:
                heapq.heappop(heap)
                item.timer.wake_up = NEVER
                self.update(item)
            else:
                return time
        return NEVER

    def expired(self, now: float) -> Iterator[ItemT]:
        """The items whose deadlines have passed. Each must set a new one before the next is asked for."""
        while self.next() <= now:
            _, _, item = heapq.heappop(self._heap)
            item.timer.wake_up = NEVER
            yield item
            self.update(item)
