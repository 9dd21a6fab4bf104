"""`tunfwd daemon`: runs the daemon in the foreground, as systemd and people at a terminal both want it."""

import os
import signal

import click

from tunfwd.cli.session import Session
from tunfwd.config import paths


@click.command()
@click.option(
    "--rootless",
    is_flag=True,
    help="Without a device: ports of contacts listen on addresses of 127.77.0.0/16.",
)
@click.pass_context
def daemon(ctx: click.Context, rootless: bool) -> int:
    """Run the daemon, in the foreground.

    It logs to stderr, and ends at Ctrl-C or SIGTERM. It needs CAP_NET_ADMIN, and gives it up once the TUN
    device is there; started by root, it goes on as the user tunfwd.

    With --rootless it needs no privilege at all.
    """
    from tunfwd.daemon.main import run  # noqa: PLC0415  the engine is the daemon's alone

    session = Session.of(ctx)
    if session.socket:
        os.environ[paths.SOCKET_VARIABLE] = session.socket
    signal.signal(
        signal.SIGPIPE, signal.SIG_IGN
    )  # a peer that hangs up is an error of one write, not our end
    return run(session.config, rootless=rootless)
