"""A game night: one host offers a game server to a Tox group, the others play. Run by netns/game-night.

They meet by the group's chat id alone, so that nobody has to become anybody's friend. Each has a rule that
takes what members of the group offer, and asks the server for its state at the address of the member who
runs it, with the program that server browsers use. What stands after a prompt has been run just so.
"""

import json
import shlex
import signal
import subprocess
import sys
import time

import click
from tabulate import tabulate

from netns.demo import (
    REACH_TIME,
    SERVICE_TIME,
    DemoError,
    interrupted,
    is_running,
    printed,
    say,
    service,
    tunfwd,
    typed,
)
from netns.lab import quantity
from netns.link import Conditions
from netns.node import Node, NodeError
from netns.topology import Topology, TopologyError

SERVER = "/usr/games/DDNet-Server"
PORT = 8303
SERVER_CONFIG = f'sv_name "LAN party"\nsv_port {PORT}\nsv_register 0\nsv_max_clients 16\n'
GROUP = "lan-party"
RULE = {"contact": f"group:{GROUP}/*", "protocol": "udp", "ports": str(PORT), "action": "accept"}
JOIN_TIME = 60.0  # s; toxcore takes about 10 until all see each other
MOST_HOSTS = 16
WHOLE_TIME = 180  # s


def start(nodes: list[Node]) -> None:
    """All daemons; the others join the Tox network through the first one's."""
    say(f"{len(nodes)} hosts, each with a daemon. The players have a rule: take the group's game server.")
    for node in nodes:
        if node is not nodes[0]:
            node.configure(
                {"tox": {"nickname": node.name, "bootstrap": [nodes[0].bootstrap()]}, "rule": [RULE]}
            )
        typed(node.host, ["tunfwd", "daemon"], background=True)
        node.start()
    typed(nodes[-1].host, ["cat", "$TUNFWD_CONFIG"])
    printed(nodes[-1].config_file.read_text())


def invite(host: Node) -> str:
    """The host of the game founds a group, and offers its server to it; the group's chat id."""
    say(f"{host.name} founds a group, and offers a game server to everybody in it, now and later.")
    tunfwd(host, "group", "create", GROUP, "--public")
    (host.folder / "server.cfg").write_text(SERVER_CONFIG)
    service(host, SERVER, "-f", "server.cfg", folder=host.folder, listening=f"-u sport = :{PORT}")
    tunfwd(host, "offer", f"{PORT}/udp", "--to", f"group:{GROUP}", "--name", "game")
    [group] = host.json("group", "list")["groups"]
    return str(group["id"])


def join(host: Node, players: list[Node], chat_id: str) -> None:
    """The players join, and have the server, by their rule."""
    say(f"{host.name} tells the others the chat id. They join.")
    for player in players:
        tunfwd(player, "group", "join", chat_id, "--name", GROUP)
    for node in [host, *players]:
        node.wait_for(lambda node=node: others_in(node) == len(players), JOIN_TIME, "all are in the group")  # type: ignore[misc]
    for player in players:
        player.wait_for(lambda node=player: is_running(node, "game"), REACH_TIME, "the game can be reached")  # type: ignore[misc]
    tunfwd(host, "group", "peers", GROUP)
    tunfwd(players[-1], "ports")


def others_in(node: Node) -> int:
    groups = node.json("group", "list")["groups"]
    return int(groups[0]["members"]) if groups and groups[0]["name"] == GROUP else -1


def play(host: Node, players: list[Node]) -> None:
    """Each player asks the server, at the host's address on that player's machine."""
    say("Each player looks at the server, as any server browser does.")
    rows = []
    for player in players:
        address = f"{player.contact(host.name)['address']}:{PORT}"
        query = ["quakestat", "-json", "-tees", address]
        typed(player.host, query)
        result = player.host.run(query, check=False, timeout=SERVICE_TIME * 2)
        [answer] = json.loads(result.stdout)
        if answer["status"] != "online":
            raise DemoError(f"no answer to `{shlex.join(query)}` of {player.name}: {result.stdout}")
        players_text = f"{answer['numplayers']}/{answer['maxplayers']}"
        rows.append(
            (player.name, address, answer["name"], answer["map"], players_text, f"{answer['ping']} ms")
        )
    print()
    printed(
        tabulate(rows, ("HOST", "SERVER", "NAME", "MAP", "PLAYERS", "PING"), "plain", disable_numparse=True)
    )

    say(f"On {host.name}, where the server is, each player came from an address of its own.")
    tunfwd(host, "ports")


@click.command()
@click.argument("hosts", type=click.IntRange(2, MOST_HOSTS), default=4)
@click.option(
    "--delay", type=quantity("TIME"), default="10ms", metavar="TIME", show_default=True, help="One way."
)
def main(hosts: int, delay: float) -> None:
    """Play on N hosts; exit status 0 only if all of it worked."""
    sys.exit(run(hosts, delay))


def run(hosts: int, delay: float) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupted)
    signal.alarm(WHOLE_TIME)
    started = time.monotonic()
    names = ["host", *(f"player{number}" for number in range(1, hosts))]
    try:
        with Topology(names, conditions=Conditions(delay=delay)) as net:
            for place in net:
                (net.folder / place.name).mkdir()
            nodes = [Node(place, net.folder / place.name, {"tox": {"nickname": place.name}}) for place in net]
            start(nodes)
            host, *players = nodes
            join(host, players, invite(host))
            play(host, players)
            for node in nodes:
                node.stop()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # so near the end, let it tidy up
    except KeyboardInterrupt:
        print("\ngame-night: interrupted", file=sys.stderr)
        return 130
    except (DemoError, NodeError, TopologyError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"\ngame-night: failed: {error}", file=sys.stderr)
        return 1
    say(f"All of it worked, in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    main()
