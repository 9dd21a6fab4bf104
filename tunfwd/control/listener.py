"""The daemon's end of the control socket as a file: never open to others, never taken from a live daemon.

Used by server.py. A lock file beside the socket says whether its daemon lives: the kernel drops the lock with
the process, so a socket left by a crash is replaced, and a daemon that runs is never cut off from its own.
"""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.config.paths import SOCKET_PATH_BYTES

BACKLOG: Final = 64  # connections the kernel holds until we accept them

_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>, Linux 4.13; Python has no name for it
_UCRED: Final = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the socket: its owner, root, and the members of one group if there is one."""

    uid: int
    gid: int | None

    def allows(self, peer: trio.socket.SocketType) -> bool:
        """Whether the process that connected is one of them, by its credentials at that moment."""
        uid, gid = credentials(peer)
        if uid in (0, self.uid):
            return True
        return self.gid is not None and (gid == self.gid or self.gid in _groups(peer))


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, non-blocking, and those who may use it."""

    socket: socket.socket
    access: Access


@contextlib.contextmanager
def listening(path: Path, group: str | None = None) -> Iterator[Listener]:
    """Yield a listener at `path`; remove it at the end. Giving it to `group` needs CAP_CHOWN, or membership.

    Raises UserError: "configuration" for a path or group that cannot be, "privilege" where permission is
    missing, "failed" when a daemon already listens there.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigurationError(f"the socket's path is longer than {SOCKET_PATH_BYTES} bytes: {path}")
    gid = group_id(group)
    with contextlib.ExitStack() as undo:
        try:
            _make_directory(path.parent, traversable=gid is not None)
            undo.enter_context(_lock(path))
            listener = undo.enter_context(_bind(path, gid))
            undo.callback(path.unlink, missing_ok=True)
        except PermissionError as refused:
            raise UserError(
                "privilege", f"cannot make the control socket {path}: {refused.strerror}"
            ) from None
        except OSError as wrong:
            raise ConfigurationError(f"cannot make the control socket {path}: {wrong.strerror}") from None
        yield Listener(listener, Access(os.geteuid(), gid))


def _make_directory(directory: Path, *, traversable: bool) -> None:
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    status = directory.stat()
    closed = not status.st_mode & 0o011  # as an earlier run may have left it
    if traversable and closed and status.st_uid == os.geteuid():
        directory.chmod(0o711)  # members of the group reach the socket, and see nothing else


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path`.lock. The file stays behind: removing a lock file would let two hold "the" lock."""
    with open(path.with_name(path.name + ".lock"), "w", opener=_private) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("failed", f"a daemon is already running at {path}") from None
        yield


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _bind(path: Path, gid: int | None) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something else is in the way")
        path.unlink()  # a dead daemon's: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Linux gives the file the mode of the socket's inode: 0600 from its first moment, whatever the umask.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def group_id(group: str | None) -> int | None:
    """Return the number of a group by its name. Raises ConfigurationError."""
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f"[control] group: there is no group {group!r} on this system") from None


def credentials(peer: trio.socket.SocketType) -> tuple[int, int]:
    """Return the user and the group of the process that connected, as they were then."""
    _, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid, gid


def _groups(peer: trio.socket.SocketType) -> tuple[int, ...]:
    """Return the supplementary groups of the peer; none if over 256, the most that getsockopt() reads."""
    try:
        data = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # more than that, or a kernel before 4.13
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
