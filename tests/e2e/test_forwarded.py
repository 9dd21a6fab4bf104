"""A machine that routes for others: its contacts are its own, unless the configuration lets others in."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from netns.emulator import INTERFACE
from netns.node import Node
from netns.topology import Host, Topology
from tunfwd.control import api

from .conftest import Forwards, ask
from .hosts import (
    TIME,
    TcpService,
    UdpEcho,
    connect,
    datagram_socket,
    echo,
    eventually,
    inside,
    make_socket,
    read_exactly,
)

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

SERVICE = 5353
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
        eventually(lambda: dropped(router) - before >= 2, "both are counted")
        assert not service.peers
        assert not questions.peers


@pytest.mark.parametrize("rp_filter", ["0", "2"])
def test_a_neighbour_does_not_pass_for_a_contact(
    alice: Node, bob: Node, net: Topology, rp_filter: str
) -> None:
    """By UDP, to a service that has nothing to do with us, where the kernel looks at no source, or hardly."""
    host, neighbour = alice.host, net["eve"]
    name = f"{alice.contact(bob.name)['address']}/32"
    settings = [f"net.ipv4.conf.{which}.rp_filter" for which in ("all", INTERFACE)]
    before = [host.run(["sysctl", "-n", setting]).stdout.strip() for setting in settings]
    neighbour.run(["ip", "addr", "add", name, "dev", "lo"])
    try:
        for setting in settings:
            host.run(["sysctl", "-q", "-w", f"{setting}={rp_filter}"])
        with UdpEcho(host, SERVICE) as service:
            for source in (name.partition("/")[0], str(neighbour.address)):
                with make_socket(neighbour, source, socket.SOCK_DGRAM) as asking:
                    asking.bind((source, 0))
                    asking.sendto(b"anybody there?", (str(host.address), SERVICE))
            eventually(lambda: service.peers, "the service is asked")
            assert [address for address, _ in service.peers] == [str(neighbour.address)]
        assert re.search("^ok +neighbours: ", alice.cli("doctor", check=False).stdout, re.M)
    finally:
        neighbour.run(["ip", "addr", "del", name, "dev", "lo"])
        for setting, value in zip(settings, before, strict=True):
            host.run(["sysctl", "-q", "-w", f"{setting}={value}"])


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
                    made = socket.create_connection((port.address, port.port), TIME, (address, 0))
                    made.settimeout(TIME)
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

            def connected() -> socket.socket | None:
                with suppress(OSError):  # the daemon has just begun
                    return connect(neighbour, port.address, port.port)
                return None

            connection = eventually(connected, "the neighbour is connected")
            assert connection is not None
            with connection:
                connection.sendall(b"hello")
                assert read_exactly(connection, 5) == b"hello"
    finally:
        router.config_file.write_text(text)
        router.stop()
        router.start()
