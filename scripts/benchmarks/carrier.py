#!/usr/bin/env python3
"""Measure what bare Tox packets do between two hosts on this machine, with nothing above the client.

    python -m scripts.benchmarks.carrier [--seconds N] [--cases lossless,both,lossy,...]

This is what everything above the carrier is compared with, so it has the same network (two namespaces joined
by a bridge) and the same settings (tox/binding/memory.py). `run_cases` is for other benchmarks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

from netns.topology import Topology
from scripts.benchmarks.ending import tidily
from tunfwd.tox.binding import memory
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Contact, Invitation
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Node, Settings
from tunfwd.tun import privileges

SIZE = 1372  # bytes of a packet, prefix included
OFFERED = 60_000  # packets/s in the paced lossy case
BATCH = 64  # lossy packets sent before the loop goes round again

DATA, PING, PONG, START, COUNT = b"d", b"p", b"o", b"s", b"c"


@dataclass
class Result:
    """One row of the table."""

    name: str
    megabytes_per_second: float = 0.0
    by_second: list[float] = field(default_factory=list)
    lost: float = 0.0
    cpu_per_packet: float = 0.0
    """Microseconds of this process for each packet sent or received."""
    round_trips: list[float] = field(default_factory=list)
    """Seconds."""

    def __str__(self) -> str:
        if self.round_trips:
            ordered = sorted(self.round_trips)
            median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
            return f"{self.name:<34} median {median * 1e3:6.3f} ms   p99 {p99 * 1e3:6.3f} ms"
        seconds = " ".join(f"{rate:.1f}" for rate in self.by_second)
        return (
            f"{self.name:<34} {self.megabytes_per_second:6.2f} MB/s   lost {self.lost:5.1%}   "
            f"{self.cpu_per_packet:5.1f} us/packet   by second: {seconds}"
        )


class Endpoint(Handler):
    """Sends what it is told to, counts what comes, answers pings."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.friend_online = trio.Event()
        self.online = trio.Event()
        self.contact: Contact | None = None
        self.client: Client | None = None
        self.received = 0
        self.sent = 0
        self.peer_count = -1
        self.pong = trio.Event()
        self.send: Callable[[], None] | None = None
        self.until = 0.0
        self.invited: bytes | None = None

    def contact_online(self, contact: Contact) -> None:
        if contact.kind == "friend":
            self.friend_online.set()
        if contact.kind == self.kind:
            self.contact = contact
            self.online.set()

    def invitation(self, invitation: Invitation) -> None:
        self.invited = invitation.id

    def lossless(self, contact: Contact, data: bytes) -> None:
        data = data[len(contact.carrier.lossless) - 1 :]
        match data[1:2]:
            case b"d":
                self.received += 1
            case b"p":
                contact.send_lossless(contact.carrier.lossless + PONG)
            case b"o":
                self.pong.set()
            case b"s":
                seconds = float(data[2:])
                self.received = self.sent = 0
                self.start(self.fill_lossless, seconds)
            case b"c":
                if len(data) > 2:
                    self.peer_count = int(data[2:])
                else:
                    contact.send_lossless(contact.carrier.lossless + COUNT + b"%d" % self.received)
                    self.received = 0

    def lossy(self, contact: Contact, data: bytes) -> None:
        data = data[len(contact.carrier.lossy) - 1 :]
        match data[1:2]:
            case b"d":
                self.received += 1
            case b"p":
                contact.send_lossy(contact.carrier.extension + PONG)
            case b"o":
                self.pong.set()

    def start(self, send: Callable[[], None], seconds: float) -> None:
        self.sent = 0
        self.began = time.monotonic()
        self.until = self.began + seconds
        self.send = send

    def iterated(self) -> None:
        if self.invited is not None:
            assert self.client is not None
            self.client.groups.accept(self.invited)
            self.invited = None
        if self.send is not None:
            if time.monotonic() >= self.until:
                self.send = None
            else:
                self.send()

    def fill_lossless(self) -> None:
        assert self.contact is not None
        packet = self.contact.carrier.lossless + DATA
        packet += b"x" * (min(SIZE, self.contact.carrier.lossless_limit) - len(packet))
        while self.contact.send_lossless(packet):
            self.sent += 1

    def fill_lossy(self) -> None:
        assert self.contact is not None
        assert self.client is not None
        packet = self.contact.carrier.extension + DATA
        packet += b"x" * (SIZE - len(packet))
        for _ in range(BATCH):
            self.contact.send_lossy(packet)
        self.sent += BATCH
        self.client.wake()

    def pace_lossy(self) -> None:
        assert self.contact is not None
        assert self.client is not None
        packet = self.contact.carrier.extension + DATA
        packet += b"x" * (SIZE - len(packet))
        due = int((time.monotonic() - self.began) * OFFERED)
        while self.sent < due:
            self.contact.send_lossy(packet)
            self.sent += 1
        self.client.wake()


