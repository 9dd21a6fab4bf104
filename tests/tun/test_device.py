import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from tunfwd.tun.device import OFFLOADS, READ_FRAMES, Device, DeviceError, DeviceLost, Offload

from .namespace import ip

pytestmark = pytest.mark.netns

TIME = 30.0  # s at most
NO_OFFLOAD = bytes(10)  # virtio_net_hdr


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(kind: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHH", kind, 0, 0, 0x1234, 1)
    return struct.pack("!BBHHH", kind, 0, checksum(header + payload), 0x1234, 1) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    fields = (0x45, 0, 20 + len(payload), 1, 0, 64, protocol)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", *fields, 0) + addresses
    return struct.pack("!BBHHHBBH", *fields, checksum(header)) + addresses + payload


def udp(source: str, destination: str, payload: bytes, port: int = 5000) -> bytes:
    """A UDP packet without a checksum."""
    return ipv4(source, destination, 17, struct.pack("!HHHH", 9, port, 8 + len(payload), 0) + payload)


def read_all(device: Device, within: float = TIME) -> list[bytes]:
    frames: list[bytes] = []
    while select.select([device], [], [], within)[0]:
        frames += device.read()
        within = 0.05
    return frames


def flood(count: int, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(size), ("10.77.3.9", 9))


# Frames


def test_an_idle_device_is_silent(device: Device) -> None:
    """No router solicitations, no multicast reports: nothing the netstack would have to ignore."""
    assert read_all(device, within=2.5) == []


def test_ping_through_the_device(device: Device) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as application:
        application.settimeout(TIME)
        application.sendto(echo(8, b"are you there?!!"), ("10.77.3.9", 0))
        (frame,) = read_all(device)
        header, packet = frame[:10], frame[10:]
        assert header[:2] == bytes(2)
        assert packet[12:20] == socket.inet_aton("10.77.0.1") + socket.inet_aton("10.77.3.9")
        assert packet[20:] == echo(8, b"are you there?!!")
        answer = ipv4("10.77.3.9", "10.77.0.1", 1, echo(0, b"are you there?!!"))
        assert device.write([NO_OFFLOAD, answer[:20], answer[20:28], answer[28:]])
        received = application.recv(2048)
        assert received[20:] == echo(0, b"are you there?!!")
    assert device.statistics.frames_read == device.statistics.frames_written == 1
    assert device.statistics.bytes_read == device.statistics.bytes_written == 44


def test_ipv6_reaches_the_device(device: Device) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as application:
        application.sendto(b"hello", ("fd12:3456:789a::9", 9))
    (frame,) = read_all(device)
    assert frame[10] >> 4 == 6
    assert frame[18:34] == socket.inet_pton(socket.AF_INET6, "fd12:3456:789a::1")
    assert frame[-5:] == b"hello"


def test_every_piece_may_be_any_buffer(device: Device) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as application:
        application.bind(("10.77.0.1", 5000))
        application.settimeout(TIME)
        packet = udp("10.77.3.9", "10.77.0.1", b"to whom it may concern")
        assert device.write(
            [bytearray(NO_OFFLOAD), memoryview(packet)[:28], packet[28:30], memoryview(packet)[30:]]
        )
        assert application.recvfrom(100) == (b"to whom it may concern", ("10.77.3.9", 9))


def test_a_super_segment_comes_whole(device: Device) -> None:
    """With TSO one frame is what would be many packets: above the MTU, with the MSS in its header."""
    assert Offload.TSO4 in device.offload
    with socket.socket() as application:
        application.setblocking(False)
        application.connect_ex(("10.77.3.9", 80))
        (syn,) = read_all(device)
        port, sequence = struct.unpack("!H2xI", syn[30:38])
        acknowledge(device, port, sequence + 1, syn=True)
        read_all(device)
        assert application.send(bytes(1 << 16)) == 1 << 16
        frames = read_all(device)
        assert max(map(len, frames)) > 10 + device.mtu
        flags, gso_type, _, gso_size = struct.unpack_from("<BBHH", max(frames, key=len))
        assert (flags, gso_type, gso_size) == (1, 1, 1460)  # NEEDS_CSUM, GSO_TCPV4


def acknowledge(device: Device, port: int, sequence: int, syn: bool) -> None:
    options = struct.pack("!BBHBBBB", 2, 4, 1460, 1, 3, 3, 8)  # MSS, NOP, window scale
    header = struct.pack("!HHIIBBHHH", 80, port, 1000, sequence, 7 << 4, 0x12, 65_535, 0, 0) + options
    pseudo = (
        socket.inet_aton("10.77.3.9") + socket.inet_aton("10.77.0.1") + struct.pack("!HH", 6, len(header))
    )
    segment = header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]
    assert device.write([NO_OFFLOAD, ipv4("10.77.3.9", "10.77.0.1", 6, segment)])


@pytest.mark.interpreted
def test_an_older_kernel_offloads_less(namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    best = Device.open("tunfwd0")
    assert best.offload == 0x6F
    monkeypatch.setattr("tunfwd.tun.device.OFFLOADS", (Offload(1 << 16), *OFFLOADS[1:]))  # one that none has
    older = Device.open("tunfwd0")
    assert older.offload == 0x0F
    older.close()
    best.close()


def test_no_descriptors_left(namespace: None) -> None:
    hoard = []
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError:
        pass
    try:
        with pytest.raises(DeviceError, match="Too many open files"):
            Device.open("tunfwd0")
    finally:
        for descriptor in hoard:
            os.close(descriptor)


def test_a_read_is_bounded_and_the_rest_is_next(device: Device) -> None:
    flood(READ_FRAMES + 44, 20)
    assert len(device.read()) == READ_FRAMES
    assert len(device.read()) == 44
    assert device.read() == []


def test_frames_stay_valid_after_further_reads(device: Device) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"first", ("10.77.3.9", 9))
        (first,) = device.read()
        sender.sendto(b"other", ("10.77.3.9", 9))
        (other,) = device.read()
    assert (first[-5:], other[-5:]) == (b"first", b"other")


