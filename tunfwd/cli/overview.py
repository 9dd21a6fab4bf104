"""`tunfwd id`, `status`, `ping`, `version`: who we are, who is there, and how well."""

import sys
import time
from importlib.util import find_spec
from typing import Final

import click

from tunfwd import __version__
from tunfwd.cli import glance
from tunfwd.cli.arguments import complete_contacts, json_option
from tunfwd.cli.output import milliseconds, note, say, show, show_fields, show_json, size, span
from tunfwd.cli.qr import show_qr
from tunfwd.cli.session import Session
from tunfwd.common.errors import EXIT_CODES, UserError
from tunfwd.control import api

BUILDS: Final = ("uncompiled", "compiled")
PING_INTERVAL: Final = 1.0  # s from one ping to the next, as ping(8)


@click.command("id")
@click.option("--qr", is_flag=True, help="Show the address as a QR code, too.")
@click.option("--new-nospam", is_flag=True, help="Change the address: who has the old one can ask no more.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def identity(ctx: click.Context, qr: bool, new_nospam: bool, yes: bool, as_json: bool) -> None:
    """Show our Tox address, for others to add, and more."""
    session = Session.of(ctx)
    if new_nospam:
        _change_address(session, yes)
    result = session.call(api.IDENTITY)
    show(result, as_json, _identity)
    if qr and not as_json:
        show_qr(f"tox:{result['address']}")


def _change_address(session: Session, yes: bool) -> None:
    note(
        "A new nospam makes a new address. Friends stay. Who has only the old one, or an unused ticket, "
        "can no longer ask to be a friend: tell them the new one, and share anew."
    )
    if not yes and sys.stdin.isatty():
        click.confirm("Change it?", abort=True, err=True)
    result = session.call(api.NEW_ADDRESS)
    if result["revoked"]:
        note(f"{result['revoked']} invites have ended with the old address.")
    if warning := result.get("warning"):
        raise UserError("failed", warning)


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show every contact: address, link, traffic."""
    glance.status(Session.of(ctx), as_json)


@click.command()
@click.argument("name", shell_complete=complete_contacts)
@click.option(
    "-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="How many, 1 s apart."
)
@click.option(
    "--timeout", type=click.FloatRange(0, 100, min_open=True), default=5.0, show_default=True, help="Seconds."
)
@json_option
@click.pass_context
def ping(ctx: click.Context, name: str, count: int, timeout: float, as_json: bool) -> int:
    """Measure the round trip to a contact over Tox.

    Also says whether the path is direct or goes through a relay.
    """
    session = Session.of(ctx)
    replies: list[api.PingResult] = []
    for number in range(count):
        started = time.monotonic()
        try:
            reply = session.call(api.PING, name=name, timeout=timeout, patience=timeout + 5)
        except UserError as failure:
            if failure.code != "timeout":
                raise
            if not as_json:
                note(f"no answer from {name} within {timeout:g} s")
        else:
            replies.append(reply)
            if not as_json:
                say(f"{reply['contact']} answered in {milliseconds(reply['seconds'])} ({reply['path']})")
        if number + 1 < count:
            time.sleep(max(0.0, started + PING_INTERVAL - time.monotonic()))
    _ping_summary(name, count, replies, as_json)
    return 0 if replies else EXIT_CODES["timeout"]


@click.command()
@json_option
@click.pass_context
def version(ctx: click.Context, as_json: bool) -> None:
    """Show the versions of this command and of the daemon."""
    try:
        running = Session.of(ctx).call(api.VERSION, patience=2)
    except UserError:
        running = None
    if as_json:
        show_json({"version": __version__, "compiled": _is_compiled(), "daemon": running})
        return
    say(f"tunfwd {__version__}, {BUILDS[_is_compiled()]}")
    if running:
        how = {"api": " by compiled calls", "abi": " by uncompiled calls", "pytox": " by pytox"}
        calls = how.get(running.get("binding", ""), "")
        build = BUILDS[running["compiled"]]
        package = f" ({package})" if (package := running.get("toxcore_package")) else ""
        say(f"daemon {running['version']}, {build}, libtoxcore {running['toxcore']}{package}{calls}")


def _is_compiled() -> bool:
    """Whether the packet path of this installation is in C; without loading it."""
    found = find_spec("tunfwd.link")
    return found is not None and not str(found.origin).endswith(".py")


def _identity(result: api.IdentityResult) -> None:
    servers, domain = result.get("dns"), result.get("domain")
    show_fields(
        (
            ("Tox address", result["address"]),
            ("Nickname", result["nickname"]),
            ("Virtual address", f"{result['virtual_address']}  {result['virtual_address6']}"),
            ("Names", f"*.{domain}, asked for at {' and '.join(servers)}" if servers else "not answered for"),
            ("Interface", result["interface"]),
            ("UDP port", result["udp_port"] or "none"),
            ("DHT key", f"{result['dht_key']}  (for [tox] bootstrap of others; after a crash it is another)"),
            ("Version", f"{result['version']}, libtoxcore {result['toxcore']}"),
        )
    )


def _ping_summary(name: str, sent: int, replies: list[api.PingResult], as_json: bool) -> None:
    times = sorted(reply["seconds"] for reply in replies)
    if as_json:
        show_json(
            {
                "contact": replies[-1]["contact"] if replies else name,
                "sent": sent,
                "received": len(replies),
                "seconds": times[len(times) // 2] if times else None,
                "path": replies[-1]["path"] if replies else None,
                **{key: replies[-1].get(key) if replies else None for key in ("rtt", "loss", "window")},
                "path_seconds": replies[-1].get("path_seconds") if replies else None,
                "replies": [{"seconds": reply["seconds"], "path": reply["path"]} for reply in replies],
            }
        )
        return
    if sent > 1 and times:
        lowest, middle, highest = (milliseconds(times[i]) for i in (0, len(times) // 2, -1))
        say(f"{len(replies)} of {sent} answered; minimum {lowest}, median {middle}, maximum {highest}")
    if replies:
        _link_figures(replies[-1])


def _link_figures(reply: api.PingResult) -> None:
    rtt, loss, window = reply.get("rtt"), reply.get("loss"), reply.get("window")
    if rtt is None or loss is None or window is None:
        return
    since = reply.get("path_seconds")
    path = reply["path"] if since is None else f"{reply['path']} for {span(since)}"
    say(f"link: {path}, round trip {milliseconds(rtt)}, lost {loss:.1%}, window {size(window)}")
