"""Files written whole or not at all, with the generation before: the identity, and the daemon's state."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_NULL_DEVICE: Final = os.makedev(1, 3)
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems without them say


def read_whole(path: Path, limit: int = -1) -> bytes:
    """Return a file's content, at most `limit` bytes of it.

    Raises OSError, also for what is no file: a pipe would keep us waiting. /dev/null is an empty one.
    """
    with open(path, "rb", opener=_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) and status.st_rdev != _NULL_DEVICE:
            raise OSError(errno.EINVAL, "Not a regular file")
        return file.read(limit)


def write_whole(path: Path, data: bytes, *, keep: bool = False) -> None:
    """Replace a file: a reader, or the next start, finds the old content or the new. Mode 0600.

    With `keep`, the old content stays as `previous(path)`. On disk, both, when this returns. Raises OSError,
    the old file in place. One writer at a time, so that the next one clears away what a crash leaves behind.
    """
    fresh = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fresh.unlink(missing_ok=True)  # of a run that died here; its mode or owner may be another's
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep:
            _keep(path)
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # the names, too
    finally:
        os.close(directory)


def previous(path: Path) -> Path:
    """Return where the generation before the current one is kept."""
    return path.with_name(f"{path.name}.previous")


def put_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing is written over it. Returns its new path; raises OSError."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.corrupt-{number}")):
        number += 1
    path.rename(aside)
    return aside


def _keep(path: Path) -> None:
    second_name = path.with_name(f".{path.name}.previous")
    second_name.unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # the first one has nothing before it
        try:
            os.link(path, second_name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(path, previous(path))  # for a moment there is the previous generation alone
        else:
            os.replace(second_name, previous(path))


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
