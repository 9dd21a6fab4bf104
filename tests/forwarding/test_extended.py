"""Two sessions with all features: what users do, and what connections go through."""

import pytest

from tests.forwarding.pair import Pair, Side, said
from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding import events as ev
from tunfwd.forwarding.flow import Flow, Mapping, Origin
from tunfwd.forwarding.flow_table import MAX_FLOWS, Limits
from tunfwd.forwarding.handshake import HELLO_INTERVAL
from tunfwd.forwarding.lossless import MAX_UNREAD, SCARCE_BUFFER, SEND_BUFFER, WINDOW, LosslessChannel
from tunfwd.forwarding.negotiation import MAX_WAITING, WAITING_TIMEOUT
from tunfwd.forwarding.session import CARRIER_FEATURES as FEATURES
from tunfwd.forwarding.states import FlowState, MappingState, Role
from tunfwd.wire.carriers import GROUP
from tunfwd.wire.packets import Direction, Feature, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture(params=[0.0, 0.05], ids=["no delay", "50 ms"])
def pair(request: pytest.FixtureRequest) -> Pair:
    pair = Pair(delay=request.param)
    pair.connect()
    return pair


def send_all(pair: Pair, flow: Flow, data: bytes) -> None:
    """Write it all, in as many turns as it takes."""
    view = memoryview(data)
    for _ in range(10_000):
        view = view[flow.write(view) :]
        pair.run(max(pair.paths[pair.a].delay, 0.001))
        if not view:
            return
    raise AssertionError("it never ends")


def test_an_offer_is_accepted_and_carries_many_connections(pair: Pair) -> None:
    mapping = pair.serve()
    assert mapping.state is MappingState.RUNNING
    assert pair.a.mapping().state is MappingState.RUNNING
    flows = [pair.open(mapping) for _ in range(50)]
    for i, (using, serving) in enumerate(flows):
        using.write(b"question %d" % i)
        serving.write(b"answer %d" % i)
    pair.run(1)
    for i, (using, serving) in enumerate(flows):
        assert pair.a.got[serving] == b"question %d" % i
        assert pair.b.got[using] == b"answer %d" % i
    assert mapping.tx_bytes == pair.a.mapping().rx_bytes == sum(len(b"question %d" % i) for i in range(50))
    for using, _ in flows:
        using.finish(pair.now)
    pair.run(1)
    assert pair.b.ended == {using: None for using, _ in flows}
    assert pair.a.ended == {serving: None for _, serving in flows}
    pair.no_leaks()


def test_hello_goes_once_each_way(pair: Pair) -> None:
    pair.serve()
    pair.run(60)
    assert said(pair, "a")[0x0F] == said(pair, "b")[0x0F] == 1
    assert pair.trace[0][1][1] == 0x0F


def test_nobody_says_hello_without_a_reason(pair: Pair) -> None:
    pair.run(60)
    assert not pair.trace


@pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.UNREACHABLE, Reason.TIMED_OUT])
def test_the_reason_of_a_failure_passes_through(pair: Pair, reason: Reason) -> None:
    pair.a.service = lambda flow: reason
    flow = pair.b.session.connect(pair.serve(), pair.now)
    pair.run(1)
    assert pair.b.failed == {flow: reason}
    pair.no_leaks()
    assert pair.b.mapping().state is MappingState.RUNNING


def test_a_service_that_does_not_answer_times_out_at_the_user(pair: Pair) -> None:
    pair.a.service = lambda flow: None
    flow = pair.b.session.connect(pair.serve(), pair.now)
    pair.run(61)
    assert pair.b.failed == {flow: Reason.TIMED_OUT}
    (serving,) = pair.a.flows
    assert pair.a.ended == {serving: Reason.TIMED_OUT}
    serving.service_up(pair.now)  # too late: no effect
    serving.service_failed(Reason.REFUSED, pair.now)
    pair.run(1)
    pair.no_leaks()


@pytest.mark.parametrize("first", ["user", "service"])
def test_half_close_leaves_the_other_direction(pair: Pair, first: str) -> None:
    pair.a.auto_end = False
    using, serving = pair.open(pair.serve())
    near, far = (using, serving) if first == "user" else (serving, using)
    near_side, far_side = (pair.b, pair.a) if first == "user" else (pair.a, pair.b)
    send_all(pair, near, b"x" * 300_000)
    near.finish(pair.now)
    pair.run(10)
    assert far in far_side.eof
    assert near.space == 0
    assert near.write(b"more") == 0
    assert far.is_open
    send_all(pair, far, b"y" * 300_000)
    far.finish(pair.now)
    pair.run(10)
    assert near_side.got[near] == b"y" * 300_000
    assert far_side.got[far] == b"x" * 300_000
    assert near_side.ended == {near: None}
    assert far_side.ended == {far: None}
    pair.no_leaks()


def test_a_reset_passes_through_with_its_reason(pair: Pair) -> None:
    using, serving = pair.open(pair.serve())
    using.write(b"z" * 1000)
    using.reset(Reason.TIMED_OUT)
    pair.run(1)
    assert pair.a.ended == {serving: Reason.TIMED_OUT}
    assert pair.b.ended == {}  # the owner said so itself
    using.reset()
    pair.no_leaks()


