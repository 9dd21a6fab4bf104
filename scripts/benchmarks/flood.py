"""Measure another friend's round trip while a friend sends all it can, of each kind of packet.

    python -m scripts.benchmarks.flood [--seconds N] [--rounds N] [KIND ...]

Four hosts: the victim serves an echo to a friend, and an attacker, a friend as well, sends packets made by
hand over real toxcore. The table has the friend's 1-byte round trip, after pauses of 2 ms: idle, while the
attacker floods a daemon like the victim (which costs this machine's few cores the same, and the victim
nothing), and while it floods the victim; in turns, several of each. The ratios are what a flood costs: the
last to the first, and the last to the second, which is the victim's share in it. And what it costs the victim
besides: processor, log, memory. Needs root.
"""

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import trio
from tabulate import tabulate

from netns.node import Node, befriend, stop_all
from netns.topology import Host, Topology
from scripts.benchmarks.ending import tidily
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Contact
from tunfwd.tox.friends import parse_address
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Settings, nodes
from tunfwd.wire.frames import HEADER, STREAM, STREAM_HEADER, encode_ack, encode_frame, link_tag
from tunfwd.wire.frames import Ping as PingFrame

PORT = 9000
PAUSE = 0.002  # s between round trips, in which everything goes to sleep
BATCH = 64  # packets sent before toxcore's loop goes round
SETTLE = 1.0  # s between measurements
TIME_LIMIT = 60.0  # s for any single wait
FULL = 1372  # bytes of a packet

LOSSLESS, DATAGRAM, EXTENSION = b"\xa7", b"\xc8", b"\xc9"
OFFER, KILL, HELLO = 0x00, 0x03, 0x0F
PING, LINK_PACKET = b"\x00", b"\x02"
MANY, LINK, FRAGMENT, FLOW, PINGS = 1, 2, 4, 8, 16
TCP, CONNECTION = 0, 1


class Attacker(Handler):
    """Speaks to its friends in packets made here, to each in a conversation of its own."""

    def __init__(self) -> None:
        self.client: Client
        self.attacks: dict[bytes, Attack] = {}  # by public key

    def attack(self, key: bytes) -> "Attack":
        """Return what goes to a friend."""
        return self.attacks.setdefault(key, Attack())

    def contact_online(self, contact: Contact) -> None:
        attack = self.attack(contact.key)
        attack.client, attack.contact = self.client, contact
        attack.online.set()

    def lossless(self, contact: Contact, data: bytes) -> None:
        self.attack(contact.key).lossless(data)

    def lossy(self, contact: Contact, data: bytes) -> None:
        self.attack(contact.key).lossy(data)

    def iterated(self) -> None:
        for attack in self.attacks.values():
            attack.iterated()


