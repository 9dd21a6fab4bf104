"""What leaves for all by another interface is copied into the device, by the kernel's nf_tables."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tunfwd.tun.capture import BURST, capturing
from tunfwd.tun.device import Device
from tunfwd.tun.upkeep import Layout
from tunfwd.wire import ip as packets
from tunfwd.wire import udp, vnet

from .conftest import OWN4, OWN6
from .namespace import ip

pytestmark = pytest.mark.netns

HERE = "192.0.2.1"
DENIED = {68, 5353}
TIME = 30.0  # s at most


@pytest.fixture
def lan(device: Device) -> Iterator[Device]:
    """Another interface, with the default route."""
    run("link add cap0 type veth peer name cap1")
    run(f"addr add {HERE}/24 broadcast 192.0.2.255 dev cap0")
    run("link set cap0 up")
    run("link set cap1 up")
    run("route add default via 192.0.2.254")
    yield device
    run("link del cap0")


def run(command: str) -> None:
    ip(*command.split())


def send(destination: str, port: int, *, count: int = 1) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for number in range(count):
            sender.sendto(b"%s:%d %d" % (destination.encode(), port, number), (destination, port))


def copies(device: Device) -> list[tuple[str, str, int, bytes]]:
    """What the device has read by now: source, destination, port, payload."""
    found = []
    while frames := device.read():
        for frame in frames:
            packet = packets.parse(frame, vnet.LENGTH)
            if packet.version == 4 and packet.protocol == packets.UDP:
                datagram = udp.parse(frame, packet.payload, packet.end)
                ends = socket.inet_ntoa(packet.source), socket.inet_ntoa(packet.destination)
                found.append((*ends, datagram.destination_port, bytes(datagram.payload)))
    return found


@contextmanager
def capture(device: Device) -> Iterator[None]:
    with capturing(Layout.of(device.name, OWN4, OWN6), DENIED) as trouble:
        assert trouble is None
        yield


@pytest.mark.parametrize("destination", ["255.255.255.255", "192.0.2.255", "239.1.2.3", "224.0.2.60"])
def test_what_is_for_all_is_copied_and_leaves_as_before(lan: Device, destination: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
        wire.bind(("cap1", 0))
        wire.settimeout(TIME)
        with capture(lan):
            send(destination, 8303)
            payload = f"{destination}:8303 0".encode()
            assert copies(lan) == [(HERE, destination, 8303, payload)]
            assert payload in wire.recv(2000)


def test_the_rest_is_not(lan: Device) -> None:
    with capture(lan):
        for port in DENIED:
            send("255.255.255.255", port)
        send("192.0.2.7", 8303)
        send("127.255.255.255", 8303)
        assert copies(lan) == []
        send("10.77.255.255", 8303)  # goes there by itself, once
        assert [found[1] for found in copies(lan)] == ["10.77.255.255"]


def test_it_has_a_rate(lan: Device) -> None:
    with capture(lan):
        send("255.255.255.255", 8303, count=1000)
        assert BURST <= len(copies(lan)) < 500


def test_it_survives_a_flush_and_ends_with_its_owner(lan: Device) -> None:
    with capture(lan):
        subprocess.run(["nft", "flush", "ruleset"], check=False, timeout=10)
        send("255.255.255.255", 8303)
        assert len(copies(lan)) == 1
    send("255.255.255.255", 8303)
    assert copies(lan) == []
