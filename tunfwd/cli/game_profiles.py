"""What is known of games: games.toml beside this file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunfwd.common.errors import UserError
from tunfwd.common.notation import PortSpec
from tunfwd.common.ports import each_once, read_ports
from tunfwd.common.schema import decode

Finds = Literal["ask", "announce", "both", "address"]
Needs = Literal["nothing", "capture"]


@dataclass(frozen=True, slots=True)
class Game:
    """A game's profile."""

    title: str
    host: tuple[str, ...]
    """Ports of the machine with the server."""
    finds: Finds
    needs: Needs
    tried: str
    player: tuple[str, ...] = ()
    """Ports at which players listen for announcements."""
    note: str = ""

    @property
    def host_ports(self) -> frozenset[PortSpec]:
        """The host's, one by one."""
        return _each(self.host)

    @property
    def player_ports(self) -> frozenset[PortSpec]:
        """The players', one by one."""
        return _each(self.player)


def _each(ports: tuple[str, ...]) -> frozenset[PortSpec]:
    return frozenset(each_once([read_ports(text) for text in ports]))


def games() -> dict[str, Game]:
    """Return all profiles by name."""
    content = tomllib.loads(Path(__file__).with_name("games.toml").read_text(encoding="utf-8"))
    return {name: decode(Game, table) for name, table in content.items()}


def find(name: str) -> Game:
    """Return one game. Raises UserError."""
    known = games()
    if name not in known:
        from difflib import get_close_matches  # noqa: PLC0415  only a mistake pays for it

        near = get_close_matches(name, known, n=1)
        also = f"; did you mean {near[0]}?" if near else "; `tunfwd game list` has those that are known"
        raise UserError("not_found", f"no game {name!r}{also}")
    return known[name]
