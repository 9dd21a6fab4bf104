"""Connections through the device are ended by the kernel when it is gone, and only those."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from ipaddress import IPv6Interface

import pytest

from tunfwd.tun.connections import end_connections
from tunfwd.tun.device import Device
from tunfwd.tun.keeper import keep
from tunfwd.tun.upkeep import Layout

from .conftest import OWN4, OWN6
from .namespace import ip

pytestmark = pytest.mark.netns

CONTACT4, CONTACT6 = "10.77.3.9", str(OWN6.network[9])
ELSEWHERE = "192.0.2.1"
TIME = 30.0  # s at most


@pytest.fixture
def hosts(device: Device) -> None:
    """Addresses of contacts, answered by this kernel: there is no daemon here that would."""
    ip("link", "set", "lo", "up")
    for address in (f"{CONTACT4}/32", f"{ELSEWHERE}/32"):
        ip("addr", "add", address, "dev", "lo")
    ip("addr", "add", f"{CONTACT6}/128", "dev", "lo", "nodad")


def connection(stack: ExitStack, family: int, address: str) -> socket.socket:
    mapped = address.removeprefix("::ffff:")
    listener = stack.enter_context(
        socket.create_server((mapped, 0), family=family if mapped == address else socket.AF_INET)
    )
    client = stack.enter_context(socket.socket(family))
    client.connect((address, listener.getsockname()[1]))
    stack.enter_context(listener.accept()[0])
    client.settimeout(TIME)
    return client


def was_ended(client: socket.socket, within: float = TIME) -> bool:
    client.settimeout(within)
    try:
        client.recv(1)
    except (ConnectionAbortedError, ConnectionResetError):
        return True
    except TimeoutError:
        pass
    return False


def test_connections_to_contacts_end_and_no_others(hosts: None) -> None:
    with ExitStack() as stack:
        to_contacts = [
            connection(stack, socket.AF_INET, CONTACT4),
            connection(stack, socket.AF_INET6, CONTACT6),
            connection(stack, socket.AF_INET6, f"::ffff:{CONTACT4}"),
        ]
        others = [
            connection(stack, socket.AF_INET, str(OWN4.ip)),
            connection(stack, socket.AF_INET, ELSEWHERE),
            connection(stack, socket.AF_INET, "127.0.0.1"),
        ]
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.connect((CONTACT4, 9))
        assert end_connections((OWN4, OWN6)) >= len(to_contacts)
        assert all(map(was_ended, to_contacts))
        assert not any(was_ended(client, 0.1) for client in (*others, datagrams))


def test_without_any_nothing_happens(hosts: None) -> None:
    with ExitStack() as stack:
        client = connection(stack, socket.AF_INET, CONTACT4)
        assert end_connections((IPv6Interface("fd00::1/48"),)) == 0
        assert not was_ended(client, 0.1)


@pytest.mark.parametrize("how", ["the device goes", "the daemon goes"])
def test_the_keeper_ends_them(hosts: None, device: Device, how: str) -> None:
    keeper = keep(Layout.of(device.name, OWN4, OWN6), lambda: None)
    try:
        with ExitStack() as stack:
            client = connection(stack, socket.AF_INET, CONTACT4)
            if how == "the device goes":
                ip("link", "delete", device.name)
            else:
                keeper.close()
            assert was_ended(client)
    finally:
        keeper.close()
        os.waitpid(keeper.pid, 0)
