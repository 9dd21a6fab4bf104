"""The SOCKS5 server of a daemon, and what its clients are told."""

from __future__ import annotations

import socket

import pytest
import trio

from tunfwd.daemon.datapath import socks
from tunfwd.daemon.datapath.socks import Socks
from tunfwd.services.listening import bind_stream
from tunfwd.services.socks import Reply, answer

from .joined import Joined
from .living import until
from .test_doors import address_of, linked, service

__all__ = ["linked"]

GREETING = b"\x05\x01\x00"


class Proxy:
    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        daemon = joined.using.daemon
        listener = bind_stream("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.admits = True
        self.server = Socks(
            listener,
            daemon.poller,
            daemon.datapath.outbound,
            daemon.peers,
            daemon.scheduler,
            daemon.names,
            self,
        )

    def allows(self, *_: object) -> bool:
        return self.admits

    def permits(self, user: int) -> bool:
        return self.admits

    async def open(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, host: str, port: int, early: bytes = b"") -> tuple[trio.SocketStream, Reply]:
        client = await self.open()
        name = host.encode()
        request = b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2)
        await client.send_all(GREETING + request + early)
        said = b""
        with trio.fail_after(30):
            while len(said) < 12 and (more := await client.receive_some(12 - len(said))):
                said += more
        assert said == b"\x05\x00" + answer(Reply(said[3]))
        return client, Reply(said[3])

    async def reply(self, host: str, port: int) -> Reply:
        client, reply = await self.ask(host, port)
        await client.aclose()
        return reply


@pytest.fixture
async def proxy(linked: Joined) -> Proxy:
    return Proxy(linked)


@pytest.mark.parametrize("name", ["server.tunfwd.internal", "SERVER.Tunfwd.Internal.", "the address"])
async def test_a_contact_is_reached_by_its_name(proxy: Proxy, name: str) -> None:
    if name == "the address":
        name = address_of(proxy.joined)
    async with service(proxy.joined) as (listener, port):
        client, reply = await proxy.ask(name, port, b"early, ")
        assert reply is Reply.SUCCEEDED
        async with client, await listener.accept() as served:
            await client.send_all(b"and late")
            await client.send_eof()
            assert b"".join([piece async for piece in served]) == b"early, and late"
            await served.send_all(b"answer")
            await served.send_eof()
            assert b"".join([piece async for piece in client]) == b"answer"
    await until(lambda: not proxy.joined.using.daemon.poller.sockets._held.get("SOCKS"))


async def test_what_is_not_there_is_told_as_it_is(proxy: Proxy) -> None:
    async with service(proxy.joined) as (listener, port):
        server = "server.tunfwd.internal"
        assert await proxy.reply(server, port ^ 1) is Reply.CONNECTION_REFUSED, "nothing was accepted there"
        assert await proxy.reply("nobody.tunfwd.internal", port) is Reply.HOST_UNREACHABLE
        assert await proxy.reply("self.tunfwd.internal", port) is Reply.HOST_UNREACHABLE
        assert await proxy.reply("example.org", port) is Reply.NOT_ALLOWED
        assert await proxy.reply("127.0.0.1", port) is Reply.NOT_ALLOWED
        await listener.aclose()
        assert await proxy.reply(server, port) is Reply.CONNECTION_REFUSED
        proxy.admits = False
        assert await proxy.reply(server, port) is Reply.NOT_ALLOWED
        proxy.admits = True
        proxy.joined.using.daemon.engine.offline(proxy.joined.server)
        assert await proxy.reply(server, port) is Reply.HOST_UNREACHABLE


@pytest.mark.interpreted
async def test_who_says_nothing_is_not_waited_for(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks, "PATIENCE", 0.05)
    async with await proxy.open() as silent:
        await silent.send_all(b"\x05")
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
            await silent.receive_some(1)
    assert proxy.server.undecided == 0


async def test_garbage_ends_at_once_and_leaves_nothing(proxy: Proxy) -> None:
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x04\x01\x00\x50",
        b"\x05\x01\x02",
        b"\x05\x01\x00\x05\x02\x00\x01" + bytes(6),
    ):
        async with await proxy.open() as client:
            await client.send_all(garbage)
            with trio.fail_after(30):
                try:
                    while await client.receive_some(100):
                        pass
                except trio.BrokenResourceError:
                    pass
    await until(lambda: not proxy.joined.using.daemon.poller.sockets._held.get("SOCKS"))
    assert proxy.server.undecided == 0


@pytest.mark.interpreted
async def test_too_many_that_say_nothing(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks, "MAX_UNDECIDED", 1)
    async with await proxy.open() as first:
        await until(lambda: proxy.server.undecided)
        async with await proxy.open() as second:
            with trio.fail_after(30):
                assert await second.receive_some(1) == b""
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await until(lambda: not proxy.server.undecided)
