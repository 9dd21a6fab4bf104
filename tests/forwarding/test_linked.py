"""Two sessions whose packets go over a link, across a network that loses, doubles and reorders them.

What has to be true: bytes arrive as they were written whatever the network does; a pause shorter than the
outage is nothing but a pause; what ends, ends with a reason, and comes back by itself; nothing is left over.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.forwarding.pair import Pair, Side, said
from tests.forwarding.test_machine import Sessions, take_a_walk
from tunfwd.common.values import Reason
from tunfwd.forwarding import events as ev
from tunfwd.forwarding.flow import Flow, Mapping
from tunfwd.forwarding.flow_table import Limits
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.carriers import FRIEND, GROUP, Carrier
from tunfwd.wire.frames import HEADER, Frame, ResetStream, encode_frame, link_tag
from tunfwd.wire.packets import Data, Direction, Feature, Offer, Protocol, Type, encode

DELAY = 0.02  # s, one way
OUTAGE = 60.0  # s, the default
LINK_PREFIX = FRIEND.extension + b"\x02"
ROUGH: dict[str, Any] = {"loss": 0.1, "duplicate": 0.05, "reorder": 0.1}
BAD: dict[str, Any] = {"loss": 0.3, "duplicate": 0.1, "reorder": 0.3}
NETWORKS = pytest.mark.parametrize("network", [{}, ROUGH, BAD], ids=["good", "rough", "bad"])


def make(
    *, features: Feature = FEATURES, carrier: Carrier = FRIEND, seed: int = 0, **path: Any
) -> tuple[Pair, Mapping]:
    """Two that have a link, and a running mapping: the service is at `a`."""
    sides = [Side(2 * seed + n, features=f, carrier=carrier) for n, f in ((1, FEATURES), (2, features))]
    pair = Pair(*sides, **{"delay": DELAY, **path})
    pair.connect()
    return pair, serve(pair)


def serve(pair: Pair, protocol: Protocol = Protocol.TCP, port: int = 80) -> Mapping:
    pair.a.session.offer(protocol, port, "web", pair.now)
    pair.run(5)
    return running(pair, port)


def running(pair: Pair, port: int = 80) -> Mapping:
    mapping = pair.b.mapping(port=port)
    assert mapping.state is MappingState.RUNNING
    assert pair.a.mapping(port=port).state is MappingState.RUNNING
    return mapping


def open_flow(pair: Pair, mapping: Mapping) -> tuple[Flow, Flow]:
    """Connect at `b`; returns the flow's two ends, the using one first."""
    before = len(pair.a.flows)
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    run_until(pair, lambda: flow.is_open and len(pair.a.flows) > before and pair.a.flows[before].is_open)
    return flow, pair.a.flows[before]