class Attack:
    """What goes to one friend."""

    def __init__(self) -> None:
        self.client: Client
        self.contact: Contact
        self.online = trio.Event()
        self.heard = trio.Event()
        self.random = Random(1)
        self.epoch = self.their_epoch = 0
        self.number = 0
        self.highest = 0  # packet number of the victim's link
        self.sent = 0
        self.make: Callable[[], bytes] | None = None
        self.lossless_kind = False

    # What comes.

    def lossless(self, data: bytes) -> None:
        if data[1] == HELLO:
            _, _, self.their_epoch = struct.unpack_from("<BIQ", data, 2)
            self.heard.set()

    def lossy(self, data: bytes) -> None:
        if data[:2] == EXTENSION + LINK_PACKET:
            self.highest = max(self.highest, struct.unpack_from("<I", data, 6)[0])

    def iterated(self) -> None:
        if self.make is None:
            return
        if self.lossless_kind:
            while self.contact.send_lossless(self.make()):
                self.sent += 1
        else:
            send = self.contact._tox.friend_send_lossy_packet
            number = self.contact.number  # type: ignore[attr-defined]
            for _ in range(BATCH):
                send(number, self.make())
            self.sent += BATCH
            self.client.wake()

    # What goes.

    def hello(self, features: int) -> bytes:
        self.epoch = self.random.getrandbits(64)
        return LOSSLESS + struct.pack("<BBIQ", HELLO, 1, features, self.epoch)

    def offer(self, msg_id: int, direction: int, port: int, name: bytes) -> bytes:
        return LOSSLESS + struct.pack("<BIBBHB", OFFER, msg_id, TCP, direction, port, len(name)) + name

    def link_packet(self, frames: bytes) -> bytes:
        self.number += 1
        tag = link_tag(self.epoch, self.their_epoch)
        return EXTENSION + LINK_PACKET + HEADER.pack(tag, self.number & 0xFFFFFFFF) + frames

    async def introduce(self, features: int) -> None:
        """Begin anew, with these features."""
        self.heard = trio.Event()
        self.number = self.highest = 0
        packet = self.hello(features)
        while not self.contact.send_lossless(packet):  # noqa: ASYNC110
            await trio.sleep(0.05)
        await self.heard.wait()
        await trio.sleep(0.5)

    async def flood(self, kind: str, seconds: float) -> int:
        """Send packets of a kind; return how many."""
        make = await getattr(self, f"flood_{kind}")()
        self.sent = 0
        self.make = make
        self.client.wake()
        await trio.sleep(seconds)
        self.make = None
        return self.sent

    async def flood_ping(self) -> Callable[[], bytes]:
        """Pings: each wants an answer."""
        await self.introduce(PINGS)
        packet = EXTENSION + PING + bytes(8)
        self.lossless_kind = False
        return lambda: packet

    async def flood_junk(self) -> Callable[[], bytes]:
        """Packets that say nothing, of all kinds."""
        await self.introduce(PINGS)
        self.lossless_kind = False
        packets = [EXTENSION + b"\xee", DATAGRAM + bytes(FULL - 1), EXTENSION + PING, EXTENSION + LINK_PACKET]
        packets += [DATAGRAM + self.random.randbytes(20), EXTENSION + self.random.randbytes(FULL - 1)]
        return lambda: packets[self.sent % 6] if self.random.random() < 2 else b""

    async def flood_lossless(self) -> Callable[[], bytes]:
        """The same, on the lossless carrier."""
        await self.introduce(PINGS)
        self.lossless_kind = True
        packet = LOSSLESS + b"\xee" + bytes(10)
        return lambda: packet

    async def flood_hello(self) -> Callable[[], bytes]:
        """Hello after Hello, each with a new epoch: a new link, and an answer."""
        await self.introduce(PINGS)
        self.lossless_kind = True
        return lambda: self.hello(MANY | LINK | FRAGMENT | FLOW | PINGS)

    async def flood_offer(self) -> Callable[[], bytes]:
        """Offer and Kill, over and over."""
        await self.introduce(MANY | FLOW | PINGS)
        self.lossless_kind = True
        ids = iter(range(1, 1 << 31))

        def make() -> bytes:
            number = next(ids)
            if number % 2:
                return self.offer(number, 0, 1000 + number // 2 % 30000, b"name %d" % number)
            return LOSSLESS + struct.pack("<BI", KILL, number - 1)

        return make

    async def flood_connect(self) -> Callable[[], bytes]:
        """Requests for a port that a rule opens, each under another name, and connections to it."""
        await self.introduce(MANY | FLOW | PINGS)
        self.lossless_kind = True
        ids = iter(range(1, 1 << 31))

        def make() -> bytes:
            number = next(ids)
            return self.offer(number, CONNECTION, PORT, b"" if number % 2 else b"name %d" % number)

        return make

    async def flood_bytes(self) -> Callable[[], bytes]:
        """Link packets full of frames with one byte each, of a stream nobody asked for."""
        await self.introduce(MANY | LINK | FRAGMENT | FLOW | PINGS)
        self.lossless_kind = False
        frames = b"".join(
            STREAM_HEADER.pack(STREAM, 5, 2 * place, 1) + b"x" for place in range((FULL - 10) // 16)
        )
        return lambda: self.link_packet(frames)

    async def flood_acks(self) -> Callable[[], bytes]:
        """Link packets full of Acks, of 64 ranges each."""
        await self.introduce(MANY | LINK | FRAGMENT | FLOW | PINGS)
        self.lossless_kind = False
        while self.highest < 200:
            self.contact.send_lossy(self.link_packet(encode_frame(PingFrame())))
            await trio.sleep(0.003)
        starts = [self.highest - 2 * back for back in range(64)][::-1]
        ack = encode_ack(starts, [start + 1 for start in starts], 0.001, FULL)
        frames = ack * ((FULL - 10) // len(ack))
        return lambda: self.link_packet(frames)


KINDS = ("ping", "junk", "lossless", "hello", "offer", "connect", "bytes", "acks")


async def attack(folder: str, bootstrap: str, *addresses: str) -> None:
    """Be the attacker; floods as stdin says, a kind, its seconds and the friend's place on each line."""
    attacker = Attacker()
    settings = Settings(
        savedata=Path(folder) / "identity",
        bootstrap=nodes([bootstrap]),
        name="mallory",
        local_discovery=False,
    )
    with Client(settings, attacker) as client:
        attacker.client = client
        parsed = [parse_address(address) for address in addresses]
        attacks = [attacker.attack(address[:32]) for address in parsed]
        for address in parsed:
            client.friends.add(address)
        print(json.dumps(client.public_key.hex().upper()), flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            for attack in attacks:
                await attack.online.wait()
            print(json.dumps("online"), flush=True)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                kind, seconds, place = line.split()
                print(json.dumps(await attacks[int(place)].flood(kind, float(seconds))), flush=True)
            nursery.cancel_scope.cancel()


def trips(host: str, seconds: float) -> None:
    """Print the round trips of one connection for a while."""
    with socket.create_connection((host, PORT), TIME_LIMIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            connection.sendall(b"x")
            assert connection.recv(1)
            took.append(time.perf_counter() - began)
            time.sleep(PAUSE)
    print(json.dumps(took))


def serve() -> None:
    """Echo."""
    listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
    print("ready", flush=True)

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def again(*arguments: object) -> list[str]:
    """This script, in another part."""
    return [sys.executable, __file__, *map(str, arguments)]


def round_trips(friend: Host, address: str, seconds: float) -> list[float]:
    """Return the round trips of a while, in ms."""
    run = friend.run(again("--trips", address, seconds), timeout=TIME_LIMIT + seconds)
    return [seconds * 1e3 for seconds in json.loads(run.stdout)]


class Delays:
    """Round trips under one condition, in ms."""

    def __init__(self) -> None:
        self.all: list[float] = []

    def quantile(self, share: float) -> float:
        """Return the delay that this share of them does not exceed."""
        return sorted(self.all)[int(len(self.all) * share)]

    def __str__(self) -> str:
        return f"{self.quantile(0.5):.2f} / {self.quantile(0.99):.2f}"

    def __truediv__(self, other: "Delays") -> str:
        return " / ".join(f"{self.quantile(share) / other.quantile(share):.1f}" for share in (0.5, 0.99))


def cpu(node: Node) -> float:
    """Return the seconds of processor that a daemon has used."""
    assert node.daemon is not None
    fields = Path(f"/proc/{node.daemon.pid}/stat").read_text().rsplit(") ")[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def memory(node: Node) -> float:
    """Return the MB that a daemon occupies."""
    assert node.daemon is not None
    status = Path(f"/proc/{node.daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3


def measure(kinds: list[str], seconds: float, rounds: int) -> list[list[object]]:
    """Return the table's rows."""
    processes: list[subprocess.Popen[str]] = []
    members: list[Node] = []
    rows: list[list[object]] = []
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        Topology(["victim", "decoy", "bob", "attacker"]) as net,
    ):
        try:
            rules: dict[str, Any] = {
                "rule": [{"contact": "*", "protocol": "tcp", "ports": str(PORT), "action": "accept"}],
                "expose": [{"protocol": "tcp", "port": PORT}],
            }
            bootstrap: list[str] = []
            for name, extra in (("victim", rules), ("decoy", rules), ("bob", {})):
                if extra:
                    processes.append(net[name].start(again("--serve"), stdout=subprocess.DEVNULL))
                Path(folder, name).mkdir()
                tox = {"local_discovery": False, "bootstrap": bootstrap, "nickname": name}
                members.append(Node(net[name], Path(folder, name), {"tox": tox, **extra}))
                members[-1].start()
                bootstrap = bootstrap or [members[-1].bootstrap()]
            victim, decoy, friend = members
            befriend(friend, victim)
            Path(folder, "attacker").mkdir()
            addresses = [node.identity()["address"] for node in (victim, decoy)]
            command = again("--attack", Path(folder, "attacker"), bootstrap[0], *addresses)
            attacker = net["attacker"].start(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            processes.append(attacker)
            assert attacker.stdin is not None
            assert attacker.stdout is not None
            key = json.loads(attacker.stdout.readline())
            for node in (victim, decoy):
                node.wait_for(lambda node=node: node.friend(key), TIME_LIMIT, "the attacker asks")  # type: ignore[misc]
                node.cli("friend", "accept", key, "--name", "mallory")
            assert json.loads(attacker.stdout.readline()) == "online"
            victim.cli("offer", f"{PORT}/tcp", "--to", "bob", "--name", "echo")
            friend.wait_for(lambda: friend.offer("echo"), TIME_LIMIT, "the offer is there")
            friend.cli("accept", "echo")
            mapping = friend.port("echo")
            assert mapping is not None
            address = mapping["address"]
            time.sleep(SETTLE)
            for kind in kinds:
                idle, beside, flooded = Delays(), Delays(), Delays()
                sent = log = 0
                spent = occupied = 0.0
                for _ in range(rounds):
                    idle.all += round_trips(net["bob"], address, seconds)
                    for place, delays in ((1, beside), (0, flooded)):
                        log_before, occupied_before = len(victim.log), memory(victim)
                        attacker.stdin.write(f"{kind} {seconds + 2} {place}\n")
                        time.sleep(1.5)
                        spent_before = cpu(victim)
                        delays.all += round_trips(net["bob"], address, seconds)
                        spent_now = cpu(victim) - spent_before
                        count = json.loads(attacker.stdout.readline())
                        if delays is flooded:
                            sent += count
                            spent += spent_now
                            log += len(victim.log) - log_before
                            occupied += memory(victim) - occupied_before
                        time.sleep(SETTLE)
                rows.append(
                    [
                        kind,
                        f"{sent / rounds / (seconds + 2):,.0f}",
                        idle,
                        beside,
                        flooded,
                        flooded / idle,
                        flooded / beside,
                        f"{spent / rounds / seconds:.0%}",
                        f"{log / rounds / (seconds + 2):,.0f}",
                        f"{occupied:+.0f}",
                    ]
                )
                print(*rows[-1], sep="   ", flush=True)
            return rows
        finally:
            stop_all(members)
            for process in processes:
                process.kill()
                process.wait()


HEADINGS = (
    "flood",
    "sent a second",
    "idle, ms",
    "another flooded, ms",
    "flooded, ms",
    "to idle",
    "to another",
    "core",
    "log, B/s",
    "MB",
)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of measurements of each kind")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--attack", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--trips", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        trio.run(attack, *arguments.attack)
    elif arguments.trips:
        trips(arguments.trips[0], float(arguments.trips[1]))
    elif arguments.serve:
        serve()
    else:
        with tidily():
            rows = measure(arguments.kinds or list(KINDS), arguments.seconds, arguments.rounds)
        print(tabulate(rows, HEADINGS))
        print("Delays and ratios: median / p99.")


if __name__ == "__main__":
    main()
