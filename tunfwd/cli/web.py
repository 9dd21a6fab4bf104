"""`tunfwd web`: a page in the browser, by a process of its own."""

import os
import socket
import sys
import threading
from typing import Final

import click

from tunfwd.cli.doctor import checks
from tunfwd.cli.output import note
from tunfwd.cli.qr import rows
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError

PORT: Final = 7373  # unless it is taken


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help=f"The port at 127.0.0.1; 0: any that is free. [default: {PORT}, or any]",
)
@click.option(
    "--browser/--no-browser",
    default=None,
    help="Open it in the browser. [default: on a desktop, and not as root]",
)
@click.pass_context
def web(ctx: click.Context, port: int | None, browser: bool | None) -> None:
    """Show contacts, ports, tickets and rates in a browser.

    The page is there until you end it. The address that is printed lets in whoever knows it, and is another
    one at every start. From another machine: ssh -L 7373:127.0.0.1:7373 HOST.
    """
    from tunfwd.web.access import Tokens  # noqa: PLC0415  starlette and uvicorn are for this command alone
    from tunfwd.web.server import Page, Server  # noqa: PLC0415

    session = Session.of(ctx)
    page = Page(session.connect, lambda: list(checks(Session(session.socket, session.config))), rows)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        tokens = Tokens(port)
        place = f"http://127.0.0.1:{port}{tokens.entrance}?token="
        print(f"{place}{tokens.token}", flush=True)
        note("Open this address in a browser of this machine; Ctrl-C ends the page.")
        if _on_a_desktop() if browser is None else browser:
            threading.Thread(target=_open, args=[f"{place}{tokens.once()}"], daemon=True).start()
        Server(page, tokens).run([listener])


def _listening(port: int | None) -> socket.socket:
    from tunfwd.web.server import listen  # noqa: PLC0415

    try:
        return listen(PORT if port is None else port)
    except OSError as failure:
        if port is None:
            return listen(0)
        raise UserError("failed", f"cannot listen at 127.0.0.1:{port}: {failure.strerror}") from None


def _on_a_desktop() -> bool:
    """Whether a browser that opens is seen by who has typed the command, and is run by them, not by root."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and os.geteuid() != 0 and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ


def _open(address: str) -> None:
    import webbrowser  # noqa: PLC0415

    if not webbrowser.open(address):
        note("No browser could be opened.")
