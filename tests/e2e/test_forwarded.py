"""A machine that routes for others: its contacts are its own, unless the configuration lets others in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netns.node import Node
from netns.topology import Host, Topology
from tunfwd.control import api

from .conftest import Forwards, ask
from .hosts import TcpService, UdpEcho, connect, datagram_socket, echo, eventually, inside, read_exactly

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

SILENCE = 1.5  # s without an answer


@contextmanager
def routed(neighbour: Host, router: Host, network: str) -> Iterator[None]:
    """The neighbour sends what is for `network` to the router, which forwards."""

    def forward(value: str) -> None:
        router.run(["sysctl", "-q", "-w", f"net.ipv4.ip_forward={value}"])

    route = [network, "via", str(router.address)]
    neighbour.run(["ip", "route", "add", *route])
    forward("1")
    try:
        yield
    finally:
        forward("0")
        neighbour.run(["ip", "route", "del", *route])


def dropped(node: Node) -> int:
    return ask(node, api.STATUS)["drops"].get("packets_foreign_source", 0)


def test_a_neighbour_does_not_reach_contacts(forward: Forwards, net: Topology) -> None:
    tcp, udp = forward(), forward("udp")
    router, neighbour = tcp.using, net["eve"]
    network = f"{tcp.address}/32"
    with (
        TcpService(tcp.serving.host, tcp.port, echo) as service,
        UdpEcho(udp.serving.host, udp.port) as questions,
        routed(neighbour, router.host, network),
    ):
        before = dropped(router)
        with pytest.raises(TimeoutError):
            connect(neighbour, tcp.address, tcp.port, timeout=SILENCE)
        with datagram_socket(neighbour, udp.address, udp.port) as outside:
            outside.settimeout(SILENCE)
            outside.send(b"anybody there?")
            with pytest.raises(TimeoutError):
                outside.recv(100)
        assert dropped(router) - before >= 2
        assert not service.peers
        assert not questions.peers


def test_programs_at_any_address_of_this_machine_do(forward: Forwards) -> None:
    """Also at one that it has only since a moment ago."""
    port = forward()
    host = port.using.host
    with TcpService(port.serving.host, port.port, echo):
        for address in (str(host.address), "192.0.2.77"):
            if address == "192.0.2.77":
                host.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
            try:

                def connected(address: str = address) -> socket.socket:
                    made = socket.create_connection((port.address, port.port), 10.0, (address, 0))
                    made.settimeout(10.0)
                    return made

                with inside(host, connected) as connection:
                    connection.sendall(b"hello")
                    assert read_exactly(connection, 5) == b"hello"
            finally:
                if address == "192.0.2.77":
                    host.run(["ip", "addr", "del", f"{address}/32", "dev", "lo"])


def test_a_neighbour_reaches_contacts_where_it_may(forward: Forwards, net: Topology) -> None:
    port = forward()
    router, neighbour = port.using, net["eve"]
    text = router.config_file.read_text()
    router.config_file.write_text(f"{text}\n[network]\nforwarded = true\n")
    try:
        router.stop()
        router.start()
        port.wait_running(60)
        with (
            TcpService(port.serving.host, port.port, echo),
            routed(neighbour, router.host, f"{port.address}/32"),
        ):
            connection = eventually(
                lambda: connect(neighbour, port.address, port.port), "the neighbour is connected"
            )
            with connection:
                connection.sendall(b"hello")
                assert read_exactly(connection, 5) == b"hello"
    finally:
        router.config_file.write_text(text)
        router.stop()
        router.start()
