"""How many of a bounded number of places each of several owners may have, so that none starves another.

A dynamic threshold (Choudhury and Hahne 1998): an owner may have as many as are free for all others to take.
Alone it gets half of the places; whoever comes later gets half of the rest; and `least` places are there for
every owner, however many others have come before.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)


class Shares(Generic[OwnerT]):
    """Places that owners take and give back: `total` in all, and beyond that `least` for each owner."""

    __slots__ = ("_held", "_least", "_most", "_total", "taken")

    def __init__(self, total: int, most: int, least: int) -> None:
        """An owner has at most `most` places, and always room for `least`."""
        self._total = total
        self._most = most
        self._least = least
        self._held: dict[OwnerT, int] = {}
        self.taken = 0

    def take(self, owner: OwnerT) -> bool:
        """Take a place, if the owner may have one more."""
        held = self._held.get(owner, 0)
        if held >= self._least and held >= min(self._most, self._total - self.taken):
            return False
        self._held[owner] = held + 1
        self.taken += 1
        return True

    def give_back(self, owner: OwnerT) -> None:
        """Give back a place that was taken."""
        self.taken -= 1
        held = self._held[owner] - 1
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]
