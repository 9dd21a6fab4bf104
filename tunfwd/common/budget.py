"""How often something may happen: a burst, then a steady rate. Sans-IO; decides, and never acts.

The generic cell rate algorithm (ITU-T I.371), which is a token bucket kept as one number: the time at which
the bucket will be full again.
"""

from typing import Final

ROUNDING: Final = 1e-3  # of an event, so that a sum of floats never takes one from a burst


class Budget:
    """A burst of `burst` events, then one every `interval` seconds."""

    __slots__ = ("_full_at", "_interval", "_tolerance")

    def __init__(self, burst: float, interval: float) -> None:
        self._interval: Final = interval
        self._tolerance: Final = (burst - 1 + ROUNDING) * interval
        self._full_at = float("-inf")

    def spend(self, now: float, cost: float = 1.0) -> bool:
        """Take what an event costs; False, and nothing is taken, where the budget has run out."""
        full_at = max(self._full_at, now)
        if full_at - now > self._tolerance:
            return False
        self._full_at = full_at + cost * self._interval
        return True

    def ready_at(self) -> float:
        """Return from when on `spend` will succeed."""
        return self._full_at - self._tolerance

    def is_full(self, now: float) -> bool:
        """Whether nothing of it is spent: forgetting it loses nothing."""
        return self._full_at <= now
