"""Two friends without UDP: everything goes through a TCP relay, which toxcore's onion has to find."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns.node import Node, befriend
from netns.topology import Topology
from tunfwd.control import api

from .conftest import ask
from .hosts import (
    TcpService,
    UdpEcho,
    bytes_of,
    connect,
    datagram_socket,
    echo,
    eventually,
    exchange,
    read_exactly,
)
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

RELAY_PORT = 33400
MIB = 1 << 20


@pytest.fixture(scope="module")
def relayed(net: Topology, folder: Path) -> Iterator[tuple[Node, Node]]:
    with ExitStack() as stack:
        relay = stack.enter_context(ToxNode(net["eve"], folder / "relay.tox", tcp_relay_port=RELAY_PORT))
        for number in range(3):  # an onion path takes as many
            stack.enter_context(ToxNode(net["eve"], folder / f"onion{number}.tox", relay.bootstrap))
        host, _, key = relay.bootstrap.split(":")
        tox = {"udp": False, "bootstrap": [relay.bootstrap], "relays": [f"{host}:{RELAY_PORT}:{key}"]}
        nodes = []
        for name in ("carol", "dave"):
            (folder / f"relayed-{name}").mkdir()
            nodes.append(stack.enter_context(Node(net[name], folder / f"relayed-{name}", {"tox": tox})))
        carol, dave = nodes
        befriend(dave, carol)
        yield carol, dave
        for node in nodes:
            assert "Traceback" not in node.log, node.log[-4000:]


def test_ping_before_anything_else_says_how_they_are_reached(relayed: tuple[Node, Node]) -> None:
    carol, dave = relayed
    assert "(relay)" in carol.cli("ping", "dave").stdout
    for node, friend in ((carol, "dave"), (dave, "carol")):
        assert ask(node, api.PING, name=friend)["path"] == "relay"
        assert node.contact(friend)["link"] == "relay"
        assert node.identity()["udp_port"] == 0


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ports_work_through_it(relayed: tuple[Node, Node], protocol: str, new_port: int) -> None:
    carol, dave = relayed
    ask(dave, api.OFFER_ADD, protocol=protocol, port=new_port, to=["carol"], name=protocol)
    eventually(lambda: carol.offer(protocol), "the offer is there")
    address = ask(carol, api.OFFER_ACCEPT, offer=protocol)["mapping"]["address"]
    assert address is not None
    eventually(lambda: (carol.port(protocol) or {}).get("state") == "running", "it runs")
    if protocol == "tcp":
        with TcpService(dave.host, new_port, echo), connect(carol.host, address, new_port) as client:
            client.settimeout(100)
            sent = bytes_of(1, MIB)
            writer = threading.Thread(target=client.sendall, args=(sent,))
            writer.start()
            assert read_exactly(client, MIB) == sent
            writer.join()
    else:
        with UdpEcho(dave.host, new_port), datagram_socket(carol.host, address, new_port) as client:
            for size in (1, 1368):
                exchange(client, bytes(size))
