"""The addresses by which contacts know this machine, and the routes that have programs speak from them."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.tun.keeper import Keeper
from tunfwd.tun.sources import MAX_SOURCES, Source, decode, encode
from tunfwd.tun.upkeep import Layout, inspect

from .namespace import ip
from .test_upkeep import report, soon

RANGES = (IPv4Network("10.77.0.0/16"), IPv6Network("fd12:3456:789a::/48"))


def source(destination: str, address: str) -> Source:
    return Source(ip_network(destination), ip_address(address))


FRIENDS = (source("10.77.0.0/16", "10.77.4.4"), source("fd12:3456:789a::/48", "fd12:3456:789a::44"))
GROUP = (source("10.77.5.5/32", "10.77.5.5"), source("fd12:3456:789a::55/128", "fd12:3456:789a::55"))
MEMBER = (source("10.77.6.6/32", "10.77.5.5"), source("fd12:3456:789a::66/128", "fd12:3456:789a::55"))


def test_what_is_told_is_understood() -> None:
    everything = (*FRIENDS, *GROUP, *MEMBER)
    assert decode(encode(everything), RANGES) == everything
    assert len(decode(encode([*GROUP] * MAX_SOURCES), RANGES)) == MAX_SOURCES


@pytest.mark.parametrize(
    "wrong",
    [
        source("10.77.0.0/16", "10.78.0.4"),  # an address outside
        source("10.78.0.0/16", "10.77.0.4"),  # another network
        source("0.0.0.0/0", "10.77.0.4"),
        source("10.77.0.0/17", "10.77.0.4"),  # a part
        source("8.8.8.8/32", "10.77.0.4"),
        source("10.77.6.6/32", "10.77.0.1"),  # the device's own, which is not to go
        source("10.77.6.6/32", "10.77.255.255"),
        source("fd13::1/128", "fd12:3456:789a::44"),
    ],
)
def test_what_lies_outside_is_refused(wrong: Source) -> None:
    with pytest.raises(ValueError, match="outside"):
        decode(encode([wrong]), RANGES)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(message: bytes) -> None:
    try:
        found = decode(message, RANGES)
    except ValueError:
        return
    assert all(any(one.address in network for network in RANGES) for one in found)


def tell(keeper: Keeper, *sources: Source) -> None:
    keeper._channel.send(encode(sources))


def speaks_from(address: str) -> str:
    """The address that the kernel chooses for a program that sends there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as program:
        program.connect((address, 9))
        return str(program.getsockname()[0])


def own(address: str) -> bool:
    try:
        return speaks_from(address) == address
    except OSError:
        return False


@pytest.mark.netns
def test_programs_speak_from_what_each_contact_knows(keeper: Keeper, layout: Layout) -> None:
    assert speaks_from("10.77.6.6") == "10.77.0.1"
    tell(keeper, *FRIENDS, *GROUP, *MEMBER)
    soon(lambda: not inspect(layout, (*FRIENDS, *GROUP, *MEMBER)))
    assert speaks_from("fd12:3456:789a::66") == "fd12:3456:789a::55"
    assert speaks_from("10.77.6.6") == "10.77.5.5"
    assert speaks_from("10.77.9.9") == "10.77.4.4"
    assert speaks_from("fd12:3456:789a::9") == "fd12:3456:789a::44"
    assert all(map(own, ("10.77.0.1", "10.77.4.4", "10.77.5.5", "fd12:3456:789a::44")))
    assert inspect(layout, (*FRIENDS, *GROUP, *MEMBER)) == []
    tell(keeper, *FRIENDS)  # we have left the group
    soon(lambda: not own("10.77.5.5"))
    assert speaks_from("10.77.6.6") == "10.77.4.4"
    soon(lambda: speaks_from("fd12:3456:789a::66") == "fd12:3456:789a::44")
    assert inspect(layout, FRIENDS) == []


@pytest.mark.netns
@pytest.mark.parametrize(
    "damage",
    [
        ("addr", "flush", "dev", "tunfwd0"),
        ("addr", "del", "10.77.5.5/32", "dev", "tunfwd0"),
        ("route", "del", "10.77.6.6"),
        ("-6", "route", "del", "fd12:3456:789a::66"),
        ("route", "flush", "proto", "116"),
        ("link", "set", "tunfwd0", "down"),
    ],
    ids=" ".join,
)
def test_they_are_put_back(keeper: Keeper, layout: Layout, damage: tuple[str, ...]) -> None:
    everything = (*FRIENDS, *GROUP, *MEMBER)
    tell(keeper, *everything)
    soon(lambda: not inspect(layout, everything))
    ip(*damage)
    assert report(keeper).startswith("tunfwd0 was changed; put back: ")
    soon(lambda: not inspect(layout, everything))


@pytest.mark.netns
def test_what_is_refused_changes_nothing(keeper: Keeper, layout: Layout) -> None:
    tell(keeper, *FRIENDS)
    soon(lambda: own("10.77.4.4"))
    keeper._channel.send(encode([source("10.78.6.6/32", "10.78.0.4")]))
    assert "refused" in report(keeper)
    keeper._channel.send(b"?")
    assert "refused" in report(keeper)
    assert own("10.77.4.4")
    assert keeper.alive
