"""A ticket: one line of text that takes the place of an exchange of addresses and of two consents (SPEC.md).

Whoever joins by it asks its maker, by the token in it, for exactly what it names. Text comes from a person
and goes to `tunfwd.control`; tokens also travel in the message of a friend request, and in a Claim. Decoding
is strict: what is not exactly one ticket raises `Malformed`.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from tunfwd.common.errors import Malformed
from tunfwd.wire.packets import MAX_PORT, TOKEN, Protocol

SCHEME: Final = "tunfwd:"
VERSION: Final = 1
ADDRESS: Final = 38  # bytes of a Tox address: public key, nospam, checksum
KEY: Final = 32  # bytes of a public key, and of a chat id
MAX_TEXT: Final = 2048  # characters
MAX_PORTS: Final = 256  # in all ranges of a ticket
MAX_RANGES: Final = 51  # that fit into one field
MAX_NAME: Final = 128  # bytes of UTF-8
MAX_PASSWORD: Final = 32  # bytes; TOX_GROUP_MAX_PASSWORD_SIZE
MAX_HOST: Final = 200  # bytes
MESSAGE: Final = "tunfwd-ticket:"  # what the message of a friend request begins with that has a token

# Fields, in the order in which they stand. From OPTIONAL on a reader passes over those that it does not know.
_INVITER: Final = 0x01
_PORTS: Final = 0x02
_NAME: Final = 0x03
_NICKNAME: Final = 0x04
_NODE: Final = 0x05
_GROUP: Final = 0x06
_PASSWORD: Final = 0x07
_EXPIRES: Final = 0x08
_OPTIONAL: Final = 0x80

_PRIVATE: Final = 0x01  # of a group: who has made the ticket invites
_LOCKED: Final = 0x02  # of a group: it takes a password

_RANGE: Final = struct.Struct("<BHH")
_PORT: Final = struct.Struct("<H")
_TIME: Final = struct.Struct("<Q")
_CHECKSUM: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Inviter:
    """Who has made the ticket."""

    address: bytes
    """The Tox address, `ADDRESS` bytes."""
    token: bytes
    """`TOKEN` random bytes."""


@dataclass(frozen=True, slots=True)
class Ports:
    """A range of ports of one protocol, both ends included."""

    protocol: Protocol
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node to join the Tox network by."""

    host: str
    port: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A group to join."""

    chat_id: bytes
    name: str
    private: bool
    """Whether only an invitation lets one in; else the chat id does."""
    locked: bool
    """Whether it takes a password, in the ticket or not."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Ports of the inviter's, a private group that it invites to, or a public group, without an inviter."""

    inviter: Inviter | None = None
    ports: tuple[Ports, ...] = ()
    name: str = ""
    """What the ports are offered as."""
    nickname: str = ""
    """What the inviter calls itself."""
    node: Node | None = None
    group: Group | None = None
    password: str = ""
    """The group's."""
    expires: int | None = None
    """Seconds since 1970."""


def encode(ticket: Ticket) -> str:
    """Return a ticket as text. Raises ValueError if it breaks a limit."""
    data = bytearray((VERSION,))
    if (inviter := ticket.inviter) is not None:
        _add(data, _INVITER, inviter.address + inviter.token)
    if ticket.ports:
        _add(data, _PORTS, b"".join(_RANGE.pack(r.protocol, r.first, r.last) for r in ticket.ports))
    if ticket.name:
        _add(data, _NAME, ticket.name.encode())
    if ticket.nickname:
        _add(data, _NICKNAME, ticket.nickname.encode())
    if (node := ticket.node) is not None:
        _add(data, _NODE, node.key + _PORT.pack(node.port) + node.host.encode())
    if (group := ticket.group) is not None:
        flags = _PRIVATE * group.private | _LOCKED * group.locked
        _add(data, _GROUP, bytes((flags,)) + group.chat_id + group.name.encode())
    if ticket.password:
        _add(data, _PASSWORD, ticket.password.encode())
    if ticket.expires is not None:
        _add(data, _EXPIRES, _TIME.pack(ticket.expires))
    data += _CHECKSUM.pack(crc32(data))
    text = SCHEME + urlsafe_b64encode(data).decode().rstrip("=")
    if decode(text) != ticket:
        raise ValueError("this is no ticket")
    return text


def _add(data: bytearray, kind: int, value: bytes) -> None:
    if len(value) > 255:
        raise ValueError("a field of a ticket takes at most 255 bytes")
    data += bytes((kind, len(value))) + value


def decode(text: str) -> Ticket:
    """Read a ticket. White space is ignored anywhere, as mail and terminals break lines.

    Raises `Malformed`.
    """
    if len(text) > MAX_TEXT:
        raise Malformed("length")
    text = "".join(text.split())
    if text[: len(SCHEME)].lower() != SCHEME:
        raise Malformed("scheme")
    data = _bytes_of(text[len(SCHEME) :])
    if len(data) < 1 + _CHECKSUM.size:
        raise Malformed("length")
    body = data[: -_CHECKSUM.size]
    if _CHECKSUM.pack(crc32(body)) != data[-_CHECKSUM.size :]:
        raise Malformed("checksum")
    if body[0] != VERSION:
        raise Malformed("version")
    return _ticket_of(_fields_of(body))


