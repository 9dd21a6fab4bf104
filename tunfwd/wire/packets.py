"""The packets of "Port forwarding in tox" and its extensions, as values and as bytes (SPEC.md).

Bytes come from `tunfwd.tox` and go to `tunfwd.forwarding`, and back. Decoding is strict: whatever is not
exactly one packet of the table raises `Malformed`, the only error that hostile bytes can cause here.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, assert_never

from tunfwd.common.errors import Malformed
from tunfwd.common.values import Reason
from tunfwd.wire.carriers import Carrier

VERSION: Final = 1  # of Hello
MAX_NAME: Final = 255  # bytes of UTF-8
MAX_PORT: Final = 0xFFFF
MAX_MSG_ID: Final = 0xFFFF_FFFF
NODE_KEY: Final = 32  # bytes
TOKEN: Final = 16  # bytes of the token of a ticket; random, and long enough not to be guessed


class Protocol(IntEnum):
    """What a port speaks."""

    TCP = 0
    UDP = 1


class Direction(IntEnum):
    """What the offerer has: a server, or a client that wants to reach one."""

    SERVER = 0
    CONNECTION = 1


class Feature(IntFlag):
    """What a program can do beyond v0.1; a bit is in force when both sides said it."""

    MANY = 1 << 0
    LINK = 1 << 1
    FRAGMENT = 1 << 2
    FLOW = 1 << 3
    PING = 1 << 4
    NODE = 1 << 5
    TICKET = 1 << 6


class Type(IntEnum):
    """The type byte of a lossless packet."""

    OFFER = 0x00
    ACCEPT = 0x01
    ACK_ACC = 0x02
    KILL = 0x03
    DATA = 0x04
    HELLO = 0x0F
    FIN = 0x10
    RESET = 0x11
    CREDIT = 0x12
    NODE = 0x13
    CLAIM = 0x14
    CLAIMED = 0x15


class ExtensionType(IntEnum):
    """The type byte of a lossy extension packet."""

    PING = 0x00
    PONG = 0x01
    LINK = 0x02


@dataclass(frozen=True, slots=True)
class Offer:
    """A server, or a connection to one, proposed under a `msg_id` of the offerer's choice."""

    msg_id: int
    protocol: Protocol
    direction: Direction
    port: int
    name: str


@dataclass(frozen=True, slots=True)
class Accept:
    """The receiver of an Offer accepts it."""

    msg_id: int


