"""`tunfwd daemon`, `stop`: the daemon in the foreground, as systemd and people at a terminal both want it."""

import os
import signal
import time
from typing import Final

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import say, show
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.config import paths
from tunfwd.control import api

STOP_TIME: Final = 15.0  # s for the daemon to tell its contacts and end


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


@click.command()
@json_option
@click.pass_context
def stop(ctx: click.Context, as_json: bool) -> None:
    """End the daemon, in order: contacts are told.

    A service manager that restarts it does so: `systemctl stop tunfwd` ends one of systemd's for good.
    """
    session = Session.of(ctx)
    result = session.call(api.STOP)
    deadline = time.monotonic() + STOP_TIME
    while _is_there(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _is_there(session):
        raise UserError("timeout", f"the daemon (process {result['pid']}) was told to end, and has not yet")
    show(result, as_json, lambda _: say("the daemon has ended"))


def _is_there(session: Session) -> bool:
    session.close()
    try:
        session.call(api.VERSION, patience=1)
    except UserError as failure:
        return failure.code == "timeout"
    return True
