"""Sequence numbers without wrap-around (RFC 9293 3.4).

On the wire they are 32 bits and wrap every 4 GiB. Inside the stack they are plain integers that never do:
`unwrap` converts on arrival, headers cut them to 32 bits again, and everything between compares with `<`.
"""

from typing import Final

_HALF: Final = 1 << 31
_MASK: Final = (1 << 32) - 1


def unwrap(wire: int, near: int) -> int:
    """Return the number that `wire` stands for: of those with these 32 low bits, the nearest to `near`."""
    return near - _HALF + (wire - near + _HALF & _MASK)
