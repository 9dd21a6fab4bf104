import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.text import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice", "alice"),
        ("", ""),
        ("  Zoë  Müller \n", "Zoë Müller"),
        ("日本 のサーバ", "日本 のサーバ"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07bell", "]0;titlebell"),
        ("one\r\ntwo\tthree\u2028four", "one two three four"),
        ("photo\u202egnp.exe", "photognp.exe"),  # right-to-left override
        ("\u2066a\u2069\u200b\u200db\ufeff", "ab"),  # isolates, zero widths, byte order mark
        ("\x9b31mC1", "31mC1"),
        ("\u3164\u115f\u2800", ""),  # fillers: letters that show as nothing
        ("\ue000private\U000e0041tag", "privatetag"),
        ("e\u0301", "é"),
        ("z" + "\u0335" * 40, "z" + "\u0335" * 3),
        ("\ud800lone", "lone"),
    ],
)
def test_what_is_left(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_too_long_is_cut_with_an_ellipsis() -> None:
    assert clean("a" * 65) == "a" * 63 + "…"
    assert clean("a" * 64) == "a" * 64
    assert clean("word " * 4, 6) == "word…"


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(2, 80))
def test_one_visible_line_within_the_limit_and_stable(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert shown == shown.strip()
    assert all(character == " " or unicodedata.category(character)[0] in "LMNPS" for character in shown)
    assert clean(shown, limit) == shown