async def _count(here: Endpoint) -> int:
    """Ask the other side how many packets it has received since it was asked last."""
    assert here.contact is not None
    here.peer_count = -1
    while not here.contact.send_lossless(here.contact.carrier.lossless + COUNT):  # noqa: ASYNC110
        await trio.sleep(0.01)
    while here.peer_count < 0:  # noqa: ASYNC110
        await trio.sleep(0.005)
    return here.peer_count


async def _bulk(here: Endpoint, name: str, send: Callable[[], None], seconds: float) -> Result:
    assert here.contact is not None
    lossless = send == here.fill_lossless
    size = min(SIZE, here.contact.carrier.lossless_limit) if lossless else SIZE
    result = Result(name)
    await _count(here)
    cpu, began, last = time.process_time(), time.monotonic(), 0
    here.start(send, seconds)
    while here.send is not None:
        await trio.sleep(1)
        result.by_second.append((here.sent - last) * size / 1e6)
        last = here.sent
    cpu = time.process_time() - cpu
    received = await _count(here)
    elapsed = time.monotonic() - began
    while received < here.sent and time.monotonic() - began < elapsed + 1:
        await trio.sleep(0.1)
        received += await _count(here)
    result.megabytes_per_second = received * size / seconds / 1e6
    result.lost = 1 - received / max(1, here.sent)
    result.cpu_per_packet = cpu / max(1, here.sent) * 1e6
    return result


async def _both(here: Endpoint, seconds: float) -> list[Result]:
    """Send and receive lossless packets at once."""
    assert here.contact is not None
    await _count(here)
    here.received = 0
    here.contact.send_lossless(here.contact.carrier.lossless + START + b"%f" % seconds)
    sent = await _bulk(here, "lossless, both ways: sent", here.fill_lossless, seconds)
    received = Result("lossless, both ways: received", here.received * SIZE / seconds / 1e6)
    return [sent, received]


async def _round_trips(here: Endpoint, name: str, lossless: bool, count: int, pause: float = 0.0) -> Result:
    assert here.contact is not None
    result = Result(name)
    for _ in range(count):
        here.pong = trio.Event()
        began = time.perf_counter()
        with trio.move_on_after(1):
            if lossless:
                here.contact.send_lossless(here.contact.carrier.lossless + PING)
            else:
                here.contact.send_lossy(here.contact.carrier.extension + PING)
            await here.pong.wait()
            result.round_trips.append(time.perf_counter() - began)
        if pause:
            await trio.sleep(pause)
    return result


TIME_LIMIT = 300.0  # s for everything
PAUSE = 0.002  # s, in which everything goes to sleep
CASES = (
    "lossy round trip",
    "lossy round trip with pauses",
    "lossless round trip",
    "lossless",
    "both",
    "lossy",
    "lossy unpaced",
)