def run_until(pair: Pair, condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = pair.now + seconds
    while not condition():
        assert pair.now < end, "it did not come to that"
        pair.run(0.05)


def text(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


class Writer:
    """Writes `data` into a flow as it takes it."""

    def __init__(self, pair: Pair, flow: Flow, data: bytes) -> None:
        self.pair, self.flow, self.data = pair, flow, data
        self.written = 0

    def write(self) -> None:
        self.written += self.flow.write(self.data[self.written : self.written + self.flow.space])

    @property
    def all_written(self) -> bool:
        return self.written == len(self.data)

    def arrived(self, side: Side, flow: Flow) -> bytes:
        """What came out at the other end: always a beginning of what went in."""
        got = bytes(side.got.get(flow, b""))
        assert got == self.data[: len(got)]
        return got


def send(pair: Pair, side: Side, flow: Flow, far: Flow, data: bytes, seconds: float = 300.0) -> None:
    """Write all of it at `side`, and wait until it has come out at the other."""
    writer, other = Writer(pair, flow, data), pair.other(side)

    def done() -> bool:
        writer.write()
        return len(writer.arrived(other, far)) == len(data)

    run_until(pair, done, seconds)


def carried(pair: Pair) -> Counter[int]:
    """Types of all that went over the lossless carrier."""
    return said(pair, "a") + said(pair, "b")


def happened(side: Side) -> list[ev.Event]:
    """Everything but bytes, and Hello."""
    quiet = (ev.Readable, ev.Writable, ev.DatagramArrived, ev.HelloArrived)
    return [event for event in side.events if not isinstance(event, quiet)]


def finish(pair: Pair) -> None:
    """End all mappings; nothing may be left."""
    for mapping in list(pair.a.session.mappings):
        pair.a.session.end(mapping, pair.now)
    pair.run(60)
    pair.no_leaks()
    for side in pair.sides:
        assert not side.session.mappings
        assert side.session.next_timeout() is None


# --- what a flow can be, on any network ---------------------------------------------------------------------


@pytest.mark.parametrize("carrier", [FRIEND, GROUP], ids=["friend", "group"])
def test_only_hello_goes_over_the_carrier_once_there_is_a_link(carrier: Carrier) -> None:
    pair, mapping = make(carrier=carrier)
    start = len(carrier.lossless)
    before_link = Counter(packet[start] for _, packet in pair.trace)
    assert before_link == {Type.HELLO: 2, Type.OFFER: 1}  # its Offer could not know yet
    using, serving = open_flow(pair, mapping)
    send(pair, pair.b, using, serving, text(1, 100_000))
    send(pair, pair.a, serving, using, text(2, 100_000))
    serve(pair, Protocol.UDP, 53)
    assert len(pair.trace) == 3
    assert not pair.a.session.counters
    assert not pair.b.session.counters
    finish(pair)


@NETWORKS
def test_many_connections_at_once(network: dict[str, Any]) -> None:
    pair, mapping = make(**network)
    flows = [pair.b.session.connect(mapping, pair.now) for _ in range(200)]
    run_until(pair, lambda: len(pair.b.opened) == 200)
    run_until(pair, lambda: all(flow.is_open for flow in pair.a.flows))
    tails = {flow.msg_id: flow for flow in pair.a.flows}
    for n, flow in enumerate(flows):
        assert flow is not None
        assert flow.write(text(n, 2000)) == 2000
        flow.finish(pair.now)
    run_until(pair, lambda: len(pair.a.ended) == len(pair.b.ended) == 200)
    for n, flow in enumerate(flows):
        assert flow is not None
        assert bytes(pair.a.got[tails[flow.msg_id]]) == text(n, 2000)
    assert set(pair.a.ended.values()) == set(pair.b.ended.values()) == {None}
    pair.no_leaks()
    finish(pair)


@NETWORKS
@pytest.mark.parametrize("seed", range(3))
def test_bytes_both_ways(network: dict[str, Any], seed: int) -> None:
    pair, mapping = make(seed=seed, **network)
    using, serving = open_flow(pair, mapping)
    there = Writer(pair, using, text(1, 700_000))
    back = Writer(pair, serving, text(2, 700_000))

    def done() -> bool:
        there.write()
        back.write()
        return there.arrived(pair.a, serving) == there.data and back.arrived(pair.b, using) == back.data

    run_until(pair, done, 300)
    finish(pair)


@NETWORKS
@pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMED_OUT])
def test_why_a_service_was_not_reached(network: dict[str, Any], reason: Reason) -> None:
    """Whichever is first: the stream's reset, or the control packet that declines."""
    pair, mapping = make(**network)
    pair.a.service = lambda flow: reason
    flows = [pair.b.session.connect(mapping, pair.now) for _ in range(20)]
    run_until(pair, lambda: len(pair.b.failed) == 20)
    assert pair.b.failed == dict.fromkeys(flows, reason)
    assert not pair.b.opened
    assert mapping.state is MappingState.RUNNING
    pair.run(30)
    pair.no_leaks()


def test_a_service_that_never_answers() -> None:
    pair, mapping = make()
    pair.a.service = lambda flow: None
    flow = pair.b.session.connect(mapping, pair.now)
    pair.run(Limits().connect_timeout - 1)
    assert not pair.b.failed
    pair.run(5)
    assert pair.b.failed == {flow: Reason.TIMED_OUT}
    assert pair.a.ended == {pair.a.flows[0]: Reason.TIMED_OUT}
    pair.no_leaks()


