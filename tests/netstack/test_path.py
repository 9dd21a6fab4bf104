"""The headers of segments that are not special, against the general way to build them."""

from hypothesis import given
from hypothesis import strategies as st

from tunfwd.netstack.path import Path
from tunfwd.wire import ip, tcp, udp, vnet
from tunfwd.wire.checksum import pseudo_header_sum

ports = st.integers(0, 0xFFFF)
numbers = st.integers(0, 1 << 40)
hosts = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


@given(hosts, ports, ports, numbers, numbers, st.integers(0, 63), ports, st.integers(0, 1400))
def test_plain_headers(
    addresses: tuple[bytes, bytes],
    source: int,
    destination: int,
    sequence: int,
    acknowledgment: int,
    flags: int,
    window: int,
    size: int,
) -> None:
    path = Path(*addresses, 1500)
    header, *payload = path.segment(
        source,
        destination,
        sequence=sequence,
        acknowledgment=acknowledgment,
        flags=flags,
        window=window,
        payload=bytes(size),
        mss=1440,
    )
    assert b"".join(payload) == bytes(size)
    network = path.network_length
    length = tcp.HEADER_LENGTH + size
    assert header == vnet.build(
        vnet.GSO_NONE, network + tcp.HEADER_LENGTH, 0, network, tcp.CHECKSUM_OFFSET
    ) + ip.build_header(*addresses, ip.TCP, length, dont_fragment=True) + tcp.build_header(
        source,
        destination,
        sequence=sequence,
        acknowledgment=acknowledgment,
        flags=flags,
        window=window,
        checksum=pseudo_header_sum(*addresses, ip.TCP, length),
    )


@given(hosts, ports, ports, st.integers(0, 1400), st.integers(0, 1 << 32))
def test_plain_datagrams(
    addresses: tuple[bytes, bytes], source: int, destination: int, size: int, identification: int
) -> None:
    path = Path(*addresses, 1500)
    ((header, payload),) = path.datagrams(source, destination, [bytes(size)], identification)
    assert payload == bytes(size)
    length = udp.HEADER_LENGTH + size
    network = path.network_length
    assert header == vnet.build(
        vnet.GSO_NONE, network + udp.HEADER_LENGTH, 0, network, udp.CHECKSUM_OFFSET
    ) + ip.build_header(*addresses, ip.UDP, length, identification=identification) + udp.build_header(
        source, destination, size, pseudo_header_sum(*addresses, ip.UDP, length)
    )
