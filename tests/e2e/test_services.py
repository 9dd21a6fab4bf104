"""Whom a service sees, and which services can be offered."""

from __future__ import annotations

import pytest

from netns.node import Node
from netns.topology import Topology
from tunfwd.control import api

from .conftest import Forward, Forwards, ask
from .hosts import TcpService, UdpEcho, connect, datagram_socket, echo, eventually

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


def use(port: Forward) -> None:
    if port.protocol == "tcp":
        with connect(port.using.host, port.address, port.port) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
    else:
        with datagram_socket(port.using.host, port.address, port.port) as client:
            client.send(b"hello")
            assert client.recv(100) == b"hello"


def serve(node: Node, protocol: str, port: int, address: str = "0.0.0.0") -> TcpService | UdpEcho:
    if protocol == "tcp":
        return TcpService(node.host, port, echo, address)
    return UdpEcho(node.host, port, address)


def seen(service: TcpService | UdpEcho) -> set[str]:
    return {peer if isinstance(peer, str) else peer[0] for peer in service.peers}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_on_all_addresses_sees_the_contacts_own(forward: Forwards, protocol: str) -> None:
    port = forward(protocol)
    with serve(port.serving, protocol, port.port) as service:
        use(port)
        assert seen(service) == {port.serving.contact(port.using.name)["address"]}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_on_loopback_alone_works_and_the_log_says_so_once(forward: Forwards, protocol: str) -> None:
    port = forward(protocol)
    before = len(port.serving.log)
    with serve(port.serving, protocol, port.port, "127.0.0.1") as service:
        use(port)
        use(port)
        assert seen(service) == {"127.0.0.1"}
    said = port.serving.log[before:]
    assert said.count("will not see who connects") == 1
    assert f"{port.port}" in said


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_on_ipv6_loopback_alone(forward: Forwards, protocol: str) -> None:
    port = forward(protocol)
    with serve(port.serving, protocol, port.port, "::1") as service:
        use(port)
        assert seen(service) == {"::1"}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_source_host_hides_who_connects(forward: Forwards, protocol: str) -> None:
    port = forward(protocol, source="host")
    with serve(port.serving, protocol, port.port) as service:
        use(port)
        [who] = seen(service)
        assert who in ("127.0.0.1", ask(port.serving, api.IDENTITY)["virtual_address"])


def test_source_peer_never_falls_back(forward: Forwards) -> None:
    port = forward(source="peer")
    with serve(port.serving, "tcp", port.port, "127.0.0.1"), pytest.raises(ConnectionRefusedError):
        connect(port.using.host, port.address, port.port)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_target_elsewhere(forward: Forwards, net: Topology, protocol: str, new_port: int) -> None:
    """eve's host is reached from bob's by its own address, and does not run tunfwd."""
    eve = net["eve"]
    port = forward(protocol, target=f"{eve.address}:{new_port}")
    service = TcpService(eve, new_port, echo) if protocol == "tcp" else UdpEcho(eve, new_port)
    with service:
        use(port)
        assert seen(service) == {str(port.serving.host.address)}


def test_a_target_by_name(forward: Forwards, new_port: int) -> None:
    port = forward(target=f"localhost:{new_port}")
    with serve(port.serving, "tcp", new_port, "127.0.0.1") as service:
        use(port)
        assert seen(service) == {"127.0.0.1"}


def test_a_firewalled_interface_is_gone_around(forward: Forwards, bob: Node) -> None:
    """What drops silently on the interface costs a second, and only the first connection."""
    port = forward()
    # As a firewall drops without a word: what goes to the contact's address goes nowhere.
    alice = bob.contact("alice")["address"]
    bob.host.run(["ip", "route", "add", "blackhole", f"{alice}/32"])
    try:
        with serve(bob, "tcp", port.port) as service:
            use(port)
            use(port)
            eventually(lambda: len(service.peers) >= 2, "both were served")
            assert alice not in service.peers[-1:]
    finally:
        bob.host.run(["ip", "route", "del", "blackhole", f"{alice}/32"])


def test_two_contacts_ports_are_apart(forward: Forwards, alice: Node, bob: Node, new_port: int) -> None:
    """The same port offered in both directions, and used at once, on both machines."""
    here, there = forward(port=new_port), forward(port=new_port + 10_000, reverse=True)
    with serve(bob, "tcp", here.port), serve(alice, "tcp", there.port):
        use(here)
        use(there)


def test_an_offered_port_is_not_open_to_anybody_else(forward: Forwards, alice: Node, bob: Node) -> None:
    """Neither the contact's other ports, nor hosts around, get anywhere by an offer."""
    port = forward()
    with serve(bob, "tcp", port.port + 1), pytest.raises(ConnectionRefusedError):
        connect(alice.host, port.address, port.port + 1)
    listening = alice.host.run(["ss", "-Htuln"]).stdout
    assert str(port.port) not in listening  # it is the virtual address that has the port, not this host
