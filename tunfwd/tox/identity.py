"""Our identity on disk: keys, friends and groups, as toxcore's savedata.

Written whole or not at all (a new file beside the old one, flushed, then renamed over it), readable by the
owner alone, and encrypted when there is a passphrase. Losing it is losing one's friends, so the generation
before is kept and used when the file is damaged; where that does not help, the error leaves both untouched,
and there is never a fresh start.

Encryption authenticates. A plain identity ends with a checksum, behind the last section, where toxcore and
other Tox programs do not look.
"""

import logging
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar

from tunfwd.files import previous, put_aside, read_whole, write_whole
from tunfwd.tox.binding import encryptsave
from tunfwd.tox.binding.errors import DecryptionFailed, ToxError

_COOKIE: Final = b"\0\0\0\0\x1f\x1b\xed\x15"
"""Savedata begins with a zero u32 and 0x15ED1B1F, both little-endian."""
_SECTION: Final = struct.Struct("<IHH")  # then come sections: length, type, mark
_MARK: Final = 0x01CE
_RELAYS: Final = 10  # type of the section with relays; toxcore, state.h: STATE_TYPE_TCP_RELAY
_KEY_SIZE: Final = 32
# A node there: family, address, port, key. toxcore, network.h: TOX_AF_* and TOX_TCP_*
_NODE_SIZES: Final = dict.fromkeys((2, 130), 1 + 4 + 2 + _KEY_SIZE) | dict.fromkeys(
    (10, 138), 1 + 16 + 2 + _KEY_SIZE
)
_END: Final = 255  # type of the last section; zeros may follow, when toxcore reserved more than it wrote
_SEAL: Final = b"tunfwd\0\1"  # then the checksum
_CHECKSUM_SIZE: Final = 16
_MISSING: Final = "is missing"
_WAY_OUT: Final = "restore it from a backup, or move its directory away to begin as somebody new"

T = TypeVar("T")

log = logging.getLogger(__name__)


class IdentityError(Exception):
    """The identity cannot be read or written; the message says why and what to do."""


class Damaged(Exception):
    """What is on disk cannot be used; the message says why, in words that follow its name."""


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a passphrase file. Raises IdentityError when there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise IdentityError(f"passphrase file {path}: {error.strerror}") from None
    if not lines or not lines[0]:
        raise IdentityError(f"passphrase file {path} is empty")
    return lines[0]


def _is_whole(data: bytes) -> bool:
    """Walk the sections to the last one."""
    position = len(_COOKIE)
    while position + _SECTION.size <= len(data):
        length, kind, mark = _SECTION.unpack_from(data, position)
        if mark != _MARK:
            return False
        if kind == _END:
            return True
        position += _SECTION.size + length
    return False


def relays_of(savedata: bytes) -> frozenset[bytes]:
    """Return the keys of the relays that toxcore is connected to, of which it keeps up to 8.

    Nothing else tells them. What is not as it should be counts as none.
    """
    keys, position = set(), len(_COOKIE)
    while position + _SECTION.size <= len(savedata):
        length, kind, _ = _SECTION.unpack_from(savedata, position)
        position += _SECTION.size
        if kind == _RELAYS:
            nodes = savedata[position : position + length]
            while nodes and (size := _NODE_SIZES.get(nodes[0])) and len(nodes) >= size:
                keys.add(nodes[size - _KEY_SIZE : size])
                nodes = nodes[size:]
        position += length
    return frozenset(keys)


def _checksum(savedata: bytes) -> bytes:
    return blake2b(savedata, digest_size=_CHECKSUM_SIZE, person=b"tunfwd identity").digest()


def _unseal(data: bytes) -> bytes:
    """Return the savedata without its checksum, if it has one. Raises Damaged where that is wrong."""
    savedata, seal = data[: -len(_SEAL) - _CHECKSUM_SIZE], data[-len(_SEAL) - _CHECKSUM_SIZE :]
    if not seal.startswith(_SEAL):
        return data
    if seal != _SEAL + _checksum(savedata):
        raise Damaged("is damaged: its checksum is wrong")
    return savedata