def test_a_tcp_connection_may_idle_for_hours(pair: Pair) -> None:
    using, serving = pair.open(pair.serve())
    pair.run(5 * 3600)
    assert using.is_open
    using.write(b"still here")
    pair.run(1)
    assert pair.a.got[serving] == b"still here"
    assert pair.a.session.next_timeout() is None


def test_a_slow_reader_stops_its_own_writer_only(pair: Pair) -> None:
    pair.a.auto_read = False
    mapping = pair.serve()
    slow, slow_end = pair.open(mapping)
    quick, quick_end = pair.open(mapping)
    written = 0
    for _ in range(100):
        written += slow.write(b"s" * 65536)
        pair.run(0.2)
    assert written == WINDOW + SEND_BUFFER
    assert pair.a.session._carriage.lossless.unread == WINDOW
    before = pair.b.events.count(ev.Writable(slow))
    for _ in range(50):
        assert quick.write(b"q" * 65536) == 65536
        pair.run(0.2)
        pair.a.read(quick_end)
    assert len(pair.a.got[quick_end]) == 50 * 65536
    while pair.a.read(slow_end, 10_000):
        pair.run(0.11)
    assert len(pair.a.got[slow_end]) == written
    assert pair.b.events.count(ev.Writable(slow)) == before + 1
    assert pair.a.session._carriage.lossless.unread == 0


def test_back_pressure_of_the_carrier_loses_and_reorders_nothing() -> None:
    pair = Pair(delay=0.01, capacity=7)
    pair.connect()
    mapping = pair.serve()
    flows = [pair.open(mapping) for _ in range(5)]
    texts = [bytes((i,)) * 40_000 + bytes(range(256)) for i in range(5)]
    for (using, _), text in zip(flows, texts, strict=True):
        assert using.write(text) == len(text)
        using.finish(pair.now)
    pair.run(30)
    assert pair.refused > 10
    assert [bytes(pair.a.got[serving]) for _, serving in flows] == texts
    assert len(pair.a.ended) == len(pair.b.ended) == 5
    pair.no_leaks()


def test_turns_are_fair() -> None:
    pair = Pair(delay=0.01, capacity=8)
    pair.connect()
    mapping = pair.serve()
    (one, one_end), (two, two_end) = pair.open(mapping), pair.open(mapping)
    one.write(b"1" * 200_000)
    two.write(b"2" * 200_000)
    pair.run(0.5)
    got = [len(pair.a.got[one_end]), len(pair.a.got[two_end])]
    assert min(got) > 20_000
    assert max(got) - min(got) <= 8 * 1367


def test_group_packets_stay_small() -> None:
    pair = Pair(Side(1, carrier=GROUP), Side(2, carrier=GROUP))
    pair.connect()
    using, serving = pair.open(pair.serve())
    using.write(b"g" * 10_000)
    pair.settle()
    assert pair.a.got[serving] == b"g" * 10_000
    assert max(len(packet) for _, packet in pair.trace) == 500


def test_udp_flows(pair: Pair) -> None:
    mapping = pair.serve(UDP, 27015, "game")
    first = pair.b.session.connect(mapping, pair.now)
    second = pair.b.session.connect(mapping, pair.now)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.send_datagram(b"early", pair.now)
    assert first.send_datagram(b"", pair.now)
    pair.run(1)
    one, two = pair.a.flows
    assert pair.a.datagrams == {one: [b"early", b""]}
    assert one.send_datagram(b"r1", pair.now)
    assert two.send_datagram(b"r2", pair.now)
    assert second.send_datagram(b"late", pair.now)
    pair.run(1)
    assert pair.b.datagrams == {first: [b"r1"], second: [b"r2"]}
    assert pair.a.datagrams[two] == [b"late"]
    assert first.read(10) == b""
    assert first.write(b"x") == 0
    assert not first.at_end
    first.finish(pair.now)  # says nothing: datagrams have no end
    assert first.is_open


def test_a_datagram_too_large_is_said_so_and_counted(pair: Pair) -> None:
    mapping = pair.serve(UDP)
    flow, end = pair.open(mapping)
    assert not flow.send_datagram(bytes(1369), pair.now)
    assert flow.send_datagram(bytes(1368), pair.now)
    pair.run(1)
    assert pair.a.datagrams[end] == [bytes(1368)]
    assert mapping.drops == 1


def test_early_datagrams_are_bounded_and_the_oldest_go_first(pair: Pair) -> None:
    pair.a.service = lambda flow: None
    mapping = pair.serve(UDP)
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    for i in range(3000):
        assert flow.send_datagram(b"" if i % 2 else b"%1000d" % i, pair.now)
    flow.send_datagram(bytes(5000), pair.now)  # will not fit a packet, which is known when it goes out
    pair.run(1)
    pair.a.flows[0].service_up(pair.now)
    drops = mapping.drops
    assert drops > 2800
    pair.run(1)
    got = pair.a.datagrams[pair.a.flows[0]]
    assert got[-1] == b""
    assert got[-2] == b"%1000d" % 2998
    assert len(got) + drops == 3000
    assert mapping.drops == drops + 1


