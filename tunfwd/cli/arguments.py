"""The kinds of arguments and options that several commands have, with their completion in the shell."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

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
Kind = Literal["group", "conference"]


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


def ports_for(option: str) -> Callable[[str], PortRange]:
    """Return the type of ports where a contact follows by `option`, as people forget."""

    def read(text: str) -> PortRange:
        try:
            return read_ports(text)
        except ValueError as wrong:
            if text[:1].isdigit():
                raise
            raise ValueError(f"{wrong}; a contact is named with {option}: {option} {text}") from None

    return written(read)


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


def _contacts(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the contacts that begin with `incomplete`: friends by name, members as group:GROUP/NAME."""
    try:
        contacts = Session.of(ctx).call(api.STATUS, patience=1)["contacts"]
    except UserError:
        return []  # nobody to ask; a shell's prompt is no place for errors
    labels = (
        (contact["name"] if contact["kind"] == "friend" else f"{contact['via']}/{contact['name']}", contact)
        for contact in contacts
    )
    return [
        CompletionItem(label, help=contact["link"])
        for label, contact in labels
        if label.startswith(incomplete)
    ]


def _rooms(ctx: click.Context, incomplete: str, prefix: str, *kinds: Kind) -> list[CompletionItem]:
    """Return the rooms of some kinds that begin with `incomplete`; `prefix`: as "group:NAME"."""
    methods = {"group": api.GROUP_LIST, "conference": api.CONFERENCE_LIST}
    try:
        rooms = [room for kind in kinds for room in Session.of(ctx).call(methods[kind], patience=1)["groups"]]
    except UserError:
        return []
    called = ((f"{room['kind']}:{room['name']}" if prefix else room["name"], room) for room in rooms)
    return [CompletionItem(name, help=room["state"]) for name, room in called if name.startswith(incomplete)]


def complete_contacts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return who can be named: friends, and members of groups."""
    return _contacts(ctx, incomplete)


def complete_all(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return who can be offered to: contacts, and whole groups and conferences."""
    return _contacts(ctx, incomplete) + _rooms(ctx, incomplete, ":", "group", "conference")


def complete_groups(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the groups' names."""
    return _rooms(ctx, incomplete, "", "group")


def complete_conferences(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the conferences' names."""
    return _rooms(ctx, incomplete, "", "conference")


def complete_members(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the members of the group that the command line names before."""
    start = f"group:{ctx.params.get('group') or ctx.params.get('room')}/"
    found = _contacts(ctx, start + incomplete)
    return [CompletionItem(str(item.value).removeprefix(start), help=item.help) for item in found]


def complete_requests(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys of those who ask to be friends."""
    try:
        friends = Session.of(ctx).call(api.FRIEND_LIST, patience=1)["friends"]
    except UserError:
        return []
    return [
        CompletionItem(one["public_key"], help=one["message"] or "")
        for one in friends
        if one["state"] == "pending" and one["public_key"].startswith(incomplete.upper())
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
