"""Makes text that a peer chose safe to show: in a terminal, a log line, a table, a hosts file.

Names and messages arrive as UTF-8 of the peer's choice. Escape sequences would drive the terminal, a
right-to-left override would reorder the line, a newline would forge a second one, and invisible characters
would make two names look alike. The daemon cleans what it keeps; the command line, what it prints.
"""

import unicodedata
from typing import Final

NAME_LIMIT: Final = 64  # characters of a name that are shown
MESSAGE_LIMIT: Final = 1024  # characters of a friend request's message; toxcore allows 921 bytes
MARKS_IN_A_ROW: Final = 3  # combining marks on one base; Vietnamese and Thai need 2, Hebrew 3

_SPACES: Final = frozenset({"Zs", "Zl", "Zp"})
_UNSEEN = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Cn"}
)  # control, format (bidi too), surrogate, private, unassigned
_MARKS: Final = frozenset({"Mn", "Me"})
_FILLERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols that show as nothing


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """Return `text` on one line, without invisible or steering characters, at most `limit` characters.

    White space of any kind becomes single spaces, none at either end. What is too long ends in "…". Cleaning
    what is clean changes nothing. The result may be empty.
    """
    if len(text) <= limit and text.isascii() and text.isprintable() and text == " ".join(text.split()):
        return text  # the usual case, and a hundredth of the work
    kept: list[str] = []
    marks = 0
    # Composing first keeps the mark count honest; ten times the limit bounds the work on hostile text.
    for character in unicodedata.normalize("NFC", text[: limit * 10]):
        category = unicodedata.category(character)
        if character.isspace() or category in _SPACES:
            character = " "  # noqa: PLW2901
            if not kept or kept[-1] == " ":
                continue
        elif category in _UNSEEN or character in _FILLERS:
            continue
        marks = marks + 1 if category in _MARKS else 0
        if marks <= MARKS_IN_A_ROW:
            kept.append(character)
    shown = unicodedata.normalize("NFC", "".join(kept)).strip()
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def clean_bytes(data: bytes, limit: int) -> str:
    """Return `clean` for what need not be UTF-8, as toxcore hands it over; what is not becomes U+FFFD."""
    return clean(data.decode("utf-8", "replace"), limit)
