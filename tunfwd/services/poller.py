"""All sockets towards services: who is called when one is ready, how many there may be, and their tasks.

The loop waits for them (tunfwd/loop.py). Streams and datagram flows register here; daemon runs it.
"""

import resource
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Protocol

import trio

from tunfwd.faults import note, survives
from tunfwd.loop import Loop
from tunfwd.netstack.shares import Shares

RESERVED: Final = 256
"""Descriptors for all but services: toxcore, the device, the control socket, name resolution."""
LEAST: Final = 16  # sockets that each contact may have, however many others have


class Watcher(Protocol):
    """Owns a registered socket."""

    def ready(self, events: int) -> None:
        """Serve the socket. Must not raise for anything a remote does."""

    def fail(self) -> None:
        """Serving it raised what should never be raised: close the socket, and tell the handler."""

    def discard(self) -> None:
        """The poller ends: close the socket, and report nothing."""


class Poller:
    """The sockets that the loop waits for, and the tasks that open them."""

    def __init__(self, descriptors: int = 1 << 20, loop: Loop | None = None) -> None:
        """`descriptors` is how many this process may have open."""
        self.loop = Loop() if loop is None else loop
        spare = max(descriptors - RESERVED, 0)
        self.sockets: Shares[Hashable] = Shares(spare // 2, spare // 2, LEAST)
        """To be taken by whoever opens a socket, for the contact that it is for."""
        self._watchers: dict[int, Watcher] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then discard every socket."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self.loop.run)
                task_status.started()
        finally:
            self._nursery = None
            for watcher in list(self._watchers.values()):
                watcher.discard()

    def start(self, task: Callable[[], Awaitable[None]], watcher: Watcher) -> None:
        """Run a task that ends with the poller, for what takes more than a call: to resolve, to connect."""
        if self._nursery is None:
            raise RuntimeError("the poller is not running")
        self._nursery.start_soon(self._run, task, watcher)

    async def _run(self, task: Callable[[], Awaitable[None]], watcher: Watcher) -> None:
        try:
            await task()
        except Exception as fault:
            note("a service's socket", fault)
            survives("a service's socket, on being closed", watcher.fail)

    def watch(self, descriptor: int, interest: int | None, watcher: Watcher) -> None:
        """Call `watcher` whenever `descriptor` is ready for `interest`, or broken. None: no more.

        A descriptor must be let go before it is closed.
        """
        if interest is None:
            self._watchers.pop(descriptor, None)
        else:
            self._watchers[descriptor] = watcher
        self.loop.watch(descriptor, interest, watcher)


def raise_descriptor_limit() -> int:
    """Raise this process's limit of open descriptors to the hard one, and return that.

    Every forwarded connection is a descriptor, and the usual soft limit, 1024, is for programs that use
    select.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
