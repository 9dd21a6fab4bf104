"""Turns what JSON and TOML give (dicts, lists, strings, numbers) into typed values, or says what is wrong.

One decoder serves the three places where untyped data comes in: the control socket, the configuration file
and the state file. A class's annotations are the whole description: a dataclass or TypedDict names the keys,
Literal the words, Parse a notation of its own. Numbers are not read from strings, nor truth from numbers.
"""

import math
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    NotRequired,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from tunfwd.common.text import NAME_LIMIT, clean

T = TypeVar("T")
Path = tuple[str | int, ...]  # ("rule", 2, "ports") is the key `ports` of the third rule

INTEGER_BITS: Final = 64  # what TOML and most JSON readers take; Python prints no number of 5000 digits


class Mismatch(ValueError):
    """`reason` says what is wrong with the value at `path`, in words that follow its name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{spell(path)} {reason}" if path else reason)
        self.path = path
        self.reason = reason


class Parse(NamedTuple):
    """In Annotated: the value comes as a `written`; `read` makes it ours, or raises ValueError(reason)."""

    written: Any
    read: Callable[[Any], object]


def spell(path: Path) -> str:
    """Return a path as people write it: `rule[2].ports`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if part and part == clean(part) else repr(part[:NAME_LIMIT]))
    return text


def decode(kind: type[T], value: object, *, ignore_unknown: bool = False) -> T:
    """Return `value` as a `kind`. Raises Mismatch. Unknown keys are an error unless `ignore_unknown`."""
    return cast(T, _decode(kind, value, (), ignore_unknown))


def _decode(kind: Any, value: object, path: Path, ignore_unknown: bool) -> object:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return _scalar(kind, value, path)
    if hasattr(kind, "__dataclass_fields__") or is_typeddict(kind):
        return _record(kind, value, path, ignore_unknown)
    if origin is Annotated:
        return _annotated(arguments, value, path, ignore_unknown)
    if origin is NotRequired:
        return _decode(arguments[0], value, path, ignore_unknown)
    if origin is Literal:
        if isinstance(value, str) and value.lower() in arguments:  # "TCP", "DEBUG", as elsewhere
            return value.lower()
        if value not in arguments or isinstance(value, bool):
            raise Mismatch(path, f"must be one of {', '.join(map(str, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        return _either(arguments, value, path, ignore_unknown)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise Mismatch(path, f"must be a list, not {_name(value)}")
        return origin(_decode(arguments[0], item, (*path, i), ignore_unknown) for i, item in enumerate(value))
    if origin is dict:
        return {
            key: _decode(arguments[1], item, (*path, key), ignore_unknown)
            for key, item in _table(value, path).items()
        }
    raise TypeError(f"decode() knows nothing of {kind!r}")


_SCALARS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    object: "",
}


def _scalar(kind: Any, value: object, path: Path) -> object:
    match value:
        case _ if kind is object:
            return value
        case bool() if kind is not bool:  # a bool is an int to isinstance, never to a person
            pass
        case int() if kind in (int, float) and value.bit_length() > INTEGER_BITS:
            raise Mismatch(path, "is too large a number")
        case int() if kind is float:
            try:
                return float(value)
            except OverflowError:
                raise Mismatch(path, "is too large a number") from None
        case float() if kind is float and not math.isfinite(value):
            raise Mismatch(path, "must be a finite number")
        case str() if kind is str and not _is_text(value):
            raise Mismatch(path, "is not valid Unicode text")
        case _ if isinstance(value, kind):
            return value
    raise Mismatch(path, f"must be {_SCALARS[kind]}, not {_name(value)}")


def _is_text(value: str) -> bool:
    """Whether it has no lone surrogates, which JSON and argv can carry but nothing can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _record(kind: Any, value: object, path: Path, ignore_unknown: bool) -> object:
    hints, required = _shape(kind)
    given = _table(value, path)
    if not ignore_unknown:
        for key in given:
            if key not in hints:
                raise Mismatch((*path, key), _unknown(key, list(hints)))
    for key in sorted(required - given.keys()):
        raise Mismatch(path, f"lacks {key!r}" if path else f"{key!r} is missing")
    values = {
        key: _decode(hints[key], item, (*path, key), ignore_unknown)
        for key, item in given.items()
        if key in hints
    }
    try:
        return kind(**values)
    except Mismatch as wrong:  # what __post_init__ finds wrong between fields, at one of them
        raise Mismatch((*path, *wrong.path), wrong.reason) from None
    except ValueError as wrong:
        raise Mismatch(path, str(wrong)) from None


def _annotated(arguments: tuple[Any, ...], value: object, path: Path, ignore_unknown: bool) -> object:
    for note in arguments[1:]:
        if isinstance(note, Parse):
            written = _decode(note.written, value, path, ignore_unknown)
            try:
                return note.read(written)
            except ValueError as wrong:
                raise Mismatch(path, str(wrong)) from None
    return _decode(arguments[0], value, path, ignore_unknown)


def _either(kinds: tuple[Any, ...], value: object, path: Path, ignore_unknown: bool) -> object:
    first: Mismatch | None = None
    for kind in kinds:
        try:
            return _decode(kind, value, path, ignore_unknown)
        except Mismatch as wrong:
            # `X | None` complains about X, and the deepest complaint is the one that came closest.
            if first is None or len(wrong.path) > len(first.path):
                first = wrong
    assert first is not None
    raise first


@cache
def _shape(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the keys of a record with their types, and those that have to be there."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return hints, frozenset(kind.__required_keys__)
    from dataclasses import MISSING, fields  # noqa: PLC0415  who has none of them does not pay for it

    settable = [field for field in fields(kind) if field.init]
    required = (
        field.name for field in settable if field.default is MISSING and field.default_factory is MISSING
    )
    return {field.name: hints[field.name] for field in settable}, frozenset(required)


def _table(value: object, path: Path) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Mismatch(path, f"must be a table, not {_name(value)}")
    return value


def _unknown(key: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  only a mistake pays for it

    near = get_close_matches(key, known, n=1)
    return "is not known" + (
        f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(sorted(known))}"
    )


def _name(value: object) -> str:
    match value:
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case _:
            return _SCALARS.get(type(value)) or f"a {type(value).__name__}"
