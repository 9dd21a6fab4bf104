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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
from tabulate import tabulate

from netns import lan_search
from netns.demo import DemoError, interrupted, say
from netns.emulator import INTERFACE
from netns.node import Node, NodeError
from netns.topology import PROJECT, Topology, TopologyError
from tunfwd.cli.game_profiles import games

GROUP: Final = "lan-party"
DEAF: Final = (  # as if the two were on LANs of their own: they hear each other by tunfwd alone
    f"table inet deaf {{ chain in {{ type filter hook input priority 0;"
    f" iifname {INTERFACE} meta pkttype {{ broadcast, multicast }} drop; }}; }}"
)
EVERYBODY: Final = "255.255.255.255"
JOIN_TIME: Final = 60.0  # s until both are in the group
SERVER_TIME: Final = 60.0  # s for a server to listen: some make a world first
ANSWER_TIME: Final = 20.0  # s, in which the question is asked again and again, as games do
CLIENT_TIME: Final = 60.0  # s for a client to join
EACH_TIME: Final = 240  # s for one game
NOBODY: Final = 65534  # who servers and clients run as: some refuse root

QUAKE: Final = b"\xff\xff\xff\xff"
STK_QUESTION: Final = b"stk-server"


@dataclass(frozen=True)
class Trial:
    """How a game's server is started, asked, and played on."""

    package: str
    server: str  # {folder}: where it and the client may write
    question: bytes
    port: int
    answer: Callable[[bytes], str | None]
    """What came back, in words; None: something else than an answer."""
    to: str | None = EVERYBODY  # None: the host alone, as players do who type the address
    hear: int | None = None  # where answers go to everybody
    protocol: str = "udp"
    files: Mapping[str, str] = field(default_factory=dict)
    client: str = ""  # {address}: where the server is
    played: str = ""  # what the server or the client prints then


def quake(data: bytes) -> str | None:
    if not data.startswith(QUAKE + b"infoResponse"):
        return None
    fields = data.decode("latin-1").split("\\")
    info = dict(zip(fields[1::2], fields[2::2], strict=False))
    return f"{info.get('hostname')}, {info.get('mapname')}"


def ddnet(data: bytes) -> str | None:
    fields = data.removeprefix(lan_search.ANSWER).split(b"\0")
    return f"{fields[2].decode()}, {fields[3].decode()}" if data.startswith(lan_search.ANSWER) else None


def bzflag(data: bytes) -> str | None:
    return data[4:12].decode() if data[2:4] == b"\x03\x03" else None


def openttd(data: bytes) -> str | None:
    return (
        "there is a server" if data == b"\x03\x00\x01" else None
    )  # all it says; the rest is asked for by TCP


def freeciv(data: bytes) -> str | None:
    fields = data[1:].split(b"\0")  # after the protocol's version: host, port, version, state …
    return f"{fields[2].decode()} at port {fields[1].decode()}" if data[:1] == b"\x02" else None


def luanti(data: bytes) -> str | None:
    return "a peer id, as to who connects" if data[:4] == b"OEt\x03" and len(data) == 14 else None


def mumble(data: bytes) -> str | None:
    return (
        f"version {'.'.join(map(str, data[1:4]))}" if len(data) == 24 and data[4:12] == b"tunfwd!!" else None
    )


TRIALS: Final = {
    "ddnet": Trial(
        package="ddnet-server",
        server="/usr/games/DDNet-Server -f {folder}/server.cfg",
        files={"server.cfg": 'sv_name "LAN party"\nsv_register 0\n'},
        question=lan_search.QUESTION,
        port=8303,
        answer=ddnet,
    ),
    "openttd": Trial(
        package="openttd",
        server="stdbuf -oL /usr/games/openttd -D 0.0.0.0:3979 -x -c {folder}/server.cfg",
        files={"client/openttd.cfg": "[network]\nclient_name = player1\n"},
        question=b"\x03\x00\x00",
        port=3979,
        answer=openttd,
        client="/usr/games/openttd -v null:ticks=100000000 -s null -m null -b null -x"
        " -c {folder}/client/openttd.cfg -n {address}:3979",
        played=r"\*\*\* player1 has started a new company",
    ),
    "bzflag": Trial(
        package="bzflag-server",
        server="/usr/games/bzfs -p 5154 -d",
        question=b"\x00\x02\x04\x04\x00\x00",
        port=5154,
        answer=bzflag,
        client="/usr/games/bzadmin -ui stdboth player1@{address}:5154 /date /quit",
        played=r"player1 \[\d+\] -> All: /date|Player player1 \[\d+\] has joined",
    ),
    "freeciv": Trial(
        package="freeciv-server",
        server="/usr/games/freeciv-server --identity none --Announce IPv4 -p 5556 -s {folder}",
        question=b"\x02",
        port=4555,
        to="225.1.1.1",
        hear=4556,
        answer=freeciv,
    ),
    "openarena": Trial(
        package="openarena-server",
        server="/usr/games/openarena-server +set net_port 27960 +set sv_hostname LAN +map oa_dm1",
        question=QUAKE + b"getinfo xxx",
        port=27960,
        answer=quake,
    ),
    "xonotic": Trial(
        package="nexuiz-server",
        server="/usr/games/nexuiz-server +port 26000 +hostname LAN +sv_public 0",
        question=QUAKE + b"getinfo",
        port=26000,
        answer=quake,
    ),
    "luanti": Trial(
        package="minetest-server",
        server="/usr/games/minetestserver --world {folder}/world --gameid minetest_game --logfile {folder}/l",
        question=bytes.fromhex("4f45740300000001"),
        port=30000,
        to=None,
        answer=luanti,
    ),
    "mumble": Trial(
        package="mumble-server",
        server="/usr/sbin/murmurd -fg -ini {folder}/mumble.ini",
        files={
            "mumble.ini": "database={folder}/mumble.sqlite\nlogfile=\npidfile=\nice=\ndbus=\nbonjour=false\n"
        },
        question=b"\0\0\0\0tunfwd!!",
        port=64738,
        to=None,
        answer=mumble,
    ),
}


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
    """Run a program on a node's host as nobody; yields the file with what it prints."""
    log = folder / f"{name}.log"
    environment = os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    drop = ["setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups"]
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
        listening = ["ss", "-Hlnu", f"sport = :{trial.port}"]
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
        client = ""
        if trial.client:
            with started(player, trial.client.replace("{address}", address), folder, "client") as said:
                texts = (log, said)
                until(
                    lambda: any(re.search(trial.played, text.read_text(errors="replace")) for text in texts),
                    CLIENT_TIME,
                    f"the client plays on {trial.package}",
                    log,
                )
            client = f"{Path(shlex.split(trial.client)[0]).name} joined"
    for node in (host, player):
        node.cli("kill", name, check=False)
    asked = f"{trial.to or 'the host'}, {trial.port}/udp"
    return Row(
        name, f"{trial.package} {version(trial.package)}", asked, f"{address}: {answer}", client or "-"
    )


def found(player: Node, trial: Trial, address: str) -> str:
    """Ask until the server has answered, from the address where players are told that it is."""
    hear = ["--hear", f"{trial.hear}"] if trial.hear is not None else []
    command = [
        sys.executable,
        "-m",
        "netns.lan_ask",
        trial.question.hex(),
        trial.to or address,
        f"{trial.port}",
        *hear,
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
