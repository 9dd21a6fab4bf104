"""Tries profiles of `tunfwd game` with the games themselves: a server on one host, asked for by another.

Run by netns/game-trials. The question is the one of the game's own LAN search, to everybody; where there is a
client that runs without a screen, it plays. What is not on this machine is said, and counts as not tried.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from tabulate import tabulate

from netns.demo import DemoError, interrupted, say
from netns.emulator import INTERFACE
from netns.game_servers import TRIALS, Trial
from netns.node import Node, NodeError
from netns.topology import PROJECT, Topology, TopologyError
from tunfwd.cli.game_profiles import games

GROUP: Final = "lan-party"
DEAF: Final = (  # as if the two were on LANs of their own: they hear each other by tunfwd alone
    f"table inet deaf {{ chain in {{ type filter hook input priority 0;"
    f" iifname {INTERFACE} meta pkttype {{ broadcast, multicast }} drop; }}; }}"
)
JOIN_TIME: Final = 60.0  # s until both are in the group
SERVER_TIME: Final = 60.0  # s for a server to listen: some make a world first
ANSWER_TIME: Final = 20.0  # s, in which the question is asked again and again, as games do
CLIENT_TIME: Final = 60.0  # s for a client to join
EACH_TIME: Final = 240  # s for one game
OWN_TMP: Final = 'mount -t tmpfs -o mode=1777 tmpfs /tmp && exec "$@"'
NOBODY: Final = 65534  # who servers and clients run as: some refuse root


@dataclass(frozen=True)
class Row:
    """What became of a trial."""

    game: str
    server: str
    asked: str
    answer: str
    client: str


def version(package: str) -> str | None:
    """Of a package that is installed."""
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Version}", package],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    ).stdout.split()
    return told[1] if told[:1] == ["ii"] else None


@contextmanager
def started(node: Node, command: str, folder: Path, name: str) -> Iterator[Path]:
    """Run a program on a node's host as nobody, with a home and a /tmp of its own.

    Yields the file with what it prints.
    """
    log, home = folder / f"{name}.log", folder / f"{name}.home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    environment = os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    drop = ["unshare", "--mount", "sh", "-c", OWN_TMP, "sh"]
    drop += ["setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups"]
    with log.open("wb") as output:
        process = node.host.start(
            [*drop, *shlex.split(command.format(folder=folder))],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    continue


def prepared(node: Node, name: str, trial: Trial) -> Path:
    """A folder with the files of a trial, which nobody may write."""
    folder = node.folder / name
    for file, content in {"": None, **trial.files}.items():
        path = folder / file
        (path.parent if content is not None else path).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content.replace("{folder}", str(folder)))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return folder


def until(condition: Callable[[], object], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-800:]
            raise DemoError(f"not within {seconds:.0f} s: {what}; its last words: {said!r}")
        time.sleep(0.2)


def attempt(name: str, trial: Trial, host: Node, player: Node) -> Row:
    """Have the game's server on one host, and look for it from another. Raises DemoError, NodeError."""
    folder = prepared(host, name, trial)
    with started(host, trial.server, folder, "server") as log:
        listening = ["ss", "-Hln", f"--{trial.protocol}", f"sport = :{trial.port}"]
        until(lambda: host.host.run(listening).stdout, SERVER_TIME, f"{trial.package} listens", log)
        host.cli("game", "host", name, "--group", GROUP)
        [address] = {
            one["address"] for one in player.json("game", "join", name, "--group", GROUP)["mappings"]
        }
        if games()[name].player:  # announcements: the host accepts what the player offers for them
            host.wait_for(
                lambda: host.json("game", "host", name, "--group", GROUP)["mappings"],
                ANSWER_TIME,
                "it is accepted",
            )
        answer = found(player, trial, address)
        client = played(player, trial, address, folder, log) if trial.client else "-"
    for node in (host, player):
        node.cli("kill", name, check=False)
    asked = f"{trial.to or 'the host'}, {trial.port}/{trial.protocol}"
    return Row(name, f"{trial.package} {version(trial.package)}", asked, f"{address}: {answer}", client)


