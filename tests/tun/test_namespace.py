"""A network of its own: what is said where it cannot be had. tests/e2e/test_rootless.py has one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunfwd.tun import namespace
from tunfwd.tun.device import DeviceError, PassedDevice
from tunfwd.tun.privileges import PrivilegeError


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.EACCES, "chmod 0666 /dev/net/tun"),
        (errno.ENOENT, "modprobe tun"),
        (errno.EIO, r"tun\(4\)"),
    ],
)
def test_without_a_device_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, number: int, way: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PrivilegeError, match=f"{os.strerror(number)}.*{way}.*ALL_PROXY=socks5h://"):
        namespace.check()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSPC])
def test_without_user_namespaces_the_switches_are_named(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(name: str, *_: object, may_fail: tuple[int, ...] = ()) -> bool:
        assert name == "unshare"
        if number in may_fail:
            return False
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(namespace, "_call", refuse)
    with pytest.raises(PrivilegeError, match=r"user namespaces are switched off here.*max_user_namespaces"):
        namespace.enter()


def test_an_error_of_the_library_is_raised(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        namespace._call("mount", b"x", os.fsencode(tmp_path / "no"), b"tmpfs", 0, None)
    assert not namespace._call(
        "mount", b"x", os.fsencode(tmp_path / "no"), b"tmpfs", 0, None, may_fail=(errno.ENOENT,)
    )


def test_what_is_no_device_stays_open() -> None:
    descriptor = os.eventfd(0)
    with pytest.raises(DeviceError, match="no TUN device was passed"):
        PassedDevice(descriptor, 1500, udp_segmentation=False)
    os.close(descriptor)


@pytest.mark.netns
def test_a_device_that_is_passed_is_looked_at() -> None:
    import pytun  # noqa: PLC0415

    flags = pytun.IFF_TUN | pytun.IFF_NO_PI
    plain = pytun.TunTapDevice(flags=flags)
    try:
        with pytest.raises(DeviceError, match="other frames"):
            PassedDevice(plain.fileno(), 1500, udp_segmentation=False)
    finally:
        plain.close()
