"""The link across cables that are pulled: what goes on, what ends, and how it comes back.

alice and bob, and carol and dave, are friends on hosts of their own here, joined by the emulator, as cables
are cut. An outage is given up after 15 s instead of 60. Tox notices a cut after half a minute, or never.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

import pytest

from netns.control import ask as ask_emulator
from netns.link import Conditions
from netns.node import Node, befriend
from netns.topology import Host, Topology, control_path

from .conftest import Forward, Forwards
from .hosts import TIME, TcpService, bytes_of, connect, echo, eventually, inside, read_exactly
from .plain_peer import ToxNode
from .test_faults import come_back, transfer, was_reset

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

MIB = 1 << 20
SIZE = int(os.environ.get("TUNFWD_TRANSFER_MB", "200")) * 1_000_000 // MIB  # MiB
CUTS = 3
CUT = 10.0  # s
OUTAGE = 15.0  # s
NOTICE = 45.0  # s; toxcore takes 32 to miss a friend
BACK = 60.0  # s until two friends have found each other again
AT_ONCE = 1000


@pytest.fixture(scope="module")
def cables() -> Iterator[Topology]:
    with Topology(["alice", "bob", "carol", "dave", "eve"], conditions=Conditions()) as topology:
        yield topology


@pytest.fixture(scope="module")
def nodes(cables: Topology) -> Iterator[dict[str, Node]]:
    """Two pairs of friends."""
    with tempfile.TemporaryDirectory(prefix="tunfwd-e2e-") as place, ExitStack() as stack:
        folder = Path(place)
        network = stack.enter_context(ToxNode(cables["eve"], folder / "node.tox"))
        made = {}
        for name in ("alice", "bob", "carol", "dave"):
            (folder / name).mkdir()
            config: dict[str, dict[str, object]] = {
                "tox": {"bootstrap": [network.bootstrap]},
                "forwarding": {"outage": OUTAGE},
            }
            made[name] = stack.enter_context(Node(cables[name], folder / name, config))
        with ThreadPoolExecutor() as pool:
            list(pool.map(befriend, (made["bob"], made["dave"]), (made["alice"], made["carol"])))
        yield made
        for node in made.values():
            assert "Traceback" not in node.log, f"{node.name}: {node.log[-4000:]}"


@pytest.fixture
def ports(nodes: dict[str, Node]) -> Iterator[Forwards]:
    forwards = Forwards(nodes["alice"], nodes["bob"])
    yield forwards
    forwards.end()


@contextmanager
def cut(cables: Topology) -> Iterator[None]:
    """Pull the cables of alice and bob."""

    def plug(*, up: bool) -> None:
        change = {name: {"up": up} for name in ("alice", "bob")}
        ask_emulator(control_path(cables.label), {"change": change})

    plug(up=False)
    try:
        yield
    finally:
        plug(up=True)


class Download:
    """`SIZE` MiB from a service, and what they hash to."""

    def __init__(self, port: Forward) -> None:
        self.received = 0
        self.hash = hashlib.sha256()
        self.end: BaseException | None = None
        self.longest_pause = 0.0
        self._client = connect(port.using.host, port.address, port.port)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._client.settimeout(60)
        last = time.monotonic()
        try:
            while piece := self._client.recv(MIB):
                self.received += len(piece)
                self.hash.update(piece)
                now = time.monotonic()
                self.longest_pause, last = max(self.longest_pause, now - last), now
        except OSError as end:
            self.end = end

    def wait(self, timeout: float) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{self.received} bytes have come"
        self._client.close()


def pour(connection: socket.socket) -> None:
    connection.settimeout(60)
    for number in range(SIZE):
        connection.sendall(bytes_of(number, MIB))


@contextmanager
def ssh_session(port: Forward) -> Iterator[Callable[[str], None]]:
    """A login whose far end repeats what is typed, line by line, with the settings that people have."""
    serving, using = port.serving.host, port.using.host
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for key in ("host", "user"):
            keygen: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key]
            subprocess.run(keygen, check=True, timeout=60)
        (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
        (folder / "sshd_config").write_text(
            f"Port {port.port}\nListenAddress 0.0.0.0\nHostKey {folder}/host\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nPermitRootLogin yes\n"
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd insists on chrooting
        known = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[{port.address}]:{port.port} {' '.join(known)}\n")
        server = serving.start(
            ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL
        )
        options = ["-F", "none", "-i", str(folder / "user"), "-o", f"UserKnownHostsFile={folder}/known"]
        try:
            eventually(lambda: listens(serving, port.port), "sshd listens")
            client = using.start(
                ["ssh", *options, "-p", f"{port.port}", f"root@{port.address}", "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert client.stdin is not None
            assert client.stdout is not None
            yield lambda line: repeated(client, line)
            client.stdin.close()
            assert client.wait(TIME) == 0
            client.stdout.close()
        finally:
            server.kill()
            server.wait()


def listens(host: Host, port: int) -> bool:
    with suppress(OSError):
        connect(host, "127.0.0.1", port).close()
        return True
    return False


def repeated(client: subprocess.Popen[bytes], line: str) -> None:
    """Type it, and see it come back."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(line.encode() + b"\n")
    client.stdin.flush()
    with DefaultSelector() as selector:
        selector.register(client.stdout, EVENT_READ)
        assert selector.select(30), "ssh says nothing"
    assert client.stdout.readline() == line.encode() + b"\n"


