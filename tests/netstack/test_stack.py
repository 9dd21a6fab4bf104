"""UDP, ICMP, fragments, and the bounds that keep hostile programs harmless."""

from __future__ import annotations

import random
import struct
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.netstack import (
    Endpoint,
    Exhausted,
    HostState,
    Stack,
    connection_table,
    error_queue,
    reassembly,
)
from tunfwd.netstack import events as event_bounds
from tunfwd.netstack import stack as bounds
from tunfwd.netstack.datagrams import MAX_QUEUED
from tunfwd.netstack.events import Connected, ConnectFailed, Datagram, DatagramRefused, EchoRequest, Incoming
from tunfwd.wire import icmp, ip, tcp, udp, vnet
from tunfwd.wire.checksum import checksum, pseudo_header_sum

from .lab import (
    ACK,
    HOST4,
    HOST6,
    OFFLINE,
    OWN,
    OWN4,
    OWN6,
    RST,
    SYN,
    SYN_OPTIONS,
    UNKNOWN,
    Lab,
    dissect,
    flatten,
    host_state,
    packet,
    tcp_frame,
)

PAIRS = [(OWN4, HOST4), (OWN6, HOST6)]
V4_AND_V6 = pytest.mark.parametrize(("program", "host"), PAIRS, ids=["IPv4", "IPv6"])


def new_stack(**options: Any) -> Stack:
    return Stack(OWN, host_state, random.Random(1), **options)


def datagram(
    source: Endpoint, destination: Endpoint, payload: bytes, *, complete: bool = True, gso_size: int = 0
) -> bytes:
    """A frame; with a whole checksum, or a partial one as the kernel leaves it."""
    length = udp.HEADER_LENGTH + len(payload)
    pseudo = pseudo_header_sum(source.address, destination.address, ip.UDP, length)
    header = udp.build_header(source.port, destination.port, len(payload), 0)
    summed = (checksum(header + payload, pseudo) or 0xFFFF) if complete else pseudo
    message = header[:6] + summed.to_bytes(2, "big") + payload
    network = ip.build_header(source.address, destination.address, ip.UDP, length, dont_fragment=True)
    if complete:
        return vnet.PLAIN + network + message
    gso = vnet.GSO_UDP_L4 if gso_size else vnet.GSO_NONE
    return vnet.build(gso, len(network) + 8, gso_size, len(network), 6) + network + message


def echo_request(source: bytes, destination: bytes, number: int, payload: bytes = b"ping") -> bytes:
    kind, protocol = (8, ip.ICMP) if len(source) == 4 else (128, ip.ICMPV6)
    message = struct.pack(">BBHI", kind, 0, 0, number) + payload
    initial = 0 if len(source) == 4 else pseudo_header_sum(source, destination, protocol, len(message))
    message = message[:2] + checksum(message, initial).to_bytes(2, "big") + message[4:]
    return packet(source, destination, protocol, message)


def source_of(frame: bytes) -> bytes:
    return ip.parse(frame, vnet.LENGTH).source


def report_in(frame: bytes) -> tuple[bytes, bytes, icmp.Report]:
    parsed = ip.parse(frame, vnet.LENGTH)
    report = icmp.parse(frame, parsed)
    assert isinstance(report, icmp.Report)
    return parsed.source, parsed.destination, report


def sent(stack: Stack, now: float = 0.0) -> list[bytes]:
    return [flatten(frame) for frame in stack.packets_to_send(now)]


def all_events(stack: Stack) -> list[object]:
    told: list[object] = []
    while (event := stack.next_event()) is not None:
        told.append(event)
    return told


# UDP in


@V4_AND_V6
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("payload", [b"", b"x", b"hello" * 200])
def test_datagram(program: bytes, host: bytes, complete: bool, payload: bytes) -> None:
    stack = new_stack()
    source, destination = Endpoint(program, 5353), Endpoint(host, 53)
    stack.receive([datagram(source, destination, payload, complete=complete)], 0)
    (event,) = all_events(stack)
    assert isinstance(event, Datagram)
    assert (event.source, event.destination, bytes(event.payload)) == (source, destination, payload)
    assert event.dont_fragment


def test_run_of_datagrams_in_one_frame() -> None:
    stack = new_stack()
    stack.receive(
        [
            datagram(
                Endpoint(OWN4, 1),
                Endpoint(HOST4, 2),
                b"a" * 100 + b"b" * 100 + b"c" * 7,
                complete=False,
                gso_size=100,
            )
        ],
        0,
    )
    assert [bytes(event.payload) for event in all_events(stack)] == [b"a" * 100, b"b" * 100, b"c" * 7]  # type: ignore[attr-defined]


