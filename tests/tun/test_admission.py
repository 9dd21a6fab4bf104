"""Which users reach the device, and who passes for a contact, with the kernel's nf_tables."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tunfwd.tun.admission import admitting, find_users
from tunfwd.tun.device import Device
from tunfwd.tun.network import NetworkError
from tunfwd.tun.upkeep import Layout
from tunfwd.wire.checksum import checksum, pseudo_header_sum

from .conftest import OWN4, OWN6
from .namespace import ip, sysctl
from .test_device import NO_OFFLOAD, udp

pytestmark = pytest.mark.netns

ASK = """
import socket, sys
application = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
try:
    application.connect((sys.argv[1], 9)); application.send(b"question")
except OSError as error:
    print(error.strerror)
else:
    print("sent")
"""
SERVE = """
import socket
service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
service.bind(("10.77.0.1", 5000))
print("ready", flush=True)
question, contact = service.recvfrom(100)
service.sendto(b"answer", contact)
"""


def layout_of(device: Device) -> Layout:
    return Layout.of(device.name, OWN4, OWN6)


def as_user(uid: int, code: str, *arguments: str) -> list[str]:
    return ["setpriv", f"--reuid={uid}", "--clear-groups", "/usr/bin/python3", "-c", code, *arguments]


def ask(uid: int, address: str) -> str:
    done = subprocess.run(as_user(uid, ASK, address), capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("address", ["10.77.3.9", "fd12:3456:789a::9"])
def test_only_these_users_reach_contacts(device: Device, address: str) -> None:
    with admitting(layout_of(device), {1234}):
        assert ask(1234, address) == "sent"
        assert len(device.read()) == 1
        assert ask(1235, address) != "sent"
        assert ask(0, address) != "sent"
        assert device.read() == []
    assert ask(1235, address) == "sent"


def test_other_networks_are_as_they_were(device: Device) -> None:
    ip("link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    ip("addr", "add", "192.0.2.1/24", "dev", "lan0")
    for name in ("lan0", "lan1"):
        ip("link", "set", name, "up")
    with admitting(layout_of(device), set()):
        assert ask(1235, "192.0.2.9") == "sent"
        assert ask(1235, "127.0.0.1") == "sent"
        assert ask(1235, "10.77.0.1") == "sent"  # ours, by the loopback


def test_services_answer_contacts_whoever_runs_them(device: Device) -> None:
    with (
        admitting(layout_of(device), set()),
        subprocess.Popen(as_user(1235, SERVE), stdout=subprocess.PIPE) as service,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"question")])
        assert service.wait(10) == 0
        assert [frame[-6:] for frame in device.read()] == [b"answer"]


def test_the_table_has_one_owner(device: Device) -> None:
    with (
        admitting(layout_of(device), {1234}),
        pytest.raises(NetworkError, match=r"\[network\] users takes"),
        admitting(layout_of(device), {1235}),
    ):
        pass
    with admitting(layout_of(device), {1235}):
        pass


# Neighbours that pass for contacts

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
PORT = 5000
MAC = bytes.fromhex("020000000001")  # of lan0


@dataclass
class Neighbour:
    """The other end of lan0, at which this machine has 192.0.2.1 and 2001:db8::1."""

    raw: socket.socket

    def send(self, source: str, payload: bytes) -> None:
        """Send a service here a datagram, from any address."""
        destination = "2001:db8::1" if ":" in source else "192.0.2.1"
        if ":" in source:
            packet = udp6(source, destination, payload)
        else:
            packet = udp(source, destination, payload, PORT)
        kind = ETH_P_IPV6 if ":" in source else ETH_P_IP
        self.raw.send(MAC + bytes(6) + kind.to_bytes(2, "big") + packet)


def udp6(source: str, destination: str, payload: bytes) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, destination)
    length = 8 + len(payload)
    header = struct.pack("!HHHH", 9, PORT, length, 0)
    total = checksum(header + payload, pseudo_header_sum(*ends, 17, length))
    header = header[:6] + total.to_bytes(2, "big")
    return struct.pack("!IHBB", 6 << 28, length, 17, 64) + b"".join(ends) + header + payload


@pytest.fixture(params=[0, 2], ids=["rp_filter=0", "rp_filter=2"])
def neighbour(device: Device, request: pytest.FixtureRequest) -> Iterator[Neighbour]:
    ip("link", "add", "lan0", "address", MAC.hex(":"), "type", "veth", "peer", "name", "lan1")
    ip("addr", "add", "192.0.2.1/24", "dev", "lan0")
    ip("addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad")
    for name in ("lan0", "lan1"):
        ip("link", "set", name, "up")
    for which in ("all", "lan0"):
        sysctl(f"net.ipv4.conf.{which}.rp_filter", str(request.param))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("lan1", 0))
        yield Neighbour(raw)


@pytest.fixture
def service(device: Device) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as service:
        service.bind(("::", PORT))
        service.settimeout(20)
        yield service


STRANGERS = {4: "198.51.100.9", 6: "2001:db8::99"}
CONTACTS = {
    4: ["10.77.3.9", "10.77.0.0", "10.77.255.255"],
    6: ["fd12:3456:789a::9", "fd12:3456:789a:ffff::9"],
}
BESIDE = {4: ["10.76.255.255", "10.78.0.0"], 6: ["fd12:3456:7899:ffff::9", "fd12:3456:789b::9"]}


@pytest.mark.parametrize("users", [None, {0}], ids=["everybody", "users"])
@pytest.mark.parametrize("version", [4, 6])
def test_no_neighbour_passes_for_a_contact(
    device: Device, neighbour: Neighbour, service: socket.socket, version: int, users: set[int] | None
) -> None:
    """Others are heard as before, also those whose addresses are next to the range."""
    ip("route", "add", "default", "dev", "lan0")
    heard = [*BESIDE[version], STRANGERS[version]]
    with admitting(layout_of(device), users) as trouble:
        assert trouble is None
        for source in [*CONTACTS[version], *heard]:
            neighbour.send(source, source.encode())
        assert [service.recv(100).decode() for _ in heard] == heard
    neighbour.send(CONTACTS[version][0], b"it is what stood in the way")
    assert service.recv(100) == b"it is what stood in the way"


def test_contacts_and_programs_here_are_heard(device: Device, service: socket.socket) -> None:
    with admitting(layout_of(device), None) as trouble:
        assert trouble is None
        assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"a contact", PORT)])
        assert service.recv(100) == b"a contact"
        for family, own in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd12:3456:789a::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as program:
                program.bind((own, 0))
                program.sendto(b"a program here", (own, PORT))
            assert service.recv(100) == b"a program here"


def test_without_the_table_everybody_is_let_in_and_it_is_said(device: Device) -> None:
    layout = layout_of(device)
    with admitting(layout, None), admitting(layout, None) as trouble:
        assert trouble is not None
        assert trouble.startswith("takes nf_tables whose tables have owners (Linux 5.12): ")


def test_users_by_name() -> None:
    assert find_users(["root", "nobody"]) == {0, 65534}
    with pytest.raises(NetworkError, match="there is no user 'no-such-user'"):
        find_users(["root", "no-such-user"])
