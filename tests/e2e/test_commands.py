"""What a person types, and what it comes to: requests, rules, refusals, and errors with their exit codes."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netns.node import Node
from tunfwd.control import api
from tunfwd.forwarding.negotiation import WAITING_TIMEOUT

from .conftest import Forwards, ask
from .hosts import (
    TIME,
    TcpService,
    UdpEcho,
    connect,
    datagram_socket,
    echo,
    eventually,
    exchange,
    read_exactly,
)

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

ACCEPTED, DENIED, TARGETED, TARGET = 6001, 6011, 6020, 6021  # ports of the rules in conftest.py
EXPOSED_TCP, EXPOSED_UDP, EXPOSED_UDP_TARGET = 6005, 6006, 6007
NOT_EXPOSED = 6002
AT_ONCE = 10.0  # s for four commands; a machine with nothing else to do takes one


@contextmanager
def gone_afterwards(*made: tuple[Node, str]) -> Iterator[None]:
    try:
        yield
    finally:
        for node, name in made:
            node.cli("kill", name, check=False)


def state_of(node: Node, name: str) -> str | None:
    offer = node.offer(name)
    return None if offer is None else offer["state"]


def says_hello(node: Node, address: str, port: int) -> None:
    with connect(node.host, address, port) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"


# --- offers -------------------------------------------------------------------------------------------------


def test_accept_by_id_at_another_port(alice: Node, bob: Node, new_port: int) -> None:
    with gone_afterwards((bob, "web")), TcpService(bob.host, new_port, echo):
        bob.cli("offer", f"{new_port}/tcp", "--to", "alice", "--name", "web")
        offer = alice.wait_for(lambda: alice.offer("web"), TIME, "the offer is there")
        assert offer is not None
        assert (offer["origin"], offer["direction"], offer["state"]) == ("remote", "server", "pending")
        taken = alice.cli("accept", offer["id"][:6], "--port", "80")
        address = alice.contact("bob")["address"]
        assert f"{address}:80" in taken.stdout
        alice.wait_for(lambda: (alice.port("web") or {}).get("state") == "running", TIME, "it runs")
        says_hello(alice, address, 80)
        with pytest.raises(ConnectionRefusedError):
            connect(alice.host, address, new_port)
        port = alice.port("web")
        assert port is not None
        assert (port["tx_bytes"], port["rx_bytes"], port["port"]) == (5, 5, 80)
        served = bob.port("web")
        assert served is not None
        assert (served["tx_bytes"], served["rx_bytes"]) == (5, 5)


def test_nothing_can_be_reached_before_it_is_accepted(alice: Node, bob: Node, new_port: int) -> None:
    with gone_afterwards((bob, "early")), TcpService(bob.host, new_port, echo):
        bob.cli("offer", f"{new_port}/tcp", "--to", "alice", "--name", "early")
        alice.wait_for(lambda: alice.offer("early"), TIME, "the offer is there")
        with pytest.raises(ConnectionRefusedError):
            connect(alice.host, alice.contact("bob")["address"], new_port)


def test_denied_is_told_and_not_asked_again(alice: Node, bob: Node, new_port: int) -> None:
    with gone_afterwards((bob, "unwanted")):
        bob.cli("offer", f"{new_port}/tcp", "--to", "alice", "--name", "unwanted")
        alice.wait_for(lambda: alice.offer("unwanted"), TIME, "the offer is there")
        alice.cli("deny", "unwanted")
        bob.wait_for(lambda: state_of(bob, "unwanted") == "declined", TIME, "bob is told")
        time.sleep(1)
        assert alice.offer("unwanted") is None


def test_kill_withdraws_an_offer(alice: Node, bob: Node, new_port: int) -> None:
    bob.cli("offer", f"{new_port}/udp", "--to", "alice", "--name", "short lived")
    alice.wait_for(lambda: alice.offer("short lived"), TIME, "the offer is there")
    bob.cli("kill", "short lived")
    alice.wait_for(lambda: alice.offer("short lived") is None, TIME, "it is gone")
    assert bob.offer("short lived") is None


@pytest.mark.parametrize("killer", ["alice", "bob"])
def test_kill_ends_a_mapping_for_both(alice: Node, bob: Node, forward: Forwards, killer: str) -> None:
    port = forward()
    with (
        TcpService(bob.host, port.port, echo),
        connect(alice.host, port.address, port.port) as client,
    ):
        client.sendall(b"x")
        read_exactly(client, 1)
        {"alice": alice, "bob": bob}[killer].cli("kill", port.name)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        for node in (alice, bob):
            node.wait_for(lambda node=node: node.port(port.name) is None, TIME, "it is gone")  # type: ignore[misc]


# --- rules --------------------------------------------------------------------------------------------------


def test_a_rule_accepts(alice: Node, bob: Node) -> None:
    with gone_afterwards((bob, "by rule")), TcpService(bob.host, ACCEPTED, echo):
        bob.cli("offer", f"{ACCEPTED}/tcp", "--to", "alice", "--name", "by rule")
        alice.wait_for(lambda: (alice.port("by rule") or {}).get("state") == "running", TIME, "it runs")
        says_hello(alice, alice.contact("bob")["address"], ACCEPTED)


def test_a_rule_denies(alice: Node, bob: Node) -> None:
    with gone_afterwards((bob, "by rule")):
        bob.cli("offer", f"{DENIED}/tcp", "--to", "alice", "--name", "by rule")
        bob.wait_for(lambda: state_of(bob, "by rule") == "declined", TIME, "it is declined")
        assert alice.offer("by rule") is None


# --- requests -----------------------------------------------------------------------------------------------


def test_a_request_that_a_person_accepts(alice: Node, bob: Node, new_port: int) -> None:
    """bob asks for alice's port; she says where it leads to."""
    with (
        gone_afterwards((bob, "shell")),
        TcpService(alice.host, new_port + 10_000, echo, "127.0.0.1") as service,
    ):
        bob.cli("request", f"{new_port}/tcp", "--from", "alice", "--name", "shell")
        asked = alice.wait_for(lambda: alice.offer("shell"), TIME, "the request is there")
        assert asked is not None
        assert (asked["direction"], asked["origin"], asked["port"]) == ("connection", "remote", new_port)
        address = bob.contact("alice")["address"]
        with pytest.raises(OSError):  # noqa: PT011 not before she says so, however it is refused
            connect(bob.host, address, new_port, timeout=1)
        alice.cli("accept", "shell", "--target", f"127.0.0.1:{new_port + 10_000}")
        bob.wait_for(lambda: (bob.port("shell") or {}).get("state") == "running", TIME, "it runs")
        says_hello(bob, address, new_port)
        says_hello(bob, address, new_port)
        assert set(service.peers) == {"127.0.0.1"}


