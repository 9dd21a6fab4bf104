"""Which users reach the device, with the kernel's nf_tables."""

from __future__ import annotations

import subprocess

import pytest

from tunfwd.tun.admission import admitting, find_users
from tunfwd.tun.device import Device
from tunfwd.tun.network import NetworkError

from .namespace import ip
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


def as_user(uid: int, code: str, *arguments: str) -> list[str]:
    return ["setpriv", f"--reuid={uid}", "--clear-groups", "/usr/bin/python3", "-c", code, *arguments]


def ask(uid: int, address: str) -> str:
    done = subprocess.run(as_user(uid, ASK, address), capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("address", ["10.77.3.9", "fd12:3456:789a::9"])
def test_only_these_users_reach_contacts(device: Device, address: str) -> None:
    with admitting(device.name, {1234}):
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
    with admitting(device.name, set()):
        assert ask(1235, "192.0.2.9") == "sent"
        assert ask(1235, "127.0.0.1") == "sent"
        assert ask(1235, "10.77.0.1") == "sent"  # ours, by the loopback


def test_services_answer_contacts_whoever_runs_them(device: Device) -> None:
    with (
        admitting(device.name, set()),
        subprocess.Popen(as_user(1235, SERVE), stdout=subprocess.PIPE) as service,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"question")])
        assert service.wait(10) == 0
        assert [frame[-6:] for frame in device.read()] == [b"answer"]


def test_the_table_has_one_owner(device: Device) -> None:
    with (
        admitting(device.name, {1234}),
        pytest.raises(NetworkError, match=r"\[network\] users takes"),
        admitting(device.name, {1235}),
    ):
        pass
    with admitting(device.name, {1235}):
        pass


def test_users_by_name() -> None:
    assert find_users(["root", "nobody"]) == {0, 65534}
    with pytest.raises(NetworkError, match="there is no user 'no-such-user'"):
        find_users(["root", "no-such-user"])
