"""Confines the daemon to what it still does once it runs: Landlock for files, seccomp for system calls.

main.py calls `confine` when all is open and bound, before anything from a network is read. What is left to a
fault in this process, or in libtoxcore, is its own state and the network that any program has: it starts no
program, reads no one's home, and reaches nothing of the kernel that a forwarder does not need.

Landlock is three system calls, which are made here: the packages for it are young, and none is more. The
filter is made by libseccomp, which knows the calls of each architecture.
"""

import ctypes
import errno
import logging
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

log = logging.getLogger(__name__)

seccomp: ModuleType | None
try:
    import pyseccomp

    seccomp = pyseccomp
except (ImportError, RuntimeError):  # the library is not there
    seccomp = None

PROJECT: Final = Path(__file__).resolve().parents[1]

# Read only: what name resolution and libraries open, and what tracebacks show.
READABLE: Final = (
    *("/etc", "/usr", "/lib", "/lib64", "/proc", "/dev/random", "/dev/urandom", "/dev/null"),
    *("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd"),
    *(sys.prefix, sys.base_prefix, str(PROJECT)),
)


class FileAccess:
    """LANDLOCK_ACCESS_FS_* of linux/landlock.h."""

    WRITE_FILE: Final = 1 << 1
    READ: Final = 1 << 2 | 1 << 3  # files, directories
    CHANGE: Final = WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 14
    """Remove directories and files, make directories, files and sockets, truncate."""
    KNOWN: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
    """What exists, by the version of the interface with which it came."""


# The system calls of Landlock have the same numbers on all architectures but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_SCOPED: Final = 1 << 0 | 1 << 1  # abstract Unix sockets and signals of processes outside; version 6

CLONE_THREAD: Final = 0x00010000
CLONE_NEW: Final = (
    0x00000080,  # TIME
    0x00020000,  # NS
    0x02000000,  # CGROUP
    0x04000000,  # UTS
    0x08000000,  # IPC
    0x10000000,  # USER
    0x20000000,  # PID
    0x40000000,  # NET
)
FAMILIES: Final = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: addresses, routes, sockets
TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into the terminal that root started it from

NEVER: Final = (
    *("execve", "execveat", "fork", "vfork"),  # other programs
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    *("setns", "unshare", "chroot", "pivot_root", "mount", "umount", "umount2", "move_mount", "open_tree"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "quotactl", "quotactl_fd"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf", "syslog"),
    *("perf_event_open", "lookup_dcookie", "iopl", "ioperm", "modify_ldt", "personality", "uselib"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname"),
    *("reboot", "swapon", "swapoff", "acct", "vhangup", "add_key", "request_key", "keyctl"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "capset"),
    *("setfsuid", "setfsgid", "mknod", "mknodat", "open_by_handle_at", "name_to_handle_at"),
    *("fanotify_init", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("move_pages", "migrate_pages"),
)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds this process in."""

    landlock: int
    """The version of the kernel's interface; 0 where there is none."""
    seccomp: bool

    def __str__(self) -> str:
        held = ["seccomp"] * self.seccomp + [f"Landlock {self.landlock}"] * bool(self.landlock)
        missing = ["seccomp"] * (not self.seccomp) + ["Landlock"] * (not self.landlock)
        text = f"confined by {' and '.join(held)}" if held else "not confined"
        return f"{text}; no {' and no '.join(missing)} here" if missing else text


def confine(writable: Iterable[Path], readable: Iterable[Path] = ()) -> Confinement:
    """Confine this process, and what it starts, for good: to change files in `writable` alone.

    Files of `readable`, and below it, can be read besides those that every program reads.

    Where the kernel, or this machine, lacks one of the two, the other has to do. Both hold for this thread
    and those that it starts, so that it is to be called before there are others; no_new_privs has to be set.
    """
    return Confinement(_restrict_files(writable, readable), _restrict_calls())


def configuration_of(file: Path) -> list[Path]:
    """Return what has to be readable for a configuration to be read again: its folder, too.

    Editors put a new file in the place of the old one. A folder that holds somebody's home is more than the
    configuration: there, the file can be read again for as long as it is changed in place.
    """
    folder = file.parent
    home = Path(os.path.expanduser("~"))
    shared = folder.is_dir() and folder.stat().st_mode & 0o002
    return [file] if shared or folder in (home, *home.parents) else [file, folder]


def _restrict_files(writable: Iterable[Path], readable: Iterable[Path]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result: int = libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    try:
        version = call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:  # no such call, or switched off at boot
        return 0
    known = FileAccess.KNOWN[max(since for since in FileAccess.KNOWN if since <= version)]
    attributes = struct.pack("@QQQ", known, 0, _SCOPED if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, access in (
            *((path, FileAccess.READ) for path in (*map(Path, READABLE), *readable)),
            (Path(os.devnull), FileAccess.READ | FileAccess.WRITE_FILE),
            *((path, FileAccess.READ | FileAccess.CHANGE) for path in writable),
        ):
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # not on this machine, or not for this user
            try:
                allowed = access & known & (~0 if path.is_dir() else ~(1 << 3))
                rule = struct.pack("=Qi", allowed, fd)
                call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0))
            finally:
                os.close(fd)
        call(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return version


def _restrict_calls() -> bool:
    """Have the kernel refuse what this program never does, as if it had no permission."""
    if seccomp is None:
        return False
    refuse = seccomp.ERRNO(errno.EPERM)
    try:
        rules = seccomp.SyscallFilter(seccomp.ALLOW)
        for name in NEVER:
            try:
                rules.add_rule(refuse, name)
            except (OSError, ValueError):
                log.debug("seccomp: %s is not known here", name)
        rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be read; clone takes over
        rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0))  # threads only
        for flag in CLONE_NEW:
            rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
        for family in range(max(FAMILIES)):
            if family not in FAMILIES:
                rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
        rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.GT, max(FAMILIES)))
        for request in TERMINAL:
            rules.add_rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
        rules.load()
    except (OSError, RuntimeError) as error:
        log.warning("no seccomp filter: %s", error)
        return False
    return True
