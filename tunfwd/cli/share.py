"""`tunfwd share`, `join`, `invites`: two people find each other with one command each."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from tunfwd.cli.arguments import (
    CONTACT_NAME,
    OFFER_NAME,
    PORTS,
    TARGET,
    assume_tcp,
    json_option,
    password_option,
    written,
)
from tunfwd.cli.offers import tell_what_it_sees, virtual
from tunfwd.cli.output import hint, note, say, show, show_json, show_table, span
from tunfwd.cli.qr import show_qr
from tunfwd.cli.session import Session
from tunfwd.cli.together import ports_text, together
from tunfwd.common.errors import UserError
from tunfwd.common.ports import PortRange
from tunfwd.control import api

LOOK: Final = 0.2  # s between looks at how far joining has come
LOOK_SHARED: Final = 1.0  # s between looks at who has joined
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STAGES: Final = {
    "asked": "asked: waiting for them",
    "connected": "connected",
    "offered": "offered",
    "reachable": "reachable",
}


def _read_span(text: str) -> float:
    """ "24h", "90m", "7d", "45s"."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a time such as 24h, 90m or 7d")
    seconds = int(match[1]) * UNITS[match[2]]
    if not 1 <= seconds <= api.MAX_LIFE:
        raise ValueError(f"{text!r}: a ticket lasts 1s to 366d")
    return float(seconds)


uses_option = click.option(
    "--uses",
    type=click.IntRange(1, api.MAX_USES),
    default=1,
    show_default=True,
    help="How many may join by it.",
)
for_option = click.option(
    "--for",
    "seconds",
    type=written(_read_span),
    default="24h",
    show_default=True,
    metavar="TIME",
    help="Until it ends: 90m, 24h, 7d.",
)
wait_option = click.option(
    "--wait/--no-wait",
    default=None,
    help="Stay, and say who joins. [default: on a terminal]",
)


@click.command()
@click.argument("ports", type=PORTS, metavar="PORT/PROTO...", nargs=-1, required=True)
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="What it is, for people.")
@uses_option
@for_option
@click.option("--target", type=TARGET, metavar="HOST:PORT", help="Where the service is, as in `offer`.")
@click.option("--source", type=click.Choice(["auto", "peer", "host"]), default="auto", help="As in `offer`.")
@wait_option
@json_option
@click.pass_context
def share(
    ctx: click.Context,
    *,
    ports: tuple[PortRange, ...],
    name: str | None,
    uses: int,
    seconds: float,
    target: str | None,
    source: str,
    wait: bool | None,
    as_json: bool,
) -> None:
    """Share services, such as 8080/tcp, by a ticket.

    Whoever says `tunfwd join TICKET` becomes a friend and reaches them: no more is needed at either side.
    """
    result = Session.of(ctx).call(
        api.SHARE,
        ports=assume_tcp(ports),
        name=name,
        uses=uses,
        seconds=seconds,
        target=target,
        source=source,
    )
    show(result, as_json, tell_ticket)
    wait_for_joiners(ctx, result["invite"], wait, as_json)


def tell_ticket(result: api.InviteResult) -> None:
    """Say what there is to do with a ticket."""
    invite = result["invite"]
    print(f"On the other machine: tunfwd join {invite['ticket']}")
    if sys.stdout.isatty():
        show_qr(invite["ticket"])
    if invite["uses"] is None:
        note("It lets anybody in for as long as the group is public, and cannot be taken back.")
    else:
        whom = "one person" if invite["uses"] == 1 else f"{invite['uses']} people"
        ending = f"`tunfwd invites revoke {invite['id']}` ends it"
        note(f"Valid for {_left(invite)}, for {whom}; {ending}.")
    if result.get("network") == "offline":
        note("Not connected to the Tox network yet: whoever joins waits until we are (tunfwd doctor).")
    tell_what_it_sees(invite["offers"])


def _left(invite: api.InviteEntry) -> str:
    assert invite["expires"] is not None
    return span(max(0.0, invite["expires"] - time.time() + 30))  # 24 h, not 23, when it is just made


def wait_for_joiners(ctx: click.Context, invite: api.InviteEntry, wait: bool | None, as_json: bool) -> None:
    """Say who joins, until all have or the invite has ended. Ctrl-C leaves the share standing."""
    watching = not as_json and sys.stdout.isatty() if wait is None else wait
    if invite["id"] is None or not watching:
        return
    said: set[str] = set()
    try:
        while True:
            found = [
                one for one in Session.of(ctx).call(api.INVITE_LIST)["invites"] if one["id"] == invite["id"]
            ]
            contacts = {one["public_key"]: one for one in Session.of(ctx).call(api.STATUS)["contacts"]}
            for joined in found[0]["joined"] if found else []:
                contact = contacts.get(joined["public_key"])
                if joined["public_key"] not in said and contact is not None and contact["link"] != "offline":
                    said.add(joined["public_key"])
                    at = f", at {contact['address']}" if contact["address"] else ""
                    say(f"{contact['name']} has joined{at}")
            if not found or (found[0]["state"] != "open" and len(said) == len(found[0]["joined"])):
                if not found or not said:
                    note("The invite has ended.")
                return
            time.sleep(LOOK_SHARED)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        note("What is shared stays so; `tunfwd invites` lists who may still join.")


