"""[[hook]] as the configuration writes it: which program is run when something happens."""

from dataclasses import dataclass
from typing import Annotated

from tunfwd.common.schema import Mismatch, Parse
from tunfwd.events import KINDS, Kind


def _read_kinds(written: str | list[str]) -> tuple[Kind, ...]:
    names = [written] if isinstance(written, str) else written
    if names == ["*"]:
        return KINDS
    found = []
    for name in names:
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None:
            raise ValueError(f'{name!r} is not an event: "*" for all, or some of {", ".join(KINDS)}')
        found.append(kind)
    if not found:
        raise ValueError("names no event")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Hook:
    """One [[hook]]."""

    event: Annotated[tuple[Kind, ...], Parse(str | list[str], _read_kinds)]
    run: tuple[str, ...]
    """A program, by its path or found in PATH, and its arguments; there is no shell."""

    def __post_init__(self) -> None:
        if not self.run or not self.run[0]:
            raise Mismatch(("run",), 'is a program and its arguments, as in ["/usr/local/bin/tell", "me"]')
        if any("\0" in word for word in self.run):
            raise Mismatch(("run",), "has a character that no argument can hold")

    def wants(self, kind: str) -> bool:
        """Whether the program is to be run for events of a kind."""
        return kind in self.event
