"""The ports of contacts as sockets of this machine: two daemons without a device, and real programs."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address
from typing import Any

import pytest
import trio

from tunfwd.daemon.datapath import doors
from tunfwd.daemon.peers import Listening
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Settings
from tunfwd.services import listening as listening_module
from tunfwd.wire.packets import Feature, Protocol

from .joined import Joined
from .living import until

CARRIERS = {"link": FEATURES, "carriers": CARRIER_FEATURES, "plain": Feature(0)}
RESET = struct.pack("@ii", 1, 0)


@pytest.fixture(params=CARRIERS)
async def joined(request: pytest.FixtureRequest) -> AsyncIterator[Joined]:
    async with Joined.running(Settings(CARRIERS[request.param]), rootless=True) as both:
        yield both


@pytest.fixture
async def linked() -> AsyncIterator[Joined]:
    async with Joined.running(rootless=True) as both:
        yield both


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def service(joined: Joined, source: str = "host") -> AsyncIterator[tuple[trio.SocketListener, int]]:
    """A TCP service of the serving machine, on loopback, that the other has accepted."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        await joined.offer(Protocol.TCP, port, source)
        yield listener, port


def address_of(joined: Joined) -> str:
    return str(IPv4Address(joined.address))


async def meet(
    joined: Joined, listener: trio.SocketListener, port: int
) -> tuple[trio.SocketStream, trio.SocketStream]:
    """A program, and the service that it reached."""
    program = await trio.open_tcp_stream(address_of(joined), port)
    return program, await listener.accept()


async def is_reset(address: str, port: int) -> bool:
    """Whether a connection is: by the time that it is made, or after it."""
    try:
        async with await trio.open_tcp_stream(address, port) as program:
            with trio.fail_after(30):
                return await program.receive_some(1) != b""
    except trio.BrokenResourceError as broken:
        return isinstance(broken.__cause__, OSError) and broken.__cause__.errno == errno.ECONNRESET
    except OSError as failed:
        attempts: Any = failed.__cause__
        return isinstance(attempts.exceptions[0], ConnectionResetError)


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_a_port_listens_at_its_contacts_own_address(joined: Joined) -> None:
    assert address_of(joined).startswith("127.77.")
    async with service(joined) as (listener, port):
        program, served = await meet(joined, listener, port)
        async with program, served:
            await program.send_all(b"question")
            assert await served.receive_some(100) == b"question"
            await served.send_all(b"answer")
            assert await program.receive_some(100) == b"answer"


async def test_half_close_passes_both_ways(linked: Joined) -> None:
    async with service(linked) as (listener, port):
        program, served = await meet(linked, listener, port)
        async with program, served:
            await program.send_all(b"all of it")
            await program.send_eof()
            assert await read_all(served) == b"all of it"
            await served.send_all(b"the reply")
            await served.aclose()
            assert await read_all(program) == b"the reply"


@pytest.mark.parametrize("by", ["program", "service"])
async def test_a_reset_passes(linked: Joined, by: str) -> None:
    async with service(linked) as (listener, port):
        program, served = await meet(linked, listener, port)
        one, other = (program, served) if by == "program" else (served, program)
        async with other:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await one.aclose()
            with pytest.raises(trio.BrokenResourceError):
                await other.receive_some(1)


async def test_a_connection_is_reset_where_the_service_refuses(joined: Joined) -> None:
    async with service(joined) as (listener, port):
        await listener.aclose()
        assert await is_reset(address_of(joined), port)


async def test_a_connection_is_reset_where_the_contact_is_offline(linked: Joined) -> None:
    async with service(linked) as (_, port):
        linked.using.daemon.engine.offline(linked.server)
        assert await is_reset(address_of(linked), port)


async def test_a_slow_reader_holds_the_far_writer_back(linked: Joined) -> None:
    async with service(linked) as (listener, port):
        program, served = await meet(linked, listener, port)
        async with program, served:
            sent = 0
            block = bytes(1 << 20)
            is_held = False
            while not is_held and sent < 256 << 20:
                with trio.move_on_after(2.0) as patience:
                    await program.send_all(block)
                    sent += len(block)
                is_held = patience.cancelled_caught
            assert is_held, f"{sent} bytes went nowhere"
            await until(lambda: not linked.using.daemon.tox.said)


async def test_who_gives_up_while_waiting_takes_its_flow_along(linked: Joined) -> None:
    async with service(linked) as (_, port):
        mapping = next(iter(linked.server.ports.values()))
        linked.using.daemon.tox.on_said = lambda: None  # nothing arrives any more
        program = await trio.open_tcp_stream(address_of(linked), port)
        await until(lambda: mapping.flows)
        program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await program.aclose()
        await until(lambda: not mapping.flows)


async def test_the_service_sees_the_contacts_own_address(linked: Joined) -> None:
    """As with a device: by its own address, of this machine's loopback."""
    async with service(linked, "peer") as (listener, port):
        program, served = await meet(linked, listener, port)
        async with program, served:
            assert served.socket.getpeername()[0] == str(linked.user.address)


