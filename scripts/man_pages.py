"""Writes a man page for each command, from the command line itself: `python -m scripts.man_pages FOLDER`.

click-man lays them out. Commands are imported when they are called, which click-man does not know of, and
what they say is no roff: both are put right here.
"""

import gzip
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path

import click
from click_man.man import ManPage

from tunfwd import __version__
from tunfwd.cli.main import root
from tunfwd.common.errors import EXIT_CODES

FILES = {
    "/etc/tunfwd/config.toml": "the configuration of root's daemon, or of the service",
    "~/.config/tunfwd/config.toml": "that of another user's",
    "/var/lib/tunfwd": "the state of root's daemon, or of the service: who you are, and what was agreed",
    "~/.local/state/tunfwd": "that of another user's",
}
ENVIRONMENT = {
    "TUNFWD_CONFIG": "the configuration file",
    "TUNFWD_SOCKET": "the daemon's control socket",
    "TUNFWD_STATE_DIR": "the folder of the state",
    "TUNFWD_PUBLIC_NODES": "0: no public node is asked",
}
SPELT = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "~": r"\(ti", "^": r"\(ha"})
"""Of what roff makes typographic signs."""


def commands(command: click.Command = root, context: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context of each command, the outermost first."""
    name = "tunfwd" if context is None else command.name
    own = click.Context(command, info_name=name, parent=context, **command.context_settings)
    yield own
    if isinstance(command, click.Group):
        for _, inner in _inner(own):
            yield from commands(inner, own)


def page(context: click.Context, date: datetime) -> str:
    """Return the page of one command."""
    command, path = context.command, context.command_path
    made = ManPage(path.replace(" ", "-"))
    made.date = f"{date:%Y-%m-%d}"
    made.version = f"tunfwd {__version__}"
    made.short_help = _roff(command.get_short_help_str(100).rstrip("."))
    made.synopsis = " ".join(command.collect_usage_pieces(context))
    made.description = _roff(cleandoc(command.help or ""))
    made.options = [
        (usage, _roff(about))
        for parameter in command.params
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
        for usage, about in [record]
    ]
    made.commands = [(name, _roff(inner.get_short_help_str(100))) for name, inner in _inner(context)]
    # A command is called with a space, and its page with a hyphen.
    text = str(made).replace(f".B {made.command}\n", f".B {path}\n")
    return text + (_of_all() if context.parent is None else _see_also(context))


def write(folder: Path, date: datetime) -> None:
    """Write the pages of all commands, compressed, each in the same bytes whenever it says the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for context in commands():
        file = folder / f"{context.command_path.replace(' ', '-')}.1.gz"
        file.write_bytes(gzip.compress(page(context, date).encode(), mtime=0))


def _inner(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                command.name = name
                yield name, command


def _roff(text: str) -> str:
    """Return text that roff shows as it stands; after click's mark for it, a paragraph's lines stay lines."""
    text = re.sub(r"^\.", r"\\&.", text.translate(SPELT), flags=re.M)
    return re.sub(r"^\b\n((?:.+\n?)+)".replace(r"\b", "\b"), r".nf\n\1\n.fi\n", text, flags=re.M).rstrip()


def _terms(title: str, rows: dict[str, str]) -> str:
    listed = "".join(f".TP\n\\fB{_roff(term)}\\fP\n{_roff(about)}\n" for term, about in rows.items())
    return f".SH {title}\n{listed}"


def _of_all() -> str:
    codes: dict[str, str] = {"0": "done"}
    for name, code in sorted(EXIT_CODES.items(), key=lambda item: (item[1], item[0])):
        words = name.replace("_", " ")
        codes[str(code)] = f"{codes[str(code)]}; {words}" if str(code) in codes else words
    tables = _terms("EXIT STATUS", codes) + _terms("ENVIRONMENT", ENVIRONMENT) + _terms("FILES", FILES)
    return tables + ".SH SEE ALSO\n/usr/share/doc/tunfwd\n"


def _see_also(context: click.Context) -> str:
    above = context.parent
    assert above is not None
    return f".SH SEE ALSO\n\\fB{_roff(above.command_path.replace(' ', '-'))}\\fP(1)\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]), datetime.now(UTC))
