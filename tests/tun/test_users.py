"""Whose sockets may reach contacts, where the kernel is asked: its own sockets, and those of another user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tunfwd.tun.listeners import Listeners
from tunfwd.tun.users import KNOWN, Users
from tunfwd.wire.packets import Protocol

ME = os.getuid()
OTHER = 47003  # nobody else's

TALK = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
kind = socket.SOCK_STREAM if sys.argv[2] == "TCP" else socket.SOCK_DGRAM
made = socket.socket(socket.AF_INET, kind)
made.connect(("127.0.0.1", int(sys.argv[3])))
print(made.getsockname()[1], flush=True)
sys.stdin.read()
"""

Place = tuple[bytes, int]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    with Listeners() as made:
        yield made


def place_of(name: tuple[str, int]) -> Place:
    return socket.inet_aton(name[0]), name[1]


@pytest.fixture(params=Protocol)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    assert isinstance(request.param, Protocol)
    return request.param


@pytest.fixture
def ours(protocol: Protocol) -> Iterator[socket.socket]:
    """What stands at a contact's port."""
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as made:
        made.bind(("127.0.0.1", 0))
        if protocol is Protocol.TCP:
            made.listen()
        yield made


def allows(listeners: Listeners, protocol: Protocol, program: Place, ours: socket.socket) -> list[bool]:
    """Whether me, the other, both, and nobody may."""
    sets: list[set[int]] = [{ME}, {OTHER}, {ME, OTHER}, set()]
    port = place_of(ours.getsockname())
    return [Users(listeners, users).allows(protocol, program, port) for users in sets]


def test_a_program_of_ones_own(listeners: Listeners, protocol: Protocol, ours: socket.socket) -> None:
    with socket.socket(ours.family, ours.type) as program:
        program.connect(ours.getsockname())
        place = place_of(program.getsockname())
        assert allows(listeners, protocol, place, ours) == [True, False, True, False]
    assert not any(allows(listeners, protocol, place, ours)), "it is closed: nobody knows whose it was"


def test_a_socket_that_sends_unconnected(listeners: Listeners) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
    ):
        ours.bind(("127.0.0.1", 0))
        program.sendto(b"x", ours.getsockname())
        place = b"\x7f\0\0\1", program.getsockname()[1]
        assert allows(listeners, Protocol.UDP, place, ours) == [True, False, True, False]


def test_a_socket_of_ipv6_that_speaks_ipv4(
    listeners: Listeners, protocol: Protocol, ours: socket.socket
) -> None:
    with socket.socket(socket.AF_INET6, ours.type) as program:
        program.connect(("::ffff:127.0.0.1", ours.getsockname()[1]))
        place = b"\x7f\0\0\1", program.getsockname()[1]
        assert allows(listeners, protocol, place, ours) == [True, False, True, False]


def test_one_who_speaks_to_another_port_does_not_count(
    listeners: Listeners, protocol: Protocol, ours: socket.socket
) -> None:
    with socket.socket(ours.family, ours.type) as program, socket.socket(ours.family, ours.type) as other:
        other.bind(("127.0.0.1", 0))
        if protocol is Protocol.TCP:
            other.listen()
        program.connect(other.getsockname())
        assert not any(allows(listeners, protocol, place_of(program.getsockname()), ours))


def test_an_answer_about_datagrams_holds_for_a_moment(listeners: Listeners) -> None:
    now = 0.0
    users = Users(listeners, {ME}, lambda: now)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        port = place_of(ours.getsockname())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.connect(ours.getsockname())
            place = place_of(program.getsockname())
            assert users.allows(Protocol.UDP, place, port)
        now = KNOWN / 2
        assert users.allows(Protocol.UDP, place, port)
        now = KNOWN + 1
        assert not users.allows(Protocol.UDP, place, port)


@pytest.mark.netns  # root, to be another
def test_a_program_of_another_user(listeners: Listeners, protocol: Protocol, ours: socket.socket) -> None:
    command = [sys.executable, "-c", TALK, str(OTHER), protocol.name, str(ours.getsockname()[1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as talking:  # type: ignore[call-overload]
        assert talking.stdout is not None
        place = b"\x7f\0\0\1", int(talking.stdout.readline())
        assert allows(listeners, protocol, place, ours) == [False, True, True, False]
        talking.communicate("")
