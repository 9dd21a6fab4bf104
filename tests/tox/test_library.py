"""Another binding is chosen by name, refused when it will not do, and behaves like ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tunfwd.tox.binding import encryptsave, errors
from tunfwd.tox.binding import instance as binding
from tunfwd.tox.binding.library import choose


class ApiException(Exception):
    """As pytox has it: one class for every error."""

    def __init__(self, code: Any) -> None:
        super().__init__(code.name)
        self.code = code


def with_api_exceptions(cls: type) -> type:
    """Our binding, with the errors of pytox."""

    def translated(function: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            try:
                return function(*args)
            except errors.ToxError as error:
                raise ApiException(error.code) from None

        return wrapper

    wrapped: dict[str, Any] = {}
    for name in dir(cls):
        attribute = getattr(cls, name)
        if isinstance(attribute, property):
            setter = translated(attribute.fset) if attribute.fset else None
            wrapped[name] = property(translated(attribute.fget), setter)
        elif callable(attribute) and not name.startswith(("_", "handle_")):
            wrapped[name] = translated(attribute)
    return type(cls.__name__, (cls,), wrapped)


@pytest.fixture
def pytox(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module in the shape of pytox, over the real library."""
    tox, encryption = ModuleType("pytox.toxcore.tox"), ModuleType("pytox.toxencryptsave.toxencryptsave")
    for module in (tox, encryption):
        module.ApiException = ApiException  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, module.__name__.rpartition(".")[0], ModuleType("package"))
    monkeypatch.setitem(sys.modules, "pytox", ModuleType("pytox"))
    tox.Tox_Ptr = with_api_exceptions(binding.Tox_Ptr)  # type: ignore[attr-defined]
    tox.Tox_Options_Ptr = binding.Tox_Options_Ptr  # type: ignore[attr-defined]
    encryption.Tox_Pass_Key_Ptr = with_api_exceptions(encryptsave.Tox_Pass_Key_Ptr)  # type: ignore[attr-defined]
    encryption.get_salt = encryptsave.get_salt  # type: ignore[attr-defined]
    encryption.is_data_encrypted = encryptsave.is_data_encrypted  # type: ignore[attr-defined]
    return tox


def test_builtin_is_ours() -> None:
    assert choose("builtin").Tox_Ptr is binding.Tox_Ptr


def test_missing_pytox_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pytox", "pytox.toxcore.tox"):  # the one may be there, and loaded
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        errors.ToxcoreUnusable, match=r"scripts/setup --pytox .* binding = \"builtin\" in \[tox\]"
    ):
        choose("pytox")


def test_old_pytox_is_refused(pytox: ModuleType) -> None:
    pytox.Tox_Ptr = type("Tox_Ptr", (), {"friend_send_lossless_packet": None})  # type: ignore[attr-defined]
    with pytest.raises(errors.ToxcoreUnusable, match="no group_send_custom_private_packet"):
        choose("pytox")


def test_errors_of_pytox_become_ours(pytox: ModuleType) -> None:
    library = choose("pytox")
    with library.Tox_Options_Ptr() as options:
        options.udp_enabled = False
        tox = library.Tox_Ptr(options)
    with tox:
        with pytest.raises(errors.FriendAddOwnKey):
            tox.friend_add(tox.address, b"hello")
        with pytest.raises(errors.GetPortNotBound):
            _ = tox.udp_port
        with pytest.raises(errors.ToxError, match="TOO_LONG"):
            tox.name = b"x" * 200
        tox.name = b"carol"
        assert tox.name == b"carol"
        assert tox.friend_list == []
    with library.Tox_Options_Ptr() as options:
        options.savedata_type, options.savedata_data = 1, b"nothing"
        with pytest.raises(errors.NewLoadBadFormat):
            library.Tox_Ptr(options)
    key = library.encryption.Tox_Pass_Key_Ptr(b"secret")
    assert key.decrypt(key.encrypt(b"text")) == b"text"
    with pytest.raises(errors.ToxError):
        key.decrypt(bytes(100))


def test_what_a_handler_raises_comes_out_of_iterate(pytox: ModuleType) -> None:
    library = choose("pytox")

    class Node(library.Tox_Ptr):  # type: ignore[misc, name-defined]
        def handle_friend_request(self, public_key: bytes, message: bytes) -> None:
            raise KeyError(public_key)

    with library.Tox_Options_Ptr() as options:
        options.udp_enabled = False
        node = Node(options)
    with node:
        node.handle_friend_request(b"one", b"")  # as from C: it must not raise here
        node.handle_friend_request(b"two", b"")
        with pytest.raises(BaseExceptionGroup) as raised:
            node.iterate()
        assert [str(error) for error in raised.value.exceptions] == ["b'one'", "b'two'"]
        node.iterate()


def test_a_pytox_without_reconnect_joins_the_group_again(pytox: ModuleType) -> None:
    """As a libtoxcore of its age understands it: with the key that we had. What it returns is no number."""
    joined: list[tuple[bytes, bytes, bytes]] = []

    class Old:
        def __init__(self, options: Any = None) -> None:
            pass

        def iterate(self) -> None:
            pass

        def friend_send_lossless_packet(self) -> None: ...
        def group_send_custom_private_packet(self) -> None: ...
        def group_peer_get_public_key(self) -> None: ...

        def group_get_chat_id(self, group_number: int) -> bytes:
            return b"chat id of %d" % group_number

        def group_self_get_name(self, group_number: int) -> bytes:
            return b"bob"

        def group_join(self, chat_id: bytes, name: bytes, password: bytes) -> int:
            joined.append((chat_id, name, password))
            return 0

    pytox.Tox_Ptr = Old  # type: ignore[attr-defined]
    choose("pytox").Tox_Ptr(None).group_reconnect(7)
    assert joined == [(b"chat id of 7", b"bob", b"")]
