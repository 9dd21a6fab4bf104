"""Ends a measurement in order, whatever ends it: what it made is taken away, and what it started is over."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from netns.topology import sweep

SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@contextmanager
def tidily() -> Iterator[None]:
    """Unwind at the first signal; the next ones wait until all is taken away, children's things, too."""
    for number in SIGNALS:
        signal.signal(number, _end)
    try:
        yield
    finally:
        _wait_for_none()
        sweep()


def _end(number: int, _: FrameType | None) -> None:
    _wait_for_none()
    sys.exit(128 + number)


def _wait_for_none() -> None:
    for number in SIGNALS:  # not SIG_IGN, which the programs would inherit that tidying up starts
        signal.signal(number, lambda *_: None)