@NETWORKS
@pytest.mark.parametrize("first", ["a", "b"])
def test_half_close(network: dict[str, Any], first: str) -> None:
    """Who has ended its half still gets all of the other's."""
    pair, mapping = make(**network)
    using, serving = open_flow(pair, mapping)
    ends = {"a": (pair.a, serving), "b": (pair.b, using)}
    pair.a.auto_end = False
    (side, flow), (other, far) = ends.pop(first), ends.popitem()[1]
    flow.write(b"a question")
    flow.finish(pair.now)
    run_until(pair, lambda: far in other.eof)
    assert bytes(other.got[far]) == b"a question"
    assert not side.ended
    assert not other.ended
    send(pair, other, far, flow, text(3, 200_000))
    far.finish(pair.now)
    run_until(pair, lambda: side.ended and other.ended)
    assert side.ended == {flow: None}
    assert other.ended == {far: None}
    pair.run(5)
    pair.no_leaks()


def test_an_empty_connection() -> None:
    pair, mapping = make()
    using, _ = open_flow(pair, mapping)
    using.finish(pair.now)
    pair.run(2)
    assert list(pair.a.ended.values()) == list(pair.b.ended.values()) == [None]
    pair.no_leaks()


@NETWORKS
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_reset(network: dict[str, Any], who: str) -> None:
    pair, mapping = make(**network)
    using, serving = open_flow(pair, mapping)
    for flow in (using, serving):
        flow.write(text(1, 50_000))
    (serving if who == "a" else using).reset()
    other, far = (pair.b, using) if who == "a" else (pair.a, serving)
    run_until(pair, lambda: far in other.ended)
    assert other.ended == {far: Reason.ABORTED}
    pair.run(30)
    pair.no_leaks()


def test_a_slow_reader_stops_its_writer_and_nobody_else() -> None:
    pair, mapping = make()
    slow, asleep = open_flow(pair, mapping)
    pair.a.auto_read = False
    writer = Writer(pair, slow, text(1, 4_000_000))
    for _ in range(200):
        writer.write()
        pair.run(0.05)
    stopped_at = writer.written
    for _ in range(100):
        writer.write()
        pair.run(0.05)
    assert writer.written == stopped_at
    assert not writer.all_written

    quick, awake = open_flow(pair, mapping)
    data = text(2, 1_000_000)
    other = Writer(pair, quick, data)

    def done() -> bool:
        other.write()
        pair.a.read(awake)
        return other.arrived(pair.a, awake) == data

    run_until(pair, done, 20)
    assert writer.written == stopped_at

    def drained() -> bool:
        writer.write()
        pair.a.read(asleep, 100_000)
        return writer.arrived(pair.a, asleep) == writer.data

    run_until(pair, drained, 60)
    finish(pair)


# --- UDP ----------------------------------------------------------------------------------------------------


def test_datagrams_of_every_size() -> None:
    pair, _ = make()
    mapping = serve(pair, Protocol.UDP, 53)
    assert pair.b.session.datagram_payload == 65_507
    sizes = [0, 1, 1000, 1352, 1353, 1354, 1355, 1356, 2000, 9000, 65_507]
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    pair.run(1)
    for size in sizes:
        assert flow.send_datagram(text(size, size), pair.now)
        pair.run(1)
    assert not flow.send_datagram(bytes(65_508), pair.now)
    assert pair.a.datagrams[pair.a.flows[-1]] == [text(size, size) for size in sizes]
    for size in sizes:
        assert pair.a.flows[-1].send_datagram(text(size, size), pair.now)
        pair.run(1)
    assert pair.b.datagrams[flow] == [text(size, size) for size in sizes]
    finish(pair)


def test_datagrams_without_fragment_are_told_their_limit() -> None:
    pair, _ = make(features=FEATURES & ~Feature.FRAGMENT)
    mapping = serve(pair, Protocol.UDP, 53)
    limit = pair.b.session.datagram_payload
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    pair.run(1)
    assert flow.send_datagram(bytes(limit), pair.now)
    pair.run(1)
    assert pair.a.datagrams[pair.a.flows[-1]] == [bytes(limit)]
    assert not flow.send_datagram(bytes(limit + 100), pair.now)


