"""What people and programs are shown: tables and sentences for the ones, JSON for the others.

Everything that goes to a terminal passes through here and is cleaned: names, nicknames, messages and reasons
may be a peer's. JSON carries them as they are, escaped to ASCII.
"""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final, TypeVar

from tunfwd.common.errors import UserError
from tunfwd.common.text import clean

SCHEMA: Final = 1
CELL_LIMIT: Final = 100  # characters; a public key has 64, a Tox address 76
SENTENCE_LIMIT: Final = 500  # characters
WORDS: Final = frozenset(  # headers of columns that may be wrapped
    {"NAME", "PEER", "VIA", "LINK", "STATE", "TARGET", "NOTE", "MESSAGE", "WHERE", "TCP", "WHAT", "JOINED"}
    | {"INVITED BY", "SERVICE"}
)
NOTHING: Final = frozenset({"-", "", "0", "0 B"})  # what a column that says nothing has
LEAST: Final = 8  # columns of a terminal that are left to words

T = TypeVar("T")


def show(result: T, as_json: bool, people: Callable[[T], None]) -> None:
    """Print a result: as one JSON object, or in the way `people` has.

    A change that could not be saved is a failure all the same, once it is shown.
    """
    assert isinstance(result, dict)
    if as_json:
        show_json(result)
    else:
        people(result)
    if warning := result.get("warning"):
        raise UserError("failed", str(warning))


def show_json(content: Mapping[str, object]) -> None:
    """Print a JSON object, its schema's number first."""
    print(json.dumps({"schema": SCHEMA, **content}, indent=2))


def _terminal() -> int:
    import shutil  # noqa: PLC0415  which loads what unpacks archives: only where there is a terminal

    return shutil.get_terminal_size().columns


def show_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a listing; `empty` says what to do where there is nothing, on stderr: it is no data."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        note(empty)
        return
    width = _terminal() if sys.stdout.isatty() else None
    for line in table(headers, cells, width):
        print(line)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], room: int | None = None) -> Iterator[str]:
    """Yield the lines of a table: columns as wide as what is in them, two spaces between.

    Where that is more than `room`, columns that say nothing are left out first; then the widest ones of words
    are wrapped, down to `LEAST` each. What people copy, such as an address or a key, stays whole.
    """
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(_width, column)) for column in columns]
    if room is not None and _total(widths) > room:
        columns = [column for column in columns if set(column[1:]) - NOTHING] or columns
        widths = [max(map(_width, column)) for column in columns]
        flexible = [number for number, column in enumerate(columns) if column[0] in WORDS]
        while _total(widths) > room:
            widest = max(flexible, key=widths.__getitem__, default=None)
            if widest is None or widths[widest] <= LEAST:
                break
            widths[widest] -= 1
    for line in zip(*columns, strict=True):
        pieces = [list(_wrapped(cell, width)) for cell, width in zip(line, widths, strict=True)]
        for part in zip_longest(*pieces, fillvalue=""):
            cells = (cell + " " * (width - _width(cell)) for cell, width in zip(part, widths, strict=True))
            yield "  ".join(cells).rstrip()


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _wrapped(text: str, room: int) -> Iterator[str]:
    """Yield a text in pieces that `room` columns hold, broken at spaces where there are some."""
    while _width(text) > room:
        end = width = 0
        while end < len(text) and (width := width + _width(text[end])) <= room:
            end += 1
        end = max(end, 1)
        space = text.rfind(" ", 0, end + 1)
        end = space if space > 0 else end
        yield text[:end].rstrip()
        text = text[end:].lstrip()
    yield text


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes (Unicode's annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, a line each, the values aligned."""
    lines = [(name, _cell(value, SENTENCE_LIMIT)) for name, value in fields]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def say(*sentences: str) -> None:
    """Print what a command has done, a line for each."""
    for sentence in sentences:
        print(clean(sentence, SENTENCE_LIMIT))


def note(sentence: str) -> None:
    """Tell a person something that is neither result nor failure."""
    print(clean(sentence, SENTENCE_LIMIT), file=sys.stderr)


def hint(sentence: str) -> None:
    """Tell whoever looks at the output now; nobody else needs it."""
    if sys.stdout.isatty():
        note(sentence)


def size(count: int) -> str:
    """Return bytes in three digits: 999 B, 1.25 kB, 83.2 MB."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def span(seconds: float) -> str:
    """Return a time that has passed, as short as it can be told: 8s, 3m, 2h, 5d."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m"
    if seconds < 86400:
        return f"{seconds // 3600:.0f}h"
    return f"{seconds // 86400:.0f}d"


def milliseconds(seconds: float) -> str:
    """Return a round trip: 0.12 ms, 3.4 ms, 250 ms."""
    value = seconds * 1000
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f} ms"


def _cell(value: object, limit: int = CELL_LIMIT) -> str:
    return "-" if value in (None, "") else clean(str(value), limit) or "-"