@click.command()
@click.argument("ticket", nargs=-1, required=True, metavar="TICKET")
@click.option("--name", type=CONTACT_NAME, metavar="NAME", help="What to call them, or the group, here.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=120.0,
    show_default=True,
    help="Seconds to wait until it works; then it goes on without us.",
)
@password_option
@json_option
@click.pass_context
def join(
    ctx: click.Context,
    *,
    ticket: tuple[str, ...],
    name: str | None,
    timeout: float,
    password: str | None,
    as_json: bool,
) -> None:
    """Join by a ticket that somebody shares.

    Makes friends, and accepts exactly what the ticket names. `-` reads the ticket from standard input.
    """
    text = "".join(ticket) if ticket != ("-",) else sys.stdin.read(4096)
    session = Session.of(ctx)
    deadline = time.monotonic() + timeout
    result = session.call(api.JOIN, ticket=text, name=name, password=password)
    warning = result.get("warning")
    with _progress(as_json) as tell:
        tell(result)
        while result.get("stage") != "reachable" and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(LOOK, left))
            result = session.call(api.JOIN_STATUS, ticket=text)
            tell(result)
    if as_json:
        show_json(result)
    elif result.get("stage") == "reachable":
        _joined(result)
    if result.get("stage") != "reachable":
        missing = result.get("missing") or "it is not done"
        raise UserError(
            "timeout",
            f"not within {timeout:g} s: {missing}. It goes on in the background: `tunfwd ports`",
        )
    if warning:
        raise UserError("failed", warning)


def _watched() -> bool:
    return sys.stderr.isatty()


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[api.JoinResult], None]]:
    """Tell each stage once, those that were passed unseen, too, on a terminal's stderr."""
    told: list[str] = []
    shown = _watched() and not as_json

    def tell(result: api.JoinResult) -> None:
        stage = result.get("stage", "asked")
        reached = list(STAGES)[: list(STAGES).index(stage) + 1]
        for one in reached[len(told) :] if shown else ():
            told.append(one)
            note(STAGES[one])

    try:
        yield tell
    except KeyboardInterrupt:
        if shown:
            print(file=sys.stderr)
            note("It goes on without this command; `tunfwd friend remove` ends it.")
        raise


def _joined(result: api.JoinResult) -> None:
    if group := result.get("group"):
        say(f"in {group['name']}; see: tunfwd group peers {group['name']}")
    for one in together(result["mappings"], lambda entry: entry["address"]):
        called = f"{one.first['name']}, " if one.first["name"] else ""
        say(f"{called}{one.ports} of {one.first['contact']} is at {virtual(one)}")


@click.group(invoke_without_command=True, no_args_is_help=False)
@json_option
@click.pass_context
def invites(ctx: click.Context, as_json: bool) -> None:
    """List the tickets that we have shared, and who has joined."""
    if ctx.invoked_subcommand is None:
        show(Session.of(ctx).call(api.INVITE_LIST), as_json, _table)


@invites.command()
@click.argument("id")
@json_option
@click.pass_context
def revoke(ctx: click.Context, id: str, as_json: bool) -> None:
    """End an invite, named by its ID or its name. Who has joined stays."""
    result = Session.of(ctx).call(api.INVITE_REVOKE, id=id)
    show(
        result,
        as_json,
        lambda shown: say(f"invite {shown['invite']['id']} has ended: its ticket lets in nobody any more"),
    )


def _table(result: api.InvitesResult) -> None:
    show_table(
        ("ID", "WHAT", "NAME", "USED", "LEFT", "STATE", "JOINED"),
        (
            [
                one["id"],
                f"group:{one['group']}" if one["group"] is not None else ports_text(one["offers"]),
                one["name"],
                f"{len(one['joined'])}/{one['uses']}",
                _left(one) if one["state"] == "open" else "-",
                one["state"],
                ", ".join(joined["name"] or joined["public_key"][:8] for joined in one["joined"]),
            ]
            for one in result["invites"]
        ),
        empty="No invites. Make one with: tunfwd share 8080/tcp",
    )
    if any(one["state"] == "open" for one in result["invites"]):
        hint("End one with: tunfwd invites revoke ID")
