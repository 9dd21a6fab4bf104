"""Measure tunfwd on this machine, each figure beside the bare carrier in the same run.

Three parts: bare Tox packets between two processes; an application's connection through two daemons and real
Tox, between two network namespaces; and the same with the packets handed over in memory instead of Tox.
Machines differ and are shared: compare the ratios of one run, not the figures of two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_carrier
import bench_core
import trio
from tabulate import tabulate

from netns.node import Node, befriend
from netns.topology import Topology

PORT = 9000
IDLE_TIME = 5.0  # s
TIME_LIMIT = 300.0  # s for the client
Row = tuple[str, str, str, str]


def _idle_share(node: Node) -> float:
    """Return which part of a core a daemon takes that has nothing to do."""
    assert node.daemon is not None
    stat = Path(f"/proc/{node.daemon.pid}/stat")
    ticks = [sum(map(int, stat.read_text().rsplit(") ")[1].split()[11:13]))]
    time.sleep(IDLE_TIME)
    ticks.append(sum(map(int, stat.read_text().rsplit(") ")[1].split()[11:13])))
    return (ticks[1] - ticks[0]) / os.sysconf("SC_CLK_TCK") / IDLE_TIME


def friends(seconds: float) -> tuple[dict[str, float], float]:
    """Measure a service of bob's as alice's applications see it; also what an idle daemon costs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, Topology(["alice", "bob"]) as net:
        for name in ("alice", "bob"):
            Path(folder, name).mkdir()
        with Node(net["alice"], Path(folder, "alice"), {"tox": {"local_discovery": False}}) as alice:
            settings = {"tox": {"local_discovery": False, "bootstrap": [alice.bootstrap()]}}
            with Node(net["bob"], Path(folder, "bob"), settings) as bob:
                befriend(bob, alice)
                server = net["bob"].start(
                    [sys.executable, bench_core.APP, "server", str(PORT)], stdout=subprocess.DEVNULL
                )
                try:
                    bob.cli("offer", f"{PORT}/tcp", "--to", "alice", "--name", "bench")
                    alice.wait_for(lambda: alice.offer("bench"), 20, "the offer is there")
                    alice.cli("accept", "bench")
                    mapping = alice.port("bench")
                    assert mapping is not None
                    client = [bench_core.APP, "client", mapping["address"], str(PORT), str(seconds)]
                    result = net["alice"].run([sys.executable, *client], timeout=TIME_LIMIT)
                    measured: dict[str, float] = json.loads(result.stdout)
                    time.sleep(3)
                    return measured, _idle_share(alice)
                finally:
                    server.kill()
                    server.wait()


def rows(carrier: dict[str, float], app: dict[str, float], core: dict[str, float], idle: float) -> list[Row]:
    """Lay out what was measured: what, figure, against what, wanted."""
    lossless = carrier["lossless"]

    def rate(name: str, value: float) -> Row:
        return name, f"{value:.1f} MB/s", f"{value / lossless:.0%} of the bare lossless carrier", "85 %"

    def delay(name: str, key: str, wanted: str, *, of: dict[str, float] = app) -> Row:
        p99 = f"p99 {of[f'{key}_p99'] * 1e3:.2f} ms" if f"{key}_p99" in of else ""
        return name, f"{of.get(f'{key}_median', of.get(key, 0)) * 1e3:.2f} ms", p99, wanted

    return [
        ("bare carrier, lossless", f"{lossless:.1f} MB/s", "", ""),
        ("bare carrier, lossy", f"{carrier['lossy']:.1f} MB/s", "", ""),
        ("bare round trip, lossy", f"{carrier['lossy round trip'] * 1e3:.2f} ms", "", ""),
        ("bare round trip, lossless", f"{carrier['lossless round trip'] * 1e3:.2f} ms", "", ""),
        rate("friend: one TCP stream up", app["upload"]),
        rate("friend: one TCP stream down", app["download"]),
        delay("friend: 1-byte round trip, median", "round_trip", "1 ms"),
        delay("friend: connect to first echoed byte, median", "first_byte", "5 ms"),
        ("friend: 200 connections at once, all served", f"{app['connections_200']:.2f} s", "", "2 s"),
        ("idle daemon", f"{idle:.1%} of a core", "", "1 %"),
        ("in memory: one TCP stream up", f"{core['upload']:.0f} MB/s", "both ends on one core", "60 MB/s"),
        (
            "in memory: one TCP stream down",
            f"{core['download']:.0f} MB/s",
            "both ends on one core",
            "60 MB/s",
        ),
        delay("in memory: 1-byte round trip, median", "round_trip", "", of=core),
        delay("in memory: connect to first echoed byte, median", "first_byte", "", of=core),
    ]


def main() -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="for each bulk transfer; default 10, at most 25"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    print("# bare carrier", flush=True)
    cases = ("lossless", "lossy", "lossy round trip", "lossless round trip")
    carrier = {}
    for case, result in zip(cases, trio.run(bench_carrier.main, arguments.seconds, cases), strict=True):
        median = sorted(result.round_trips)[len(result.round_trips) // 2] if result.round_trips else 0.0
        carrier[case] = median or result.megabytes_per_second
    print("# two daemons, real Tox", flush=True)
    app, idle = friends(arguments.seconds)
    print("# two cores, packets in memory", flush=True)
    core = bench_core.measure(min(arguments.seconds, 5.0), PORT)
    print(
        tabulate(
            rows(carrier, app, core, idle), headers=("what", "measured", "", "wanted"), disable_numparse=True
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