def test_damaged_datagram_is_dropped() -> None:
    stack = new_stack()
    frame = bytearray(datagram(Endpoint(OWN4, 1), Endpoint(HOST4, 2), b"hello"))
    frame[-1] ^= 1
    stack.receive([bytes(frame)], 0)
    assert all_events(stack) == []
    assert stack.statistics().bad_checksum == 1


def test_port_0_is_nobodys() -> None:
    stack = new_stack()
    stack.receive(
        [
            datagram(Endpoint(OWN4, 1), Endpoint(HOST4, 0), b"x"),
            tcp_frame(Endpoint(OWN4, 1), Endpoint(HOST4, 0), SYN, 7),
            tcp_frame(Endpoint(OWN4, 0), Endpoint(HOST4, 1), SYN, 7),
        ],
        0,
    )
    assert all_events(stack) == []
    assert sent(stack) == []
    assert stack.statistics().malformed == 3


def test_host_unreachable_after_all() -> None:
    stack = new_stack()
    stack.receive([datagram(Endpoint(OWN4, 1), Endpoint(HOST4, 2), b"x")], 0)
    (event,) = all_events(stack)
    assert isinstance(event, Datagram)
    stack.host_unreachable(event)
    assert report_in(sent(stack)[0])[2].error is icmp.Error.HOST_UNREACHABLE


def test_checksum_is_optional_in_ipv4_only() -> None:
    stack = new_stack()
    for program, host in PAIRS:
        message = udp.build_header(1, 2, 5, 0) + b"hello"
        stack.receive([packet(program, host, ip.UDP, message)], 0)
    assert len(all_events(stack)) == 1
    assert stack.statistics().malformed == 1


@V4_AND_V6
def test_port_unreachable(program: bytes, host: bytes) -> None:
    stack = new_stack()
    frame = datagram(Endpoint(program, 5353), Endpoint(host, 53), b"question")
    stack.receive([frame], 0)
    (event,) = all_events(stack)
    assert isinstance(event, Datagram)
    stack.port_unreachable(event)
    (answer,) = sent(stack)
    source, destination, report = report_in(answer)
    assert (source, destination, report.error) == (host, program, icmp.Error.PORT_UNREACHABLE)
    assert report.quote == frame[vnet.LENGTH :]


@V4_AND_V6
def test_too_big(program: bytes, host: bytes) -> None:
    stack = new_stack()
    stack.receive([datagram(Endpoint(program, 5353), Endpoint(host, 53), bytes(1450))], 0)
    (event,) = all_events(stack)
    assert isinstance(event, Datagram)
    stack.too_big(event, 1000)
    _, _, report = report_in(sent(stack)[0])
    assert report.error is icmp.Error.TOO_BIG
    assert report.mtu == (1000 if len(host) == 4 else 1280)


@pytest.mark.parametrize("address", [OFFLINE, UNKNOWN])
def test_nobody_is_there(address: bytes) -> None:
    stack = new_stack()
    stack.receive(
        [
            datagram(Endpoint(OWN4, 1), Endpoint(address, 2), b"hello"),
            tcp_frame(Endpoint(OWN4, 1), Endpoint(address, 2), SYN, 7),
            echo_request(OWN4, address, 1),
            packet(OWN4, address, 132, bytes(20)),
        ],
        0,
    )
    assert all_events(stack) == []
    reports = [report_in(frame) for frame in sent(stack)]
    assert len(reports) == 4
    assert {(source, report.error) for source, _, report in reports} == {
        (address, icmp.Error.HOST_UNREACHABLE)
    }
    assert stack.statistics().host_unreachable == 4


def test_other_protocols_are_unreachable() -> None:
    for program, host in PAIRS:
        stack = new_stack()
        stack.receive([packet(program, host, 132, bytes(20))], 0)
        _, _, report = report_in(sent(stack)[0])
        assert report.error is icmp.Error.PROTOCOL_UNREACHABLE


# UDP out


@V4_AND_V6
def test_datagram_out(program: bytes, host: bytes) -> None:
    stack = new_stack()
    stack.send_datagram(Endpoint(host, 53), Endpoint(program, 5353), b"answer")
    (frame,) = sent(stack)
    header, parsed = vnet.parse(frame), ip.parse(frame, vnet.LENGTH)
    network = 20 if len(host) == 4 else 40
    assert header == vnet.Header(1, 0, network + 8, 0, network, 6)
    assert (parsed.source, parsed.destination, parsed.dont_fragment) == (host, program, len(host) == 16)
    received = udp.parse(frame, parsed.payload, parsed.end)
    summed = pseudo_header_sum(host, program, ip.UDP, 14)
    assert received == udp.Datagram(53, 5353, summed, memoryview(b"answer"))