def test_the_queue_is_long_enough_for_a_burst(device: Device) -> None:
    flood(5000, 20)
    assert len(read_all(device)) == 5000


# Bad frames


@pytest.mark.parametrize(
    "frame",
    [
        [],
        [b""],
        [b"short"],
        [NO_OFFLOAD],
        [NO_OFFLOAD, b"\x45"],
        [NO_OFFLOAD, b"\x95" + bytes(40)],
        [b"\x01\x01" + b"\xff" * 8, bytes(60)],
        [b"\xff" * 10, udp("10.77.3.9", "10.77.0.1", b"x")],
        [NO_OFFLOAD, bytes(70_000)],
        [NO_OFFLOAD] + [b"x"] * 2000,
    ],
    ids=lambda frame: f"{len(frame)}x{sum(map(len, frame))}",
)
def test_a_malformed_frame_is_dropped(device: Device, frame: list[bytes]) -> None:
    assert device.write(frame)
    assert device.statistics.dropped_invalid + device.statistics.frames_written <= 1
    assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"fine")])  # and the device still works
    assert device.statistics.frames_written >= 1


def test_random_frames_do_no_harm(device: Device) -> None:
    for _ in range(3000):
        assert device.write([os.urandom(10), os.urandom(40), os.urandom(20)])
    statistics = device.statistics
    assert statistics.dropped_invalid + statistics.frames_written == 3000
    assert statistics.dropped_invalid > 1000
    assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"fine")])


# Waiting


def test_waiting_for_a_frame(device: Device) -> None:
    with select.epoll() as waiting:
        waiting.register(device, select.EPOLLIN | select.EPOLLOUT)
        assert waiting.poll(0.1) == [(device.fileno(), select.EPOLLOUT)]
        flood(1, 10)
        assert waiting.poll(2) == [(device.fileno(), select.EPOLLIN | select.EPOLLOUT)]
        assert len(device.read()) == 1
        assert waiting.poll(0) == [(device.fileno(), select.EPOLLOUT)]


# Losing it


def test_a_device_that_is_deleted_is_lost(device: Device) -> None:
    with select.epoll() as waiting:
        waiting.register(device, select.EPOLLIN)
        ip("link", "delete", device.name)
        assert waiting.poll(2)
    with pytest.raises(DeviceLost, match="tunfwd0"):
        device.read()
    with pytest.raises(DeviceLost, match="tunfwd0"):
        device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"x")])


def test_an_interface_that_is_down_drops(device: Device) -> None:
    ip("link", "set", device.name, "down")
    assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"x")])
    assert device.read() == []
    ip("link", "set", device.name, "up")
    assert device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"x")])
    assert (device.statistics.dropped_down, device.statistics.frames_written) == (1, 1)


# Names


def test_a_taken_name_gives_way_to_the_next_number(device: Device) -> None:
    second = Device.open("tunfwd0")
    third = Device.open("tunfwd0", mtu=1400)
    assert (device.name, second.name, third.name) == ("tunfwd0", "tunfwd1", "tunfwd2")
    assert "mtu 1400" in ip("link", "show", "tunfwd2")
    second.close()
    again = Device.open("tunfwd%d")
    assert again.name == "tunfwd1"
    again.close()
    third.close()


def test_a_persistent_device_is_somebody_else_s(namespace: None) -> None:
    ip("tuntap", "add", "tunfwd0", "mode", "tun")
    device = Device.open("tunfwd0")
    assert device.name == "tunfwd1"
    device.close()
    assert "tunfwd0" in ip("link", "show")
    assert "tunfwd1" not in ip("link", "show")


def test_a_taken_name_without_a_number(namespace: None) -> None:
    with pytest.raises(DeviceError, match="interface named lo exists"):
        Device.open("lo")


@pytest.mark.parametrize("name", ["with space", "a/b", "x" * 16, "%s", "..", "nul\x00", "\udcff"])
def test_a_bad_name(namespace: None, name: str) -> None:
    with pytest.raises(DeviceError, match="name"):
        Device.open(name)


@pytest.mark.parametrize("mtu", [0, 67, 65_536, -1])
def test_a_bad_mtu(namespace: None, mtu: int) -> None:
    with pytest.raises(DeviceError, match="MTU"):
        Device.open("tunfwd0", mtu)
    assert "tunfwd0" not in ip("link", "show")


# The end

HOLD = """
import sys
from tests.tun.conftest import OWN4, OWN6
from tunfwd.tun import network
from tunfwd.tun.device import Device
device = Device.open("tunfwd0")
network.configure(device.name, OWN4, OWN6)
print("up", flush=True)
sys.stdin.read()
"""


def test_kill_leaves_nothing(namespace: None) -> None:
    before = ip("route", "show", "table", "all")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        assert "10.77.0.0/16 dev tunfwd0" in ip("route")
        holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + TIME
    while "tunfwd0" in ip("link") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "tunfwd0" not in ip("link")
    assert ip("route", "show", "table", "all") == before
    Device.open("tunfwd0").close()


def test_children_do_not_inherit_the_device(device: Device) -> None:
    with subprocess.Popen(["sleep", "5"], close_fds=False) as child:
        device.close()
        assert "tunfwd0" not in ip("link")
        child.kill()
