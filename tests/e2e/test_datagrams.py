"""Forwarded UDP, and what ICMP says of virtual addresses."""

from __future__ import annotations

import errno
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from netns.node import Node
from tunfwd.control import api

from .conftest import UDP_IDLE, Forward, Forwards, ask
from .hosts import (
    ASKED_AGAIN,
    TIME,
    TcpService,
    UdpEcho,
    connect,
    datagram_socket,
    echo,
    eventually,
    exchange,
    make_socket,
    read_exactly,
)

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

CHURN = Path(__file__).with_name("churn.py")
LARGEST = 1368  # bytes of one datagram: a Tox packet of 1373 without prefix and msg_id (SPEC.md)
IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IP_MTU = 10, 2, 0, 14  # linux/in.h
UNKNOWN_PORT = 9


def client_of(port: Forward, address: str | None = None) -> socket.socket:
    return datagram_socket(port.using.host, address or port.address, port.port)


def expect_error(client: socket.socket, *errors: int) -> None:
    """The socket hears of an ICMP error: after a datagram, at the next call. Not all of them are answered."""
    client.settimeout(ASKED_AGAIN)

    def refused() -> OSError | None:
        try:
            client.send(b"anybody there?")
            client.recv(100)
        except TimeoutError:
            return None
        except OSError as error:
            return error
        return None

    error = eventually(refused, "the socket hears of an error")
    assert error is not None
    assert error.errno in errors, error


@pytest.mark.parametrize("reverse", [False, True])
def test_datagrams_of_all_sizes(forward: Forwards, reverse: bool) -> None:
    port = forward("udp", reverse=reverse)
    with UdpEcho(port.serving.host, port.port) as service, client_of(port) as client:
        for size in (1, 0, 2, 500, 1200, LARGEST):
            exchange(client, bytes(size))
        assert {peer for peer, _ in service.peers} == {port.serving.contact(port.using.name)["address"]}


@pytest.mark.device
def test_ipv6(forward: Forwards) -> None:
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port), client_of(port, port.address6) as client:
        exchange(client, b"over IPv6")
        exchange(client, bytes(LARGEST))


def test_several_clients_have_flows_of_their_own(forward: Forwards) -> None:
    """Replies come from the address and port that were asked (the sockets are connected), to who asked."""
    port, other = forward("udp"), forward("udp")
    with (
        UdpEcho(port.serving.host, port.port) as service,
        UdpEcho(other.serving.host, other.port),
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(client_of(port)) for _ in range(20)]
        clients += [stack.enter_context(client_of(other)) for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            exchange(client, b"%d again" % number)
        assert len(set(service.peers)) >= 20  # each seen from a port of its own

        def all_at_once() -> bool:
            for number, client in enumerate(clients):  # a flow that rested meanwhile is over
                client.send(b"%d" % number)
            return bool(port.line["connections"] == 20)

        eventually(all_at_once, "each has a flow of its own")


def test_one_socket_to_many_ports(forward: Forwards) -> None:
    ports = [forward("udp") for _ in range(3)]
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(UdpEcho(port.serving.host, port.port))
        client = stack.enter_context(make_socket(ports[0].using.host, ports[0].address, socket.SOCK_DGRAM))
        client.settimeout(ASKED_AGAIN)
        expected = {(b"%d" % port.port, (port.address, port.port)) for port in ports}
        answers: set[tuple[bytes, tuple[str, int]]] = set()

        def all_answered() -> bool:
            for question, address in expected - answers:
                client.sendto(question, address)
            with suppress(TimeoutError):
                for _ in expected - answers:
                    answers.add(client.recvfrom(100))
            return answers >= expected

        eventually(all_answered, "all have answered")
        assert answers == expected


def test_an_idle_flow_ends_and_a_new_one_begins(forward: Forwards) -> None:
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port) as service, client_of(port) as client:
        exchange(client, b"first")
        assert port.line["connections"] == 1
        eventually(lambda: port.line["connections"] == 0, "the flow has ended", UDP_IDLE + TIME)
        exchange(client, b"again")
        assert len(service.peers) >= 2


@pytest.mark.device
@pytest.mark.timeout(400)
@pytest.mark.parametrize("source", ["auto", "host"])
def test_five_thousand_questions_are_all_answered_and_tcp_goes_on(forward: Forwards, source: str) -> None:
    """As a resolver asks: from a port of its own each time, once."""
    dns, web = forward("udp", source=source), forward("tcp")
    with UdpEcho(dns.serving.host, dns.port), TcpService(web.serving.host, web.port, echo):
        asked = dns.using.host.run(
            [sys.executable, CHURN, "ask", dns.address, str(dns.port), "5000"], timeout=150
        )
        answered, again = map(int, asked.stdout.split())
        assert answered == 5000
        assert again < 250  # a busy machine's socket buffers lose some
        with connect(web.using.host, web.address, web.port) as connection:
            connection.sendall(b"hello")
            assert read_exactly(connection, 5) == b"hello"