def test_runs_of_equal_datagrams_leave_together() -> None:
    sizes = [100, 100, 100, 60, 100, 200, 200, 0, 0, 1472, 1473] + [10] * 70 + [1400] * 60
    for segmentation in (True, False):
        stack = new_stack(udp_segmentation=segmentation)
        for size in sizes:
            stack.send_datagram(Endpoint(HOST4, 1), Endpoint(OWN4, 2), b"x" * size)
        frames = sent(stack)
        assert all(len(frame) <= 10 + 65535 for frame in frames)
        gso = [vnet.parse(frame).gso_size for frame in frames]
        if segmentation:
            assert gso == [100, 0, 200, 0, 0, 0, 0, 0, 10, 10, 1400, 1400]
        else:
            assert set(gso) == {0}
            assert len(frames) == len(sizes) + 1  # 1473 bytes take two fragments


@V4_AND_V6
@pytest.mark.parametrize("size", [1473, 3000, 65000, 65507])
def test_large_datagrams_are_fragmented_out_and_reassembled_in(
    program: bytes, host: bytes, size: int
) -> None:
    there, back = new_stack(), new_stack()
    payload = random.Random(size).randbytes(size)
    there.send_datagram(Endpoint(program, 5), Endpoint(host, 6), payload)  # as if it were the other way
    frames = sent(there)
    assert all(len(frame) <= 1510 for frame in frames)
    random.Random(1).shuffle(frames)
    back.receive([*frames[:-1], frames[0]], 0)
    assert all_events(back) == []
    back.receive([frames[-1]], 0)
    (event,) = all_events(back)
    assert isinstance(event, Datagram)
    assert event.payload == payload
    assert not event.dont_fragment
    back.too_big(event, 1300)
    assert sent(back) == []
    back.port_unreachable(event)
    assert icmp.parse_quote(report_in(sent(back)[0])[2].quote) == (
        program, host, ip.UDP, 5, 6, int.from_bytes(frames_quote(frames), "big")
    )  # fmt: skip


def frames_quote(frames: list[bytes]) -> bytes:
    """Length and checksum of the datagram, which stand where TCP has its sequence number."""
    for frame in frames:
        parsed = ip.parse(frame, vnet.LENGTH)
        if parsed.fragment is not None and parsed.fragment.offset == 0:
            return frame[parsed.payload + 4 : parsed.payload + 8]
    raise AssertionError


def test_datagram_too_long() -> None:
    with pytest.raises(Misuse):
        new_stack().send_datagram(Endpoint(HOST4, 1), Endpoint(OWN4, 2), bytes(65508))


def test_outgoing_datagrams_are_bounded() -> None:
    stack = new_stack(udp_segmentation=False)
    for number in range(MAX_QUEUED + 10):
        stack.send_datagram(Endpoint(HOST4, 1), Endpoint(OWN4, 2), number.to_bytes(4, "big"))
    frames = sent(stack)
    assert len(frames) == MAX_QUEUED
    assert frames[0][-4:] == (10).to_bytes(4, "big")
    assert stack.statistics().datagrams_dropped == 10


@V4_AND_V6
@pytest.mark.parametrize(
    ("error", "failure"),
    [(icmp.Error.PORT_UNREACHABLE, Reason.REFUSED), (icmp.Error.HOST_UNREACHABLE, Reason.UNREACHABLE)],
)
def test_datagram_refused(program: bytes, host: bytes, error: icmp.Error, failure: Reason) -> None:
    stack = new_stack()
    stack.send_datagram(Endpoint(host, 53), Endpoint(program, 5353), b"answer")
    (frame,) = sent(stack)
    header, message = icmp.build_error(program, host, error, frame[vnet.LENGTH :])
    stack.receive([vnet.PLAIN + header + message], 0)
    assert all_events(stack) == [DatagramRefused(Endpoint(host, 53), Endpoint(program, 5353), failure)]


# Fragments


def fragment(identification: int, offset: int, more: bool, payload: bytes, host: bytes = HOST4) -> bytes:
    source = OWN4 if len(host) == 4 else OWN6
    piece = ip.Fragment(identification, offset, more)
    return vnet.PLAIN + ip.build_header(source, host, ip.UDP, len(payload), fragment=piece) + payload


@pytest.mark.parametrize("host", [HOST4, HOST6])
@pytest.mark.parametrize(
    "second",
    [(8, b"y" * 16), (0, b"y" * 24), (24, b"y" * 8), (4088, b"z" * 8)],
    ids=["overlap", "longer repetition", "beyond the end", "far beyond the end"],
)
def test_contradicting_fragments_spoil_the_packet(host: bytes, second: tuple[int, bytes]) -> None:
    stack = new_stack()
    stack.receive([fragment(1, 16, False, b"x" * 8, host), fragment(1, 0, True, b"x" * 16, host)][:1], 0)
    stack.receive([fragment(1, 0, True, b"x" * 8, host), fragment(1, second[0], True, second[1], host)], 0)
    stack.receive([fragment(1, 8, True, b"x" * 8, host)], 0)
    assert all_events(stack) == []
    assert stack.statistics().fragments_dropped == 1


