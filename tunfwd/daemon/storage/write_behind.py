"""Writes the state file when it has changed: soon, and once for changes that come together."""

import logging
from typing import Final

import trio

from tunfwd.daemon.storage.state import State
from tunfwd.faults import note

DELAY: Final = 0.2  # s: changes that come together are one write
RETRY: Final = 30.0  # s until a write that failed (a full disk) is tried again

log = logging.getLogger(__name__)


class WriteBehind:
    """Saves in a task of its own, at the end, and when somebody waits for it."""

    def __init__(self, state: State) -> None:
        self.problem: str | None = None
        """Why what has changed is not on disk, while that lasts."""
        self._state = state
        self._changed = trio.Event()
        self._writing = trio.Lock()
        if state.encoded() is not None:  # what was read had to be put right
            self._changed.set()

    def save(self) -> None:
        """Have the state saved soon."""
        self._changed.set()

    async def flush(self) -> bool:
        """Save now, if there is something to save; False where that failed, as `problem` says."""
        async with self._writing:
            try:
                data = self._state.encoded()
                if data is not None:  # in a thread: packets are not to wait for a disk
                    await trio.to_thread.run_sync(self._state.write, data)
            except OSError as error:
                self._note(f"{self._state.path} cannot be written: {error.strerror}")
            except Exception as fault:
                note("saving the state", fault)
                self._note(f"{self._state.path} cannot be written: an error inside the daemon; see its log")
            else:
                self._note(None)
        return self.problem is None

    def _note(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is not None:
                log.error("%s", problem)
            else:
                log.info("%s is written again", self._state.path)
        self.problem = problem

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Save whenever asked, until cancelled, and then once more."""
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(DELAY)
                self._changed = trio.Event()
                if not await self.flush():
                    await trio.sleep(RETRY)
                    self._changed.set()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()
