"""Values and interfaces that several layers share."""

from typing import Protocol


class Random(Protocol):
    """The part of `random.Random` that the cores use; `random.SystemRandom` in the program."""

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of `k` random bits."""
        ...
