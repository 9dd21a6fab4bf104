"""toxencryptsave by our own binding, in the shape of `pytox.toxencryptsave.toxencryptsave`.

Other Tox programs write the same format, so an identity can be moved between them.
"""

from types import TracebackType
from typing import Final, Protocol, Self

from tunfwd.tox.binding.calls import call, expect, fixed
from tunfwd.tox.binding.errors import UseAfterFree
from tunfwd.tox.binding.opening import ffi, load

SALT_LENGTH: Final = 32
ENCRYPTION_EXTRA_LENGTH: Final = 80
"""Bytes that encryption adds, and that telling encrypted data from other needs."""


class PassKey(Protocol):
    """A key derived from a passphrase."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt."""

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt."""


class Encryption(Protocol):
    """What this module offers, by whichever binding."""

    def Tox_Pass_Key_Ptr(self, passphrase: bytes, salt: bytes | None = None) -> PassKey:
        """Derive a key."""

    def get_salt(self, ciphertext: bytes) -> bytes:
        """Return the salt of encrypted data."""

    def is_data_encrypted(self, data: bytes) -> bool:
        """Tell encrypted data from other."""


class Tox_Pass_Key_Ptr:
    """A key derived from a passphrase. Deriving takes about half a second; encrypting with it does not."""

    def __init__(self, passphrase: bytes, salt: bytes | None = None) -> None:
        self._lib = lib = load()
        self._ptr = None
        family, secret = "TOX_ERR_KEY_DERIVATION", (passphrase, len(passphrase))
        if salt is None:
            self._ptr = call(family, lib.tox_pass_key_derive, *secret)
        else:
            expect("salt", salt, SALT_LENGTH)
            self._ptr = call(family, lib.tox_pass_key_derive_with_salt, *secret, salt)
        self._ptr = ffi.gc(self._ptr, lib.tox_pass_key_free)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        if self._ptr:
            ffi.release(self._ptr)
            self._ptr = None

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return `plaintext` encrypted, 80 bytes longer, with the salt that the key was derived with."""
        if not self._ptr:
            raise UseAfterFree
        function, arguments = self._lib.tox_pass_key_encrypt, (self._ptr, plaintext, len(plaintext))
        size = len(plaintext) + ENCRYPTION_EXTRA_LENGTH
        return fixed(size, lambda data: call("TOX_ERR_ENCRYPTION", function, *arguments, data))

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return what was encrypted. Raises DecryptionFailed for another passphrase or damaged data."""
        if not self._ptr:
            raise UseAfterFree
        function, arguments = self._lib.tox_pass_key_decrypt, (self._ptr, ciphertext, len(ciphertext))
        size = max(0, len(ciphertext) - ENCRYPTION_EXTRA_LENGTH)
        return fixed(size, lambda data: call("TOX_ERR_DECRYPTION", function, *arguments, data))


def get_salt(ciphertext: bytes) -> bytes:
    """Return the salt that data was encrypted with."""
    function = load().tox_get_salt
    return fixed(SALT_LENGTH, lambda salt: call("TOX_ERR_GET_SALT", function, ciphertext, salt))


def is_data_encrypted(data: bytes) -> bool:
    """Tell whether data is in toxencryptsave's format; not whether it is whole."""
    return len(data) >= ENCRYPTION_EXTRA_LENGTH and bool(load().tox_is_data_encrypted(data))