def test_an_idle_udp_flow_ends_at_both_ends(pair: Pair) -> None:
    mapping = pair.serve(UDP)
    flow, end = pair.open(mapping)
    for _ in range(2):  # what goes both ways for a while is no mere question and answer
        assert flow.send_datagram(b"question", pair.now)
        assert end.send_datagram(b"answer", pair.now)
        pair.run(3)
    for _ in range(10):
        pair.run(60)
        assert flow.send_datagram(b"keep", pair.now)
    pair.run(299)
    assert flow.is_open
    pair.run(2)
    assert pair.b.ended == {flow: None}
    assert pair.a.ended == {end: None}
    assert not flow.send_datagram(b"after", pair.now)
    pair.no_leaks()


def test_a_udp_flow_can_be_reset(pair: Pair) -> None:
    flow, end = pair.open(pair.serve(UDP))
    flow.reset()
    pair.run(1)
    assert pair.a.ended == {end: Reason.ABORTED}
    pair.no_leaks()


def test_more_datagrams_than_the_carrier_takes_drop_the_oldest() -> None:
    pair = Pair()
    pair.connect()
    flow, end = pair.open(pair.serve(UDP))
    for i in range(1500):
        flow.send_datagram(b"%d" % i, pair.now)
    pair.b.session.ping(1, pair.now)  # has no room, and harms nothing
    pair.settle()
    assert pair.a.datagrams[end] == [b"%d" % i for i in range(476, 1500)]
    assert pair.b.session._carriage.lossless.dropped_datagrams == 476


def test_killing_an_offer_ends_all_its_connections(pair: Pair) -> None:
    mapping = pair.serve()
    flows = [pair.open(mapping) for _ in range(3)]
    pair.a.session.end(pair.a.mapping(), pair.now)
    pair.run(1)
    assert pair.b.ended == {using: Reason.ABORTED for using, _ in flows}
    assert pair.a.ended == {serving: Reason.ABORTED for _, serving in flows}
    assert mapping.state is MappingState.ENDED
    assert not pair.a.session.mappings
    assert not pair.b.session.mappings
    assert pair.b.session.connect(mapping, pair.now) is None
    pair.no_leaks()


def test_what_the_contact_leaves_is_offered_to_it_again(pair: Pair) -> None:
    """It ends its use of a service. That takes nothing from who offers it, nor from itself later."""
    mapping = pair.serve()
    using, serving = pair.open(mapping)
    pair.b.auto_accept = False
    pair.b.session.end(mapping, pair.now)
    pair.run(0.5)
    assert (pair.a.ended[serving], pair.b.ended[using]) == (Reason.ABORTED, Reason.ABORTED)
    assert pair.a.mapping().state is MappingState.WAITING
    assert not pair.a.mapping().accepted
    pair.run(1)
    assert (pair.a.mapping().state, pair.b.mapping().state) == (MappingState.OFFERED, MappingState.PENDING)
    pair.no_leaks()
    pair.b.session.accept(pair.b.mapping(), pair.now)
    pair.run(1)
    pair.open(pair.b.mapping())


def decline(pair: Pair) -> Mapping:
    """Have b decline what a offers; what it declined, which is over there."""
    pair.b.auto_accept = False
    mapping = pair.serve()
    pair.b.session.end(mapping, pair.now)
    pair.run(1)
    assert pair.a.mapping().state is MappingState.DECLINED
    return mapping


def want_after_all(pair: Pair, declined: Mapping) -> Mapping:
    session = pair.b.session
    mapping = session.restore_acceptance(declined.direction, declined.protocol, declined.port, declined.name)
    session.accept_late(mapping, declined.msg_id, pair.now)
    return mapping


def test_what_was_declined_stays_so(pair: Pair) -> None:
    decline(pair)
    pair.disconnect()
    pair.connect()
    pair.run(1)
    assert not pair.b.session.mappings


@pytest.mark.parametrize("when", ["at once", "while it is away", "after it was away"])
def test_who_declined_may_change_its_mind(pair: Pair, when: str) -> None:
    declined = decline(pair)
    if when != "at once":
        pair.disconnect()
    if when == "while it is away":
        mapping = want_after_all(pair, declined)
        pair.connect()
        pair.run(1)
    else:
        pair.connect()
        pair.run(1)
        mapping = want_after_all(pair, declined)
        pair.run(1)
    assert (pair.a.mapping().state, mapping.state) == (MappingState.RUNNING, MappingState.RUNNING)
    pair.open(mapping)


def test_a_change_of_mind_comes_too_late_for_what_is_withdrawn(pair: Pair) -> None:
    declined = decline(pair)
    pair.a.session.end(pair.a.mapping(), pair.now)
    mapping = want_after_all(pair, declined)
    pair.run(1)
    assert (pair.a.session.mappings, mapping.state) == ([], MappingState.WAITING)


