"""Broadcasts of ordinary programs, which leave by the default interface: copied to contacts, and answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netns.emulator import INTERFACE
from netns.node import Node, befriend
from netns.topology import Topology

from .conftest import Forward, Forwards, settings
from .hosts import UdpEcho, eventually, folder_of_daemons, make_socket
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

DROPS_NEW = (
    "table inet guard { chain in { type filter hook input priority 0;"
    " iifname tunfwd0 ct state established,related accept; iifname tunfwd0 %s drop; }; }"
)


DEAF = (  # as if the two were on LANs of their own
    f"table inet deaf {{ chain in {{ type filter hook input priority 0;"
    f" iifname {INTERFACE} meta pkttype {{ broadcast, multicast }} drop; }}; }}"
)


@pytest.fixture(scope="module")
def both(net: Topology, network: ToxNode) -> Iterator[tuple[Node, Node]]:
    """Friends, whose programs broadcast by the real LAN."""
    with folder_of_daemons() as folder:
        nodes = []
        for name in ("carol", "dave"):
            (folder / name).mkdir()
            nodes.append(Node(net[name], folder / name, {**settings(network), "lan": {"capture": True}}))
        asking, serving = nodes
        asking.host.run(["ip", "route", "add", "default", "dev", INTERFACE])
        serving.host.run(["nft", DEAF])
        with asking, serving:
            befriend(serving, asking)
            yield asking, serving
        asking.host.run(["ip", "route", "del", "default"])
        serving.host.run(["nft", "delete table inet deaf"])


@pytest.fixture
def server(both: tuple[Node, Node], forward: Forwards) -> Iterator[Forward]:
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port):
        yield port


def search(port: Forward, destination: str = "255.255.255.255") -> str | None:
    """Who answers a question to everybody."""
    with make_socket(port.using.host, "0.0.0.0", socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asking.settimeout(1.0)
        asking.sendto(b"anybody?", (destination, port.port))
        try:
            answer, (address, _) = asking.recvfrom(100)
        except TimeoutError:
            return None
        assert answer == b"anybody?"
        return str(address)


def check(node: Node, name: str) -> tuple[str, str]:
    [found] = [one for one in node.json("doctor")["checks"] if one["name"] == name]
    return found["level"], found["detail"]


def test_a_search_by_the_real_lan_finds_a_contact_s_server(server: Forward) -> None:
    using = server.using
    lan = using.host.interface.network.broadcast_address
    for destination in ("255.255.255.255", f"{lan}", "239.255.1.2", "10.77.255.255"):
        found = eventually(lambda to=destination: search(server, to), f"an answer to {destination}")  # type: ignore[misc]
        assert found == server.address
    [entry] = [one for one in using.json("status")["lan"] if one["port"] == server.port]
    assert entry["contacts"] == 1
    assert entry["broadcasts"] == entry["copies"] >= 4
    assert f"Broadcasts to {server.port}/udp went to 1 contact " in using.cli("status").stderr


def test_doctor_sees_a_firewall_that_drops_the_answers(server: Forward) -> None:
    """At whichever address they arrive: ours, or the one by which broadcasts leave."""
    using, host = server.using, server.using.host
    assert check(using, "capture")[0] == "ok"
    outward, own = f"{host.address}", "10.77.0.1"
    assert check(using, "games") == (
        "ok",
        f"answers of contacts to broadcasts come through, to {own} and {outward}",
    )
    for which, address in (("", own), (f"ip daddr {outward}", outward)):
        host.run(["nft", DROPS_NEW % which])
        try:
            assert search(server) is None
            level, detail = check(using, "games")
            assert (level, f"let new UDP to {address} in by tunfwd0" in detail) == ("warning", True)
        finally:
            host.run(["nft", "delete table inet guard"])
    assert check(using, "games")[0] == "ok"
    assert eventually(lambda: search(server), "an answer") == server.address


def test_the_rule_ends_with_the_daemon(both: tuple[Node, Node]) -> None:
    """Also with one that is killed."""
    node, _ = both

    def tables() -> str:
        return node.host.run(["nft", "list", "tables"]).stdout

    assert "tunfwd-tunfwd0-lan" in tables()
    for end in (node.kill, node.stop):
        end()
        eventually(lambda: "tunfwd" not in tables(), "no table is left")
        node.start()
        assert "tunfwd-tunfwd0-lan" in tables()
