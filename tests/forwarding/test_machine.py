"""Two sessions and whatever users, services and the network do to them, in any order.

What holds at every moment: bytes that come out of a flow are a prefix of what went into its other end. When
all is quiet again, both sides agree about every mapping; when all was ended, nothing is left.
"""

import contextlib
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.forwarding.pair import Answer, Pair, Side
from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding.flow import Flow, Origin
from tunfwd.forwarding.handshake import HELLO_INTERVAL
from tunfwd.forwarding.session import CARRIER_FEATURES as FEATURES
from tunfwd.forwarding.states import FlowState, MappingState
from tunfwd.wire.packets import Direction, Feature, Protocol

PATTERN = bytes(range(251)) * 40_000  # a prime period: neither packets nor buffers are a multiple of it


def stream_of(flow: int, length: int) -> bytes:
    """What a flow writes: its number, then bytes that are another's at no place."""
    start = flow * 17 % 251
    return (b"%07d" % flow + PATTERN[start : start + length])[:length]


sides = st.sampled_from(["a", "b"])
indexes = st.integers(0, 5)


class Sessions(RuleBasedStateMachine):
    features: tuple[Feature, Feature]

    @initialize(
        delay=st.sampled_from([0.0, 0.03]),
        capacity=st.sampled_from([3, 1 << 30]),
        features=st.sampled_from([FEATURES, FEATURES, FEATURES, Feature.MANY, Feature.FLOW, Feature(0)]),
        begun=st.sampled_from([True, True, True, False]),
    )
    def begin(self, delay: float, capacity: int, features: Feature, begun: bool) -> None:
        self.start(Pair(Side(1, features=features), Side(2), delay=delay, capacity=capacity), features)
        if begun:
            self.set_up()

    def start(self, pair: Pair, features: Feature) -> None:
        self.many = Feature.MANY in features
        self.in_order = Feature.FLOW in features
        self.pair = pair
        self.answer: Answer = True
        for side in self.pair.sides:
            side.service = lambda flow: self.answer
        self.written: dict[Flow, int] = {}
        self.names: dict[Flow, int] = {}
        self.finished: set[Flow] = set()
        self.connected = True
        self.pair.connect()

    def set_up(self) -> None:
        """What most sessions have: an offer accepted, and two connections over it."""
        mapping = self.pair.serve()
        self.pair.run(1)
        for _ in range(2):
            self.pair.b.session.connect(mapping, self.pair.now)
        self.pair.run(1)

    def side(self, name: str) -> Side:
        return self.pair.a if name == "a" else self.pair.b

    def flow(self, side: Side, index: int) -> Flow | None:
        flows = [f for f in (*side.opened, *side.flows) if f.is_open and f.protocol is Protocol.TCP]
        return flows[index % len(flows)] if flows else None

    # What users do.

    @rule(
        name=sides,
        port=st.sampled_from([80, 81]),
        protocol=st.sampled_from(Protocol),
        direction=st.sampled_from(Direction),
    )
    def offer(self, name: str, port: int, protocol: Protocol, direction: Direction) -> None:
        with contextlib.suppress(Misuse):  # it stands already
            self.side(name).session.offer(protocol, port, "name", self.pair.now, direction=direction)

    @rule(name=sides, index=indexes)
    def end(self, name: str, index: int) -> None:
        side = self.side(name)
        if side.session.mappings:
            side.session.end(side.session.mappings[index % len(side.session.mappings)], self.pair.now)

    @rule(name=sides, index=indexes, patient=st.booleans())
    def connect(self, name: str, index: int, patient: bool) -> None:
        side = self.side(name)
        using = [m for m in side.session.mappings if m.role.value == "using"]
        if using:
            side.session.connect(using[index % len(using)], self.pair.now)
        if patient:
            self.pair.run(1)

    @rule(name=sides, taking=st.booleans())
    def decide(self, name: str, taking: bool) -> None:
        side = self.side(name)
        side.auto_accept = taking
        for mapping in list(side.session.mappings):
            if taking and mapping.state is MappingState.PENDING:
                side.session.accept(mapping, self.pair.now)

    @rule(answer=st.sampled_from([True, Reason.REFUSED, None]))
    def service(self, answer: Answer) -> None:
        self.answer = answer

    # What applications do.

    @rule(name=sides, index=indexes, size=st.sampled_from([1, 100, 5000, 400_000]))
    def write(self, name: str, index: int, size: int) -> None:
        if (flow := self.flow(self.side(name), index)) is not None:
            tag = self.names.setdefault(flow, len(self.names))
            start = self.written.get(flow, 0)
            self.written[flow] = start + flow.write(stream_of(tag, start + size)[start:])

    @rule(name=sides, index=indexes)
    def finish(self, name: str, index: int) -> None:
        if (flow := self.flow(self.side(name), index)) is not None:
            flow.finish(self.pair.now)

    @rule(name=sides, index=indexes)
    def reset(self, name: str, index: int) -> None:
        if (flow := self.flow(self.side(name), index)) is not None:
            flow.reset()

    @rule(name=sides, reading=st.booleans())
    def read(self, name: str, reading: bool) -> None:
        side = self.side(name)
        side.auto_read = reading
        for flow in (*side.opened, *side.flows):
            if reading and flow.is_open:
                side.read(flow)

    # What the network does.

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05, 1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.pair.run(seconds)

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        self.pair.disconnect()
        self.connected = False

    @precondition(lambda self: not self.connected)
    @rule()
    def reconnect(self) -> None:
        self.pair.connect()
        self.connected = True

    @precondition(lambda self: self.connected)
    @rule(name=sides)
    def bounce(self, name: str) -> None:
        """One side alone loses the other for a moment."""
        self.pair.run(HELLO_INTERVAL + 1)
        self.pair.lose(self.side(name))
        self.pair.run(1)
        self.side(name).session.online(self.pair.now)

    @rule(name=sides)
    def fail(self, name: str) -> None:
        """A mistake in one side's session came to light."""
        self.side(name).fail(self.pair.now)

    @precondition(lambda self: not self.connected)
    @rule(name=sides)
    def restart(self, name: str) -> None:
        self.side(name).restart()

    @invariant()
    def streams_are_prefixes(self) -> None:
        if not hasattr(self, "pair"):
            return
        for side in self.pair.sides:
            for flow, got in side.got.items():
                # Fewer than seven bytes may fit several.
                writers = [f for f, tag in self.names.items() if (b"%07d" % tag).startswith(got[:7])]
                fitting = [f for f in writers if bytes(got) == stream_of(self.names[f], len(got))]
                lengths = [self.written[f] for f in fitting]
                if got:
                    assert len(got) <= max(lengths)
                    if self.in_order and side.ended.get(flow, 0) is None:
                        assert len(got) in lengths

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        self.answer = True
        if not self.connected:
            pair.connect()
        for name in ("a", "b"):
            self.decide(name, True)
            self.read(name, True)
        pair.run(300)
        for name in ("a", "b"):
            self.decide(name, True)
        pair.run(300)
        self.streams_are_prefixes()
        for side in pair.sides:
            other = pair.other(side).session.mappings
            for mapping in side.session.mappings:
                if mapping.origin is Origin.LOCAL and self.many and self.lasts(mapping.direction):
                    twins = [m.state for m in other if m.key == mapping.key and m.origin is Origin.REMOTE]
                    if mapping.state is MappingState.DECLINED:
                        assert MappingState.RUNNING not in twins
                    else:
                        assert (mapping.state, twins) == (MappingState.RUNNING, [MappingState.RUNNING])
                if mapping.origin is Origin.REMOTE and self.many and self.lasts(mapping.direction):
                    assert mapping.state in (MappingState.RUNNING, MappingState.WAITING)
        for side in pair.sides:
            for mapping in list(side.session.mappings):
                side.session.end(mapping, pair.now)
            for flow in list(side.session._negotiation._flows._flows):
                flow.reset()
        pair.run(100)
        pair.no_leaks()
        for side in pair.sides:
            assert not side.session.mappings
            assert side.session.next_timeout() is None
            for flow in (*side.opened, *side.flows):
                assert flow.state is FlowState.CLOSED

    def lasts(self, direction: Direction) -> bool:
        return self.in_order or direction is Direction.SERVER


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(15))
def test_a_long_walk(seed: int) -> None:
    """The same machine with traffic most of the time, which hypothesis seldom comes to."""
    random = Random(seed)
    walk = Sessions()
    features = random.choice([FEATURES, FEATURES, FEATURES, Feature.MANY, Feature.FLOW, Feature(0)])
    walk.begin(random.choice([0.0, 0.03]), random.choice([3, 1 << 30]), features, begun=True)
    take_a_walk(walk, random, outages=(0.0,))
    assert walk.written or features is not FEATURES
    walk.teardown()


