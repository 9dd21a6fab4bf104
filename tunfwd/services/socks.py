"""SOCKS5 as a server speaks it (RFC 1928): bytes to what a client wants, and answers to bytes. No I/O."""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
NO_METHOD: Final = 0xFF
CONNECT: Final = 1
MAX_MESSAGE: Final = 2 + 255 + 4 + 1 + 255 + 2  # bytes of the greeting and the request together

Address = IPv4Address | IPv6Address


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


class Refused(Exception):
    """What is asked for is not to be had; `answer` says so."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.hex())
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Request:
    """A connection that is wanted."""

    host: Address | str
    port: int


def answer(reply: Reply) -> bytes:
    """Return an answer to a request; we have no address to tell."""
    return bytes((VERSION, reply, 0, 1)) + bytes(6)


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
        if buffer[1] != CONNECT:
            raise Refused(said + answer(Reply.COMMAND_NOT_SUPPORTED))
        size = {1: 4, 3: 1 + buffer[4], 4: 16}.get(buffer[3])
        if size is None:
            raise Refused(said + answer(Reply.ADDRESS_NOT_SUPPORTED))
        if len(buffer) < 4 + size + 2:
            return None
        host, port = bytes(buffer[4 : 4 + size]), int.from_bytes(buffer[4 + size : 6 + size])
        kind = buffer[3]
        del buffer[: 6 + size]
        if kind == 1:
            return Request(IPv4Address(host), port)
        if kind == 4:
            return Request(IPv6Address(host), port)
        try:
            return Request(host[1:].decode(), port)
        except UnicodeDecodeError:
            raise Refused(said + answer(Reply.HOST_UNREACHABLE)) from None
