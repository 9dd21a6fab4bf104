"""How a daemon ends, and who hears of it: contacts, their programs and services, and ours. At once."""

from __future__ import annotations

import os
import pty
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from netns.node import START_TIME, TUNFWD, Node, befriend
from netns.topology import Topology

from .conftest import Forward, Forwards, wait_online_again
from .hosts import TcpService, connect, echo, eventually, read_exactly
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(400)]

AT_ONCE = 20.0  # s from the end on; Tox takes 32 to miss a friend, and a link waits 60 more for it
BACK = 60.0  # s until two friends have found each other again


@pytest.fixture(scope="module")
def friends(net: Topology, folder: Path, network: ToxNode) -> Iterator[tuple[Node, Node]]:
    """dave serves and carol uses; their connections outlive a whole minute of silence."""
    with ExitStack() as stack:
        nodes = []
        for name in ("carol", "dave"):
            (folder / f"{name}-ends").mkdir()
            config = {"tox": {"bootstrap": [network.bootstrap]}}
            nodes.append(stack.enter_context(Node(net[name], folder / f"{name}-ends", config)))
        befriend(nodes[1], nodes[0])
        yield nodes[0], nodes[1]
        for node in nodes:
            assert "Traceback" not in node.log, node.log[-4000:]


@pytest.fixture
def ports(friends: tuple[Node, Node]) -> Iterator[tuple[Forward, Forward]]:
    """One that dave serves, and one that he uses."""
    for node in friends:
        if node.daemon is None:
            node.start()
    wait_online_again(*friends)
    forwards = Forwards(*friends)
    yield forwards(), forwards(reverse=True)
    forwards.end()


class Heard:
    """A connection whose program, and whose service, do nothing but read."""

    def __init__(self, stack: ExitStack, port: Forward) -> None:
        self._done = False
        self.service: socket.socket | None = None
        listener = TcpService(port.serving.host, port.port, self._serve)
        stack.callback(listener.close)
        self.client = stack.enter_context(connect(port.using.host, port.address, port.port))
        self.client.sendall(b"hello")
        eventually(lambda: self.service is not None, "the service is reached")
        stack.callback(self._finish)

    def _serve(self, service: socket.socket) -> None:
        assert read_exactly(service, 5) == b"hello"
        self.service = service
        while not self._done:  # the test reads
            time.sleep(0.05)

    def _finish(self) -> None:
        self._done = True


def was_reset(connection: socket.socket | None, within: float) -> bool:
    assert connection is not None
    connection.settimeout(max(within, 0.01))
    try:
        return connection.recv(1) == b"" and False
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    except TimeoutError:
        return False


def check(
    friends: tuple[Node, Node],
    ports: tuple[Forward, Forward],
    end: Callable[[Node], int],
    *,
    status: int = 0,
    contacts_hear: bool = True,
) -> None:
    carol, dave = friends
    with ExitStack() as stack:
        served, used = (Heard(stack, port) for port in ports)
        deadline = time.monotonic() + AT_ONCE
        assert end(dave) == status
        dave.daemon = None
        if contacts_hear:
            assert was_reset(served.client, deadline - time.monotonic()), "carol's program"
            assert was_reset(used.service, deadline - time.monotonic()), "carol's service"
        assert was_reset(served.service, deadline - time.monotonic()), "dave's service"
        assert was_reset(used.client, deadline - time.monotonic()), "dave's program"
        if contacts_hear:
            eventually(lambda: carol.contact("dave")["link"] == "offline", "carol is told", AT_ONCE)
    dave.start()
    wait_online_again(carol, dave)
    for port in ports:
        eventually(partial(works, port), f"{port.name} works again", BACK)


def works(port: Forward) -> bool:
    try:
        with (
            TcpService(port.serving.host, port.port, echo),
            connect(port.using.host, port.address, port.port, timeout=3) as client,
        ):
            client.sendall(b"back again")
            return read_exactly(client, 10) == b"back again"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(friends: tuple[Node, Node], ports: tuple[Forward, Forward], number: signal.Signals) -> None:
    def end(dave: Node) -> int:
        assert dave.daemon is not None
        dave.daemon.send_signal(number)
        return dave.daemon.wait(AT_ONCE)

    check(friends, ports, end)


def test_a_terminal_that_is_closed(friends: tuple[Node, Node], ports: tuple[Forward, Forward]) -> None:
    carol, dave = friends
    dave.stop()
    with terminal(dave) as close:
        wait_online_again(carol, dave)

        def end(dave: Node) -> int:
            close()
            assert dave.daemon is not None
            return dave.daemon.wait(AT_ONCE)

        check(friends, ports, end)


@contextmanager
def terminal(node: Node) -> Iterator[Callable[[], None]]:
    """A daemon that a person started in a terminal; yields what closes that."""
    master, slave = pty.openpty()
    try:
        with node.log_file.open("ab") as log:
            node.daemon = node.host.start(
                ["setsid", "--ctty", str(TUNFWD), "daemon"],
                env=os.environ | node.environment,
                stdin=slave,
                stdout=log,
                stderr=log,
            )
        node.wait_for(lambda: node.cli("id", check=False).returncode == 0, START_TIME, "the daemon answers")
    finally:
        os.close(slave)
    yield lambda: os.close(master)


def test_a_service_ignores_the_hangup(friends: tuple[Node, Node], ports: tuple[Forward, Forward]) -> None:
    _, dave = friends
    assert dave.daemon is not None
    dave.daemon.send_signal(signal.SIGHUP)
    assert works(ports[0])
    assert dave.daemon.poll() is None


def test_the_device_is_deleted(friends: tuple[Node, Node], ports: tuple[Forward, Forward]) -> None:
    """Nothing can be sent to dave's programs any more: the kernel ends their connections."""

    def end(dave: Node) -> int:
        dave.host.run(["ip", "link", "delete", "tunfwd0"])
        assert dave.daemon is not None
        return dave.daemon.wait(AT_ONCE)

    check(friends, ports, end, status=1)
    assert "tunfwd0 is gone" in friends[1].log


def test_kill_9(friends: tuple[Node, Node], ports: tuple[Forward, Forward]) -> None:
    """No contact can be told; our own programs and services hear, from the kernel."""

    def end(dave: Node) -> int:
        assert dave.daemon is not None
        dave.daemon.kill()
        return dave.daemon.wait(AT_ONCE)

    check(friends, ports, end, status=-signal.SIGKILL, contacts_hear=False)