def test_lost_datagrams_stay_lost_and_whole_ones_are_right() -> None:
    pair, _ = make(**BAD)
    mapping = serve(pair, Protocol.UDP, 53)
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    run_until(pair, lambda: flow.is_open)
    sent = [text(n, 100 + n * 13) for n in range(300)]
    for datagram in sent:
        flow.send_datagram(datagram, pair.now)
        pair.run(0.02)
    pair.run(5)
    got = pair.a.datagrams[pair.a.flows[-1]]
    assert 100 < len(got) < 300
    assert set(got) <= set(sent)
    assert len(set(got)) == len(got)


# --- the contact goes and comes back ------------------------------------------------------------------------


@pytest.mark.heavy
@NETWORKS
@pytest.mark.parametrize("who", ["both", "a", "b"])
def test_a_pause_is_nothing_but_a_pause(network: dict[str, Any], who: str) -> None:
    """Whether both notice or one alone: three cuts of 10 s, byte for byte, no event."""
    pair, mapping = make(**network)
    idle = open_flow(pair, mapping)
    using, serving = open_flow(pair, mapping)
    writers = [Writer(pair, using, text(1, 900_000)), Writer(pair, serving, text(2, 900_000))]
    before = [len(happened(side)) for side in pair.sides]
    ids = (pair.a.session.epoch, pair.b.session.epoch, mapping.msg_id)
    noticing = {"both": pair.sides, "a": (pair.a,), "b": (pair.b,)}[who]

    def work(seconds: float) -> None:
        end = pair.now + seconds
        while pair.now < end:
            for writer in writers:
                writer.write()
            pair.run(0.01)

    work(0.3)
    for _ in range(3):
        for side in noticing:
            pair.lose(side)
        work(10)
        for side in noticing:
            side.session.online(pair.now)
        work(0.3)

    def done() -> bool:
        work(0.05)
        return (
            writers[0].arrived(pair.a, serving) == writers[0].data
            and writers[1].arrived(pair.b, using) == writers[1].data
        )

    run_until(pair, done, 300)
    assert [len(happened(side)) for side in pair.sides] == before
    assert ids == (pair.a.session.epoch, pair.b.session.epoch, mapping.msg_id)
    send(pair, pair.b, idle[0], idle[1], b"still there")
    finish(pair)


def test_another_path_is_measured_anew_and_nothing_is_lost() -> None:
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    writer = Writer(pair, using, text(1, 900_000))
    writer.write()
    pair.run(0.05)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    link = linked.link
    assert link.round_trip is not None
    for side in pair.sides:
        side.session.path_changed(pair.now)
    assert link.round_trip is None

    def done() -> bool:
        writer.write()
        pair.run(0.01)
        return writer.arrived(pair.a, serving) == writer.data

    run_until(pair, done, 60)
    assert link.round_trip is not None
    finish(pair)


def test_what_is_said_during_a_pause_is_said_after_it() -> None:
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    kept, _ = open_flow(pair, mapping)
    pair.disconnect()
    using.write(b"before the end")
    using.finish(pair.now)
    kept.reset()
    assert pair.b.session.connect(mapping, pair.now) is None
    pair.run(30)
    assert not pair.a.ended
    pair.connect()
    pair.run(3)
    assert bytes(pair.a.got[serving]) == b"before the end"
    assert pair.a.ended == {serving: None, pair.a.flows[1]: Reason.ABORTED}
    pair.no_leaks()


@pytest.mark.parametrize("noticing", ["both", "a", "b"])
def test_an_outage_ends_flows_and_mappings_come_back(noticing: str) -> None:
    """Longer than `outage`, also where one side alone has noticed."""
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    using.write(text(1, 100_000))
    epochs = [side.session.epoch for side in pair.sides]
    sides = {"both": pair.sides, "a": (pair.a,), "b": (pair.b,)}[noticing]
    for side in sides:
        pair.lose(side)
    pair.run(OUTAGE - 1)
    assert not pair.a.ended
    assert not pair.b.ended
    pair.run(2)
    for side in sides:
        assert list(side.ended.values()) == [Reason.LOST]
    pair.run(100)
    for side in sides:
        side.session.online(pair.now)
    pair.run(5)
    assert pair.a.ended == {serving: Reason.LOST}
    assert pair.b.ended == {using: Reason.LOST}
    new = [side.session.epoch != old for side, old in zip(pair.sides, epochs, strict=True)]
    assert new == [side in sides for side in pair.sides]
    pair.no_leaks()
    assert running(pair) is mapping
    send(pair, pair.b, *open_flow(pair, mapping), text(2, 10_000))
    finish(pair)