def _bytes_of(text: str) -> bytes:
    """Read base64url without padding; each content has one way to be written."""
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:  # binascii.Error is one
        raise Malformed("text") from None
    if urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise Malformed("text")
    return data


def _fields_of(body: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at, last = 1, 0
    while at < len(body):
        kind = body[at]
        length = body[at + 1] if at + 1 < len(body) else 255
        value = body[at + 2 : at + 2 + length]
        if len(value) < length:
            raise Malformed("length")
        if kind <= last:
            raise Malformed("order")
        if _EXPIRES < kind < _OPTIONAL or kind == 0:
            raise Malformed("field")
        fields[kind] = value
        at, last = at + 2 + length, kind
    return fields


def _ticket_of(fields: dict[int, bytes]) -> Ticket:
    inviter = _read_inviter(fields[_INVITER]) if _INVITER in fields else None
    ports = _read_ports(fields[_PORTS]) if _PORTS in fields else ()
    group = _read_group(fields[_GROUP]) if _GROUP in fields else None
    password = _read_text(fields, _PASSWORD, MAX_PASSWORD)
    if group is None:
        complete = inviter is not None and ports != () and not password
    else:
        complete = group.private == (inviter is not None) and not ports and (group.locked or not password)
    if not complete:
        raise Malformed("content")
    return Ticket(
        inviter,
        ports,
        _read_text(fields, _NAME, MAX_NAME),
        _read_text(fields, _NICKNAME, MAX_NAME),
        _read_node(fields[_NODE]) if _NODE in fields else None,
        group,
        password,
        _read_time(fields[_EXPIRES]) if _EXPIRES in fields else None,
    )


def _read_inviter(value: bytes) -> Inviter:
    if len(value) != ADDRESS + TOKEN:
        raise Malformed("length")
    return Inviter(value[:ADDRESS], value[ADDRESS:])


def _read_ports(value: bytes) -> tuple[Ports, ...]:
    if not value or len(value) % _RANGE.size:
        raise Malformed("length")
    ranges: list[Ports] = []
    named: set[tuple[int, int]] = set()
    for protocol, first, last in _RANGE.iter_unpack(value):
        if protocol > Protocol.UDP or not 1 <= first <= last <= MAX_PORT or last - first >= MAX_PORTS:
            raise Malformed("ports")
        here = {(protocol, port) for port in range(first, last + 1)}
        if here & named or len(here) + len(named) > MAX_PORTS:
            raise Malformed("ports")
        named |= here
        ranges.append(Ports(Protocol(protocol), first, last))
    return tuple(ranges)


def _read_node(value: bytes) -> Node:
    host = value[KEY + _PORT.size :]
    if not host or len(host) > MAX_HOST:
        raise Malformed("length")
    (port,) = _PORT.unpack_from(value, KEY)
    if port == 0:
        raise Malformed("ports")
    return Node(_decoded(host), port, value[:KEY])


def _read_group(value: bytes) -> Group:
    if len(value) < 1 + KEY or len(value) > 1 + KEY + MAX_NAME:
        raise Malformed("length")
    if value[0] > (_PRIVATE | _LOCKED):
        raise Malformed("field")
    return Group(
        value[1 : 1 + KEY],
        _decoded(value[1 + KEY :]),
        bool(value[0] & _PRIVATE),
        bool(value[0] & _LOCKED),
    )


def _read_time(value: bytes) -> int:
    if len(value) != _TIME.size:
        raise Malformed("length")
    return int(_TIME.unpack(value)[0])


def _read_text(fields: dict[int, bytes], kind: int, limit: int) -> str:
    """Return the text of a field, "" if the field is absent. Raises Malformed for a field that is empty."""
    value = fields.get(kind)
    if value is None:
        return ""
    if not 0 < len(value) <= limit:
        raise Malformed("length")
    return _decoded(value)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed("utf8") from None


# -- the message of a friend request


def write_message(token: bytes, text: str) -> str:
    """Return a friend request's message with a token, and a text for whoever reads it."""
    return f"{MESSAGE}{urlsafe_b64encode(token).decode().rstrip('=')} {text}".rstrip()


def read_message(message: str) -> tuple[bytes | None, str]:
    """Return the token in a friend request's message, None where there is none, and the text for people."""
    if not message.startswith(MESSAGE):
        return None, message
    written, _, text = message[len(MESSAGE) :].partition(" ")
    try:
        token = _bytes_of(written)
    except Malformed:
        token = b""
    return (token, text) if len(token) == TOKEN else (None, message)
