"""The one privilege of this program, and how it gives it up.

CAP_NET_ADMIN creates the TUN device and sets its addresses. daemon calls `check` before it starts anything,
so that what is missing is said at once, and `drop` after the device is up and before anything from a network
is read. From then on a fault in this process, or in libtoxcore, is worth no more than an ordinary user's.
"""

import errno
import os
from pathlib import Path

import pyprctl
from pyprctl import Cap, CapState

TUN_PATH = "/dev/net/tun"


class PrivilegeError(Exception):
    """Something that only the administrator of this machine can give is missing; the message says what."""


def check() -> None:
    """Raise PrivilegeError unless this process may create a TUN device and set its addresses."""
    try:
        os.close(os.open(TUN_PATH, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        match error.errno:
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                advice = "load it with `modprobe tun`; a container must be given the device"
                raise PrivilegeError(f"this kernel has no TUN device at {TUN_PATH}: {advice}") from error
            case errno.EACCES | errno.EPERM:
                raise PrivilegeError(f"no permission to open {TUN_PATH}: run the daemon as root") from error
        raise PrivilegeError(f"{TUN_PATH} cannot be opened: {error.strerror}") from error
    if Cap.NET_ADMIN not in CapState.get_current().effective:
        raise PrivilegeError(
            "CAP_NET_ADMIN is missing, which the TUN device and its addresses need: run the daemon as root,"
            " or give it that capability (systemd: AmbientCapabilities=CAP_NET_ADMIN)"
        )


def drop() -> None:
    """Give up every capability for good, also for programs started later.

    Capabilities belong to threads, so this must run before any are started; raises RuntimeError if a thread
    is left with any. Root without capabilities still is the owner of its files, but passes over no other
    owner's permissions.
    """
    capabilities = CapState.get_current()
    if Cap.SETPCAP in capabilities.permitted:
        pyprctl.cap_effective.add(Cap.SETPCAP)
        pyprctl.capbset.clear()
    CapState().set_current()  # the ambient set follows (capabilities(7))
    pyprctl.set_no_new_privs()  # execve gives nothing back, even where the bounding set could not be cleared
    for thread in Path("/proc/self/task").iterdir():
        left = CapState.get_for_pid(int(thread.name))
        if left.permitted or left.effective or left.inheritable:
            raise RuntimeError(f"thread {thread.name} still holds capabilities: {left}")