def test_a_declined_offer_stays_declined_through_an_outage() -> None:
    """It is the same run of the contact's program, whose user has said no."""
    pair, _ = make()
    pair.b.auto_accept = False
    pair.a.session.offer(Protocol.TCP, 81, "unwanted", pair.now)
    pair.run(1)
    pair.b.session.end(pair.b.mapping(port=81), pair.now)
    pair.run(1)
    pair.b.auto_accept = True
    pair.disconnect()
    pair.run(OUTAGE + 10)
    pair.connect()
    pair.run(5)
    running(pair)
    assert pair.a.mapping(port=81).state is MappingState.DECLINED
    pair.disconnect()
    pair.b.restart()
    pair.connect()
    pair.run(5)
    assert running(pair, 81).accepted


def test_links_are_counted_round_in_the_epoch() -> None:
    pair = Pair(Side(1, features=FEATURES), Side(2, features=FEATURES), delay=DELAY)
    session = pair.a.session
    session._handshake.epoch |= 0xFFFFFFFF
    before = session.epoch
    pair.connect()
    mapping = serve(pair)
    pair.lose(pair.a)
    pair.run(OUTAGE + 1)
    assert session.epoch == before - 0xFFFFFFFF
    session.online(pair.now)
    pair.run(5)
    assert running(pair) is mapping


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def test_who_parts_and_comes_back_has_a_new_link(noticed: bool) -> None:
    """As a member who left the group and joins it again, before the other has given the old link up."""
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    send(pair, pair.b, using, serving, text(1, 100_000))
    pair.a.session.leave(pair.now)
    if noticed:
        pair.b.session.offline(pair.now)
    pair.settle()
    assert pair.a.ended == {serving: Reason.LOST}
    assert not pair.b.ended
    pair.run(10)
    for side in pair.sides if noticed else (pair.a,):
        side.session.online(pair.now)
    pair.run(5)
    assert pair.b.ended == {using: Reason.LOST}
    assert running(pair) is mapping
    send(pair, pair.b, *open_flow(pair, mapping), text(2, 100_000))
    finish(pair)


def test_an_outage_that_only_one_side_has_counted_to_its_end() -> None:
    """One noticed 2 s before the other, and the network is back between their patience's ends."""
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    pair.lose(pair.a)
    pair.run(2)
    pair.lose(pair.b)
    pair.run(OUTAGE - 1)
    assert pair.a.ended == {serving: Reason.LOST}
    assert not pair.b.ended
    pair.connect()
    pair.run(5)
    assert pair.b.ended == {using: Reason.LOST}
    assert running(pair) is mapping
    send(pair, pair.b, *open_flow(pair, mapping), text(2, 10_000))
    finish(pair)


@pytest.mark.parametrize("restarted", ["a", "b"])
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
@pytest.mark.parametrize("network", [{}, ROUGH], ids=["good", "rough"])
def test_a_restart_in_mid_stream(restarted: str, noticed: bool, network: dict[str, Any]) -> None:
    pair, mapping = make(**network)
    using, serving = open_flow(pair, mapping)
    for flow in (using, serving):
        flow.write(text(1, 300_000))
    pair.run(0.1)
    side, other = (pair.a, pair.b) if restarted == "a" else (pair.b, pair.a)
    far = using if restarted == "a" else serving
    if noticed:
        pair.disconnect()
        pair.run(5)
    side.restart()
    for one in pair.sides if noticed else (side,):
        one.session.online(pair.now)
    pair.run(10)
    assert other.ended == {far: Reason.LOST}
    assert not side.ended  # the new run knows of nothing
    mapping = running(pair)
    send(pair, pair.b, *open_flow(pair, mapping), text(2, 10_000))
    finish(pair)


