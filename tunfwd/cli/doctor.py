"""`tunfwd doctor`: looks for what keeps people from getting on, here and in the daemon."""

import os
import stat
from collections.abc import Iterator
from typing import Final, Literal

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import show_fields, show_json
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api

DOCTOR_TIME: Final = 30.0  # s for the daemon to look around, which takes asking nodes
MARKS: Final = {"ok": "ok", "warning": "warning", "error": "ERROR"}


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Look for what is wrong here or in the daemon.

    Checks libtoxcore, privileges, configuration, control socket, daemon, firewall and what `tunfwd run`
    takes; exits with 1 if one is an error.
    """
    found = list(checks(Session.of(ctx)))
    healthy = all(check["ok"] for check in found)
    if as_json:
        show_json({"ok": healthy, "checks": found})
    else:
        show_fields((MARKS[check["level"]], f"{check['name']}: {check['detail']}") for check in found)
    return 0 if healthy else 1


def checks(session: Session) -> Iterator[api.Check]:
    """Yield what was looked at."""
    daemon, its_checks = _daemon(session)
    runs = daemon["level"] == "ok"
    if not runs:  # one that runs has found its library and device, whatever we would find
        yield _libtoxcore(session)
        yield _tun()
    if not any(check["name"] == "configuration" for check in its_checks):
        yield from _configuration(session, runs)  # else the daemon has said what it goes by
    if not runs:
        yield from _files(session)
    yield from _sockets(session)
    yield daemon
    yield from its_checks
    yield _run()
    if runs:
        yield from _firewall(session)


def _check(name: str, level: Literal["ok", "warning", "error"], detail: str) -> api.Check:
    return {"name": name, "ok": level != "error", "level": level, "detail": detail}


def _libtoxcore(session: Session) -> api.Check:
    from tunfwd.tox.binding.errors import ToxcoreUnusable  # noqa: PLC0415  cffi is for this command alone
    from tunfwd.tox.version import inspect, require  # noqa: PLC0415

    try:
        report = inspect()
        require(report, groups=_wants_groups(session))
    except ToxcoreUnusable as unusable:
        return _check("libtoxcore", "error", str(unusable))
    if report.warnings:
        return _check("libtoxcore", "warning", " ".join(report.warnings))
    return _check("libtoxcore", "ok", report.full_text)


def _wants_groups(session: Session) -> bool:
    from tunfwd.config.document import load  # noqa: PLC0415

    try:
        return load(session.config).tox.groups
    except UserError:
        return True  # _configuration says what is wrong


def _configuration(session: Session, runs: bool) -> Iterator[api.Check]:
    from tunfwd.config.document import load  # noqa: PLC0415
    from tunfwd.config.remarks import public_range  # noqa: PLC0415

    try:
        config = load(session.config)
    except UserError as wrong:
        yield _check("configuration", "error", wrong.message)
        return
    yield _check("configuration", "ok", str(config.file or "none; everything has its default"))
    for remark in public_range(config.network.range):
        yield _check("configuration", "warning", remark)
    if not runs and not config.tox.bootstrap and not config.tox.public_nodes:  # else the daemon knows better
        where = (
            "only friends in the local network are found" if config.tox.local_discovery else "nobody is found"
        )
        detail = f"[tox] public_nodes is off, and bootstrap names no node: {where}"
        yield _check("bootstrap", "warning", detail)


def _files(session: Session) -> Iterator[api.Check]:
    """Look at what the next start finds of earlier ones."""
    from tunfwd.config.document import load  # noqa: PLC0415
    from tunfwd.daemon.storage.state import FILE, IDENTITY, trouble  # noqa: PLC0415
    from tunfwd.tox.binding.errors import ToxcoreUnusable  # noqa: PLC0415
    from tunfwd.tox.identity import Identity, IdentityError, read_passphrase  # noqa: PLC0415

    try:
        config = load(session.config)
        if not (os.access(config.state, os.R_OK | os.X_OK) and any(config.state.iterdir())):
            return  # none yet, or another user's
        secret = config.tox.passphrase_file
        identity = Identity(config.state / IDENTITY, read_passphrase(secret) if secret else None)
        troubles = [identity.trouble(), trouble(config.state / FILE)]
    except (UserError, ToxcoreUnusable):
        return  # said already
    except IdentityError as unusable:
        troubles = [str(unusable)]
    for found in filter(None, troubles):
        yield _check("storage", "error", found)
    if not any(troubles):
        yield _check("storage", "ok", str(config.state))


def _tun() -> api.Check:
    from tunfwd.tun.privileges import PrivilegeError, check  # noqa: PLC0415

    try:
        check()
    except PrivilegeError as missing:
        return _check("tun", "error", str(missing))
    return _check("tun", "ok", "/dev/net/tun and CAP_NET_ADMIN are there")


def _run() -> api.Check:
    """Try what `tunfwd run` takes; a daemon needs none of it."""
    from tunfwd.tun.namespace import obstacle  # noqa: PLC0415

    if (found := obstacle()) is not None:
        return _check("run", "warning", f"`tunfwd run` cannot work for you: {found}")
    return _check("run", "ok", "`tunfwd run` can give programs a network of their own")


def _sockets(session: Session) -> Iterator[api.Check]:
    try:
        paths = list(session.sockets())
    except UserError:
        return  # _configuration has said it
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue  # no daemon there, or not for us: _daemon tells
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o007:
            yield _check(
                "control socket", "error", f"{path} is open to everyone (mode {mode:04o}): chmod o= {path}"
            )
        else:
            yield _check("control socket", "ok", f"{path} (mode {mode:04o})")


def _firewall(session: Session) -> Iterator[api.Check]:
    from tunfwd.cli import firewall  # noqa: PLC0415

    try:
        own, ports = session.call(api.IDENTITY), session.call(api.PORTS)["ports"]
    except UserError as failure:
        yield _check("firewall", "warning", f"not looked at: {failure.message}")
        return
    if own.get("mode") == "rootless" or not firewall.is_here(own["interface"]):
        return  # no device here that rules could be about
    rules = firewall.read_rules()
    if isinstance(rules, str):
        yield _check("firewall", "ok", f"not looked at: {rules}")
        return
    dropped = list(firewall.problems(rules, own, ports))
    for problem in dropped:
        yield _check("firewall", "error", problem)
    if legacy := firewall.unread_tables():
        yield _check("firewall", "warning", f"rules of iptables-legacy are not looked at: {legacy}")
    if not dropped:
        yield _check(
            "firewall", "ok", "nf_tables drops nothing of the device, nor of what contacts may reach"
        )


def _daemon(session: Session) -> tuple[api.Check, list[api.Check]]:
    try:
        running = session.call(api.VERSION)
        its_checks = session.call(api.DOCTOR, patience=DOCTOR_TIME)["checks"]
    except UserError as failure:
        return _check("daemon", "error", failure.message), []
    return _check("daemon", "ok", f"runs, version {running['version']}"), its_checks