class Identity:
    """The file of an identity. `encryption` is toxencryptsave's module, ours or pytox's."""

    def __init__(
        self, path: Path, passphrase: bytes | None = None, encryption: encryptsave.Encryption = encryptsave
    ) -> None:
        self.path = Path(os.path.realpath(path))  # a link to the file stays a link when it is replaced
        self._passphrase = passphrase
        self._encryption = encryption
        self._key: encryptsave.PassKey | None = None
        self._keep = True  # the next save keeps what is there

    def load(self) -> bytes | None:
        """Return the savedata, or None when there is none yet. Raises IdentityError."""
        return self.start(lambda savedata: savedata)

    def start(self, use: Callable[[bytes | None], T]) -> T:
        """Return what `use` makes of the savedata; None when there is none yet.

        `use` raises Damaged for what it cannot take. Then, and where the file is damaged or missing, it gets
        the generation before; the damaged file is put aside. Raises IdentityError where none is of use.
        """
        reason = "is missing"
        try:
            return use(self._read(self.path))
        except FileNotFoundError:
            pass
        except Damaged as damage:
            reason = str(damage)
        kept = previous(self.path)
        try:
            result = use(self._read(kept))
        except FileNotFoundError:
            if not os.path.lexists(self.path):
                return use(None)
            raise IdentityError(f"identity {self.path} {reason}; {_WAY_OUT}") from None
        except Damaged as damage:
            raise IdentityError(
                f"identity {self.path} {reason}, and {kept.name} {damage}; {_WAY_OUT}"
            ) from None
        self._log_restored(kept, reason)
        return result

    def _log_restored(self, kept: Path, reason: str) -> None:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.stat().st_mtime))
        aside = ""
        with suppress(FileNotFoundError):
            aside = f" and is kept as {put_aside(self.path).name}"
        what = "changes to friends and groups since then are lost"
        log.error("%s %s%s: restored as saved at %s; %s", self.path, reason, aside, saved, what)

    def _read(self, path: Path) -> bytes:
        """Return the savedata in a file. Raises Damaged, FileNotFoundError, IdentityError."""
        try:
            data = read_whole(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IdentityError(f"identity {path}: {error.strerror}") from None
        encrypted = self._encryption.is_data_encrypted(data)
        data = self._decrypt(path, data) if encrypted else _unseal(data)
        if not data.startswith(_COOKIE):
            raise Damaged("is not a Tox identity" if data else "is empty")
        if not _is_whole(data):
            raise Damaged("is damaged or cut short")
        self._keep = encrypted == (self._passphrase is not None)
        return data

    def _decrypt(self, path: Path, data: bytes) -> bytes:
        if self._passphrase is None:
            raise IdentityError(f"identity {path} is encrypted: set passphrase_file in [tox]")
        try:
            key = self._encryption.Tox_Pass_Key_Ptr(self._passphrase, self._encryption.get_salt(data))
            plaintext = key.decrypt(data)
        except DecryptionFailed:
            raise Damaged("does not open with this passphrase, or is damaged") from None
        except ToxError as error:
            raise Damaged(f"cannot be decrypted: {error}") from None
        self._key = key  # derived once; with the salt it has, saving is quick
        return plaintext

    def trouble(self) -> str | None:
        """Look at what is on disk; return what is wrong with it for the next start."""
        kept = previous(self.path)
        reason, reason_of_kept = self._damage(self.path), self._damage(kept)
        if reason is None or reason == reason_of_kept == _MISSING:  # nothing there yet
            return None
        if reason_of_kept is None:
            return f"{self.path.name} {reason}: the next start goes back to {kept.name}"
        return f"{self.path.name} {reason}, and {kept.name} {reason_of_kept}: {_WAY_OUT}"

    def _damage(self, path: Path) -> str | None:
        """Say why a file is of no use. One that is encrypted is looked into if the passphrase is known."""
        try:
            if self._passphrase is None and self._encryption.is_data_encrypted(read_whole(path)):
                return None
            Identity(path, self._passphrase, self._encryption)._read(path)  # which leaves traces in its own
        except FileNotFoundError:
            return _MISSING
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except (Damaged, IdentityError) as wrong:
            return str(wrong)
        return None

    def save(self, savedata: bytes) -> None:
        """Replace the file; it is safe on disk when this returns. Raises IdentityError, the old file kept."""
        if self._passphrase is not None:
            if self._key is None:
                self._key = self._encryption.Tox_Pass_Key_Ptr(self._passphrase)
            data = self._key.encrypt(savedata)
        else:
            data = savedata + _SEAL + _checksum(savedata)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._keep:  # nothing unencrypted stays behind once there is a passphrase
                previous(self.path).unlink(missing_ok=True)
            write_whole(self.path, data, keep=self._keep)
        except OSError as error:
            raise IdentityError(f"identity {self.path} cannot be saved: {error.strerror}") from None
        self._keep = True
