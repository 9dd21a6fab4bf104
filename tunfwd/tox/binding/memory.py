"""Keeps toxcore from locking memory for each packet, which takes half of a packet's time."""

import resource


def disable_mlock() -> None:
    """Make mlock fail at once in this process. Takes effect without CAP_IPC_LOCK, and cannot be undone then.

    toxcore (0.2.20 to 0.2.23, crypto_core.c) locks the buffers of a packet's plaintext and ciphertext into
    RAM, for the microseconds of its encryption, and ignores it when that fails. Each lock and unlock splits
    and joins the process's memory maps: with them, a bare loop took 9.7 us of CPU for each packet sent, and
    4.9 us without. They guard payload against being swapped out, which in this program lies in the buffers of
    the TUN device's applications and of the kernel in the clear all the same.

    Where the binding is compiled, toxcore's calls do not reach libsodium at all (native.py).
    """
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