def test_a_request_that_a_rule_and_expose_answer(alice: Node, bob: Node) -> None:
    address = bob.contact("alice")["address"]
    with (
        gone_afterwards((bob, "tcp exposed"), (bob, "udp exposed")),
        TcpService(alice.host, EXPOSED_TCP, echo),
        UdpEcho(alice.host, EXPOSED_UDP_TARGET, "127.0.0.1"),
    ):
        bob.cli("request", f"{EXPOSED_TCP}/tcp", "--from", "alice", "--name", "tcp exposed")
        bob.cli("request", f"{EXPOSED_UDP}/udp", "--from", "alice", "--name", "udp exposed")
        for name in ("tcp exposed", "udp exposed"):
            bob.wait_for(
                lambda name=name: (bob.port(name) or {}).get("state") == "running",  # type: ignore[misc]
                5,
                f"{name} runs",
            )
        says_hello(bob, address, EXPOSED_TCP)
        with datagram_socket(bob.host, address, EXPOSED_UDP) as client:
            exchange(client, b"hello")


def test_a_request_whose_rule_names_the_target(alice: Node, bob: Node) -> None:
    with gone_afterwards((bob, "targeted")), TcpService(alice.host, TARGET, echo, "127.0.0.1"):
        bob.cli("request", f"{TARGETED}/tcp", "--from", "alice", "--name", "targeted")
        bob.wait_for(lambda: (bob.port("targeted") or {}).get("state") == "running", TIME, "it runs")
        says_hello(bob, bob.contact("alice")["address"], TARGETED)


