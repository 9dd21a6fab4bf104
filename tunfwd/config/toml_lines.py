"""Finds the line of every key in a TOML document, which tomllib does not tell.

Used by document.py for its messages. The document has been read by tomllib before, so that this scan may take
it for valid TOML 1.0 and has only to keep strings, comments, tables, arrays and inline tables apart.
"""

import re
import tomllib
from typing import Final

Path = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY_PART: Final = re.compile(r'[ \t]*("(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+)[ \t]*')
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN: Final = re.compile(r"[^,\]}\n#]+")  # a number, a date, true or false


def locate(document: str) -> dict[Path, int]:
    """Return the line, from 1, of each key, table and array element; paths are those of tomllib's result."""
    return _Scan(document).run()


def line_of(lines: dict[Path, int], path: Path) -> int:
    """Return the line of what is at `path`, or of the nearest thing around it; 1 for the whole document."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Scan:
    def __init__(self, document: str) -> None:
        self._text = document
        self._at = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # of each array of tables

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._header(2)
                self._lengths[table] = self._lengths.get(table, 0) + 1
                self._note(table)
                table = (*table, self._lengths[table] - 1)
                self._note(table)
            elif self._text[self._at] == "[":
                table = self._header(1)
                self._note(table)
            else:
                self._pair(table)
        return self._lines

    def _header(self, brackets: int) -> Path:
        self._at += brackets
        parts = self._key()
        self._at += brackets
        path: Path = ()
        for part in parts:
            # What stands under an array of tables is in its last one (TOML 1.0, "Array of Tables").
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
            path = (*path, part)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path)
        self._at += 1  # =
        self._take(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """Read a key, dotted perhaps; stop at what follows it."""
        parts = []
        while True:
            quoted = self._take(_KEY_PART).strip(" \t")
            parts.append(next(iter(tomllib.loads(f"{quoted} = 0"))) if quoted[0] in "\"'" else quoted)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        self._note(path)
        match self._text[self._at]:
            case '"' | "'":
                self._take(_STRING)
            case "[":
                self._at += 1
                index = 0
                while self._more("]"):
                    self._value((*path, index))
                    index += 1
            case "{":
                self._at += 1
                while self._more("}"):
                    self._pair(path)
            case _:
                self._take(_PLAIN)

    def _more(self, close: str) -> bool:
        """Whether another element follows; passes the comma before it, or the bracket that closes."""
        self._take(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._take(_BLANK)
        if self._text[self._at] != close:
            return True
        self._at += 1
        return False

    def _skip_blank(self) -> bool:
        self._take(_BLANK)
        return self._at < len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found, f"line {self._line}: not the TOML that tomllib read"
        self._at = found.end()
        self._line += found[0].count("\n")
        return found[0]

    def _note(self, path: Path) -> None:
        self._lines.setdefault(path, self._line)