def test_a_service_has_another_name_and_its_connections_go_on(pair: Pair) -> None:
    using, serving = pair.open(pair.serve())
    pair.a.session.offer_anew(pair.a.mapping(), "other", pair.now)
    pair.run(1)
    assert (pair.a.mapping().state, pair.b.mapping().state) == (MappingState.RUNNING, MappingState.RUNNING)
    assert pair.b.mapping().name == "web"  # as it was accepted
    using.write(b"still here")
    pair.run(1)
    assert pair.a.got[serving] == b"still here"


def test_connections_end_and_the_mapping_stands(pair: Pair) -> None:
    using, serving = pair.open(pair.serve())
    pair.a.session.end_flows(pair.a.mapping(), pair.now)
    pair.run(1)
    assert (pair.a.ended[serving], pair.b.ended[using]) == (Reason.ABORTED, Reason.ABORTED)
    pair.open(pair.b.mapping())


def test_a_declined_offer_is_made_again_when_the_contact_has_restarted(pair: Pair) -> None:
    decline(pair)
    pair.b.auto_accept = True
    pair.run(1)
    pair.disconnect()
    pair.b.restart()
    pair.connect()
    pair.run(1)
    assert pair.a.mapping().state is MappingState.RUNNING


def test_an_undecided_offer_waits_for_a_person(pair: Pair) -> None:
    pair.b.auto_accept = False
    mapping = pair.serve()
    assert mapping.state is MappingState.PENDING
    pair.run(3600)
    held = pair.b.session.connect(mapping, pair.now)
    pair.b.session.accept(mapping, pair.now)
    pair.run(1)
    assert held in pair.b.opened
    with pytest.raises(Misuse, match="running"):
        pair.b.session.accept(mapping, pair.now)


def test_held_connections_fail_with_the_offer_they_wait_for(pair: Pair) -> None:
    pair.b.auto_accept = False
    mapping = pair.serve()
    held = pair.b.session.connect(mapping, pair.now)
    pair.a.session.end(pair.a.mapping(), pair.now)
    pair.run(1)
    assert pair.b.failed == {held: Reason.REFUSED}
    pair.no_leaks()


def test_a_held_connection_gives_up_when_nobody_decides(pair: Pair) -> None:
    pair.b.auto_accept = False
    held = pair.b.session.connect(pair.serve(), pair.now)
    pair.run(WAITING_TIMEOUT + 1)
    assert pair.b.failed == {held: Reason.REFUSED}
    pair.no_leaks()


# Requests: the user asks first.


def request(pair: Pair, protocol: Protocol = TCP, port: int = 22) -> Mapping:
    mapping = pair.b.session.offer(protocol, port, "", pair.now, direction=Direction.CONNECTION)
    pair.run(1)
    return mapping


def test_a_request_becomes_a_lasting_mapping(pair: Pair) -> None:
    mapping = request(pair)
    theirs = pair.a.mapping()
    assert (mapping.state, theirs.state) == (MappingState.RUNNING, MappingState.RUNNING)
    assert theirs.role is Role.SERVING
    for _ in range(3):
        using, serving = pair.open(mapping)
        using.write(b"ssh")
        pair.run(1)
        assert pair.a.got[serving] == b"ssh"
    assert len(pair.a.flows) == 3


def test_a_request_can_be_declined_and_its_held_connections_with_it(pair: Pair) -> None:
    pair.a.auto_accept = False
    mapping = request(pair)
    held = pair.b.session.connect(mapping, pair.now)
    pair.a.session.end(pair.a.mapping(), pair.now)
    pair.run(1)
    assert mapping.state is MappingState.DECLINED
    assert pair.b.failed == {held: Reason.REFUSED}
    late = pair.b.session.connect(mapping, pair.now)
    pair.run(0)
    assert pair.b.failed == {held: Reason.REFUSED, late: Reason.REFUSED}
    assert not mapping.flows


def test_a_request_comes_back_after_a_reconnect_as_itself(pair: Pair) -> None:
    mapping = request(pair)
    for both in (True, False):
        pair.lose(pair.b)
        if both:
            pair.lose(pair.a)
            pair.a.session.online(pair.now)
        pair.run(HELLO_INTERVAL + 1)
        pair.b.session.online(pair.now)
        pair.run(1)
        assert mapping.state is MappingState.RUNNING
        assert not pair.a.flows  # not taken for a connection
        assert len(pair.a.session.mappings) == 1


def test_a_request_beside_an_offer_of_the_same_port(pair: Pair) -> None:
    offered = pair.serve(TCP, 22, "ssh")
    asked = request(pair)
    assert not pair.a.flows
    for mapping in (offered, asked):
        pair.open(mapping)
    assert len(pair.a.flows) == 2


def test_a_connection_that_crosses_the_end_of_its_mapping_is_refused_and_asks_nobody() -> None:
    pair = Pair(delay=0.05)
    pair.connect()
    mapping = pair.serve()
    flow = pair.b.session.connect(mapping, pair.now)
    pair.a.session.end(pair.a.mapping(), pair.now)
    pair.run(1)
    assert flow is not None
    assert pair.b.failed[flow] in (Reason.REFUSED, Reason.ABORTED)
    assert not pair.a.session.mappings
    assert not [e for e in pair.a.events if isinstance(e, ev.OfferArrived)]
    assert pair.a.session.counters["flow_unserved"] == 1
    pair.no_leaks()


