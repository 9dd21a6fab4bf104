"""The loop serves descriptors, workers and trio, in turn; as trio's host, and as one of its tasks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from tunfwd import faults
from tunfwd.loop import NEVER, READABLE, Loop

PATIENCE = 10.0  # s until what does not come is taken for lost


class Worker:
    """Counts its calls; wants the next at `due`."""

    def __init__(self, due: float = NEVER) -> None:
        self.due = due
        self.calls = 0
        self.fails = False

    def work(self) -> None:
        self.calls += 1
        if self.due != NEVER and self.due <= trio.current_time():
            self.due = NEVER
        if self.fails:
            raise KeyError("a mistake")


class Busy:
    """A descriptor that is always ready."""

    def __init__(self) -> None:
        self.calls = 0
        self.given_up = False
        self.fails = False

    def ready(self, _events: int) -> None:
        self.calls += 1
        if self.fails:
            raise KeyError("a mistake")

    def fail(self) -> None:
        self.given_up = True


Main = Callable[[Loop], Awaitable[None]]


def as_host(main: Main) -> None:
    loop = Loop()

    async def run() -> None:
        with trio.fail_after(PATIENCE):
            await main(loop)

    loop.host(run)


def as_task(main: Main) -> None:
    async def run() -> None:
        loop = Loop()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(loop.run)
                await main(loop)
                nursery.cancel_scope.cancel()

    trio.run(run)


BOTH = pytest.mark.parametrize("run", [as_host, as_task])


@pytest.fixture
def full() -> Iterator[int]:
    """A descriptor that is readable for good."""
    descriptor = os.eventfd(1)
    yield descriptor
    os.close(descriptor)


async def ticks(count: int) -> None:
    for _ in range(count):
        await trio.sleep(0.001)


@BOTH
def test_trio_does_not_starve(run: Callable[[Main], None], full: int) -> None:
    """However much there is to serve: timers, threads, sockets and new tasks of trio all get on."""
    busy = Busy()

    async def main(loop: Loop) -> None:
        loop.watch(full, READABLE, busy)
        here, there = socket.socketpair()
        with here, there:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ticks, 20)
                assert await trio.to_thread.run_sync(lambda: 7) == 7
                there.send(b"x")
                await trio.lowlevel.wait_readable(here)
        loop.watch(full, None, busy)

    run(main)
    assert busy.calls > 20


@BOTH
def test_packets_do_not_starve(run: Callable[[Main], None], full: int) -> None:
    """However many tasks are runnable."""
    busy = Busy()

    async def main(loop: Loop) -> None:
        loop.watch(full, READABLE, busy)
        while busy.calls < 10:
            await trio.lowlevel.checkpoint()
        loop.watch(full, None, busy)

    run(main)


@BOTH
def test_a_worker_is_called_when_it_is_due(run: Callable[[Main], None]) -> None:
    async def main(loop: Loop) -> None:
        async with trio.open_nursery() as nursery:
            worker = Worker(trio.current_time() + 0.02)
            await nursery.start(loop.attend, worker)
            while worker.due != NEVER:  # noqa: ASYNC110  of any kind
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()

    run(main)


@BOTH
def test_who_wakes_it_has_a_pass_from_any_thread(run: Callable[[Main], None]) -> None:
    async def main(loop: Loop) -> None:
        async with trio.open_nursery() as nursery:
            worker = Worker()
            await nursery.start(loop.attend, worker)
            for wake in (loop.wake, lambda: threading.Thread(target=loop.wake).start()):
                await trio.sleep(0.02)
                before = worker.calls
                wake()
                while worker.calls == before:  # noqa: ASYNC110  of any kind
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()

    run(main)


@BOTH
def test_what_a_pass_does_reaches_tasks_at_once(run: Callable[[Main], None], full: int) -> None:
    """An event set, and a task begun, from outside of trio's tasks."""

    async def main(loop: Loop) -> None:
        done, begun = trio.Event(), trio.Event()

        class Starter(Busy):
            def ready(self, _events: int) -> None:
                loop.watch(full, None, self)
                done.set()
                nursery.start_soon(begin)

        async def begin() -> None:
            begun.set()

        async with trio.open_nursery() as nursery:
            loop.watch(full, READABLE, Starter())
            await done.wait()
            await begun.wait()

    run(main)


@BOTH
def test_a_worker_that_fails_ends_who_attends_it(run: Callable[[Main], None]) -> None:
    async def main(loop: Loop) -> None:
        other, worker = Worker(), Worker()
        async with trio.open_nursery() as nursery:
            await nursery.start(loop.attend, other)
            worker.fails = True
            with pytest.raises(KeyError):
                await loop.attend(worker)
            assert worker.calls == 1
            before = other.calls
            loop.wake()
            while other.calls == before:  # noqa: ASYNC110  of any kind
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()

    run(main)


@BOTH
def test_a_watcher_that_fails_is_told_and_nobody_else(run: Callable[[Main], None], full: int) -> None:
    before = faults.tally.count
    busy = Busy()
    busy.fails = True

    async def main(loop: Loop) -> None:
        loop.watch(full, READABLE, busy)
        while not busy.given_up:  # noqa: ASYNC110  of any kind
            await trio.sleep(0.001)
        loop.watch(full, None, busy)

    run(main)
    assert faults.tally.count == before + busy.calls


def test_the_host_returns_and_raises_what_its_guest_does() -> None:
    async def seven() -> int:
        await trio.sleep(0.001)
        return 7

    async def fails() -> None:
        await trio.sleep(0.001)
        raise KeyError("a mistake")

    assert Loop().host(seven) == 7
    with pytest.raises(KeyError):
        Loop().host(fails)


async def test_as_a_task_it_goes_by_any_clock_of_trio(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    loop, worker = Loop(), Worker(trio.current_time() + 1e6)
    await nursery.start(loop.run)
    nursery.start_soon(loop.attend, worker)
    await trio.sleep(1e6 + 1)
    assert worker.due == NEVER
    assert worker.calls < 10
