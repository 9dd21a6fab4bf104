"""Run three daemons under all that wears them, and fail if anything grows.

    soak.py [MINUTES]

alice uses what bob serves, as a friend and as a member of a group. In rounds of about a minute: bulk
transfers, short connections of all endings, resets, datagrams; offers made, accepted and killed; the network
cut in the middle of a transfer; and carol, who joins and leaves the group, and whose daemon ends or is killed
and starts again. Between the rounds all is quiet, and the daemons of alice and bob are measured. Growth is a
line through these measurements (Theil and Sen), over the whole run; the first rounds, in which memory is
claimed for the first time, do not count. Exit status 1 if any is above its tolerance, or if a program did not
get what it should.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import FrameType

from tabulate import tabulate

from netns.node import Node, NodeError, befriend, stop_all, wait_online
from netns.topology import Host, Topology

APP = str(Path(__file__).with_name("soak_app.py"))
PORT, CHURN_PORT = 9000, 9100
NAMES = ("alice", "bob", "carol")
QUIET = 12.0  # s of rest before a measurement; more than UDP_IDLE, a timer's reach and the netstack's need
UDP_IDLE = 5  # s
IDLE_TIME = 5.0  # s over which an idle daemon's share of a core is measured
CUT = 8.0  # s that the network is out
USE_TIME = 150.0  # s for one use of the service
JOIN_TIME = 90.0  # s until members of a group see each other
SAVED = 4.0  # s until what toxcore changed by itself is on disk
WARM_UP = 2  # rounds that do not count

TOLERANCE = {  # growth over the whole run that is taken for noise
    "rss": 6.0,  # MB
    "descriptors": 2.0,
    "flows": 2.0,
    "connections": 4.0,
    "timers": 64.0,  # what a heap may hold of stale entries
    "idle": 2.0,  # % of a core
}
UNITS = {"rss": "MB", "idle": "% of a core"}
Sample = dict[str, float]


class SoakError(Exception):
    """Something did not work as it must; the message says what."""


def main() -> int:
    """Run for as long as the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.partition("\n")[0])
    parser.add_argument("minutes", nargs="?", type=float, default=5.0)
    minutes = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with laboratory() as lab:
            samples = lab.run(minutes * 60)
    except (SoakError, NodeError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted; all that was started has ended", file=sys.stderr)
        return 130
    return report(samples)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def laboratory() -> Iterator["Laboratory"]:
    """Three hosts, three daemons and bob's service, all gone afterwards."""
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, Topology(NAMES) as net:
        os.chmod(folder, 0o711)
        server = net["bob"].start([sys.executable, APP, "server", str(PORT)], stdout=subprocess.DEVNULL)
        try:
            bootstrap: list[str] = []
            for name in NAMES:
                place = Path(folder, name)
                place.mkdir()
                tox = {"local_discovery": False, "bootstrap": bootstrap, "nickname": name}
                config: dict[str, dict[str, object]] = {"tox": tox, "forwarding": {"udp_idle": UDP_IDLE}}
                nodes.append(Node(net[name], place, config))
                nodes[-1].start()
                bootstrap = bootstrap or [nodes[-1].bootstrap()]
            yield Laboratory(*nodes)
        finally:
            stop_all(nodes)
            server.kill()
            server.wait()


class Laboratory:
    """The three, and what goes on between them."""

    def __init__(self, alice: Node, bob: Node, carol: Node) -> None:
        self.alice, self.bob, self.carol = alice, bob, carol
        self.samples: dict[str, list[Sample]] = {"alice": [], "bob": []}
        self.group = ""

    def run(self, seconds: float) -> dict[str, list[Sample]]:
        """Meet, then do rounds until the time is over, and enough of them to compare."""
        self._meet()
        ends = time.monotonic() + seconds
        number = 0
        while time.monotonic() < ends or number < WARM_UP + 2:
            began = time.monotonic()
            self._round(number)
            time.sleep(QUIET)
            for node in (self.alice, self.bob):
                self.samples[node.name].append(measure(node))
            number += 1
            told = ", ".join(f"{name}: {_told(each[-1])}" for name, each in self.samples.items())
            print(f"# round {number}, {time.monotonic() - began:.0f} s; {told}", flush=True)
        return self.samples

    def _meet(self) -> None:
        print("# three daemons; alice and carol become bob's friends, alice joins his group", flush=True)
        alice, bob, carol = self.alice, self.bob, self.carol
        befriend(bob, alice)
        befriend(bob, carol)
        bob.cli("group", "create", "soak", "--public")
        self.group = bob.json("group", "list")["groups"][0]["id"]
        alice.cli("group", "join", self.group)
        for node in (alice, bob):
            self._wait_for_members(node)
        for name, to in (("friend", "alice"), ("member", "group:soak")):
            for protocol in ("tcp", "udp"):
                self._take(f"{name}-{protocol}", f"{PORT}/{protocol}", to)
        bob.cli("offer", f"{PORT}/tcp", "--to", "carol", "--name", "carol-tcp")
        carol.wait_for(lambda: carol.offer("carol-tcp"), 20, "carol has an offer")
        carol.cli("accept", "carol-tcp")

    def _wait_for_members(self, node: Node) -> None:
        found = lambda: node.json("group", "peers", self.group)["peers"]  # noqa: E731
        node.wait_for(found, JOIN_TIME, f"{node.name} sees others in the group")

    def _take(self, name: str, port: str, to: str) -> None:
        self.bob.cli("offer", port, "--to", to, "--name", name)
        self.alice.wait_for(lambda: self.alice.offer(name), 30, f"the offer {name} is there")
        self.alice.cli("accept", name)

    def _round(self, number: int) -> None:
        """Everything, once."""
        for mapping, factor in (("friend", 4), ("member", 1)):
            self._use(mapping, ("bulk", 16 * factor), ("requests", 100 * factor), ("resets", 25 * factor))
            self._use(mapping, ("datagrams", 100 * factor), protocol="udp")
        self._churn(number)
        self._cut()
        self._carol(number)

    def _use(self, mapping: str, *uses: tuple[str, int], protocol: str = "tcp") -> None:
        """Use the service in these ways at the same time."""
        finish([self._start(self.alice, f"{mapping}-{protocol}", use, count) for use, count in uses])

    def _start(self, node: Node, mapping: str, use: str, count: int) -> tuple[str, subprocess.Popen[str]]:
        port = node.port(mapping)
        if port is None:
            raise SoakError(f"{node.name} has no {mapping}")
        command = [sys.executable, APP, use, str(port["address"]), str(port["port"]), str(count)]
        host: Host = node.host
        process = host.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return f"{use} over {mapping} of {node.name}", process

    def _churn(self, number: int) -> None:
        """Offers come, are accepted, refused or withdrawn, and go."""
        for at in range(4):
            name = f"churn-{number}-{at}"
            to = "group:soak" if at % 2 else "alice"
            self.bob.cli("offer", f"{CHURN_PORT + at}/tcp", "--to", to, "--name", name)
            self.alice.wait_for(lambda name=name: self.alice.offer(name), 30, f"{name} is offered")  # type: ignore[misc]
            if at < 3:
                self.alice.cli("accept", name)
                self.bob.cli("kill", name)
            else:
                self.alice.cli("deny", name)
                self.bob.cli("kill", name, check=False)

    def _cut(self) -> None:
        """The network is out in the middle of a transfer, which goes on afterwards."""
        transfer = self._start(self.alice, "friend-tcp", "bulk", 96)
        time.sleep(0.5)
        self._cable("down")
        time.sleep(CUT)
        self._cable("up")
        finish([transfer])

    def _cable(self, state: str) -> None:
        self.alice.host.run(["ip", "link", "set", "eth0", state])

    def _carol(self, number: int) -> None:
        """She comes into the group and leaves it, or her daemon ends, in order or not."""
        carol, bob = self.carol, self.bob
        carol.cli("group", "join", self.group)
        self._wait_for_members(carol)
        time.sleep(SAVED)
        if number % 3 == 0:
            carol.kill()
        elif number % 3 == 1:
            carol.stop()
        if carol.daemon is None:
            carol.start()
            wait_online(carol, bob)
            running = lambda: (port := carol.port("carol-tcp")) and port["state"] == "running"  # noqa: E731
            carol.wait_for(running, 60, "what carol had accepted runs again")
        finish([self._start(carol, "carol-tcp", "requests", 20)])
        carol.cli("group", "leave", self.group)


def finish(started: list[tuple[str, subprocess.Popen[str]]]) -> None:
    """Wait for programs; raises SoakError where one did not get what it should."""
    deadline = time.monotonic() + USE_TIME
    for what, process in started:
        try:
            _, complaint = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise SoakError(f"{what} has not ended after {USE_TIME:.0f} s") from None
        if process.returncode:
            raise SoakError(f"{what}: {complaint.strip() or process.returncode}")


# --- the figures --------------------------------------------------------------------------------------------


def measure(node: Node) -> Sample:
    """What an idle daemon has and takes."""
    assert node.daemon is not None
    process = Path(f"/proc/{node.daemon.pid}")
    load = node.json("status")["load"]
    before = _ticks(process)
    time.sleep(IDLE_TIME)
    spent = _ticks(process) - before
    status = (process / "status").read_text()
    return {
        "rss": int(status.split("VmRSS:")[1].split()[0]) / 1e3,
        "descriptors": len(list((process / "fd").iterdir())),
        **load,
        "idle": 100 * spent / os.sysconf("SC_CLK_TCK") / IDLE_TIME,
        "cpu": before / os.sysconf("SC_CLK_TCK"),
    }


def _ticks(process: Path) -> int:
    return sum(map(int, (process / "stat").read_text().rsplit(") ")[1].split()[11:13]))


def _told(sample: Sample) -> str:
    return f"{sample['rss']:.1f} MB, {sample['descriptors']:.0f} descriptors, {sample['timers']:.0f} timers"


def growth(values: list[float]) -> float:
    """What was added from the first to the last, by the median of the slopes between any two."""
    pairs = combinations(enumerate(values), 2)
    slopes = [(late - early) / (at_late - at_early) for (at_early, early), (at_late, late) in pairs]
    return statistics.median(slopes) * (len(values) - 1)


def report(samples: dict[str, list[Sample]]) -> int:
    """Print the table; 1 where something has grown."""
    rows, grown = [], False
    for name, all_of_them in samples.items():
        counted = all_of_them[WARM_UP:]
        for figure, tolerance in TOLERANCE.items():
            values = [sample[figure] for sample in counted]
            more = growth(values)
            grown |= more > tolerance
            verdict = "GROWN" if more > tolerance else "ok"
            what = f"{figure}, {UNITS[figure]}" if figure in UNITS else figure
            row = (values[0], values[-1], more, tolerance)
            rows.append([name, what, *(f"{value:.1f}" for value in row), verdict])
        first, last = all_of_them[0]["cpu"], all_of_them[-1]["cpu"]
        rows.append(
            [name, "CPU, s a round", f"{first:.1f}", f"{(last - first) / (len(all_of_them) - 1):.1f}"]
        )
    rounds = len(next(iter(samples.values())))
    print(f"\n{rounds} rounds, of which the first {WARM_UP} do not count\n")
    print(tabulate(rows, ["daemon", "figure", "start", "end", "grown by", "tolerated", ""]))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
