"""A backup: all that a state directory holds, in one file, and its way back.

The file is JSON in a frame: a line that says what it is, and a checksum at the end, so that one that is cut
or altered is known as such. With a passphrase all of it is toxencryptsave's, as an identity is, which
authenticates. Restoring makes the new directory beside the old one and swaps the two in one step: at no
moment is there neither.
"""

import base64
import binascii
import ctypes
import errno
import json
import os
import re
import stat
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from tunfwd import __version__
from tunfwd.common.errors import UserError
from tunfwd.common.schema import Mismatch, decode
from tunfwd.daemon.storage.state import IDENTITY, LOCK, SCHEMA, lock_directory
from tunfwd.files import read_whole, write_whole
from tunfwd.tox.binding import encryptsave
from tunfwd.tox.binding.errors import ToxError

FORMAT: Final = 1
MAGIC: Final = b"tunfwd backup\n"
CHECKSUM_SIZE: Final = 32
MAX_SIZE: Final = 64 << 20  # bytes of all files, and of a backup
STABLE_TRIES: Final = 20  # reads of a directory that a daemon writes to, until two are the same

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@dataclass(frozen=True, slots=True)
class Backup:
    """What was in a state directory."""

    format: int
    version: str
    """Of the program that made it."""
    schema: int
    """Of its state."""
    made: int
    """s since 1970."""
    files: dict[str, str]
    """By name, in Base64."""


def make(directory: Path, passphrase: bytes | None) -> bytes:
    """Return a backup of a state directory, whether a daemon uses it or not. Raises UserError."""
    files = _settled(directory)
    if IDENTITY not in files:
        raise UserError("not_found", f"{directory} holds no identity: there is nothing to back up")
    document = {
        "format": FORMAT,
        "version": __version__,
        "schema": SCHEMA,
        "made": int(time.time()),
        "files": {name: base64.b64encode(data).decode() for name, data in sorted(files.items())},
    }
    data = MAGIC + json.dumps(document).encode()
    data += _checksum(data)
    return data if passphrase is None else encryptsave.Tox_Pass_Key_Ptr(passphrase).encrypt(data)


def _settled(directory: Path) -> dict[str, bytes]:
    """Return the files as they were at one moment: read again until nothing has changed meanwhile."""
    try:
        files = _read_all(directory)
        for _ in range(STABLE_TRIES):
            before, files = files, _read_all(directory)
            if files == before:
                return files
            time.sleep(0.05)
    except PermissionError:
        raise UserError(
            "privilege", f"{directory} is for root and the daemon's user to read: they hold the keys"
        ) from None
    except FileNotFoundError:
        raise UserError("not_found", f"there is no state directory {directory}") from None
    except OSError as failure:
        raise UserError("failed", f"{directory} cannot be read: {failure.strerror}") from None
    raise UserError("failed", f"{directory} changes all the time; try again")


def _read_all(directory: Path) -> dict[str, bytes]:
    files = {}
    for path in sorted(directory.iterdir()):
        if path.name == LOCK or not _NAME.fullmatch(path.name):
            continue  # a new file that is being written begins with a dot
        with suppress(FileNotFoundError):  # replaced just now: the next look finds it
            if path.is_file():
                files[path.name] = read_whole(path, MAX_SIZE)
    if sum(map(len, files.values())) > MAX_SIZE // 2:
        raise UserError("failed", f"{directory} holds more than {MAX_SIZE >> 21} MiB")
    return files


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=CHECKSUM_SIZE, person=b"tunfwd backup").digest()


def is_encrypted(data: bytes) -> bool:
    """Whether a passphrase is needed."""
    return encryptsave.is_data_encrypted(data)


