"""alice and bob: friends over real Tox, each a host with a daemon, shared by all tests here.

Finding each other takes ten seconds, so the two stay for the whole run. A test takes ports of its own by
`forward`, which puts everything back; a test that ends a daemon starts it again, and the next one waits until
both are online.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from netns.node import FRIEND_TIME, Node, befriend
from netns.topology import Topology
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client

from .hosts import eventually, folder_of_daemons
from .plain_peer import ToxNode

P = TypeVar("P")
R = TypeVar("R")

METRICS = "127.0.0.1:9177"
CONNECT_TIMEOUT = 3.0  # s; a dead target is given up after it
UDP_IDLE = 4.0  # s
OUTAGE = 3.0  # s that the link's streams outlive a contact that is gone
CONFIG: Mapping[str, Mapping[str, Any]] = {
    "forwarding": {"connect_timeout": CONNECT_TIMEOUT, "udp_idle": UDP_IDLE, "outage": OUTAGE}
}
OVER_BOTH = {"test_streams", "test_services", "test_datagrams"}
WITHOUT_DEVICE = {"test_streams", "test_datagrams", "test_programs"}
USERS = {"alice": 47001, "bob": 47002}  # nobody else's: those without a device
RULES = """
[[rule]]
contact = "{friend}"
action = "accept"
ports = "6000-6009"

[[rule]]
contact = "{friend}"
action = "deny"
ports = ["6010-6019", 6050]

[[rule]]
contact = "{friend}"
action = "accept"
direction = "connection"
protocol = "tcp"
ports = 6020
target = "127.0.0.1:6021"

[[expose]]
protocol = "tcp"
port = 6005

[[expose]]
protocol = "udp"
port = 6006
target = "127.0.0.1:6007"
contact = "{friend}"
"""

_ports = count(20000)
_pairs = count()


def ask(node: Node, method: api.Method[P, R], **params: object) -> R:
    """One request at the node's control socket. Raises UserError."""
    with Client(node.folder / "control.sock") as client:
        return client.call(method, params)


@pytest.fixture(scope="session")
def net() -> Iterator[Topology]:
    with Topology(["alice", "bob", "carol", "dave", "eve"]) as topology:
        yield topology


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """What all tests here share."""
    with folder_of_daemons() as path:
        yield path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's."""
    with folder_of_daemons() as path:
        yield path


@pytest.fixture(scope="session")
def network(net: Topology, folder: Path) -> Iterator[ToxNode]:
    """What is there of the Tox network besides them: a node to bootstrap from."""
    with ToxNode(net["eve"], folder / "node.tox") as node:
        yield node


