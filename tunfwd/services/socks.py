"""SOCKS5 as a server speaks it (RFC 1928): bytes to what a client wants, and answers to bytes. No I/O."""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tunfwd.netstack.types import Endpoint

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
NO_METHOD: Final = 0xFF
IPV4: Final = 1
NAME: Final = 3
IPV6: Final = 4
NOWHERE: Final = Endpoint(bytes(4), 0)
MAX_MESSAGE: Final = 2 + 255 + 4 + 1 + 255 + 2  # bytes of the greeting and the request together

Address = IPv4Address | IPv6Address


class Command(IntEnum):
    """RFC 1928 4: those that are known here."""

    CONNECT = 1
    UDP_ASSOCIATE = 3


class Reply(IntEnum):
    """RFC 1928 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class NotSocks(Exception):
    """What came is not SOCKS5; nothing is to be answered."""


class Fragment(Exception):
    """A part of a datagram, which may be dropped (RFC 1928 7)."""


class Refused(Exception):
    """What is asked for is not to be had; `answer` says so."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.hex())
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted: a connection, or a way for datagrams, whose place is where the client sends from."""

    host: Address | str
    port: int
    command: Command = Command.CONNECT


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A datagram, and where it is to go."""

    host: Address | str
    port: int
    payload: bytes


def answer(reply: Reply, bound: Endpoint | None = None) -> bytes:
    """Return an answer to a request, with the address where datagrams are to be sent, if they are."""
    return bytes((VERSION, reply, 0)) + _place(bound or NOWHERE)


# -- datagrams (RFC 1928 7)


def enclose(origin: Endpoint, payload: bytes) -> bytes:
    """Return a datagram with the header that says where it is from."""
    return bytes(3) + _place(origin) + payload


def open_datagram(data: bytes) -> Enclosed:
    """Return what a client sent. Raises NotSocks and Fragment."""
    if len(data) < 5:
        raise NotSocks
    if data[2]:
        raise Fragment
    size = _size(data[3], data[4])
    if size is None or len(data) < 6 + size:
        raise NotSocks
    try:
        host, port = _read_place(data, size)
    except UnicodeDecodeError:
        raise NotSocks from None
    return Enclosed(host, port, data[6 + size :])


# -- where


def _place(endpoint: Endpoint) -> bytes:
    return (
        bytes((IPV4 if len(endpoint.address) == 4 else IPV6,)) + endpoint.address + endpoint.port.to_bytes(2)
    )


def _size(kind: int, first: int) -> int | None:
    """Return how long an address is, by its kind and its first byte; None: no such kind."""
    return {IPV4: 4, NAME: 1 + first, IPV6: 16}.get(kind)


def _read_place(message: bytes | bytearray, size: int) -> tuple[Address | str, int]:
    """Read an address of `size` bytes and a port, which follow the kind at the fourth byte."""
    kind, host, port = message[3], bytes(message[4 : 4 + size]), int.from_bytes(message[4 + size : 6 + size])
    if kind == IPV4:
        return IPv4Address(host), port
    if kind == IPV6:
        return IPv6Address(host), port
    return host[1:].decode(), port


class Handshake:
    """A client's beginning: fed with what it sends, however it is cut."""

    __slots__ = ("_buffer", "_greeted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    def receive(self, data: bytes) -> tuple[bytes, Request | None]:
        """Take in what came; return what to answer now, and the request once it is whole.

        Raises NotSocks and Refused.
        """
        self._buffer += data
        said = b""
        if not self._greeted:
            if not self._take_greeting():
                return b"", None
            said = bytes((VERSION, NO_AUTHENTICATION))
        return said, self._take_request(said)

    @property
    def rest(self) -> bytes:
        """What followed the request."""
        return bytes(self._buffer)

    def _take_greeting(self) -> bool:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise NotSocks
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return False
        methods = buffer[2 : 2 + buffer[1]]
        del buffer[: 2 + buffer[1]]
        if NO_AUTHENTICATION not in methods:
            raise Refused(bytes((VERSION, NO_METHOD)))
        self._greeted = True
        return True

    def _take_request(self, said: bytes) -> Request | None:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise NotSocks
        if len(buffer) < 5:
            return None
        try:
            command = Command(buffer[1])
        except ValueError:
            raise Refused(said + answer(Reply.COMMAND_NOT_SUPPORTED)) from None
        size = _size(buffer[3], buffer[4])
        if size is None:
            raise Refused(said + answer(Reply.ADDRESS_NOT_SUPPORTED))
        if len(buffer) < 4 + size + 2:
            return None
        try:
            return Request(*_read_place(buffer, size), command)
        except UnicodeDecodeError:
            raise Refused(said + answer(Reply.HOST_UNREACHABLE)) from None
        finally:
            del buffer[: 6 + size]
