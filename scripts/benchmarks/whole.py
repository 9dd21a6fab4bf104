"""Measure tunfwd on this machine, each figure beside the bare carrier in the same run.

    scripts/bench [--seconds N] [--packet [--peers]]

Bare Tox packets between two hosts; an application's connections through two daemons and real Tox, between
two network namespaces, as friends and as members of a group; the same without the link; the cores alone, with
the packets handed over in memory. With `--packet` only what a packet costs, beside the kernel alone and other
programs (packet.py). Machines differ and are shared: compare the ratios of one run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tabulate import tabulate

from netns.link import Conditions
from netns.node import Config, Node, befriend, stop_all
from netns.topology import Host, Topology
from scripts.benchmarks import core, counted, packet, peers
from scripts.benchmarks.ending import tidily
from tunfwd.netstack import stack

HOSTS = ("alice", "bob")
PORT = 9000
IDLE_TIME = 20.0  # s; a tick of the clock is then 0.05 %
IDLE_CONNECTIONS = 1000
JOIN_TIME = 60.0  # s
TIME_LIMIT = 300.0  # s for one measurement
CASES = (
    "lossless",
    "lossy unpaced",
    "lossy round trip",
    "lossy round trip with pauses",
    "lossless round trip",
)
Figures = dict[str, float]
Row = tuple[str, str, str, str]


@dataclass
class Pair:
    """Two daemons that know each other; bob has a service."""

    client: Host
    alice: Node
    bob: Node

    def measure(self, name: str, what: str, *values: object) -> Figures:
        """Measure at the virtual address of the mapping called `name`."""
        command = [sys.executable, core.APP, what, self.address(name), str(PORT), *map(str, values)]
        figures: Figures = json.loads(self.client.run(command, timeout=TIME_LIMIT).stdout)
        return figures

    def address(self, name: str) -> str:
        """Where the mapping called `name` is reached."""
        mapping = self.alice.port(name)
        assert mapping is not None
        return str(mapping["address"])

    def take(self, name: str, to: str) -> None:
        """Have bob offer the service to `to`, and alice accept it."""
        for protocol in ("tcp", "udp"):
            offered = f"{name}-{protocol}"
            self.bob.cli("offer", f"{PORT}/{protocol}", "--to", to, "--name", offered)
            self.alice.wait_for(partial(self.alice.offer, offered), 20, "the offer is there")
            self.alice.cli("accept", offered)


@contextmanager
def pair(
    *,
    link: bool,
    config: Config | None = None,
    conditions: Conditions | None = None,
    kind: type[Node] = Node,
) -> Iterator[Pair]:
    """Two friends, and bob's service offered to alice; `config` is more of the configuration of both."""
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, Topology(HOSTS, conditions=conditions) as net:
        server = net["bob"].start([sys.executable, core.APP, "server", str(PORT)], stdout=subprocess.DEVNULL)
        try:
            bootstrap: list[str] = []
            for name in HOSTS:
                Path(folder, name).mkdir()
                tox = {"local_discovery": False, "bootstrap": bootstrap, "nickname": name}
                tables: Config = {"tox": tox, "forwarding": {"link": link}, **(config or {})}
                nodes.append(kind(net[name], Path(folder, name), tables))
                nodes[-1].start()
                bootstrap = bootstrap or [nodes[-1].bootstrap()]
            alice, bob = nodes
            befriend(bob, alice)
            both = Pair(net["alice"], alice, bob)
            both.take("friend", "alice")
            yield both
        finally:
            stop_all(nodes)
            server.kill()
            server.wait()


def join_group(both: Pair) -> None:
    """Have both in a group, with the service offered to everyone in it."""
    both.bob.cli("group", "create", "bench")
    both.bob.cli("group", "invite", "bench", "alice")
    alice = both.alice
    alice.wait_for(lambda: alice.json("group", "list")["groups"], 20, "alice is invited")
    alice.cli("group", "join", "bench")
    alice.wait_for(lambda: alice.json("group", "peers", "bench")["peers"], JOIN_TIME, "alice sees bob")
    both.bob.wait_for(lambda: both.bob.json("group", "peers", "bench")["peers"], JOIN_TIME, "bob sees alice")
    both.take("member", "group:bench")


def idle_share(node: Node) -> float:
    """Return which part of a core a daemon takes that has nothing to do."""
    assert node.daemon is not None
    stat = Path(f"/proc/{node.daemon.pid}/stat")
    ticks = [sum(map(int, stat.read_text().rsplit(") ")[1].split()[11:13]))]
    time.sleep(IDLE_TIME)
    ticks.append(sum(map(int, stat.read_text().rsplit(") ")[1].split()[11:13])))
    return (ticks[1] - ticks[0]) / os.sysconf("SC_CLK_TCK") / IDLE_TIME