def test_an_offer_that_the_carrier_lost_before_there_was_a_link() -> None:
    """It went out before the contact's Hello was in. The link outlives the cut, and that queue does not."""
    sides = [Side(n, features=FEATURES) for n in (1, 2)]
    sides[1].session.restore_acceptance(
        Direction.SERVER, Protocol.TCP, 80, "web"
    )  # so that both greet, and Hellos cross
    pair = Pair(*sides, delay=DELAY, capacity=1)
    pair.a.session.offer(Protocol.TCP, 80, "web", pair.now)
    pair.connect()
    pair.run(1.5 * DELAY)
    assert Feature.LINK in pair.a.session.features
    assert Feature.LINK in pair.b.session.features
    pair.disconnect()
    pair.run(5)
    pair.connect()
    pair.run(5)
    assert running(pair).accepted


# --- Hello --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0.0, 0.5])
def test_crossing_hellos_make_one_link(lag: float) -> None:
    pair = Pair(Side(1, features=FEATURES), Side(2, features=FEATURES), delay=DELAY, lossless_lag=lag)
    pair.a.session.offer(Protocol.TCP, 80, "from a", pair.now)
    pair.b.session.offer(Protocol.TCP, 81, "from b", pair.now)
    pair.connect()
    pair.run(5)
    assert carried(pair) == {Type.HELLO: 2, Type.OFFER: 2}
    assert pair.a.mapping(port=81).state is pair.b.mapping(port=80).state is MappingState.RUNNING


def test_link_packets_that_overtake_hello_are_counted_and_come_again() -> None:
    pair = Pair(Side(1, features=FEATURES), Side(2, features=FEATURES), delay=DELAY)
    pair.paths[pair.b].lossless_lag = 1.0  # b's Hello is late, its link is not
    pair.connect()
    mapping = serve(pair)
    assert pair.a.session.counters["link_unknown"] > 0
    send(pair, pair.b, *open_flow(pair, mapping), text(1, 100_000))
    finish(pair)


def test_a_hello_inside_of_the_link_says_nothing() -> None:
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    hello = FRIEND.lossless + bytes((Type.HELLO, 1)) + (31).to_bytes(4, "little") + bytes(8)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    linked.link.send_control(hello)
    pair.run(1)
    assert pair.a.session.counters == {"link_hello": 1}
    send(pair, pair.b, using, serving, b"goes on")


def test_data_and_credit_have_no_meaning_inside_of_the_link() -> None:
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    for packet in (
        encode(FRIEND, Data(using.msg_id, b"spliced")),
        FRIEND.lossless + bytes((Type.FIN,)) + using.msg_id.to_bytes(4, "little"),
        FRIEND.lossless + bytes((Type.CREDIT,)) + using.msg_id.to_bytes(4, "little") + bytes(8),
        b"not a packet",
    ):
        linked.link.send_control(packet)
    pair.run(1)
    assert pair.a.session.counters == {
        "data_unexpected": 1,
        "flow_control_unexpected": 2,
        "malformed_prefix": 1,
    }
    send(pair, pair.b, using, serving, b"all that came")


# --- without it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["a", "b", "both"])
def test_with_one_side_that_has_no_link_all_is_as_without(without: str) -> None:
    """The same packets in the same order as between two that never heard of it, but for Hello's bits."""

    def talk(a: Feature, b: Feature) -> Pair:
        pair = Pair(Side(1, features=a), Side(2, features=b), delay=DELAY)
        pair.connect()
        mapping = serve(pair)
        using, serving = open_flow(pair, mapping)
        send(pair, pair.b, using, serving, text(1, 50_000))
        using.finish(pair.now)
        pair.run(1)
        pair.disconnect()
        pair.run(1)
        pair.connect()
        pair.run(1)
        finish(pair)
        assert not any(side.session.counters["link_unknown"] for side in pair.sides)
        return pair

    def words(pair: Pair) -> list[tuple[str, bytes]]:
        return [(who, packet) for who, packet in pair.trace if packet[1] != Type.HELLO]

    a, b = (CARRIER_FEATURES if without in (side, "both") else FEATURES for side in "ab")
    assert words(talk(a, b)) == words(talk(CARRIER_FEATURES, CARRIER_FEATURES))


