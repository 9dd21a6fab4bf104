"""A forwarded TCP connection is like any other: its beginning, its end, its errors, its back-pressure."""

from __future__ import annotations

import errno
import hashlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from netns.node import Node

from .conftest import CONNECT_TIMEOUT, Forwards
from .hosts import (
    TIME,
    TcpService,
    bytes_of,
    connect,
    echo,
    eventually,
    make_socket,
    read_all,
    read_exactly,
    reset,
)
from .processes import descriptors, resident

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

MIB = 1 << 20
IN_FLIGHT = {True: 32 * MIB, False: 16 * MIB}
"""Bytes that may lie between a writer and a reader that does not read, both kernels' included: with the link,
whose windows are for fast and long paths, and without."""
ROUND_TRIP = 0.5  # s; generous: it takes a millisecond
TRIES = 5  # on a busy machine one may take longer
PIECES = {True: 48, False: 24}  # MiB that a fast writer has for a slow reader


@pytest.mark.parametrize("reverse", [False, True], ids=["alice uses bob's", "bob uses alice's"])
def test_bytes_arrive_as_they_were_sent(forward: Forwards, reverse: bool) -> None:
    port = forward(reverse=reverse)
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(port.using.host, port.address, port.port) as client,
    ):
        sent = bytes_of(1, 3 * MIB)
        writer = threading.Thread(target=client.sendall, args=(sent,))
        writer.start()
        assert read_exactly(client, len(sent)) == sent
        writer.join()


@pytest.mark.device
def test_the_ipv6_address_works_too(forward: Forwards) -> None:
    port = forward()
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(port.using.host, port.address6, port.port) as client,
    ):
        client.sendall(b"over IPv6")
        assert read_exactly(client, 9) == b"over IPv6"


def test_the_server_may_speak_first_and_alone(forward: Forwards) -> None:
    port = forward()
    with (
        TcpService(port.serving.host, port.port, lambda service: service.sendall(b"220 ready\r\n")),
        connect(port.using.host, port.address, port.port) as client,
    ):
        assert read_all(client) == b"220 ready\r\n"


# --- the end ------------------------------------------------------------------------------------------------


def test_a_client_that_shuts_down_first_still_gets_the_reply(forward: Forwards) -> None:
    port = forward()

    def sum_up(service: socket.socket) -> None:
        data = read_all(service)
        service.sendall(hashlib.sha256(data).digest() + data)

    with (
        TcpService(port.serving.host, port.port, sum_up),
        connect(port.using.host, port.address, port.port) as client,
    ):
        request = bytes_of(2, MIB)
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hashlib.sha256(request).digest() + request


def test_a_server_that_closes_its_side_first_still_receives(forward: Forwards) -> None:
    port = forward()
    received: list[bytes] = []

    def greet_then_listen(service: socket.socket) -> None:
        service.sendall(b"goodbye")
        service.shutdown(socket.SHUT_WR)
        received.append(read_all(service))

    with TcpService(port.serving.host, port.port, greet_then_listen):
        with connect(port.using.host, port.address, port.port) as client:
            assert read_all(client) == b"goodbye"
            time.sleep(0.5)  # half-closed for a while
            client.sendall(bytes_of(3, MIB))
        assert eventually(lambda: received, "the server has it all") == [bytes_of(3, MIB)]


def test_all_bytes_come_before_the_end(forward: Forwards) -> None:
    port = forward()
    with TcpService(port.serving.host, port.port, lambda service: service.sendall(bytes_of(4, 2 * MIB))):
        for _ in range(3):
            with connect(port.using.host, port.address, port.port) as client:
                time.sleep(0.2)
                assert read_all(client) == bytes_of(4, 2 * MIB)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_goes_through(forward: Forwards, who: str) -> None:
    port = forward()
    services: list[socket.socket] = []
    done = threading.Event()

    def hold(service: socket.socket) -> None:
        services.append(service)
        done.wait(2 * TIME)

    with TcpService(port.serving.host, port.port, hold):
        client = connect(port.using.host, port.address, port.port)
        try:
            [service] = eventually(lambda: services, "the server has the connection")
            ends = [client, service]
            here, there = ends if who == "client" else ends[::-1]
            there.settimeout(TIME)
            reset(here)
            with pytest.raises(ConnectionResetError):
                there.recv(1)
        finally:
            done.set()
            client.close()


