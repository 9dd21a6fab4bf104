"""Whole daemons in one process: real clients on a toxcore without a network, kernels of their own, commands.

Nothing of them is left out but what needs root or libtoxcore. Their clock is the real one; what a test waits
for, it waits for as long as it takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self

import trio

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.daemon import wiring
from tunfwd.daemon.commands.main import dispatcher
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.contacts.offers import Policy
from tunfwd.daemon.contacts.tracker import AutoAccept
from tunfwd.daemon.datapath.datapath import Machine
from tunfwd.daemon.storage.kept import Storage
from tunfwd.daemon.storage.nodes import NodeList
from tunfwd.daemon.storage.state import State
from tunfwd.daemon.storage.write_behind import WriteBehind
from tunfwd.forwarding.policy import Rule
from tunfwd.forwarding.session import Settings as SessionSettings
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Settings
from tunfwd.tun.listeners import Listener
from tunfwd.wire.packets import Protocol

from .joined import Kernel
from .simulated import LO, RANGE, RANGE6, TUN, SimulatedListeners

PATIENCE = 60.0  # s until what does not come is taken for lost, however busy the machine is

RUNS = count()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that other tasks do."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  of any kind
            await trio.sleep(0.002)


class Health:
    """Of a machine where all is as it should be."""

    captures = False

    def checks(self) -> list[api.Check]:
        return [{"name": "device", "ok": True, "level": "ok", "detail": "simulated"}]


class Living(wiring.Daemon):
    """A person's daemon."""

    def __init__(self, directory: Path, name: str, rules: tuple[Rule, ...], accept: AutoAccept) -> None:
        self.name = name
        self._stack = ExitStack()
        self.state = self._stack.enter_context(State.load(directory / name))
        self.saver = WriteBehind(self.state)
        self.listeners = SimulatedListeners()
        self.kernel = Kernel(seed=1)
        device: Any = self.kernel
        machine = Machine(
            device=device,
            addresses=(IPv4Interface((RANGE[1], RANGE.prefixlen)), IPv6Interface((RANGE6[1], 48))),
            interface=TUN,
            loopback=LO,
            listeners=self.listeners,
            random=Random(f"{name} {next(RUNS)}"),  # each run has an epoch of its own,
        )
        options = wiring.Options(Policy(rules, ()), 5.0, SessionSettings(), accept)
        super().__init__(machine, self.state.content, self.saver.save, options, self._start)
        health: Any = Health()
        self.nodes = NodeCommands(self.client, NodeList(self.state.directory, own=False))
        self.commands = dispatcher(self, Storage(self.state, self.saver, self.client), health, self.nodes)

    def _start(self, handler: Handler) -> Client:
        settings = Settings(savedata=self.state.identity(), name=self.name, local_discovery=False)
        return self._stack.enter_context(Client(settings, handler))

    @classmethod
    @asynccontextmanager
    async def running(
        cls, directory: Path, name: str, rules: tuple[Rule, ...] = (), accept: AutoAccept | None = None
    ) -> AsyncIterator[Self]:
        """Run one for as long as the block lasts; what it knew in an earlier block it knows again."""
        daemon = cls(directory, name, rules, accept or AutoAccept(frozenset(), frozenset()))
        datapath = daemon.datapath
        with daemon._stack, daemon.events:
            async with trio.open_nursery() as nursery:
                await nursery.start(datapath.poller.run)
                await nursery.start(daemon.saver.run)
                await nursery.start(datapath.services.run)
                await nursery.start(datapath.engine.run)
                nursery.start_soon(daemon.kernel.run)
                await nursery.start(daemon.client.run, datapath.loop)
                yield daemon
                await datapath.engine.end()
                nursery.cancel_scope.cancel()

    async def call(self, method: str, **params: object) -> Any:
        """What the control socket answers."""
        return await self.commands(method, params)

    async def refusal(self, method: str, **params: object) -> tuple[str, str]:
        """The code and the message with which the control socket refuses."""
        try:
            answer = await self.call(method, **params)
        except UserError as refused:
            return refused.code, refused.message
        raise AssertionError(f"{method} is not refused: {answer}")

    def refuse(self, error: str) -> None:
        """Have toxcore refuse what can fail so, as "TOX_ERR_FAMILY NAME"."""
        node: Any = self.client._tox
        node.refused.add(error)

    @property
    def address(self) -> str:
        """The Tox address."""
        return self.client.address

    def serve(self, port: int, protocol: Protocol = Protocol.TCP) -> None:
        """Have a service listen at a port, on every address, that answers what it is told."""
        self.listeners.table[protocol, port] = [Listener(ip_address("0.0.0.0"), uid=70000, inode=port)]
        self.kernel.listening[port] = lambda program: None
        self.kernel.answer = lambda event: bytes(event.payload)

    async def knows(self, name: str, link: str = "direct") -> None:
        """Wait until a contact is reached in that way."""

        async def reached() -> bool:
            contacts = (await self.call("status"))["contacts"]
            return any(one["name"] == name and one["link"] == link for one in contacts)

        with trio.fail_after(PATIENCE):
            while not await reached():  # noqa: ASYNC110  as `until`
                await trio.sleep(0.002)


async def befriend(one: Living, other: Living) -> None:
    """Make friends of two, each under the other's own name."""
    await one.call("friend.add", address=other.address, name=other.name)
    await until(lambda: other.client.friends.requests)
    await other.call("friend.accept", key=one.client.public_key.hex()[:8], name=one.name)
    await one.knows(other.name)
    await other.knows(one.name)