def test_a_contact_that_comes_back_without_the_link() -> None:
    """As after its user has switched it off: a restart, and from then on the carrier."""
    pair, mapping = make()
    _, serving = open_flow(pair, mapping)
    pair.disconnect()
    pair.b.settings = Side(2).settings
    pair.b.restart()
    pair.connect()
    pair.run(5)
    assert pair.a.ended == {serving: Reason.LOST}
    mapping = running(pair)
    before = len(pair.trace)
    send(pair, pair.b, *open_flow(pair, mapping), text(1, 10_000))
    assert Type.DATA in {packet[1] for _, packet in pair.trace[before:]}
    finish(pair)


# --- a hostile contact --------------------------------------------------------------------------------------


def inject(pair: Pair, frame: Frame, number: int) -> None:
    """Have `b` say a frame to `a` that its link would not."""
    tag = link_tag(pair.b.session.epoch, pair.a.session.epoch)
    packet = LINK_PREFIX + HEADER.pack(tag, number) + encode_frame(frame)
    pair.a.session.receive_lossy(packet, pair.now)
    pair.settle()


def test_a_violation_costs_the_link_and_the_session_goes_on() -> None:
    pair, mapping = make()
    for round_ in range(5):
        using, serving = open_flow(pair, mapping)
        using.write(text(1, 100_000))
        inject(pair, ResetStream(0, 0, 0), 1 << 20)
        pair.run(5)
        assert pair.a.session.counters["link_violation"] == round_ + 1
        assert pair.a.ended[serving] is Reason.LOST
        assert pair.b.ended[using] is Reason.LOST
        pair.no_leaks()
        assert running(pair) is mapping
    send(pair, pair.b, *open_flow(pair, mapping), text(2, 10_000))
    finish(pair)


def test_a_close_from_the_contact() -> None:
    pair, mapping = make()
    _, serving = open_flow(pair, mapping)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    linked.link.close()
    pair.run(5)
    assert pair.a.ended == {serving: Reason.LOST}
    assert pair.a.session.counters["link_closed"] == 1
    assert running(pair) is mapping


def test_resets_with_reasons_that_nobody_knows() -> None:
    pair, mapping = make()
    using, serving = open_flow(pair, mapping)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    linked.link.stream_reset(using.msg_id, 4711)
    pair.run(1)
    assert pair.a.ended == {serving: Reason.ABORTED}


def test_an_id_cannot_be_used_twice_on_a_link() -> None:
    pair, mapping = make()
    using, _ = open_flow(pair, mapping)
    msg_id = using.msg_id
    using.reset()
    pair.run(1)
    linked = pair.b.session._carriage.linked
    assert linked is not None
    served = len(pair.a.flows)
    linked.link.send_control(encode(FRIEND, Offer(msg_id, Protocol.TCP, Direction.CONNECTION, 80, "")))
    pair.run(1)
    assert pair.a.session.counters["offer_id_in_use"] == 1
    assert len(pair.a.flows) == served


@pytest.mark.parametrize("seed", range(30))
def test_noise_in_the_link(seed: int) -> None:
    """Packets with the right tag and anything in them: no exception, and the session works afterwards."""
    random = Random(seed)
    pair, mapping = make(seed=seed)
    open_flow(pair, mapping)
    for _ in range(200):
        tag = link_tag(pair.b.session.epoch, pair.a.session.epoch)
        body = bytes((random.randrange(13),)) + random.randbytes(random.choice([0, 2, 6, 14, 15, 30, 100]))
        packet = LINK_PREFIX + HEADER.pack(tag, random.choice([random.getrandbits(32), random.randrange(99)]))
        pair.a.session.receive_lossy(packet + body, pair.now)
        pair.run(0.05)
    pair.lose(pair.b)  # its own link has been told nonsense in a's name
    pair.run(OUTAGE + 1)
    pair.b.session.online(pair.now)
    pair.run(5)
    send(pair, pair.b, *open_flow(pair, running(pair)), text(2, 10_000))
    finish(pair)


# --- anything, in any order ---------------------------------------------------------------------------------


