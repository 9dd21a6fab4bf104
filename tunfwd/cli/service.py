"""`tunfwd reload`, `tunfwd service`: a daemon that runs for good, under systemd."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import note, say, show, show_json
from tunfwd.cli.session import Session
from tunfwd.cli.unit import CONFIG, UNIT
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


NAME: Final = "tunfwd.service"
OWN_UNIT: Final = Path("/etc/systemd/system") / NAME
PACKAGED: Final = tuple(Path(folder) / NAME for folder in ("/usr/lib/systemd/system", "/lib/systemd/system"))
RUNNING: Final = Path("/run/systemd/system")  # is there while systemd is the init system: sd_booted(3)
HIDDEN: Final = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # from a service with our sandbox
USER: Final = "tunfwd"


@click.group(no_args_is_help=False)
def service() -> None:
    """Have systemd run the daemon, from boot on."""


@service.command()
def install() -> None:
    """Install, enable and start the service.

    It runs as the user tunfwd, and members of the group tunfwd use the commands without being root.
    """
    _require_systemd()
    packaged = any(path.exists() for path in PACKAGED)
    text = None if packaged else UNIT.format(program=_program())
    _make_user()
    _make_configuration(Path("/etc/tunfwd/config.toml"))
    if text is not None:
        OWN_UNIT.write_text(text)
        OWN_UNIT.chmod(0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", NAME)
    _systemctl("restart", NAME)  # so that an installation over an older one is what runs
    say(f"the service runs, and starts at boot: systemctl status {NAME}")
    note(f"Who is to use it without being root: usermod -aG {USER} NAME, and a new login.")


@service.command()
def remove() -> None:
    """Stop the service and take it away; state and configuration stay."""
    _require_systemd()
    if not OWN_UNIT.exists():
        if any(path.exists() for path in PACKAGED):
            raise UserError("failed", "the service belongs to a package: `apt remove tunfwd` removes it")
        raise UserError("not_found", f"{OWN_UNIT} is not there: no service was installed")
    _systemctl("disable", "--now", NAME)
    OWN_UNIT.unlink()
    _systemctl("daemon-reload")
    say("the service is removed; /var/lib/tunfwd (who you are) and /etc/tunfwd stay")


@service.command()
@json_option
def status(as_json: bool) -> None:
    """Show whether the service is installed, enabled and running."""
    unit = next((path for path in (OWN_UNIT, *PACKAGED) if path.exists()), None)
    booted = RUNNING.is_dir()
    enabled = booted and _ask("is-enabled") == "enabled"
    active = _ask("is-active") if booted else "unknown"
    if as_json:
        shown = {"unit": None if unit is None else str(unit), "enabled": enabled, "active": active}
        show_json({"service": {"systemd": booted, **shown}})
    elif not booted:
        say("systemd does not run this machine")
    elif unit is None:
        say("not installed; see: tunfwd service install")
    else:
        say(f"{unit}: {'starts at boot' if enabled else 'does not start at boot'}, {active}")


@service.command()
@click.argument("program", default="/usr/bin/tunfwd")
def unit(program: str) -> None:
    """Print the unit for a program at that path."""
    click.echo(UNIT.format(program=program), nl=False)


def _require_systemd() -> None:
    if not RUNNING.is_dir() or shutil.which("systemctl") is None:
        raise UserError(
            "failed", "systemd does not run this machine: have your init system run `tunfwd daemon` as root"
        )
    if os.geteuid() != 0:
        raise UserError("privilege", "services are root's to change: sudo tunfwd service ...")


def _program() -> str:
    """Return where this program is, for others than whoever runs it now. Raises UserError."""
    found = Path(sys.argv[0]) if os.sep in sys.argv[0] else Path(shutil.which(sys.argv[0]) or sys.argv[0])
    program = Path(os.path.abspath(found))
    places = {str(program), os.path.realpath(program), os.path.realpath(sys.prefix) + "/"}
    hidden = next((place for place in places if place.startswith(HIDDEN)), None)
    if hidden is not None or not program.exists():
        raise UserError(
            "failed",
            f"{hidden or program} is not for the service to reach: install tunfwd for the whole machine, by"
            " its package, or by `pipx install --global tunfwd`",
        )
    return str(program)


def _make_user() -> None:
    try:
        pwd.getpwnam(USER)
        grp.getgrnam(USER)
    except KeyError:
        options = (
            "--system",
            "--user-group",
            "--home-dir",
            "/var/lib/tunfwd",
            "--shell",
            "/usr/sbin/nologin",
        )
        _run("useradd", *options, USER)


def _make_configuration(file: Path) -> None:
    """Make an empty one where there is none, that the service can read: it may hold names and keys."""
    if file.exists():
        return
    file.parent.mkdir(mode=0o755, exist_ok=True)
    file.write_text(CONFIG)
    file.chmod(0o640)
    shutil.chown(file, "root", USER)


def _systemctl(*arguments: str) -> None:
    _run("systemctl", *arguments)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as failure:
        raise UserError("failed", f"{command[0]} cannot be run: {failure.strerror}") from None
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise UserError("failed", f"{' '.join(command)}: {told[0] if told else done.returncode}")


def _ask(question: str) -> str:
    done = subprocess.run(("systemctl", question, NAME), capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
