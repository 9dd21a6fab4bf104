"""`tunfwd connections`: who is connected now."""

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import show, show_table, size, span
from tunfwd.cli.session import Session
from tunfwd.control import api


@click.command()
@json_option
@click.pass_context
def connections(ctx: click.Context, as_json: bool) -> None:
    """List connections: from whom, to what, since when."""
    show(Session.of(ctx).call(api.CONNECTIONS), as_json, _table)


def _table(result: api.ConnectionsResult) -> None:
    show_table(
        ("PEER", "DIR", "PROTO", "FROM", "TO", "NAME", "STATE", "SINCE", "TX", "RX"),
        (
            [
                one["contact"],
                one["direction"],
                one["protocol"],
                one["source"],
                one["target"],
                one["name"],
                one["state"],
                span(one["seconds"]),
                size(one["tx_bytes"]),
                size(one["rx_bytes"]),
            ]
            for one in result["connections"]
        ),
        empty="No connections. What can be reached, and by whom: tunfwd ports",
    )
