"""What a SOCKS5 client may say, whole and in pieces (RFC 1928)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tunfwd.netstack import Endpoint
from tunfwd.services.socks import (
    MAX_MESSAGE,
    Command,
    Enclosed,
    Fragment,
    Handshake,
    NotSocks,
    Refused,
    Reply,
    Request,
    answer,
    enclose,
    open_datagram,
)

GREETING = b"\x05\x01\x00"
CONNECT = b"\x05\x01\x00"
NAME = CONNECT + b"\x03\x03bob\x1f\x90"
REQUESTS = {
    NAME: Request("bob", 8080),
    CONNECT + b"\x01\x7f\x4d\x01\x02\x00\x16": Request(ip_address("127.77.1.2"), 22),
    CONNECT + b"\x04" + ip_address("fd74::9").packed + b"\x00\x50": Request(ip_address("fd74::9"), 80),
    b"\x05\x03\x00\x01" + bytes(4) + b"\x1f\x90": Request(ip_address(0), 8080, Command.UDP_ASSOCIATE),
}


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_request_is_read_however_it_is_cut(request_: bytes, size: int) -> None:
    handshake, said, found = Handshake(), b"", None
    data = b"\x05\x02\x02\x00" + request_
    for at in range(0, len(data), size):
        more, found = handshake.receive(data[at : at + size])
        said += more
    assert (said, found, handshake.rest) == (b"\x05\x00", REQUESTS[request_], b"")


def test_what_follows_a_request_is_kept() -> None:
    handshake = Handshake()
    assert handshake.receive(GREETING + NAME + b"GET /")[1] == Request("bob", 8080)
    assert handshake.rest == b"GET /"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x05\x02\x00\x01" + bytes(6), b"\x05\x00" + answer(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + b"\x05\x04\x00\x01" + bytes(6), b"\x05\x00" + answer(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + b"\x05\x01\x00\x09" + bytes(6), b"\x05\x00" + answer(Reply.ADDRESS_NOT_SUPPORTED)),
        (GREETING + b"\x05\x01\x00\x03\x01\xff\x00\x50", b"\x05\x00" + answer(Reply.HOST_UNREACHABLE)),
    ],
)
def test_what_cannot_be_had_is_answered(data: bytes, said: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Handshake().receive(data)
    assert refused.value.answer == said


@pytest.mark.parametrize("data", [b"\x04\x01", b"GET / HTTP/1.1\r\n", GREETING + b"\x04\x01\x00\x01"])
def test_what_is_not_socks_is_not_answered(data: bytes) -> None:
    with pytest.raises(NotSocks):
        Handshake().receive(data)


def test_nothing_longer_is_waited_for() -> None:
    longest = b"\x05\xff" + bytes(255) + CONNECT + b"\x03\xff" + b"a" * 255 + b"\x00\x50"
    assert len(longest) <= MAX_MESSAGE
    assert Handshake().receive(longest)[1] == Request("a" * 255, 80)


PLACES = {
    b"\x01\x7f\x4d\x01\x02\x00\x16": (ip_address("127.77.1.2"), 22),
    b"\x03\x03bob\x1f\x90": ("bob", 8080),
    b"\x04" + ip_address("fd74::9").packed + b"\x00\x50": (ip_address("fd74::9"), 80),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_datagram_says_where_it_is_to_go(place: bytes) -> None:
    host, port = PLACES[place]
    assert open_datagram(bytes(3) + place + b"payload") == Enclosed(host, port, b"payload")
    assert open_datagram(bytes(3) + place) == Enclosed(host, port, b"")
    for size in range(3 + len(place)):
        with pytest.raises(NotSocks):
            open_datagram((bytes(3) + place)[:size])
    with pytest.raises(Fragment):
        open_datagram(b"\0\0\x81" + place)


def test_an_answer_says_where_it_is_from() -> None:
    for place, (host, port) in PLACES.items():
        if not isinstance(host, str):
            assert enclose(Endpoint(host.packed, port), b"payload") == bytes(3) + place + b"payload"
