"""A network of its own for one program: namespaces(7), which take no privilege where user namespaces are on.

`enter` moves this process into new ones, where it may make a TUN device; `set_up` has programs in there find
the virtual network and its names, and nothing else. What is started then has no privilege in there either,
unless root starts it: execve(2) leaves none to an ordinary user.
"""

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunfwd.tun.device import Device, DeviceError
from tunfwd.tun.network import NetworkError, configure
from tunfwd.tun.privileges import TUN_PATH, PrivilegeError

# linux/sched.h, linux/mount.h
NEW_NETWORK, NEW_USER, NEW_MOUNTS = 0x40000000, 0x10000000, 0x00020000
BIND, RECURSIVE, SLAVE = 1 << 12, 1 << 14, 1 << 19

RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLVED: Final = Path("/run/systemd/resolve")  # systemd-resolved, and the files that it makes
CACHE: Final = Path("/run/nscd")  # answers from outside
FOR_ALL: Final = ("255.255.255.255/32", "224.0.0.0/4")  # broadcasts, multicasts
ELSE: Final = (
    "programs that speak SOCKS5 reach contacts all the same: [socks] in the daemon's configuration, and"
    " ALL_PROXY=socks5h://127.0.0.1:1080"
)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Names:
    """Where programs ask for names."""

    resolvers: tuple[str, ...]
    domain: str


@dataclass(frozen=True, slots=True)
class Switch:
    """A setting of the kernel, with which it gives nobody but root a network of their own."""

    path: str
    refuses: str
    way: str

    @property
    def is_off(self) -> bool:
        """Whether it is set so; one that this kernel lacks is not."""
        try:
            return (SETTINGS / self.path).read_text().strip() == self.refuses
        except OSError:
            return False


def _limit(name: str) -> Switch:
    return Switch(f"user/{name}", "0", f"`sysctl -w user.{name}=10000` as root allows them")


SETTINGS: Final = Path("/proc/sys")
SWITCHES: Final = (
    _limit("max_user_namespaces"),
    _limit("max_net_namespaces"),
    _limit("max_mnt_namespaces"),
    Switch(
        "kernel/unprivileged_userns_clone",  # Debian's kernels, up to 10
        "0",
        "`sysctl -w kernel.unprivileged_userns_clone=1` as root allows them",
    ),
    Switch(
        "kernel/apparmor_restrict_unprivileged_userns",  # Ubuntu, since 23.10
        "1",
        "AppArmor allows them to programs with a profile that says so (docs/rootless.md has one), or to all"
        " by `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as root",
    ),
)

TRIAL: Final = "from tunfwd.tun import namespace; namespace.attempt()"
TRIAL_TIME: Final = 20.0  # s


def obstacle() -> str | None:
    """Return why no program can have a network of its own here, or None. Tried, by a process that ends."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", TRIAL],
            executable="/proc/self/exe",  # that path may not be this user's to walk
            capture_output=True,
            text=True,
            timeout=TRIAL_TIME,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"not tried: {error}"
    return done.stdout.strip() or None


def attempt() -> None:
    """Print what keeps this process from a device in a network of its own."""
    try:
        check()
        enter()
        Device.open("tunfwd0").close()
    except (PrivilegeError, DeviceError) as error:
        print(error)


def check() -> None:
    """Raise PrivilegeError unless this process may open a TUN device."""
    try:
        os.close(os.open(TUN_PATH, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        match error.errno:
            case errno.EACCES | errno.EPERM:
                way = f"`chmod 0666 {TUN_PATH}` as root gives everybody the device, which most systems do"
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                way = "`modprobe tun` makes one; a container must be given it"
            case _:
                way = "see tun(4)"
        raise PrivilegeError(
            f"{TUN_PATH} cannot be opened ({error.strerror}): {way}; or else {ELSE}"
        ) from None


def enter() -> None:
    """Go on in a network without anything, as the same user. Raises PrivilegeError."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid == 0 and _call("unshare", NEW_NETWORK | NEW_MOUNTS, may_fail=(errno.EPERM,)):
            pass
        else:
            _call("unshare", NEW_USER | NEW_NETWORK | NEW_MOUNTS)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _call("mount", None, b"/", None, ctypes.c_ulong(RECURSIVE | SLAVE), None)
    except OSError as error:
        raise PrivilegeError(
            f"user namespaces, which give a program a network of its own, are refused ({error.strerror}):"
            f" {_way_out(error)}; or else {ELSE}"
        ) from None


def _way_out(refusal: OSError) -> str:
    """Say which switch is off; where none is, what else refuses them like this."""
    for switch in SWITCHES:
        if switch.is_off:
            return switch.way
    match refusal.errno:
        case errno.ENOSPC | errno.EUSERS:
            return "there are as many as there may be (sysctl user.max_*_namespaces)"
        case errno.EPERM | errno.EACCES:
            return "a container or a sandbox forbids them to what is in it, as does chroot(2)"
        case errno.EINVAL:
            return "this kernel was built without them (CONFIG_USER_NS), or this is in a chroot(2)"
        case _:
            return "see user_namespaces(7)"


def set_up(device: str, ipv4: IPv4Interface, ipv6: IPv6Interface, names: Names | None) -> str | None:
    """Have the device lead to the virtual network, and programs ask for names there.

    Returns what could not be had. Raises NetworkError where that is all.
    """
    configure(device, ipv4, ipv6)  # with IPv4 only, where the kernel has no more
    with IPRoute() as netlink:
        try:
            netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
            index = netlink.link_lookup(ifname=device)[0]
            for destination in FOR_ALL:
                netlink.route("add", dst=destination, oif=index)
        except NetlinkError as error:
            raise NetworkError(f"{device} cannot be configured: {error}") from error
    with suppress(OSError):  # ping(8), which has no other way without a privilege
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"{os.getegid()} {os.getegid()}")
    if names is not None:
        try:
            _ask(names)
        except OSError as error:
            return f"names of contacts are not known in there: {RESOLV_CONF}: {error.strerror}"
    return None


def _ask(names: Names) -> None:
    """Have all who look up a name ask the resolver of the virtual network, and no one outside."""
    lines = [f"search {names.domain}", *(f"nameserver {resolver}" for resolver in names.resolvers)]
    content = "".join(f"{line}\n" for line in ("# made by tunfwd run", *lines))
    target = RESOLV_CONF.resolve()
    for folder in (RESOLVED, CACHE):
        if folder.is_dir():
            _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), b"mode=0755")
    if target.is_relative_to(RESOLVED):
        target.write_text(content)
        target.chmod(0o644)
        return
    with tempfile.NamedTemporaryFile("w", prefix="tunfwd-") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        _call("mount", os.fsencode(file.name), os.fsencode(target), None, ctypes.c_ulong(BIND), None)


def _call(name: str, *arguments: object, may_fail: tuple[int, ...] = ()) -> bool:
    """Call the C library; False for an error that may be. Raises OSError for others."""
    if getattr(_libc, name)(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in may_fail:
        return False
    raise OSError(number, os.strerror(number))
