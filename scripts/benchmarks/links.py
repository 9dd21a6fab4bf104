"""Measure tunfwd across links of all kinds, beside kernel TCP across the very same.

Hosts in network namespaces are joined by the emulator of `netns/`, which gives the link a rate, a delay and a
loss. One and the same application uploads over it four ways: through two daemons and real Tox with the link
of tunfwd, the same without (toxcore's lossless channel), and straight through the kernel's TCP, with CUBIC
and with BBR where the kernel has it. Loss hits both directions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tabulate import tabulate

from netns.control import ask
from netns.link import Conditions
from netns.node import Node, befriend
from netns.topology import Host, Topology, control_path
from scripts.benchmarks.ending import tidily

APP = str(Path(__file__).with_name("app.py"))
PORT = 9000
RATE = 100e6  # bit/s
ROUND_TRIPS = (0.010, 0.050, 0.200)  # s
PARTS = ("throughput", "sharing", "queueing")
LOSSES = (0.0, 0.001, 0.01, 0.03)
QUICK = ((0.010, 0.0), (0.050, 0.01), (0.200, 0.0))
SLOW = Conditions(rate=8e6, delay=0.010)
QUEUES = (0.010, 0.050, 0.100, 0.250, 1.0)  # s that the slow link's queue holds
SHARED = Conditions(rate=20e6, delay=0.020, queue=0.1)
SHARING_TIME = 30.0  # s
SETTLING_TIME = 12.0  # s; a link believes in the least round trip for 10
BESIDE_TIME = 20.0  # s of upload that round trips are measured beside
ROUNDS = 100  # that a transfer goes on for at least, lest it be all start-up
REST = 2.0  # s between transfers: whatever the last one left in queues is gone
TIME_LIMIT = 240.0  # s for one measurement
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@dataclass
class Way:
    """One way to the service: from a host to an address, by an algorithm of the kernel or as it is."""

    name: str
    client: Host
    address: str
    congestion: str = ""

    def run(self, what: str, *values: object) -> dict[str, float]:
        """Measure. Raises CalledProcessError and TimeoutExpired."""
        command = [sys.executable, APP, what, self.address, str(PORT), *map(str, values)]
        result: dict[str, float] = json.loads(self.client.run(command, timeout=TIME_LIMIT).stdout)
        return result

    def upload(self, seconds: float) -> float | None:
        """Return Mbit/s; None where it came to no end."""
        time.sleep(REST)
        try:
            return self.run("upload", seconds, self.congestion)["upload"] * 8
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None


@contextmanager
def ways(net: Topology) -> Iterator[list[Way]]:
    """All ways, with what they need running."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        for name in ("bob", "dave"):
            server = net[name].start([sys.executable, APP, "server", str(PORT)], stdout=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
        found = [
            Way(f"kernel {name}", net["alice"], str(net["bob"].address), name)
            for name in ("cubic", "bbr")
            if name in AVAILABLE.read_text().split()
        ]
        bootstrap: list[str] = []
        for title, link, names in (("no link", False, ("carol", "dave")), ("tunfwd", True, ("alice", "bob"))):
            nodes = []
            for name in names:
                (folder / name).mkdir()
                tox = {"local_discovery": False, "bootstrap": bootstrap, "nickname": name}
                node = Node(net[name], folder / name, {"tox": tox, "forwarding": {"link": link}})
                nodes.append(stack.enter_context(node))
                bootstrap = bootstrap or [node.bootstrap()]
            client, server_node = nodes
            befriend(server_node, client)
            server_node.cli("offer", f"{PORT}/tcp", "--to", client.name, "--name", "bench")
            client.wait_for(lambda client=client: client.offer("bench"), 20, "the offer is there")  # type: ignore[misc]
            client.cli("accept", "bench")
            mapping = client.port("bench")
            assert mapping is not None
            found.append(Way(title, client.host, str(mapping["address"])))
        yield found


def change(net: Topology, conditions: Conditions) -> None:
    """Make the link so, in both directions."""
    ask(control_path(net.label), {"change": {host.name: asdict(conditions) for host in net.hosts}})
    time.sleep(0.5)


def settle(found: Sequence[Way]) -> None:
    """Let a link of tunfwd get to know the conditions: it goes by what it measured last, not as a new one."""
    for way in found:
        if way.name == "tunfwd":
            way.upload(SETTLING_TIME)


def throughput(
    net: Topology, found: Sequence[Way], seconds: float, cells: Sequence[tuple[float, float]]
) -> None:
    """Print the table of rates."""
    rows: list[tuple[str, ...]] = []
    settled = None
    for round_trip, loss in cells:
        change(net, Conditions(rate=RATE, delay=round_trip / 2, loss=loss))
        if settled != round_trip:
            settle(found)
            settled = round_trip
        rates = {way.name: way.upload(max(seconds, ROUNDS * round_trip)) for way in found}
        ours, bbr = rates["tunfwd"] or 0.0, rates.get("kernel bbr")
        told = [f"{rate:.1f}" if rate is not None else "-" for rate in rates.values()]
        against = f"{ours / bbr:.2f}" if bbr else "-"
        rows.append((f"{round_trip * 1e3:.0f} ms", f"{loss:.1%}", *told, against, f"{ours * 1e6 / RATE:.0%}"))
        print("#", *rows[-1], flush=True)
    length = f"{seconds:.0f} s, or {ROUNDS} round trips, over {RATE / 1e6:.0f} Mbit/s"
    print(f"\nUploads of {length}, in Mbit/s of payload:\n")
    heads = ("RTT", "loss", *(way.name for way in found), "x bbr", "of the rate")
    print(tabulate(rows, headers=heads, disable_numparse=True), flush=True)


def sharing(net: Topology, found: Sequence[Way]) -> None:
    """Print what two uploads from the same host get of its link."""
    by_name = {way.name: way for way in found}
    change(net, SHARED)
    settle(found)
    rows = []
    for names in (("tunfwd", "kernel cubic"), ("tunfwd", "kernel bbr"), ("kernel bbr", "kernel cubic")):
        if not set(names) <= by_name.keys():
            continue
        with ThreadPoolExecutor() as pool:
            rates = list(pool.map(lambda name: by_name[name].upload(SHARING_TIME), names))
        rows.append([f"{name} {rate or 0.0:.1f}" for name, rate in zip(names, rates, strict=True)])
    rate, delay, queue = SHARED.rate / 1e6, 2e3 * SHARED.delay, SHARED.queue * 1e3
    link = f"one link of {rate:.0f} Mbit/s, {delay:.0f} ms, {queue:.0f} ms of queue"
    print(f"\nTwo uploads over {link}, in Mbit/s:\n")
    print(tabulate(rows, headers=("one", "the other"), disable_numparse=True), flush=True)


def queueing(net: Topology, found: Sequence[Way], queues: Sequence[float]) -> None:
    """Print the table of round trips beside a full connection."""
    change(net, SLOW)
    measured = [way for way in found if way.name != "no link"]
    idle = {way.name: way.run("idle")["idle_median"] for way in measured}
    rows = []
    for queue in queues:
        change(net, replace(SLOW, queue=queue))
        settle(found)
        for way in measured:
            time.sleep(REST)
            loaded = way.run("loaded", BESIDE_TIME, *filter(None, [way.congestion]))
            median, p99 = loaded["loaded_median"], loaded["loaded_p99"]
            times = (f"{t * 1e3:.1f} ms" for t in (idle[way.name], median, p99, p99 - idle[way.name]))
            rows.append((f"{queue * 1e3:.0f} ms", way.name, *times, f"{loaded['loaded_upload'] * 8:.2f}"))
            print("#", *rows[-1], flush=True)
    print(f"\nOne byte there and back beside a full upload over {SLOW.rate / 1e6:.0f} Mbit/s:\n")
    heads = ("queue", "", "idle", "median", "p99", "p99 above idle", "upload, Mbit/s")
    print(tabulate(rows, headers=heads, disable_numparse=True))


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(prog="scripts/bench-links", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each transfer; default 8")
    parser.add_argument("--quick", action="store_true", help="three links instead of twelve")
    parser.add_argument("--rtt", type=float, metavar="MS", action="append", help="only this round trip")
    parser.add_argument("--loss", type=float, metavar="PERCENT", action="append", help="only this loss")
    parser.add_argument("--queue", type=float, metavar="MS", action="append", help="only this queue")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this table; may be repeated")
    parser.add_argument("--only", metavar="WAY", action="append", help="measure this one; may be repeated")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-links: network namespaces need root")
    round_trips = [rtt / 1e3 for rtt in arguments.rtt or []] or ROUND_TRIPS
    losses = [loss / 1e2 for loss in arguments.loss or []] or LOSSES
    cells = QUICK if arguments.quick else [(rtt, loss) for rtt in round_trips for loss in losses]
    names = ["alice", "bob", "carol", "dave"]
    with tidily(), Topology(names, conditions=Conditions()) as net, ways(net) as found:
        if not any(way.name == "kernel bbr" for way in found):
            print("# this kernel has no BBR")
        wanted = [way for way in found if not arguments.only or way.name in (*arguments.only, "tunfwd")]
        parts = arguments.part or PARTS
        if "throughput" in parts:
            throughput(net, wanted, arguments.seconds, cells)
        if "sharing" in parts:
            sharing(net, wanted)
        if "queueing" in parts:
            queueing(net, wanted, [queue / 1e3 for queue in arguments.queue or []] or QUEUES)


if __name__ == "__main__":
    main()
