"""`tunfwd reload`: what a running daemon is told about its own affairs."""

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import note, say, show
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api


@click.command()
@json_option
@click.pass_context
def reload(ctx: click.Context, as_json: bool) -> None:
    """Have the daemon read its configuration again.

    Rules, exposed services, nodes and the log level take effect at once; what takes a restart is named.
    Connections go on. A file that is wrong changes nothing.
    """
    result = Session.of(ctx).call(api.RELOAD)
    show(result, as_json, _reloaded)
    if problems := result["problems"]:
        raise UserError("failed", "; ".join(problems))


def _reloaded(result: api.ReloadResult) -> None:
    place = result["file"] or "no configuration file; all is default"
    say(f"{place}: {', '.join(result['changed']) or 'nothing that takes effect now'} changed")
    for key in result["restart"]:
        note(f"{key} has changed, and takes effect when the daemon is started again")