# The contact goes and comes back.


@pytest.mark.parametrize("when", ["offered", "pending", "running", "flow requested", "flow open", "held"])
def test_everything_comes_back_after_a_disconnect(when: str) -> None:
    pair = Pair(delay=0.05)
    pair.connect()
    if when == "pending":
        pair.b.auto_accept = False
    if when == "offered":
        pair.a.session.offer(TCP, 80, "web", pair.now)
    else:
        pair.serve()
    if when == "held":
        pair.b.session.mappings[0].state = MappingState.WAITING
    if when.startswith("flow") or when == "held":
        flow = pair.b.session.connect(pair.b.mapping(), pair.now)
    if when == "flow open":
        pair.run(1)
    pair.disconnect()
    assert pair.b.session.next_packet() is None
    assert not pair.b.session.lossy_to_send(pair.now)
    for mapping in (*pair.a.session.mappings, *pair.b.session.mappings):
        assert mapping.state is MappingState.WAITING
    if when == "flow requested":
        assert pair.b.failed == {flow: Reason.LOST}
    if when == "flow open":
        assert pair.b.ended == {flow: Reason.LOST}
        assert set(pair.a.ended.values()) == {Reason.LOST}
    pair.b.auto_accept = True
    pair.run(3)
    pair.connect()
    pair.run(1)
    assert pair.a.mapping().state is pair.b.mapping().state is MappingState.RUNNING
    if when == "held":
        assert flow in pair.b.opened
    else:
        pair.no_leaks()
    pair.open(pair.b.mapping())


@pytest.mark.parametrize("who", ["a", "b"])
def test_one_side_alone_notices_an_interruption(who: str) -> None:
    pair = Pair(delay=0.02)
    pair.connect()
    using, serving = pair.open(pair.serve())
    side, _other = (pair.a, pair.b) if who == "a" else (pair.b, pair.a)
    pair.run(HELLO_INTERVAL + 1)
    pair.lose(side)
    pair.run(1)
    side.session.online(pair.now)
    pair.run(1)
    assert pair.a.mapping().state is pair.b.mapping().state is MappingState.RUNNING
    assert pair.a.ended
    assert pair.b.ended
    pair.no_leaks()
    using, serving = pair.open(pair.b.mapping())
    using.write(b"again")
    pair.run(1)
    assert pair.a.got[serving] == b"again"
    pair.run(600)
    assert said(pair, "a")[0x0F] <= 2
    assert said(pair, "b")[0x0F] <= 2


@pytest.mark.parametrize("pending", [True, False])
def test_one_side_alone_notices_and_had_accepted_nothing(pending: bool) -> None:
    pair = Pair(delay=0.02)
    pair.b.auto_accept = False
    pair.connect()
    mapping = pair.serve()
    if not pending:
        pair.b.session.end(mapping, pair.now)
    pair.run(HELLO_INTERVAL + 1)
    pair.lose(pair.b)
    pair.run(1)
    pair.b.session.online(pair.now)
    pair.run(1)
    pair.a.session.offer(TCP, 81, "another", pair.now)
    pair.run(1)
    for mapping in list(pair.b.session.mappings):
        pair.b.session.accept(mapping, pair.now)
    pair.run(1)
    assert len(pair.b.session.mappings) == (2 if pending else 1)
    for mapping in pair.b.session.mappings:
        pair.open(mapping)


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_restart_resets_flows_and_brings_mappings_back(who: str, noticed: bool) -> None:
    pair = Pair(delay=0.02)
    pair.connect()
    using, serving = pair.open(pair.serve())
    side, other = (pair.a, pair.b) if who == "a" else (pair.b, pair.a)
    pair.lose(side)
    if noticed:
        pair.lose(other)
        other.drain(pair.now)
    side.restart()
    if noticed:
        other.session.online(pair.now)
    side.session.online(pair.now)
    pair.run(1)
    assert other.ended == {serving if other is pair.a else using: Reason.LOST}
    assert pair.a.mapping().state is pair.b.mapping().state is MappingState.RUNNING
    using, serving = pair.open(pair.b.mapping())
    using.write(b"again")
    pair.run(1)
    assert pair.a.got[serving] == b"again"
    assert said(pair, "a")[0x0F] <= 3
    assert said(pair, "b")[0x0F] <= 3


def test_packets_while_offline_change_nothing() -> None:
    pair = Pair()
    pair.a.session.receive_lossless(bytes.fromhex("a700443322110000901f03776562"), 1.0)
    pair.a.session.receive_lossy(bytes.fromhex("c8443322116869"), 1.0)
    assert pair.a.session.counters == {"offline": 2}
    assert not pair.a.session.mappings
    assert not pair.a.session.has_events
    assert not pair.a.session.ping(1, 1.0)