@dataclass(frozen=True, slots=True)
class AckAcc:
    """The offerer confirms an Accept; Data may flow."""

    msg_id: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Deny, withdraw or end."""

    msg_id: int


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the byte stream (or, on the lossy carrier, a datagram)."""

    msg_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """What the sender can do, and which run of it this is."""

    features: Feature
    epoch: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Fin:
    """No more Data from the sender on this flow (feature FLOW)."""

    msg_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The flow is over at once, or never came to be (feature FLOW)."""

    msg_id: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Credit:
    """Credit: the sender of this accepts up to `limit` bytes of stream in all on this flow (feature FLOW)."""

    msg_id: int
    limit: int


@dataclass(frozen=True, slots=True)
class Node:
    """The sender's key as a node of Tox's DHT in this run of it: `NODE_KEY` bytes (feature NODE)."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The sender has a ticket of the receiver's, with this token: `TOKEN` bytes (feature TICKET)."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a Claim: whether the ticket lets its sender in."""

    token: bytes
    valid: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with a Pong that carries the same token (feature PING)."""

    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a Ping."""

    token: int


Lossless = Offer | Accept | AckAcc | Kill | Data | Hello | Fin | Reset | Credit | Node | Claim | Claimed
Extension = Ping | Pong

_OFFER: Final = struct.Struct("<IBBHB")
_ID: Final = struct.Struct("<I")
_HELLO: Final = struct.Struct("<BIQ")
_RESET: Final = struct.Struct("<IB")
_CREDIT: Final = struct.Struct("<IQ")
_TOKEN: Final = struct.Struct("<Q")


def is_name(name: str) -> bool:
    """Whether an Offer can carry this name: lone surrogates, as from a command line, are not UTF-8."""
    try:
        return len(name.encode()) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def encode(carrier: Carrier, packet: Lossless) -> bytes:
    """Return the whole packet, prefix included."""
    match packet:
        case Offer():
            name = packet.name.encode()
            if len(name) > MAX_NAME:
                raise ValueError(f"a name takes at most {MAX_NAME} bytes of UTF-8")
            kind = Type.OFFER
            body = (
                _OFFER.pack(packet.msg_id, packet.protocol, packet.direction, packet.port, len(name)) + name
            )
        case Accept():
            kind, body = Type.ACCEPT, _ID.pack(packet.msg_id)
        case AckAcc():
            kind, body = Type.ACK_ACC, _ID.pack(packet.msg_id)
        case Kill():
            kind, body = Type.KILL, _ID.pack(packet.msg_id)
        case Data():
            kind, body = Type.DATA, _ID.pack(packet.msg_id) + packet.payload
        case Hello():
            kind, body = Type.HELLO, _HELLO.pack(packet.version, packet.features, packet.epoch)
        case Fin():
            kind, body = Type.FIN, _ID.pack(packet.msg_id)
        case Reset():
            kind, body = Type.RESET, _RESET.pack(packet.msg_id, packet.reason)
        case Credit():
            kind, body = Type.CREDIT, _CREDIT.pack(packet.msg_id, packet.limit)
        case Node():
            kind, body = Type.NODE, packet.key
        case Claim():
            kind, body = Type.CLAIM, packet.token
        case Claimed():
            kind, body = Type.CLAIMED, packet.token + bytes((packet.valid,))
        case _:
            assert_never(packet)
    return carrier.lossless + bytes((kind,)) + body


def decode(carrier: Carrier, packet: bytes) -> Lossless:
    """Read one lossless packet, prefix included.

    Raises `Malformed` for anything that is not exactly one packet of this carrier.
    """
    prefix = len(carrier.lossless)
    if not packet.startswith(carrier.lossless):
        raise Malformed("prefix")
    if len(packet) <= prefix:
        raise Malformed("length")
    kind = packet[prefix]
    if kind == Type.DATA:  # first: nearly every packet is one
        if len(packet) < prefix + 5:
            raise Malformed("length")
        return Data(_ID.unpack_from(packet, prefix + 1)[0], packet[prefix + 5 :])
    reader = _READERS.get(kind)
    if reader is None:
        raise Malformed("type")
    try:
        return reader(packet[prefix + 1 :])
    except struct.error as error:
        raise Malformed("length") from error


def _read_offer(body: bytes) -> Offer:
    if len(body) < _OFFER.size:
        raise Malformed("length")
    msg_id, protocol, direction, port, length = _OFFER.unpack_from(body)
    if len(body) != _OFFER.size + length:
        raise Malformed("length")
    if protocol > Protocol.UDP:
        raise Malformed("protocol")
    if direction > Direction.CONNECTION:
        raise Malformed("direction")
    try:
        name = body[_OFFER.size :].decode()
    except UnicodeDecodeError as error:
        raise Malformed("name") from error
    return Offer(msg_id, Protocol(protocol), Direction(direction), port, name)


def _read_hello(body: bytes) -> Hello:
    version, features, epoch = _HELLO.unpack(body)
    if version != VERSION:
        raise Malformed("version")
    return Hello(Feature(features), epoch, version)


def _read_node(body: bytes) -> Node:
    if len(body) != NODE_KEY:
        raise Malformed("length")
    return Node(body)


def _read_claim(body: bytes) -> Claim:
    if len(body) != TOKEN:
        raise Malformed("length")
    return Claim(body)


def _read_claimed(body: bytes) -> Claimed:
    if len(body) != TOKEN + 1:
        raise Malformed("length")
    if body[TOKEN] > 1:
        raise Malformed("answer")
    return Claimed(body[:TOKEN], body[TOKEN] == 1)


def _read_reset(body: bytes) -> Reset:
    msg_id, reason = _RESET.unpack(body)
    return Reset(msg_id, Reason(reason))


_READERS: dict[int, Callable[[bytes], Lossless]] = {
    Type.OFFER: _read_offer,
    Type.ACCEPT: lambda body: Accept(*_ID.unpack(body)),
    Type.ACK_ACC: lambda body: AckAcc(*_ID.unpack(body)),
    Type.KILL: lambda body: Kill(*_ID.unpack(body)),
    Type.HELLO: _read_hello,
    Type.FIN: lambda body: Fin(*_ID.unpack(body)),
    Type.RESET: _read_reset,
    Type.CREDIT: lambda body: Credit(*_CREDIT.unpack(body)),
    Type.NODE: _read_node,
    Type.CLAIM: _read_claim,
    Type.CLAIMED: _read_claimed,
}


def data_header(carrier: Carrier, msg_id: int) -> bytes:
    """Return the header of a lossless Data packet; the payload follows."""
    return carrier.lossless + bytes((Type.DATA,)) + _ID.pack(msg_id)


def datagram_header(carrier: Carrier, msg_id: int) -> bytes:
    """Return the header of a lossy Data packet; the payload follows."""
    return carrier.lossy + _ID.pack(msg_id)


def decode_datagram(carrier: Carrier, packet: bytes) -> Data:
    """Read one lossy Data packet, prefix included; raises `Malformed`."""
    prefix = len(carrier.lossy)
    if not packet.startswith(carrier.lossy):
        raise Malformed("prefix")
    if len(packet) < prefix + 4:
        raise Malformed("length")
    return Data(_ID.unpack_from(packet, prefix)[0], packet[prefix + 4 :])


def encode_extension(carrier: Carrier, packet: Extension) -> bytes:
    """Return a whole lossy extension packet, prefix included."""
    match packet:
        case Ping():
            kind = ExtensionType.PING
        case Pong():
            kind = ExtensionType.PONG
        case _:
            assert_never(packet)
    return carrier.extension + bytes((kind,)) + _TOKEN.pack(packet.token)


def decode_extension(carrier: Carrier, packet: bytes) -> Extension:
    """Read a Ping or Pong, prefix included; raises `Malformed`."""
    prefix = len(carrier.extension)
    if not packet.startswith(carrier.extension):
        raise Malformed("prefix")
    if len(packet) <= prefix:
        raise Malformed("length")
    reader = _EXTENSION_READERS.get(packet[prefix])
    if reader is None:
        raise Malformed("type")
    if len(packet) != prefix + 1 + _TOKEN.size:
        raise Malformed("length")
    return reader(*_TOKEN.unpack_from(packet, prefix + 1))


_EXTENSION_READERS: dict[int, type[Ping] | type[Pong]] = {ExtensionType.PING: Ping, ExtensionType.PONG: Pong}
