"""Who floods is let through less and less, by a filter at the socket; nobody else notices."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import pytest

from tunfwd.tox.policing import FASTER, LEAST, MAX_POLICED, VOTES, Policing, SocketGate, Source

PACKETS = 150  # what a socket holds by default


class SimulatedGate:
    def __init__(self) -> None:
        self.source: Source | None = None
        self.looks = 0
        self.shares: dict[Source, float] = {}

    def next_source(self) -> Source | None:
        self.looks += 1
        return self.source

    def admit(self, shares: Mapping[Source, float]) -> None:
        self.shares = dict(shares)


EVE: Any = "eve"
BOB: Any = "bob"
EVES, BOBS = Source(bytes(4), 1), Source(bytes(4), 2)


@pytest.fixture
def gate() -> SimulatedGate:
    return SimulatedGate()


@pytest.fixture
def policing(gate: SimulatedGate) -> Policing:
    return Policing(gate)


def iterate(policing: Policing, gate: SimulatedGate, source: Source, first: Any, times: int = VOTES) -> None:
    gate.source = source
    for _ in range(times):
        policing.before_iteration()
        policing.heard(first)


def test_nobody_is_looked_at_while_nobody_floods(policing: Policing, gate: SimulatedGate) -> None:
    iterate(policing, gate, BOBS, BOB)
    policing.judge(set())
    assert gate.looks == 0
    assert gate.shares == {}


def test_who_floods_is_let_through_less_until_it_stops(policing: Policing, gate: SimulatedGate) -> None:
    policing.judge({EVE})
    assert gate.shares == {}  # not known yet where it is
    iterate(policing, gate, EVES, EVE)
    policing.judge({EVE})
    assert gate.shares == {EVES: 0.5}
    for _ in range(50):
        policing.judge({EVE})
    assert gate.shares == {EVES: LEAST}
    policing.judge(set())
    assert gate.shares == {EVES: LEAST * FASTER}
    for _ in range(100):
        policing.judge(set())
    assert gate.shares == {}


def test_others_packets_do_not_count_as_its_own(policing: Policing, gate: SimulatedGate) -> None:
    policing.judge({EVE})
    iterate(policing, gate, EVES, EVE, 20)
    iterate(policing, gate, BOBS, BOB, 100)
    iterate(policing, gate, BOBS, EVE, 5)  # bob's packet was no packet of a contact's, and eve's came next
    policing.judge({EVE})
    assert gate.shares == {EVES: 0.5}


def test_a_source_that_is_not_certain_is_left_alone(policing: Policing, gate: SimulatedGate) -> None:
    policing.judge({EVE})
    iterate(policing, gate, EVES, EVE, 10)
    iterate(policing, gate, BOBS, EVE, 10)
    policing.judge({EVE})
    assert gate.shares == {}


def test_the_table_is_bounded(policing: Policing) -> None:
    crowd: Any = {f"eve {number}" for number in range(100)}
    policing.judge(crowd)
    assert len(policing._shares) == len(policing._votes) == MAX_POLICED
    policing.judge(set())
    assert not policing._shares
    assert not policing._votes


# The filter, on sockets of this machine's own.


@pytest.mark.parametrize("family", ["127.0.0.1", "::1", "mapped"])
def test_only_the_policed_source_is_dropped(family: str) -> None:
    kind = socket.AF_INET if family == "127.0.0.1" else socket.AF_INET6
    host = "127.0.0.1" if family != "::1" else "::1"
    with (
        socket.socket(kind, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET if host == "127.0.0.1" else kind, socket.SOCK_DGRAM) as eve,
        socket.socket(socket.AF_INET if host == "127.0.0.1" else kind, socket.SOCK_DGRAM) as bob,
    ):
        if family == "mapped":
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            receiver.bind(("::", 0))
        else:
            receiver.bind((family, 0))
        receiver.setblocking(False)
        port = receiver.getsockname()[1]
        for sender in (eve, bob):
            sender.connect((host, port))
        gate = SocketGate(receiver.fileno())
        assert gate.next_source() is None

        def arrived() -> dict[bytes, int]:
            counts = {b"eve": 0, b"bob": 0}
            for _ in range(PACKETS):
                eve.send(b"eve")
                bob.send(b"bob")
                while True:
                    try:
                        counts[receiver.recv(10)] += 1
                    except BlockingIOError:
                        break
            return counts

        eve.send(b"eve")
        source = gate.next_source()
        assert source == Source(ip_address(host).packed, eve.getsockname()[1])
        assert receiver.recv(10) == b"eve"
        assert arrived() == {b"eve": PACKETS, b"bob": PACKETS}
        gate.admit({source: 0.0})
        assert arrived() == {b"eve": 0, b"bob": PACKETS}
        gate.admit({Source(bytes(4), 1): 0.0, Source(bytes(16), 1): 0.0, source: 0.5})
        passed = arrived()
        assert passed[b"bob"] == PACKETS
        assert PACKETS // 5 < passed[b"eve"] < 4 * PACKETS // 5  # 10 standard deviations
        gate.admit({})
        assert arrived() == {b"eve": PACKETS, b"bob": PACKETS}
        gate.admit({})
        gate.close()
        gate.admit({source: 0.0})
        assert gate.next_source() is None


def test_without_a_socket_nothing_is_done() -> None:
    gate = SocketGate(None)
    gate.admit({EVES: 0.5})
    assert gate.next_source() is None
    gate.close()