def test_offers_made_while_offline_go_out_later() -> None:
    pair = Pair()
    pair.a.session.offer(TCP, 80, "web", pair.now)
    pair.b.session.restore_acceptance(Direction.SERVER, TCP, 80, "web")
    pair.b.auto_accept = False
    assert pair.b.session.connect(pair.b.mapping(), pair.now) is None
    pair.connect()
    pair.run(1)
    assert pair.b.mapping().state is MappingState.RUNNING
    assert pair.b.session.is_online
    assert pair.b.session.features == FEATURES


# Ping.


def test_ping_and_pong(pair: Pair) -> None:
    assert not pair.b.session.ping(7, pair.now)  # plain so far; it has said Hello now
    pair.run(1)
    assert pair.b.session.ping(7, pair.now)
    pair.run(1)
    assert ev.PongArrived(7) in pair.b.events
    assert ev.HelloArrived() in pair.a.events


def test_pings_of_a_peer_without_the_feature_are_not_answered() -> None:
    pair = Pair(Side(1, features=FEATURES & ~Feature.PING))
    pair.connect()
    pair.serve()
    pair.a.session.receive_lossy(bytes.fromhex("c9000100000000000000"), pair.now)
    assert not pair.a.session.lossy_to_send(pair.now)
    assert pair.a.session.counters["extension_unknown"] == 1
    assert not pair.b.session.ping(1, pair.now)


# Features one by one.


@pytest.mark.parametrize(
    "features",
    [Feature.MANY, Feature.FLOW, Feature(0), Feature.MANY | Feature.FLOW | Feature(1 << 31)],
    ids=str,
)
@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("asked", [False, True], ids=["offer", "request"])
def test_every_set_of_features_carries_connections(
    features: Feature, protocol: Protocol, asked: bool
) -> None:
    pair = Pair(Side(1, features=features), Side(2), delay=0.01)
    pair.connect()
    mapping = request(pair, protocol) if asked else pair.serve(protocol)
    for i in range(3):
        using = pair.b.session.connect(mapping, pair.now)
        assert using is not None
        pair.run(1)
        assert using.is_open
        serving = pair.a.flows[i]
        if protocol is UDP:
            using.send_datagram(b"hi", pair.now)
            pair.run(1)
            serving.send_datagram(b"ho", pair.now)
            pair.run(1)
            assert pair.a.datagrams[serving] == [b"hi"]
            assert pair.b.datagrams[using] == [b"ho"]
            using.reset()
        else:
            using.write(b"hi")
            serving.write(b"ho")
            pair.run(1)
            assert pair.a.got[serving] == b"hi"
            assert pair.b.got[using] == b"ho"
            using.finish(pair.now)
            serving.finish(pair.now)
        pair.run(5)
        assert using.state is serving.state is FlowState.CLOSED
    offerer = pair.b if asked else pair.a
    offerer.session.end(offerer.mapping(), pair.now)
    pair.run(60)
    pair.no_leaks()


# Limits.


def test_too_many_held_connections(pair: Pair) -> None:
    pair.b.auto_accept = False
    mapping = pair.serve()
    flows = [pair.b.session.connect(mapping, pair.now) for _ in range(MAX_WAITING + 1)]
    assert None not in flows[:-1]
    assert flows[-1] is None
    assert pair.b.session.counters["flow_over_limit"] == 1


def test_too_many_flows_are_refused() -> None:
    pair = Pair()
    pair.connect()
    mapping = pair.serve()
    a = pair.a.session
    for i in range(MAX_FLOWS + 10):
        a.receive_lossless(bytes.fromhex("a700") + (i + 1).to_bytes(4, "little") + b"\0\1P\0\0", pair.now)
        a.next_event()
    assert a.counters["flow_over_limit"] == 10
    assert len(a._negotiation._flows._flows) == MAX_FLOWS
    packets = [packet for _ in range(10) if (packet := a.next_packet())]
    assert {(packet[1], packet[6]) for packet in packets} == {(0x11, Reason.REFUSED)}
    assert mapping.state is MappingState.RUNNING


def test_a_peer_past_its_credit_is_reset(pair: Pair) -> None:
    pair.a.auto_read = False
    using, serving = pair.open(pair.serve())
    assert isinstance(using.channel, LosslessChannel)
    using.channel._limit = 1 << 40  # a peer that keeps no rule
    while serving.state is FlowState.OPEN:
        using.write(bytes(65536))
        pair.run(0.2)
    assert pair.a.ended == {serving: Reason.OVERFLOW}
    assert pair.b.ended == {using: Reason.OVERFLOW}
    assert pair.a.session._carriage.lossless.unread == 0


def test_data_after_fin_is_a_violation(pair: Pair) -> None:
    pair.a.auto_end = False
    using, serving = pair.open(pair.serve())
    using.finish(pair.now)
    pair.run(1)
    packet = bytes.fromhex("a704") + using.msg_id.to_bytes(4, "little") + b"more"
    pair.a.session.receive_lossless(packet, pair.now)
    pair.run(1)
    assert pair.a.ended == {serving: Reason.OVERFLOW}