class Linked(Sessions):
    """The machine of `test_machine` over a link. A cut may be shorter or longer than the outage."""

    @initialize(
        network=st.sampled_from([{}, ROUGH, BAD]),
        delay=st.sampled_from([0.001, 0.03]),
        begun=st.sampled_from([True, True, True, False]),
    )
    def begin(self, network: dict[str, Any], delay: float, begun: bool) -> None:
        sides = [Side(n, features=FEATURES) for n in (1, 2)]
        self.start(Pair(*sides, delay=delay, **network), FEATURES)
        if begun:
            self.set_up()

    @rule(seconds=st.sampled_from([10.0, 70.0]))
    def cut(self, seconds: float) -> None:
        if self.connected:
            self.disconnect()
            self.wait(seconds)
            self.reconnect()


TestLinked = Linked.TestCase
TestLinked.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_walk(seed: int) -> None:
    random = Random(seed)
    walk = Linked()
    walk.begin(random.choice([{}, ROUGH, BAD]), random.choice([0.001, 0.03]), begun=True)
    take_a_walk(walk, random, outages=(0.0, 10.0, 70.0))
    assert walk.written
    walk.teardown()


# --- the end of a program -----------------------------------------------------------------------------------


def told(pair: Pair) -> None:
    """The side that leaves repeats it, as its owner does."""
    for _ in range(10):
        pair.run(0.1)
        pair.a.session.close_again(pair.now)
        pair.settle()


@NETWORKS
@pytest.mark.parametrize("features", [FEATURES, CARRIER_FEATURES], ids=["link", "carriers"])
def test_who_leaves_says_so(features: Feature, network: dict[str, Any]) -> None:
    """Long before anybody misses it: both sides' flows end at once, and the next run goes on."""
    pair, mapping = make(features=features, **network)
    using, serving = open_flow(pair, mapping)
    send(pair, pair.b, using, serving, text(1, 1000))
    pair.a.session.close(pair.now)
    told(pair)
    assert not pair.a.session.is_closing or features is CARRIER_FEATURES
    assert pair.a.ended == {serving: Reason.LOST}
    assert pair.b.ended == {using: Reason.LOST if features is FEATURES else Reason.ABORTED}
    assert pair.b.session.is_online
    assert pair.b.session.connect(mapping, pair.now) is not None  # it waits for the next offer
    for side in pair.sides:  # Tox notices, too
        pair.lose(side)
    pair.a.restart()
    pair.connect()
    pair.run(10)
    send(pair, pair.b, *open_flow(pair, running(pair)), text(2, 1000))


def test_who_leaves_takes_nothing_more() -> None:
    pair, mapping = make()
    open_flow(pair, mapping)
    pair.a.session.close(pair.now)
    assert not pair.a.session.is_online
    assert pair.a.session.is_closing
    assert pair.b.session.connect(mapping, pair.now) is not None
    pair.a.session.online(pair.now)
    pair.settle()
    told(pair)
    assert not pair.a.session.is_closing
    assert not pair.a.session.mappings[0].flows
    assert pair.a.session.next_timeout() is None
    pair.a.session.close_again(pair.now)
    assert pair.a.session.lossy_to_send(pair.now) == []
    assert pair.a.session.next_packet() is None


@pytest.mark.parametrize("features", [FEATURES, CARRIER_FEATURES], ids=["link", "carriers"])
def test_leaving_waits_for_nobody_who_is_away(features: Feature) -> None:
    pair, mapping = make(features=features)
    open_flow(pair, mapping)
    pair.a.session.close(pair.now)
    assert pair.a.session.is_closing
    pair.a.session.offline(pair.now)
    assert not pair.a.session.is_closing
    pair.b.session.offline(pair.now)
    pair.b.session.close(pair.now)
    assert not pair.b.session.is_closing
    pair.settle()
    assert [*pair.b.ended.values()] == [Reason.LOST]


def test_leaving_a_contact_without_flows_or_link_says_nothing() -> None:
    pair, _ = make(features=CARRIER_FEATURES)
    pair.a.session.close(pair.now)
    assert not pair.a.session.is_closing
    assert pair.a.session.next_packet() is None
