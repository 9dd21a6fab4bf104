"""Measure what contacts and mappings cost by their number: processor time, lines executed, memory.

    scripts/bench --growth [--contacts N,N] [--mappings N,N]

In memory and in virtual time: two daemons without toxcore, device or kernel (tests/daemon/simulated.py) who
know each other N times over, so that each has N contacts with a tunfwd at the other end. All figures are of
one daemon, and of one contact or mapping: processor time, and how many lines of ours are executed, which
does not depend on the machine. Of real Tox contacts see idle.py.
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeVar

import trio
import trio.testing
from tabulate import tabulate

from tests.daemon.joined import Host
from tests.daemon.simulated import Daemon, key_of
from tests.daemon.test_naming import commands_of
from tunfwd.config.document import load
from tunfwd.daemon.commands.declared import Declared
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content, StandingOffer
from tunfwd.forwarding.session import FEATURES, Settings
from tunfwd.link import link
from tunfwd.tox.handler import Handler

if TYPE_CHECKING:
    from _typeshed import TraceFunction

CONTACTS: Final = (1, 10, 100, 1000)
MAPPINGS: Final = (10, 100, 1000)
IDLE: Final = 60  # s, virtual
ROUND: Final = 0.2  # s between rounds of toxcore that is idle (tunfwd/tox/pacing.py)
FIRST_PORT: Final = 10_000

SETTLE: Final = 10.0  # s, virtual, in which all is said that there is to say

Work = Callable[[], Awaitable[object]]
ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")


class Steps:
    """Counts the lines of ours that are executed within a block, each turn of a loop once more."""

    def __enter__(self) -> "Steps":
        self.count = 0
        self._others = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._others)

    def _called(self, frame: FrameType, event: str, _: object) -> "TraceFunction | None":
        return self._went if frame.f_globals.get("__name__", "").startswith("tunfwd.") else None

    def _went(self, frame: FrameType, event: str, _: object) -> "TraceFunction":
        self.count += event == "line"
        return self._went


Cost = tuple[float, float]
"""Processor time, in us, and steps."""
Row = dict[str, Cost | float]


async def cost(work: Work) -> Cost:
    """Return what something costs that is done twice."""
    gc.collect()
    before = time.thread_time()
    await work()
    spent = time.thread_time() - before
    with Steps() as steps:
        await work()
    return spent * 1e6, steps.count


class Memory:
    """Says by how many bytes the process grew within a block."""

    def __enter__(self) -> "Memory":
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()


class Acquainted:
    """Two daemons with many contacts, each of which is the other, under another key."""

    def __init__(self, settings: Settings) -> None:
        self.one, self.other = Host(1, settings), Host(2, settings)
        self.peers: list[tuple[Peer, Peer]] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: Settings | None = None) -> AsyncIterator["Acquainted"]:
        """Run both, and carry what they say, until the block ends."""
        both = cls(settings or Settings(FEATURES))
        async with trio.open_nursery() as nursery:
            for host in (both.one, both.other):
                await nursery.start(host.daemon.poller.run)
                await nursery.start(host.daemon.engine.run)
                await nursery.start(host.daemon.services.run)
                nursery.start_soon(host.kernel.run)
            nursery.start_soon(both._carry, both.one, both.other)
            nursery.start_soon(both._carry, both.other, both.one)
            yield both
            nursery.cancel_scope.cancel()

    async def meet_all(self, count: int) -> None:
        """Be contacts so many times more, and let all of them say Hello."""
        for number in range(len(self.peers), len(self.peers) + count):
            self.peers.append((self.one.befriend(f"other{number}"), self.other.befriend(f"one{number}")))
        await trio.sleep(SETTLE)

    async def part_and_meet(self) -> None:
        """Be cut off from each other, and be there again."""
        for step in ("offline", "online"):
            for peers in self.peers:
                for host, peer in zip((self.one, self.other), peers, strict=True):
                    getattr(host.daemon.engine, step)(peer)
            await trio.sleep(SETTLE)

    async def _carry(self, teller: Host, hearer: Host) -> None:
        at = 0 if hearer is self.one else 1
        said = teller.daemon.tox.said
        while True:
            await teller.filled.wait()
            teller.filled = trio.Event()
            while said:
                lossless, number, packet = said.popleft()
                peer = self.peers[number][at]
                engine = hearer.daemon.engine
                (engine.lossless if lossless else engine.lossy)(peer, packet)
            hearer.daemon.contacts.iterated()
            await trio.lowlevel.checkpoint()

    async def rest(self, seconds: float = IDLE) -> None:
        """Have nothing to do; toxcore goes its rounds."""
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await trio.sleep(ROUND)
            for host in (self.one, self.other):
                host.daemon.contacts.iterated()


def call_of(daemon: Daemon) -> Callable[..., Work]:
    """Return what makes questions of the control socket's, without the socket."""
    dispatcher = commands_of(daemon)

    def call(method: str, **params: object) -> Work:
        async def ask() -> None:
            await dispatcher(method, params)

        return ask

    return call


