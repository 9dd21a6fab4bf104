"""Writes docs/commands.md from the command line itself: `python -m scripts.commands_page`.

A test holds the page to what this writes, so whoever changes a command runs it.
"""

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from tunfwd.cli.main import root
from tunfwd.common.errors import EXIT_CODES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
HEAD = """# Commands

Written by `python -m scripts.commands_page` from the program itself: `tunfwd help COMMAND` says the same.

Every listing takes `--json` and prints `{"schema": 1, ...}`; keys are only ever added. Names, and the
beginnings of keys and ids, work wherever one is asked for. Members of a group are `group:GROUP/NAME`, a whole
group is `group:GROUP`.

Completion: `eval "$(_TUNFWD_COMPLETE=bash_source tunfwd)"` in bash, `zsh_source` in zsh; in fish
`_TUNFWD_COMPLETE=fish_source tunfwd | source`. It knows commands, options, contacts, groups and their
members, offers, and the keys of those who ask.

A change that could not be saved (a full disk) is in effect all the same; the command says so and exits
with 1.
"""


def page() -> str:
    """Return the page."""
    codes = sorted({(code, name.replace("_", " ")) for name, code in EXIT_CODES.items()})
    listed = "; ".join(f"{code} {name}" for code, name in codes)
    parts = [HEAD, f"Exit codes: 0 done; {listed}.\n"]
    context = click.Context(root, info_name="tunfwd", **root.context_settings)
    parts.append("## Options of every command\n\n" + "\n".join(_options(root, context)) + "\n")
    parts += _commands(root, context)
    return "\n".join(parts)


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        text = cleandoc(command.help or "").replace("\b", "")
        lines = [f"## {inner.command_path}\n", f"    {usage}\n", text, ""]
        lines += _options(command, inner)
        yield "\n".join(lines).rstrip() + "\n"
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            usage, about = record
            if usage.split()[0] not in ("--json", "--help", "--version"):
                yield f"- `{usage}`: {about}"


if __name__ == "__main__":
    PAGE.write_text(page())