# -- UDP -----------------------------------------------------------------------------------------------------


def datagram_socket(address: str = "127.0.0.1") -> trio.socket.SocketType:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind((address, 0))
    return trio.socket.from_stdlib_socket(made)


@pytest.mark.parametrize(
    ("source", "own"), [("host", "127.0.0.1"), ("peer", "127.0.0.1"), ("peer", "0.0.0.0")]
)
async def test_datagrams_go_and_come(joined: Joined, source: str, own: str) -> None:
    with datagram_socket(own) as served, datagram_socket() as one, datagram_socket() as two:
        await joined.offer(Protocol.UDP, served.getsockname()[1], source)
        place = (address_of(joined), listening(joined).port)
        for program in (one, two):
            with trio.fail_after(30):
                await program.sendto(b"question", place)
                question, sender = await served.recvfrom(100)
                assert question == b"question"
                assert sender[0] == (str(joined.user.address) if source == "peer" else "127.0.0.1")
                await served.sendto(b"answer", sender)
                assert await program.recvfrom(100) == (b"answer", place)


# -- which ports ---------------------------------------------------------------------------------------------


def doors_of(joined: Joined) -> doors.Doors:
    made = joined.using.daemon.datapath.doors
    assert made is not None
    return made


def listening(joined: Joined) -> Any:
    [mapping] = joined.server.ports.values()
    return joined.server.details_of(mapping).listening


async def test_a_port_that_is_in_use_listens_elsewhere(linked: Joined) -> None:
    port = next(port for port in iter(free_port, None) if port < 57000)
    with closing(socket.create_server(("0.0.0.0", port))):
        await linked.offer(Protocol.TCP, port)
        assert listening(linked) == Listening(port + 8000, f"port {port} is in use on this machine")
        async with await trio.open_tcp_stream(address_of(linked), port + 8000):
            pass


async def test_a_port_that_takes_a_privilege_listens_elsewhere(
    linked: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = listening_module.bind_stream

    def unprivileged(address: str, port: int) -> socket.socket:
        if port < 1024:
            raise PermissionError(errno.EACCES, "denied")
        return bind(address, port)

    monkeypatch.setattr(doors, "bind_stream", unprivileged)
    await linked.offer(Protocol.TCP, 22)
    assert listening(linked) == Listening(8022, "port 22 takes a privilege here")


async def test_a_port_that_cannot_listen_at_all_says_so(
    linked: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(address: str, port: int) -> socket.socket:
        raise OSError(errno.EMFILE, "descriptors")

    monkeypatch.setattr(doors, "bind_stream", exhausted)
    await linked.offer(Protocol.TCP, free_port())
    assert listening(linked) == Listening(None, "Too many open files")


async def test_no_port_listens_longer_than_it_is_accepted(linked: Joined) -> None:
    async with service(linked) as (_, port):
        [mapping] = linked.server.ports.values()
        linked.using.daemon.offers.end(linked.server, mapping)
        linked.using.daemon.settle()
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream(address_of(linked), port)
        assert not doors_of(linked)._doors


async def test_a_contact_that_moves_takes_its_ports_along(linked: Joined) -> None:
    async with service(linked) as (listener, port):
        peers, before = linked.using.daemon.peers, address_of(linked)
        peers.move(linked.server, IPv4Address("127.77.9.9"))
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream(before, port)
        async with await trio.open_tcp_stream("127.77.9.9", port), await listener.accept():
            pass
        peers.remove(linked.server)
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream("127.77.9.9", port)
        linked.using.daemon.peers.add(linked.server)


async def test_only_the_programs_that_may_reach_contacts(linked: Joined) -> None:
    class Nobody:
        def allows(self, protocol: Protocol, program: Any, port: Any) -> bool:
            asked.append((protocol, str(IPv4Address(program.address)), port.port))
            return False

        def permits(self, user: int) -> bool:
            return False

    asked: list[tuple[Protocol, str, int]] = []
    doors_of(linked)._admission = Nobody()
    async with service(linked) as (_, port):
        assert await is_reset(address_of(linked), port)
        assert asked == [(Protocol.TCP, "127.0.0.1", port)]
        assert doors_of(linked).refused == 1


async def test_one_contacts_share_of_sockets_is_not_anothers(
    linked: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(linked) as (_, port):
        shares: Any = linked.using.daemon.poller.sockets
        monkeypatch.setattr(shares, "_total", 0)
        monkeypatch.setattr(shares, "_least", 1)
        linked.using.daemon.tox.on_said = lambda: None
        async with await trio.open_tcp_stream(address_of(linked), port) as first:
            await until(lambda: next(iter(linked.server.ports.values())).flows)
            assert await is_reset(address_of(linked), port)
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await until(lambda: not shares._held)
