"""A network of its own: what is said where it cannot be had. tests/e2e/test_rootless.py has one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("number", "setting", "way"),
    [
        (errno.ENOSPC, "user/max_user_namespaces = 0", "sysctl -w user.max_user_namespaces="),
        (errno.ENOSPC, "user/max_net_namespaces = 0", "sysctl -w user.max_net_namespaces="),
        (errno.ENOSPC, "user/max_user_namespaces = 9", "as many as there may be"),
        (errno.EPERM, "kernel/unprivileged_userns_clone = 0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (errno.EACCES, "kernel/apparmor_restrict_unprivileged_userns = 1", "a profile .*docs/rootless.md"),
        (errno.EPERM, "kernel/apparmor_restrict_unprivileged_userns = 0", "a container or a sandbox"),
        (errno.EINVAL, "", "CONFIG_USER_NS"),
        (errno.ENOMEM, "", r"user_namespaces\(7\)"),
    ],
)
def test_without_user_namespaces_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, setting: str, way: str
) -> None:
    if setting:
        name, _, content = setting.partition(" = ")
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(namespace, "SETTINGS", tmp_path)

    def refuse(name: str, *_: object, may_fail: tuple[int, ...] = ()) -> bool:
        assert name == "unshare"
        if number in may_fail:
            return False
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(namespace, "_call", refuse)
    with pytest.raises(PrivilegeError, match=f"refused .{os.strerror(number)}.: .*{way}.*ALL_PROXY=socks5h:"):
        namespace.enter()


def test_a_trial_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "TRIAL", "raise SystemExit(3)")
    assert "not tried: " in (namespace.obstacle() or "")
    monkeypatch.setattr(namespace, "TRIAL", "print('why')")
    assert namespace.obstacle() == "why"
    monkeypatch.setattr(namespace, "TRIAL", "")
    assert namespace.obstacle() is None


IN_THERE = """
import os
from pathlib import Path
from tunfwd.tun import namespace
print(namespace.obstacle())
Path("/proc/sys/user/max_net_namespaces").write_text("0")
print(namespace.obstacle())
"""


@pytest.mark.netns
def test_it_is_tried_for_real() -> None:
    """A kernel that refuses, of a namespace of its own."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", IN_THERE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before == "None"
    assert "sysctl -w user.max_net_namespaces=10000" in after


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
