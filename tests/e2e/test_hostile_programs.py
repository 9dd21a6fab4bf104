"""A local program with raw sockets, and one at the control socket, that mean harm."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from netns.node import Node
from tunfwd.control import api

from .conftest import Forward, Forwards, ask
from .hosts import (
    TcpService,
    UdpEcho,
    bytes_of,
    connect,
    datagram_socket,
    echo,
    eventually,
    make_socket,
    read_exactly,
)
from .processes import descriptors, resident

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

MIB = 1 << 20
MAY_GROW = 64 * MIB  # bytes that an attack may cost; four floods in a row cost what one does, 50 MiB
SYN, ACK, RST, FIN = 0x02, 0x10, 0x04, 0x01


@contextmanager
def raw(node: Node) -> Iterator[socket.socket]:
    """For whole IPv4 packets; the kernel fills in the header's checksum and total length, no more."""
    with make_socket(node.host, "0.0.0.0", socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        yield made


def ip_packet(
    source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0, words: int = 5
) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | words,
        0,
        0,
        random.randrange(1, 65536),
        fragment,
        64,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    return header + payload


def tcp_segment(
    source: str,
    destination: str,
    ports: tuple[int, int],
    flags: int,
    *,
    payload: bytes = b"",
    sequence: int = 0,
    acknowledged: int = 0,
    options: bytes = b"",
    offset: int | None = None,
    checksum: int | None = None,
) -> bytes:
    size = 20 + len(options)
    offset = size // 4 if offset is None else offset
    head = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledged, offset << 4, flags, 65535, 0, 0)
    segment = head + options + payload
    if checksum is None:
        pseudo = (
            socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack(">HH", 6, len(segment))
        )
        checksum = internet_checksum(pseudo + segment)
    return segment[:16] + struct.pack(">H", checksum) + segment[18:]


