"""What the daemon may do, and how it gives that up, step by step.

CAP_NET_ADMIN creates the TUN device and sets its addresses; root is who usually has it. daemon calls `check`
before it starts anything, so that what is missing is said at once; `become` (or `reduce`, where it is an
ordinary user already) as soon as the device is open, so that nothing of this program's own is read, written
or parsed as root; and `drop` when the addresses are set and the ports bound, before anything from a network
is read. From then on a fault in this process, or in libtoxcore, is worth no more than that user's own files.
"""

import errno
import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyprctl
from pyprctl import Cap, CapState

TUN_PATH: Final = "/dev/net/tun"
USER: Final = "tunfwd"  # whom a daemon started as root becomes; scripts/setup makes it
USERADD: Final = "useradd --system --user-group --home-dir /var/lib/tunfwd --shell /usr/sbin/nologin"
START_UP: Final = frozenset({Cap.NET_ADMIN, Cap.NET_BIND_SERVICE})  # what is kept until `drop`
SHARED: Final = frozenset({"root", "nobody"})  # each stands for more than one program


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
                raise PrivilegeError(
                    f"no permission to open {TUN_PATH}: run the daemon as root, or do without it (--rootless)"
                ) from error
        raise PrivilegeError(f"{TUN_PATH} cannot be opened: {error.strerror}") from error
    if Cap.NET_ADMIN not in CapState.get_current().effective:
        raise PrivilegeError(
            "CAP_NET_ADMIN is missing, which the TUN device and its addresses need: run the daemon as root,"
            " or give it that capability (systemd: AmbientCapabilities=CAP_NET_ADMIN); or run it without a"
            " device (--rootless)"
        )


@dataclass(frozen=True, slots=True)
class User:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User:
    """Return the user for the daemon to become. Raises PrivilegeError, which names the way out."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(
            f"there is no user {name!r} for the daemon to become: `{USERADD} {name}` makes it"
            " (scripts/setup does), or name another in [daemon] user"
        ) from None
    if name in SHARED or found.pw_uid == 0:
        raise PrivilegeError(
            f"[daemon] user: {name} is not a user of the daemon's own; `{USERADD} {USER}` makes one"
        )
    return User(name, found.pw_uid, found.pw_gid)


def become(user: User, groups: Collection[int] = ()) -> None:
    """Go on as `user` for good, in `groups` besides the user's own, with START_UP of root's capabilities.

    Credentials belong to threads: there must be one only. Raises PrivilegeError where this cannot be.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a thread would go on as root")
    try:
        pyprctl.cap_set_ids(uid=user.uid, gid=user.gid, groups=sorted(groups))
    except OSError as error:  # not in this container, or a user namespace without that user
        raise PrivilegeError(
            f"the daemon cannot become the user {user.name}: {error.strerror}; start it as an ordinary user"
            " with CAP_NET_ADMIN (systemd: User=, AmbientCapabilities=CAP_NET_ADMIN)"
        ) from error
    reduce()


def reduce() -> None:
    """Keep what starting up takes (START_UP, as far as it is there), and give up the rest for good."""
    permitted = CapState.get_current().permitted
    if Cap.SETPCAP in permitted:
        pyprctl.cap_effective.add(Cap.SETPCAP)
        pyprctl.capbset.clear()
    kept = {capability for capability in permitted if capability in START_UP}
    CapState(permitted=kept, effective=kept).set_current()  # the ambient set follows (capabilities(7))
    pyprctl.set_no_new_privs()  # execve gives nothing back, even where the bounding set could not be cleared


def drop() -> None:
    """Give up every capability for good, also for programs started later.

    Capabilities belong to threads, so this must run before any are started; raises RuntimeError if a thread
    is left with any.
    """
    reduce()
    CapState().set_current()
    for thread in Path("/proc/self/task").iterdir():
        left = CapState.get_for_pid(int(thread.name))
        if left.permitted or left.effective or left.inheritable:
            raise RuntimeError(f"thread {thread.name} still holds capabilities: {left}")
