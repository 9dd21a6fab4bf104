"""Every vector of SPEC.md, encoded and decoded: the page is the source, so it cannot drift away."""

import re
import shlex
from pathlib import Path

import pytest

import tunfwd.wire
from tunfwd.forwarding.states import MappingState
from tunfwd.wire import packets
from tunfwd.wire.carriers import FRIEND, GROUP, Carrier
from tunfwd.wire.packets import (
    Accept,
    AckAcc,
    Credit,
    Data,
    Direction,
    Feature,
    Fin,
    Hello,
    Kill,
    Malformed,
    Node,
    Offer,
    Ping,
    Pong,
    Protocol,
    Reason,
    Reset,
)

SPEC_FILE = Path(tunfwd.wire.__file__).with_name("SPEC.md")
SPEC = SPEC_FILE.read_text()
CARRIERS = {"friend": FRIEND, "group": GROUP}
Packet = packets.Lossless | packets.Extension


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    section = SPEC.split(f"### Vectors: {heading}\n")[1]
    rows = re.match(r"\n*((?:\|.*\n)+)", section)
    assert rows is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[1].splitlines()[2:]]


def value_of(text: str) -> Packet:
    """Read how SPEC.md writes a packet."""
    name, first, *rest = shlex.split(text)
    number = int(first, 0) if first[0].isdigit() and name != "Node" else 0
    match name:
        case "Offer":
            protocol, direction, port, label = rest
            return Offer(number, Protocol[protocol.upper()], Direction[direction.upper()], int(port), label)
        case "Data":
            return Data(number, rest[0].encode())
        case "Hello":
            return Hello(Feature(int(rest[0], 0)), int(rest[2], 0))
        case "Reset":
            return Reset(number, Reason[rest[0].upper()])
        case "Node":
            return Node(bytes.fromhex(first))
        case "Credit":
            return Credit(number, int(rest[0]))
        case "Accept" | "AckAcc" | "Kill" | "Fin" | "Ping" | "Pong":
            kinds: dict[str, type[Packet]] = {
                "Accept": Accept,
                "AckAcc": AckAcc,
                "Kill": Kill,
                "Fin": Fin,
                "Ping": Ping,
                "Pong": Pong,
            }
            return kinds[name](number)  # type: ignore[call-arg]
    raise AssertionError(text)


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
    types = {Offer, Accept, AckAcc, Kill, Data, Hello, Fin, Reset, Credit, Ping, Pong}
    assert have == {(kind, carrier) for kind in types for carrier in CARRIERS} | {(Node, "friend")}


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
