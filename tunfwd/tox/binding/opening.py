"""Opens libtoxcore: by the compiled module (native.py) where there is one, else by cffi alone (ABI mode).

Both give a library whose attributes are the functions that it has. A call costs 0.2 us by the one and 1 us by
the other, a callback half as much by the one.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

from cffi import FFI

from tunfwd.tox.binding import cdef
from tunfwd.tox.binding.errors import ToxcoreUnusable

Note = Callable[[type[BaseException], BaseException, Any], None]


def _compiled() -> Any | None:
    """The compiled module, loaded so that libraries which come later find its functions before others'."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        return import_module("tunfwd.tox.binding._native")
    except ImportError:
        return None
    finally:
        sys.setdlopenflags(flags)


def _described() -> FFI:
    ffi = FFI()
    ffi.cdef(cdef.CDEF)
    return ffi


_native: Final = _compiled()

ffi: Final[Any] = _native.ffi if _native else _described()

MODE: Final[Literal["api", "abi"]] = "api" if _native else "abi"
"""How cffi calls the library: compiled, or not."""


@cache
def load() -> Any:
    """Open libtoxcore: the system's, or where that has no groups the one beside the program, if there is one.

    Raises ToxcoreUnusable when there is none at all.
    """
    beside = Path(sys.prefix, "lib", cdef.SONAME)  # of this environment; a package for Debian 12 brings it
    names = [cdef.SONAME, *([str(beside)] if beside.exists() else [])]
    failures = []
    for name in names:
        try:
            library = _open(name)
        except OSError as error:
            failures.append(error)
            continue
        if name is names[-1] or _has_groups(library):
            return library
    raise ToxcoreUnusable(
        f"{cdef.SONAME} cannot be loaded ({failures[0]}). Install libtoxcore 0.2.19 or newer: Debian 13 and "
        "current Ubuntu have it as libtoxcore2."
    )


def _has_groups(library: Any) -> bool:
    numbers = (library.tox_version_major(), library.tox_version_minor(), library.tox_version_patch())
    return numbers >= cdef.GROUPS_SINCE


def _open(name: str) -> Any:
    return _opened_by(_native, name) if _native else ffi.dlopen(name)


def _opened_by(native: Any, soname: str) -> SimpleNamespace:
    if failure := native.lib.tunfwd_open(soname.encode()):
        raise OSError(ffi.string(failure).decode(errors="replace"))
    found = (name for name in dir(native.lib) if native.lib.tunfwd_has(name.encode()))
    return SimpleNamespace(**{name: getattr(native.lib, name) for name in found})


# Callbacks. Of compiled ones there is one for each event, whoever it is for: the instance tells.

_handlers: Final[dict[str, dict[Any, tuple[Callable[..., None], Note]]]] = {}


def callback(event: str, tox: Any, function: Callable[..., None], note: Note) -> Any:
    """Return what toxcore calls at an event of `tox`, to be kept; what `function` raises goes to `note`."""
    if _native is None:
        return ffi.callback(f"tox_{event}_cb *", function, onerror=note)
    if event not in _handlers:
        _handlers[event] = {}
        ffi.def_extern(f"on_{event}")(_dispatcher(_handlers[event]))
    _handlers[event][tox] = function, note
    return getattr(_native.lib, f"on_{event}")


def forget(tox: Any) -> None:
    """Let go of the handlers of an instance that is no more."""
    for handlers in _handlers.values():
        handlers.pop(tox, None)


def _dispatcher(handlers: dict[Any, tuple[Callable[..., None], Note]]) -> Callable[..., None]:
    def dispatch(tox: Any, *arguments: Any) -> None:
        function, note = handlers[tox]
        try:
            function(tox, *arguments)
        except BaseException as raised:
            note(type(raised), raised, raised.__traceback__)

    return dispatch
