"""The kinds of arguments and options that several commands have, with their completion in the shell."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.common.names import read_contact_name, read_name
from tunfwd.common.notation import read_address, read_port, read_target
from tunfwd.common.ports import PortRange, each_once, read_ports
from tunfwd.control import api

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def written(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return the type of an argument in a notation of ours: what `read` finds wrong is a usage error."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return convert


PORT: Final = written(read_port)
PORTS: Final = written(read_ports)
TARGET: Final = written(lambda text: str(read_target(text)))
ADDRESS: Final = written(read_address)
CONTACT_NAME: Final = written(read_contact_name)
OFFER_NAME: Final = written(read_name)


def assume_tcp(ranges: Sequence[PortRange]) -> list[str]:
    """Return ports for the daemon; say so where a protocol was left out. They are to be named once each."""
    try:
        each_once(ranges)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None
    for one in ranges:
        if not one.explicit:
            click.echo(f"tunfwd: {str(one).partition('/')[0]} is taken as {one}", err=True)
    return [str(one) for one in ranges]


def complete_contacts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the contacts' names that begin with `incomplete`."""
    try:
        contacts = Session.of(ctx).call(api.STATUS, patience=1)["contacts"]
    except UserError:
        return []  # nobody to ask; a shell's prompt is no place for errors
    return [
        CompletionItem(contact["name"], help=contact["link"])
        for contact in contacts
        if contact["name"].startswith(incomplete)
    ]


def complete_offers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the offers' names, or ids where there is no name, that begin with `incomplete`."""
    try:
        offers = Session.of(ctx).call(api.OFFER_LIST, patience=1)["offers"]
    except UserError:
        return []
    return [
        CompletionItem(
            offer["name"] or offer["id"], help=f"{offer['port']}/{offer['protocol']}, {offer['contact']}"
        )
        for offer in offers
        if (offer["name"] or offer["id"]).startswith(incomplete)
    ]


def json_option(command: F) -> F:
    """Add --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def from_option(command: F) -> F:
    """Add --from, as `contact`: which contact's, where a name alone does not tell."""
    return click.option(
        "--from", "contact", metavar="NAME", shell_complete=complete_contacts, help="The contact it is from."
    )(command)


def _password(ctx: click.Context, param: click.Parameter, file: Path | None) -> str | None:
    """Return the first line of a file: on the command line itself, everyone on the machine could read it."""
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as opened:
            password = opened.readline(4 * api.MAX_PASSWORD).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError("usage", f"the password in {file} cannot be read: {wrong}") from None
    if not 0 < len(password.encode()) <= api.MAX_PASSWORD:
        what = f"is not a password of 1 to {api.MAX_PASSWORD} bytes"
        raise UserError("usage", f"the first line of {file} {what}")
    return password


password_option = click.option(
    "--password-file",
    "password",
    type=click.Path(path_type=Path),
    callback=_password,
    metavar="FILE",
    help="A file whose first line is the group's password.",
)
