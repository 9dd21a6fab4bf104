"""What may be a name, from a person's hand and from a contact's."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.names import folded, harmless, read_contact_name, read_name
from tunfwd.common.schema import decode
from tunfwd.control import api

KEY = "AB12" * 16
SYNTAX = [
    "group:lan",
    "lan/bob",
    "*",
    "bob*",
    "b?b",
    "[ab]b",
    "a\\b",
    "conference:",
    "conference:club",
    "/",
    ":",
]
WORDS = [
    "..",
    ".",
    "...",
    "-",
    "-x",
    "--all",
    "all",
    "ALL",
    "any",
    "group",
    "Friend",
    "conference",
    "localhost",
]
KEYS = ["ab" * 32, "DEADBEEF", "12345678"]


@pytest.mark.parametrize("text", ["alice", "Bob's laptop", "Zoë", "日本", "x" * 128])
def test_names(text: str) -> None:
    assert read_name(text) == read_contact_name(text) == text


@pytest.mark.parametrize(
    "text", ["", " a", "a\n", "a\x1b[0m", "\u202ea", "a  b", "é" * 65, "a\u200bb", "\udc80"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        read_name(text)


@pytest.mark.parametrize("text", [*SYNTAX, *WORDS, *KEYS])
def test_what_means_something_else_is_no_contacts_name(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        read_contact_name(text)


@pytest.mark.parametrize("text", ["beef", "ada", "fallow", "a.b", "x-y", "2 cats"])
def test_what_only_resembles_it_is_one(text: str) -> None:
    assert read_contact_name(text) == text


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (unicodedata.normalize("NFD", "Zoë"), "Zoë"),
        (unicodedata.normalize("NFD", "Việt Nam"), "Việt Nam"),
        (unicodedata.normalize("NFD", "한국"), "한국"),
        ("two\u00a0words", "two words"),
        ("two\u3000words", "two words"),
        ("two\u2009words", "two words"),
    ],
)
def test_names_are_composed_wherever_they_enter(typed: str, name: str) -> None:
    assert read_name(typed) == read_contact_name(typed) == harmless(typed, KEY) == name
    assert decode(api.FriendAccept, {"key": KEY, "name": typed}).name == name
    assert decode(
        api.OfferAdd, {"protocol": "tcp", "port": 80, "to": [typed], "name": typed}
    ) == api.OfferAdd([name], "tcp", 80, name=name)
    assert decode(api.OfferAccept, {"offer": typed, "contact": typed}) == api.OfferAccept(name, name)
    assert decode(api.GroupJoin, {"group": typed, "name": typed}) == api.GroupJoin(name, name)
    assert decode(api.Ping, {"name": typed}).name == name
    assert decode(api.FriendRename, {"name": typed, "to": typed}) == api.FriendRename(name, name)


@given(st.text(max_size=80) | st.sampled_from([*SYNTAX, *WORDS, *KEYS]))
def test_what_is_harmless_may_be_given_by_a_person_too(text: str) -> None:
    name = harmless(text, KEY)
    assert harmless(name, KEY) == name
    if name and len(name.encode()) <= 128 and not name.startswith(KEY[:8].lower()):
        assert read_contact_name(name) == name


@pytest.mark.parametrize("text", [*SYNTAX, *WORDS, *KEYS])
def test_a_nickname_that_means_something_else_is_changed(text: str) -> None:
    assert harmless(text, KEY) != text


def test_the_beginning_of_ones_own_key_is_ones_own() -> None:
    assert harmless("ab12ab12", KEY) == "ab12ab12"
    assert harmless("beef", KEY) == "~beef"


def test_names_that_look_alike() -> None:
    assert folded("BOB") == folded("ｂｏｂ") == folded("bob")
    assert folded("ﬁsh") == folded("fish")
    assert folded("bob") != folded("rob")