def test_all_flows_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunfwd.forwarding.lossless.MAX_UNREAD", 3 * 100_000)
    assert MAX_UNREAD >= 200 * WINDOW  # 200 stalled readers at once are nobody's attack
    pair = Pair()
    pair.connect()
    pair.a.auto_read = False
    mapping = pair.serve()
    flows = [pair.open(mapping) for _ in range(4)]
    for using, _ in flows:
        using.write(bytes(100_000))
        pair.settle()
    assert list(pair.a.ended.values()) == [Reason.OVERFLOW]
    assert pair.a.session._carriage.lossless.unread == 300_000


def test_many_flows_that_nobody_reads_hold_little_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunfwd.forwarding.lossless.MAX_UNSENT", 10 * SEND_BUFFER)
    pair = Pair()
    pair.connect()
    mapping = pair.serve()
    flows = [pair.open(mapping)[0] for _ in range(50)]
    pair.paths[pair.b].capacity = 0  # the contact takes nothing
    assert sum(flow.write(bytes(1 << 20)) for flow in flows) == 10 * SEND_BUFFER + 40 * SCARCE_BUFFER
    pair.settle()
    assert flows[0].space == flows[-1].space == 0
    pair.paths[pair.b].capacity = 1 << 30
    pair.run(1)
    assert {event.flow for event in pair.b.events if isinstance(event, ev.Writable)} == set(flows)
    assert flows[0].space == SEND_BUFFER
    assert pair.b.session._carriage.lossless.unsent == 0


def test_a_finish_before_the_flow_is_open_is_kept() -> None:
    pair = Pair(delay=0.05)
    pair.connect()
    mapping = pair.serve()
    pair.b.session.connect(mapping, pair.now)
    pair.run(0.06)
    (serving,) = pair.a.flows
    assert serving.state is FlowState.ANSWERED
    serving.finish(pair.now)  # the service has nothing to say
    pair.run(1)
    (using,) = pair.b.opened
    assert using in pair.b.eof


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(pair: Pair, port: int) -> None:
    with pytest.raises(Misuse, match="not a valid port"):
        pair.a.session.offer(TCP, port, "x", pair.now)


@pytest.mark.parametrize("name", ["é" * 128, "\udcff"])
def test_a_name_that_cannot_be_sent(pair: Pair, name: str) -> None:
    with pytest.raises(Misuse, match="name"):
        pair.a.session.offer(TCP, 80, name, pair.now)
    assert not pair.a.session.mappings


def test_the_same_port_twice(pair: Pair) -> None:
    pair.a.session.offer(TCP, 80, "x", pair.now)
    pair.a.session.offer(UDP, 80, "x", pair.now)
    with pytest.raises(Misuse, match="80/tcp is already offered"):
        pair.a.session.offer(TCP, 80, "y", pair.now)


def test_a_public_offer_becomes_a_mapping_for_each_member() -> None:
    pair = Pair(Side(1, carrier=GROUP), Side(2, carrier=GROUP))
    pair.connect()
    pair.b.session.receive_lossless(bytes.fromhex("a7a70f011b0000000100000000000000"), pair.now)
    mapping = pair.a.session.offer(TCP, 80, "web", pair.now, public_id=0x11223344)
    pair.b.session.receive_lossless(bytes.fromhex("a7a7004433221100005000") + b"\3web", pair.now)
    pair.settle()
    assert mapping.msg_id == mapping.public_id == 0x11223344
    assert mapping.origin is Origin.LOCAL
    assert not pair.a.session.has_events
    pair.a.session.end(mapping, pair.now)
    pair.settle()
    assert not [packet for who, packet in pair.trace if who == "a" and packet[2] == 3]


def test_limits_are_configurable() -> None:
    side = Side(2, limits=Limits(connect_timeout=3.0, udp_idle=5.0))
    pair = Pair(b=side)
    pair.connect()
    pair.a.service = lambda flow: None
    flow = pair.b.session.connect(pair.serve(), pair.now)
    pair.run(3)
    assert pair.b.failed == {flow: Reason.TIMED_OUT}


def test_public_packets_of_a_group() -> None:
    pair = Pair(Side(1, carrier=GROUP), Side(2, carrier=GROUP))
    pair.connect()
    a, b = pair.a.session, pair.b.session
    assert not a.has_greeted
    hello = bytes.fromhex("a7a70f011b000000") + a.epoch.to_bytes(8, "little")
    a.hello_was_broadcast(pair.now)
    a.hello_was_broadcast(pair.now)
    assert a.has_greeted
    mapping = a.offer(TCP, 80, "web", pair.now, public_id=0x11223344)
    b.receive_public(hello, pair.now)
    b.receive_public(bytes.fromhex("a7a7004433221100005000") + b"\3web", pair.now)
    pair.settle()
    assert mapping.state is MappingState.RUNNING
    assert mapping.multi_flow
    assert mapping.msg_id == 0x11223344  # not offered again in private
    b.receive_public(bytes.fromhex("a7a70044332211000050000377656200"), pair.now)
    assert b.counters["malformed_length"] == 1
    for private_only in ("a7a70144332211", "a7a7044433221100", "a7a7"):
        b.receive_public(bytes.fromhex(private_only), pair.now)
    assert b.counters["public_unexpected"] == 3


