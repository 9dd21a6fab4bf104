"""Leaves root: hands the daemon's directories over to the user that it is to be, and becomes that user.

What lies in a directory of that user may be whatever a fault in an earlier run has put there, so root touches
nothing in one. It makes directories, and gives away those of its own, once, where nobody else could have put
anything in their place; no symbolic link is followed.
"""

import logging
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.config import paths
from tunfwd.config.document import Config
from tunfwd.control.listener import group_id
from tunfwd.tun import privileges
from tunfwd.tun.privileges import User

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

log = logging.getLogger(__name__)


def leave_root(config: Config) -> None:
    """Go on as the user whom the configuration names, with what starting up still takes of root's privileges.

    An ordinary user stays one. Raises UserError.
    """
    if os.geteuid() != 0:
        if config.user is not None and config.user != pwd.getpwuid(os.geteuid()).pw_name:
            raise UserError("privilege", f"only root can become {config.user} ([daemon] user)")
        privileges.reduce()
        return
    gid = group_id(config.group)
    sockets = config.socket.parent
    try:
        user = privileges.find_user(config.user or privileges.USER)
        if config.state.exists() and not config.state.is_dir():
            raise ConfigurationError(f"the state directory {config.state} is a file")
        hand_over(config.state, user)
        if (
            not sockets.exists() or sockets == Path(paths.SYSTEM.socket).parent
        ):  # others may be for more than us
            hand_over(sockets, user, 0o700 if gid is None else 0o711)
        privileges.become(user, () if gid is None else (gid,))  # a member may give the socket to the group
    except privileges.PrivilegeError as error:
        raise UserError("privilege", str(error)) from None
    except OSError as error:
        raise UserError("privilege", f"{error.filename} cannot be handed over: {error.strerror}") from None
    for directory in (config.state, sockets):
        require_reachable(directory, user)


def say_if_unreadable(config: Config) -> None:
    """Say where the configuration was root's to read, and cannot be read again by the daemon's user."""
    if config.file is not None and not os.access(config.file, os.R_OK):
        name = pwd.getpwuid(os.geteuid()).pw_name
        log.warning(
            "%s cannot be read again by the user %s, as `tunfwd reload` does: `chgrp %s %s`, and chmod 640",
            *(config.file, name, name, config.file),
        )


def hand_over(directory: Path, user: User, mode: int = 0o700) -> None:
    """Make `directory` if need be, and have it, with all in it, be the user's.

    One that is somebody else's is left alone, and so is one below what others can write to: whether it can be
    used all the same shows when the user tries. Raises OSError.
    """
    if not _is_root_s_alone(directory):
        return
    if not directory.exists():
        _make(directory, mode)
    fd = os.open(os.path.realpath(directory), _OPEN)  # a link on the way is root's, as what it leads to
    try:
        status = os.fstat(fd)
        if status.st_uid == 0 and not status.st_mode & 0o022:
            _give(fd, user)
            log.info("%s now belongs to the user %s", directory, user.name)
    finally:
        os.close(fd)


def require_reachable(directory: Path, user: User) -> None:
    """Raise UserError where the way to `directory` is closed to this process, which is the user by now."""
    for parent in reversed(directory.parents):
        if parent.is_dir() and not os.access(parent, os.X_OK):
            raise UserError(
                "privilege",
                f"the user {user.name}, whom the daemon becomes, cannot reach {directory}: {parent} is closed"
                f" to others; choose another place, or `chmod o+x {parent}`",
            )


def _is_root_s_alone(directory: Path) -> bool:
    """Whether nobody but root can put something in the place of the directory, or of one on the way there."""
    ways = {*directory.parents, *Path(os.path.realpath(directory)).parents}
    return all(_is_guarded(parent) for parent in ways)


def _is_guarded(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True  # to be made by us
    open_to_others = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    return status.st_uid == 0 and (stat.S_ISLNK(status.st_mode) or not open_to_others)


def _make(directory: Path, mode: int) -> None:
    for parent in reversed(directory.parents):
        if not parent.exists():
            parent.mkdir()
            parent.chmod(0o755)  # a way for the user, whatever the umask
    directory.mkdir(mode=0o700)
    directory.chmod(mode)


def _give(directory: int, user: User) -> None:
    """Give away an open directory: itself last, so that until then nobody else can change what is in it."""
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(entry.name, _OPEN, dir_fd=directory)
                try:
                    _give(fd, user)
                finally:
                    os.close(fd)
            elif not stat.S_ISLNK(status.st_mode) and status.st_nlink == 1:  # another name may be anywhere
                os.chown(entry.name, user.uid, user.gid, dir_fd=directory, follow_symlinks=False)
    os.fchown(directory, user.uid, user.gid)