def read(data: bytes, passphrase: bytes | None, name: str) -> Backup:
    """Return what a backup holds; `name` is the file's. Raises UserError."""
    if is_encrypted(data):
        if passphrase is None:
            raise UserError(
                "usage", f"{name} is encrypted: --passphrase-file has to name its passphrase's file"
            )
        try:
            key = encryptsave.Tox_Pass_Key_Ptr(passphrase, encryptsave.get_salt(data))
            data = key.decrypt(data)
        except ToxError:
            raise UserError("failed", f"{name} does not open with this passphrase, or is damaged") from None
    if not data.startswith(MAGIC):
        raise UserError("failed", f"{name} is not a backup of tunfwd")
    content, checksum = data[:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
    if _checksum(content) != checksum:
        raise UserError("failed", f"{name} is cut short or altered: its checksum is wrong")
    try:
        document = json.loads(content[len(MAGIC) :])
        _require_known(document, name)
        backup = decode(Backup, document)
        _files(backup)
    except (Mismatch, ValueError, RecursionError) as wrong:
        raise UserError("failed", f"{name} is not a backup of tunfwd: {wrong}") from None
    return backup


def _require_known(document: Any, name: str) -> None:
    made_by = document.get("version", "unknown") if isinstance(document, dict) else "unknown"
    for key, known in (("format", FORMAT), ("schema", SCHEMA)):
        found = document.get(key) if isinstance(document, dict) else None
        if isinstance(found, int) and found > known:
            raise UserError(
                "configuration", f"{name} is from a newer tunfwd ({made_by}): restore it with that one"
            )


def _files(backup: Backup) -> dict[str, bytes]:
    """Raises ValueError."""
    files = {}
    for name, text in backup.files.items():
        if not _NAME.fullmatch(name) or name == LOCK:
            raise ValueError(f"{name!r} is not the name of a file in it")
        try:
            files[name] = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError(f"{name} is not Base64") from None
    if IDENTITY not in files:
        raise ValueError("it has no identity")
    return files


def restore(backup: Backup, directory: Path, owner: tuple[int, int] | None, *, force: bool) -> Path | None:
    """Make a directory be as the backup says; return where the one before is kept, if there was something.

    `owner`: whose a directory is to be that is not there yet; None: ours. Raises UserError, nothing changed.
    """
    directory = Path(os.path.realpath(directory))
    try:
        with ExitStack() as held:
            return _restore(backup, directory, owner, force, held)
    except PermissionError as refused:
        raise UserError(
            "privilege", f"{directory} cannot be restored: {refused.strerror}; try as root"
        ) from None
    except OSError as failure:
        advice = " (it is a mount of its own)" if failure.errno == errno.EBUSY else ""
        raise UserError("failed", f"{directory} cannot be restored: {failure.strerror}{advice}") from None


def _restore(
    backup: Backup, directory: Path, owner: tuple[int, int] | None, force: bool, held: ExitStack
) -> Path | None:
    there = directory.is_dir()
    if there:
        held.enter_context(lock_directory(directory))  # refused where a daemon runs
        status = directory.stat()
        owner = (status.st_uid, status.st_gid)
        if any(path.name != LOCK for path in directory.iterdir()):
            if not force:
                raise UserError(
                    "failed",
                    f"{directory} holds an identity or state already: --force puts the backup in its place,"
                    " and keeps what is there under another name",
                )
        else:
            force = False  # nothing to keep
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = directory.with_name(f"{directory.name}.restoring")
    _clear(fresh)
    fresh.mkdir(mode=0o700)
    held.enter_context(lock_directory(fresh))  # no daemon begins in it until all is done
    for name, data in _files(backup).items():
        write_whole(fresh / name, data)
    if owner is not None and owner != (os.geteuid(), os.getegid()):
        for path in (*fresh.iterdir(), fresh):
            os.chown(path, *owner, follow_symlinks=False)
    if not there:
        fresh.rename(directory)
        _sync(directory.parent)
        return None
    if not force:
        _exchange(fresh, directory)
        _clear(fresh)
        return None
    kept = _free(directory.with_name(f"{directory.name}.before-{time.strftime('%Y-%m-%d')}"))
    fresh.rename(kept)  # first, so that what stood before never has a name that is cleared away
    _exchange(kept, directory)
    _sync(directory.parent)
    return kept


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _clear(directory: Path) -> None:
    """Remove what a restore that was cut off has left: a directory of files."""
    if not os.path.lexists(directory):
        return
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise OSError(errno.EEXIST, f"{directory} is in the way")
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def _free(path: Path) -> Path:
    number, free = 2, path
    while os.path.lexists(free):
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