def played(player: Node, trial: Trial, address: str, folder: Path, server_log: Path) -> str:
    """Have the game's client join or search; what came of it."""
    missing = [package for package in trial.client_packages if version(package) is None]
    if missing:
        return f"not tried, no {' and '.join(missing)} here"
    seen = re.compile(trial.seen.replace("{address}", re.escape(address)))
    with started(player, trial.client.replace("{address}", address), folder, "client") as log:

        def is_seen() -> bool:
            return any(seen.search(text.read_text(errors="replace")) for text in (server_log, log))

        until(is_seen, CLIENT_TIME, f"what the client of {trial.package} is to do", log)
    program = next(word for word in shlex.split(trial.client) if word.startswith("/"))
    return f"{Path(program).name} {trial.played}"


def found(player: Node, trial: Trial, address: str) -> str:
    """Ask until the server has answered, from the address where players are told that it is."""
    how = ["--hear", f"{trial.hear}"] if trial.hear is not None else ["--tcp"] * (trial.protocol == "tcp")
    command = [
        sys.executable,
        "-m",
        "netns.lan_ask",
        trial.question.hex(),
        trial.to or address,
        f"{trial.port}",
        *how,
    ]
    answers: list[list[str]] = []

    def answered() -> str | None:
        answers[:] = json.loads(player.host.run(command, cwd=PROJECT, timeout=20).stdout)
        return next(
            (trial.answer(bytes.fromhex(data)) for source, data in answers if source == address), None
        )

    deadline = time.monotonic() + ANSWER_TIME
    while (answer := answered()) is None:
        if time.monotonic() > deadline:
            raise DemoError(f"no answer of {address}, but {answers}")
    if len(answers) != 1:
        raise DemoError(f"others than {address} answered, too: {answers}")
    return answer


def settings(name: str, **tox: object) -> dict[str, dict[str, object]]:
    """A daemon's configuration."""
    return {"tox": {"nickname": name, **tox}, "lan": {"capture": True}}


def together(host: Node, player: Node) -> None:
    """Both in one group, with broadcasts of any program copied."""
    host.start()
    player.configure(settings(player.name, bootstrap=[host.bootstrap()]))
    player.start()
    host.cli("group", "create", GROUP, "--public")
    [group] = host.json("group", "list")["groups"]
    player.cli("group", "join", group["id"], "--name", GROUP)

    def both_there() -> bool:
        return all(
            [one["members"] for one in node.json("group", "list")["groups"]] == [1] for node in (host, player)
        )

    player.wait_for(both_there, JOIN_TIME, "both are in the group")


def run(names: Sequence[str]) -> int:
    """Try these games; 0 only if each that is here was found."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupted)
    missing = {name: TRIALS[name].package for name in names if version(TRIALS[name].package) is None}
    here = [name for name in names if name not in missing]
    rows: list[Row] = []
    failed: list[str] = []
    signal.alarm(60 + EACH_TIME * len(here))
    try:
        with ExitStack() as stack:
            net = stack.enter_context(Topology(["host", "player"]))
            nodes = []
            for place in net:
                (net.folder / place.name).mkdir()
                place.run(["ip", "route", "add", "default", "dev", INTERFACE])  # where broadcasts leave
                place.run(["nft", DEAF])
                nodes.append(Node(place, net.folder / place.name, settings(place.name)))
                stack.callback(nodes[-1].stop)
            host, player = nodes
            together(host, player)
            for name in here:
                say(f"{name}: {games()[name].title}")
                try:
                    rows.append(attempt(name, TRIALS[name], host, player))
                except (DemoError, NodeError) as error:
                    failed.append(name)
                    print(f"failed: {error}", file=sys.stderr)
            for node in nodes:
                node.stop()
    except KeyboardInterrupt:
        print("\ngame-trials: interrupted", file=sys.stderr)
        return 130
    except (NodeError, TopologyError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"\ngame-trials: failed: {error}", file=sys.stderr)
        return 1
    headings = ("GAME", "SERVER", "ASKED", "ANSWER FROM", "CLIENT")
    cells = [(row.game, row.server, row.asked, row.answer, row.client) for row in rows]
    print(tabulate(cells, headings, "plain", disable_numparse=True))
    for name, package in missing.items():
        print(f"{name}: not tried, no {package} here")
    return 1 if failed or not rows else 0


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(TRIALS)))
def main(names: tuple[str, ...]) -> None:
    """Try games by NAME, or all; exit status 0 only if each that is installed was found."""
    sys.exit(run(names or tuple(TRIALS)))


if __name__ == "__main__":
    main()
