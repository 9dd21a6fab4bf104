"""Measure what a packet costs, beside the bare carrier, the kernel alone and other programs, in one run.

    scripts/bench --packet [--peers] [--seconds N]

Each way leads from one host to another, over the same network: the kernel's alone (a veth and a bridge),
tunfwd's, and with `--peers` those of other programs where they are installed (peers.py). What is measured is
the same, by the same programs: round trips, connects, one stream, a web server. What a round trip takes of
system calls, frames and packets is counted, and of tunfwd's also the calls of Python (counted.py).
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from os import sysconf
from pathlib import Path
from typing import Final

from netns.emulator import INTERFACE
from netns.topology import Host
from scripts.benchmarks import core
from scripts.benchmarks.app import DATAGRAM_RATE
from scripts.benchmarks.counted import Counts

PORT: Final = 9000  # whole.py's server
WEB_PORT: Final = 9080
PAGE: Final = b"x" * 612  # bytes, as nginx's own first page
REQUESTS: Final = 3000
CLIENTS: Final = 8
TRACED: Final = 4.0  # s of round trips whose system calls are counted
LOAD: Final = 3.0  # s of datagrams
TIME_LIMIT: Final = 120.0  # s for one measurement
ENDS: Final = ("client's end", "server's end")

Figures = dict[str, float]


@dataclass
class Way:
    """A way from the client to the server."""

    name: str
    address: str
    processes: Sequence[int] = ()  # whose CPU it takes: the client's end, the server's
    device: str | None = None  # whose frames are counted, in the client's namespace
    figures: Figures = field(default_factory=dict)


def cpu(process: int) -> float:
    """Return the CPU time that a process has taken, in s."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ")[1].split()
    return sum(map(int, fields[11:13])) / sysconf("SC_CLK_TCK")


def frames(host: Host, device: str) -> int:
    """Return how many frames a device has carried, both ways together."""
    folder = f"/sys/class/net/{device}/statistics"
    counts = host.run(["cat", f"{folder}/rx_packets", f"{folder}/tx_packets"]).stdout.split()
    return sum(map(int, counts))


def app(client: Host, way: Way, what: str, *values: object) -> Figures:
    """Have app.py measure on a way."""
    command = [sys.executable, core.APP, what, way.address, str(PORT), *map(str, values)]
    found: Figures = json.loads(client.run(command, timeout=TIME_LIMIT).stdout)
    return found


def requests(client: Host, way: Way, keep_alive: bool) -> float:
    """Return the web server's requests a second."""
    command = ["ab", "-q", "-n", str(REQUESTS), "-c", str(CLIENTS), *["-k"] * keep_alive]
    shown = client.run([*command, f"http://{way.address}:{WEB_PORT}/"], timeout=TIME_LIMIT).stdout
    failed, rate = (
        re.search(r"Failed requests: +(\d+)", shown),
        re.search(r"Requests per second: +(\S+)", shown),
    )
    assert failed is not None
    assert rate is not None
    assert int(failed[1]) == 0, shown
    return float(rate[1])


def counted(client: Host, way: Way) -> Figures:
    """Return what a round trip takes: system calls of the processes at each end, frames and packets."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tracers = []
        for number, process in enumerate(way.processes):
            command = ["strace", "-f", "-c", "-o", f"{folder}/{number}", "-p", str(process)]
            tracers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(tracers[-1].kill)
        time.sleep(1)
        devices = (way.device, INTERFACE) if way.device else (INTERFACE,)
        before = [frames(client, device) for device in devices]
        trips = app(client, way, "trips", TRACED)["trips"]
        carried = [frames(client, device) - old for device, old in zip(devices, before, strict=True)]
        for tracer in tracers:
            tracer.terminate()
            tracer.wait(30)
        totals = [Path(folder, str(number)).read_text() for number in range(len(tracers))]
    found = {"packets a trip": carried[-1] / trips}
    if way.device:
        found["frames a trip"] = carried[0] / trips
    for end, text in zip(ENDS, totals, strict=False):
        calls = [int(line.split()[3]) for line in text.splitlines() if line.endswith(" total")]
        found[f"system calls a trip, {end}"] = sum(calls) / trips
    return found


def measured(client: Host, way: Way, seconds: float) -> Figures:
    """Measure all of it."""
    print(f"# {way.name}", flush=True)
    found = app(client, way, "delays") | app(client, way, "udp")
    for direction in ("upload", "download"):
        before = sum(map(cpu, way.processes))
        found[direction] = app(client, way, direction, seconds)[direction]
        spent = sum(map(cpu, way.processes)) - before
        found[f"CPU of a GB, {direction}"] = spent / (found[direction] * seconds) * 1e3
    before = sum(map(cpu, way.processes))
    app(client, way, "datagrams", LOAD)
    found["CPU of a datagram"] = (sum(map(cpu, way.processes)) - before) / (LOAD * DATAGRAM_RATE)
    if shutil.which("ab") and shutil.which("nginx"):
        found["keep_alive"] = requests(client, way, True)
        found["each_anew"] = requests(client, way, False)
    if shutil.which("strace"):
        found |= counted(client, way)
    return found


def calls(ends: Sequence[Counts]) -> Figures:
    """Return the figures of a round trip's calls of Python, as counted.py has them of either end."""
    found = {}
    for end, counts in zip(ENDS, ends, strict=True):
        found[f"functions a trip, {end}"] = counts["tunfwd"]
        found[f"calls a trip, {end}"] = sum(counts.values())
    return found


