"""Decisions read from the bytes of a fuzzer's input, so that what it learns to change is what is done.

An input that has come to its end decides for the first of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """The input, and how much of it is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """So many bytes; fewer at the end."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        size = (max(count - 1, 1).bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "big") % count

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def yes(self, one_in: int = 2) -> bool:
        """Rarely true, where `one_in` is large; never at the end of the input."""
        return self.below(one_in) == one_in - 1

    def number(self, bits: int) -> int:
        """A number of at most so many bits, as often small, or near to the largest, as in between."""
        match self.below(4):
            case 0:
                return self.below(256)
            case 1:
                return (1 << bits) - 1 - self.below(256)
            case 2:
                return 1 << self.below(bits)
        return int.from_bytes(self.take(bits // 8), "big")

    def payload(self, most: int) -> bytes:
        """Bytes of any length up to `most`: a few of the input, repeated."""
        size = min(self.below(256) if self.below(2) else self.below(65536), most)
        pattern = self.take(2) or b"\0"
        return (pattern * (size // len(pattern) + 1))[:size]
