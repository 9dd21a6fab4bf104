"""`tunfwd events`: what has happened, and what happens."""

import json
import sys
import time
from datetime import datetime
from typing import Final

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import SCHEMA, note, say, show_json
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.events import KINDS

WAIT: Final = 60.0  # s that one question waits for an answer
AGAIN: Final = 1.0  # s between two tries to reach a daemon that is gone


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    metavar="KIND",
    help="Of this kind only; may be repeated.",
)
@json_option
@click.pass_context
def events(ctx: click.Context, follow: bool, kinds: tuple[str, ...], as_json: bool) -> None:
    """List what has happened, or follow what happens.

    The newest 1024 events since the daemon started are kept, and as many about connections. With --follow,
    each is shown as it comes, until you end it; when the daemon ends, the next one is waited for. With --json
    as well, one object a line. docs/events.md says what each kind means.
    """
    session = Session.of(ctx)
    if follow:
        _follow(session, list(kinds), as_json)
        return
    result = session.call(api.EVENTS, kinds=list(kinds))
    if as_json:
        show_json(result)
    elif result["events"]:
        _lines(result)
    else:
        note("Nothing has happened yet.")


def _follow(session: Session, kinds: list[str], as_json: bool) -> None:
    result = session.call(api.EVENTS, new=True, kinds=kinds)
    while True:
        (_objects if as_json else _lines)(result)
        sys.stdout.flush()
        try:
            result = session.call(
                api.EVENTS, patience=WAIT + 10, after=result["next"], wait=WAIT, kinds=kinds
            )
        except UserError as gone:
            note(f"{gone.message}; waiting for it")
            result = _reached_again(session, result["next"], kinds)


def _reached_again(session: Session, after: str, kinds: list[str]) -> api.EventsResult:
    while True:
        session.close()
        time.sleep(AGAIN)
        try:
            return session.call(api.EVENTS, after=after, kinds=kinds)
        except UserError as failure:
            if failure.code not in ("no_daemon", "timeout", "failed"):
                raise


def _objects(result: api.EventsResult) -> None:
    if result["lost"]:
        print(json.dumps({"schema": SCHEMA, "lost": result["lost"]}))
    for event in result["events"]:
        print(json.dumps({"schema": SCHEMA, **event}))


def _lines(result: api.EventsResult) -> None:
    if result["lost"]:
        note(f"{result['lost']} events are no longer kept")
    for event in result["events"]:
        say(f"{_local(event['time'])} {event['event']}: {event['text']}")


def _local(written: str) -> str:
    return f"{datetime.fromisoformat(written).astimezone():%Y-%m-%d %H:%M:%S}"
