"""Makes of what a command comes to an exit code, and of every failure one line."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from tunfwd.common.errors import UserError
from tunfwd.common.text import clean

ERROR_LIMIT: Final = 2000  # characters of an error's line


def prepare() -> None:
    """Make this process one that writes as other filters do."""
    # When the reader of our output goes away, go too. The daemon takes it back.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks


def told(command: Callable[[], int | None]) -> int:
    """Run a command, and return its exit code; tell a person of its failure."""
    try:
        code = command()
        sys.stdout.flush()
    except UserError as failure:
        return fail(failure.message, failure.exit_code)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as failure:
        if sys.stdout is not None:  # what could not be written is not to be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return fail(f"cannot write the output: {failure.strerror}", 1)
    return code or 0


def fail(message: str, code: int) -> int:
    """Tell a person of a failure, and return its exit code."""
    print(f"tunfwd: {clean(message, ERROR_LIMIT)}", file=sys.stderr)
    return code


def _interrupted() -> int:
    """End as a process does that was interrupted, so that a shell's loop around it ends too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130
