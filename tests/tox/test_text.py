"""Words from peers cannot do anything to a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.text import clean_bytes as clean


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        (b"", ""),
        (b"\x1b[31mred\x1b[0m", "[31mred[0m"),
        (b" a\n\tb\r\n c ", "a b c"),
        ("\u202egpj.exe".encode(), "gpj.exe"),
        ("zero\u200bwidth".encode(), "zerowidth"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("Zoë 🎮".encode(), "Zoë 🎮"),
        (b"x" * 50, "x" * 19 + "…"),
        (b"x" * 19 + b" y", "x" * 19 + "…"),
    ],
)
def test_clean(data: bytes, text: str) -> None:
    assert clean(data, 20) == text


@given(st.binary(max_size=200))
def test_nothing_gets_through(data: bytes) -> None:
    text = clean(data, 64)
    assert len(text) <= 64
    assert text == " ".join(text.split())
    assert not any(unicodedata.category(char)[0] == "C" for char in text)
    assert clean(text.encode(), 64) == text
