"""Which nodes are asked, when and how, with a virtual clock and a toxcore that only notes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
import trio

from tunfwd.tox.binding.errors import CODES, from_code
from tunfwd.tox.joining import AT_ONCE, PENDING, RELAYS, Joining, Resolve
from tunfwd.tox.probing import Answer, Outcome
from tunfwd.tox.settings import NetworkNode, Node, Origin

BAD_HOST = from_code(CODES["TOX_ERR_BOOTSTRAP"](2))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def node(
    number: int,
    *,
    host: str | None = None,
    tcp_ports: tuple[int, ...] = (443, 3389, 33445),
    origin: Origin = "bundled",
) -> NetworkNode:
    udp_port = None if origin == "relays" else 33445
    return NetworkNode(key(number), (host or f"192.0.2.{number}",), udp_port, tcp_ports, origin)


@dataclass
class FakeTox:
    """Notes (seconds, call, host, port); refuses what `refuses` names."""

    calls: list[tuple[float, str, str, int]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    relays: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = trio.current_time()

    def bootstrap(self, host: str, port: int, public_key: bytes) -> bool:
        return self._note("bootstrap", host, port)

    def add_tcp_relay(self, host: str, port: int, public_key: bytes) -> bool:
        return self._note("relay", host, port)

    def _note(self, call: str, host: str, port: int) -> bool:
        self.calls.append((trio.current_time() - self.start, call, host, port))
        if call in self.refuses:
            raise BAD_HOST
        return True

    def of(self, call: str, *, until: float = 1e9) -> list[tuple[str, int]]:
        return [(host, port) for at, what, host, port in self.calls if what == call and at < until]

    def ports(self, host: str) -> list[int]:
        return [port for _, call, to, port in self.calls if call == "relay" and to == host]


async def no_names(host: str) -> list[str]:
    raise OSError(-3, "Temporary failure in name resolution")


class Attempts:
    """A Joining that runs for as long as a test wants."""

    def __init__(
        self,
        *nodes: NetworkNode,
        resolve: Resolve | None = no_names,
        is_routable: Callable[[str], bool] = lambda address: True,
    ) -> None:
        self.tox = FakeTox()
        self.alive = False  # the nodes, when we ask ourselves
        self.probed: list[set[NetworkNode]] = []
        self.pinged: set[NetworkNode] = set()
        self.joining = Joining(
            self.tox,
            nodes,
            resolve=resolve,
            is_routable=is_routable,
            connected_relays=lambda: frozenset(self.tox.relays),
            ask=self.ask,
            random=Random(7),
        )

    async def ask(self, nodes: Mapping[NetworkNode, Sequence[str]], *, udp: bool, tcp: bool) -> list[Outcome]:
        assert udp
        if tcp:
            self.probed.append(set(nodes))
        else:
            self.pinged |= set(nodes)
        await trio.sleep(0.1)
        answer: Answer = "answers" if self.alive else "no answer"
        return [Outcome(node, answer) for node in nodes]

    async def run(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.joining.run()

    @contextmanager
    def running(self, nursery: trio.Nursery) -> Iterator[None]:
        nursery.start_soon(self.joining.run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_few_at_a_time_until_all_were_asked(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    await attempts.run(1)
    first = attempts.tox.of("bootstrap")
    assert len(first) == len(set(first)) == AT_ONCE
    await attempts.run(29)
    asked = {host for host, _ in attempts.tox.of("bootstrap")}
    assert len(asked) == 28
    assert [host for host, _ in first] != [f"192.0.2.{number}" for number in range(1, 6)]


async def test_asks_no_more_once_we_are_in_with_relays(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    async with trio.open_nursery() as nursery:
        with attempts.running(nursery):
            await trio.sleep(1)
            attempts.tox.relays = {key(1), key(2), key(3)}
            attempts.joining.connected(True)
            before = len(attempts.tox.calls)
            await trio.sleep(3600)
            assert len(attempts.tox.calls) == before
            attempts.joining.connected(False)
            await trio.sleep(0.01)
            assert len(attempts.tox.of("bootstrap")) == 2 * AT_ONCE


async def test_relays_are_added_until_there_are_three(autojump_clock: trio.testing.MockClock) -> None:
    """Over UDP alone there would be no way to a friend who has TCP alone."""
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    async with trio.open_nursery() as nursery:
        with attempts.running(nursery):
            await trio.sleep(1)
            attempts.joining.connected(True)
            asked, relays = len(attempts.tox.of("bootstrap")), len(attempts.tox.of("relay"))
            await trio.sleep(15)
            assert len(attempts.tox.of("bootstrap")) == asked
            assert len(attempts.tox.of("relay")) == relays + AT_ONCE
            attempts.tox.relays = {key(number) for number in range(1, RELAYS + 1)}
            relays = len(attempts.tox.of("relay"))
            await trio.sleep(600)
            assert len(attempts.tox.of("relay")) == relays


async def test_ports_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    """toxcore ignores a second port for as long as it tries the first, for 10 s."""
    attempts = Attempts(node(1, tcp_ports=(443, 3389, 33445)))
    await attempts.run(120)
    relays = [(at, port) for at, call, _, port in attempts.tox.calls if call == "relay"]
    assert [port for _, port in relays[:4]] == [443, 3389, 33445, 443]
    assert all(later - at >= PENDING for (at, _), (later, _) in pairwise(relays))
    assert [round(at) for at, _ in relays[:4]] == [0, 11, 22, 33]


async def test_a_relay_that_is_also_a_node_to_bootstrap_from_is_used_at_its_own_port_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """toxcore takes no second port of a key while one is pending: neither setting starves the other."""
    own = NetworkNode.of(Node("198.51.100.1", 33445, key(99)), "bootstrap")
    relay = NetworkNode.of(Node("198.51.100.1", 33400, key(99)), "relays")
    for nodes in ((own, relay), (relay, own)):
        attempts = Attempts(*nodes)
        await attempts.run(100)
        ports = attempts.tox.ports("198.51.100.1")
        assert ports[0] == 33400
        assert {33400, *own.tcp_ports} <= set(ports)
        times = [at for at, call, *_ in attempts.tox.calls if call == "relay"]
        assert all(later - at >= PENDING for at, later in pairwise(times))


async def test_a_configured_node_is_tried_at_the_usual_ports_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    configured = NetworkNode.of(Node("192.0.2.1", 33400, key(1)), "bootstrap")
    attempts = Attempts(configured)
    await attempts.run(120)
    assert attempts.tox.ports("192.0.2.1")[:5] == [33400, 443, 3389, 33445, 33400]
    assert attempts.tox.of("bootstrap")[0] == ("192.0.2.1", 33400)


async def test_udp_that_is_refused_keeps_no_relay_from_being_added(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(NetworkNode.of(Node("192.0.2.1", 33445, key(1)), "bootstrap"))
    attempts.tox.refuses = {"bootstrap"}
    await attempts.run(1)
    assert attempts.tox.of("relay") == [("192.0.2.1", 33445)]
    attempts.tox.refuses = {"relay"}
    await attempts.run(30)
    assert len(attempts.tox.of("bootstrap")) > 2


async def test_what_is_configured_is_asked_in_each_attempt(autojump_clock: trio.testing.MockClock) -> None:
    own = NetworkNode.of(Node("198.51.100.1", 33445, key(99)), "bootstrap")
    attempts = Attempts(*(node(number) for number in range(1, 29)), own)
    await attempts.run(9.5)  # at 0, 2 and 5 s
    asked = [host for host, _ in attempts.tox.of("bootstrap")]
    assert asked.count("198.51.100.1") == 3
    assert len(asked) == 3 * AT_ONCE


async def test_addresses_before_names_and_a_dead_resolver_delays_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(host: str) -> list[str]:
        await trio.sleep(60)
        return ["203.0.113.1"]

    attempts = Attempts(*(node(n, host=f"n{n}.example") for n in (1, 2, 3)), node(4), resolve=slow)
    await attempts.run(30)
    assert {host for host, _ in attempts.tox.of("bootstrap")} == {"192.0.2.4"}
    await attempts.run(59)
    assert attempts.tox.calls[0][2] == "192.0.2.4"


@pytest.mark.parametrize("origin", ["bootstrap", "relays", "bundled"])
async def test_a_name_that_resolves_later(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, origin: Origin
) -> None:
    async def resolve(host: str) -> list[str]:
        if trio.current_time() - attempts.tox.start < 20:
            raise OSError(-2, "Name or service not known")
        return ["203.0.113.1"]

    attempts = Attempts(node(1, host="node.example", origin=origin), resolve=resolve)
    with caplog.at_level(logging.WARNING):
        await attempts.run(19)
    assert not attempts.tox.calls
    assert caplog.text.count("node.example:") == 1  # once, not in each attempt
    assert "does not resolve: Name or service not known" in caplog.text
    await attempts.run(30)
    assert attempts.tox.of("relay")[0][0] == "203.0.113.1"


async def test_a_relay_whose_name_resolves_late_is_added_although_we_are_in(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def resolve(host: str) -> list[str]:
        if trio.current_time() - attempts.tox.start < 30:
            raise OSError(-2, "Name or service not known")
        return ["203.0.113.1"]

    attempts = Attempts(node(1, host="relay.example", origin="relays", tcp_ports=(443,)), resolve=resolve)
    attempts.tox.relays = {key(number) for number in range(10, 10 + RELAYS)}
    attempts.joining.connected(True)
    await attempts.run(60)
    assert attempts.tox.of("relay")[0] == ("203.0.113.1", 443)


async def test_with_a_proxy_no_name_is_resolved(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(node(1, host="node.example", origin="bootstrap"), node(2), resolve=None)
    await attempts.run(60)
    assert {host for host, _ in attempts.tox.of("relay")} == {"192.0.2.2"}
    [record] = [record for record in attempts.joining.records if not record.node.is_numeric]
    assert record.error is not None
    assert "proxy" in record.error


async def test_what_has_no_route_is_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    both = NetworkNode(key(1), ("192.0.2.1", "2001:db8::1"), 33445, (443, 3389), "bundled")
    attempts = Attempts(both, is_routable=lambda address: ":" in address)
    await attempts.run(40)
    assert attempts.tox.of("relay")[:2] == [("2001:db8::1", 443), ("2001:db8::1", 3389)]
    assert {host for _, _, host, _ in attempts.tox.calls} == {"2001:db8::1"}


async def test_it_is_said_at_10_and_60_seconds(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = Attempts(node(1))
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            with attempts.running(nursery):
                for seconds, lines in ((9.9, 0), (1, 1), (40, 1), (10, 2), (600, 2)):
                    await trio.sleep(seconds)
                    assert len(caplog.records) == lines
                attempts.joining.connected(True)
                await trio.sleep(600)
                attempts.joining.connected(False)
                await trio.sleep(11)
                assert len(caplog.records) == 3
    assert "not in the Tox network for 10 s: 1 node asked, none answers" in caplog.messages[0]
    assert "tunfwd doctor" in caplog.messages[0]
    assert "for 60 s" in caplog.messages[1]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ((), "no node to join at is known"),
        ((node(1, host="a.example"),), "does not resolve"),
        ((node(1),), "there is no route to it"),
    ],
)
async def test_why_we_are_not_in(
    autojump_clock: trio.testing.MockClock, nodes: tuple[NetworkNode, ...], said: str
) -> None:
    attempts = Attempts(*nodes, is_routable=lambda address: False)
    await attempts.run(5)
    assert said in attempts.joining.describe()


async def test_nodes_added_while_offline_are_asked_before_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    async with trio.open_nursery() as nursery:
        with attempts.running(nursery):
            await trio.sleep(1000)
            attempts.tox.calls.clear()
            attempts.joining.add([node(number, origin="added") for number in range(100, 105)])
            await trio.sleep(0.01)
            assert {host for host, _ in attempts.tox.of("bootstrap")} == {
                f"192.0.2.{number}" for number in range(100, 105)
            }


async def test_nodes_added_while_offline_are_asked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts()
    async with trio.open_nursery() as nursery:
        with attempts.running(nursery):
            await trio.sleep(1000)
            attempts.joining.add([node(1, origin="added")])
            await trio.sleep(0.01)
            assert attempts.tox.of("bootstrap") == [("192.0.2.1", 33445)]


async def test_a_configured_node_that_is_not_there_is_said_although_we_are_in(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    gone = NetworkNode.of(Node("198.51.100.1", 33445, key(99)), "bootstrap")
    attempts = Attempts(gone, *(node(number) for number in range(1, 9)))
    attempts.joining.connected(True)
    with caplog.at_level(logging.WARNING):
        await attempts.run(60)
    assert caplog.messages == ["[tox] bootstrap 198.51.100.1:33445: no answer over UDP"]
    assert attempts.probed == [{gone}]


async def test_only_nodes_that_were_asked_are_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    await attempts.run(9)
    assert not any(attempts.probed)
    await attempts.run(11)
    asked = {record.node for record in attempts.joining.records if record.asked}
    assert set().union(*attempts.probed) <= asked
    assert "none answers" in attempts.joining.describe()
    attempts.alive = True
    await attempts.run(11)
    assert "none has let us in yet" in attempts.joining.describe()


async def test_with_a_proxy_nothing_is_asked_past_it(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(node(1), resolve=None)
    attempts.joining._ask = None
    await attempts.run(100)
    await attempts.joining.probe(attempts.joining.records)
    assert not attempts.probed


async def test_how_those_did_that_let_us_in_is_found_out_over_udp_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(*(node(number) for number in range(1, 29)))
    async with trio.open_nursery() as nursery:
        with attempts.running(nursery):
            await trio.sleep(1)
            attempts.alive = True
            attempts.tox.relays = {key(1), key(2), key(3)}
            attempts.joining.connected(True)
            await trio.sleep(60)
    asked = [record for record in attempts.joining.records if record.asked]
    assert len(asked) == AT_ONCE
    assert attempts.pinged == {record.node for record in asked}
    assert all(record.outcome is not None and record.outcome.udp == "answers" for record in asked)
    assert not any(attempts.probed)