@pytest.mark.timeout(500)
def test_transfers_survive_three_cuts(ports: Forwards, cables: Topology) -> None:
    """The same hash, an ssh session and a quiet connection that stay, and nobody notices but by a pause."""
    large, small, shell = ports(), ports(), ports()
    expected = hashlib.sha256()
    for number in range(SIZE):
        expected.update(bytes_of(number, MIB))
    with (
        TcpService(large.serving.host, large.port, pour),
        TcpService(small.serving.host, small.port, echo),
        ssh_session(shell) as type_,
        connect(small.using.host, small.address, small.port) as quiet,
    ):
        quiet.settimeout(30)
        type_("before")
        download = Download(large)
        for number in range(1, CUTS + 1):
            part = number * SIZE * MIB // (CUTS + 1)
            eventually(lambda part=part: download.received > part, f"cut {number} is due", 120)  # type: ignore[misc]
            with cut(cables):
                quiet.sendall(b"said in cut %d" % number)
                time.sleep(CUT)
                assert download.received < SIZE * MIB
            assert read_exactly(quiet, 13) == b"said in cut %d" % number
            type_(f"after {number}")
            assert download.end is None, download.end
        download.wait(120)
        assert download.end is None, download.end
        assert download.hash.digest() == expected.digest()
        assert download.longest_pause < CUT + 10


def test_a_thousand_connections_at_once(ports: Forwards) -> None:
    port = ports()
    host = port.using.host

    def talk_all() -> float:
        started = time.monotonic()
        clients = [socket.socket() for _ in range(AT_ONCE)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((port.address, port.port))
        for number, client in enumerate(clients):
            client.settimeout(30)
            while True:
                try:
                    client.sendall(b"%04d" % number)
                    break
                except BlockingIOError:
                    time.sleep(0.01)
        for number, client in enumerate(clients):
            assert read_exactly(client, 4) == b"%04d" % number
        took = time.monotonic() - started
        for client in clients:
            client.close()
        return took

    with TcpService(port.serving.host, port.port, echo):
        assert inside(host, talk_all) < 60


@pytest.mark.timeout(500)
def test_a_long_outage_and_a_sudden_end(ports: Forwards, cables: Topology, nodes: dict[str, Node]) -> None:
    """The cable is out for longer than the outage, and dave is killed; both at once, as it takes its time.

    Streams are reset on all sides that are left, and the mappings work again without a command.
    """
    dave = nodes["dave"]
    down, up, other = ports(), ports(reverse=True), ports(serving=dave, using=nodes["carol"])
    with transfer(down) as one, transfer(up) as two, transfer(other) as three, cut(cables):
        dave.kill()
        dave.start()
        ends: list[Callable[[], BaseException | bytes | None]] = [lambda: three.client_end]
        for moved in (one, two):
            ends += [lambda moved=moved: moved.client_end, lambda moved=moved: moved.service_end]  # type: ignore[misc]
        for end in ends:
            eventually(end, "the end is heard of", NOTICE + OUTAGE)
            assert was_reset(end()), end()
    come_back(other, down, up)
