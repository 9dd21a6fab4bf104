"""A change that cannot be saved is in effect, and whoever made it is told; so is who asks later."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.storage import write_behind as module
from tunfwd.daemon.storage.kept import Storage
from tunfwd.daemon.storage.state import State, contact_id
from tunfwd.daemon.storage.write_behind import DELAY, RETRY, WriteBehind

ALICE = contact_id(bytes(32))


class Identity:
    """The Tox client's, with a disk of its own."""

    def __init__(self) -> None:
        self.unsaved: str | None = None
        self.full = False

    def trouble_on_disk(self) -> str | None:
        return None

    def save(self) -> bool:
        self.unsaved = "identity.tox cannot be saved: No space left on device" if self.full else None
        return not self.full


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, by the kernel's own refusal: Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Daemon:
    """The commands `change` and `look`, on a state of their own."""

    def __init__(self, state: State) -> None:
        self.state, self.saver, self.identity = state, WriteBehind(state), Identity()
        self.storage = Storage(state, self.saver, self.identity)
        self.dispatcher = Dispatcher(self.storage.save)
        self.dispatcher.add(api.FRIEND_ACCEPT, self._change)
        self.dispatcher.add(api.FRIEND_REJECT, self._look)

    async def _change(self, params: api.FriendAccept) -> api.FriendResult:
        self.state.content.names[ALICE] = params.key
        return {}  # type: ignore[typeddict-item]

    async def _look(self, params: api.FriendReject) -> api.FriendResult:
        return {}  # type: ignore[typeddict-item]

    async def change(self, name: str) -> str | None:
        warning = (await self.dispatcher("friend.accept", {"key": name})).get("warning")
        assert warning is None or isinstance(warning, str)
        return warning

    async def check(self, name: str = "storage") -> api.Check:
        return next(check for check in await self.storage.checks() if check["name"] == name)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with State.load(tmp_path) as state:
        yield Daemon(state)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(1000 * RETRY):  # the clock does not wait for the thread that writes
        while not condition():  # noqa: ASYNC110  of an attribute
            await trio.sleep(DELAY)


def on_disk(daemon: Daemon) -> str:
    return daemon.state.path.read_text()


async def test_a_change_is_on_disk_when_the_command_is_answered(daemon: Daemon) -> None:
    assert await daemon.change("alice") is None
    assert "alice" in on_disk(daemon)
    assert await daemon.storage.warnings() == []
    assert (await daemon.check())["level"] == "ok"


async def test_a_change_that_cannot_be_saved_says_so_for_as_long_as_it_lasts(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await daemon.change("alice") is None
    with no_file_larger_than(64):
        warning = await daemon.change("bob")
        assert warning is not None
        assert "is lost when the daemon ends" in warning
        assert warning.endswith(f"{daemon.state.path} cannot be written: File too large")
        assert "alice" in on_disk(daemon)
        assert await daemon.change("bob") is not None  # and again, though nothing is new
        assert await daemon.dispatcher("friend.reject", {"key": "x"}) == {}  # it changes nothing
        assert len(await daemon.storage.warnings()) == 1
        check = await daemon.check()
        assert (check["level"], check["ok"]) == ("error", False)
    assert await daemon.storage.warnings() == []  # tried again at once
    assert (await daemon.check())["level"] == "ok"
    assert "bob" in on_disk(daemon)
    told = [record.levelno for record in caplog.records if record.name == module.__name__]
    assert told == [logging.ERROR, logging.INFO]  # once each, however often it was tried


async def test_what_could_not_be_saved_is_tried_again_by_itself(
    daemon: Daemon, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def write(data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        State.write(daemon.state, data)

    monkeypatch.setattr(daemon.state, "write", write)
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.saver.run)
        daemon.state.content.names[ALICE] = "alice"
        daemon.saver.save()
        await until(lambda: daemon.saver.problem is not None)
        full = False
        await until(lambda: daemon.saver.problem is None)
        assert "alice" in on_disk(daemon)
        daemon.state.content.names[ALICE] = "bob"
        nursery.cancel_scope.cancel()
    assert "bob" in on_disk(daemon)  # at the end, too


async def test_an_identity_that_cannot_be_saved_is_told_too(daemon: Daemon) -> None:
    daemon.identity.full = True
    daemon.identity.save()
    warning = await daemon.change("alice")
    assert warning is not None
    assert "identity.tox cannot be saved: No space left" in warning
    assert "alice" in on_disk(daemon)
    daemon.identity.full = False
    assert await daemon.change("bob") is None


async def test_what_was_put_aside_is_told_by_doctor(daemon: Daemon) -> None:
    daemon.state.content.put_aside({"a": 1}, "of no use")
    check = await daemon.check("state")
    assert (check["level"], check["ok"]) == ("warning", True)
    assert "1 entries did not fit" in check["detail"]
