"""Finds the handler of a method and gives it decoded parameters. Used by server.py; filled by the daemon."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from tunfwd.control.api import Method
from tunfwd.control.decode import Mismatch, decode
from tunfwd.control.errors import ControlError

P = TypeVar("P")
R = TypeVar("R", bound=Mapping[str, object])


class Dispatcher:
    """The methods on offer. Call it with a method's name and raw parameters."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Mapping[str, object]]]]] = {}

    def add(self, method: Method[P, R], handler: Callable[[P], Awaitable[R]]) -> None:
        """Has `handler` answer `method`: it gets decoded parameters and may raise ControlError."""
        self._handlers[method.name] = (method.params, handler)

    async def __call__(self, method: str, params: dict[str, object]) -> Mapping[str, object]:
        """The method's result. ControlError: unknown method, bad parameters, and what the handler finds."""
        if method not in self._handlers:
            raise ControlError("usage", f"this daemon knows no method {method!r}: is it another version?")
        kind, handler = self._handlers[method]
        try:
            decoded = decode(cast(type[object], kind), params)
        except Mismatch as wrong:
            raise ControlError("usage", str(wrong)) from None
        return await handler(decoded)
