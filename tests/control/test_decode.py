from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.schema import Mismatch, Parse, decode, spell


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


@dataclass(frozen=True)
class Inner:
    word: Literal["yes", "no"]
    even: Annotated[int, Parse(int, _even)] = 0


@dataclass(frozen=True)
class Outer:
    name: str
    many: tuple[Inner, ...] = ()
    ratio: float = 1.0
    flag: bool = False
    maybe: int | None = None
    table: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.flag and self.maybe is None:
            raise ValueError("flag needs maybe")


class Row(TypedDict):
    id: str
    note: NotRequired[str | None]


def test_everything_given() -> None:
    value = {
        "name": "n",
        "many": [{"word": "yes"}, {"word": "no", "even": 4}],
        "ratio": 2,
        "flag": True,
        "maybe": 3,
        "table": {"a": 1},
    }
    assert decode(Outer, value) == Outer("n", (Inner("yes"), Inner("no", 4)), 2.0, True, 3, {"a": 1})


def test_defaults_and_null() -> None:
    assert decode(Outer, {"name": "n", "maybe": None}) == Outer("n")


@pytest.mark.parametrize(
    ("value", "where", "reason"),
    [
        ([], "", "must be a table, not a list"),
        ({}, "", "'name' is missing"),
        ({"name": 1}, "name", "must be a string, not a whole number"),
        ({"name": "\ud800"}, "name", "is not valid Unicode text"),
        ({"name": "n", "nmae": 1}, "nmae", "is not known; did you mean 'name'?"),
        ({"name": "n", "zzz": 1}, "zzz", "known here: flag, many, maybe, name, ratio, table"),
        ({"name": "n", "flag": 1}, "flag", "must be true or false, not a whole number"),
        ({"name": "n", "flag": True}, "", "flag needs maybe"),
        ({"name": "n", "ratio": True}, "ratio", "must be a number, not true or false"),
        ({"name": "n", "ratio": float("nan")}, "ratio", "must be a finite number"),
        ({"name": "n", "ratio": 10**400}, "ratio", "is too large a number"),
        ({"name": "n", "maybe": "3"}, "maybe", "must be a whole number, not a string"),
        ({"name": "n", "maybe": 3.0}, "maybe", "must be a whole number, not a number"),
        ({"name": "n", "many": {}}, "many", "must be a list, not a table"),
        ({"name": "n", "many": [{"word": "yes"}, {}]}, "many[1]", "lacks 'word'"),
        ({"name": "n", "many": [{"word": "x"}]}, "many[0].word", "must be one of yes, no"),
        ({"name": "n", "many": [{"word": True}]}, "many[0].word", "must be one of yes, no"),
        ({"name": "n", "many": [{"word": []}]}, "many[0].word", "must be one of yes, no"),
        ({"name": "n", "many": [{"word": "yes", "even": 3}]}, "many[0].even", "must be even"),
        ({"name": "n", "many": [{"word": "yes", "even": "4"}]}, "many[0].even", "must be a whole number"),
        ({"name": "n", "table": {"a": "b"}}, "table.a", "must be a whole number"),
        ({"name": "n", "table": {1: 2}}, "table", "must be a table"),
        ({"name": "n", "table": {"a\n\x1b[2J": "b"}}, "table.'a\\n\\x1b[2J'", "must be a whole number"),
        ({"name": "n", "": 1}, "''", "is not known"),
    ],
)
def test_mismatches(value: object, where: str, reason: str) -> None:
    with pytest.raises(Mismatch) as caught:
        decode(Outer, value)
    assert spell(caught.value.path) == where
    assert reason in caught.value.reason


def test_typed_dicts_and_unknown_keys() -> None:
    assert decode(Row, {"id": "a", "new": 1}, ignore_unknown=True) == {"id": "a"}
    assert decode(list[Row], [{"id": "a", "note": None}]) == [{"id": "a", "note": None}]
    with pytest.raises(Mismatch, match="new is not known"):
        decode(Row, {"id": "a", "new": 1})
    with pytest.raises(Mismatch, match=r"\[0\] lacks 'id'"):
        decode(list[Row], [{}])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_any_value_decodes_or_mismatches(value: object) -> None:
    with suppress(Mismatch):
        assert isinstance(decode(Outer, value), Outer)
