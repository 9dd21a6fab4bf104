"""How many frames are read at a time, of a socket in the place of the device: it has frames, too."""

import socket
from collections.abc import Iterator

import pytest

from tunfwd.tun.device import LOOK_AGAIN, READ_FRAMES, SMALL_FRAME, Device, _Passed

Kernel = tuple[Device, socket.socket]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield Device(_Passed(ours.fileno(), "tun"), 1500), theirs


def sizes(device: Device) -> list[int]:
    return [len(frame) for frame in device.read()]


def test_all_that_waits(kernel: Kernel) -> None:
    device, theirs = kernel
    for size in (60, 70, 1400):
        theirs.send(bytes(size))
    assert sizes(device) == [60, 70, 1400]
    assert sizes(device) == []


def test_one_at_a_time_is_read_as_one(kernel: Kernel) -> None:
    device, theirs = kernel
    for _ in range(3 * LOOK_AGAIN):
        theirs.send(bytes(60))
        assert sizes(device) == [60]
    assert sizes(device) == []


def test_many_are_soon_read_together_again(kernel: Kernel) -> None:
    device, theirs = kernel
    for _ in range(5):
        theirs.send(bytes(60))
        assert sizes(device) == [60]
    for _ in range(2 * LOOK_AGAIN):
        theirs.send(bytes(60))
    reads = []
    while found := sizes(device):
        reads.append(len(found))
    assert sum(reads) == 2 * LOOK_AGAIN
    assert len(reads) <= LOOK_AGAIN
    for _ in range(10):
        theirs.send(bytes(60))
    assert sizes(device) == [60] * 10


def test_bulk_is_read_together_at_once(kernel: Kernel) -> None:
    device, theirs = kernel
    for _ in range(2):
        theirs.send(bytes(60))
        assert sizes(device) == [60]
    theirs.send(bytes(SMALL_FRAME))
    theirs.send(bytes(SMALL_FRAME))
    assert sizes(device) == [SMALL_FRAME, SMALL_FRAME]


def test_not_too_many(kernel: Kernel) -> None:
    device, theirs = kernel
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.setblocking(False)
    sent = 0
    try:
        while sent < READ_FRAMES + 10:
            theirs.send(b"x")
            sent += 1
    except BlockingIOError:
        pytest.skip(f"no more than {sent} fit here")
    assert len(sizes(device)) == READ_FRAMES
    assert len(sizes(device)) == 10