def test_fragments_expire() -> None:
    stack = new_stack()
    stack.receive([fragment(1, 0, True, b"x" * 8)], 100.0)
    assert stack.next_timeout() == 100.0 + reassembly.LIFETIME
    stack.handle_timeout(100.0 + reassembly.LIFETIME)
    assert stack.next_timeout() is None
    assert stack.statistics().fragments_dropped == 1


def test_fragments_are_bounded() -> None:
    stack = new_stack()
    for identification in range(3000):
        for offset in range(0, 64000, 1480):
            stack.receive([fragment(identification, offset, True, bytes(1480))], 0)
        if identification == 300:
            break
    held = stack._reassembly
    assert len(held._partials) <= reassembly.MAX_PACKETS
    assert held._bytes <= reassembly.MAX_BYTES
    for offset in range(0, 65000, 8):
        stack.receive([fragment(70000, offset, True, bytes(8))], 0)
    assert max(len(partial.pieces) for partial in held._partials.values()) <= reassembly.MAX_FRAGMENTS
    assert held._bytes == sum(partial.received for partial in held._partials.values())


def test_tcp_in_fragments() -> None:
    stack = new_stack()
    whole = tcp_frame(Endpoint(OWN4, 1), Endpoint(HOST4, 2), SYN, 7, options=SYN_OPTIONS)
    segment = bytearray(whole[30:])
    segment[16:18] = checksum(segment, pseudo_header_sum(OWN4, HOST4, ip.TCP, len(segment))).to_bytes(
        2, "big"
    )
    for offset, end in ((0, 16), (16, len(segment))):
        part = bytes(segment[offset:end])
        piece = ip.Fragment(9, offset, end < len(segment))
        header = ip.build_header(OWN4, HOST4, ip.TCP, len(part), fragment=piece)
        stack.receive([vnet.PLAIN + header + part], 0)
    (event,) = all_events(stack)
    assert isinstance(event, Incoming)


# Echo


@V4_AND_V6
@pytest.mark.parametrize("size", [0, 56, 3000])
def test_echo(program: bytes, host: bytes, size: int) -> None:
    stack = new_stack()
    payload = bytes(size)
    if size < 1400:
        stack.receive([echo_request(program, host, 77, payload)], 0)
    else:
        frame = echo_request(program, host, 77, payload)
        body = frame[ip.parse(frame, 10).payload :]
        protocol = ip.ICMP if len(host) == 4 else ip.ICMPV6
        for offset in range(0, len(body), 1440):
            part = body[offset : offset + 1440]
            piece = ip.Fragment(5, offset, offset + 1440 < len(body))
            header = ip.build_header(program, host, protocol, len(part), fragment=piece)
            stack.receive([vnet.PLAIN + header + part], 0)
    (event,) = all_events(stack)
    assert isinstance(event, EchoRequest)
    assert (event.source, event.destination) == (program, host)
    assert sent(stack) == []
    stack.answer_echo(event)
    frames = sent(stack)
    assert len(frames) == (1 if size < 1400 else 3)
    parsed = ip.parse(frames[0], vnet.LENGTH)
    assert (parsed.source, parsed.destination) == (host, program)
    assert frames[0][parsed.payload] == (0 if len(host) == 4 else 129)
    assert frames[0][parsed.payload + 4 : parsed.payload + 8] == (77).to_bytes(4, "big")
    stack.answer_echo(event)
    assert sent(stack) == []


def test_echo_requests_are_bounded() -> None:
    stack = new_stack()
    for number in range(bounds.MAX_ECHO_REQUESTS + 5):
        stack.receive([echo_request(OWN4, HOST4, number)], 0)
    requests = all_events(stack)
    for request in requests:
        assert isinstance(request, EchoRequest)
        stack.answer_echo(request)
    assert len(sent(stack)) == bounds.MAX_ECHO_REQUESTS
    assert stack.statistics().echo_requests_dropped == 5


