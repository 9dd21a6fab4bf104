"""Programs with a network of their own: two daemons, and a device of another kernel beside them."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address
from typing import Any

import dns.message
import pytest
import trio

from tunfwd.common.errors import UserError
from tunfwd.control import api, passed
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands import run as commands
from tunfwd.daemon.commands.run import RunCommands
from tunfwd.daemon.datapath.guests import Place, Translation
from tunfwd.netstack import Endpoint
from tunfwd.tun.device import DeviceLost
from tunfwd.wire.packets import Protocol

from .joined import Joined, Kernel, Program
from .living import until
from .test_doors import datagram_socket, linked, service

__all__ = ["linked"]

ME = os.geteuid()


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ("127.77.0.0/16", "10.77.0.0/16"),
        ("127.77.0.0/20", "10.77.0.0/20"),
        ("10.77.0.0/16", "10.77.0.0/16"),
        ("10.9.0.0/16", "10.9.0.0/16"),
    ],
)
def test_addresses_keep_their_host_part(outside: str, inside: str) -> None:
    range_ = IPv4Network(outside)
    translate = Translation(range_)
    assert translate.inside == IPv4Network(inside)
    seen = translate.of(range_[300])
    assert seen == translate.inside[300]
    assert translate.of(seen) == range_[300]
    six = ip_address("fd74::9").packed
    assert translate(six) == six


class PassedKernel(Kernel):
    """A kernel whose device was passed."""

    closed = False
    lost = False

    def read(self) -> list[bytes]:
        if self.lost:
            raise DeviceLost("deleted")
        return super().read()

    def lose(self) -> None:
        self.lost = True
        self._signal.set()

    def close(self) -> None:
        self.closed = True


@dataclass
class Inside:
    """A network of its own, and the kernel there."""

    joined: Joined
    kernel: PassedKernel
    life: int

    @property
    def server(self) -> bytes:
        address = self.joined.server.address
        assert address is not None
        assert address.is_loopback
        return self.joined.using.daemon.translate(address.packed)

    @property
    def count(self) -> int:
        return self.joined.using.daemon.guests.count

    def exit(self) -> None:
        if self.life >= 0:
            os.close(self.life)
            self.life = -1


@pytest.fixture
async def inside(linked: Joined, nursery: trio.Nursery) -> AsyncIterator[Inside]:
    daemon, kernel = linked.using.daemon, PassedKernel(3)
    reading, life = os.pipe()
    six = daemon.own6
    place = Place(
        (IPv4Interface("10.77.0.1/16"), six),
        (daemon.resolvers_inside[0].packed, daemon.resolvers_inside[1].packed),
        None if daemon.resolver_inside is None else daemon.resolver_inside.answer,
    )
    nursery.start_soon(kernel.run)
    device: Any = kernel
    daemon.guests.admit(device, reading, place)
    made = Inside(linked, kernel, life)
    yield made
    made.exit()
    await until(lambda: not made.count)
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(inside: Inside) -> AsyncIterator[tuple[Program, trio.SocketStream]]:
    """A program in there, and the service that it has reached."""
    async with service(inside.joined) as (listener, port):
        program = inside.kernel.connect(inside.server, port)
        with trio.fail_after(30):
            served = await listener.accept()
        async with served:
            yield program, served


def flows(joined: Joined) -> int:
    """How many there are at either end."""
    here = sum(len(mapping.flows) for mapping in joined.server.ports.values())
    return here + sum(len(mapping.flows) for mapping in joined.user.session.mappings)


async def test_a_program_in_there_reaches_a_service(inside: Inside) -> None:
    async with connected(inside) as (program, served):
        await until(lambda: "Connected" in program.said)
        program.write(b"question")
        with trio.fail_after(30):
            assert await served.receive_some(100) == b"question"
            await served.send_all(bytes(1 << 20))
            await until(lambda: len(program.read) == 1 << 20)
        program.shutdown()
        with trio.fail_after(30):
            assert await served.receive_some(100) == b""
        await served.aclose()
        await until(lambda: program.over)
    await until(lambda: not flows(inside.joined))


async def test_what_is_not_there_is_refused_in_there(inside: Inside) -> None:
    async with service(inside.joined) as (listener, port):
        await listener.aclose()
        programs = [inside.kernel.connect(inside.server, wanted) for wanted in (port, port ^ 1)]
        await until(lambda: all(program.over for program in programs))
        assert all("refused" in program.said[-1] for program in programs)


@pytest.mark.parametrize("to", ["contact", "all"])
async def test_datagrams_of_a_program_in_there(inside: Inside, to: str) -> None:
    with datagram_socket() as served:
        port = served.getsockname()[1]
        await inside.joined.offer(Protocol.UDP, port, "host")
        address = inside.server if to == "contact" else bytes((255,) * 4)
        with trio.fail_after(30):
            inside.kernel.send(4000, address, port, b"question")
            question, sender = await served.recvfrom(100)
            assert question == b"question"
            await served.sendto(b"answer", sender)
        await until(lambda: inside.kernel.datagrams)
        [answer] = inside.kernel.datagrams
        assert (bytes(answer.payload), answer.source) == (b"answer", Endpoint(inside.server, port))


@pytest.mark.parametrize("question", ["server.tunfwd.internal A", "reverse PTR", "example.org A"])
async def test_names_are_answered_for_in_there(inside: Inside, question: str) -> None:
    name, kind = question.split()
    address = IPv4Address(inside.server)
    query = dns.message.make_query(address.reverse_pointer if name == "reverse" else name, kind)
    resolver = inside.joined.using.daemon.resolvers_inside[0]
    assert str(resolver) == "10.77.0.53"
    inside.kernel.send(4000, resolver.packed, 53, query.to_wire())
    await until(lambda: inside.kernel.datagrams)
    answer = dns.message.from_wire(bytes(inside.kernel.datagrams[0].payload))
    said = [str(record) for rrset in answer.answer for record in rrset]
    assert said == {"A": [str(address)], "PTR": ["server.tunfwd.internal."]}[kind] * (name != "example.org")


@pytest.mark.parametrize("how", ["exit", "the device is lost"])
async def test_with_the_program_all_ends_that_it_began(inside: Inside, how: str) -> None:
    with datagram_socket() as served:
        port = served.getsockname()[1]
        await inside.joined.offer(Protocol.UDP, port, "host")
        async with connected(inside) as (program, stream):
            inside.kernel.send(4000, inside.server, port, b"question")
            with trio.fail_after(30):
                await served.recv(100)
            await until(lambda: "Connected" in program.said and flows(inside.joined) == 4)
            match how:
                case "exit":
                    inside.exit()
                case _:
                    inside.kernel.lose()
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
                await stream.receive_some(1)
            await until(lambda: not flows(inside.joined))
            assert inside.kernel.closed
            assert not inside.count


async def test_a_mistake_is_one_programs_loss(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patched:
        patched.setattr("tunfwd.daemon.datapath.outbound.OutboundFlows.incoming", wrong)
        program = inside.kernel.connect(inside.server, 80)
        await until(lambda: program.over)
    async with connected(inside):
        assert inside.count == 1


# -- what `tunfwd run` asks for


async def ask(joined: Joined, *descriptors: int, user: int = ME, **params: object) -> dict[str, Any]:
    dispatcher = Dispatcher()
    RunCommands(joined.using.daemon).register(dispatcher)
    held = passed.Passed(user)
    rights = array("i", descriptors).tobytes()
    held.take_in([(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with held.offered():
        return dict(await dispatcher(api.RUN.name, {"mtu": 1500, **params}))


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_what_is_no_device_is_refused_and_closed(linked: Joined) -> None:
    for count in (0, 1, 2, 3, 4):
        descriptors = [os.eventfd(0) for _ in range(count)]
        expected = "a device and a socket are to be passed"
        if count == 4:
            descriptors, expected = list(os.pipe()), "no TUN device was passed: "
        with pytest.raises(UserError, match=expected):
            await ask(linked, *descriptors)
        assert not any(map(is_open, descriptors))


class Some:
    """Only one user's programs reach contacts."""

    def __init__(self, user: int) -> None:
        self._user = user

    def allows(self, *_: object) -> bool:
        return False

    def permits(self, user: int) -> bool:
        return user == self._user


