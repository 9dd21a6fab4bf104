"""Decides which nodes are asked, at which port and when, until we are in the Tox network and stay there.

    offline            a few nodes at a time: `bootstrap` over UDP, and `add_tcp_relay`, each on its own
    online             relays alone, until there are three, as toxcore itself keeps that many
    offline again      from the beginning

What is configured is asked in each attempt, beside some of the public nodes, which take turns in an order
drawn at each start. A name is resolved anew in each attempt, beside the others, so that a dead resolver
delays nobody; with a proxy no name is resolved, as that would go around it. toxcore ignores a relay that it
is connecting to already, for 10 s if nothing answers: so the ports of a node take turns, one in an attempt.

client.py has it beside toxcore, and says when we are connected; the daemon's commands read it.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol, assert_never

import trio

from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.probing import Outcome
from tunfwd.tox.settings import NetworkNode, is_address

AT_ONCE: Final = 5  # nodes in an attempt
CONFIGURED_AT_ONCE: Final = 3  # of them, where there are public ones too
OFFLINE_DELAYS: Final = (2.0, 3.0, 6.0, 5.0, 6.0, 11.0, 11.0, 22.0, 33.0, 60.0)
"""s to the next attempt; the last stays. The turn of a port is over after 11 s (PENDING)."""
RELAYS: Final = 3  # toxcore, TCP_connection.h: RECOMMENDED_FRIEND_TCP_CONNECTIONS
RELAY_DELAYS: Final = (12.0, 12.0, 12.0, 30.0, 60.0, 300.0)  # s likewise, while online
PENDING: Final = 11.0  # s; toxcore, TCP_client.h: TCP_CONNECTION_TIMEOUT is 10
RESOLVE_TIME: Final = 3.0  # s for a name that somebody waits for
TOLD_AFTER: Final = (10.0, 60.0)  # s without the network until the log says so
HINT: Final = "; see: tunfwd doctor"

log = logging.getLogger(__name__)


class Network(Protocol):
    """What toxcore does for us. Hosts are addresses: toxcore would block on a name."""

    def bootstrap(self, host: str, port: int, public_key: bytes) -> bool:
        """Ask a node for others over UDP, and keep it as one that onion paths go through."""

    def add_tcp_relay(self, host: str, port: int, public_key: bytes) -> bool:
        """Connect to a relay, unless we do or are already."""


Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Resolves a name: its addresses, IPv4 first. Raises OSError or ValueError."""


@dataclass(slots=True)
class Record:
    """A node, and how it did."""

    node: NetworkNode
    asked: int = 0  # attempts that it was part of
    relay_at: float | None = None  # when toxcore was last given a port of it as a relay's
    tcp_port: int | None = None  # which one
    turn: int = 0  # of the next
    error: str | None = None  # why it could not be asked
    resolving: bool = False
    outcome: Outcome | None = None  # of asking it ourselves
    addresses: list[str] = field(default_factory=list)  # as last resolved


class Ask(Protocol):
    """Asks nodes at their addresses whether they are there, by whichever way is on."""

    async def __call__(
        self, nodes: Mapping[NetworkNode, Sequence[str]], *, udp: bool, tcp: bool
    ) -> Sequence[Outcome]:
        """Return what they said."""


