"""Internet headers: known packets, round trips, and every kind of damage."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.errors import Malformed
from tunfwd.wire import icmp, ip, tcp, udp, vnet
from tunfwd.wire.checksum import checksum, ones_complement_sum, pseudo_header_sum

V4 = st.binary(min_size=4, max_size=4)
V6 = st.binary(min_size=16, max_size=16)
PAIR = st.one_of(st.tuples(V4, V4), st.tuples(V6, V6))
PORT = st.integers(0, 65535)
U32 = st.integers(0, 2**32 - 1)

A4, B4 = bytes((10, 77, 0, 1)), bytes((10, 77, 3, 9))
A6, B6 = bytes.fromhex("fd77" + "00" * 13 + "01"), bytes.fromhex("fd77" + "00" * 13 + "09")

# Captured from Linux 6.18 on a TUN device without offload.
LINUX_SYN = bytes.fromhex(
    "4500003cad1a4000400675fe0a4d00010a4d0309ebdc005015fc188800000000"
    "a002faf0bc9a0000020405b40402080ac96394b9000000000103030a"
)
LINUX_DATAGRAM = bytes.fromhex(
    "6006fda9000d1140fd770000000000000000000000000001fd77000000000000"
    "0000000000000009b41c0035000d0cb768656c6c6f"
)


def sum_by_the_book(data: bytes) -> int:
    """RFC 1071 4.1, word by word."""
    total = 0
    for offset in range(0, len(data), 2):
        total += int.from_bytes(data[offset : offset + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=600), st.integers(0, 0xFFFF))
def test_sum_is_that_of_rfc_1071(data: bytes, initial: int) -> None:
    assert ones_complement_sum(data, initial) == sum_by_the_book(
        data + b"\0" * (len(data) & 1) + struct.pack(">H", initial)
    )


def test_sum_example_of_rfc_1071() -> None:
    assert ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@given(st.binary(min_size=2, max_size=600).filter(any))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    data += b"\0" * (len(data) & 1)
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@given(PAIR, st.integers(0, 255), st.integers(0, 65535))
def test_pseudo_header(addresses: tuple[bytes, bytes], protocol: int, length: int) -> None:
    source, destination = addresses
    if len(source) == 4:
        pseudo = source + destination + struct.pack(">BBH", 0, protocol, length)
    else:
        pseudo = source + destination + struct.pack(">IHBB", length, 0, 0, protocol)
    assert pseudo_header_sum(source, destination, protocol, length) == sum_by_the_book(pseudo)


@given(
    PAIR,
    st.sampled_from([ip.TCP, ip.UDP, ip.ICMP, ip.ICMPV6, 132]),
    st.binary(max_size=100),
    st.binary(max_size=9),
)
def test_ip_round_trip(addresses: tuple[bytes, bytes], protocol: int, payload: bytes, padding: bytes) -> None:
    source, destination = addresses
    header = ip.build_header(source, destination, protocol, len(payload), dont_fragment=True)
    packet = ip.parse(b"#" * 10 + header + payload + padding, 10)
    assert (packet.source, packet.destination, packet.protocol) == (source, destination, protocol)
    assert (packet.start, packet.payload, packet.end) == (10, 10 + len(header), 10 + len(header + payload))
    assert packet.dont_fragment
    assert packet.fragment is None


@given(PAIR, U32, st.integers(0, 8000), st.booleans())
def test_fragment_round_trip(
    addresses: tuple[bytes, bytes], identification: int, offset: int, more: bool
) -> None:
    source, destination = addresses
    if len(source) == 4:
        identification &= 0xFFFF
    fragment = ip.Fragment(identification, offset * 8, more)
    header = ip.build_header(source, destination, ip.UDP, 16, fragment=fragment)
    packet = ip.parse(header + bytes(16))
    assert packet.fragment == (None if not offset and not more else fragment)
    assert packet.protocol == ip.UDP
    assert packet.end - packet.payload == 16


@given(st.binary(max_size=120), st.integers(0, 12))
def test_any_bytes_are_a_packet_or_malformed(data: bytes, start: int) -> None:
    try:
        packet = ip.parse(data, start)
    except Malformed:
        return
    assert start <= packet.payload <= packet.end <= len(data)
    for parse in (tcp.parse, udp.parse):
        try:
            parse(data, packet.payload, packet.end)
        except Malformed:
            continue
    try:
        icmp.parse(data, packet)
    except Malformed:
        return


@given(st.sampled_from([4, 6]), st.binary(min_size=60, max_size=120), st.data())
def test_bytes_that_begin_like_a_packet(version: int, rest: bytes, data: st.DataObject) -> None:
    body = bytearray(bytes((version << 4 | 5,)) + rest)
    if version == 4:
        body[2:4] = data.draw(st.integers(0, len(body) + 2)).to_bytes(2, "big")
        body[10:12] = b"\0\0"
        body[10:12] = checksum(body[:20]).to_bytes(2, "big")
    else:
        body[4:6] = data.draw(st.integers(0, len(body) - 38)).to_bytes(2, "big")
        body[6] = data.draw(st.sampled_from([0, 6, 17, 43, 44, 58, 60]))
    try:
        packet = ip.parse(bytes(body))
    except Malformed:
        return
    assert packet.payload <= packet.end <= len(body)


def fields(segment: tcp.Segment) -> tuple[int, ...]:
    """All but the options and the payload."""
    ports = segment.source_port, segment.destination_port
    return *ports, segment.sequence, segment.acknowledgment, segment.flags, segment.window


def test_a_syn_of_linux() -> None:
    packet = ip.parse(LINUX_SYN)
    assert packet == ip.Packet(4, A4, B4, ip.TCP, 0, 20, 60, True, None)
    segment = tcp.parse(LINUX_SYN, packet.payload, packet.end)
    assert fields(segment) == (60380, 80, 0x15FC1888, 0, tcp.SYN, 64240)
    assert tcp.parse_options(segment.options) == tcp.Options(1460, 10, True)
    assert checksum(LINUX_SYN[20:], pseudo_header_sum(A4, B4, ip.TCP, 40)) == 0


def test_a_datagram_of_linux() -> None:
    packet = ip.parse(LINUX_DATAGRAM)
    assert packet == ip.Packet(6, A6, B6, ip.UDP, 0, 40, 53, True, None)
    datagram = udp.parse(LINUX_DATAGRAM, packet.payload, packet.end)
    assert datagram == udp.Datagram(46108, 53, 0x0CB7, memoryview(b"hello"))
    assert checksum(LINUX_DATAGRAM[40:], pseudo_header_sum(A6, B6, ip.UDP, 13)) == 0
    built = ip.build_header(A6, B6, ip.UDP, 13) + udp.build_header(46108, 53, 5, 0x0CB7) + b"hello"
    assert built[4:] == LINUX_DATAGRAM[4:]  # less the flow label


@pytest.mark.parametrize("header", [ip.build_header(A4, B4, 6, 20), ip.build_header(A6, B6, 6, 20)])
def test_cut_short_anywhere(header: bytes) -> None:
    whole = header + bytes(20)
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            ip.parse(whole[:length])
    ip.parse(whole)


@pytest.mark.parametrize("bit", range(160))
def test_a_flipped_bit_in_an_ipv4_header(bit: int) -> None:
    damaged = bytearray(ip.build_header(A4, B4, 6, 20) + bytes(20))
    damaged[bit // 8] ^= 128 >> bit % 8
    if damaged[0] >> 4 == 6:
        return  # says to be something else, and 40 bytes are too few for that
    with pytest.raises(Malformed):
        ip.parse(bytes(damaged))


def v6(protocol: int, payload: bytes) -> bytes:
    return ip.build_header(A6, B6, protocol, len(payload)) + payload


OPTIONS = bytes((6, 0, 1, 4, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("packet", "protocol"),
    [
        (v6(0, OPTIONS + bytes(20)), 6),
        (v6(60, OPTIONS + bytes(20)), 6),
        (v6(0, bytes((60, 0)) + OPTIONS[2:] + OPTIONS + bytes(20)), 6),
        (v6(43, bytes((6, 0, 0, 0, 0, 0, 0, 0)) + bytes(20)), 6),
        (v6(44, bytes((17, 0, 0, 0, 0, 0, 0, 7)) + bytes(20)), 17),  # atomic
        (v6(59, b""), 59),
    ],
)
def test_ipv6_extension_headers(packet: bytes, protocol: int) -> None:
    parsed = ip.parse(packet)
    assert parsed.protocol == protocol
    assert parsed.fragment is None
    assert parsed.end - parsed.payload == (0 if protocol == 59 else 20)


@pytest.mark.parametrize(
    "packet",
    [
        v6(0, OPTIONS[:7]),
        v6(0, bytes((6, 9)) + bytes(30)),
        v6(0, bytes((0, 0, 1, 4, 0, 0, 0, 0)) * 9),
        v6(43, bytes((6, 0, 0, 1, 0, 0, 0, 0)) + bytes(20)),
        v6(44, bytes((44, 0, 0, 1, 0, 0, 0, 7)) * 2 + bytes(8)),
        v6(44, bytes((17, 0, 0, 1, 0, 0, 0, 7)) + bytes(9)),  # more to come, yet no multiple of 8
        v6(44, bytes((17, 0, 0xFF, 0xF8, 0, 0, 0, 7)) + bytes(9)),  # ends beyond 65535
        b"\x50" + bytes(60),
    ],
)
def test_malformed_ipv6(packet: bytes) -> None:
    with pytest.raises(Malformed):
        ip.parse(packet)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0a4d0309", True), ("00000000", False), ("7f000001", False), ("e00000fb", False),
        ("ffffffff", False),
        ("fd77" + "00" * 14, True),
        ("ff02" + "00" * 13 + "16", False), ("00" * 16, False),
        ("00" * 15 + "01", False),
    ],
)  # fmt: skip
def test_unicast(address: str, expected: bool) -> None:
    assert ip.is_unicast(bytes.fromhex(address)) is expected


@given(
    PORT,
    PORT,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 255),
    PORT,
    st.binary(max_size=50),
)
def test_segment_round_trip(
    source: int, destination: int, sequence: int, acknowledgment: int, flags: int, window: int, payload: bytes
) -> None:
    options = tcp.build_sack([(sequence, acknowledgment)])
    data = tcp.build_header(
        source, destination, sequence=sequence, acknowledgment=acknowledgment,
        flags=flags, window=window, checksum=0x1234, options=options,
    ) + payload  # fmt: skip
    segment = tcp.parse(data, 0, len(data))
    assert fields(segment) == (source, destination, sequence % 2**32, acknowledgment % 2**32, flags, window)
    assert segment.options == options
    assert segment.payload == payload
    assert data[16:18] == b"\x12\x34"


@pytest.mark.parametrize("offset", [*range(5), 6, 15])
def test_tcp_data_offset(offset: int) -> None:
    data = bytearray(tcp.build_header(1, 2, sequence=0, acknowledgment=0, flags=0, window=0, checksum=0))
    data[12] = offset << 4
    with pytest.raises(Malformed):
        tcp.parse(bytes(data), 0, len(data))


@given(st.builds(tcp.Options, st.none() | PORT, st.none() | st.integers(0, 14), st.booleans()))
def test_options_round_trip(options: tcp.Options) -> None:
    built = tcp.build_syn_options(options)
    assert len(built) % 4 == 0
    assert tcp.parse_options(built) == options


@given(st.binary(max_size=40))
def test_any_options_can_be_read(data: bytes) -> None:
    options = tcp.parse_options(data)
    assert options.window_scale is None or 0 <= options.window_scale <= 14


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("02", tcp.Options()), ("0200", tcp.Options()), ("0204", tcp.Options()), ("020405", tcp.Options()),
        ("0201", tcp.Options()), ("0101020405b4", tcp.Options(1460)), ("00020405b4", tcp.Options()),
        ("0303ff", tcp.Options(None, 14)), ("0402", tcp.Options(None, None, True)),
        ("0403000204ffff", tcp.Options(65535)),
    ],
)  # fmt: skip
def test_odd_options(data: str, options: tcp.Options) -> None:
    assert tcp.parse_options(bytes.fromhex(data)) == options


def test_sack_option() -> None:
    blocks = [(n * 100, n * 100 + 50) for n in range(6)]
    built = tcp.build_sack(blocks)
    assert len(built) == 36
    assert built[:4] == bytes((1, 1, 5, 34))
    assert struct.unpack(">8I", built[4:]) == (0, 50, 100, 150, 200, 250, 300, 350)


@given(PORT, PORT, st.binary(max_size=80), st.binary(max_size=4))
def test_udp_round_trip(source: int, destination: int, payload: bytes, padding: bytes) -> None:
    data = udp.build_header(source, destination, len(payload), 7) + payload + padding
    expected = udp.Datagram(source, destination, 7, memoryview(payload))
    assert udp.parse(data, 0, len(data)) == expected


@pytest.mark.parametrize("length", [0, 7, 13])
def test_udp_length(length: int) -> None:
    with pytest.raises(Malformed):
        udp.parse(struct.pack(">HHHH", 1, 2, length, 0) + b"1234", 0, 12)


@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)])
@pytest.mark.parametrize("error", icmp.Error)
def test_errors_say_what_they_were_made_of(a: bytes, b: bytes, error: icmp.Error) -> None:
    tcp_header = tcp.build_header(7, 80, sequence=99, acknowledgment=0, flags=2, window=0, checksum=0)
    lost = ip.build_header(a, b, ip.TCP, 2000) + tcp_header + bytes(1980)
    header, message = icmp.build_error(b, a, error, lost, 1400)
    assert len(header + message) == (576 if len(a) == 4 else 1280)
    packet = ip.parse(header + message)
    initial = 0 if len(a) == 4 else pseudo_header_sum(b, a, ip.ICMPV6, len(message))
    assert checksum(message, initial) == 0
    report = icmp.parse(header + message, packet)
    assert isinstance(report, icmp.Report)
    assert report.error is error
    assert report.mtu == (1400 if error is icmp.Error.TOO_BIG else 0)
    assert icmp.parse_quote(report.quote) == (a, b, ip.TCP, 7, 80, 99)
    for length in range(28 if len(a) == 4 else 48):
        with pytest.raises(Malformed):
            icmp.parse_quote(report.quote[:length])


@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)])
def test_echo(a: bytes, b: bytes) -> None:
    kind, protocol = (8, ip.ICMP) if len(a) == 4 else (128, ip.ICMPV6)
    request = ip.build_header(a, b, protocol, 12) + bytes((kind, 0, 0, 0)) + b"\1\2\3\4ping"
    echo = icmp.parse(request, ip.parse(request))
    assert echo == icmp.Echo(0x01020304, memoryview(b"ping"))
    assert isinstance(echo, icmp.Echo)
    reply = icmp.build_echo_reply(b, a, echo)
    assert reply[0] == (0 if len(a) == 4 else 129)
    assert reply[4:] == request[-8:]
    assert checksum(reply, 0 if len(a) == 4 else pseudo_header_sum(b, a, protocol, 12)) == 0


def test_other_unreachables_are_the_host_and_the_rest_is_nothing() -> None:
    for kind, code, expected in (
        (3, 0, icmp.Report),
        (3, 13, icmp.Report),
        (0, 0, type(None)),
        (11, 0, type(None)),
    ):
        data = ip.build_header(A4, B4, ip.ICMP, 8) + bytes((kind, code)) + bytes(6)
        assert isinstance(icmp.parse(data, ip.parse(data)), expected)


def test_virtio_header_is_little_endian() -> None:
    header = vnet.build(vnet.GSO_TCPV4, 0x0102, 0x0304, 0x0506, 0x0708)
    assert header == bytes((1, 1, 2, 1, 4, 3, 6, 5, 8, 7))
    assert vnet.parse(header + b"rest") == vnet.Header(1, 1, 0x0102, 0x0304, 0x0506, 0x0708)
    assert len(vnet.PLAIN) == vnet.LENGTH