def test_a_connection_that_was_under_way_when_the_contact_came_back_is_given_up_cleanly() -> None:
    pair = Pair()
    pair.connect()
    mapping = pair.serve()
    pair.run(HELLO_INTERVAL + 1)
    pair.lose(pair.a)
    pair.a.service = lambda flow: None
    pair.a.session.online(pair.now)
    pair.b.session.connect(mapping, pair.now)
    pair.b.session.end(mapping, pair.now)  # both before the Hello is read
    while (packet := pair.b.session.next_packet()) is not None:
        pair.a.session.receive_lossless(packet, pair.now)
    pair.run(1)
    pair.no_leaks()


def test_friends_tell_each_other_their_nodes_once_in_an_online_period() -> None:
    pair = Pair(Side(1, node_key=b"a" * 32), Side(2, node_key=b"b" * 32))
    pair.a.session.offer(TCP, 80, "web", pair.now)
    for period in range(1, 4):
        pair.connect()
        pair.run(10)
        assert pair.a.events.count(ev.NodeArrived(b"b" * 32)) == period
        assert pair.b.events.count(ev.NodeArrived(b"a" * 32)) == period
        pair.disconnect()


def test_friends_who_share_nothing_tell_each_other_their_nodes_all_the_same() -> None:
    pair = Pair(Side(1, node_key=b"a" * 32), Side(2, node_key=b"b" * 32))
    pair.connect()
    pair.run(10)
    assert pair.a.events.count(ev.NodeArrived(b"b" * 32)) == 1
    assert pair.b.events.count(ev.NodeArrived(b"a" * 32)) == 1


def test_members_who_share_nothing_are_told_nothing() -> None:
    side = Side(1, node_key=b"a" * 32, carrier=GROUP)
    side.session.online(0.0)
    assert side.session.next_packet() is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Side(1, node_key=b"a" * 32, carrier=GROUP), Side(2, node_key=b"b" * 32, carrier=GROUP)),
        (Side(1, node_key=b"a" * 32), Side(2)),
    ],
    ids=["members", "one of them does not"],
)
def test_nodes_are_for_friends_that_both_tell(left: Side, right: Side) -> None:
    pair = Pair(left, right)
    pair.a.session.offer(TCP, 80, "web", pair.now)
    pair.connect()
    pair.run(10)
    assert Feature.NODE not in pair.a.session.features | pair.b.session.features
    assert not any(isinstance(event, ev.NodeArrived) for side in pair.sides for event in side.events)
    pair.b.session.receive_lossless(right.carrier.lossless + b"\x13" + bytes(32), pair.now)
    assert pair.b.session.counters["node_unexpected"] == 1


TOKEN = bytes(range(16))


def test_a_ticket_is_claimed_once_in_each_online_period_until_it_is_answered() -> None:
    pair = Pair(Side(1, tickets=True), Side(2, tickets=True))
    pair.a.session.claim(TOKEN, pair.now)  # nothing else stands between the two
    for period in range(1, 4):
        pair.connect()
        pair.run(10)
        assert pair.b.events.count(ev.ClaimArrived(TOKEN)) == period
        pair.disconnect()
    pair.connect()
    pair.run(1)
    pair.b.session.answer_claim(TOKEN, pair.now, valid=True)
    pair.run(1)
    assert pair.a.events.count(ev.ClaimAnswered(TOKEN, True)) == 1
    pair.a.session.claim(TOKEN, pair.now)  # said once more
    pair.run(1)
    assert pair.b.events.count(ev.ClaimArrived(TOKEN)) == 5
    pair.a.session.forget_claim(TOKEN)
    pair.b.session.answer_claim(TOKEN, pair.now, valid=False)
    pair.disconnect()
    pair.connect()
    pair.run(10)
    assert pair.b.events.count(ev.ClaimArrived(TOKEN)) == 5
    assert pair.a.events.count(ev.ClaimAnswered(TOKEN, True)) == 1
    assert ev.ClaimAnswered(TOKEN, False) not in pair.a.events


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Side(1, tickets=True, carrier=GROUP), Side(2, tickets=True, carrier=GROUP)),
        (Side(1, tickets=True), Side(2)),
    ],
    ids=["members", "one of them does not"],
)
def test_tickets_are_claimed_of_friends_that_know_them(left: Side, right: Side) -> None:
    pair = Pair(left, right)
    pair.a.session.claim(TOKEN, pair.now)
    pair.connect()
    pair.run(10)
    assert Feature.TICKET not in pair.a.session.features | pair.b.session.features
    assert not any(isinstance(event, ev.ClaimArrived) for event in pair.b.events)
    for packet in (b"\x14" + TOKEN, b"\x15" + TOKEN + b"\1"):
        pair.b.session.receive_lossless(right.carrier.lossless + packet, pair.now)
    assert pair.b.session.counters["claim_unexpected"] == 2
