"""Packets: whatever is encoded is decoded, and whatever else comes is malformed and nothing worse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import Malformed
from tunfwd.common.values import Reason
from tunfwd.wire import packets
from tunfwd.wire.carriers import FRIEND, GROUP, MAX_PACKET, Carrier
from tunfwd.wire.packets import (
    MAX_MSG_ID,
    MAX_NAME,
    MAX_PORT,
    Accept,
    AckAcc,
    Credit,
    Data,
    Direction,
    Feature,
    Fin,
    Hello,
    Kill,
    Offer,
    Ping,
    Pong,
    Protocol,
    Reset,
)

KINDS = {"prefix", "length", "type", "protocol", "direction", "name", "version", "answer"}

ids = st.integers(0, MAX_MSG_ID)
u64 = st.integers(0, (1 << 64) - 1)
names = st.text(st.characters(codec="utf-8"), max_size=MAX_NAME).filter(packets.is_name)
carriers = st.sampled_from([FRIEND, GROUP])
lossless = st.one_of(
    st.builds(
        Offer,
        ids,
        st.sampled_from(Protocol),
        st.sampled_from(Direction),
        st.integers(0, MAX_PORT),
        names,
    ),
    st.builds(Accept, ids),
    st.builds(AckAcc, ids),
    st.builds(Kill, ids),
    st.builds(Data, ids, st.binary(max_size=64)),
    st.builds(Hello, st.integers(0, (1 << 32) - 1).map(Feature), u64),
    st.builds(Fin, ids),
    st.builds(Reset, ids, st.sampled_from(Reason)),
    st.builds(Credit, ids, u64),
)
extensions = st.one_of(st.builds(Ping, u64), st.builds(Pong, u64))


@given(carriers, lossless)
def test_round_trip(carrier: Carrier, packet: packets.Lossless) -> None:
    assert packets.decode(carrier, packets.encode(carrier, packet)) == packet


@given(carriers, extensions)
def test_extension_round_trip(carrier: Carrier, packet: packets.Extension) -> None:
    assert packets.decode_extension(carrier, packets.encode_extension(carrier, packet)) == packet


@given(carriers, ids, st.binary(max_size=1400))
def test_datagram_round_trip(carrier: Carrier, msg_id: int, payload: bytes) -> None:
    packet = packets.datagram_header(carrier, msg_id) + payload
    assert packets.decode_datagram(carrier, packet) == Data(msg_id, payload)


@given(carriers, lossless)
def test_every_truncation_is_malformed(carrier: Carrier, packet: packets.Lossless) -> None:
    whole = packets.encode(carrier, packet)
    for size in range(len(whole)):
        try:
            value = packets.decode(carrier, whole[:size])
        except Malformed as error:
            assert error.kind in KINDS  # noqa: PT017
        else:  # only Data may be shorter: it is then another Data
            assert isinstance(packet, Data)
            assert value == Data(packet.msg_id, packet.payload[: len(value.payload)])  # type: ignore[union-attr]


@given(carriers, lossless, st.binary(min_size=1, max_size=3))
def test_every_extension_is_malformed(carrier: Carrier, packet: packets.Lossless, tail: bytes) -> None:
    whole = packets.encode(carrier, packet) + tail
    if isinstance(packet, Data):
        assert packets.decode(carrier, whole) == Data(packet.msg_id, packet.payload + tail)
    else:
        with pytest.raises(Malformed) as caught:
            packets.decode(carrier, whole)
        assert caught.value.kind == "length"


@given(carriers, extensions, st.binary(min_size=1, max_size=3))
def test_extensions_are_exactly_so_long(carrier: Carrier, packet: packets.Extension, tail: bytes) -> None:
    whole = packets.encode_extension(carrier, packet)
    for other in (*(whole[:size] for size in range(len(whole))), whole + tail):
        with pytest.raises(Malformed):
            packets.decode_extension(carrier, other)


@settings(max_examples=300)
@given(carriers, st.binary(max_size=40), st.booleans())
def test_garbage_is_malformed_or_says_itself(carrier: Carrier, garbage: bytes, prefixed: bool) -> None:
    """What decodes encodes to the same bytes, so nothing is read that was not written."""
    packet = (carrier.lossless if prefixed else b"") + garbage
    try:
        value = packets.decode(carrier, packet)
    except Malformed as error:
        assert error.kind in KINDS  # noqa: PT017
        return
    if isinstance(value, Reset) and packet[-1] not in list(Reason):
        assert value.reason is Reason.ABORTED
    else:
        assert packets.encode(carrier, value) == packet


@given(carriers, st.sampled_from(packets.Type), st.binary(max_size=24))
def test_garbage_of_each_type(carrier: Carrier, kind: packets.Type, body: bytes) -> None:
    packet = carrier.lossless + bytes((kind,)) + body
    try:
        value = packets.decode(carrier, packet)
    except Malformed as error:
        assert error.kind in KINDS - {"prefix", "type"}  # noqa: PT017
        return
    if not isinstance(value, Reset):
        assert packets.encode(carrier, value) == packet


@given(carriers, st.binary(max_size=24))
def test_lossy_garbage(carrier: Carrier, garbage: bytes) -> None:
    for reader in (packets.decode_datagram, packets.decode_extension):
        for prefix in (b"", carrier.lossy, carrier.extension):
            try:
                reader(carrier, prefix + garbage)
            except Malformed as error:
                assert error.kind in KINDS  # noqa: PT017


def test_every_type_byte() -> None:
    known = {int(kind) for kind in packets.Type}
    for kind in range(256):
        with pytest.raises(Malformed) as caught:
            packets.decode(FRIEND, bytes((0xA7, kind)))
        assert caught.value.kind == ("length" if kind in known else "type")


@pytest.mark.parametrize("code", range(256))
def test_unknown_reasons_read_as_aborted(code: int) -> None:
    reset = packets.decode(FRIEND, bytes.fromhex("a71144332211") + bytes((code,)))
    assert reset == Reset(0x11223344, Reason(code) if code <= 5 else Reason.ABORTED)


def test_features_of_tomorrow_are_kept_and_harmless() -> None:
    hello = packets.decode(FRIEND, bytes.fromhex("a70f01ffffffff0000000000000000"))
    assert isinstance(hello, Hello)
    assert hello.features & (Feature.MANY | Feature.PING) == Feature.MANY | Feature.PING


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("", True),
        ("a" * 255, True),
        ("a" * 256, False),
        ("ж" * 127, True),
        ("ж" * 128, False),
        ("\udc80", False),
    ],
)
def test_which_names_an_offer_can_carry(name: str, fits: int) -> None:
    assert packets.is_name(name) == bool(fits)
    offer = Offer(1, Protocol.TCP, Direction.SERVER, 80, name)
    if fits:
        assert packets.decode(FRIEND, packets.encode(FRIEND, offer)) == offer
    else:
        with pytest.raises(ValueError, match=r"at most 255|surrogates"):
            packets.encode(FRIEND, offer)


@pytest.mark.parametrize("carrier", [FRIEND, GROUP])
def test_sizes(carrier: Carrier) -> None:
    data = packets.data_header(carrier, 1) + bytes(carrier.stream_payload)
    assert len(data) == carrier.lossless_limit
    assert len(packets.datagram_header(carrier, 1)) + carrier.datagram_payload == MAX_PACKET
    longest = Offer(1, Protocol.TCP, Direction.SERVER, 80, "a" * MAX_NAME)
    assert len(packets.encode(carrier, longest)) <= carrier.lossless_limit
