"""The stack against the TCP, UDP and ICMP of the kernel, through a real TUN device."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tunfwd.netstack import Endpoint, connection_table
from tunfwd.wire import ip, tcp, vnet
from tunfwd.wire.checksum import checksum, pseudo_header_sum

from ..tun.namespace import libc, sysctl
from .kernel import (
    ABORTING,
    DISCARD,
    ECHO,
    IGNORED,
    MEGABYTE,
    REFUSED,
    SMALL_PATH,
    SOURCE,
    STALLED,
    TIME,
    UNREACHABLE,
    Machine,
    Weather,
    machine,
    own,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and a TUN"
    ),
]

HOSTS = pytest.mark.parametrize("host", ["10.77.3.9", "fd77::9"], ids=["IPv4", "IPv6"])
OFFLINE_HOST = "10.77.3.10"


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    with machine() as made:
        yield made


def client(host: str, port: int, timeout: float = TIME) -> socket.socket:
    return socket.create_connection((host, port), timeout=timeout)


def listener(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((str(ip_address(own(host))), 0), family=family)
    made.settimeout(TIME)
    return made


def local(host: str, port: int = 0) -> Endpoint:
    return Endpoint(ip_address(host).packed, port)


def remote(server: socket.socket, host: str) -> Endpoint:
    return Endpoint(own(host), server.getsockname()[1])


def read_all(connection: socket.socket) -> tuple[int, str]:
    digest, total = hashlib.sha256(), 0
    while data := connection.recv(1 << 20):
        digest.update(data)
        total += len(data)
    return total, digest.hexdigest()


EXPECTED = hashlib.sha256(MEGABYTE * 50).hexdigest()


# Bulk data


def send_and_hear_back(connection: socket.socket, size: int) -> None:
    """Send megabytes, then an end, and hear the end back."""
    for _ in range(size):
        connection.sendall(MEGABYTE)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


@HOSTS
def test_a_program_sends(shared: Machine, host: str) -> None:
    with client(host, DISCARD) as connection:
        send_and_hear_back(connection, 50)
        talk = shared.finished(connection.getsockname()[1])
    assert (talk.received, talk.digest.hexdigest()) == (50 << 20, EXPECTED)
    assert talk.log == ["Connected", "Eof", "Closed"]


@HOSTS
def test_a_program_receives(shared: Machine, host: str) -> None:
    with client(host, SOURCE) as connection:
        assert read_all(connection) == (50 << 20, EXPECTED)


@HOSTS
def test_a_service_receives_from_a_virtual_host(shared: Machine, host: str) -> None:
    with listener(host) as server:
        talk = shared.connect(local(host), remote(server, host), SOURCE)
        connection, peer = server.accept()
        with connection:
            assert peer[0] == host
            assert read_all(connection) == (50 << 20, EXPECTED)
    assert talk.over.wait(10)
    assert talk.log == ["Connected", "Eof", "Closed"]


@HOSTS
def test_a_service_sends_to_a_virtual_host(shared: Machine, host: str) -> None:
    with listener(host) as server:
        talk = shared.connect(local(host), remote(server, host), DISCARD)
        connection, _ = server.accept()
        with connection:
            send_and_hear_back(connection, 50)
    assert talk.over.wait(10)
    assert talk.digest.hexdigest() == EXPECTED


def test_both_ways_at_once(shared: Machine) -> None:
    with client("10.77.3.9", ECHO) as connection:

        def write() -> None:
            connection.sendall(MEGABYTE * 50)
            connection.shutdown(1)

        writer = threading.Thread(target=write)
        writer.start()
        assert read_all(connection) == (50 << 20, EXPECTED)
        writer.join()


# Bad weather


WEATHERS = {
    "loss": Weather(loss=0.05),
    "duplication": Weather(duplication=0.2),
    "reordering": Weather(reordering=0.3),
    "all of it": Weather(loss=0.02, duplication=0.1, reordering=0.2),
}


@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS.keys())
def test_bad_weather(weather: Weather) -> None:
    """Two megabytes each way, through either end's handshake, arrive whole."""
    data = MEGABYTE * 2
    expected = (len(data), hashlib.sha256(data).hexdigest())
    with machine(weather) as made:
        for host in ("10.77.3.9", "fd77::9"):
            with client(host, ECHO, 60) as connection:
                threading.Thread(target=lambda c=connection: (c.sendall(data), c.shutdown(1))).start()
                assert read_all(connection) == expected
            with listener(host) as server:
                talk = made.connect(local(host), remote(server, host), ECHO, timeout=2 * TIME)
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(60)
                    threading.Thread(target=lambda c=connection: (c.sendall(data), c.shutdown(1))).start()
                    assert read_all(connection) == expected
                assert talk.over.wait(60)
                assert talk.log == ["Connected", "Eof", "Closed"]