class _Turns:
    """Records, some at a time, all as often as each other."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self._next = 0

    def add(self, record: Record) -> None:
        """Have a record be the next."""
        self.records.insert(self._next % (len(self.records) + 1), record)

    def keep(self, nodes: Collection[NetworkNode]) -> None:
        """Have the records of these nodes only."""
        self.records = [record for record in self.records if record.node in nodes]

    def take(self, count: int) -> list[Record]:
        """Return the next `count` of them, or all."""
        count = min(count, len(self.records))
        taken = [self.records[(self._next + number) % len(self.records)] for number in range(count)]
        self._next = (self._next + count) % max(len(self.records), 1)
        return taken


class Joining:
    """The attempts. `run` makes them; whoever runs toxcore says with `connected` how they went."""

    def __init__(
        self,
        network: Network,
        nodes: Iterable[NetworkNode],
        *,
        resolve: Resolve | None,
        is_routable: Callable[[str], bool],
        connected_relays: Callable[[], frozenset[bytes]],
        ask: Ask | None,
        udp: bool = True,
        random: Random,
    ) -> None:
        """`resolve` and `ask` are None where a proxy is in use. `connected_relays` tells their keys."""
        self._network = network
        self._resolve = resolve
        self._is_routable = is_routable
        self.connected_relays = connected_relays
        self._ask = ask
        self._udp = udp
        self._random = random
        self._own_relays, self._configured, self._public = _Turns([]), _Turns([]), _Turns([])
        self._changed = trio.Event()
        self.online = False
        self.offline_since: float | None = None
        """Since when, in trio's time, we are not in the network; None while we are, and before `run`."""
        self.add(nodes)

    @property
    def records(self) -> list[Record]:
        """All nodes, and how they did."""
        return [*self._configured.records, *self._own_relays.records, *self._public.records]

    def add(self, nodes: Iterable[NetworkNode]) -> None:
        """Take more nodes into account, as the next to be asked; at once if we are offline."""
        new = [Record(node) for node in nodes]
        self._random.shuffle(new)
        new.sort(key=lambda record: not record.node.is_numeric)
        for record in reversed(new):  # each goes before the others, and all before those that were there
            match record.node.origin:
                case "relays":
                    self._own_relays.add(record)
                case "bootstrap":
                    self._configured.add(record)
                case "bundled" | "added":
                    self._public.add(record)
                case _:
                    assert_never(record.node.origin)
        self._change()

    def replace(self, nodes: Iterable[NetworkNode]) -> None:
        """Join at these nodes from now on; what is known of those that stay is kept.

        toxcore forgets no node that it was given: one that is gone from here is not asked again by us.
        """
        wanted = dict.fromkeys(nodes)
        for turns in (self._own_relays, self._configured, self._public):
            turns.keep(wanted)
        known = {record.node for record in self.records}
        if new := [node for node in wanted if node not in known]:
            self.add(new)

    def connected(self, online: bool) -> None:
        """Note that we are in the network, or no longer."""
        if online != self.online:
            self.online = online
            self.offline_since = None if online else trio.current_time()
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Make attempts until cancelled."""
        self.offline_since = None if self.online else trio.current_time()
        for record in self.records:
            record.relay_at = None  # trio's time begins anew with each run
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            nursery.start_soon(self._look_around)
            while True:
                if self.online:
                    await self._keep_relays(nursery)
                else:
                    await self._join(nursery)

    async def _join(self, nursery: trio.Nursery) -> None:
        """Ask nodes, more and more rarely, until something has changed."""
        for delay in _repeating(OFFLINE_DELAYS):
            configured = self._configured.take(CONFIGURED_AT_ONCE if self._public.records else AT_ONCE)
            public = self._public.take(AT_ONCE - len(configured))
            relays = self._own_relays.take(AT_ONCE)
            changed = self._changed
            for record in (*relays, *configured, *public):
                self._use(record, nursery, bootstrap=True)
            if await _happens(changed, within=delay):
                return

    async def _keep_relays(self, nursery: trio.Nursery) -> None:
        """Connect to relays until there are enough, and all that are configured, until something changes."""
        for delay in _repeating(RELAY_DELAYS):
            if await _happens(self._changed, within=delay):
                return
            up = self.connected_relays()
            wanted = self._own_relays.take(AT_ONCE)
            if len(up) < RELAYS:
                wanted += self._configured.take(AT_ONCE - CONFIGURED_AT_ONCE) + self._public.take(AT_ONCE)
            for record in wanted:
                if record.node.key not in up:
                    self._use(record, nursery, bootstrap=False)

    # One node

    def _use(self, record: Record, nursery: trio.Nursery, *, bootstrap: bool) -> None:
        record.asked += 1
        addresses = [host for host in record.node.hosts if is_address(host)]
        if addresses:
            self._give(record, addresses, bootstrap=bootstrap)
        for name in record.node.hosts:
            if is_address(name):
                continue
            if self._resolve is None:
                record.error = "is a name, which is not resolved where a proxy is in use: write its address"
            elif not record.resolving:
                nursery.start_soon(self._give_resolved, record, name, self._resolve, bootstrap)

    async def _give_resolved(self, record: Record, name: str, resolve: Resolve, bootstrap: bool) -> None:
        """Give toxcore what the name means now."""
        record.resolving = True
        try:
            addresses = await resolve(name)
        except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
            reason = f"does not resolve: {getattr(error, 'strerror', None) or error}"
            if record.error != reason:
                log.warning("node %s %s", record.node, reason)
            record.error = reason
        else:
            self._give(record, addresses, bootstrap=bootstrap)
        finally:
            record.resolving = False

    def _give(self, record: Record, addresses: Sequence[str], *, bootstrap: bool) -> None:
        """Give toxcore a node as one to bootstrap from, and as a relay."""
        node, record.error = record.node, None
        record.addresses = [address for address in addresses if self._is_routable(address)]
        if not record.addresses:
            record.error = "there is no route to it"
        if bootstrap and node.udp_port is not None:
            for address in record.addresses:
                try:
                    self._network.bootstrap(address, node.udp_port, node.key)
                except ToxError as error:  # such as a firewall of this host that refuses UDP; TCP may pass
                    record.error = "nothing can be sent to it over UDP"
                    log.debug("node %s: %s", node, error)
        self._give_relay(record)

    def _give_relay(self, record: Record) -> None:
        """Give toxcore the next port of a node; what several settings say of one node is one list."""
        now = trio.current_time()
        if record.relay_at is not None and now - record.relay_at < PENDING:
            return
        same = [other for other in self.records if other.node.key == record.node.key]
        same.sort(
            key=lambda other: other.node.origin != "relays"
        )  # a port that was named goes before usual ones
        choices = list(
            dict.fromkeys(
                (address, port)
                for other in same
                for address in other.addresses
                for port in other.node.tcp_ports
            )
        )
        if not choices:
            return
        address, port = choices[record.turn % len(choices)]
        turn = record.turn + 1
        for other in same:
            other.turn, other.relay_at, other.tcp_port = turn, now, port
        try:
            self._network.add_tcp_relay(address, port, record.node.key)
        except ToxError as error:
            log.debug("relay %s at port %d: %s", record.node, port, error)

    # What is said

    async def probe(self, records: Collection[Record], *, tcp: bool = True) -> None:
        """Ask nodes ourselves whether they are there, and note it as their outcome; takes up to 6 s.

        With a proxy nothing is done: it would be to go around it.
        """
        if self._ask is None:
            return
        async with trio.open_nursery() as nursery:
            for record in records:
                if not record.addresses:
                    nursery.start_soon(self._find_addresses, record)
        reachable = {record.node: record.addresses for record in records if record.addresses}
        outcomes = {outcome.node: outcome for outcome in await self._ask(reachable, udp=self._udp, tcp=tcp)}
        for record in records:
            unreachable = Outcome(record.node, "unreachable") if record.node.is_numeric else None
            record.outcome = outcomes.get(record.node, unreachable)

    async def _find_addresses(self, record: Record) -> None:
        addresses = [host for host in record.node.hosts if is_address(host)]
        with trio.move_on_after(RESOLVE_TIME):
            for name in record.node.hosts:
                if not is_address(name) and self._resolve is not None:
                    with suppress(OSError, ValueError):
                        addresses += await self._resolve(name)
        record.addresses = [address for address in addresses if self._is_routable(address)]

    async def _tell(self) -> None:
        """Say it in the log when we have been offline for a while, or a configured node is not there."""
        while True:
            since, told = self.offline_since, 0
            while self.offline_since == since:
                late = since is not None and told < len(TOLD_AFTER)
                deadline = since + TOLD_AFTER[told] if since is not None and late else math.inf
                changed = self._changed
                with trio.move_on_at(deadline) as waiting:
                    await changed.wait()
                if waiting.cancelled_caught:
                    await self.probe([record for record in self.records if record.asked])
                    if not self.online:
                        log.warning(
                            "not in the Tox network for %g s: %s%s", TOLD_AFTER[told], self.describe(), HINT
                        )
                    told += 1

    async def _look_around(self) -> None:
        """Find out how the nodes did that were asked at the start, for `tunfwd nodes`.

        Which configured ones are not there is said in the log: the others may hide it for long.
        """
        await trio.sleep(TOLD_AFTER[0])
        if self.online:
            await self.probe([record for record in self._public.records if record.asked], tcp=False)
        configured = [*self._configured.records, *self._own_relays.records]
        await self.probe(configured)
        for record in configured:
            if record.outcome is not None and not record.outcome.answers:
                log.warning("[tox] %s %s: %s", record.node.origin, record.node, record.outcome.told)

    def describe(self) -> str:
        """Say why we may not be in the network."""
        records = self.records
        asked = [record for record in records if record.asked]
        if not records:
            return (
                "no node to join at is known, so that only friends in the local network are found; set "
                "[tox] public_nodes = true, or name nodes in [tox] bootstrap"
            )
        failed = [record for record in asked if record.error and not record.addresses]
        if asked and len(failed) == len(asked):
            why = Counter(record.error for record in failed).most_common(1)[0][0]
            return f"{_nodes(len(asked))} tried, and for the most part: {why}"
        known = [record.outcome for record in asked if record.outcome is not None]
        if known and not any(outcome.answers for outcome in known):
            return f"{_nodes(len(asked))} asked, none answers"
        return f"{_nodes(len(asked))} asked, none has let us in yet"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _repeating(delays: Sequence[float]) -> Iterator[float]:
    return itertools.chain(delays, itertools.repeat(delays[-1]))


async def _happens(event: trio.Event, *, within: float) -> bool:
    """Wait for `event`; False where it does not happen in that many seconds."""
    with trio.move_on_after(within):
        await event.wait()
    return event.is_set()
