"""A contact's flows in shares: by who begins them, and UDP's, where the old give way, apart from TCP's."""

import pytest

from tests.forwarding.pair import Pair, Side
from tunfwd.common.values import Reason
from tunfwd.forwarding import flow_table
from tunfwd.forwarding.flow import Flow, Mapping
from tunfwd.forwarding.flow_table import MAX_UDP_FLOWS, Limits
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.states import FlowState
from tunfwd.forwarding.udp_flows import ANSWERED, BRIEF_IDLE, DEFAULT_IDLE, STREAM_AGE
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Direction, Feature, Offer, Protocol, encode

TCP, UDP = Protocol.TCP, Protocol.UDP
FEW = 20


@pytest.fixture(params=[CARRIER_FEATURES, FEATURES], ids=["carriers", "link"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return joined(request.param)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_table, "MAX_FLOWS", FEW)
    monkeypatch.setattr(flow_table, "MAX_UDP_FLOWS", FEW)


def joined(features: Feature = FEATURES, udp_idle: float = DEFAULT_IDLE) -> Pair:
    limits = Limits(udp_idle=udp_idle)
    pair = Pair(*(Side(n, features=features, limits=limits) for n in (1, 2)), delay=0.01)
    pair.connect()
    return pair


def ask(pair: Pair, mapping: Mapping, question: bytes = b"question") -> Flow:
    """One question from a port of its own, and its answer, as a resolver does."""
    flow = pair.b.session.connect(mapping, pair.now)
    assert flow is not None
    assert flow.send_datagram(question, pair.now)
    return flow


def answer(pair: Pair) -> None:
    """The service answers whoever has asked since."""
    for flow in pair.a.flows:
        for question in pair.a.datagrams.pop(flow, []):
            flow.send_datagram(b"re: " + question, pair.now)


def converse(pair: Pair, mapping: Mapping) -> Flow:
    flow = ask(pair, mapping)
    for _ in range(2):
        pair.run(STREAM_AGE / 2 + 0.1)
        answer(pair)
        flow.send_datagram(b"and", pair.now)
    pair.run(0.1)
    answer(pair)
    pair.run(0.1)
    return flow


def test_a_question_and_its_answer_rest_for_udp_idle(pair: Pair) -> None:
    """So that the server may say something of itself, long after the program has made itself known."""
    flow = ask(pair, pair.serve(UDP))
    pair.run(0.1)
    answer(pair)
    pair.run(125)
    [served] = pair.a.flows
    served.send_datagram(b"news", pair.now)
    pair.run(1)
    assert pair.b.datagrams[flow] == [b"re: question", b"news"]
    pair.run(DEFAULT_IDLE - 2)
    assert flow.is_open
    pair.run(2)
    assert pair.b.ended == {flow: None}
    assert list(pair.a.ended.values()) == [None]
    pair.no_leaks()


def test_of_many_questions_only_the_last_rest_for_so_long(pair: Pair) -> None:
    mapping = pair.serve(UDP)
    flows = []
    for _ in range(ANSWERED + 20):
        flows.append(ask(pair, mapping))
        pair.run(0.05)
        answer(pair)
    pair.run(BRIEF_IDLE + 1)
    assert all(flow.is_open for flow in flows)
    new = [ask(pair, mapping) for _ in range(20)]
    pair.run(0.1)
    assert list(pair.b.ended) == flows[:20]
    assert all(flow.is_open for flow in new)
    assert not pair.b.session.counters["udp_flow_displaced"]


def test_a_question_that_nobody_answers_rests_for_half_a_minute(pair: Pair) -> None:
    flow = ask(pair, pair.serve(UDP))
    for _ in range(5):
        pair.run(BRIEF_IDLE - 1)
        assert flow.send_datagram(b"again", pair.now)
    pair.run(BRIEF_IDLE + 1)
    assert pair.b.ended == {flow: None}


def test_what_goes_on_both_ways_rests_for_udp_idle(pair: Pair) -> None:
    flow = converse(pair, pair.serve(UDP))
    pair.run(DEFAULT_IDLE - 1)
    assert flow.is_open
    pair.run(3)
    assert pair.b.ended == {flow: None}
    pair.no_leaks()


def test_a_question_that_is_sent_as_the_flow_is_about_to_end_arrives(pair: Pair) -> None:
    """Also where only one side takes the conversation for one, or has heard the last of it late."""
    mapping = pair.serve(UDP)
    for last in (0.1, STREAM_AGE - 0.005, STREAM_AGE + 0.005):
        flow = ask(pair, mapping)
        pair.run(last)
        answer(pair)
        pair.run(0.05)
        pair.run(DEFAULT_IDLE - 0.045)
        assert flow.is_open
        flow.send_datagram(b"again", pair.now)
        pair.run(0.1)
        serving = pair.a.flows[-1]
        assert pair.a.datagrams[serving] == [b"again"]
        answer(pair)
        pair.run(0.1)
        assert pair.b.datagrams[flow] == [b"re: question", b"re: again"]


def test_the_serving_side_ends_what_the_using_side_forgets() -> None:
    """As another implementation may."""
    pair = joined(udp_idle=40.0)
    flow = ask(pair, pair.serve(UDP))
    pair.run(0.1)
    pair.b.session._negotiation._timers.cancel(flow)
    pair.run(40.0)
    assert flow.is_open
    pair.run(5.0)
    assert pair.b.ended == {flow: None}
    pair.no_leaks()


def test_udp_idle_is_the_bound_of_all() -> None:
    pair = joined(udp_idle=4.0)
    mapping = pair.serve(UDP)
    brief, stream = ask(pair, mapping), converse(pair, mapping)
    assert brief.is_open
    pair.run(5)
    assert set(pair.b.ended) == {brief, stream}


@pytest.mark.usefixtures("few")
def test_the_flow_that_was_used_longest_ago_gives_way(pair: Pair) -> None:
    mapping = pair.serve(UDP)
    flows = []
    for _ in range(FEW):
        flows.append(ask(pair, mapping))
        pair.run(0.1)
    flows[0].send_datagram(b"once more", pair.now)
    pair.run(0.1)
    new = ask(pair, mapping)
    pair.run(0.1)
    assert new.is_open
    assert pair.b.ended == {flows[1]: None}
    assert list(pair.a.ended.values()) == [None]
    assert len(pair.a.session._negotiation._flows._flows) == FEW


@pytest.mark.usefixtures("few")
def test_a_conversation_outlasts_any_number_of_questions(pair: Pair) -> None:
    mapping = pair.serve(UDP)
    stream = converse(pair, mapping)
    for _ in range(5 * FEW):
        ask(pair, mapping)
        pair.run(0.05)
        answer(pair)
    assert stream.is_open
    assert not pair.b.failed


@pytest.mark.usefixtures("few")
def test_flows_that_are_not_open_yet_give_way_without_a_word_of_refusal(pair: Pair) -> None:
    pair.a.service = lambda flow: None  # which never answers
    mapping = pair.serve(UDP)
    flows = [ask(pair, mapping) for _ in range(FEW + 1)]
    pair.run(1)
    assert pair.b.failed == {flows[0]: Reason.ABORTED}
    assert len(pair.a.session._negotiation._flows._flows) == FEW


@pytest.mark.usefixtures("few")
def test_udp_takes_nothing_from_tcp_nor_from_the_other_side(pair: Pair) -> None:
    udp, tcp = pair.serve(UDP, 53), pair.serve(TCP, 80)
    pair.b.session.offer(TCP, 81, "back", pair.now)
    pair.run(1)
    back = pair.a.mapping(port=81)
    for _ in range(2 * FEW):
        ask(pair, udp)
        pair.run(0.01)
    streams = [pair.b.session.connect(tcp, pair.now) for _ in range(FEW + 5)]
    pair.run(1)
    assert [flow is not None and flow.is_open for flow in streams] == [True] * FEW + [False] * 5
    ask(pair, udp)
    others = [pair.a.session.connect(back, pair.now) for _ in range(FEW)]
    pair.run(1)
    assert [flow is not None and flow.is_open for flow in others] == [True] * FEW
    assert not [flow for flow in pair.b.ended if flow.protocol is TCP]


@pytest.mark.usefixtures("few")
def test_a_contact_that_opens_more_than_its_share_keeps_to_it() -> None:
    """Whatever the contact does itself: its oldest flows end on the serving side."""
    pair = joined(CARRIER_FEATURES)
    pair.serve(UDP)
    session = pair.a.session
    for number in range(1, 3 * FEW + 1):
        offer = Offer(number, UDP, Direction.CONNECTION, 80, "")
        session.receive_lossless(encode(FRIEND, offer), pair.now)
        pair.a.drain(pair.now)
    assert [flow.msg_id for flow in pair.a.ended] == list(range(1, 2 * FEW + 1))
    assert {flow.msg_id for flow in session._negotiation._flows._flows} == set(
        range(2 * FEW + 1, 3 * FEW + 1)
    )


@pytest.mark.heavy
def test_five_thousand_one_shot_queries_within_two_minutes(pair: Pair) -> None:
    udp, tcp = pair.serve(UDP, 53), pair.serve(TCP, 80)
    flows = []
    for number in range(5000):
        flows.append(ask(pair, udp, b"%d" % number))
        if number % 50 == 49:
            pair.run(0.1)
            answer(pair)
            pair.run(1.0)
    pair.run(1.0)
    assert [pair.b.datagrams[flow] for flow in flows] == [[b"re: %d" % n] for n in range(5000)]
    assert not pair.b.failed
    assert pair.open(tcp)[0].state is FlowState.OPEN
    assert len(pair.b.session._negotiation._flows._flows) <= MAX_UDP_FLOWS + 1
    pair.run(DEFAULT_IDLE + 2)
    assert len(pair.b.session._negotiation._flows._flows) == 1
