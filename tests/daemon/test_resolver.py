"""Questions about names, as programs of this machine ask them."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.daemon.resolver import HEADER, PAYLOAD, Resolver
from tunfwd.netstack.types import Endpoint
from tunfwd.wire.packets import Protocol

from .joined import Joined
from .simulated import Daemon
from .test_naming import join_foreign


def ask(
    daemon: Daemon, name: str, kind: str = "A", *, stream: bool = True, **more: Any
) -> dns.message.Message:
    resolver = daemon.resolver
    assert resolver is not None
    query = dns.message.make_query(name, kind, **more)
    answer = resolver.answer(query.to_wire(), stream=stream)
    assert answer is not None
    response = dns.message.from_wire(answer)
    assert query.is_response(response)
    return response


def texts(response: dns.message.Message) -> list[str]:
    return [f"{dns.rdatatype.to_text(rrset.rdtype)} {one}" for rrset in response.answer for one in rrset]


async def test_a_friend() -> None:
    daemon = Daemon()
    bob = daemon.befriend("bob")
    answer = ask(daemon, "BOB.tunfwd.internal")
    assert texts(answer) == [f"A {bob.address}"]
    assert answer.flags & dns.flags.AA
    assert texts(ask(daemon, "bob.tunfwd.internal", "AAAA")) == [f"AAAA {bob.address6}"]
    assert bob.address is not None
    for address in (bob.address, bob.address6):
        assert texts(ask(daemon, address.reverse_pointer, "PTR")) == ["PTR bob.tunfwd.internal."]
    assert len(texts(ask(daemon, "bob.tunfwd.internal", "ANY"))) == 2
    daemon.contacts.rename(bob, "robert")
    assert ask(daemon, "bob.tunfwd.internal").rcode() == dns.rcode.NXDOMAIN
    assert texts(ask(daemon, "robert.tunfwd.internal")) == [f"A {bob.address}"]


async def test_a_member_and_ourselves() -> None:
    daemon = Daemon()
    group = join_foreign(daemon, "lan party")
    player = daemon.join(group, 1, "player1")
    own, in_group = daemon.contacts.own.among_friends, daemon.contacts.own.in_group(group)
    assert in_group is not None
    assert texts(ask(daemon, "player1.lan-party.tunfwd.internal")) == [f"A {player.address}"]
    assert texts(ask(daemon, "self.tunfwd.internal")) == [f"A {own.address}"]
    assert texts(ask(daemon, "us.lan-party.tunfwd.internal")) == [f"A {in_group.address}"]
    assert in_group.address is not None
    assert texts(ask(daemon, in_group.address.reverse_pointer, "PTR")) == [
        "PTR us.lan-party.tunfwd.internal."
    ]
    nothing = ask(daemon, "lan-party.tunfwd.internal")  # it has members below it
    assert (nothing.rcode(), texts(nothing)) == (dns.rcode.NOERROR, [])


async def test_the_resolver_itself() -> None:
    daemon = Daemon()
    assert texts(ask(daemon, "tunfwd.internal")) == ["A 10.77.0.53"]
    assert texts(ask(daemon, "53.0.77.10.in-addr.arpa", "PTR")) == ["PTR tunfwd.internal."]
    for zone in ("tunfwd.internal", "77.10.in-addr.arpa", "7.7.6.6.e.6.5.7.4.7.d.f.ip6.arpa"):
        assert ask(daemon, zone, "SOA").answer
        assert ask(daemon, zone, "NS").answer


@pytest.mark.parametrize(
    ("name", "kind", "code", "authority"),
    [
        ("nobody.tunfwd.internal", "A", dns.rcode.NXDOMAIN, True),
        ("bob.tunfwd.internal", "MX", dns.rcode.NOERROR, True),
        ("_tcp.bob.tunfwd.internal", "SRV", dns.rcode.NOERROR, True),
        ("_ssh._tcp.bob.tunfwd.internal", "SRV", dns.rcode.NXDOMAIN, True),
        ("9.9.77.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN, True),
        ("9.77.10.in-addr.arpa", "PTR", dns.rcode.NOERROR, True),
        ("x.y.77.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN, True),
        ("example.com", "A", dns.rcode.NXDOMAIN, False),
        ("1.78.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN, False),
        (".", "NS", dns.rcode.NXDOMAIN, False),
    ],
)
async def test_what_is_not_there(name: str, kind: str, code: int, authority: bool) -> None:
    daemon = Daemon()
    daemon.befriend("bob")
    answer = ask(daemon, name, kind)
    assert answer.rcode() == code
    assert not answer.answer
    assert bool(answer.authority) is bool(answer.flags & dns.flags.AA) is authority


async def test_services_that_were_accepted() -> None:
    daemon = Daemon()
    bob = daemon.befriend("bob")
    daemon.offers.request(bob, Protocol.TCP, 22, "shell", 2222)
    for service in ("_shell._tcp", "_ssh._tcp"):
        answer = ask(daemon, f"{service}.bob.tunfwd.internal", "SRV")
        assert texts(answer) == ["SRV 0 0 2222 bob.tunfwd.internal."]
        assert len(answer.additional) == 2
    assert ask(daemon, "_ssh._udp.bob.tunfwd.internal", "SRV").rcode() == dns.rcode.NXDOMAIN


async def test_what_is_too_long_is_asked_for_by_tcp() -> None:
    daemon = Daemon()
    bob = daemon.befriend("bob")
    for number in range(60):
        daemon.offers.request(bob, Protocol.TCP, 1000 + number, "many", None)
    name = "_many._tcp.bob.tunfwd.internal"
    short = ask(daemon, name, "SRV", stream=False)
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert len(texts(ask(daemon, name, "SRV"))) == 60
    edns = ask(daemon, name, "SRV", stream=False, use_edns=0, payload=4096)
    assert edns.flags & dns.flags.TC
    assert edns.payload == PAYLOAD
    assert ask(daemon, "bob.tunfwd.internal", use_edns=1).rcode() == dns.rcode.BADVERS


def resolver() -> Resolver:
    daemon = Daemon()
    assert daemon.resolver is not None
    return daemon.resolver


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: b"\0\1\1\0\0\1\0\0\0\0\0\0" + tail))
def test_garbage_is_answered_or_not_and_never_raises(data: bytes) -> None:
    answer = resolver().answer(data, stream=False)
    if answer is not None:
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        assert len(answer) >= HEADER


def test_answers_are_not_answered() -> None:
    response = dns.message.make_response(dns.message.make_query("bob.tunfwd.internal", "A"))
    assert resolver().answer(response.to_wire(), stream=False) is None


async def test_programs_ask_through_the_device(autojump_clock: trio.testing.MockClock) -> None:
    """At port 53 of the resolver alone; hosts that are not this machine's are not answered."""
    async with Joined.running() as joined:
        kernel, daemon = joined.using.kernel, joined.using.daemon
        query = dns.message.make_query("tunfwd.internal", "A").to_wire()
        kernel.send(5000, daemon.book.resolver.packed, 53, query)
        await trio.sleep(0.5)
        [event] = kernel.datagrams
        assert event.source == Endpoint(daemon.book.resolver.packed, 53)
        assert str(dns.message.from_wire(bytes(event.payload)).answer[0][0]) == "10.77.0.53"
        kernel.send(5001, daemon.book.resolver.packed, 54, query)
        await trio.sleep(0.5)
        assert len(kernel.datagrams) == len(kernel.refused) == 1
        kernel.stack.send_datagram(
            Endpoint(b"\x0a\0\0\x09", 5002), Endpoint(daemon.book.resolver.packed, 53), query
        )
        kernel.wake()
        await trio.sleep(0.5)
        assert len(kernel.datagrams) == 1
        program = kernel.connect(daemon.book.resolver.packed, 53)
        await trio.sleep(0.5)
        program.write((len(query).to_bytes(2, "big") + query) * 3)
        await trio.sleep(0.5)
        size = int.from_bytes(program.read[:2], "big")
        assert len(program.read) == 3 * (2 + size)
        program.shutdown()
        await trio.sleep(0.5)
        assert program.over
        assert not daemon.datapath.nameserver._streams