# Opening and closing


@HOSTS
def test_refused(shared: Machine, host: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        client(host, REFUSED)


@HOSTS
def test_unreachable(shared: Machine, host: str) -> None:
    with pytest.raises(OSError, match="No route to host") as caught:
        client(host, UNREACHABLE)
    assert caught.value.errno == errno.EHOSTUNREACH


def test_offline(shared: Machine) -> None:
    started = time.monotonic()
    with pytest.raises(OSError, match="No route to host"):
        client(OFFLINE_HOST, 80)
    assert time.monotonic() - started < TIME / 3


def test_ignored(shared: Machine) -> None:
    before = shared.call(lambda: shared.stack.statistics().incoming)
    with pytest.raises(TimeoutError):
        client("10.77.3.9", IGNORED, timeout=2.5)  # long enough for repeated SYNs
    assert shared.call(lambda: shared.stack.statistics().incoming) == before + 1


def test_our_connections_are_refused(shared: Machine) -> None:
    talk = shared.connect(local("10.77.3.9"), Endpoint(own("10.77.3.9"), 1), ECHO)
    assert talk.over.wait(TIME)
    assert talk.log == ["REFUSED"]


def test_our_connections_are_rejected_by_a_firewall(shared: Machine) -> None:
    """A route of type unreachable stands for it: the kernel answers with an ICMP error."""
    sysctl("net.ipv4.ip_forward", "1")
    subprocess.run(["ip", "route", "add", "unreachable", "192.0.2.0/24"], check=True, timeout=10)
    talk = shared.connect(local("10.77.3.9"), Endpoint(ip_address("192.0.2.1").packed, 80), ECHO)
    assert talk.over.wait(TIME)
    assert talk.log == ["UNREACHABLE"]


def test_our_connections_time_out(shared: Machine) -> None:
    subprocess.run(["ip", "route", "add", "blackhole", "198.51.100.0/24"], check=True, timeout=10)
    talk = shared.connect(
        local("10.77.3.9"), Endpoint(ip_address("198.51.100.1").packed, 80), ECHO, timeout=0.7
    )
    assert talk.over.wait(TIME)
    assert talk.log == ["TIMED_OUT"]


@HOSTS
def test_half_close(shared: Machine, host: str) -> None:
    with client(host, ECHO) as connection:
        connection.sendall(b"question")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection)[0] == len(b"question")


def reset(connection: socket.socket) -> None:
    """End a connection as close() does with SO_LINGER at zero, but keep the socket."""
    libc.connect(connection.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)


def test_a_reset_from_the_program(shared: Machine) -> None:
    with client("10.77.3.9", DISCARD) as connection:
        connection.sendall(b"x")
        port = connection.getsockname()[1]
        reset(connection)
        assert shared.finished(port).log == ["Connected", "RESET"]


def test_a_reset_to_the_program(shared: Machine) -> None:
    with client("10.77.3.9", ABORTING) as connection:
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_connection_that_we_forgot_is_reset(shared: Machine) -> None:
    """As after a restart."""
    with client("10.77.3.9", DISCARD) as connection:
        connection.sendall(b"x")
        time.sleep(0.1)

        def forget() -> None:
            for talk in list(shared.talks.values()):
                shared.stack.forget(talk.connection)
            shared.talks.clear()

        shared.call(forget)
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_the_same_port_again_and_again(shared: Machine) -> None:
    """Our TIME_WAIT, and the kernel's, let new connections pass."""
    for _ in range(30):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.settimeout(TIME)
            connection.bind(("10.77.0.1", 45000))
            connection.connect(("10.77.3.9", SOURCE))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with listener("10.77.3.9") as server:
        for _ in range(30):
            talk = shared.connect(local("10.77.3.9", 45001), remote(server, "10.77.3.9"), DISCARD)
            connection, _ = server.accept()
            connection.close()  # first, so that the kernel is in TIME_WAIT
            assert talk.over.wait(TIME)
            assert talk.log[-1] == "Closed"
            time.sleep(0.001)


