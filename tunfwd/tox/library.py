"""Chooses the binding to libtoxcore: our own, or an importable current pytox, made to behave like ours.

pytox raises one exception class for everything and lets what a handler raises get lost in C. Both are put
right here, by wrapping, so that client.py is written once.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, cast

from tunfwd.tox import binding, encryptsave
from tunfwd.tox.errors import ToxcoreUnusable, from_code
from tunfwd.tox.identity import Encryption

_NEEDED = ("friend_send_lossless_packet", "group_send_custom_private_packet", "group_peer_get_public_key")


@dataclass(frozen=True, slots=True)
class Library:
    """The classes of one binding, in the shape of ours."""

    Tox_Ptr: type[binding.Tox_Ptr]
    Tox_Options_Ptr: type[binding.Tox_Options_Ptr]
    encryption: Encryption


def choose(name: Literal["builtin", "pytox"]) -> Library:
    """Return the binding of this name. Raises ToxcoreUnusable when it cannot be had."""
    if name == "builtin":
        return Library(binding.Tox_Ptr, binding.Tox_Options_Ptr, cast(Encryption, encryptsave))
    try:
        tox = importlib.import_module("pytox.toxcore.tox")
        encryption = importlib.import_module("pytox.toxencryptsave.toxencryptsave")
    except ImportError as error:
        raise ToxcoreUnusable(
            f"pytox cannot be imported ({error}): install it from github.com/TokTok/py-toxcore-c, "
            'or set library = "builtin" in [tox]'
        ) from None
    missing = [method for method in _NEEDED if not hasattr(tox.Tox_Ptr, method)]
    if missing:
        raise ToxcoreUnusable(f"this pytox is too old: it has no {', '.join(missing)}")
    return _adapted(tox, encryption)


def _adapted(tox: ModuleType, encryption: ModuleType) -> Library:
    """Wrap pytox: typed errors out of every call, and exceptions of handlers out of `iterate`."""

    def translated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (tox.ApiException, encryption.ApiException) as error:
                raise from_code(error.code) from None

        return wrapper

    def guarded(handler: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(handler)
        def wrapper(self: Any, *args: Any) -> None:
            try:
                handler(self, *args)
            except BaseException as raised:
                self._raised.append(raised)

        return wrapper

    def adapted(cls: type) -> dict[str, Any]:
        """Return the class's own methods and properties, wrapped."""
        wrapped: dict[str, Any] = {}
        for name in dir(cls):
            attribute = getattr(cls, name)
            if name.startswith(("_", "handle_")):
                continue
            if callable(attribute):
                wrapped[name] = translated(attribute)
            elif hasattr(attribute, "__get__"):
                setter = translated(attribute.__set__) if hasattr(attribute, "__set__") else None
                wrapped[name] = property(translated(attribute.__get__), setter)
        return wrapped

    class Adapted(tox.Tox_Ptr):  # type: ignore[misc, name-defined]
        def __init__(self, options: Any = None) -> None:
            self._raised: list[BaseException] = []
            translated(super().__init__)(options)

        def __init_subclass__(cls) -> None:
            for name, handler in list(vars(cls).items()):
                if name.startswith("handle_"):
                    setattr(cls, name, guarded(handler))

        def iterate(self) -> None:
            super().iterate()
            raised, self._raised = self._raised, []
            if len(raised) == 1:
                raise raised[0]
            if raised:
                raise BaseExceptionGroup("several handlers of toxcore's events failed", raised)

    for name, attribute in adapted(tox.Tox_Ptr).items():
        if name != "iterate":
            setattr(Adapted, name, attribute)
    return Library(Adapted, tox.Tox_Options_Ptr, cast(Encryption, encryption))
