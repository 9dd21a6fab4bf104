"""What SIGHUP means: the end of the terminal that the daemon was started from, or "read your files again".

A terminal that has hung up cannot be opened any more, by which the two are told apart. Who starts the daemon
with nohup(1) wants neither.
"""

import os
import signal


class Hangup:
    """What the process is to make of the signal; made at start, as it may come at any time."""

    def __init__(self) -> None:
        self._is_unwanted = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._had_terminal = _has_terminal()
        if not self._had_terminal:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # too early to read anything again

    @property
    def signals(self) -> tuple[signal.Signals, ...]:
        """What to listen for."""
        return () if self._is_unwanted else (signal.SIGHUP,)

    def is_the_end(self) -> bool:
        """Whether the signal that has come says that the terminal is gone."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
