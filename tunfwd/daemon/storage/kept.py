"""What is on disk of what is in effect: state and identity, and what a person is told where it is not."""

from typing import Final, Protocol

import trio

from tunfwd.control import api
from tunfwd.daemon.storage.state import State, trouble
from tunfwd.daemon.storage.write_behind import WriteBehind

LATER: Final = "unless a change has it written anew before; somebody else, or the disk, has altered it"


class Identity(Protocol):
    """The identity's file, as the Tox client keeps it."""

    unsaved: str | None

    def save(self) -> bool:
        """Write it; `unsaved` says why that failed."""

    def trouble_on_disk(self) -> str | None:
        """Look at the file, and return what is wrong with it; called in a thread."""


class Storage:
    """Both files."""

    def __init__(self, state: State, saver: WriteBehind, identity: Identity) -> None:
        self._state = state
        self._saver = saver
        self._identity = identity

    async def save(self) -> str | None:
        """Save what a command has changed; return what its person is told where that cannot be."""
        await self._saver.flush()
        if problem := self._problem():
            return f"this is in effect, but could not be saved and is lost when the daemon ends: {problem}"
        return None

    async def warnings(self) -> list[str]:
        """Return what is wrong, a sentence each, after another try."""
        if self._saver.problem:
            await self._saver.flush()
        problem = self._problem()
        return [f"changes are in effect, but lost when the daemon ends: {problem}"] if problem else []

    async def checks(self) -> list[api.Check]:
        """Return what `doctor` says about it."""
        checks: list[api.Check] = [
            {"name": "storage", "ok": False, "level": "error", "detail": warning}
            for warning in await self.warnings()
        ]
        checks += await trio.to_thread.run_sync(self._look)
        if not checks:
            directory = str(self._state.directory)
            checks.append({"name": "storage", "ok": True, "level": "ok", "detail": directory})
        if aside := self._state.content.aside:
            detail = f'{len(aside)} entries did not fit and are put aside; see "aside" in {self._state.path}'
            checks.append({"name": "state", "ok": True, "level": "warning", "detail": detail})
        return checks

    def _look(self) -> list[api.Check]:
        """Look whether the next start could use what is on disk."""
        troubles = (self._identity.trouble_on_disk(), trouble(self._state.path))
        return [
            {"name": "storage", "ok": False, "level": "error", "detail": f"{found} ({LATER})"}
            for found in troubles
            if found is not None
        ]

    def _problem(self) -> str | None:
        """Return why something is not on disk; the identity is tried again, as the state was before."""
        if self._identity.unsaved:
            self._identity.save()
        problems = (problem for problem in (self._identity.unsaved, self._saver.problem) if problem)
        return "; ".join(problems) or None
