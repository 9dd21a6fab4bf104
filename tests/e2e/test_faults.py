"""Daemons that die, restart, or lose the network: a reset instead of silence, and everything comes back."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from netns.node import Node, befriend
from netns.topology import Topology
from tunfwd.common.errors import UserError
from tunfwd.control import api

from .conftest import Forward, Forwards, ask, settings
from .hosts import (
    TcpService,
    UdpEcho,
    bytes_of,
    connect,
    datagram_socket,
    echo,
    eventually,
    read_exactly,
)
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

MIB = 1 << 20
NOTICE = 60.0  # s; toxcore takes 32 to miss a friend
PAUSE = 0.2  # s between pieces of 1 MiB, so that daemons and tests have some of the processor left
BACK = 60.0  # s until two friends have found each other again


class Transfer:
    """A download without end through a forwarded port: what came, and how each end of it ended."""

    def __init__(self, port: Forward) -> None:
        self.port = port
        self.received = 0
        self.client_end: BaseException | bytes | None = None
        self.service_end: BaseException | None = None
        self._service = TcpService(port.serving.host, port.port, self._pour)
        self._client = connect(port.using.host, port.address, port.port)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.received > MIB, "the transfer is under way")

    def _pour(self, service: socket.socket) -> None:
        service.settimeout(2 * NOTICE)
        try:
            for number in range(1_000_000):
                service.sendall(bytes_of(number, MIB))
                time.sleep(PAUSE)
        except OSError as end:
            self.service_end = end

    def _read(self) -> None:
        """Compare what comes with what is sent: nothing may be left out, whatever happens."""
        self._client.settimeout(2 * NOTICE)
        pending, number = b"", 0
        try:
            while piece := self._client.recv(MIB):
                self.received += len(piece)
                pending += piece
                while len(pending) >= MIB:
                    assert pending[:MIB] == bytes_of(number, MIB)
                    pending, number = pending[MIB:], number + 1
            self.client_end = b""
        except (OSError, AssertionError) as end:
            self.client_end = end

    def close(self) -> None:
        self._service.close()
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._client.close()


@contextmanager
def transfer(port: Forward) -> Iterator[Transfer]:
    made = Transfer(port)
    try:
        yield made
    finally:
        made.close()


def was_reset(end: object) -> bool:
    return isinstance(end, ConnectionResetError | BrokenPipeError)


def works(port: Forward) -> bool:
    """Whether the port does, with a service that is there for as long as that takes."""
    with suppress(OSError):
        if port.protocol == "tcp":
            with (
                TcpService(port.serving.host, port.port, echo),
                connect(port.using.host, port.address, port.port, timeout=3) as client,
            ):
                client.sendall(b"back again")
                return read_exactly(client, 10) == b"back again"
        with (
            UdpEcho(port.serving.host, port.port),
            datagram_socket(port.using.host, port.address, port.port) as client,
        ):
            client.settimeout(3)
            client.send(b"back again")
            return client.recv(100) == b"back again"
    return False


def come_back(*ports: Forward) -> None:
    """Without a command."""
    for port in ports:
        eventually(lambda port=port: works(port), f"{port.name} works again", BACK)  # type: ignore[misc]


def leftovers(node: Node) -> str:
    """Of the TUN device, its addresses and its routes; those stay that keep the ranges unreachable."""
    routes = node.host.run(["ip", "-4", "route"]).stdout + node.host.run(["ip", "-6", "route"]).stdout
    lines = (node.host.run(["ip", "-o", "link"]).stdout + routes).splitlines()
    ours = [line for line in lines if "tunfwd0" in line or "10.77." in line or "fd74:" in line]
    return "\n".join(line for line in ours if not line.startswith("unreachable "))


@pytest.fixture
def friends(
    pair: tuple[Node, Node], net: Topology, folder: Path, network: ToxNode
) -> Iterator[tuple[Node, Node]]:
    """carol and dave, whose friend is alice."""
    alice, _ = pair
    with ExitStack() as stack:
        nodes = []
        for name in ("carol", "dave"):
            (folder / name).mkdir()
            nodes.append(stack.enter_context(Node(net[name], folder / name, settings(network))))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: befriend(node, alice), nodes))
        yield nodes[0], nodes[1]
        for node in nodes:
            ask(alice, api.FRIEND_REMOVE, name=node.name)
            assert "Traceback" not in node.log, node.log[-4000:]


@pytest.mark.timeout(300)
def test_three_friends_in_trouble(
    forward: Forwards, alice: Node, bob: Node, friends: tuple[Node, Node]
) -> None:
    """In mid-transfer one daemon is killed, one is killed and restarted, and one host's cable is pulled.

    All at the same time, as each takes Tox half a minute to notice. Nobody waits for ever: alice's clients
    and services get a reset, and those of the host that lost its cable; what came before is a true beginning
    of what was sent. Then everything comes back without a command.
    """
    carol, dave = friends
    ports = {
        node: [
            forward(serving=node, using=alice),
            forward(serving=alice, using=node),
            forward("udp", serving=node, using=alice),
        ]
        for node in (bob, carol, dave)
    }
    with ThreadPoolExecutor() as pool:
        troubles = [
            pool.submit(killed, alice, bob, ports[bob]),
            pool.submit(killed_and_restarted, carol, ports[carol]),
            pool.submit(without_cable, dave, ports[dave]),
        ]
        for trouble in troubles:
            trouble.result()


def killed(alice: Node, bob: Node, ports: list[Forward]) -> None:
    down, up, _ = ports
    with transfer(down) as mine, transfer(up) as theirs:
        bob.kill()
        assert leftovers(bob) == ""
        eventually(lambda: mine.client_end is not None, "alice's client hears of it", NOTICE)
        eventually(lambda: theirs.service_end is not None, "alice's service hears of it", NOTICE)
        assert was_reset(mine.client_end), mine.client_end
        assert was_reset(theirs.service_end), theirs.service_end

    # Now it is known to be away, which every program hears at once.
    assert alice.contact("bob")["link"] == "offline"
    assert alice.cli("ping", "bob", check=False).returncode == 4
    for address in (down.address, down.address6):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            connect(alice.host, address, down.port)
        assert caught.value.errno == errno.EHOSTUNREACH
    bob.start()
    come_back(*ports)


def killed_and_restarted(carol: Node, ports: list[Forward]) -> None:
    """alice's side meets a daemon that knows nothing of its connections: they are reset, not spliced."""
    down, up, _ = ports
    with transfer(down) as mine, transfer(up) as theirs:
        carol.kill()
        carol.start()
        eventually(lambda: mine.client_end is not None, "alice's client hears of it", NOTICE)
        eventually(lambda: theirs.service_end is not None, "alice's service hears of it", NOTICE)
        assert was_reset(mine.client_end), mine.client_end
        assert was_reset(theirs.service_end), theirs.service_end
    come_back(*ports)


