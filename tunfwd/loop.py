"""The one place that waits: for descriptors and for times, and for trio, whose host it is.

What moves packets is called from here and not from tasks, so that a packet costs one system call of waiting
and no scheduling. Everything else, which may take its time (commands, names to resolve, files), runs in
tasks of trio. A *pass* gathers what is ready, has each worker do all that came of it, and waits again; trio
gets its turn in a pass in which one of its tasks has something to do.

In a program `host` is the main loop and trio its guest (trio.lowlevel.start_guest_run): a thread of trio's
own waits for what trio waits for. In tests, and where little depends on speed, `run` does the same as one of
trio's tasks, and so on any clock of trio.
"""

import os
import select
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, Protocol, TypeVar

import trio
from outcome import Outcome

from tunfwd.faults import note, survives

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP  # always reported, asked for or not

NEVER: Final = float("inf")
READY_LIMIT: Final = 256  # descriptors served in a pass, before trio gets its turn
LONGEST: Final = 3600.0  # s of waiting at once; epoll takes no more than 24 days

ResultT = TypeVar("ResultT")

_read_clock: Callable[[], float] = trio.current_time


def current_time() -> float:
    """Return the time on trio's clock, in s; where a `Loop` is host, without asking trio."""
    return _read_clock()


class _Clock(trio.abc.Clock):
    """The clock of a guest: the system's, to the second, so that `current_time` can read it directly."""

    def start_clock(self) -> None:
        """See trio: there is nothing to start."""

    def current_time(self) -> float:
        """See trio."""
        return perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See trio."""
        return deadline - perf_counter()


class Watcher(Protocol):
    """Owns a descriptor."""

    def ready(self, events: int) -> None:
        """Serve the descriptor. Must not raise for anything a remote does."""

    def fail(self) -> None:
        """Serving it raised what should never be raised: give it up."""


class Worker(Protocol):
    """Does what came of the descriptors that were ready, and what is due by itself."""

    due: float
    """When `work` is to be called at the latest, on trio's clock."""

    def work(self) -> None:
        """Do what there is to do; called in every pass. What it raises ends `Loop.attend`."""


class _Place:
    """A worker's, among others."""

    __slots__ = ("failed", "failure", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.failure: BaseException | None = None
        self.failed = trio.Event()


class Loop:
    """An epoll set, and what is called in each pass."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wakeup, READABLE)
        self._watchers: dict[int, Watcher] = {}
        self._places: list[_Place] = []
        self._calls: deque[Callable[[], object]] = deque()
        """Of trio, for the next pass."""
        self._is_woken = False
        self._is_waiting = False
        self._is_host = False

    def __del__(self) -> None:
        os.close(self._wakeup)

    # -- who is called

    def watch(self, descriptor: int, interest: int | None, watcher: Watcher) -> None:
        """Call `watcher` whenever `descriptor` is ready for `interest`, or broken. None: no more.

        A descriptor must be let go before it is closed.
        """
        if interest is None:
            if self._watchers.pop(descriptor, None) is not None:
                self._epoll.unregister(descriptor)
        elif descriptor in self._watchers:
            self._epoll.modify(descriptor, interest)
        else:
            self._epoll.register(descriptor, interest)
            self._watchers[descriptor] = watcher

    async def attend(
        self,
        worker: Worker,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        *,
        first: bool = False,
    ) -> None:
        """Have `worker` called until cancelled; raise what it raises.

        `first`: before the others, who carry on what it brings.
        """
        place = _Place(worker)
        self._places.insert(0 if first else len(self._places), place)
        self.wake()
        task_status.started()
        try:
            await place.failed.wait()
            assert place.failure is not None
            raise place.failure
        finally:
            self._places.remove(place)

    def wake(self) -> None:
        """Have a pass soon, though no descriptor is ready; from any thread."""
        self._is_woken = True
        if self._is_waiting:
            os.eventfd_write(self._wakeup, 1)

    # -- waiting

    def host(self, main: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Run `main` as the guest, and serve; return what it returns, or raise what it raises."""
        global _read_clock  # noqa: PLW0603 trio's current_time is one of the whole program as well
        ended: list[Outcome[ResultT]] = []
        self._is_host = True
        _read_clock = perf_counter
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=self._call_soon,
            run_sync_soon_not_threadsafe=self._calls.append,
            done_callback=ended.append,
            clock=_Clock(),
        )
        try:
            while not ended:
                self._is_waiting = True
                self._pass(self._epoll.poll(self._timeout(), READY_LIMIT))
                for _ in range(len(self._calls)):
                    self._calls.popleft()()
        finally:
            self._is_host = self._is_waiting = False
            _read_clock = trio.current_time
        return ended[0].unwrap()

    def _call_soon(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        self.wake()

    def _timeout(self) -> float:
        if self._is_woken or self._calls:
            return 0
        due = self._next_time()
        return LONGEST if due == NEVER else min(max(due - current_time(), 0), LONGEST)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, where no `host` does."""
        task_status.started()
        if self._is_host:
            await trio.sleep_forever()
        try:
            while True:
                self._is_waiting = True
                with trio.CancelScope(deadline=-NEVER if self._is_woken else self._next_time()):
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._pass(self._epoll.poll(0, READY_LIMIT))
        finally:
            self._is_waiting = False

    def _next_time(self) -> float:
        earliest = NEVER
        for place in self._places:
            due = place.worker.due
            earliest = min(earliest, due)
        return earliest

    # -- a pass

    def _pass(self, ready: list[tuple[int, int]]) -> None:
        self._is_waiting = self._is_woken = False
        for descriptor, events in ready:
            watcher = self._watchers.get(descriptor)  # one served before may have closed it
            if watcher is None:
                if descriptor == self._wakeup:
                    os.eventfd_read(descriptor)
                continue
            try:
                watcher.ready(events)
            except Exception as fault:
                note("a descriptor", fault)
                survives("a descriptor, on being given up", watcher.fail)
        for place in self._places:
            if place.failure is None:
                try:
                    place.worker.work()
                except BaseException as failure:
                    place.failure = failure
                    place.failed.set()