async def test_a_user_whom_the_configuration_does_not_name_runs_nothing(linked: Joined) -> None:
    linked.using.daemon.datapath.admission = Some(1000)
    descriptors = os.eventfd(0), os.eventfd(0)
    with pytest.raises(UserError, match=r"\[network\] users does not name you") as refused:
        await ask(linked, *descriptors, user=0)
    assert refused.value.code == "denied"
    assert not any(map(is_open, descriptors))
    with pytest.raises(UserError, match="no TUN device was passed"):
        await ask(linked, *os.pipe(), user=1000)


async def test_there_is_a_bound(linked: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_GUESTS", 0)
    descriptors = os.eventfd(0), os.eventfd(0)
    with pytest.raises(UserError, match="0 programs are run already"):
        await ask(linked, *descriptors)
    assert not any(map(is_open, descriptors))


async def test_a_device_is_told_what_it_is_to_be_like(
    linked: Joined, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PassedKernel(3)
    monkeypatch.setattr(commands, "PassedDevice", lambda *_, **__: kernel)
    life, theirs = os.pipe()
    place = await ask(linked, os.eventfd(0), life)
    own = linked.using.daemon.contacts.own.among_friends
    assert own.address is not None
    assert place == {
        "address": f"10.{str(own.address).partition('.')[2]}/16",
        "address6": f"{own.address6}/48",
        "resolver": ["10.77.0.53", str(linked.using.daemon.book.resolver6)],
        "domain": "tunfwd.internal",
    }
    os.close(theirs)
    await until(lambda: kernel.closed)
    nursery.cancel_scope.cancel()
