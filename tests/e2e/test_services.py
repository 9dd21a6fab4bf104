"""Whom a service sees, and which services can be offered."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from netns.node import Node
from netns.topology import Topology
from tunfwd.control import api
from tunfwd.daemon.peers import SILENCE

from .conftest import CONNECT_TIMEOUT, Forward, Forwards, ask
from .hosts import TcpService, UdpEcho, connect, datagram_socket, echo, eventually, exchange, make_socket

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


def use(port: Forward) -> None:
    if port.protocol == "tcp":
        with connect(port.using.host, port.address, port.port) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
    else:
        with datagram_socket(port.using.host, port.address, port.port) as client:
            exchange(client, b"hello")


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
def test_a_service_on_loopback_alone_works_and_that_is_shown(forward: Forwards, protocol: str) -> None:
    port = forward(protocol)
    assert offered(port)["trouble"] == "nothing listens"
    before = len(port.serving.log)
    with serve(port.serving, protocol, port.port, "127.0.0.1") as service:
        use(port)
        use(port)
        assert seen(service) == {"127.0.0.1"}
        assert offered(port)["sees"] == "host"
        assert offered(port)["trouble"] is None
    line = f"port {port.port} sees 127.0.0.1, not who connects"
    eventually(lambda: line in port.serving.log[before:], "it is said")
    assert port.serving.log[before:].count(line) == 1


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


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_ban_is_a_ban(forward: Forwards, bob: Node, protocol: str, kind: str) -> None:
    """What a firewall does to a contact's address: a drop without a word, or a reject."""
    port = forward(protocol)
    alice = bob.contact("alice")["address"]
    with serve(bob, protocol, port.port) as service:
        use(port)
        assert offered(port)["sees"] == "peer"
        with banned(bob, kind, alice):
            for _ in range(2):
                assert is_refused(port)
        assert seen(service) == {alice}
        use(port)
        assert seen(service) == {alice}


def is_refused(port: Forward) -> bool:
    """Whether it is, or not answered at all."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with make_socket(port.using.host, port.address, kind) as client:
        client.settimeout(2)
        try:
            client.connect((port.address, port.port))
            client.send(b"hello")
            client.recv(100)
        except OSError:
            return True
        return False


@contextmanager
def banned(node: Node, kind: str, address: str) -> Iterator[None]:
    route = [kind, f"{address}/32"]
    node.host.run(["ip", "route", "add", *route])
    try:
        yield
    finally:
        node.host.run(["ip", "route", "del", *route])


def test_datagrams_that_nobody_answers_are_told_at_both_ends(forward: Forwards, bob: Node) -> None:
    port = forward("udp")
    with (
        serve(bob, "udp", port.port),
        banned(bob, "blackhole", bob.contact("alice")["address"]),
        datagram_socket(port.using.host, port.address, port.port) as client,
    ):
        for _ in range(30):
            client.send(b"anybody?")
        eventually(lambda: unanswered(offered(port)["trouble"]), "bob is told")
        assert port.line["trouble"] == "no answer to 30 datagrams"
        told = ask(port.using, api.DOCTOR)["checks"]
        assert any("no answer to 30 datagrams" in check["detail"] for check in told)


def unanswered(trouble: str | None) -> bool:
    """Whether so many datagrams are told of as are worth a word, of the thirty: a busy machine loses some."""
    found = re.fullmatch(r"no answer to (\d+) datagrams", trouble or "")
    return found is not None and SILENCE <= int(found[1]) <= 30


def test_a_service_that_is_too_busy_to_accept_sees_contacts_all_the_same(
    forward: Forwards, bob: Node
) -> None:
    port = forward()
    listener = make_socket(bob.host, "0.0.0.0", socket.SOCK_STREAM)
    with listener, ExitStack() as clients:
        listener.bind(("0.0.0.0", port.port))
        listener.listen(2)
        for _ in range(8):
            with suppress(OSError):
                clients.enter_context(connect(port.using.host, port.address, port.port, timeout=0.5))
        time.sleep(CONNECT_TIMEOUT)
        listener.settimeout(1)
        seen = set()
        with suppress(TimeoutError):
            while True:
                connection, peer = listener.accept()
                connection.close()
                seen.add(peer[0])
    assert seen == {bob.contact("alice")["address"]}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_another_user_cannot_take_over_what_is_offered(
    forward: Forwards, bob: Node, protocol: str, new_port: int
) -> None:
    """Neither from a service on loopback, by the virtual address, nor while the service is away."""
    own = ask(bob, api.IDENTITY)["virtual_address"]
    with serve(bob, protocol, new_port, "127.0.0.1") as service:
        port = forward(protocol, port=new_port)
        assert offered(port)["sees"] == "host"
        with strangers(bob, protocol, new_port, own) as stranger:
            use(port)
            assert seen(service) == {"127.0.0.1"}
            assert not arrived(stranger)
    with strangers(bob, protocol, new_port, own) as stranger:
        with pytest.raises(ConnectionRefusedError):
            use(port)
        assert "listens in place of" in offered(port)["trouble"]
        assert not arrived(stranger)
    with serve(bob, protocol, new_port, "127.0.0.1"):
        use(port)


@contextmanager
def strangers(node: Node, protocol: str, port: int, address: str) -> Iterator[socket.socket]:
    """A socket of a user who owns nothing here."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with make_socket(node.host, address, kind) as made:
        os.fchown(made.fileno(), 4711, -1)
        made.bind((address, port))
        if protocol == "tcp":
            made.listen()
        yield made


def arrived(listener: socket.socket) -> bool:
    """Whether anybody has connected to it, or sent something."""
    return bool(select.select([listener], [], [], 0.2)[0])


def offered(port: Forward) -> dict[str, Any]:
    """Of `tunfwd offers` where it is served."""
    return next(
        dict(offer)
        for offer in ask(port.serving, api.OFFER_LIST)["offers"]
        if offer["name"] == port.name and offer["origin"] == "local"
    )


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
