"""The internet of our own does what it says: routes, NATs, firewalls, public nodes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from netns.networks import DEAD, SITES, Internet, Nat, NodeKind, Site, Udp
from netns.topology import TopologyError
from tests.e2e.hosts import inside
from tunfwd.tox.binding.library import choose

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

SOON = 30.0  # s for what happens at once
SILENCE = 0.3  # s in which what does happen has happened
SITE_KINDS = {
    "one": Site(),
    "two": Site(),
    "full": Site(nat=Nat.FULL_CONE),
    "cone": Site(nat=Nat.CONE),
    "symmetric": Site(nat=Nat.SYMMETRIC),
    "refused": Site(udp=Udp.REFUSED),
    "dropped": Site(udp=Udp.DROPPED, tcp=(443,)),
}
NODES = (NodeKind(tcp=(443, 3389)), NodeKind(udp=False), *DEAD)
PORT = 4000


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with Internet(SITE_KINDS, NODES) as net:
        yield net


def datagrams(net: Internet, name: str, port: int = 0) -> closing[socket.socket]:
    """A socket at a host."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))
        made.settimeout(SOON)
        return made

    return closing(inside(net[name], make))


def hears(receiver: socket.socket, within: float = SILENCE) -> bool:
    receiver.settimeout(within)
    try:
        receiver.recv(100)
    except TimeoutError:
        return False
    return True


def seen_by(net: Internet, sender: socket.socket, name: str) -> tuple[str, int]:
    """Where a public host sees what `sender` sends."""
    with datagrams(net, name, PORT) as receiver:
        sender.sendto(b"where am I?", (str(net.public_address(name)), PORT))
        _, (host, port) = receiver.recvfrom(100)
        return host, port


@pytest.mark.parametrize("name", ["full", "cone"])
def test_a_cone_has_one_port_for_all_destinations(net: Internet, name: str) -> None:
    with datagrams(net, name, 5000) as sender:
        expected = (str(net.public_address(name)), 5000)
        assert seen_by(net, sender, "one") == seen_by(net, sender, "two") == expected


def test_a_symmetric_nat_has_another_port_for_each_destination(net: Internet) -> None:
    with datagrams(net, "symmetric", 5000) as sender:
        host, port = seen_by(net, sender, "one")
        other_host, other_port = seen_by(net, sender, "two")
        assert host == other_host == str(net.public_address("symmetric"))
        assert len({port, other_port, 5000}) == 3


@pytest.mark.parametrize(("name", "let_in"), [("full", True), ("cone", False), ("symmetric", False)])
def test_who_was_sent_nothing_is_let_in_by_a_full_cone_alone(net: Internet, name: str, let_in: bool) -> None:
    with datagrams(net, name, 5001) as receiver, datagrams(net, "two", 5001) as stranger:
        host, port = seen_by(net, receiver, "one")
        stranger.sendto(b"hello", (host, port))
        assert hears(receiver, SOON if let_in else SILENCE) == let_in


def test_two_cones_are_passed_by_sending_from_both_sides(net: Internet) -> None:
    with datagrams(net, "cone", 5002) as one, datagrams(net, "full", 5002) as other:
        one.sendto(b"dropped, or not", (str(net.public_address("full")), 5002))
        other.sendto(b"arrives", (str(net.public_address("cone")), 5002))
        assert one.recvfrom(100)[1] == (str(net.public_address("full")), 5002)


def test_refused_is_an_error_and_dropped_is_silence(net: Internet) -> None:
    with datagrams(net, "one", PORT) as receiver:
        there = (str(net.public_address("one")), PORT)
        with datagrams(net, "refused") as sender, pytest.raises(PermissionError):
            sender.sendto(b"x", there)
        with datagrams(net, "dropped") as sender:
            sender.sendto(b"x", there)
            assert not hears(receiver)
            receiver.sendto(b"x", (str(net["dropped"].address), sender.getsockname()[1]))
            assert not hears(sender)


def connects(net: Internet, name: str, to: str, port: int) -> bool:
    command = ["nc", "-z", "-w", "1", str(net.public_address(to)), str(port)]
    return net[name].run(command, check=False).returncode == 0


def reaches(net: Internet, name: str, to: str, port: int) -> bool:
    """Whether it does soon."""
    until(lambda: connects(net, name, to, port))
    return True


def test_only_some_tcp_ports(net: Internet) -> None:
    assert reaches(net, "dropped", "node1", 443)
    assert not connects(net, "dropped", "node1", 3389)
    assert not connects(net, "dropped", "node2", 33445)
    for name in ("one", "cone", "symmetric", "refused"):
        assert reaches(net, name, "node1", 443), name
        assert reaches(net, name, "node1", 3389), name  # one relay at several ports
        assert not connects(net, name, "node1", 33445), name
        assert reaches(net, name, "node2", 33445), name
        assert not connects(net, name, "node3", 33445), name
        assert not connects(net, name, "node4", 33445), name


def test_a_cable_that_is_pulled(net: Internet) -> None:
    net.cut("node1")
    assert not connects(net, "one", "node1", 443)
    net.plug("node1")
    assert reaches(net, "one", "node1", 443)


def test_nothing_leads_out_of_it(net: Internet) -> None:
    for host in net:
        routes = net[host.name].run(["ip", "-4", "route"]).stdout.split("\n")
        assert len([route for route in routes if "via" in route]) == 1
    backbone = net[net.hosts[0].name].run(["ping", "-c", "1", "-W", "1", "192.0.2.1"], check=False)
    assert backbone.returncode != 0
    assert all(net.public_address(host.name) in SITES and SITES.is_private for host in net)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_public_nodes_are_a_network_to_join(net: Internet) -> None:
    """Also those that nobody reaches by UDP, and none is there that is said to be dead."""
    node, *_ = net.nodes
    assert [n.kind for n in net.nodes] == list(NODES)
    document = net.document()["nodes"]
    assert [entry["tcp_ports"] for entry in document] == [[443, 3389], [33445], [33445], [33445]]
    assert [entry["public_key"] for entry in document] == [n.key for n in net.nodes]
    library = choose("builtin")

    def join() -> None:
        with library.Tox_Options_Ptr() as options:
            options.local_discovery_enabled = options.ipv6_enabled = False
            with library.Tox_Ptr(options) as tox:
                tox.bootstrap(str(node.host.address), 33445, bytes.fromhex(node.key))

                def connected() -> bool:
                    tox.iterate()
                    return bool(tox.connection_status)

                until(connected)

    inside(net["symmetric"], join)


def test_a_name_that_is_taken() -> None:
    with pytest.raises(TopologyError):
        Internet({"backbone": Site()}, ())
