"""The kernel's table of listening sockets, in a namespace of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from tunfwd.tun.listeners import Listener, Listeners, local_interface
from tunfwd.wire.packets import Protocol

pytestmark = pytest.mark.netns

KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
PORT = 8080
IPV6_V6ONLY = 26


@pytest.fixture
def opened(namespace: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(
    stack: ExitStack, protocol: Protocol, address: str, *, port: int = PORT, v6only: bool = True
) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = stack.enter_context(socket.socket(family, KINDS[protocol]))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_V6ONLY, v6only)
    made.bind((address, port))
    if protocol is Protocol.TCP:
        made.listen()
    return made


@pytest.mark.parametrize("protocol", list(Protocol), ids=lambda protocol: protocol.name)
def test_every_listener_is_found_with_its_owner(opened: ExitStack, protocol: Protocol) -> None:
    with Listeners() as table:
        assert table.at(protocol, PORT) == []
        four = bound(opened, protocol, "127.0.0.1")
        six = bound(opened, protocol, "::1")
        bound(opened, protocol, "127.0.0.1", port=PORT + 1)
        assert {PORT, PORT + 1} <= table.ports(protocol)
        assert set(table.at(protocol, PORT)) == {
            Listener(ip_address("127.0.0.1"), os.getuid(), os.fstat(four.fileno()).st_ino),
            Listener(ip_address("::1"), os.getuid(), os.fstat(six.fileno()).st_ino, v6only=True),
        }
        assert table.at(Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP, PORT) == []
        four.close()
        assert [str(listener.address) for listener in table.at(protocol, PORT)] == ["::1"]


def test_what_is_connected_does_not_listen(opened: ExitStack) -> None:
    with Listeners() as table:
        listener = bound(opened, Protocol.TCP, "127.0.0.1")
        client = opened.enter_context(socket.create_connection(("127.0.0.1", PORT)))
        opened.enter_context(listener.accept()[0])
        assert len(table.at(Protocol.TCP, PORT)) == 1
        bound(opened, Protocol.UDP, "127.0.0.1").connect(client.getsockname())
        assert table.at(Protocol.UDP, PORT) == []


@pytest.mark.parametrize(
    ("address", "v6only", "takes"),
    [
        ("0.0.0.0", False, {"127.0.0.1", "10.77.0.1"}),
        ("::", False, {"127.0.0.1", "10.77.0.1", "::1"}),
        ("::", True, {"::1"}),
        ("127.0.0.1", False, {"127.0.0.1"}),
        ("::ffff:127.0.0.1", False, {"127.0.0.1"}),
        ("::ffff:0.0.0.0", False, {"127.0.0.1", "10.77.0.1"}),
    ],
)
def test_what_a_listener_takes(opened: ExitStack, address: str, v6only: bool, takes: set[str]) -> None:
    """The kernel agrees: who connects there gets through."""
    subprocess.run(["ip", "address", "add", "10.77.0.1/16", "dev", "lo"], check=True, timeout=10)
    listener = bound(opened, Protocol.TCP, address, v6only=v6only)
    with Listeners() as table:
        [found] = table.at(Protocol.TCP, PORT)
    reached = set()
    for target in ("127.0.0.1", "10.77.0.1", "::1"):
        assert found.takes(ip_address(target), local_interface()) is (target in takes)
        try:
            socket.create_connection((target, PORT), timeout=30).close()
        except ConnectionRefusedError:
            continue
        listener.accept()[0].close()
        reached.add(target)
    assert reached == takes


def test_a_listener_on_one_interface(opened: ExitStack) -> None:
    made = bound(opened, Protocol.UDP, "0.0.0.0")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    with Listeners() as table:
        [found] = table.at(Protocol.UDP, PORT)
    assert found.interface == local_interface()
    assert not found.takes(ip_address("10.77.0.1"), found.interface + 1)


def test_it_takes_no_privilege(opened: ExitStack) -> None:
    """Also for the sockets of other users."""
    bound(opened, Protocol.TCP, "127.0.0.1")
    script = f"""
import os
from tunfwd.tun.listeners import Listeners
from tunfwd.wire.packets import Protocol
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print([listener.uid for listener in Listeners().at(Protocol.TCP, {PORT})])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == f"[{os.getuid()}]"
