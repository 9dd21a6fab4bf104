"""The command line of the hosts: `netns/lab`. See README.md beside it.

Settings of a link are words here (25ms, 1%, 100mbit); from here on they are numbers in SI units.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from netns.control import ask
from netns.link import Conditions
from netns.topology import (
    SWITCH,
    Topology,
    TopologyError,
    control_path,
    destroy,
    namespace,
    namespaces,
    sweep,
)

LABEL = "lab"  # of the hosts that `up` makes, if no other is given
Command = TypeVar("Command", bound=Callable[..., Any])

UNITS = {
    "TIME": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "RATE": {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9},
    "SHARE": {"%": 1e-2, "": 1.0},
}


def quantity(kind: str) -> Callable[[str], float]:
    """Reads a number with one of the kind's units as SI; zero needs none."""
    units = UNITS[kind]

    def convert(text: str) -> float:
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([a-z%]*)", text.lower())
        if match and match[2] in units:
            return float(match[1]) * units[match[2]]
        if match and not match[2] and float(match[1]) == 0:
            return 0.0
        raise click.BadParameter(
            f"{text!r} is no {kind.lower()}: a number with {' or '.join(filter(None, units))}"
        )

    return convert


def quantity_option(name: str, kind: str, help_text: str) -> Callable[[Command], Command]:
    """An option whose value is in SI units."""
    return click.option(name, type=quantity(kind), metavar=kind, help=help_text)


def link_options(command: Command) -> Command:
    """Every field of Conditions but the cable, as an option."""
    for option in [
        quantity_option("--duplicate", "SHARE", "Frames that arrive twice."),
        quantity_option("--reorder", "SHARE", "Frames that skip the delay and overtake."),
        quantity_option("--queue", "TIME", "The longest wait for the rate; default 100ms."),
        quantity_option("--rate", "RATE", "What each host can send: 100mbit. 0: no limit."),
        quantity_option("--loss", "SHARE", "Frames lost by chance: 1%."),
        quantity_option("--jitter", "TIME", "How much the delay varies: 5ms."),
        quantity_option("--delay", "TIME", "From one host to another: 25ms."),
    ]:
        command = option(command)
    return command


label_option = click.option("--label", default=LABEL, show_default=True, help="Which of several labs.")


def conditions_of(settings: dict[str, float | None]) -> Conditions | None:
    """None if nothing is asked of the link: a bridge will do."""
    given = {name: value for name, value in settings.items() if value is not None}
    return Conditions(**given) if given else None  # type: ignore[arg-type]  # none of them is `up`


def host_names(hosts: str) -> list[str]:
    """`3` or `alice,bob,carol`."""
    return [f"h{number}" for number in range(1, int(hosts) + 1)] if hosts.isdigit() else hosts.split(",")


@click.group(context_settings={"max_content_width": 110})
def main() -> None:
    """Hosts in network namespaces, joined by a link as good or bad as you like.

    HOSTS is a number (they are called h1, h2, ...) or names: alice,bob.
    """
    if os.geteuid() != 0:
        raise click.ClickException("not root: network namespaces need it")
    sweep()


@main.command()
@click.argument("hosts")
@link_options
@click.option("--seed", default=0, help="Of what happens by chance.")
@label_option
def up(hosts: str, seed: int, label: str, **link: float | None) -> None:
    """Make hosts that stay until `down`."""
    topology = Topology(host_names(hosts), conditions=conditions_of(link), seed=seed, label=label)
    topology.create()
    for host in topology:
        click.echo(f"{host.name}\t{host.interface}")


@main.command(context_settings={"ignore_unknown_options": True})
@label_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def run(label: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command in one host; `bash` for a shell there."""
    if (label, host) not in ((its_label, its_host) for its_label, its_host, _ in namespaces()):
        raise TopologyError(f"no such host: {host} (`netns/lab show` lists them)")
    os.execvp("ip", ["ip", "netns", "exec", namespace(label, host), *command])


@main.command()
@click.argument("hosts", nargs=-1)
@link_options
@click.option("--cut/--plug", "cut", default=None, help="Pull the cable, or put it back.")
@label_option
def link(hosts: tuple[str, ...], cut: bool | None, label: str, **link: float | None) -> None:
    """Show the link of each host, and change it for HOSTS (all, if none is named) while they run."""
    change: dict[str, float | bool] = {name: value for name, value in link.items() if value is not None}
    if cut is not None:
        change["up"] = not cut
    try:
        known = ask(control_path(label), {})
        if unknown := set(hosts) - set(known):
            raise TopologyError(f"no such host: {', '.join(sorted(unknown))}")
        state = ask(control_path(label), {"change": dict.fromkeys(hosts or known, change)})
    except OSError as error:
        raise TopologyError("no link to change: these hosts were made without, or are not there") from error
    for host, figures in state.items():
        click.echo(f"{host}\t{_words(figures['conditions'])}\t{_words(figures['counters'])}")


def _words(figures: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in figures.items())


@main.command()
def show() -> None:
    """List all hosts there are."""
    for label, host, name in namespaces():
        if host != SWITCH:
            click.echo(f"{label}\t{host}\t{name}")


@main.command()
@label_option
def down(label: str) -> None:
    """End all that runs in the hosts, and take them away."""
    destroy(label)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("hosts")
@link_options
@click.option("--seed", default=0, help="Of what happens by chance.")
@quantity_option("--timeout", "TIME", "End it all after this time.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def each(
    hosts: str, seed: int, timeout: float | None, command: tuple[str, ...], **link: float | None
) -> None:
    """Make hosts, run the same command in each, take them away.

    The command finds its own name in $LAB_HOST, its address in $LAB_ADDRESS, and NAME=ADDRESS of all of them
    in $LAB_HOSTS. Each line it prints is preceded by the name of the host. Done when all are done; the exit
    status is the highest of theirs, or 124 after the timeout.
    """
    with Topology(host_names(hosts), conditions=conditions_of(link), seed=seed) as topology:
        everybody = " ".join(f"{host.name}={host.address}" for host in topology)
        processes: list[subprocess.Popen[str]] = []
        printers = []
        for host in topology:
            environment = {"LAB_HOST": host.name, "LAB_ADDRESS": str(host.address), "LAB_HOSTS": everybody}
            process: subprocess.Popen[str] = host.start(
                command,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            processes.append(process)
            printer = threading.Thread(target=_print_lines, args=(host.name, process.stdout), daemon=True)
            printer.start()
            printers.append(printer)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            statuses = [
                process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                for process in processes
            ]
        except subprocess.TimeoutExpired:
            statuses = [124]
        else:
            for printer in printers:
                printer.join()
    sys.exit(max(abs(status) for status in statuses))


def _print_lines(host: str, output: IO[str]) -> None:
    for line in output:
        click.echo(f"{host}: {line}", nl=False)


def _entry() -> None:
    # What ends us politely must not keep us from taking the hosts away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(prog_name="netns/lab")
    except (TopologyError, ValueError) as error:
        sys.exit(f"netns/lab: {error}")


if __name__ == "__main__":
    _entry()