async def run_cases(here: Endpoint, seconds: float, cases: tuple[str, ...] = CASES) -> list[Result]:
    """Measure one after the other; `here` is online, its peer runs `peer_main`."""
    results = []
    for case in cases:
        await trio.sleep(1.5)  # let the last case's rate be forgotten
        match case:
            case "lossless":
                results.append(await _bulk(here, "lossless", here.fill_lossless, seconds))
            case "both":
                results += await _both(here, seconds)
            case "lossy":
                results.append(
                    await _bulk(here, f"lossy, {OFFERED} packets/s offered", here.pace_lossy, seconds)
                )
            case "lossy unpaced":
                results.append(await _bulk(here, "lossy, as fast as possible", here.fill_lossy, seconds))
            case "lossy round trip":
                results.append(await _round_trips(here, "lossy round trip", False, 2000))
            case "lossy round trip with pauses":
                results.append(await _round_trips(here, case, False, 1000, PAUSE))
            case "lossless round trip":
                results.append(await _round_trips(here, "lossless round trip", True, 500))
            case _:
                raise ValueError(f"no such case: {case!r}; there are {', '.join(CASES)}")
        print(*results[-2 if case == "both" else -1 :], sep="\n", flush=True)
    return results


async def peer_main(kind: str, node: str, key: str) -> None:
    """Be the other side, for as long as stdin is open."""
    _give_up_privileges()
    here = Endpoint(kind)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            savedata=Path(folder) / "identity", local_discovery=False, bootstrap=(Node.parse(node),)
        )
        with Client(settings, here) as client:
            here.client = client
            client.friends.add_key(bytes.fromhex(key))
            print(json.dumps(client.public_key.hex()), flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
                nursery.cancel_scope.cancel()


def _give_up_privileges() -> None:
    """As the daemon does: without them toxcore cannot lock memory."""
    privileges.drop()
    memory.disable_mlock()


async def main(seconds: float, cases: tuple[str, ...], kind: str, here_at: str, there: str) -> list[Result]:
    """Start the other side, wait for it, measure. `kind` is "friend" or "group": two members of one.

    We are reached at `here_at`; the other side is to live in the network namespace `there`.
    """
    here = Endpoint(kind)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(savedata=Path(folder) / "identity", local_discovery=False)
        with Client(settings, here) as client:
            here.client = client
            node = Node(here_at, client.udp_port or 0, client.dht_key)
            command = ["ip", "netns", "exec", there, sys.executable, __file__]
            command += ["--peer", kind, str(node), client.public_key.hex()]
            with subprocess.Popen(  # noqa: ASYNC220 before the loop runs
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as peer:
                assert peer.stdin is not None
                assert peer.stdout is not None
                _give_up_privileges()
                client.friends.add_key(bytes.fromhex(json.loads(peer.stdout.readline())))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    with trio.fail_after(60):
                        await here.friend_online.wait()
                        if kind == "group":
                            await trio.sleep(1)  # until the other side sees us online, too
                            client.groups.invite(client.groups.create("bench"), next(iter(client.friends)))
                        await here.online.wait()
                    await trio.sleep(2)
                    results = await run_cases(here, seconds, cases)
                    nursery.cancel_scope.cancel()
                peer.stdin.close()
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", action="store_true", help="also print one line of JSON, at the end")
    parser.add_argument("--kind", choices=("friend", "group"), default="friend")
    parser.add_argument("--hosts", nargs=2, metavar=("ADDRESS", "NAMESPACE"), help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=3, metavar=("KIND", "NODE", "KEY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        trio.run(peer_main, *arguments.peer)
    elif arguments.hosts:
        cases = tuple(arguments.cases.split(","))
        results = trio.run(main, arguments.seconds, cases, arguments.kind, *arguments.hosts)
        if arguments.json:
            print(json.dumps([asdict(result) for result in results]))
    elif os.geteuid() != 0:
        sys.exit("carrier: network namespaces need root")
    else:
        with tidily(), Topology(["here", "there"]) as net:
            here, there = net
            again = [sys.executable, *sys.argv, "--hosts", str(here.address), there.namespace]
            sys.exit(here.run(again, timeout=TIME_LIMIT, check=False, capture_output=False).returncode)
