"""What pages show people to type: the blocks of a page, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netns.topology import PROJECT

PAGES = sorted(
    page
    for page in [
        *PROJECT.glob("*.md"),
        *(PROJECT / "docs").glob("*.md"),
        PROJECT / "netns/README.md",
        PROJECT / "scripts/benchmarks/README.md",
    ]
    if page.name not in ("CHANGELOG.md", "commands.md")  # written by the program itself
)
PROMPT = re.compile(r"(?:(?P<host>[a-z]+\d*)[$#]|[$#])\s+(?P<command>\S.*)")
PROGRAM = re.compile(r"(?:\./)?(?:netns|scripts)/\S+|tunfwd|apt|curl|ping|pipx|python|ssh|systemctl|useradd")
COMMENT = re.compile(r"\s+#\s.*")


@dataclass(frozen=True)
class Block:
    """Code of a page; `kind` is what a fence says of it, or "" of an indented block."""

    page: str
    kind: str
    text: str

    def __str__(self) -> str:
        first = self.text.strip().splitlines()[0]
        return f"{self.page}: {first[:60]}"


@dataclass(frozen=True)
class Typed:
    """A command: on which host, if the page says, and what."""

    page: str
    host: str | None
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(page: Path) -> Iterator[Block]:
    """Return the code of a page, fenced and indented."""
    text = page.read_text()
    for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S):
        yield Block(name_of(page), kind, code)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for code in re.findall(r"(?:^|\n\n)((?: {4}\S.*\n(?:\n(?= {4}))?|(?<=\n) {4} +\S.*\n)+)", prose):
        yield Block(name_of(page), "", re.sub(r"^ {4}", "", code, flags=re.M))


def commands(block: Block) -> list[Typed]:
    """Return what is typed in a block: after prompts if it has some, else all up to an empty line.

    Nothing, in a listing, or in a file.
    """
    if block.kind not in ("", "console", "sh"):
        return []
    lines = [line for line in block.text.splitlines() if line.strip()]
    prompted = [match for line in lines if (match := PROMPT.fullmatch(line))]
    if prompted:
        return [
            Typed(block.page, match["host"], COMMENT.sub("", match["command"]).rstrip()) for match in prompted
        ]
    if not PROGRAM.match(lines[0]):
        return []
    typed = block.text.strip("\n").partition("\n\n")[0].splitlines()
    return [Typed(block.page, None, COMMENT.sub("", line).rstrip()) for line in typed]