async def of_contacts(count: int) -> Row:
    """Measure a daemon with so many contacts."""
    costs: dict[str, Cost] = {}
    async with Acquainted.running() as both:
        await both.meet_all(1)  # what is made once
        with Memory() as memory:
            await both.meet_all(count)
        costs["a second of idleness"] = _share(await cost(both.rest), 2 * IDLE * count)
        call = call_of(both.one.daemon)
        for shown, name in (("status", "status"), ("offers", "offer.list"), ("friend list", "friend.list")):
            costs[shown] = _share(await cost(call(name)), count)
        new = max(1, count // 10)
        costs["one more contact"] = _share(await cost(lambda: both.meet_all(new)), 2 * new)
    return {"KB": memory.grown / 2e3 / count, **costs}


class Known(Daemon):
    """A daemon that is started anew: toxcore knows the friends whom the state has names of."""

    def _start(self, handler: Handler) -> object:
        for contact in self.content.names:
            self.friends.add_key(bytes.fromhex(contact))
        return super()._start(handler)


async def start(count: int) -> Row:
    """Measure a start with so many known contacts, one offer to each."""

    async def begin() -> None:
        content = Content()
        for number in range(count):
            known = key_of(f"friend{number}").hex().upper()
            content.names[known] = f"friend{number}"
            content.offers.append(StandingOffer(known, "tcp", 80, "web", None, "auto"))
        daemon = Known(content)
        assert len(list(daemon.peers)) == count

    return {"start": _share(await cost(begin), count)}


async def of_mappings(count: int) -> Row:
    """Measure a daemon with so many mappings with one contact, which accepts all by a rule."""
    costs: dict[str, Cost] = {}
    async with Acquainted.running() as both:
        await both.meet_all(1)
        call = call_of(both.one.daemon)
        offered = iter(range(3))

        async def offer() -> None:
            first = FIRST_PORT + next(offered) * 1024
            ports = [f"{first + number}/tcp" for number in range(count // 2)]
            for at in range(0, len(ports), 64):
                await call("offer.add", to=["other0"], ports=ports[at : at + 64], name=f"game{first + at}")()
            await trio.sleep(10)

        with Memory() as memory:
            costs["offered, accepted"] = _share(await cost(offer), count // 2)
        [(peer, _)] = both.peers
        assert [mapping.accepted for mapping in peer.session.mappings] == [True] * (count // 2 * 2)
        costs["a second of idleness"] = _share(await cost(both.rest), 2 * IDLE * count)
        for name in ("status", "offer.list", "ports"):
            costs[name.replace("offer.list", "offers")] = _share(await cost(call(name)), count)
        costs["cut off, back"] = _share(await cost(both.part_and_meet), count)
        firsts = iter([FIRST_PORT, FIRST_PORT + 1024])

        async def kill() -> None:
            first = next(firsts)
            for at in range(0, count // 2, 64):
                await call("kill", id=f"game{first + at}")()
            await trio.sleep(SETTLE)

        costs["killed"] = _share(await cost(kill), count // 2)
    return {"KB": memory.grown / 2e3 / count, **costs}


def reload(count: int) -> Row:
    """Measure a configuration with so many offers that is read, and read again when nothing has changed."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.toml")
        offers = (f'[[offer]]\nto = ["bob"]\nports = ["{FIRST_PORT + n}/tcp"]\n' for n in range(count))
        file.write_text("".join(offers))
        costs = run(_reload, file)
    return {name: _share(cost, count) for name, cost in costs.items()}


async def _reload(file: Path) -> dict[str, Cost]:
    daemon, declared = _with_a_friend()

    async def first() -> None:
        nonlocal daemon, declared
        daemon, declared = _with_a_friend()
        await read()

    async def read() -> None:
        problems = declared.apply(load(str(file), environ={}, euid=0))
        assert not problems, problems

    return {"first read": await cost(first), "read again": await cost(read)}


def _with_a_friend() -> tuple[Daemon, Declared]:
    daemon = Daemon()
    daemon.befriend("bob")
    return daemon, Declared(daemon, daemon._save)


def _share(whole: Cost, parts: float) -> Cost:
    spent, steps = whole
    return spent / parts, steps / parts


def table(name: str, rows: dict[int, Row]) -> str:
    """Lay out what each of so many costs: KB, and microseconds / steps."""
    heads = [name, *next(iter(rows.values()))]
    lines = [[count, *map(_cell, row.values())] for count, row in rows.items()]
    return tabulate(lines, headers=heads, disable_numparse=True, tablefmt="pipe")


def _cell(value: "Cost | float") -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.3g} us / {value[1]:.3g}"
    return f"{value:.3g}"


def run(measure: Callable[[ArgT], Awaitable[ResultT]], argument: ArgT) -> ResultT:
    """Measure in virtual time."""
    return trio.run(measure, argument, clock=trio.testing.MockClock(autojump_threshold=0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench --growth", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--growth", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--contacts", default=CONTACTS, type=numbers)
    parser.add_argument("--mappings", default=MAPPINGS, type=numbers)
    arguments = parser.parse_args()
    print(f"each: processor time / lines of ours; {'compiled' if is_compiled() else 'Python'}")
    print(table("contacts", {n: run(of_contacts, n) | run(start, n) for n in arguments.contacts}))
    print(table("mappings", {n: run(of_mappings, n) | reload(n) for n in arguments.mappings}))


def is_compiled() -> bool:
    """Whether the cores are in C."""
    return not link.__file__.endswith(".py")


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas between."""
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
