"""Values and interfaces that several layers share."""

from enum import IntEnum
from typing import Protocol


class Reason(IntEnum):
    """Why a connection was not made, or did not end in order. The numbers are those of the wire.

    Numbers from a newer program that are not listed read as ABORTED.
    """

    ABORTED = 0
    """Reset by its own end, or without a reason of this list."""
    REFUSED = 1
    """A reset for a connection, port unreachable for a datagram: nothing listens there."""
    UNREACHABLE = 2
    """No route or no such name; a router or firewall on the way refused; no descriptors left."""
    TIMED_OUT = 3
    OVERFLOW = 4
    """More was sent than the receiver had given credit for."""
    LOST = 5
    """The contact went offline, or started anew."""

    @classmethod
    def _missing_(cls, value: object) -> "Reason":
        return cls.ABORTED

    @property
    def words(self) -> str:
        """What it is called in messages."""
        return self.name.lower().replace("_", " ")


class Random(Protocol):
    """The part of `random.Random` that the cores use; `random.SystemRandom` in the program."""

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of `k` random bits."""
        ...
