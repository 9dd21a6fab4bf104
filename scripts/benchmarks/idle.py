"""Measure what a daemon takes that has nothing to do, by the number of its contacts.

    scripts/bench --idle [--contacts N,N] [--seconds N]

Real daemons over real Tox, all in one network, into which another node leads, and at the same time: for each
number one whose friends are there, and one whose friends are not. Those that are there are whole daemons
without a device, many in a process (crowd.py); those that are not are keys that nobody has. Nothing is
forwarded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from tabulate import tabulate

from netns.node import Node, stop_all
from netns.topology import Topology
from scripts.benchmarks.ending import tidily
from tunfwd.control import api
from tunfwd.control.client import Client
from tunfwd.link import link

CONTACTS: Final = (0, 1, 10, 50)
SECONDS: Final = 60.0
SETTLE: Final = 30.0  # s after all are there; toxcore asks a lot at first
NODE: Final = "node"  # by which all find into the network
OTHERS: Final = 2  # people in the network of a daemon that knows nobody who is there
JOIN_TIME: Final = 180.0  # s


@dataclass
class Case:
    """A daemon that is measured."""

    online: bool
    count: int
    node: Node
    process: int = 0

    @property
    def title(self) -> str:
        """Whom it knows."""
        return f"{self.count} {'online' if self.online else 'offline'}" if self.count else "none"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has taken so far."""

    processor: float  # s
    waits: int
    """How often a thread of it has gone to sleep."""


def usage(process: int) -> Usage:
    """Return what all threads of a process have taken."""
    processor, waits = 0.0, 0
    for task in Path(f"/proc/{process}/task").iterdir():
        processor += int((task / "schedstat").read_text().split()[0]) / 1e9
        told = (task / "status").read_text()
        waits += int(told.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return Usage(processor, waits)


def memory(process: int) -> float:
    """Return the MB that a process occupies and shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    kept = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(kept) / 1e3


def nobody(number: int) -> str:
    """Return the Tox address of somebody who is never there."""
    key = sha256(b"nobody %d" % number).digest()[:31] + bytes(5)  # no key has the last bit of its 32 bytes
    check = bytearray(2)
    for place, byte in enumerate(key):
        check[place % 2] ^= byte
    return (key + check).hex().upper()


def befriend(case: Case, addresses: list[str]) -> None:
    """Ask all of them to be friends."""
    client = Client(case.node.folder / "control.sock")
    for number, address in enumerate(addresses):
        client.call(api.FRIEND_ADD, {"address": address, "name": f"friend{number}"}, timeout=30)
    client.close()


def there(case: Case) -> bool:
    """Whether all are there who can be, and the daemon itself."""
    status = case.node.json("status")
    reached = sum(contact["link"] != "offline" and contact["extended"] for contact in status["contacts"])
    return bool(status["network"] == "online" and reached == case.count * case.online)


def measure(counts: tuple[int, ...], seconds: float) -> list[list[object]]:
    """Return the table's rows."""
    wanted = [(online, count) for count in counts for online in (True, False)[: 1 + bool(count)]]
    names = [f"subject{number}" for number in range(len(wanted))]
    crowds = [f"crowd{number}" for number in range(len(wanted))]
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        Topology([NODE, *names, *crowds]) as net,
        ExitStack() as stack,
    ):
        cases: list[Case] = []
        stack.callback(lambda: stop_all([case.node for case in cases]))
        Path(folder, NODE).mkdir()
        first = stack.enter_context(Node(net[NODE], Path(folder, NODE), {"tox": {"local_discovery": False}}))
        bootstrap = [first.bootstrap()]
        for name, crowd, (online, count) in zip(names, crowds, wanted, strict=True):
            for place in (name, crowd):
                Path(folder, place).mkdir()
            tox = {"local_discovery": False, "bootstrap": bootstrap}
            case = Case(online, count, Node(net[name], Path(folder, name), {"tox": tox}))
            cases.append(case)
            case.node.start()
            assert case.node.daemon is not None
            case.process = case.node.daemon.pid
            addresses = [nobody(number) for number in range(count)]
            command = [sys.executable, "-m", "scripts.benchmarks.crowd", str(Path(folder, crowd))]
            friends = online and count > 0
            command += [str(count if friends else OTHERS), bootstrap[0]]
            command += [case.node.identity()["public_key"]] * friends
            running = net[crowd].start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert running.stdout is not None
            said = json.loads(running.stdout.readline())
            befriend(case, said if friends else addresses)
        for case in cases:
            case.node.wait_for(lambda case=case: there(case), JOIN_TIME, f"{case.title}: all are there")  # type: ignore[misc]
        time.sleep(SETTLE)
        before, began = [usage(case.process) for case in cases], time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        return [
            [
                case.title,
                f"{(new.processor - old.processor) / took:.3%}",
                f"{(new.waits - old.waits) / took:.1f}",
                f"{memory(case.process):.1f}",
            ]
            for case, old, new in zip(cases, before, (usage(case.process) for case in cases), strict=True)
        ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench --idle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--contacts", default=",".join(map(str, CONTACTS)), help="of each daemon; default %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default %(default)s")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    print(f"# the packet path is {'Python' if link.__file__.endswith('.py') else 'C'}", flush=True)
    with tidily():
        rows = measure(tuple(map(int, arguments.contacts.split(","))), arguments.seconds)
    print(
        tabulate(
            rows,
            headers=("contacts", "of a core", "sleeps a second", "MB of its own"),
            disable_numparse=True,
            tablefmt="pipe",
        )
    )


if __name__ == "__main__":
    main()
