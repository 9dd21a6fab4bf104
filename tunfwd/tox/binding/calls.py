"""How the binding calls C: errors become exceptions, buffers become bytes."""

from collections.abc import Callable
from typing import Any

from tunfwd.tox.binding.errors import raise_code
from tunfwd.tox.binding.opening import ffi

error = ffi.new("Tox_Err *")
"""One cell is enough for every call: toxcore writes it, we read it at once, and no callback comes between."""

buffer = ffi.buffer


def call(family: str, function: Any, *arguments: Any) -> Any:
    """Call a function whose last parameter is an error, one of `family`; raise that error."""
    result = function(*arguments, error)
    if error[0]:
        raise_code(family, error[0])
    return result


def fixed(size: int, fill: Callable[[Any], Any]) -> bytes:
    """Return the `size` bytes that `fill` writes to the buffer it is given."""
    data = ffi.new("uint8_t[]", size)
    fill(data)
    return bytes(buffer(data))


def expect(name: str, data: bytes, size: int) -> None:
    """Raise ValueError unless `data` is as long as toxcore assumes."""
    if len(data) != size:
        raise ValueError(f"{name} has {len(data)} bytes instead of {size}")