def test_a_reset_overtakes_what_nobody_reads(forward: Forwards) -> None:
    port = forward()
    failures: list[OSError] = []
    started = threading.Event()

    def pour(service: socket.socket) -> None:
        try:
            while True:
                service.sendall(bytes(MIB))
                started.set()
        except OSError as failure:
            failures.append(failure)

    with TcpService(port.serving.host, port.port, pour):
        client = connect(port.using.host, port.address, port.port)
        assert started.wait(TIME)
        time.sleep(1)
        reset(client)
        [failure] = eventually(lambda: failures, "the server has heard of it")
        assert failure.errno in (errno.ECONNRESET, errno.EPIPE)


# --- no beginning -------------------------------------------------------------------------------------------


def refused_within(node: Node, address: str, port: int) -> float:
    """How long it takes at best until a connection is refused, which it is each time."""
    times = []
    for _ in range(TRIES):
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            connect(node.host, address, port)
        times.append(time.monotonic() - start)
    return min(times)


@pytest.mark.device
@pytest.mark.parametrize("source", ["auto", "peer", "host"])
def test_refused_is_refused_at_once(forward: Forwards, source: str) -> None:
    port = forward(source=source)
    assert refused_within(port.using, port.address, port.port) < ROUND_TRIP


@pytest.mark.device
def test_a_port_that_is_not_mapped_is_refused_at_once(forward: Forwards) -> None:
    port = forward()
    for address in (port.address, port.address6):
        assert refused_within(port.using, address, port.port + 20000) < ROUND_TRIP


@pytest.mark.device
def test_a_service_may_stop_and_start(forward: Forwards) -> None:
    port = forward()
    for _ in range(3):
        with (
            TcpService(port.serving.host, port.port, echo),
            connect(port.using.host, port.address, port.port) as client,
        ):
            client.sendall(b"up")
            assert read_exactly(client, 2) == b"up"
        with pytest.raises(ConnectionRefusedError):
            connect(port.using.host, port.address, port.port)


@pytest.mark.device
def test_a_dead_target_times_out_instead_of_connecting(forward: Forwards, bob: Node) -> None:
    dead = "192.168.77.99"  # its frames go somewhere, and nobody answers: as behind a firewall
    neighbour = [dead, "lladdr", "02:00:00:00:00:99", "dev", "eth0"]
    bob.host.run(["ip", "neigh", "add", *neighbour])
    try:
        port = forward(target=f"{dead}:80")
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(port.using.host, port.address, port.port, timeout=CONNECT_TIMEOUT + 2)
        assert time.monotonic() - start > CONNECT_TIMEOUT + 1
        eventually(lambda: port.line["connections"] == 0, "the attempt is forgotten")
    finally:
        bob.host.run(["ip", "neigh", "del", *neighbour])


@pytest.mark.device
def test_a_target_that_is_unreachable_is_unreachable(forward: Forwards, bob: Node) -> None:
    bob.host.run(["ip", "route", "add", "unreachable", "198.51.100.0/24"])
    try:
        port = forward(target="198.51.100.9:80")
        with pytest.raises(OSError, match="No route to host"):
            connect(port.using.host, port.address, port.port)
    finally:
        bob.host.run(["ip", "route", "del", "unreachable", "198.51.100.0/24"])


@pytest.mark.device
def test_a_connection_given_up_before_the_answer_is_given_up_there(forward: Forwards, bob: Node) -> None:
    """The service is a listener with a full backlog: it answers nobody."""
    port = forward(source="host")
    listener = make_socket(bob.host, "127.0.0.1", socket.SOCK_STREAM)
    with listener, ExitStack() as fillers:
        listener.bind(("127.0.0.1", port.port))
        listener.listen(0)
        for _ in range(2):
            filler = fillers.enter_context(make_socket(bob.host, "127.0.0.1", socket.SOCK_STREAM))
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port.port))
        with pytest.raises(TimeoutError):
            connect(port.using.host, port.address, port.port, timeout=1)
        eventually(lambda: port.line["connections"] == 0, "nothing is left of it", TIME)


# --- pressure -----------------------------------------------------------------------------------------------


