"""UDP by the SOCKS5 server of a daemon: who may send, to whom, and when it ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio

from tunfwd.daemon.datapath import socks
from tunfwd.netstack import Endpoint
from tunfwd.services.socks import Reply, answer
from tunfwd.wire.packets import Protocol

from .joined import Joined
from .living import until
from .test_doors import address_of, datagram_socket, joined, linked
from .test_socks import GREETING, Proxy, proxy

__all__ = ["joined", "linked", "proxy"]

ASSOCIATE = b"\x05\x03\x00\x01" + bytes(6)
NAME = b"server.tunfwd.internal"


def to_name(port: int, payload: bytes, name: bytes = NAME, fragment: int = 0) -> bytes:
    return bytes((0, 0, fragment, 3, len(name))) + name + port.to_bytes(2) + payload


def header(address: str, port: int) -> bytes:
    packed = ip_address(address).packed
    return bytes((0, 0, 0, 1 if len(packed) == 4 else 4)) + packed + port.to_bytes(2)


@asynccontextmanager
async def associated(
    proxy: Proxy, request: bytes = ASSOCIATE
) -> AsyncIterator[tuple[trio.SocketStream, tuple[str, int]]]:
    """A client whose datagrams are carried, and where it is to send them."""
    async with await proxy.open() as client:
        await client.send_all(GREETING + request)
        said = b""
        with trio.fail_after(30):
            while len(said) < 12:
                said += await client.receive_some(100)
        assert said[:6] == b"\x05\x00\x05\x00\x00\x01"
        yield client, (str(ip_address(said[6:10])), int.from_bytes(said[10:12]))


def dropped(proxy: Proxy) -> dict[str, int]:
    counted = proxy.joined.using.daemon.peers.dropped
    return {name.removeprefix("socks_"): count for name, count in counted.items()}


async def counted(proxy: Proxy, reason: str, times: int) -> None:
    await until(lambda: dropped(proxy).get(reason, 0) == times)


async def settled(joined: Joined) -> None:
    """What was begun has left nothing."""
    await until(lambda: not joined.using.daemon.poller.sockets._held.get("SOCKS"))
    await until(lambda: not any(mapping.flows for mapping in joined.server.ports.values()))
    await until(lambda: not any(mapping.flows for mapping in joined.user.session.mappings))


@pytest.mark.parametrize("how", ["name", "address", "IPv6 address"])
async def test_datagrams_go_and_come(proxy: Proxy, how: str) -> None:
    joined = proxy.joined
    with datagram_socket() as served, datagram_socket() as program:
        port = served.getsockname()[1]
        await joined.offer(Protocol.UDP, port, "host")
        address = str(joined.server.address6) if how == "IPv6 address" else address_of(joined)
        asked = to_name(port, b"question") if how == "name" else header(address, port) + b"question"
        async with associated(proxy) as (_, place):
            with trio.fail_after(30):
                await program.sendto(asked, place)
                question, sender = await served.recvfrom(100)
                assert question == b"question"
                await served.sendto(b"answer", sender)
                assert await program.recvfrom(100) == (header(address, port) + b"answer", place)
                await program.sendto(asked, place)
                assert (await served.recvfrom(100))[1] == sender, "it is the same flow"
        await settled(joined)


async def test_datagrams_by_every_carrier(joined: Joined) -> None:
    proxy = Proxy(joined)
    with datagram_socket() as served, datagram_socket() as program:
        port = served.getsockname()[1]
        await joined.offer(Protocol.UDP, port, "host")
        for number in (b"1", b"2"):
            async with associated(proxy) as (_, place), associated(proxy):
                with trio.fail_after(30):
                    await program.sendto(to_name(port, number), place)
                    question, sender = await served.recvfrom(100)
                    assert question == number
                    await served.sendto(b"answer", sender)
                    assert (await program.recvfrom(100))[0].endswith(b"answer")
                    if joined.server.session.datagram_payload < 60_000:
                        await program.sendto(to_name(port, bytes(60_000)), place)
                        await counted(proxy, "too_big", int(number))


async def test_they_end_with_the_connection(proxy: Proxy) -> None:
    with datagram_socket() as served, datagram_socket() as program:
        port = served.getsockname()[1]
        await proxy.joined.offer(Protocol.UDP, port, "host")
        async with associated(proxy) as (client, place):
            await program.sendto(to_name(port, b"1"), place)
            with trio.fail_after(30):
                assert await served.recv(100) == b"1"
            assert any(mapping.flows for mapping in proxy.joined.server.ports.values())
            await client.send_all(b"nothing that means anything")
            await client.send_eof()
            await settled(proxy.joined)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(place)


async def test_what_cannot_be_sent_is_counted(proxy: Proxy) -> None:
    joined = proxy.joined
    with datagram_socket() as served, datagram_socket() as program:
        port = served.getsockname()[1]
        await joined.offer(Protocol.UDP, port, "host")
        wrong = {
            to_name(port, b"", fragment=1): "fragments",
            b"": "malformed",
            bytes(4): "malformed",
            bytes((0, 0, 0, 9)) + bytes(20): "malformed",
            to_name(port, b"")[:-1]: "malformed",
            to_name(port, b"", b"\xff\xff"): "malformed",
            to_name(port, b"", b"example.org"): "unknown",
            to_name(port, b"", b"nobody.tunfwd.internal"): "unknown",
            header("127.0.0.1", port): "unknown",
            to_name(port ^ 1, b""): "unreachable",
        }
        async with associated(proxy) as (_, place):
            for datagram, reason in wrong.items():
                before = dropped(proxy).get(reason, 0)
                await program.sendto(datagram, place)
                await counted(proxy, reason, before + 1)
            joined.using.daemon.engine.offline(joined.server)
            await program.sendto(to_name(port, b"late"), place)
            await until(lambda: dropped(proxy)["unreachable"] == 2)


async def test_only_the_client_may_send(proxy: Proxy) -> None:
    with datagram_socket() as served, datagram_socket() as program, datagram_socket() as other:
        port = served.getsockname()[1]
        await proxy.joined.offer(Protocol.UDP, port, "host")
        told = b"\x05\x03\x00\x01" + bytes(4) + program.getsockname()[1].to_bytes(2)
        for request in (ASSOCIATE, told):
            async with associated(proxy, request) as (_, place):
                count = dropped(proxy).get("foreign", 0)
                if request == told:  # it is known from the beginning
                    await other.sendto(to_name(port, b"not mine"), place)
                    await counted(proxy, "foreign", count + 1)
                await program.sendto(to_name(port, b"mine"), place)
                with trio.fail_after(30):
                    assert await served.recv(100) == b"mine"
                count = dropped(proxy).get("foreign", 0)
                await other.sendto(to_name(port, b"not mine"), place)
                await counted(proxy, "foreign", count + 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.bind(("127.9.9.9", 0))
            async with associated(proxy) as (_, place):
                count = dropped(proxy)["foreign"]
                elsewhere.sendto(to_name(port, b"not mine"), place)
                await until(lambda: dropped(proxy)["foreign"] == count + 1)


async def test_who_may_not_reach_contacts_cannot_by_datagrams(proxy: Proxy) -> None:
    with datagram_socket() as program:
        async with associated(proxy) as (_, place):
            proxy.admits = False
            await program.sendto(to_name(9, b""), place)
            await until(lambda: dropped(proxy).get("refused") == 1)
        async with await proxy.open() as client:
            await client.send_all(GREETING + ASSOCIATE)
            with trio.fail_after(30):
                said = b"".join([piece async for piece in client])
            assert said == b"\x05\x00" + answer(Reply.NOT_ALLOWED)


@pytest.mark.interpreted
async def test_there_is_no_end_of_patience_with_an_association(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socks, "PATIENCE", 0.01)
    with datagram_socket() as served, datagram_socket() as program:
        port = served.getsockname()[1]
        await proxy.joined.offer(Protocol.UDP, port, "host")
        async with associated(proxy) as (_, place):
            await trio.sleep(0.2)
            await program.sendto(to_name(port, b"late"), place)
            with trio.fail_after(30):
                assert await served.recv(100) == b"late"


async def test_there_is_a_bound(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    async with associated(proxy):
        shares = proxy.joined.using.daemon.poller.sockets
        assert shares._held["SOCKS"] == 2
        monkeypatch.setattr(shares, "_total", 0)
        monkeypatch.setattr(shares, "_least", 3)
        async with await proxy.open() as client:
            await client.send_all(GREETING + ASSOCIATE)
            with trio.fail_after(30):
                said = b"".join([piece async for piece in client])
            assert said == b"\x05\x00" + answer(Reply.GENERAL_FAILURE)
    await settled(proxy.joined)


def test_an_answer_says_where() -> None:
    assert answer(Reply.SUCCEEDED, Endpoint(bytes((127, 0, 0, 1)), 258))[3:] == b"\x01\x7f\0\0\1\1\2"
    assert answer(Reply.SUCCEEDED, Endpoint(bytes(15) + b"\1", 258))[3:] == b"\x04" + bytes(15) + b"\1\1\2"
