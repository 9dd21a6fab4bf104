"""Our identity on disk: keys, friends and groups, as toxcore's savedata.

Written whole or not at all (a new file beside the old one, flushed, then renamed over it), readable by the
owner alone, and encrypted when there is a passphrase. Losing it is losing one's friends, so whatever is odd
about the file is an error that leaves it untouched, never a fresh start.
"""

import os
import struct
from pathlib import Path
from typing import Protocol

from tunfwd.tox import encryptsave
from tunfwd.tox.errors import DecryptionFailed, ToxError
from tunfwd.tox.files import write_whole

_COOKIE = b"\0\0\0\0\x1f\x1b\xed\x15"  # savedata begins with a zero u32 and 0x15ED1B1F, both little-endian
_SECTION = struct.Struct("<IHH")  # then come sections: length, type, mark
_MARK = 0x01CE
_END = 255  # type of the last section; zeros may follow, when toxcore reserved more than it wrote


class IdentityError(Exception):
    """The identity cannot be read or written; the message says why and what to do."""


class PassKey(Protocol):
    """A key derived from a passphrase."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt."""

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt."""


class Encryption(Protocol):
    """toxencryptsave, by whichever binding."""

    def Tox_Pass_Key_Ptr(self, passphrase: bytes, salt: bytes | None = None) -> PassKey:
        """Derive a key."""

    def get_salt(self, ciphertext: bytes) -> bytes:
        """Return the salt of encrypted data."""

    def is_data_encrypted(self, data: bytes) -> bool:
        """Tell encrypted data from other."""


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


class Identity:
    """The file of an identity. `encryption` is toxencryptsave's module, ours or pytox's."""

    def __init__(
        self, path: Path, passphrase: bytes | None = None, encryption: Encryption = encryptsave
    ) -> None:
        self.path = Path(os.path.realpath(path))  # a link to the file stays a link when it is replaced
        self._passphrase = passphrase
        self._encryption = encryption
        self._key: PassKey | None = None

    def load(self) -> bytes | None:
        """Return the savedata, or None when there is no file yet. Raises IdentityError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IdentityError(f"identity {self.path}: {error.strerror}") from None
        if self._encryption.is_data_encrypted(data):
            data = self._decrypt(data)
        if not data.startswith(_COOKIE):
            raise IdentityError(f"{self.path} is not a Tox identity")
        if not _is_whole(data):
            raise IdentityError(f"identity {self.path} is damaged or cut short: restore it from a backup")
        return data

    def _decrypt(self, data: bytes) -> bytes:
        if self._passphrase is None:
            raise IdentityError(f"identity {self.path} is encrypted: set passphrase_file in [tox]")
        key = self._encryption.Tox_Pass_Key_Ptr(self._passphrase, self._encryption.get_salt(data))
        try:
            plaintext = key.decrypt(data)
        except DecryptionFailed:
            raise IdentityError(
                f"identity {self.path} does not open with this passphrase, or the file is damaged"
            ) from None
        except ToxError as error:
            raise IdentityError(f"identity {self.path} cannot be decrypted: {error}") from None
        self._key = key  # derived once; with the salt it has, saving is quick
        return plaintext

    def save(self, savedata: bytes) -> None:
        """Replace the file; it is safe on disk when this returns. Raises IdentityError, the old file kept."""
        if self._passphrase is not None:
            if self._key is None:
                self._key = self._encryption.Tox_Pass_Key_Ptr(self._passphrase)
            savedata = self._key.encrypt(savedata)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.path, savedata)
        except OSError as error:
            raise IdentityError(f"identity {self.path} cannot be saved: {error.strerror}") from None