def pour_and_count(sent: list[int], pieces: int = 24) -> Callable[[socket.socket], None]:
    def pour(service: socket.socket) -> None:
        for number in range(pieces):
            piece = bytes_of(number, MIB)
            while piece:
                size = service.send(piece)
                sent[0] += size
                piece = piece[size:]

    return pour


def still(sent: list[int], seconds: float) -> bool:
    """Whether the writer has not gone on for so long."""
    before = sent[0]
    time.sleep(seconds)
    return 0 < before == sent[0]


@pytest.mark.parametrize("source", ["peer", "host"])
def test_a_slow_reader_stops_the_far_writer(forward: Forwards, source: str, linked: bool) -> None:
    """Of many MiB only some leave before the reader reads; nothing grows; then all of them arrive."""
    port = forward(source=source)
    sent = [0]
    nodes = (port.serving, port.using)
    with TcpService(port.serving.host, port.port, pour_and_count(sent, PIECES[linked])):
        before = [resident(node) for node in nodes]
        with connect(port.using.host, port.address, port.port) as client:
            eventually(lambda: still(sent, 4), "the writer stops", 2 * TIME)
            assert sent[0] <= IN_FLIGHT[linked]
            for node, size in zip(nodes, before, strict=True):
                assert resident(node) - size < IN_FLIGHT[linked], f"{node.name} has grown"
            digest = hashlib.sha256()
            while piece := client.recv(MIB):
                digest.update(piece)
    expected = hashlib.sha256()
    for number in range(PIECES[linked]):
        expected.update(bytes_of(number, MIB))
    assert digest.digest() == expected.digest()


def test_stalled_readers_do_not_stop_others(forward: Forwards) -> None:
    port, other = forward(), forward()
    with (
        TcpService(port.serving.host, port.port, pour_and_count([0])),
        TcpService(other.serving.host, other.port, echo),
        ExitStack() as stalled,
    ):
        for _ in range(5):
            stalled.enter_context(connect(port.using.host, port.address, port.port))
        time.sleep(3)  # now they are full, or nearly
        with connect(other.using.host, other.address, other.port) as client:
            times = []
            for _ in range(20):
                start = time.monotonic()
                client.sendall(b"still there?")
                read_exactly(client, 12)
                times.append(time.monotonic() - start)
        assert sorted(times)[10] < ROUND_TRIP


def test_200_connections_at_once(forward: Forwards) -> None:
    port = forward()
    with TcpService(port.serving.host, port.port, echo), ExitStack() as stack:
        poller = select.poll()
        clients = {}
        for _ in range(200):
            client = stack.enter_context(make_socket(port.using.host, port.address, socket.SOCK_STREAM))
            client.setblocking(False)
            clients[client.fileno()] = client
        start = time.monotonic()
        for client in clients.values():
            client.connect_ex((port.address, port.port))
            poller.register(client, select.POLLOUT)
        waiting = set(clients)
        while waiting:
            events = poller.poll(1000 * TIME)
            assert events, f"{len(waiting)} are not answered"
            for number, event in events:
                client = clients[number]
                if event & select.POLLOUT:
                    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                    client.send(struct.pack("<I", number))
                    poller.modify(client, select.POLLIN)
                else:
                    assert client.recv(4) == struct.pack("<I", number)
                    poller.unregister(client)
                    waiting.discard(number)
        assert time.monotonic() - start < 20  # two hundred threads of the service included
        assert port.line["connections"] == 200
    eventually(lambda: port.line["connections"] == 0, "all are gone")


def test_nothing_is_left_of_connections_that_are_over(forward: Forwards) -> None:
    port = forward()
    nodes = (port.serving, port.using)

    def use(times: int) -> None:
        for number in range(times):
            client = connect(port.using.host, port.address, port.port)
            client.sendall(b"x" * 1000)
            read_exactly(client, 1000)
            reset(client) if number % 3 == 0 else client.close()

    with TcpService(port.serving.host, port.port, echo):
        use(100)
        eventually(lambda: port.line["connections"] == 0, "all are gone")
        before = [(descriptors(node), resident(node)) for node in nodes]
        use(400)
        eventually(lambda: port.line["connections"] == 0, "all are gone")
        for node, (files, size) in zip(nodes, before, strict=True):
            eventually(
                lambda node=node, files=files: descriptors(node) <= files,  # type: ignore[misc]
                "no descriptor is left open",
            )
            assert resident(node) - size < 8 * MIB
