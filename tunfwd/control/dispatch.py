"""Finds the handler of a method and gives it decoded parameters. Used by server.py; filled by the daemon."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from tunfwd.common.errors import UserError
from tunfwd.common.schema import Mismatch, decode
from tunfwd.control.api import Method

P = TypeVar("P")
R = TypeVar("R", bound=Mapping[str, object])


async def _saved() -> str | None:
    return None


class Dispatcher:
    """The methods on offer. Call it with a method's name and raw parameters."""

    def __init__(self, save: Callable[[], Awaitable[str | None]] = _saved) -> None:
        """`save` writes what a method has changed; returns the warning where that cannot be done."""
        self._save = save
        self._handlers: dict[
            str, tuple[Method[Any, Any], Callable[[Any], Awaitable[Mapping[str, object]]]]
        ] = {}

    def add(self, method: Method[P, R], handler: Callable[[P], Awaitable[R]]) -> None:
        """Have `handler` answer `method`: it gets decoded parameters and may raise UserError."""
        self._handlers[method.name] = (method, handler)

    async def __call__(self, name: str, params: dict[str, object]) -> Mapping[str, object]:
        """Return the method's result. Raises UserError, the handler's, too."""
        if name not in self._handlers:
            raise UserError("usage", f"this daemon knows no method {name!r}: is it another version?")
        method, handler = self._handlers[name]
        try:
            decoded = decode(cast(type[object], method.params), params)
        except Mismatch as wrong:
            raise UserError("usage", str(wrong)) from None
        result = await handler(decoded)
        if method.changes and (warning := await self._save()):
            return {**result, "warning": warning}
        return result
