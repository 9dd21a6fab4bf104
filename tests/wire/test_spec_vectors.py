"""Every vector of SPEC.md, encoded and decoded: the page is the source, so it cannot drift away."""

import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import tunfwd.wire
from tunfwd.common.errors import Malformed
from tunfwd.common.values import Reason
from tunfwd.forwarding.states import MappingState
from tunfwd.wire import packets
from tunfwd.wire.carriers import FRIEND, GROUP, Carrier
from tunfwd.wire.packets import (
    Claim,
    Claimed,
    Data,
    Direction,
    Feature,
    Node,
    Ping,
    Pong,
    Protocol,
)

SPEC_FILE = Path(tunfwd.wire.__file__).with_name("SPEC.md")
SPEC = SPEC_FILE.read_text()
CARRIERS = {"friend": FRIEND, "group": GROUP}
Packet = packets.Lossless | packets.Extension
FRIENDS_ALONE = (Node, Claim, Claimed)


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    section = SPEC.split(f"### Vectors: {heading}\n")[1]
    rows = re.match(r"\n*((?:\|.*\n)+)", section)
    assert rows is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[1].splitlines()[2:]]


KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Packet)}
READERS: dict[object, Callable[[str], object]] = {
    int: lambda text: int(text, 0),
    str: str,
    Protocol: lambda text: Protocol[text.upper()],
    Direction: lambda text: Direction[text.upper()],
    Reason: lambda text: Reason[text.upper()],
    Feature: lambda text: Feature(int(text, 0)),
    bool: lambda text: {"1": True, "0": False}[text],
}


def value_of(text: str) -> Packet:
    """Read how SPEC.md writes a packet: its name, then its fields in order, with or without their names.

    Bytes are text where they are a payload, and hex where they are a key.
    """
    name, *words = shlex.split(text)
    kind = KINDS[name]
    types = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    values = [word for word in words if word not in names]
    assert len(values) <= len(names), text
    read = {bytes: bytes.fromhex if kind in FRIENDS_ALONE else str.encode, **READERS}
    packet: Packet = kind(*(read[types[name]](value) for name, value in zip(names, values, strict=False)))
    return packet


def decode(carrier: Carrier, channel: str, packet: bytes) -> Packet:
    reader = {
        "lossless": packets.decode,
        "lossy": packets.decode_datagram,
        "extension": packets.decode_extension,
    }[channel]
    return reader(carrier, packet)


def encode(carrier: Carrier, channel: str, packet: Packet) -> bytes:
    match channel, packet:
        case "extension", Ping() | Pong():
            return packets.encode_extension(carrier, packet)
        case "lossy", Data():
            return packets.datagram_header(carrier, packet.msg_id) + packet.payload
        case "lossless", _ if not isinstance(packet, Ping | Pong):
            return packets.encode(carrier, packet)
    raise AssertionError((channel, packet))


VECTORS = table("v0.1") + table("extensions")
INVALID = table("not packets")


def hex_of(cell: str) -> bytes:
    return bytes.fromhex(cell.strip("` "))


@pytest.mark.parametrize(("text", "where", "cell"), VECTORS, ids=[f"{t} {w}" for t, w, _ in VECTORS])
def test_vector(text: str, where: str, cell: str) -> None:
    kind, channel = where.split()
    carrier, value, packet = CARRIERS[kind], value_of(text), hex_of(cell)
    assert encode(carrier, channel, value) == packet
    assert decode(carrier, channel, packet) == value
    if isinstance(value, Data) and channel == "lossless":
        assert packets.data_header(carrier, value.msg_id) + value.payload == packet


@pytest.mark.parametrize(
    ("kind", "where", "cell", "why"), INVALID, ids=[row[3] + " " + row[2] for row in INVALID]
)
def test_invalid_vector(kind: str, where: str, cell: str, why: str) -> None:
    carrier, channel = where.split()
    with pytest.raises(Malformed) as caught:
        decode(CARRIERS[carrier], channel, hex_of(cell))
    assert caught.value.kind == kind


def test_every_packet_has_a_vector_on_each_carrier() -> None:
    have = {(type(value_of(text)), where.split()[0]) for text, where, _ in VECTORS}
    friends_alone = {(kind, "group") for kind in FRIENDS_ALONE}
    assert have == {(kind, carrier) for kind in KINDS.values() for carrier in CARRIERS} - friends_alone


def test_every_kind_of_malformed_has_a_vector() -> None:
    source = SPEC_FILE.with_name("packets.py").read_text()
    assert {row[0] for row in INVALID} == set(re.findall(r'Malformed\("(\w+)"\)', source))


def test_tables_say_what_the_program_says() -> None:
    for reason in Reason:
        assert f"| {reason.value} | {reason.name} |" in SPEC
    for feature in Feature:
        assert f"| {feature.value.bit_length() - 1} | 0x{feature.value:02x} | {feature.name} |" in SPEC
    for kind in packets.Type:
        assert f"| `{kind:02X}` |" in SPEC
    states = SPEC.split("### States of a mapping")[1].split("###")[0]
    for state in MappingState:
        assert state.value in states
    for carrier in CARRIERS.values():
        for prefix in (carrier.lossless, carrier.lossy, carrier.extension):
            assert f"`{prefix.hex(' ').upper()}`" in SPEC
        assert str(carrier.stream_payload) in SPEC
        assert str(carrier.datagram_payload) in SPEC


def test_link_says_the_carriers_prefixes() -> None:
    link = SPEC_FILE.with_name("LINK.md").read_text()
    row = next(line for line in link.splitlines() if "carrier prefix for lossy extensions" in line)
    assert re.findall(r"`([0-9A-F ]+)`", row) == [
        carrier.extension.hex(" ").upper() for carrier in CARRIERS.values()
    ]