def settings(network: ToxNode, *, link: bool = True) -> dict[str, Mapping[str, Any]]:
    """A daemon's configuration."""
    forwarding = {**CONFIG["forwarding"], "link": link}
    binding = os.environ.get("TUNFWD_TEST_BINDING", "builtin")
    tox = {"bootstrap": [network.bootstrap], "binding": binding}
    return {**CONFIG, "tox": tox, "forwarding": forwarding}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What moves data is tried over the link and over the bare carriers, and without a device.

    Marked `device`: what is different without one, or does not depend on it. The rest is tried by default.
    """
    if "both" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        carriers = ["link", "carriers"] if module in OVER_BOTH else ["link"]
        if module in WITHOUT_DEVICE and not metafunc.definition.get_closest_marker("device"):
            carriers.append("rootless")
        metafunc.parametrize("both", carriers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def both(
    net: Topology, folder: Path, network: ToxNode, request: pytest.FixtureRequest
) -> Iterator[tuple[Node, Node]]:
    nodes = []
    with ExitStack() as stack:
        for name, friend in (("alice", "bob"), ("bob", "alice")):
            place = folder / f"{name}{next(_pairs)}"
            place.mkdir()
            node = Node(net[name], place, user=USERS[name] if request.param == "rootless" else None)
            node.configure(
                {**settings(network, link=request.param != "carriers"), "metrics": {"listen": METRICS}}
            )
            node.config_file.write_text(node.config_file.read_text() + RULES.format(friend=friend))
            nodes.append(stack.enter_context(node))
        alice, bob = nodes
        befriend(bob, alice)
        yield alice, bob


def wait_online_again(*nodes: Node) -> None:
    for node in nodes:
        friends = {other.name for other in nodes} - {node.name}

        def all_there(node: Node = node, friends: set[str] = friends) -> bool:
            contacts = ask(node, api.STATUS)["contacts"]
            return friends <= {contact["name"] for contact in contacts if contact["link"] != "offline"}

        eventually(all_there, f"{node.name} has its friends", FRIEND_TIME)


@pytest.fixture
def pair(both: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """Both run and see each other, and no daemon has met anything that it did not expect."""
    for node in both:
        if node.daemon is None or node.daemon.poll() is not None:
            node.daemon = None
            node.start()
    wait_online_again(*both)
    said = {node.name: len(node.log) for node in both}
    yield both
    for node in both:
        new = node.log[said[node.name] :]
        assert "Traceback" not in new, f"{node.name}: {new[-4000:]}"
        assert node.daemon is None or node.daemon.poll() is None, f"{node.name} ended: {new[-4000:]}"


@pytest.fixture
def alice(pair: tuple[Node, Node]) -> Node:
    return pair[0]


@pytest.fixture
def bob(pair: tuple[Node, Node]) -> Node:
    return pair[1]


@pytest.fixture
def linked(request: pytest.FixtureRequest) -> bool:
    """Whether alice and bob have the link."""
    return bool(request.node.callspec.params["both"] != "carriers")


@dataclass(frozen=True)
class Forward:
    """A port of `serving`, at `address` for `using`."""

    serving: Node
    using: Node
    name: str
    protocol: str
    port: int
    address: str
    address6: str

    @property
    def line(self) -> dict[str, Any]:
        """Of `tunfwd ports` where it is used."""
        ports = ask(self.using, api.PORTS)["ports"]
        return dict(next(port for port in ports if port["name"] == self.name))

    def wait_running(self, timeout: float = 60.0) -> None:
        def running() -> bool:
            ports = ask(self.using, api.PORTS)["ports"]
            return any(port["name"] == self.name and port["state"] == "running" for port in ports)

        eventually(running, f"{self.name} runs", timeout)

    def kill(self) -> None:
        ask(self.serving, api.KILL, id=self.name)


class Forwards:
    """Offers and accepts ports; bob serves and alice uses, or others who are named."""

    def __init__(self, alice: Node, bob: Node) -> None:
        self._alice, self._bob = alice, bob
        self._made: list[Forward] = []

    def __call__(
        self,
        protocol: str = "tcp",
        *,
        port: int | None = None,
        reverse: bool = False,
        serving: Node | None = None,
        using: Node | None = None,
        target: str | None = None,
        source: str | None = None,
    ) -> Forward:
        usual = (self._alice, self._bob) if reverse else (self._bob, self._alice)
        serving, using = serving or usual[0], using or usual[1]
        port = port or next(_ports)
        name = f"{protocol}{port}"
        given = {"protocol": protocol, "port": port, "name": name, "to": [using.name]}
        ask(serving, api.OFFER_ADD, **given, target=target, source=source or "auto")
        eventually(lambda: using.offer(name), f"{name} is offered")
        line = ask(using, api.OFFER_ACCEPT, offer=name)["mapping"]
        assert line["address"] is not None
        forward = Forward(serving, using, name, protocol, port, line["address"], line["address6"])
        self._made.append(forward)
        forward.wait_running()
        return forward

    def end(self) -> None:
        for forward in self._made:
            for node in (forward.serving, forward.using):
                if node.daemon is not None:
                    with suppress(UserError):  # the test has killed it, or the daemon
                        ask(node, api.KILL, id=forward.name)


@pytest.fixture
def forward(pair: tuple[Node, Node]) -> Iterator[Forwards]:
    forwards = Forwards(*pair)
    yield forwards
    forwards.end()


@pytest.fixture
def new_port() -> int:
    """A port that no other test uses."""
    return next(_ports)
