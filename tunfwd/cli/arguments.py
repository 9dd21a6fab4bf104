"""The kinds of arguments and options that several commands have, with their completion in the shell."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.common.names import read_contact_name, read_name
from tunfwd.common.notation import (
    PortSpec,
    read_address,
    read_port,
    read_port_spec,
    read_target,
)
from tunfwd.control import api

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def written(read: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an argument in a notation of ours: what `read` finds wrong is a usage error."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return convert


PORT = written(read_port)
PORT_SPEC = written(read_port_spec)
TARGET = written(lambda text: str(read_target(text)))
ADDRESS = written(read_address)
CONTACT_NAME = written(read_contact_name)
OFFER_NAME = written(read_name)


def assume_tcp(spec: PortSpec) -> PortSpec:
    """Says so when the protocol was left out."""
    if not spec.explicit:
        click.echo(f"tunfwd: {spec.port} is taken as {spec}", err=True)
    return spec


def complete_contacts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The contacts' names that begin with `incomplete`."""
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
    """The offers' names, or ids where there is no name, that begin with `incomplete`."""
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
    """Adds --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def from_option(command: F) -> F:
    """Adds --from, as `contact`: which contact's, where a name alone does not tell."""
    return click.option(
        "--from", "contact", metavar="NAME", shell_complete=complete_contacts, help="The contact it is from."
    )(command)
