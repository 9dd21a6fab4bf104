"""Measure what it costs to look on: the same pair of daemons, by turns with observers and without.

    scripts/bench --observed [--seconds N] [--rounds N]

Observed: `tunfwd events --follow`, `[metrics] listen` read each second, and `tunfwd web` with a page that is
open, at both ends. Traced: `tunfwd trace` besides, at one end. Turns alternate, as a machine's speed drifts;
the medians of the rounds are compared.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tabulate import tabulate

from netns.node import TUNFWD, Node
from scripts.benchmarks.ending import tidily
from scripts.benchmarks.whole import Figures, Pair, milliseconds, pair

METRICS = "127.0.0.1:9177"
TURNS = ("without", "observed", "traced")
READER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(1)
"""
PAGE = """
import http.cookiejar, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
address, _, token = sys.argv[1].partition("?")
opener.open(f"{address}?{token}").read()
print("open", flush=True)
stream = opener.open(f"{address}live")
while stream.read1(65536):
    pass
"""


@contextmanager
def started(node: Node, *command: str | Path, answers: bool = False) -> Iterator[str]:
    """A program on a node's host, until the end; `answers`: its first line is waited for, and yielded."""
    process = node.host.start(
        list(command),
        env=os.environ | node.environment,
        stdout=subprocess.PIPE if answers else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().strip() if process.stdout is not None else ""
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def look_on(stack: ExitStack, node: Node) -> None:
    """Have a daemon observed by all that there is."""
    stack.enter_context(started(node, TUNFWD, "events", "--follow", "--json"))
    stack.enter_context(started(node, sys.executable, "-c", READER, f"http://{METRICS}/metrics"))
    web = started(node, TUNFWD, "web", "--port", "0", "--no-browser", answers=True)
    address = stack.enter_context(web)
    stack.enter_context(started(node, sys.executable, "-c", PAGE, address, answers=True))


def turn(both: Pair, how: str, seconds: float) -> Figures:
    """Measure once."""
    with ExitStack() as stack:
        if how != "without":
            look_on(stack, both.alice)
            look_on(stack, both.bob)
        if how == "traced":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            file = str(Path(folder, "trace"))
            stack.enter_context(started(both.alice, TUNFWD, "trace", "bob", "--output", file))
        rates = both.measure("friend-tcp", "rates", seconds)
        return rates | both.measure("friend-tcp", "idle") | both.measure("friend-tcp", "loaded")


def measure(seconds: float, rounds: int) -> list[tuple[str, ...]]:
    """Measure by turns; return the table."""
    found: dict[str, list[Figures]] = {how: [] for how in TURNS}
    with pair(link=True, config={"metrics": {"listen": METRICS}}) as both:
        for number in range(rounds):
            for how in TURNS:
                print(f"# round {number + 1} of {rounds}, {how}", flush=True)
                found[how].append(turn(both, how, seconds))
    rows = []
    for key, title in (
        ("upload", "one TCP stream, upload"),
        ("download", "one TCP stream, download"),
        ("idle_median", "1-byte round trip, median"),
        ("loaded_median", "1-byte round trip under load, median"),
    ):
        values = {how: median(figures[key] for figures in found[how]) for how in TURNS}
        bare = values["without"]
        cells = []
        for how in TURNS:
            text = f"{values[how]:.1f} MB/s" if key in ("upload", "download") else milliseconds(values[how])
            cells.append(text if how == "without" else f"{text} ({values[how] / bare:.2f} x)")
        rows.append((title, *cells))
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--observed", action="store_true", help="what chose this measurement")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each transfer; default 5, at most 25")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind; default 5")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    with tidily():
        rows = measure(arguments.seconds, arguments.rounds)
    print(tabulate(rows, headers=("what", *TURNS), disable_numparse=True))


if __name__ == "__main__":
    main()
