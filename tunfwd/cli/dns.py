"""`tunfwd dns`: has the system's resolver ask the daemon for names. Never touches resolv.conf."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import hint, say, show, show_table
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.files import write_whole

ADVICE: Final = "docs/names.md says what each resolver takes; programs can also ask {server} themselves"
LINK_TIME: Final = 10.0  # s for resolvectl


@dataclass(frozen=True, slots=True)
class Facts:
    """What a resolver has to be told."""

    interface: str
    domain: str
    server: str
    server6: str

    @property
    def reverse(self) -> str:
        """The domain of the addresses' names: of a /16, which holds any range but larger ones."""
        second, first = ip_address(self.server).packed[1::-1]
        return f"{second}.{first}.in-addr.arpa"


def _dnsmasq(facts: Facts) -> str:
    return f"server=/{facts.domain}/{facts.server}\nserver=/{facts.reverse}/{facts.server}\n"


def _unbound(facts: Facts) -> str:
    zones = "".join(
        f'stub-zone:\n  name: "{zone}"\n  stub-addr: {facts.server}\n'
        for zone in (facts.domain, facts.reverse)
    )
    return (
        f'server:\n  domain-insecure: "{facts.domain}"\n  domain-insecure: "{facts.reverse}"\n'
        f'  private-domain: "{facts.domain}"\n  local-zone: "{facts.reverse}." transparent\n{zones}'
    )


@dataclass(frozen=True, slots=True)
class Program:
    """A resolver that reads files of a folder."""

    name: str
    folder: str
    content: Callable[[Facts], str]
    reload: str

    def file(self) -> Path:
        """Where its drop-in is."""
        return Path(self.folder) / "tunfwd.conf"

    def is_there(self) -> bool:
        """Whether this machine has it."""
        binary = "NetworkManager" if self.name == "networkmanager" else self.name
        search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        return Path(self.folder).is_dir() and shutil.which(binary, path=search) is not None


# Which of several that are there goes first: who asks the others
PROGRAMS: Final = (
    Program("networkmanager", "/etc/NetworkManager/dnsmasq.d", _dnsmasq, "systemctl reload NetworkManager"),
    Program("unbound", "/etc/unbound/unbound.conf.d", _unbound, "systemctl reload unbound"),
    Program("dnsmasq", "/etc/dnsmasq.d", _dnsmasq, "systemctl restart dnsmasq"),
)
RESOLVED: Final = "resolved"
NAMES: Final = (RESOLVED, *(program.name for program in PROGRAMS))


@click.group(no_args_is_help=False)
def dns() -> None:
    """Have the system's resolver know the names of contacts."""


@dns.command()
@click.option(
    "--for", "which", type=click.Choice(NAMES), help="The resolver. [default: the one that is there]"
)
@click.option("--print", "only_print", is_flag=True, help="Print the drop-in, and write nothing.")
@click.pass_context
def install(ctx: click.Context, which: str | None, only_print: bool) -> None:
    """Have systemd-resolved, NetworkManager, unbound or dnsmasq ask the daemon.

    A file is written into the resolver's folder, or systemd-resolved is told, for as long as the interface is
    there. /etc/resolv.conf is never touched.
    """
    facts = _facts(Session.of(ctx))
    which = which or _found(facts)
    if which == RESOLVED:
        _tell_resolved(facts, only_print)
        return
    program = next(program for program in PROGRAMS if program.name == which)
    if only_print:
        click.echo(program.content(facts), nl=False)
        return
    try:
        write_whole(program.file(), program.content(facts).encode())
        program.file().chmod(0o644)
    except PermissionError as error:
        raise UserError("privilege", f"{program.file()}: {error.strerror}; run this as root") from None
    except OSError as error:
        raise UserError("failed", f"{program.file()}: {error.strerror}") from None
    say(f"wrote {program.file()}")
    hint(f"It holds once {which} has read it: {program.reload}")


@dns.command()
def remove() -> None:
    """Take away what `install` wrote."""
    for program in PROGRAMS:
        try:
            program.file().unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            refused = isinstance(error, PermissionError)
            message = f"{program.file()}: {error.strerror}"
            raise UserError("privilege" if refused else "failed", message) from None
        say(f"removed {program.file()}")
        hint(f"It holds once {program.name} has noticed: {program.reload}")


@dns.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Say which resolvers are there, and which of them know."""
    facts = _facts(Session.of(ctx))
    resolvers: list[dict[str, Any]] = [
        {
            "resolver": program.name,
            "present": program.is_there(),
            "file": str(program.file()),
            "installed": _content(program) is not None,
            "current": _content(program) == program.content(facts),
        }
        for program in PROGRAMS
    ]
    told = _resolved_knows(facts)
    resolvers.insert(
        0,
        {"resolver": RESOLVED, "present": _has_resolved(), "file": None, "installed": told, "current": told},
    )
    show(
        {"domain": facts.domain, "dns": [facts.server, facts.server6], "resolvers": resolvers},
        as_json,
        _table,
    )


def _table(result: dict[str, Any]) -> None:
    say(f"{result['domain']} is asked for at {' and '.join(result['dns'])}")
    show_table(
        ("RESOLVER", "FILE", "STATE"),
        [[entry["resolver"], entry["file"] or "-", _state(entry)] for entry in result["resolvers"]],
        empty="",
    )


def _state(entry: dict[str, Any]) -> str:
    if entry["installed"]:
        return "installed" if entry["current"] else "out of date: tunfwd dns install"
    return "not installed" if entry["present"] else "not on this machine"


def _content(program: Program) -> str | None:
    try:
        return program.file().read_text()
    except OSError:
        return None


def _facts(session: Session) -> Facts:
    identity = session.call(api.IDENTITY)
    servers, domain = identity.get("dns"), identity.get("domain")
    if not servers or domain is None:
        raise UserError("failed", "nobody answers for names: [dns] enabled = false")
    return Facts(identity["interface"], domain, servers[0], servers[1])


def _found(facts: Facts) -> str:
    if _has_resolved():
        return RESOLVED
    found = next((program.name for program in PROGRAMS if program.is_there()), None)
    if found is None:
        raise UserError("not_found", f"no resolver that is known here; {ADVICE.format(server=facts.server)}")
    return found


def _has_resolved() -> bool:
    return shutil.which("resolvectl") is not None and Path("/run/systemd/resolve/stub-resolv.conf").exists()


def _resolved_knows(facts: Facts) -> bool:
    if not _has_resolved():
        return False
    command = ["resolvectl", "domain", facts.interface]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LINK_TIME)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return f"~{facts.domain}" in done.stdout.split()


def _tell_resolved(facts: Facts, only_print: bool) -> None:
    """Have it ask the daemon for these domains alone, by the interface; for as long as that is there."""
    commands = (
        ["resolvectl", "dns", facts.interface, facts.server],
        ["resolvectl", "domain", facts.interface, f"~{facts.domain}", f"~{facts.reverse}"],
        ["resolvectl", "default-route", facts.interface, "no"],
    )
    for command in commands:
        if only_print:
            click.echo(" ".join(command))
            continue
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LINK_TIME)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError("failed", f"{' '.join(command)}: {error}") from None
        if done.returncode:
            raise UserError("failed", f"{' '.join(command)}: {done.stderr.strip()}")
    if not only_print:
        say(
            f"systemd-resolved asks {facts.server} for {facts.domain},"
            f" for as long as {facts.interface} is there"
        )
