"""Chooses the binding to libtoxcore: our own, or an importable current pytox, made to behave like ours.

pytox raises one exception class for everything and lets what a handler raises get lost in C. Both are put
right here, by wrapping, so that client.py is written once.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Literal, cast

from tunfwd.tox.binding import encryptsave
from tunfwd.tox.binding import instance as binding
from tunfwd.tox.binding.errors import ToxcoreUnusable, from_code

_NEEDED: Final = (
    "friend_send_lossless_packet",
    "group_send_custom_private_packet",
    "group_peer_get_public_key",
)


@dataclass(frozen=True, slots=True)
class Library:
    """The classes of one binding, in the shape of ours."""

    Tox_Ptr: type[binding.Tox_Ptr]
    Tox_Options_Ptr: type[binding.Tox_Options_Ptr]
    encryption: encryptsave.Encryption


def choose(name: Literal["builtin", "pytox"]) -> Library:
    """Return the binding of this name. Raises ToxcoreUnusable when it cannot be had."""
    if name == "builtin":
        return Library(binding.Tox_Ptr, binding.Tox_Options_Ptr, cast(encryptsave.Encryption, encryptsave))
    try:
        tox = importlib.import_module("pytox.toxcore.tox")
        encryption = importlib.import_module("pytox.toxencryptsave.toxencryptsave")
    except ImportError as error:
        raise ToxcoreUnusable(
            f"pytox cannot be imported ({error}). It is on no registry: `scripts/setup --pytox CHECKOUT` "
            "compiles it from a checkout of github.com/TokTok/py-toxcore-c. "
            'Or set binding = "builtin" in [tox], which needs none'
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

    class Node(tox.Tox_Ptr):  # type: ignore[misc, name-defined]
        def __init__(self, options: Any = None) -> None:
            self._raised: list[BaseException] = []
            super().__init__(options)

        def __init_subclass__(cls) -> None:
            for name in dir(cls):
                if name.startswith("handle_"):
                    setattr(cls, name, guarded(getattr(cls, name)))

        def iterate(self) -> None:
            super().iterate()
            if self._raised:
                raised, self._raised = self._raised, []
                if len(raised) == 1:
                    raise raised[0]
                raise BaseExceptionGroup("several handlers of toxcore's events failed", raised)

    class PassKey(encryption.Tox_Pass_Key_Ptr):  # type: ignore[misc, name-defined]
        pass

    for ours, theirs in ((Node, tox.Tox_Ptr), (PassKey, encryption.Tox_Pass_Key_Ptr)):
        for name, attribute in _public(theirs):
            if isinstance(attribute, property) or hasattr(attribute, "__set__"):
                setter = translated(attribute.__set__) if hasattr(attribute, "__set__") else None
                setattr(ours, name, property(translated(attribute.__get__), setter))
            elif callable(attribute) and name not in vars(ours):
                setattr(ours, name, translated(attribute))
        ours.__init__ = translated(ours.__init__)  # type: ignore[method-assign]
    if not hasattr(tox.Tox_Ptr, "group_reconnect"):
        Node.group_reconnect = _join_again
    facade = SimpleNamespace(
        Tox_Pass_Key_Ptr=PassKey,
        get_salt=translated(encryption.get_salt),
        is_data_encrypted=encryption.is_data_encrypted,
    )
    return Library(Node, tox.Tox_Options_Ptr, cast(encryptsave.Encryption, facade))


def _join_again(node: Any, group_number: int) -> None:
    """Do what tox_group_reconnect does, which pytox lacks.

    A libtoxcore as new as pytox takes (0.2.21) reconnects a group that is joined again, with the key it had.
    The number that it returns for that means nothing.
    """
    nickname = node.group_self_get_name(group_number)
    node.group_join(node.group_get_chat_id(group_number), nickname, b"")


def _public(cls: type) -> Iterator[tuple[str, Any]]:
    """Return the methods and properties that are not events."""
    for name in dir(cls):
        if not name.startswith(("_", "handle_")):
            yield name, getattr(cls, name)
