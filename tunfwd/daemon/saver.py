"""Writes the state file when it has changed: soon, and once for changes that come together."""

import logging

import trio

from tunfwd.daemon.state import State
from tunfwd.faults import note

DELAY = 0.2  # s: one command is one write
RETRY = 30.0  # s until a write that failed (a full disk) is tried again

log = logging.getLogger(__name__)


class Saver:
    """Saves in a task of its own, and at the end."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._changed = trio.Event()

    def save(self) -> None:
        """Have the state saved soon."""
        self._changed.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Save whenever asked, until cancelled, and then once more."""
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(DELAY)
                self._changed = trio.Event()
                if not self._write():
                    await trio.sleep(RETRY)
                    self._changed.set()
        finally:
            self._write()

    def _write(self) -> bool:
        try:
            self._state.save()
        except OSError as error:
            log.error("%s cannot be written: %s", self._state.directory, error.strerror)  # noqa: TRY400
            return False
        except Exception as fault:
            note("saving the state", fault)
            return False
        return True
