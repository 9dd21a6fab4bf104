"""A game night: one host offers a game server to a Tox group, the others play. Run by netns/game-night.

They meet by the group's chat id alone, so that nobody has to become anybody's friend. Nobody types an
address: each player's game asks everybody, as on a LAN, and lists who answers. Then the host restarts, a
player leaves and returns, and one floods; the others play on. What stands after a prompt was run just so.
"""

import json
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
from netns.topology import PROJECT, Topology, TopologyError

SERVER = "/usr/games/DDNet-Server"
PORT = 8303
SERVER_CONFIG = f'sv_name "LAN party"\nsv_port {PORT}\nsv_register 0\nsv_max_clients 16\n'
GROUP = "lan-party"
GAME = "ddnet"
SEARCH = ["python3", "-m", "netns.lan_search"]
FIND_TIME = 120.0  # s until a search finds the server again, after a restart; toxcore takes its time
FLOOD = """
import socket, sys, time
flooding = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
until = time.monotonic() + 20
while time.monotonic() < until:
    for _ in range(50):
        flooding.sendto(bytes(1000), (sys.argv[1], 8303))
    time.sleep(0.002)
"""
JOIN_TIME = 60.0  # s; toxcore takes about 10 until all see each other
MOST_HOSTS = 16
WHOLE_TIME = 600  # s


def start(nodes: list[Node]) -> None:
    """All daemons; the others join the Tox network through the first one's."""
    say(f"{len(nodes)} hosts, each with a daemon.")
    for node in nodes:
        if node is not nodes[0]:
            node.configure({"tox": {"nickname": node.name, "bootstrap": [nodes[0].bootstrap()]}})
        typed(node.host, ["tunfwd", "daemon"], background=True)
        node.start()


def invite(host: Node) -> str:
    """The host of the game founds a group, and offers its server to it; the group's chat id."""
    say(f"{host.name} founds a group, and offers a game server to everybody in it, now and later.")
    tunfwd(host, "group", "create", GROUP, "--public")
    (host.folder / "server.cfg").write_text(SERVER_CONFIG)
    service(host, SERVER, "-f", "server.cfg", folder=host.folder, listening=f"-u sport = :{PORT}")
    tunfwd(host, "game", "host", GAME, "--group", GROUP)
    [group] = host.json("group", "list")["groups"]
    return str(group["id"])


def join(host: Node, players: list[Node], chat_id: str) -> None:
    """The players join, and have the server."""
    say(f"{host.name} tells the others the chat id. They join.")
    for player in players:
        tunfwd(player, "group", "join", chat_id, "--name", GROUP)
    for node in [host, *players]:
        node.wait_for(lambda node=node: others_in(node) == len(players), JOIN_TIME, "all are in the group")  # type: ignore[misc]
    for player in players:
        take_part(player)
    tunfwd(host, "group", "peers", GROUP)
    tunfwd(players[-1], "ports")


def others_in(node: Node) -> int:
    groups = node.json("group", "list")["groups"]
    return int(groups[0]["members"]) if groups and groups[0]["name"] == GROUP else -1


def take_part(player: Node) -> None:
    tunfwd(player, "game", "join", GAME, "--group", GROUP)
    player.wait_for(lambda: is_running(player, GAME), REACH_TIME, "the game can be reached")


def play(host: Node, players: list[Node]) -> None:
    """Each player's game asks everybody on the LAN."""
    say("Each player's game searches the LAN: it asks 10.77.255.255, and lists who answers.")
    typed(players[0].host, SEARCH)
    show([(player, find(player)) for player in players])
    say(f"On {host.name}, where the server is, each player came from an address of its own.")
    tunfwd(host, "ports")
    tunfwd(players[0], "status")


def find(player: Node, within: float = FIND_TIME) -> dict[str, object]:
    """Search until the server is in the list."""
    deadline = time.monotonic() + within
    while True:
        result = player.host.run([sys.executable, *SEARCH[1:]], cwd=PROJECT, timeout=SERVICE_TIME * 2)
        servers = json.loads(result.stdout)
        if len(servers) == 1:
            return dict(servers[0])
        if time.monotonic() > deadline:
            raise DemoError(f"the search of {player.name} found {servers}")


def show(found: list[tuple[Node, dict[str, object]]]) -> None:
    rows = [
        (player.name, *(server[key] for key in ("server", "name", "map", "players")), f"{server['ping']} ms")
        for player, server in found
    ]
    print()
    printed(
        tabulate(rows, ("HOST", "SERVER", "NAME", "MAP", "PLAYERS", "PING"), "plain", disable_numparse=True)
    )


def troubles(host: Node, players: list[Node], chat_id: str) -> None:
    """What happens on a game night; the others play on."""
    first, *others = players
    say(f"{host.name}'s daemon restarts. The players have done nothing; the server is in their lists again.")
    host.stop()
    host.start()
    show([(player, find(player)) for player in players])
    say(f"{first.name} leaves, and comes again, as somebody new; nobody keeps a ghost of it.")
    tunfwd(first, "group", "leave", GROUP)
    for player in others:
        find(player)
    tunfwd(first, "group", "join", chat_id, "--name", GROUP)
    first.wait_for(lambda: others_in(first) == len(players), JOIN_TIME, "it sees all others again")
    take_part(first)
    show([(first, find(first))])
    tunfwd(host, "group", "peers", GROUP)
    if others:
        say(f"{others[-1].name} floods the server. The others find it all the same.")
        address = str(find(others[-1])["server"]).partition(":")[0]
        flood = others[-1].host.start([sys.executable, "-c", FLOOD, address])
        show([(player, find(player)) for player in players[:-1]])
        flood.terminate()
        flood.wait()


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
            chat_id = invite(host)
            join(host, players, chat_id)
            play(host, players)
            troubles(host, players, chat_id)
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