def take_a_walk(walk: Sessions, random: Random, outages: Sequence[float]) -> None:
    for _ in range(100):
        name, index = random.choice("ab"), random.randrange(6)
        match random.choices(range(14), [30, 10, 10, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1])[0]:
            case 0:
                walk.write(name, index, random.choice([1, 100, 5000, 400_000]))
            case 1:
                walk.connect(name, index, random.random() < 0.5)
            case 2:
                walk.wait(random.choice([0.0, 0.01, 0.05, 1.0]))
            case 3:
                walk.read(name, random.random() < 0.7)
            case 4:
                walk.finish(name, index)
            case 5:
                walk.reset(name, index)
            case 6:
                walk.offer(name, random.choice([80, 81]), Protocol.TCP, random.choice(list(Direction)))
            case 7:
                walk.service(random.choice([True, True, Reason.REFUSED, None]))
            case 8:
                walk.end(name, index)
            case 9:
                walk.decide(name, random.random() < 0.7)
            case 10:
                walk.bounce(name)
            case 11:
                walk.disconnect()
                walk.wait(random.choice(outages))
                walk.reconnect()
            case 12:
                walk.disconnect()
                walk.restart(name)
                walk.reconnect()
            case 13:
                walk.fail(name)
        walk.streams_are_prefixes()
