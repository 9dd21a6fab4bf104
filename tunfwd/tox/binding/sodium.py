"""The part of libsodium that toxcore's DHT key takes: its randomness noted, and boxes sealed.

It must be the same library, in this process, that toxcore uses; it is found among those loaded. All of it is
libsodium's public interface, the same since 1.0.0.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from cffi import FFI

from tunfwd.tox.binding.opening import load

KEY_SIZE: Final = 32  # bytes, public or secret
NONCE_SIZE: Final = 24  # bytes
MAC_SIZE: Final = 16  # bytes

_ffi = FFI()
_ffi.cdef("""
typedef struct {
    const char *(*implementation_name)(void);
    uint32_t (*random)(void);
    void (*stir)(void);
    uint32_t (*uniform)(const uint32_t upper_bound);
    void (*buf)(void * const buf, const size_t size);
    int (*close)(void);
} randombytes_implementation;
extern randombytes_implementation randombytes_sysrandom_implementation;
int randombytes_set_implementation(randombytes_implementation *implementation);
const char *randombytes_implementation_name(void);
int crypto_scalarmult_curve25519_base(unsigned char *q, const unsigned char *n);
int crypto_box_easy(unsigned char *c, const unsigned char *m, unsigned long long mlen,
                    const unsigned char *n, const unsigned char *pk, const unsigned char *sk);
int crypto_box_open_easy(unsigned char *m, const unsigned char *c, unsigned long long size,
                         const unsigned char *n, const unsigned char *pk, const unsigned char *sk);
""")


@cache
def _library() -> Any | None:
    """The libsodium that libtoxcore has loaded; None where it has one of its own inside."""
    load()
    found = re.search(r"/\S*/libsodium\.so\S*", Path("/proc/self/maps").read_text())
    return _ffi.dlopen(found[0]) if found else None


@contextmanager
def secrets_drawn(replaced: dict[int, bytes]) -> Iterator[list[bytes]]:
    """While it lasts, note each draw of `KEY_SIZE` random bytes in this process, in order.

    The draws that `replaced` names by their number give its bytes instead. Where the random numbers are not
    libsodium's usual ones, nothing is noted or replaced.
    """
    library, drawn = _library(), list[bytes]()
    if library is None or _ffi.string(library.randombytes_implementation_name()) != b"sysrandom":
        yield drawn
        return
    usual = library.randombytes_sysrandom_implementation

    @_ffi.callback("void(void *, size_t)")  # type: ignore[untyped-decorator]
    def draw(buffer: Any, size: int) -> None:
        usual.buf(buffer, size)
        if size == KEY_SIZE:
            if (replacement := replaced.get(len(drawn))) is not None:
                _ffi.memmove(buffer, replacement, KEY_SIZE)
            drawn.append(bytes(_ffi.buffer(buffer, KEY_SIZE)))

    noting = _ffi.new("randombytes_implementation *", usual)
    noting.buf = draw
    library.randombytes_set_implementation(noting)
    try:
        yield drawn
    finally:
        library.randombytes_set_implementation(
            _ffi.addressof(library, "randombytes_sysrandom_implementation")
        )


def is_usable() -> bool:
    """Whether the functions below can be called."""
    return _library() is not None


def public_key(secret: bytes) -> bytes:
    """Return the public key of a Curve25519 secret key."""
    key = _ffi.new("unsigned char[]", KEY_SIZE)
    _use().crypto_scalarmult_curve25519_base(key, secret)
    return bytes(_ffi.buffer(key))


def box(message: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    """Seal a message that the owners of either key can open (crypto_box_easy)."""
    sealed = _ffi.new("unsigned char[]", len(message) + MAC_SIZE)
    if _use().crypto_box_easy(sealed, message, len(message), nonce, public, secret) != 0:
        raise ValueError("not a public key")
    return bytes(_ffi.buffer(sealed))


def open_box(sealed: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes | None:
    """Return what `box` has sealed; None for what was sealed otherwise."""
    size = len(sealed) - MAC_SIZE
    if size < 0 or len(nonce) != NONCE_SIZE:
        return None
    message = _ffi.new("unsigned char[]", max(size, 1))
    if _use().crypto_box_open_easy(message, sealed, len(sealed), nonce, public, secret) != 0:
        return None
    return bytes(_ffi.buffer(message, size))


def _use() -> Any:
    library = _library()
    assert library is not None  # who comes here has a secret from `secrets_drawn`, or has asked `is_usable`
    return library