@pytest.mark.device
@pytest.mark.parametrize("fragmentable", [False, True])
def test_too_large_is_said(forward: Forwards, fragmentable: bool, linked: bool) -> None:
    """With DF the path MTU is learnt, and the kernel refuses the next one itself.

    Without DF nothing larger than a packet can go either, as fragments are put together before they leave.
    """
    if linked:
        pytest.skip("the link cuts large datagrams")
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port), client_of(port) as client:
        exchange(client, b"small")
        client.setsockopt(
            socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT if fragmentable else IP_PMTUDISC_DO
        )
        if not fragmentable:

            def refused() -> OSError | None:
                try:
                    client.send(bytes(LARGEST + 1))
                except OSError as error:
                    return error
                return None

            error = eventually(refused, "the kernel has learnt of it")
            assert error is not None
            assert error.errno == errno.EMSGSIZE
            assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == LARGEST + 28
        else:
            client.send(bytes(5000))
            time.sleep(0.2)
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what was said of the large one
        for size in (LARGEST, 10):  # the flow lives
            exchange(client, bytes(size))


def test_large_datagrams_are_cut_and_put_together(forward: Forwards, linked: bool) -> None:
    if not linked:
        pytest.skip("the bare carriers cut nothing")
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port), client_of(port) as client:
        for size in (LARGEST, LARGEST + 1, 5000, 30_000, 65_507):
            exchange(client, bytes(range(256)) * (size // 256) + bytes(size % 256))


def test_a_burst_loses_the_oldest_and_nothing_else_breaks(forward: Forwards) -> None:
    port = forward("udp")
    with UdpEcho(port.serving.host, port.port), client_of(port) as client:
        for number in range(20_000):
            client.send(number.to_bytes(4, "little") + bytes(1000))
        seen: set[int] = set()
        while len(seen) <= 500:  # the link's queue holds 1044, the client's own buffer 92
            seen.add(int.from_bytes(client.recv(2000)[:4], "little"))
        exchange(client, b"after")


# --- ICMP ---------------------------------------------------------------------------------------------------


@pytest.mark.device
def test_a_port_that_is_not_mapped_is_unreachable(forward: Forwards, alice: Node) -> None:
    bob = alice.contact("bob")
    for address in (bob["address"], bob["address6"]):
        with datagram_socket(alice.host, address, UNKNOWN_PORT) as client:
            expect_error(client, errno.ECONNREFUSED)


@pytest.mark.device
@pytest.mark.parametrize("source", ["auto", "peer", "host"])
def test_a_port_without_a_service_is_unreachable(forward: Forwards, source: str) -> None:
    port = forward("udp", source=source)
    with client_of(port) as client:
        expect_error(client, errno.ECONNREFUSED)
        with UdpEcho(port.serving.host, port.port):
            exchange(client, b"now there is one")


def ping(node: Node, *arguments: str) -> None:
    """Until as many are answered as are wanted."""
    node.host.run(["ping", "-n", "-w", f"{TIME:.0f}", *arguments], timeout=2 * TIME)


@pytest.mark.device
def test_ping(alice: Node, bob: Node) -> None:
    for node, friend in ((alice, "bob"), (bob, "alice")):
        contact = node.contact(friend)
        own = ask(node, api.IDENTITY)
        for address in (contact["address"], contact["address6"], own["virtual_address"]):
            ping(node, "-c", "2", "-i", "0.2", address)
        ping(node, "-c", "1", "-s", "1400", contact["address"])
        ping(node, "-c", "1", "-s", "8000", contact["address"])


@pytest.mark.device
def test_an_address_that_nobody_has_is_unreachable(alice: Node) -> None:
    address = next(
        address
        for address in ("10.77.200.200", "10.77.200.201")
        if address != alice.contact("bob")["address"]
    )
    for target in (address, "fd74:756e:6677:1:2:3:4:5"):
        command = ["ping", "-n", "-c", "1", "-w", f"{TIME:.0f}", target]
        result = alice.host.run(command, check=False, timeout=2 * TIME)
        assert result.returncode == 1
        assert "nreachable" in result.stdout
        with datagram_socket(alice.host, target, 53) as client:
            if ":" in target:  # a UDP socket hears of what may pass only where it asks to (ip(7))
                client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            else:
                client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            expect_error(client, errno.EHOSTUNREACH)
        connection = make_socket(alice.host, target, socket.SOCK_STREAM)
        with connection:
            start = time.monotonic()
            with pytest.raises(OSError) as caught:  # noqa: PT011
                connection.connect((target, 80))
            assert caught.value.errno == errno.EHOSTUNREACH
            assert time.monotonic() - start < TIME / 3


@pytest.mark.device
def test_traffic_that_nobody_asked_for_is_no_trouble(alice: Node) -> None:
    """Multicast and broadcast into the device, and other protocols than TCP, UDP and ICMP."""
    bob = alice.contact("bob")["address"]
    interface = ask(alice, api.IDENTITY)["interface"]
    with make_socket(alice.host, bob, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for target in ("224.0.0.251", "255.255.255.255", "10.77.255.255"):
            sender.sendto(b"is anybody here?", (target, 5353))
    for protocol in (socket.IPPROTO_SCTP, 47, 132, 255):
        with make_socket(alice.host, bob, socket.SOCK_RAW, protocol) as raw:
            data = bytes(100) if protocol != 255 else b"\x45" + bytes(19)
            with suppress(OSError):  # the kernel looks at what it is given under 255
                raw.sendto(data, (bob, 0))
    ping(alice, "-c", "1", bob)
