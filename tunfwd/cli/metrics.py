"""`tunfwd metrics`: the daemon's figures, for Prometheus and its kind."""

import sys

import click

from tunfwd.cli.session import Session
from tunfwd.control import api


@click.command()
@click.pass_context
def metrics(ctx: click.Context) -> None:
    """Print the daemon's figures in the text format of Prometheus.

    The node exporter's textfile collector takes it; `[metrics] listen` has the daemon serve the same by HTTP.
    """
    from tunfwd.control.metrics import exposition  # noqa: PLC0415  slow to import

    session = Session.of(ctx)
    text = exposition(session.call(api.STATUS), session.call(api.PORTS), session.call(api.VERSION))
    sys.stdout.write(text.decode())