def test_two_hundred_connections_at_once(shared: Machine) -> None:
    started = time.monotonic()
    connections = []
    for _ in range(200):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("10.77.3.9", ECHO))
        connections.append(connection)
    for number, connection in enumerate(connections):
        connection.settimeout(TIME)
        while True:
            try:
                connection.send(b"%d" % number)
                break
            except BlockingIOError:
                time.sleep(0.001)
        assert connection.recv(100) == b"%d" % number
    assert time.monotonic() - started < TIME / 3
    for connection in connections:
        connection.close()


# Windows


def test_a_service_that_does_not_read_stops_the_program(shared: Machine) -> None:
    with client("10.77.3.9", STALLED) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
        connection.setblocking(False)
        sent, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                sent += connection.send(MEGABYTE)
            except BlockingIOError:
                time.sleep(0.02)
        (talk,) = [talk for talk in shared.talks.values() if talk.port == STALLED]
        assert len(talk.connection._receive) <= 1 << 20
        assert sent < 3 << 20

        def resume() -> None:
            talk.port = DISCARD
            shared._read(talk)

        shared.call(resume)
        connection.settimeout(TIME)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert talk.over.wait(TIME)
    whole = (MEGABYTE * 3)[:sent]
    assert talk.received == sent or talk.digest.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_a_program_that_does_not_read_stops_the_service(shared: Machine) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        connection.settimeout(TIME)
        connection.connect(("10.77.3.9", SOURCE))
        time.sleep(2)  # zero window, and probes
        (talk,) = [talk for talk in shared.talks.values() if talk.port == SOURCE]
        assert (50 << 20) - talk.to_send < 2 << 20
        total = 0
        digest = hashlib.sha256()
        while total < 5 << 20:  # slowly at first
            data = connection.recv(20_000)
            digest.update(data)
            total += len(data)
        while data := connection.recv(1 << 20):
            digest.update(data)
    assert digest.hexdigest() == EXPECTED


# UDP and ICMP


@HOSTS
@pytest.mark.parametrize("size", [0, 1, 1000, 1472, 1473, 5000, 65000])
def test_datagrams_come_back(shared: Machine, host: str, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIME)
        sender.connect((host, ECHO))
        sender.send(payload)
        assert sender.recv(70_000) == payload


UDP_SEGMENT = 103  # linux/udp.h


def test_runs_of_datagrams(shared: Machine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIME)
        sender.connect(("10.77.3.9", ECHO))
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        sender.send(MEGABYTE[:20_500])
        assert [sender.recv(2000) for _ in range(21)] == [
            MEGABYTE[n : n + 1000] for n in range(0, 20_000, 1000)
        ] + [MEGABYTE[20_000:20_500]]


IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h


