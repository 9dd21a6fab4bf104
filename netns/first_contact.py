"""How two people who know nothing but an address come together, in networks of all kinds: `scripts/networks`.

Both start a daemon without a configuration; the public nodes are those of the network (networks.py). One adds
the other's address, who accepts. What is measured: the time from the start until both are online, and whether
they then reach each other directly.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tabulate import tabulate

from netns.networks import SIX, Internet, Nat, NodeKind, Site, Udp
from netns.node import Node, stop_all
from netns.topology import Topology

NAMES: Final = ("ann", "ben")
PROMISED: Final = 30.0  # s from the start until both are online
GIVE_UP: Final = 120.0  # s
SETTLE: Final = 60.0  # s that a relayed contact is given to become direct
INTERVAL: Final = 0.1  # s between looks

PUBLIC: Final = Site()
ONLY_443: Final = Site(udp=Udp.DROPPED, tcp=(443,))


@dataclass(frozen=True, slots=True)
class Case:
    """A network, and what is to be expected there."""

    ann: Site = PUBLIC
    ben: Site = PUBLIC
    nodes: Sequence[NodeKind] = SIX
    direct: bool = True
    tox: Mapping[str, Any] = field(default_factory=dict)
    """Of both configurations."""

    def network(self) -> Topology:
        """Make it."""
        return Internet({"ann": self.ann, "ben": self.ben}, self.nodes)


class Alone(Case):
    """Both on one LAN, and nobody else."""

    def network(self) -> Topology:
        """Make it."""
        return Topology(NAMES)


CASES: Final[Mapping[str, Case]] = {
    "one LAN, no node": Alone(),
    "public addresses": Case(),
    "one node": Case(nodes=[NodeKind()]),
    "public, cone": Case(ben=Site(nat=Nat.CONE)),
    "cone, cone": Case(Site(nat=Nat.CONE), Site(nat=Nat.CONE)),
    "full cone, symmetric": Case(Site(nat=Nat.FULL_CONE), Site(nat=Nat.SYMMETRIC)),
    "public, symmetric": Case(ben=Site(nat=Nat.SYMMETRIC)),
    "cone, symmetric": Case(Site(nat=Nat.CONE), Site(nat=Nat.SYMMETRIC), direct=False),
    "symmetric, symmetric": Case(Site(nat=Nat.SYMMETRIC), Site(nat=Nat.SYMMETRIC), direct=False),
    "public, UDP refused": Case(ben=Site(udp=Udp.REFUSED), direct=False),
    "cone, UDP dropped": Case(Site(nat=Nat.CONE), Site(udp=Udp.DROPPED), direct=False),
    "UDP refused, UDP dropped": Case(Site(udp=Udp.REFUSED), Site(udp=Udp.DROPPED), direct=False),
    "cone, TCP 443 alone": Case(Site(nat=Nat.CONE), ONLY_443, direct=False),
    "TCP 443 alone, both": Case(ONLY_443, ONLY_443, direct=False),
    "udp = false, both": Case(direct=False, tox={"udp": False}),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    online: float | None
    """Seconds from the start until both were; None: not in time."""
    direct: float | None = None
    """Seconds until both reached each other directly; None: through a relay."""
    log: str = ""

    def row(self, name: str, case: Case) -> list[str]:
        """Return the line of the table."""
        path = "relay" if self.direct is None else f"direct, after {self.direct:.1f} s"
        expected = "direct" if case.direct else "relay"
        return [name, expected, "never" if self.online is None else f"{self.online:.1f} s", path]


def meet(case: Case) -> Outcome:
    """Let the two come together, and go."""
    with case.network() as net, _daemons(net, case) as (ann, ben, start):
        ben.cli("friend", "add", ann.identity()["address"], "--name", "ann")
        key = ben.identity()["public_key"]
        if not _until(start + GIVE_UP, lambda: ann.friend(key)):
            return Outcome(None, log=_logs(ann, ben))
        ann.cli("friend", "accept", key, "--name", "ben")
        if not _until(start + GIVE_UP, lambda: _links(ann, ben) <= {"direct", "relay"}):
            return Outcome(None, log=_logs(ann, ben))
        online = time.monotonic() - start
        settled = time.monotonic() + (SETTLE if case.direct else 0)
        is_direct = _until(settled, lambda: _links(ann, ben) == {"direct"})
        return Outcome(online, time.monotonic() - start if is_direct else None, _logs(ann, ben))


@contextmanager
def _daemons(net: Topology, case: Case) -> Iterator[tuple[Node, Node, float]]:
    """The two, and when the first of them was started."""
    with tempfile.TemporaryDirectory(prefix="tunfwd-") as name:
        folder = Path(name)
        nodes = []
        for host in (net[name] for name in NAMES):
            (folder / host.name).mkdir()
            node = Node(host, folder / host.name, {"tox": case.tox} if case.tox else None)
            if isinstance(net, Internet):
                known = folder / "nodes.json"
                known.write_text(json.dumps(net.document()))
                known.chmod(0o644)
                node.environment["TUNFWD_PUBLIC_NODES"] = str(known)
            nodes.append(node)
        ann, ben = nodes
        try:
            start = time.monotonic()
            ann.start()
            ben.start()
            yield ann, ben, start
        finally:
            stop_all(nodes)


def _until(deadline: float, condition: Callable[[], object]) -> bool:
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL)
    return True


def _links(*nodes: Node) -> set[str]:
    """How each reaches the other: direct, relay, or something else."""
    return {contact["link"] for node in nodes for contact in node.json("status")["contacts"]}


def _logs(*nodes: Node) -> str:
    return "\n".join(f"{node.name}: {line}" for node in nodes for line in node.log.splitlines())


def main() -> int:
    """Try what the command line names; 1 where something is not as expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--times", type=int, default=1, help="how often each is tried")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {'; '.join(sorted(unknown))}")
    rows, wrong = [], 0
    for name in options.cases or CASES:
        case = CASES[name]
        for _ in range(options.times):
            outcome = meet(case)
            late = outcome.online is None or outcome.online > PROMISED
            if late or (outcome.direct is not None) != case.direct:
                wrong += 1
                print(outcome.log, file=sys.stderr)
            rows.append(outcome.row(name, case))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(tabulate(rows, ["ann, ben", "expected", "online after", "path"], "pipe"))
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
