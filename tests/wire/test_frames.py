import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.errors import Malformed
from tunfwd.wire import frames
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.frames import (
    HEADER,
    Ack,
    Close,
    Datagram,
    Fragment,
    Frame,
    MaxData,
    MaxStreamData,
    Ping,
    ResetStream,
    StopSending,
    Stream,
    decode_frames,
    encode_ack,
    encode_frame,
    expand_number,
    link_tag,
)
from tunfwd.wire.packets import Accept, encode

LINK_MD = (Path(frames.__file__).parent / "LINK.md").read_text()

VALUES: dict[str, Frame] = {
    "Ping": Ping(),
    "Ack 100–150 after 500 µs": Ack(150, 0.0005, ((50, 0),)),
    "Ack 10–14, 20–25, 30–40 after 1.5 ms": Ack(40, 0.0015, ((10, 0), (20, 15), (30, 26))),
    'Stream 5, offset 1000, "hi"': Stream(5, 1000, b"hi", False),
    "Stream 0, offset 0, the control message Accept 0x11223344 to a friend": Stream(
        0, 0, b"\x06\0" + encode(FRIEND, Accept(0x11223344)), False
    ),
    "Stream 5, offset 1002, empty, FIN": Stream(5, 1002, b"", True),
    "ResetStream 5, reason 3, final size 1002": ResetStream(5, 3, 1002),
    "StopSending 5, reason 3": StopSending(5, 3),
    "MaxStreamData 5, limit 131072": MaxStreamData(5, 131072),
    "MaxData, limit 2^26": MaxData(1 << 26),
    'Datagram 7, "hello"': Datagram(7, b"hello"),
    'Fragment 7, number 1, size 2000, offset 1300, "abc"': Fragment(7, 1, 2000, 1300, b"abc"),
    "Close, reason 1": Close(1),
}
VECTORS = {
    name: bytes.fromhex(text)
    for name, text in re.findall(
        r"^\| ([A-Z][^|]*?) \| `([0-9a-f ]+)` \|$", LINK_MD.split("## Vectors")[1], re.M
    )
}
ACKS = {
    "Ack 100–150 after 500 µs": ([100], [151], 0.0005),
    "Ack 10–14, 20–25, 30–40 after 1.5 ms": ([10, 20, 30], [15, 26, 41], 0.0015),
}


def ack_of(data: bytes) -> Ack:
    (frame,) = decode_frames(data, 0)
    assert isinstance(frame, Ack)
    return frame


def test_document_and_tests_have_the_same_vectors() -> None:
    assert VECTORS.keys() == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_vector(name: str) -> None:
    value, data = VALUES[name], VECTORS[name]
    assert decode_frames(b"head" + data, 4) == [value]
    assert (encode_ack(*ACKS[name], 1000) if name in ACKS else encode_frame(value)) == data
    assert decode_frames(data + VECTORS["Ping"], 0) == [value, Ping()]


@pytest.mark.parametrize("name", VALUES)
def test_every_cut_is_malformed(name: str) -> None:
    for length in range(len(VECTORS[name])):
        with pytest.raises(Malformed):
            decode_frames(VECTORS[name][:length], 0)


def test_packet_vectors() -> None:
    header = HEADER.pack(link_tag(0x0123456789ABCDEF, 0xFEDCBA9876543210), 0x100000002 & 0xFFFFFFFF)
    for prefix, text in (
        (b"\xc9", "c9 02 1f97f474 02000000 01"),
        (b"\xa7\xc9", "a7c9 02 1f97f474 02000000 01"),
    ):
        assert f"`{text}`" in LINK_MD
        assert prefix + b"\x02" + header + encode_frame(Ping()) == bytes.fromhex(text)


def test_number_vectors() -> None:
    found = re.findall(r"(\w+) → ([0-9a-f]{8}) → (\w+)", LINK_MD.replace("\n", " "))
    assert len(found) == 4
    for expected, low, number in found:
        assert expand_number(int(low, 16), int(expected, 0)) == int(number, 0)


@given(st.integers(0, 1 << 63), st.integers(-(1 << 31), (1 << 31) - 1))
def test_numbers_within_half_of_the_space_are_restored(expected: int, distance: int) -> None:
    assert expand_number((expected + distance) & 0xFFFFFFFF, expected) == expected + distance


@pytest.mark.parametrize(
    "data",
    [
        "",
        "00",
        "0c",
        "ff",
        "0105",  # a Ping, then half of a ResetStream
        "03 05000000 fdffffffffffff3f 0300 616263",  # beyond the last offset
        "05 05000000 0300 0000000000000040",  # final size beyond it
        "02 96000000 f4010000 40 32000000" + "00" * 256,  # 64 further ranges
        "02 96000000 f4010000 00 00000080",  # a range of half of all numbers
        "0a 07000000 01000000 d007 1405 0000",  # an empty fragment
        "0a 07000000 01000000 d007 ce07 0300 616263",  # beyond its datagram
    ],
)
def test_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        decode_frames(bytes.fromhex(data), 0)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    try:
        decoded = decode_frames(data, 0)
    except Malformed:
        return
    for frame in decoded:
        if not isinstance(frame, Ack):
            assert decode_frames(encode_frame(frame), 0) == [frame]


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(0, 1 << 34), st.integers(14, 400))
def test_acks_name_what_they_are_given(numbers: set[int], base: int, room: int) -> None:
    starts = [base + n for n in sorted(numbers) if n - 1 not in numbers]
    stops = [base + n + 1 for n in sorted(numbers) if n + 1 not in numbers]
    data = encode_ack(starts, stops, 0.0, room)
    assert len(data) <= room
    ack = ack_of(data)
    largest = expand_number(ack.largest, stops[-1])
    named = {n for low, high in ack.ranges for n in range(largest - low, largest - high + 1)}
    assert named <= {base + n for n in numbers}
    kept = min(len(starts), frames.MAX_RANGES, 1 + (room - 14) // 4)
    assert named == {base + n for n in numbers if base + n >= starts[-kept]}


def test_ranges_too_long_for_the_frame_are_cut() -> None:
    data = encode_ack([0, 200_000], [100_000, 200_001], 0.0, 1000)
    assert ack_of(data).ranges == ((0, 0),)  # the gap does not fit
    data = encode_ack([0, 100_001], [100_000, 100_002], 0.0, 1000)
    assert ack_of(data).ranges == ((0, 0), (65537, 2))  # the lower range is cut
    data = encode_ack([0], [1 << 40], 0.0, 1000)
    assert ack_of(data).ranges == (((1 << 31) - 1, 0),)


def test_acks_are_made_elsewhere() -> None:
    with pytest.raises(TypeError):
        encode_frame(Ack(1, 0.0, ((0, 0),)))


@pytest.mark.parametrize(("one", "other"), [(1, 2), (0, 1 << 63), (0x0123456789ABCDEF, 0xFEDCBA9876543210)])
def test_tags_tell_direction(one: int, other: int) -> None:
    assert link_tag(one, other) != link_tag(other, one)