def test_a_request_for_what_is_not_exposed_is_left_to_a_person(alice: Node, bob: Node) -> None:
    """A rule that accepts the port does not open what no [[expose]] names."""
    with gone_afterwards((bob, "not exposed")), TcpService(alice.host, NOT_EXPOSED, echo):
        bob.cli("request", f"{NOT_EXPOSED}/tcp", "--from", "alice", "--name", "not exposed")
        offer = alice.wait_for(lambda: alice.offer("not exposed"), TIME, "the request is there")
        assert offer is not None
        assert offer["state"] == "pending"
        with pytest.raises(OSError):  # noqa: PT011
            connect(bob.host, bob.contact("alice")["address"], NOT_EXPOSED, timeout=1)


def test_a_request_that_is_denied(alice: Node, bob: Node, new_port: int) -> None:
    with gone_afterwards((bob, "no")):
        bob.cli("request", f"{new_port}/tcp", "--from", "alice", "--name", "no")
        alice.wait_for(lambda: alice.offer("no"), TIME, "the request is there")
        alice.cli("deny", "no")
        bob.wait_for(lambda: state_of(bob, "no") == "declined", TIME, "bob is told")
        start = time.monotonic()
        with pytest.raises(OSError) as caught:  # noqa: PT011
            connect(bob.host, bob.contact("alice")["address"], new_port)
        assert caught.value.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH)
        assert time.monotonic() - start < WAITING_TIMEOUT - 1


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("ping nobody", 5, "nobody"),
        ("offer 80/tcp --to nobody", 5, "nobody"),
        ("request 80/tcp --from nobody", 5, "nobody"),
        ("accept nothing", 5, "nothing"),
        ("deny nothing", 5, "nothing"),
        ("kill nothing", 5, "nothing"),
        ("friend remove nobody", 5, "nobody"),
        ("friend accept ABCDEF", 5, "ABCDEF"),
        ("friend add 1234", 2, "1234"),
        ("offer 99999/tcp --to bob", 2, "99999"),
        ("offer 80/sctp --to bob", 2, "sctp"),
        ("offer 0/tcp --to bob", 2, "0"),
        ("offer 80/tcp", 2, "--to"),
        ("offer 80/tcp --to bob --target nowhere", 2, "nowhere"),
        ("frobnicate", 2, "frobnicate"),
    ],
)
def test_errors_have_an_exit_code_and_one_line(alice: Node, command: str, status: int, words: str) -> None:
    result = alice.cli(*command.split(), check=False)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert alice.json("offers")["offers"] == []


def test_the_same_offer_twice(alice: Node, bob: Node, forward: Forwards) -> None:
    port = forward()
    result = bob.cli("offer", f"{port.port}/tcp", "--to", "alice", check=False)
    assert result.returncode == 1
    assert "is already offered" in result.stderr
    assert port.line["state"] == "running"


def test_commands_while_the_carrier_is_full(forward: Forwards, alice: Node, bob: Node) -> None:
    port = forward()
    with (
        TcpService(bob.host, port.port, pour),
        connect(alice.host, port.address, port.port) as client,
    ):
        done = threading.Event()
        reader = threading.Thread(target=read_until, args=(client, done))
        reader.start()
        try:
            time.sleep(1)
            start = time.monotonic()
            alice.cli("ping", "bob")
            bob.cli("ping", "alice")
            alice.cli("status")
            assert ask(alice, api.PING, name="bob")["path"] == "direct"
            assert time.monotonic() - start < AT_ONCE
        finally:
            done.set()
            reader.join()


def pour(service) -> None:  # type: ignore[no-untyped-def]
    while True:
        service.sendall(bytes(1 << 20))


def read_until(client: socket.socket, done: threading.Event) -> None:
    while not done.is_set():
        client.recv(1 << 20)


def test_version_and_doctor_say_that_all_is_well(alice: Node) -> None:
    assert "0." in alice.cli("version").stdout
    report = alice.cli("doctor")
    assert report.returncode == 0
    eventually(lambda: alice.json("doctor")["checks"], "there are checks")