# Noise and lies


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("192.0.2.7", "224.0.0.251"), ("10.77.3.9", "10.77.255.255"), ("0.0.0.0", "10.77.0.0"),
        ("192.0.2.7", "255.255.255.255"), ("fe80::1", "ff02::2"), ("fe80::1", "ff02::16"),
    ],
)  # fmt: skip
def test_noise_is_counted_and_not_answered(source: str, destination: str) -> None:
    stack = new_stack()
    there, here = ip_address(source).packed, ip_address(destination).packed
    stack.receive(
        [datagram(Endpoint(there, 5353), Endpoint(here, 5353), b"mdns"), packet(there, here, 2, bytes(8))], 0
    )
    assert all_events(stack) == []
    assert sent(stack) == []
    assert stack.statistics().noise == 2


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("10.77.0.1", "239.1.2.3"), ("10.77.0.1", "10.77.255.255"), ("10.77.0.1", "10.77.0.0"),
        ("10.77.0.1", "255.255.255.255"), ("10.77.0.1", "192.168.1.255"), ("192.168.1.2", "192.168.1.255"),
        ("192.168.1.2", "255.255.255.255"), ("fd77::1", "ff02::1"),
    ],
)  # fmt: skip
def test_what_this_machine_sends_to_all_is_told_and_never_answered(source: str, destination: str) -> None:
    local = frozenset({ip_address("192.168.1.2").packed})
    stack = Stack(OWN, lambda address: HostState.UNKNOWN, random.Random(1), local=local)
    there, here = ip_address(source).packed, ip_address(destination).packed
    ends = Endpoint(there, 40000), Endpoint(here, 8303)
    stack.receive([datagram(*ends, b"anybody?"), packet(there, here, 2, bytes(8))], 0)
    [event] = all_events(stack)
    assert isinstance(event, event_bounds.Broadcast)
    assert (event.source, event.destination, bytes(event.payload)) == (*ends, b"anybody?")
    if here[0] in (10, 224, 239, 255):
        assert sent(stack) == []


@pytest.mark.parametrize("destination", ["255.255.255.255", "239.1.2.3", "10.77.255.255", "192.168.1.255"])
@pytest.mark.parametrize("source", ["192.0.2.7", "10.77.3.9"])
def test_what_others_send_to_all_is_nothing(source: str, destination: str) -> None:
    """Forwarded by the kernel, or from an address of a contact."""
    local = frozenset({ip_address("192.168.1.2").packed})
    stack = Stack(OWN, lambda address: HostState.UNKNOWN, random.Random(1), local=local)
    there, here = ip_address(source).packed, ip_address(destination).packed
    stack.receive([datagram(Endpoint(there, 40000), Endpoint(here, 8303), b"anybody?")], 0)
    assert all_events(stack) == []
    assert sent(stack) == []