@contextmanager
def web_server(host: Host) -> Iterator[None]:
    """Serve a page by nginx, where there is one."""
    if shutil.which("nginx") is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "index.html").write_bytes(PAGE)
        Path(folder, "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; keepalive_requests 1000000;\n"
            f"server {{ listen 0.0.0.0:{WEB_PORT}; root {folder}; }} }}\n"
        )
        server = host.start(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            server.terminate()
            server.wait()


# The table.

ROWS: Final = (  # key, title, what it is in
    ("round_trip_median", "1-byte round trip", "ms"),
    ("round_trip_paused_median", "after pauses of 2 ms", "ms"),
    ("udp_median", "1-byte UDP round trip", "ms"),
    ("first_byte_median", "connect to first echoed byte", "ms"),
    ("connections_1000", "1000 connections at once", "ms"),
    ("upload", "one stream, upload", "MB/s"),
    ("download", "one stream, download", "MB/s"),
    ("keep_alive", "HTTP, connections kept", "requests/s"),
    ("each_anew", "HTTP, a connection each", "requests/s"),
    ("CPU of a GB, upload", "CPU of a GB, upload, both ends", "s"),
    ("CPU of a GB, download", "CPU of a GB, download, both ends", "s"),
    ("CPU of a datagram", "CPU of a datagram of 1200 bytes, both ends", "us"),
    *((f"system calls a trip, {end}", f"system calls of a round trip, {end}", "") for end in ENDS),
    *((f"functions a trip, {end}", f"functions of ours of a round trip, {end}", "") for end in ENDS),
    *((f"calls a trip, {end}", f"calls of Python of a round trip, {end}", "") for end in ENDS),
    ("frames a trip", "frames at the device for a round trip", ""),
    ("packets a trip", "packets on the network for a round trip", ""),
)
SCALE: Final = {"ms": 1e3, "us": 1e6}
BARE: Final = {  # what bare Tox packets do, by carrier.py's name for it, and whether less is better
    "round_trip_median": "lossy round trip",
    "round_trip_paused_median": "lossy round trip with pauses",
    "udp_median": "lossy round trip",
    "first_byte_median": "lossy round trip",
    "upload": "lossy unpaced",
    "download": "lossy unpaced",
}


def rows(ways: Sequence[Way], bare: Figures) -> list[tuple[str, ...]]:
    """Lay out the figures: a line for each, a column for each way, and ours against bare packets."""
    lines = []
    ours = next(way for way in ways if way.name == "tunfwd")
    for key, title, unit in ROWS:
        values = [way.figures.get(key) for way in ways]
        cells = ["-" if value is None else _figure(value * SCALE.get(unit, 1)) for value in values]
        mine, theirs = ours.figures.get(key), bare.get(BARE.get(key, ""))
        ratio = f"{mine / theirs:.2f}" if mine and theirs else ""
        lines.append((f"{title}, {unit}" if unit else title, *cells, ratio))
    return lines


def heads(ways: Sequence[Way]) -> list[str]:
    """Return the heads of the columns."""
    return ["", *(way.name for way in ways), "x bare packets"]


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", " ")