def memory(node: Node) -> float:
    """Return the MB that a daemon occupies."""
    assert node.daemon is not None
    status = Path(f"/proc/{node.daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3


def idle_connections(both: Pair) -> float:
    """Return by how many MB the larger daemon grows with connections that do nothing."""
    before = [memory(node) for node in (both.alice, both.bob)]
    arguments = ["hold", both.address("friend-tcp"), str(PORT), str(IDLE_CONNECTIONS)]
    command = [sys.executable, core.APP, *arguments]
    with both.client.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        grown = max(memory(node) - old for node, old in zip((both.alice, both.bob), before, strict=True))
        assert holder.stdin is not None
        holder.stdin.close()
    return grown


def calls_of_a_trip() -> list[counted.Counts]:
    """Return the calls of Python of a round trip, at each end of a pair that is there to count them."""
    print("# calls of Python", flush=True)
    with pair(link=True, kind=counted.CountedNode) as both:
        nodes = both.alice, both.bob
        before = [node.calls() for node in nodes if isinstance(node, counted.CountedNode)]
        trips = both.measure("friend-tcp", "trips", packet.TRACED)["trips"]
        after = [node.calls() for node in nodes if isinstance(node, counted.CountedNode)]
    return [counted.each(old, new, trips) for old, new in zip(before, after, strict=True)]


def packet_costs(seconds: float, with_peers: bool) -> None:
    """Measure what a packet costs, by each way, and print the table."""
    bare = carrier("friend", min(seconds, 5.0))
    with pair(link=True) as both:
        client, server = both.client, both.bob.host
        with packet.web_server(server):
            both.bob.cli("offer", f"{packet.WEB_PORT}/tcp", "--to", "alice", "--name", "web")
            both.alice.wait_for(partial(both.alice.offer, "web"), 20, "the offer is there")
            both.alice.cli("accept", "web")
            daemons = [node.daemon.pid for node in (both.alice, both.bob) if node.daemon]
            interface = both.alice.json("id")["interface"]
            ways = [
                packet.Way("kernel", str(server.address)),
                packet.Way("tunfwd", both.address("friend-tcp"), daemons, interface),
            ]
            for way in ways:
                way.figures = packet.measured(client, way, seconds)
            for number, name in enumerate(peers.installed() if with_peers else ()):
                with peers.joined(name, client, server, number) as way:
                    way.figures = packet.measured(client, way, seconds)
                    ways.append(way)
    ends = calls_of_a_trip()
    ways[1].figures |= packet.calls(ends)
    rows, heads = packet.rows(ways, bare), packet.heads(ways)
    print(tabulate(rows, headers=heads, disable_numparse=True, tablefmt="pipe"))
    for end, counts in zip(packet.ENDS, ends, strict=True):
        parts = ", ".join(f"{kind} {count:.0f}" for kind, count in counts.items())
        print(f"calls of Python of a round trip, {end}: {parts}")


def carrier(kind: str, seconds: float) -> Figures:
    """Measure the bare carrier between friends, or between members of a group."""
    print(f"# bare carrier, {kind}", flush=True)
    script = Path(__file__).with_name("carrier.py")
    options = ["--seconds", str(seconds), "--cases", ",".join(CASES), "--kind", kind, "--json"]
    run = subprocess.run(
        [sys.executable, script, *options], stdout=subprocess.PIPE, text=True, check=True, timeout=TIME_LIMIT
    )
    *table, results = run.stdout.splitlines()
    print(*table, sep="\n", flush=True)
    figures = {}
    for case, result in zip(CASES, json.loads(results), strict=True):
        trips = sorted(result["round_trips"])
        figures[case] = trips[len(trips) // 2] if trips else result["megabytes_per_second"]
    return figures


def milliseconds(seconds: float) -> str:
    """Write a delay."""
    return f"{seconds * 1e3:.2f} ms"


def delay_rows(who: str, figures: Figures, wanted: dict[str, str]) -> list[Row]:
    """Lay out the delays."""
    rows = []
    for key, title in (
        ("round_trip", "1-byte round trip"),
        ("round_trip_paused", "1-byte round trip, after pauses of 2 ms"),
        ("first_byte", "connect to first echoed byte"),
        ("first_byte_paused", "connect to first echoed byte, after pauses of 2 ms"),
    ):
        p99 = f"p99 {milliseconds(figures[f'{key}_p99'])}"
        rows.append(
            (f"{who}: {title}, median", milliseconds(figures[f"{key}_median"]), p99, wanted.get(key, ""))
        )
    for count in (200, 1000):
        key = f"connections_{count}"
        rows.append((f"{who}: {count} connections at once", f"{figures[key]:.2f} s", "", wanted.get(key, "")))
    return rows


def rate_rows(who: str, figures: Figures, *against: tuple[str, float, str]) -> list[Row]:
    """Lay out the rates, each against bare ones."""
    rows = []
    for key in ("upload", "download"):
        ratios = ", ".join(f"{figures[key] / rate:.2f} x {name}" for name, rate, _ in against)
        wanted = ", ".join(wanted for *_, wanted in against)
        rows.append((f"{who}: one TCP stream, {key}", f"{figures[key]:.1f} MB/s", ratios, wanted))
    return rows


def measure(seconds: float) -> list[Row]:
    """Measure everything; return the table."""
    rows: list[Row] = []
    bare = {kind: carrier(kind, seconds) for kind in ("friend", "group")}
    for kind, figures in bare.items():
        for case in CASES:
            trip = "trip" in case
            figure = milliseconds(figures[case]) if trip else f"{figures[case]:.1f} MB/s"
            rows.append((f"bare carrier, {kind}: {case}", figure, "", ""))
    compiled = not stack.__file__.endswith(".py")
    lossy = "0.65" if compiled else "0.5"
    print(f"# two daemons, with the link; the packet path is {'C' if compiled else 'Python'}", flush=True)
    with pair(link=True) as both:
        friend = both.measure("friend-tcp", "delays") | both.measure("friend-tcp", "rates", seconds)
        wanted = {"round_trip": "0.35 / 1 ms", "first_byte": "1.5 ms", "connections_1000": "3 s"}
        rows += rate_rows(
            "friend",
            friend,
            ("bare lossless", bare["friend"]["lossless"], "10"),
            ("bare lossy", bare["friend"]["lossy unpaced"], lossy),
        )
        rows += delay_rows("friend", friend, wanted)
        loaded = both.measure("friend-tcp", "loaded")
        p99 = f"p99 {milliseconds(loaded['loaded_p99'])}"
        rows.append(
            ("friend: 1-byte round trip under load", milliseconds(loaded["loaded_median"]), p99, "10 ms")
        )
        lost = both.measure("friend-udp", "datagrams", 10)["lost"]
        rows.append(("friend: UDP, 10 000 x 1200 bytes a second: lost", f"{lost:.3%}", "", "0.1 %"))
        grown = idle_connections(both)
        rows.append((f"memory of {IDLE_CONNECTIONS} idle connections", f"{grown:.0f} MB", "", "50 MB"))
        time.sleep(3)
        rows.append(
            ("idle pair with a running mapping", f"{idle_share(both.alice):.2%} of a core", "", "0.5 %")
        )
        join_group(both)
        member = both.measure("member-tcp", "delays") | both.measure("member-tcp", "rates", seconds)
        rows += rate_rows(
            "group member",
            member,
            ("bare lossless", bare["group"]["lossless"], "0.85"),
            ("the friend", min(friend["upload"], friend["download"]), "0.9"),
        )
        rows += delay_rows("group member", member, {})
    print("# two daemons, without the link", flush=True)
    with pair(link=False) as both:
        plain = both.measure("friend-tcp", "delays") | both.measure("friend-tcp", "rates", seconds)
        rows += rate_rows("no link", plain, ("bare lossless", bare["friend"]["lossless"], "0.85"))
        rows += delay_rows(
            "no link", plain, {"round_trip": "1 ms", "first_byte": "5 ms", "connections_200": "2 s"}
        )
    print("# two cores, packets in memory", flush=True)
    for link in (True, False):
        name = f"in memory, {'link' if link else 'no link'}"
        figures = core.measure(min(seconds, 5.0), PORT, link=link)
        rows += [
            (f"{name}: {key}", f"{figures[key]:.0f} MB/s", "both ends on one core", "60 MB/s")
            for key in ("upload", "download")
        ]
        rows += delay_rows(name, figures, {})
    return rows


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="for each transfer; default 10, at most 25"
    )
    parser.add_argument("--packet", action="store_true", help="only what a packet costs, beside the kernel")
    parser.add_argument("--peers", action="store_true", help="... and beside other programs")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    with tidily():
        if arguments.packet:
            packet_costs(arguments.seconds, arguments.peers)
            return
        rows = measure(arguments.seconds)
    print(tabulate(rows, headers=("what", "measured", "", "wanted"), disable_numparse=True))


if __name__ == "__main__":
    main()