@pytest.mark.parametrize(
    "source", ["10.77.3.9", "10.77.200.1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
)
def test_false_sources_are_not_answered(source: str) -> None:
    """Answers to addresses that we stand for would come back to us if the kernel forwards."""
    stack = new_stack()
    there = ip_address(source).packed
    for flags in (SYN, ACK, SYN | ACK):
        stack.receive([tcp_frame(Endpoint(there, 1), Endpoint(HOST4, 2), flags, 7)], 0)
    stack.receive(
        [datagram(Endpoint(there, 1), Endpoint(OFFLINE, 2), b"x"), echo_request(there, HOST4, 1)], 0
    )
    assert all_events(stack) == []
    assert sent(stack) == []
    assert stack.statistics().bad_source == 5


def test_what_the_kernel_forwards_for_other_machines_is_dropped() -> None:
    """Whatever it is; a source that becomes this machine's is heard from then on."""
    local: set[bytes] = set()
    stack = new_stack(local=local)
    neighbour, other = ip_address("192.168.1.7").packed, ip_address("192.168.1.2").packed
    frames = [
        tcp_frame(Endpoint(neighbour, 1), Endpoint(HOST4, 2), SYN, 7),
        tcp_frame(Endpoint(neighbour, 1), Endpoint(HOST4, 2), ACK, 7),
        datagram(Endpoint(neighbour, 1), Endpoint(HOST4, 2), b"x"),
        datagram(Endpoint(neighbour, 1), Endpoint(OFFLINE, 2), b"x"),
        echo_request(neighbour, HOST4, 1),
    ]
    stack.receive(frames, 0)
    assert all_events(stack) == []
    assert sent(stack) == []
    assert stack.statistics().foreign_source == len(frames)
    local.add(other)
    for source in (other, OWN4):
        stack.receive([tcp_frame(Endpoint(source, 1), Endpoint(HOST4, 2), SYN, 7)], 0)
        assert isinstance(stack.next_event(), Incoming)
    assert stack.statistics().foreign_source == len(frames)


def test_machines_behind_ours_may_use_the_network_where_nobody_is_asked() -> None:
    stack = new_stack()
    stack.receive([tcp_frame(Endpoint(ip_address("172.17.0.2").packed, 1), Endpoint(HOST4, 2), SYN, 7)], 0)
    assert isinstance(stack.next_event(), Incoming)


def test_errors_about_nothing_of_ours_are_ignored() -> None:
    stack = new_stack()
    for protocol in (ip.TCP, ip.UDP, ip.ICMP):
        quote = ip.build_header(HOST4, OWN4, protocol, 8) + bytes(8)
        for error in icmp.Error:
            header, message = icmp.build_error(OWN4, HOST4, error, quote)
            stack.receive([vnet.PLAIN + header + message], 0)
    told = all_events(stack)
    assert all(isinstance(event, DatagramRefused) for event in told)
    assert len(told) == 3
    assert sent(stack) == []


# Bounds


def test_syn_flood() -> None:
    table = connection_table
    stack = new_stack()
    for number in range(10_000):
        host = Endpoint(ip_address("10.77.4.0").packed[:3] + bytes((number % 20 + 1,)), 80)
        stack.receive([tcp_frame(Endpoint(OWN4, 1024 + number), host, SYN, 7, options=SYN_OPTIONS)], 0)
    statistics = stack.statistics()
    assert statistics.connections == statistics.incoming
    assert 0.9 * table.MAX_INCOMING < statistics.incoming <= table.MAX_INCOMING
    assert statistics.syns_dropped == 10_000 - statistics.incoming
    told = all_events(stack)
    assert len(told) == statistics.incoming
    by_host = Counter(event.connection.local for event in told if isinstance(event, Incoming))
    assert min(by_host.values()) >= table.LEAST_INCOMING
    for event in told:
        assert isinstance(event, Incoming)
        event.connection.refuse()
    assert stack.statistics().connections == 0
    assert len(sent(stack)) == statistics.incoming
    assert stack._table._undecided._held == stack._table._to_hosts._held == {}


def test_syn_flood_on_one_host_leaves_room_for_others() -> None:
    stack = new_stack()
    for number in range(10_000):
        stack.receive([tcp_frame(Endpoint(OWN4, 1024 + number), Endpoint(HOST4, 80), SYN, 7)], 0)
    assert stack.statistics().incoming == connection_table.MAX_INCOMING_PER_ADDRESS
    all_events(stack)
    other = Endpoint(ip_address("10.77.3.200").packed, 80)
    stack.receive([tcp_frame(Endpoint(OWN4, 1024), other, SYN, 7)], 0)
    assert isinstance(stack.next_event(), Incoming)


def fill(stack: Stack, host: bytes, most: int = 65535) -> int:
    """Open connections from a virtual address until there is no more room; how many there were."""
    for number in range(most):
        try:
            stack.connect(Endpoint(host, 0), Endpoint(OWN4, 1 + number), 0)
        except Exhausted:
            return number
    return most


@pytest.mark.heavy
def test_connections_are_bounded_and_no_host_takes_anothers() -> None:
    table = connection_table
    stack = new_stack()
    hosts = [ip_address(f"10.77.4.{number}").packed for number in range(1, 41)]
    shares = [fill(stack, host) for host in hosts]
    assert shares[0] == table.MAX_PER_ADDRESS
    assert min(shares) == shares[-1] == table.LEAST  # however many have come before
    assert sum(shares) < table.MAX_CONNECTIONS + 40 * table.LEAST
    stack.receive([tcp_frame(Endpoint(OWN4, 1), Endpoint(hosts[0], 2), SYN, 7)], 0)
    assert isinstance(stack.next_event(), Incoming)  # programs here have shares of their own
    assert stack.statistics().syns_dropped == 0
    for connection in list(stack._table._connections.values()):
        connection.abort()
    assert fill(stack, hosts[0]) == table.MAX_PER_ADDRESS


def test_programs_that_fill_one_host_leave_room_at_others() -> None:
    stack = new_stack()
    table = connection_table
    for number in range(table.MAX_PER_ADDRESS + 5):
        stack.receive([tcp_frame(Endpoint(OWN4, 1024 + number), Endpoint(HOST4, 80), SYN, 7)], 0)
        for event in all_events(stack):
            assert isinstance(event, Incoming)
            event.connection.accept()
    assert stack.statistics().connections == table.MAX_PER_ADDRESS
    assert stack.statistics().syns_dropped == 5
    other = Endpoint(ip_address("10.77.3.200").packed, 80)
    stack.receive([tcp_frame(Endpoint(OWN4, 1024), other, SYN, 7)], 0)
    assert isinstance(stack.next_event(), Incoming)
    assert fill(stack, HOST4, most=100) == 100


def test_ports_are_not_used_twice() -> None:
    stack = new_stack()
    ports = {stack.connect(Endpoint(HOST4, 0), Endpoint(OWN4, 80), 0).local.port for _ in range(3000)}
    assert len(ports) == 3000
    assert min(ports) >= connection_table.FIRST_EPHEMERAL_PORT


def test_errors_are_limited_in_rate() -> None:
    stack = new_stack()
    for number in range(1000):
        stack.receive([datagram(Endpoint(OWN4, 1 + number), Endpoint(OFFLINE, 2), b"x")], 50.0)
    assert len(sent(stack, 50.0)) == error_queue.BURST
    assert stack.statistics().errors_suppressed == 1000 - error_queue.BURST
    for number in range(1000):
        stack.receive([datagram(Endpoint(OWN4, 1 + number), Endpoint(OFFLINE, 2), b"x")], 50.0)
    assert sent(stack, 50.1) == []
    stack.receive([datagram(Endpoint(OWN4, 1), Endpoint(OFFLINE, 2), b"x")], 50.5)
    assert len(sent(stack, 50.5)) == 1


# Shares: what is too much for one virtual address is not another's loss


def all_offline() -> Stack:
    return Stack(OWN, lambda address: HostState.OFFLINE, random.Random(1))


QUIET = Endpoint(ip_address("10.77.3.200").packed, 53)
FLOOD = 20_000


def test_a_host_that_sends_too_many_datagrams_loses_its_own() -> None:
    stack = new_stack(udp_segmentation=False)
    program = Endpoint(OWN4, 2)
    stack.send_datagram(QUIET, program, b"first")
    for number in range(FLOOD):
        stack.send_datagram(Endpoint(HOST4, 1), program, b"%d" % number)
    stack.send_datagram(QUIET, program, b"last")
    payloads = [(source_of(frame), frame[vnet.LENGTH + 28 :]) for frame in sent(stack)]
    assert [payload for source, payload in payloads if source == QUIET.address] == [b"first", b"last"]
    assert len(payloads) == MAX_QUEUED + 2
    assert stack.statistics().datagrams_dropped == FLOOD - MAX_QUEUED
    assert stack._datagrams._queues == {}


def test_a_host_that_gets_too_many_datagrams_leaves_room_for_others() -> None:
    stack = new_stack()
    program = Endpoint(OWN4, 2)
    stack.receive([datagram(program, Endpoint(HOST4, 2), b"flood")] * FLOOD, 0)
    stack.receive([datagram(program, QUIET, b"%d" % number) for number in range(1000)], 0)
    told = all_events(stack)
    heard = [
        bytes(event.payload) for event in told if isinstance(event, Datagram) and event.destination == QUIET
    ]
    assert heard == [b"%d" % number for number in range(1000)]
    assert len(told) == event_bounds.MAX_DATAGRAM_EVENTS_PER_ADDRESS + 1000
    assert stack._events._datagrams._held == {}


@pytest.mark.heavy
def test_however_many_hosts_are_flooded_each_gets_some_datagrams() -> None:
    stack = new_stack()
    hosts = [ip_address(f"10.77.4.{number}").packed for number in range(1, 41)]
    for host in hosts:
        stack.receive([datagram(Endpoint(OWN4, 1), Endpoint(host, 2), b"x")] * 5000, 0)
    heard = Counter(event.destination.address for event in all_events(stack) if isinstance(event, Datagram))
    least = event_bounds.LEAST_DATAGRAM_EVENTS
    assert [heard[host] >= least for host in hosts] == [True] * len(hosts)
    assert sum(heard.values()) <= event_bounds.MAX_DATAGRAM_EVENTS + len(hosts) * least


@pytest.mark.parametrize("rounds", [1, 400])
def test_errors_for_one_host_do_not_use_up_the_rate_of_others(rounds: int) -> None:
    """Whether they come at once or one by one."""
    stack = all_offline()
    program = Endpoint(OWN4, 2)
    told: Counter[bytes] = Counter()
    for _ in range(rounds):
        stack.receive([datagram(program, Endpoint(HOST4, 2), b"flood")] * (FLOOD // rounds), 50.0)
        told.update(map(source_of, sent(stack, 50.0)))
    stack.receive([datagram(program, QUIET, b"anybody there?")] * 20, 50.0)
    told.update(map(source_of, sent(stack, 50.0)))
    assert told == {HOST4: error_queue.BURST, QUIET.address: 20}


def test_errors_for_many_hosts_are_limited_together() -> None:
    stack, told = all_offline(), 0
    for number in range(FLOOD):
        host = b"\x0a\x4d" + (number % 4000 + 300).to_bytes(2, "big")
        stack.receive([datagram(Endpoint(OWN4, 2), Endpoint(host, 2), b"scan")], 50.0)
        if number % 100 == 99:
            told += len(sent(stack, 50.0))
    assert told == error_queue.RATE


def test_unread_events_and_unsent_frames_are_bounded() -> None:
    stack = new_stack()
    frames = [
        datagram(Endpoint(OWN4, 1), Endpoint(HOST4, 2), b"x"),
        tcp_frame(Endpoint(OWN4, 1), Endpoint(HOST4, 2), ACK, 7),
        datagram(Endpoint(OWN4, 1), Endpoint(OFFLINE, 2), b"x"),
    ]
    stack.receive(frames * 10_000, 0)
    statistics = stack.statistics()
    assert statistics.datagrams_dropped > 5000
    assert statistics.frames_dropped > 5000
    assert statistics.errors_suppressed > 5000
    assert len(all_events(stack)) < 5000


def test_many_connections_are_woken_in_time() -> None:
    stack = new_stack()
    for number in range(1000):
        stack.connect(Endpoint(HOST4, 0), Endpoint(OWN4, 1 + number), 0.0, timeout=5.0)
    total = len(sent(stack, 0.0))
    while (more := sent(stack, 0.0)) != []:
        total += len(more)
    assert total == 1000
    assert stack.next_timeout() == 0.3
    now, failed = 0.0, 0
    while (deadline := stack.next_timeout()) is not None:
        now = max(now, deadline)
        stack.handle_timeout(now)
        sent(stack, now)
        failed += sum(isinstance(event, ConnectFailed) for event in all_events(stack))
    assert failed == 1000
    assert now == 5.0


# Anything at all


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_bytes(frames: list[bytes]) -> None:
    stack = new_stack()
    stack.receive(frames, 0)
    all_events(stack)
    sent(stack)


VALID = [
    tcp_frame(Endpoint(OWN4, 40000), Endpoint(HOST4, 80), SYN, 1, options=SYN_OPTIONS),
    tcp_frame(Endpoint(OWN6, 40000), Endpoint(HOST6, 80), SYN, 1, options=SYN_OPTIONS),
    tcp_frame(Endpoint(OWN4, 40000), Endpoint(HOST4, 80), ACK, 2, 5, b"data"),
    tcp_frame(Endpoint(OWN4, 40000), Endpoint(HOST4, 80), RST, 2),
    datagram(Endpoint(OWN4, 40000), Endpoint(HOST4, 53), b"question", complete=False),
    datagram(Endpoint(OWN6, 40000), Endpoint(HOST6, 53), b"question", complete=False, gso_size=3),
    echo_request(OWN4, HOST4, 7),
    echo_request(OWN6, HOST6, 7),
    fragment(3, 0, True, bytes(16)),
    fragment(3, 16, False, bytes(16), HOST6),
    VALID_ERROR := vnet.PLAIN
    + b"".join(
        icmp.build_error(OWN4, HOST4, icmp.Error.TOO_BIG, ip.build_header(HOST4, OWN4, 6, 8) + bytes(8))
    ),
]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(VALID),
            st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=3),
            st.integers(0, 110),
        ),
        max_size=12,
    )
)
def test_damaged_packets(damaged: list[tuple[bytes, list[tuple[int, int]], int]]) -> None:
    """Nearly right is worse than random. The IPv4 header checksum is made good, to get further in."""
    stack = new_stack()
    for frame, changes, cut in damaged:
        packet = bytearray(frame)
        for position, value in changes:
            packet[position % len(packet)] = value
        if cut < 100:
            del packet[max(11, len(packet) - cut) :]
        if packet[10] == 0x45 and len(packet) >= 30:
            packet[20:22] = b"\0\0"
            packet[20:22] = checksum(packet[10:30]).to_bytes(2, "big")
        stack.receive([bytes(packet)], 0)
        for event in all_events(stack):
            if isinstance(event, Incoming):
                event.connection.accept()
            elif isinstance(event, Datagram):
                stack.port_unreachable(event)
                stack.too_big(event, 1300)
            elif isinstance(event, EchoRequest):
                stack.answer_echo(event)
        sent(stack)


# Two stacks, no network


@V4_AND_V6
def test_the_frames_of_one_stack_satisfy_a_strict_kernel(program: bytes, host: bytes) -> None:
    lab = Lab(Endpoint(program, 40000), Endpoint(host, 80)).established()
    lab.connection.write(bytes(1 << 20))
    total = 0
    while segments := lab.frames():
        for frame in segments:
            seen = dissect(flatten(frame))
            total += len(seen.payload)
            assert seen.gso_size == (1460 if len(host) == 4 else 1440)
        lab.arrive(ACK, 1, 1 + total)
    assert total == 1 << 20
    assert Connected not in [type(event) for event in lab.events()]
    assert tcp.HEADER_LENGTH == 20