@HOSTS
def test_datagram_errors(shared: Machine, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port, number in ((REFUSED, errno.ECONNREFUSED), (UNREACHABLE, errno.EHOSTUNREACH)):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.settimeout(TIME)
            if ":" in host:
                sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            else:
                sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sender.connect((host, port))
            sender.send(b"x")
            with pytest.raises(OSError, match=os.strerror(number)):
                sender.recv(10)


IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14  # linux/in.h


def test_too_big_lowers_the_path_mtu(shared: Machine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sender.settimeout(TIME)
        sender.connect(("10.77.3.9", SMALL_PATH))
        sender.send(bytes(1200))
        with pytest.raises(OSError, match="Message too long"):
            sender.recv(10)
        assert sender.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1000


@HOSTS
def test_our_datagrams_are_refused(shared: Machine, host: str) -> None:
    source, destination = local(host, 5000), Endpoint(own(host), 1)
    shared.refused.clear()
    for size in (10, 5000):
        shared.call(lambda s=size: shared.stack.send_datagram(source, destination, bytes(s)))  # type: ignore[misc]
    deadline = time.monotonic() + TIME
    while len(shared.refused) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [(event.source, event.destination) for event in shared.refused] == [(source, destination)] * 2


@HOSTS
@pytest.mark.skipif(shutil.which("ping", path="/bin:/usr/bin") is None, reason="needs ping")
@pytest.mark.parametrize("size", [56, 3000])
def test_ping(shared: Machine, host: str, size: int) -> None:
    done = subprocess.run(
        ["/bin/ping", "-c", "3", "-i", "0.05", "-W", "20", "-s", str(size), host],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "3 received, 0% packet loss" in done.stdout, done


@pytest.mark.skipif(shutil.which("ping", path="/bin:/usr/bin") is None, reason="needs ping")
def test_ping_nobody(shared: Machine) -> None:
    done = subprocess.run(
        ["/bin/ping", "-c", "1", "-W", "20", OFFLINE_HOST],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Destination Host Unreachable" in done.stdout


# A hostile program


def test_hostile_packets_leave_it_working(shared: Machine) -> None:
    chance = random.Random(5)
    source, host = own("10.77.3.9"), ip_address("10.77.3.9").packed
    with (
        client("10.77.3.9", ECHO) as victim,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        port = victim.getsockname()[1]

        def send(packet: bytes) -> None:
            try:
                raw.sendto(packet, ("10.77.3.9", 0))
            except OSError:
                return  # too malformed for the kernel itself

        for flags in range(256):
            for destination, from_port in ((ECHO, 40001), (ECHO, port), (40000, 40001)):
                sequence = chance.getrandbits(32)  # a good guess is one in 4000
                options = chance.randbytes(chance.choice([0, 4, 12, 40]))
                segment = tcp.build_header(
                    from_port, destination, sequence=sequence, acknowledgment=chance.getrandbits(32),
                    flags=flags, window=chance.getrandbits(16), checksum=0, options=options,
                ) + chance.randbytes(chance.randrange(20))  # fmt: skip
                pseudo = pseudo_header_sum(source, host, ip.TCP, len(segment))
                segment = segment[:16] + checksum(segment, pseudo).to_bytes(2, "big") + segment[18:]
                send(ip.build_header(source, host, ip.TCP, len(segment)) + segment)
        for _ in range(2000):
            protocol = chance.choice([0, 1, 2, 6, 6, 17, 17, 41, 44, 58, 132, 255])
            fragment = ip.Fragment(chance.getrandbits(16), chance.randrange(100) * 8, chance.random() < 0.5)
            payload = chance.randbytes(chance.randrange(60))
            header = ip.build_header(
                source, host, protocol, len(payload), fragment=fragment if chance.random() < 0.5 else None
            )
            packet = bytearray(header + payload)
            if chance.random() < 0.5:
                packet[chance.randrange(len(packet))] = chance.getrandbits(8)
            send(bytes(packet))
        time.sleep(0.3)
        victim.sendall(b"still here?")
        assert victim.recv(100) == b"still here?"
    statistics = shared.call(shared.stack.statistics)
    assert statistics.malformed > 100
    assert statistics.unknown_protocol > 100


def test_frames_no_kernel_would_write(shared: Machine) -> None:
    """Straight into the stack, between those of a connection that works."""
    chance = random.Random(6)
    with client("10.77.3.9", ECHO) as victim:
        frames = [chance.randbytes(chance.randrange(200)) for _ in range(3000)]
        frames += [vnet.PLAIN + bytes((0x45,)) + chance.randbytes(60) for _ in range(1000)]
        frames += [b"", bytes(9), bytes(10), bytes(11), bytes(65545)]
        shared.call(lambda: shared.stack.receive(frames, time.monotonic()))
        victim.sendall(b"still here?")
        assert victim.recv(100) == b"still here?"


def test_syn_flood_leaves_room(shared: Machine) -> None:
    source, host = own("10.77.3.9"), ip_address("10.77.3.20").packed
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(10_000):
            segment = tcp.build_header(
                1024 + number, IGNORED, sequence=7, acknowledgment=0, flags=tcp.SYN, window=1000, checksum=0
            )
            pseudo = pseudo_header_sum(source, host, ip.TCP, len(segment))
            segment = segment[:16] + checksum(segment, pseudo).to_bytes(2, "big") + segment[18:]
            raw.sendto(ip.build_header(source, host, ip.TCP, len(segment)) + segment, ("10.77.3.20", 0))
    with client("10.77.3.9", ECHO) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    statistics = shared.call(shared.stack.statistics)
    assert statistics.incoming <= connection_table.MAX_INCOMING_PER_ADDRESS + 100
    assert statistics.syns_dropped > 9000 - connection_table.MAX_INCOMING_PER_ADDRESS