def without_cable(dave: Node, ports: list[Forward]) -> None:
    down, up, _ = ports
    with transfer(down) as one, transfer(up) as other:
        dave.host.run(["ip", "link", "set", "eth0", "down"])
        try:
            for moved in (one, other):
                heard_by_both(moved)
        finally:
            dave.host.run(["ip", "link", "set", "eth0", "up"])
    come_back(*ports)


def heard_by_both(moved: Transfer) -> None:
    eventually(lambda: moved.client_end is not None, "the client hears of it", NOTICE)
    eventually(lambda: moved.service_end is not None, "the service hears of it", NOTICE)
    assert was_reset(moved.client_end), moved.client_end
    assert was_reset(moved.service_end), moved.service_end


@pytest.mark.timeout(500)
@pytest.mark.parametrize("who", ["bob", "both"])
def test_an_orderly_restart(forward: Forwards, alice: Node, bob: Node, who: str, new_port: int) -> None:
    """Offers, acceptances and requests stand; addresses stay; nothing is left behind in between."""
    down, up, udp = forward(), forward(reverse=True), forward("udp", reverse=True)
    ask(alice, api.REQUEST, protocol="tcp", port=new_port, contact="bob", name="wanted")
    eventually(lambda: bob.offer("wanted"), "the request is there")
    ask(bob, api.OFFER_ACCEPT, offer="wanted")
    wanted = Forward(bob, alice, "wanted", "tcp", new_port, down.address, down.address6)
    wanted.wait_running()
    nodes = {"bob": [bob], "both": [alice, bob]}[who]
    try:
        with transfer(down) as one, transfer(up) as other:
            for node in nodes:
                assert node.stop() == 0
                assert leftovers(node) == ""
                assert node.cli("status", check=False).returncode == 3
            for node in nodes:
                node.start()
            for moved in (one, other):
                heard_by_both(moved)
        come_back(down, up, udp, wanted)
        assert alice.contact("bob")["address"] == down.address
    finally:
        with suppress(UserError):
            ask(alice, api.KILL, id="wanted")


@pytest.mark.timeout(300)
def test_a_loose_contact(forward: Forwards, alice: Node, bob: Node) -> None:
    """Shorter than Tox takes to notice: nothing happens but a pause."""
    down = forward()
    with transfer(down) as moved:
        bob.host.run(["ip", "link", "set", "eth0", "down"])
        time.sleep(4)
        bob.host.run(["ip", "link", "set", "eth0", "up"])
        before = moved.received
        eventually(lambda: moved.received > before + 4 * MIB, "it goes on", NOTICE)
        assert moved.client_end is None, moved.client_end


def test_kill_while_data_flows(forward: Forwards, alice: Node, bob: Node) -> None:
    """Either side ends it with a command: connections are reset at once, new ones refused."""
    for killer in (alice, bob):
        port = forward()
        with transfer(port) as moved:
            killer.cli("kill", port.name)
            eventually(lambda moved=moved: moved.client_end is not None, "the client hears of it")  # type: ignore[misc]
            eventually(lambda moved=moved: moved.service_end is not None, "the service hears of it")  # type: ignore[misc]
            assert was_reset(moved.client_end), moved.client_end
            with pytest.raises(ConnectionRefusedError):
                connect(port.using.host, port.address, port.port)
        assert alice.port(port.name) is None