def internet_checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@contextmanager
def unharmed(port: Forward, counter: str = "") -> Iterator[None]:
    """An open connection goes on, a new one is served, and the daemon has not grown.

    `counter`: of `tunfwd status`; that it rose shows that what was sent did arrive.
    """
    before, drops = resident(port.using), dropped(port.using, counter)
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(port.using.host, port.address, port.port) as old,
    ):
        yield
        old.sendall(bytes_of(1, MIB // 4))
        assert read_exactly(old, MIB // 4) == bytes_of(1, MIB // 4)
        with connect(port.using.host, port.address, port.port) as new:
            new.sendall(bytes_of(2, MIB // 4))
            assert read_exactly(new, MIB // 4) == bytes_of(2, MIB // 4)
    assert resident(port.using) - before < MAY_GROW
    assert not counter or dropped(port.using, counter) > drops


def dropped(node: Node, counter: str) -> int:
    return ask(node, api.STATUS)["drops"].get(counter, 0)


def own_address(node: Node) -> str:
    return str(ask(node, api.IDENTITY)["virtual_address"])


def send(attacker: socket.socket, packet: bytes, destination: str) -> None:
    with suppress(OSError):  # the kernel finds some of it too wrong to send
        attacker.sendto(packet, (destination, 0))


def test_tcp_with_every_combination_of_flags(forward: Forwards, alice: Node) -> None:
    """At an open, a closed and an unknown port, with and without data and options, right and wrong sums."""
    port = forward()
    here, there = own_address(alice), port.address
    chance = random.Random(1)
    with unharmed(port, "packets_malformed"), raw(alice) as attacker:
        for flags in range(256):
            for target in (port.port, 9):
                for payload, options in (
                    (b"", b""),
                    (b"data", b""),
                    (b"", b"\x02\x04\x00\x00"),
                    (b"x", b"\x02\xff" * 4),
                ):
                    segment = tcp_segment(
                        here,
                        there,
                        (chance.randrange(1, 65536), target),
                        flags,
                        payload=payload,
                        options=options,
                        sequence=chance.getrandbits(32),
                        acknowledged=chance.getrandbits(32),
                    )
                    send(attacker, ip_packet(here, there, 6, segment), there)
        for offset in range(16):
            segment = tcp_segment(here, there, (1000 + offset, port.port), SYN, offset=offset)
            send(attacker, ip_packet(here, there, 6, segment), there)
        for checksum in (0, 1, 0xFFFF):
            segment = tcp_segment(here, there, (2000, port.port), SYN, checksum=checksum)
            send(attacker, ip_packet(here, there, 6, segment), there)


def test_segments_into_an_open_connection(forward: Forwards, alice: Node) -> None:
    """Blind resets, SYNs and data at random sequence numbers do not end or change it (RFC 5961)."""
    port = forward()
    here, there = own_address(alice), port.address
    chance = random.Random(2)
    with (
        TcpService(port.serving.host, port.port, echo),
        raw(alice) as attacker,
        connect(port.using.host, port.address, port.port) as client,
    ):
        client.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        ours = client.getsockname()[1]
        for flags in (RST, RST | ACK, SYN, SYN | ACK, FIN | ACK, ACK):
            for _ in range(200):
                segment = tcp_segment(
                    here,
                    there,
                    (ours, port.port),
                    flags,
                    payload=b"forged" if flags == ACK else b"",
                    sequence=chance.getrandbits(32),
                    acknowledged=chance.getrandbits(32),
                )
                send(attacker, ip_packet(here, there, 6, segment), there)
        client.sendall(b"after")
        assert read_exactly(client, 5) == b"after"


def test_malformed_ip(forward: Forwards, alice: Node) -> None:
    port = forward()
    here, there = own_address(alice), port.address
    chance = random.Random(3)
    syn = tcp_segment(here, there, (3000, port.port), SYN)
    with unharmed(port, "packets_unknown_protocol"), raw(alice) as attacker:
        for words in range(16):  # header length
            send(attacker, ip_packet(here, there, 6, bytes(40), words=words), there)
        for protocol in range(256):
            send(attacker, ip_packet(here, there, protocol, chance.randbytes(chance.randrange(64))), there)
        for source in ("0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "192.0.2.1", there):
            send(attacker, ip_packet(source, there, 6, syn), there)
            send(attacker, ip_packet(source, there, 17, struct.pack(">HHHH", 1, 53, 8, 0)), there)
            send(attacker, ip_packet(source, there, 1, b"\x08\x00\xf7\xff\x00\x00\x00\x00"), there)
        for size in range(21):  # TCP cut short
            send(attacker, ip_packet(here, there, 6, syn[:size]), there)
        for length in (0, 7, 8, 9, 65535):  # UDP that lies about its length
            send(
                attacker,
                ip_packet(here, there, 17, struct.pack(">HHHH", 1, port.port, length, 0) + b"x"),
                there,
            )
        for kind in range(256):  # ICMP of every type, with and without something quoted
            for body in (b"", bytes(4), bytes(4) + ip_packet(here, there, 6, syn), chance.randbytes(60)):
                head = struct.pack(">BBH", kind, chance.randrange(256), 0) + body
                head = head[:2] + struct.pack(">H", internet_checksum(head)) + head[4:]
                send(attacker, ip_packet(here, there, 1, head), there)
        for _ in range(3000):
            packet = bytes([0x45]) + chance.randbytes(11) + socket.inet_aton(here) + socket.inet_aton(there)
            send(attacker, packet + chance.randbytes(chance.randrange(80)), there)


def test_fragments_that_never_make_a_whole(forward: Forwards, alice: Node) -> None:
    """Overlapping, past the end, and 20 000 beginnings: reassembly is bounded."""
    port = forward()
    here, there = own_address(alice), port.address
    more = 0x2000
    with unharmed(port, "packets_fragments_dropped"), raw(alice) as attacker:
        for offset in range(0, 200, 3):
            send(attacker, ip_packet(here, there, 17, bytes(64), fragment=more | offset), there)
        send(attacker, ip_packet(here, there, 17, bytes(1400), fragment=8191), there)
        for _ in range(20_000):
            send(attacker, ip_packet(here, there, 17, bytes(1400), fragment=more), there)


def test_a_syn_flood(forward: Forwards, alice: Node) -> None:
    """10 000 SYNs from as many ports to a mapped port, 10 000 more to others: it still serves."""
    port = forward()
    here, there = own_address(alice), port.address
    with unharmed(port, "packets_syns_dropped"):
        with raw(alice) as attacker:
            for number in range(20_000):
                target = port.port if number % 2 else 1 + number % 60_000
                segment = tcp_segment(here, there, (1024 + number % 60_000, target), SYN, sequence=number)
                send(attacker, ip_packet(here, there, 6, segment), there)
        # Half of what was opened is reset by the kernel, which knows of none of it; the rest times out.
        eventually(lambda: reachable(port), "new connections are served again", 60)
    eventually(lambda: port.line["connections"] == 0, "nothing is left", 60)


def reachable(port: Forward) -> bool:
    try:
        connect(port.using.host, port.address, port.port, timeout=3).close()
    except OSError:
        return False
    return True


def test_udp_from_every_port(forward: Forwards, alice: Node) -> None:
    """One datagram from each of 60 000 ports to a mapped port: flows are bounded, and the service goes on."""
    port = forward("udp")
    here, there = own_address(alice), port.address
    before = resident(alice), resident(port.serving)
    with UdpEcho(port.serving.host, port.port), raw(alice) as attacker:
        for number in range(1024, 61_024):
            header = struct.pack(">HHHH", number, port.port, 9, 0)
            send(attacker, ip_packet(here, there, 17, header + b"x"), there)

        def answered() -> bool:
            with datagram_socket(port.using.host, port.address, port.port) as client:
                client.settimeout(2)
                with suppress(OSError):
                    client.send(b"after")
                    return client.recv(100) == b"after"
                return False

        eventually(answered, "the service answers again", 60)
    assert resident(alice) - before[0] < MAY_GROW
    assert resident(port.serving) - before[1] < MAY_GROW


def test_connections_that_are_never_used_nor_closed(forward: Forwards, alice: Node) -> None:
    """500 of them are held; others are served all the same."""
    port = forward()
    with unharmed(port), ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connect(port.using.host, port.address, port.port))
        assert port.line["connections"] >= 500
    eventually(lambda: port.line["connections"] == 0, "nothing is left")


# --- the control socket -------------------------------------------------------------------------------------


def control(node: Node) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(30)
    try:
        made.connect(str(node.folder / "control.sock"))
    except OSError:  # too many wait to be let in
        made.close()
        raise
    return made


@pytest.mark.parametrize("attack", ["garbage", "an endless line", "requests without reading", "many idle"])
def test_the_control_socket_under_attack_while_data_flows(
    forward: Forwards, alice: Node, attack: str
) -> None:
    port = forward()
    chance = random.Random(4)
    files, size = descriptors(alice), resident(alice)
    stop = threading.Event()

    def harm() -> None:
        request = b'{"id": 1, "method": "status", "params": {}}\n'
        with ExitStack() as stack:
            while not stop.is_set():
                with suppress(OSError):
                    match attack:
                        case "garbage":
                            with control(alice) as client:
                                client.sendall(
                                    chance.randbytes(5000) + b"\n{}\n[]\nnull\n" + b"{" * 3000 + b"\n"
                                )
                                client.recv(1 << 16)
                        case "an endless line":
                            with control(alice) as client:
                                for _ in range(100):
                                    client.sendall(b"x" * 65536)
                        case "requests without reading":
                            with control(alice) as client:
                                client.settimeout(0.3)
                                for _ in range(10_000):
                                    client.sendall(request)
                        case "many idle":
                            stack.enter_context(control(alice))
                            time.sleep(0.001)

    attacker = threading.Thread(target=harm)
    with (
        TcpService(port.serving.host, port.port, lambda service: service.sendall(bytes_of(3, 4 * MIB))),
        connect(port.using.host, port.address, port.port) as client,
    ):
        attacker.start()
        try:
            assert read_exactly(client, 4 * MIB) == bytes_of(3, 4 * MIB)
        finally:
            stop.set()
            attacker.join()
    assert alice.cli("status").stdout
    assert resident(alice) - size < MAY_GROW
    eventually(lambda: descriptors(alice) <= files + 1, "the attackers' connections are closed")
