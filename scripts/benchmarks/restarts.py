"""Measure how soon two who know each other are back after one of them was restarted.

    python -m scripts.benchmarks.restarts [--restarts N] [--how stop,kill] [--members] [NETWORK ...]

Each network is made anew. The two restart in turns, by SIGTERM or by SIGKILL, or both are killed at once; a
restart counts as over when each sees the other online again and a port that was accepted before runs. The
pause until the next one is random, from the seed. `--members` measures members of a group who are not
friends. Needs root.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from netns.networks import SIX, Internet, Nat, NodeKind, Site, Udp
from netns.node import Node, stop_all
from netns.topology import Topology
from scripts.benchmarks.ending import tidily
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client

NAMES = ("ann", "ben")
BACK = 30.0  # s; what a person is promised
GIVE_UP = 240.0  # s until a restart counts as failed for good
FIRST_TIME = 120.0  # s until the two have found each other at all
PAUSE = (0.0, 6.0)  # s between a reunion and the next restart
INTERVAL = 0.05  # s between looks
GROUP = "lan"
BOTH = "both"  # killed at the same time, as when the power fails

NETWORKS: dict[str, Callable[[], Topology]] = {
    "alone": lambda: Topology(NAMES),
    "one node": lambda: Internet(dict.fromkeys(NAMES, Site()), [NodeKind()]),
    "six nodes": lambda: Internet(dict.fromkeys(NAMES, Site()), SIX),
    "NATs": lambda: Internet(dict.fromkeys(NAMES, Site(nat=Nat.CONE)), SIX),
    "relay": lambda: Internet(dict.fromkeys(NAMES, Site(udp=Udp.DROPPED)), SIX),
}


def configuration(net: Topology, network: str) -> dict[str, Any]:
    """What each daemon is told of the network."""
    if not isinstance(net, Internet):
        return {}
    tox: dict[str, Any] = {"bootstrap": [node.bootstrap for node in net.nodes]}
    if network == "relay":
        tox |= {"udp": False, "relays": [node.relay() for node in net.nodes if node.kind.alive]}
    return {"tox": tox}


@contextmanager
def two(network: str) -> Iterator[tuple[Node, Node]]:
    """Two daemons that do not know each other."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunfwd-")))
        net = stack.enter_context(NETWORKS[network]())
        nodes = []
        for name in NAMES:
            (folder / name).mkdir()
            nodes.append(Node(net[name], folder / name, configuration(net, network)))
        stack.callback(stop_all, nodes)
        for node in nodes:
            node.start()
        ann, ben = nodes
        yield ann, ben


def meet_as_friends(ann: Node, ben: Node) -> None:
    """Let ben add ann."""
    ben.cli("friend", "add", ann.identity()["address"], "--name", "ann")
    key = ben.identity()["public_key"]
    ann.wait_for(lambda: ann.friend(key), FIRST_TIME, "the friend request is there")
    ann.cli("friend", "accept", key, "--name", "ben")


def meet_as_members(ann: Node, ben: Node) -> None:
    """Let ben join a group that ann made."""
    created = ann.json("group", "create", GROUP, "--public")["group"]
    ben.cli("group", "join", created["id"], "--name", GROUP)


def offer(ann: Node, ben: Node) -> None:
    """Let ben serve a port, and ann accept it."""

    def ports(node: Node) -> list[dict[str, Any]]:
        return list(node.json("offers")["offers"])

    deadline = time.monotonic() + FIRST_TIME
    contact = next(iter(wait(lambda: [c["name"] for c in ben.json("status")["contacts"]], deadline)))
    wait(lambda: all(is_online(node) for node in (ann, ben)), deadline)
    ben.cli("offer", "8080/tcp", "--to", contact, "--name", "web")
    wait(lambda: ports(ann), deadline)
    ann.cli("accept", "web")


def wait(condition: Callable[[], Any], deadline: float) -> Any:
    """Return what is true at last; ends the program where nothing is in time."""
    while not (answer := condition()):
        if time.monotonic() > deadline:
            sys.exit("the two have not found each other in time")
        time.sleep(INTERVAL)
    return answer


def ask(node: Node, method: Any) -> Any:
    """One request; None while the daemon does not answer."""
    try:
        with Client(node.folder / "control.sock") as client:
            return client.call(method, {})
    except (UserError, OSError):
        return None


def is_online(node: Node) -> bool:
    """Whether the only contact is."""
    status = ask(node, api.STATUS)
    return bool(status) and any(contact["link"] != "offline" for contact in status["contacts"])


def runs(node: Node) -> bool:
    """Whether the accepted port is in use again."""
    ports = ask(node, api.PORTS)
    return bool(ports) and any(port["state"] == "running" for port in ports["ports"])


@dataclass
class Restarts:
    """What became of a series."""

    network: str
    how: str
    times: list[float]

    @property
    def row(self) -> list[Any]:
        """Of the table."""
        late = sum(taken > BACK for taken in self.times)
        return [
            self.network,
            self.how,
            len(self.times),
            f"{statistics.median(self.times):.1f} s",
            f"{max(self.times):.1f} s",
            late or "none",
        ]


def restart(node: Node, other: Node, how: str, using: Node) -> float:
    """Restart one, and return how long it took until all was as before."""
    restarted = [node, other] if how == BOTH else [node]
    for one in restarted:
        (one.stop if how == "stop" else one.kill)()
    start = time.monotonic()
    for one in restarted:
        one.start()
    while time.monotonic() < start + GIVE_UP:
        if is_online(node) and is_online(other) and runs(using):
            return time.monotonic() - start
        time.sleep(INTERVAL)
    return GIVE_UP


def measure(network: str, how: Sequence[str], count: int, seed: int, *, members: bool) -> list[Restarts]:
    """Measure one network."""
    chance = random.Random(seed)
    with two(network) as (ann, ben):
        (meet_as_members if members else meet_as_friends)(ann, ben)
        offer(ann, ben)
        series = []
        for kind in how:
            times = []
            for number in range(count):
                time.sleep(chance.uniform(*PAUSE))
                node, other = (ben, ann) if number % 2 == 0 else (ann, ben)
                times.append(restart(node, other, kind, ann))
                print(f"{network}, {kind} {number + 1}: {times[-1]:.1f} s", file=sys.stderr, flush=True)
            series.append(Restarts(network, kind, times))
        return series


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--restarts", type=int, default=50, help="of each kind; default 50")
    parser.add_argument("--how", default="stop,kill", help="of stop, kill and both (killed at once)")
    parser.add_argument("--members", action="store_true", help="of a group, who are not friends")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    rows = []
    with tidily():
        for network in options.networks or NETWORKS:
            for series in measure(
                network, options.how.split(","), options.restarts, options.seed, members=options.members
            ):
                rows.append(series.row)
    print(
        tabulate(
            rows, ["network", "how", "restarts", "median", "longest", f"not within {BACK:.0f} s"], "pipe"
        )
    )


if __name__ == "__main__":
    main()
