"""A session facing a peer that speaks v0.1 and nothing else, in every role, byte by byte."""

import pytest

from tests.forwarding.pair import Plain, Side
from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding import events as ev
from tunfwd.forwarding.flow import Flow, Origin
from tunfwd.forwarding.flow_table import MAX_FLOWS, MAX_UNHEARD, REFUSALS
from tunfwd.forwarding.lossless import LINGER, PACKET_COST, PLAIN_UNREAD, LosslessChannel
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS, MAX_PENDING
from tunfwd.forwarding.negotiation import MAX_UNUSED_OFFERS, OFFERS, WAITING_TIMEOUT
from tunfwd.forwarding.states import FlowState, MappingState, Role
from tunfwd.wire.packets import Direction, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP
SERVER, CONNECTION = Direction.SERVER, Direction.CONNECTION
OFFER, ACCEPT, ACK, KILL, DATA = range(5)


@pytest.fixture
def peer() -> Plain:
    return Plain()


def connect(peer: Plain) -> Flow:
    flow = peer.session.connect(peer.side.mapping(), peer.now)
    assert flow is not None
    return flow


# The peer offers a server; we use it.


def test_accept_waits_for_the_first_connection(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER, 8080)
    mapping = peer.side.mapping(port=8080)
    assert (mapping.state, mapping.role) == (MappingState.READY, Role.USING)
    assert not peer.heard()
    flow = connect(peer)
    assert peer.heard() == [(ACCEPT, offered, b"")]
    assert flow.write(b"too soon") == 0
    peer.ack(offered)
    assert peer.side.opened == [flow]
    assert flow.write(b"GET /") == 5
    assert peer.heard() == [(DATA, offered, b"GET /")]
    peer.data(offered, b"200 OK")
    assert peer.side.got[flow] == b"200 OK"
    peer.kill(offered)
    assert peer.side.ended == {flow: None}
    assert mapping.state is MappingState.WAITING
    assert not peer.heard()
    assert not any(peer.side.leaks().values())


def test_a_kill_in_place_of_the_ack_is_a_refusal(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.kill(offered)
    assert peer.side.failed == {flow: Reason.REFUSED}
    assert not peer.heard()[1:]


def test_no_ack_is_a_timeout(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.heard()
    peer.wait(61)
    assert peer.side.failed == {flow: Reason.TIMED_OUT}
    assert peer.heard() == [(KILL, offered, b"")]


def test_data_before_the_ack_is_kept(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.data(offered, b"banner")
    assert flow not in peer.side.got
    peer.ack(offered)
    assert peer.side.got[flow] == b"banner"


def test_what_came_before_the_kill_can_still_be_read(peer: Plain) -> None:
    peer.side.auto_read = False
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    peer.data(offered, b"bye")
    peer.kill(offered)
    peer.kill(offered)
    assert not peer.side.ended
    assert not flow.at_end
    assert flow.space == 0
    assert peer.side.read(flow, 2) == b"by"
    assert peer.side.read(flow) == b"e"
    peer.side.drain(peer.now)
    assert peer.side.ended == {flow: None}


def test_a_second_connection_is_held_until_the_next_offer(peer: Plain) -> None:
    first_id = peer.offer(TCP, SERVER)
    first, second = connect(peer), connect(peer)
    peer.ack(first_id)
    assert peer.heard() == [(ACCEPT, first_id, b"")]
    peer.wait(1)
    second_id = peer.offer(TCP, SERVER)
    assert peer.heard() == [(ACCEPT, second_id, b"")]
    peer.ack(second_id)
    assert peer.side.opened == [first, second]
    third = connect(peer)
    peer.wait(WAITING_TIMEOUT)
    assert peer.side.failed == {third: Reason.REFUSED}


def test_offers_in_stock_serve_connections_at_once(peer: Plain) -> None:
    stock = [peer.offer(TCP, SERVER) for _ in range(3)]
    flows = [connect(peer) for _ in range(3)]
    assert [m for _, m, _ in peer.heard()] == stock
    for msg_id in stock:
        peer.ack(msg_id)
    assert peer.side.opened == flows
    assert len(peer.session.mappings) == 1


def test_an_offer_in_stock_can_be_withdrawn(peer: Plain) -> None:
    stock = [peer.offer(TCP, SERVER) for _ in range(2)]
    peer.kill(stock[0])
    assert peer.side.mapping().state is MappingState.READY
    peer.kill(stock[1])
    assert peer.side.mapping().state is MappingState.WAITING
    held = connect(peer)
    again = peer.offer(TCP, SERVER)
    peer.ack(again)
    assert peer.side.opened == [held]


def test_a_local_half_close_lingers_for_the_reply(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    flow.write(b"question")
    flow.finish(peer.now)
    assert peer.heard()[1:] == [(DATA, offered, b"question")]
    for _ in range(4):  # as long as the reply keeps coming
        peer.wait(LINGER * 0.9)
        peer.data(offered, b"reply ")
    assert not peer.heard()
    peer.wait(LINGER)
    assert peer.heard() == [(KILL, offered, b"")]
    assert peer.side.got[flow] == b"reply " * 4
    assert peer.side.ended == {flow: None}
    assert not any(peer.side.leaks().values())


def test_lingering_starts_when_everything_was_sent(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    flow.write(b"x" * 5000)
    flow.finish(peer.now)
    peer.wait(10 * LINGER)  # the carrier takes nothing
    assert [kind for kind, _, _ in peer.heard()] == [ACCEPT, DATA, DATA, DATA, DATA]
    peer.data(offered, b"reply")
    assert peer.side.got[flow] == b"reply"
    peer.wait(LINGER)
    assert peer.heard() == [(KILL, offered, b"")]


def test_a_kill_that_answers_a_half_close_ends_it_at_once(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    flow.finish(peer.now)
    peer.data(offered, b"reply")
    peer.kill(offered)
    assert peer.side.ended == {flow: None}
    peer.heard()
    peer.wait(60)
    assert not peer.heard()


def test_a_reset_is_a_kill(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    flow.write(b"never sent")
    flow.reset()
    assert peer.heard() == [(ACCEPT, offered, b""), (KILL, offered, b"")]


def test_sixteen_mebibytes_unread_kill_the_flow(peer: Plain) -> None:
    peer.side.auto_read = False
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    peer.heard()
    chunk = bytes(64 * 1024)
    for _ in range(PLAIN_UNREAD // len(chunk)):
        peer.data(offered, chunk)
    assert not peer.heard()
    peer.data(offered, b"!")
    assert peer.heard() == [(KILL, offered, b"")]
    assert peer.side.ended == {flow: Reason.OVERFLOW}
    assert not any(peer.side.leaks().values())


def test_reading_makes_room_again(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    for _ in range(3 * PLAIN_UNREAD // (1024 * 1024)):
        peer.data(offered, bytes(1024 * 1024))
    assert len(peer.side.got[flow]) == 3 * PLAIN_UNREAD
    peer.data(offered, b"")
    assert flow.is_open


def test_going_offline_resets_and_forgets(peer: Plain) -> None:
    first = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(first)
    spare = peer.offer(TCP, SERVER)
    peer.session.offline(peer.now)
    peer.side.drain(peer.now)
    assert peer.side.ended == {flow: Reason.LOST}
    assert peer.side.mapping().state is MappingState.WAITING
    peer.session.online(peer.now)
    assert peer.heard() == [(KILL, first, b"")]  # it may still believe in the flow
    peer.ack(spare)
    assert peer.heard() == [(KILL, spare, b"")]
    again = peer.offer(TCP, SERVER)
    connect(peer)
    assert peer.heard() == [(ACCEPT, again, b"")]


def test_a_plain_udp_server_is_accepted_at_once_and_shared(peer: Plain) -> None:
    offered = peer.offer(UDP, SERVER, 27015)
    assert peer.heard() == [(ACCEPT, offered, b"")]
    flow = connect(peer)
    assert connect(peer) is flow
    flow.send_datagram(b"early", peer.now)
    peer.ack(offered)
    assert peer.heard_datagrams() == [(offered, b"early")]
    peer.datagram(offered, b"state")
    assert peer.side.datagrams == {flow: [b"state"]}
    peer.wait(3600)
    assert flow.is_open  # no idle end: there is no second chance
    peer.kill(offered)
    assert peer.side.ended == {flow: None}


def test_a_plain_udp_flow_is_open_before_anybody_uses_it(peer: Plain) -> None:
    offered = peer.offer(UDP, SERVER)
    peer.ack(offered)
    flow = connect(peer)
    assert flow.is_open
    newer = peer.offer(UDP, SERVER)  # the peer starts over
    assert peer.heard() == [(ACCEPT, offered, b""), (KILL, offered, b""), (ACCEPT, newer, b"")]
    assert peer.side.ended == {flow: Reason.LOST}
    peer.ack(newer)
    assert connect(peer).msg_id == newer


# We offer a server; the peer uses it.


def test_our_server_is_connected_before_the_ack(peer: Plain) -> None:
    peer.side.service = lambda flow: None
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    ((kind, msg_id, body),) = peer.heard()
    assert (kind, body) == (OFFER, b"\0\0P\0\3web")
    peer.accept(msg_id)
    assert not peer.heard()
    (flow,) = peer.side.flows
    peer.data(msg_id, b"impatient")
    flow.service_up(peer.now)
    assert peer.heard() == [(ACK, msg_id, b"")]
    assert peer.side.got[flow] == b"impatient"
    assert mapping.state is MappingState.RUNNING


def test_after_each_flow_the_service_is_offered_again(peer: Plain) -> None:
    peer.session.offer(TCP, 80, "web", peer.now)
    seen = set()
    for round_ in range(4):
        ((kind, msg_id, _),) = peer.heard()
        assert kind == OFFER
        assert msg_id not in seen
        seen.add(msg_id)
        peer.accept(msg_id)
        assert peer.heard() == [(ACK, msg_id, b"")]
        flow = peer.side.flows[-1]
        peer.data(msg_id, b"q")
        flow.write(b"r")
        if round_ % 2:
            peer.kill(msg_id)
            assert peer.heard() == []
            assert peer.side.ended[flow] is None
            peer.wait(0)
        else:
            flow.finish(peer.now)
            assert peer.heard() == [(DATA, msg_id, b"r")]
            peer.wait(LINGER)
            assert peer.heard() == [(KILL, msg_id, b"")]
            peer.wait(0)
    assert len(peer.side.flows) == 4


def test_a_refusing_service_is_offered_again_ever_later(peer: Plain) -> None:
    peer.side.service = lambda flow: Reason.REFUSED
    peer.session.offer(TCP, 80, "web", peer.now)
    waits = []
    for _ in range(9):
        ((_, msg_id, _),) = peer.heard()
        peer.accept(msg_id)
        assert peer.heard() == [(KILL, msg_id, b"")]
        due = peer.session._negotiation._timers.next()
        assert due is not None
        waits.append(due - peer.now)
        peer.wait(due - peer.now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_our_udp_server_is_acknowledged_at_once(peer: Plain) -> None:
    peer.side.service = lambda flow: None
    peer.session.offer(UDP, 53, "dns", peer.now)
    ((_, msg_id, body),) = peer.heard()
    assert body == b"\1\0\x35\0\3dns"
    peer.accept(msg_id)
    assert peer.heard() == [(ACK, msg_id, b"")]
    (flow,) = peer.side.flows
    flow.send_datagram(b"answer", peer.now)
    flow.service_up(peer.now)
    assert peer.heard_datagrams() == [(msg_id, b"answer")]
    flow.reset()
    assert peer.heard() == [(KILL, msg_id, b"")]
    peer.wait(1)
    ((kind, again, _),) = peer.heard()
    assert kind == OFFER
    assert again != msg_id


def test_a_declined_offer_stays_declined(peer: Plain) -> None:
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    ((_, msg_id, _),) = peer.heard()
    peer.kill(msg_id)
    assert mapping.state is MappingState.DECLINED
    peer.wait(1000)
    peer.session.offline(peer.now)
    peer.session.online(peer.now)
    assert not peer.heard()
    peer.accept(msg_id)
    assert peer.heard() == [(KILL, msg_id, b"")]


def test_withdrawing_kills(peer: Plain) -> None:
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    ((_, msg_id, _),) = peer.heard()
    peer.session.end(mapping, peer.now)
    assert peer.heard() == [(KILL, msg_id, b"")]
    peer.accept(msg_id)  # crossed the Kill
    assert peer.heard() == [(KILL, msg_id, b"")]
    assert not peer.session.mappings


def test_ending_a_plain_mapping_ends_its_flow(peer: Plain) -> None:
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    ((_, msg_id, _),) = peer.heard()
    peer.accept(msg_id)
    peer.session.end(mapping, peer.now)
    peer.side.drain(peer.now)
    assert peer.heard() == [(ACK, msg_id, b""), (KILL, msg_id, b"")]
    assert list(peer.side.ended.values()) == [Reason.ABORTED]
    peer.wait(1000)
    assert not peer.heard()


# Connection offers, both ways round.


def test_the_peer_asks_for_a_connection(peer: Plain) -> None:
    peer.side.service = lambda flow: None
    asked = peer.offer(TCP, CONNECTION, 22)
    mapping = peer.side.mapping()
    assert (mapping.role, mapping.state) == (Role.SERVING, MappingState.ACCEPTED)
    assert not peer.heard()
    (flow,) = peer.side.flows
    flow.service_up(peer.now)
    assert flow.state is FlowState.ANSWERED
    assert peer.heard() == [(ACCEPT, asked, b"")]
    peer.ack(asked)
    assert mapping.state is MappingState.RUNNING
    peer.data(asked, b"ssh")
    assert peer.side.got[flow] == b"ssh"
    flow.write(b"hello")
    assert peer.heard() == [(DATA, asked, b"hello")]
    peer.kill(asked)
    assert mapping.state is MappingState.WAITING  # type: ignore[comparison-overlap]


def test_several_connections_asked_for_at_once(peer: Plain) -> None:
    ids = [peer.offer(TCP, CONNECTION, 22) for _ in range(3)]
    for msg_id in ids:
        peer.ack(msg_id)
        peer.data(msg_id, b"%d" % msg_id)
    assert [bytes(peer.side.got[flow]) for flow in peer.side.flows] == [b"%d" % i for i in ids]


def test_a_connection_asked_for_that_is_refused(peer: Plain) -> None:
    peer.side.service = lambda flow: Reason.REFUSED
    asked = peer.offer(UDP, CONNECTION, 53)
    assert peer.heard() == [(KILL, asked, b"")]
    assert peer.side.mapping().state is MappingState.WAITING


def test_an_answer_never_confirmed_times_out(peer: Plain) -> None:
    asked = peer.offer(TCP, CONNECTION, 22)
    peer.heard()
    peer.wait(61)
    assert peer.heard() == [(KILL, asked, b"")]
    assert list(peer.side.ended.values()) == [Reason.TIMED_OUT]


def test_a_reset_before_the_service_is_up(peer: Plain) -> None:
    peer.side.service = lambda flow: None
    asked = peer.offer(TCP, CONNECTION, 22)
    peer.side.flows[0].reset()
    assert peer.heard() == [(KILL, asked, b"")]


def test_we_ask_for_a_connection(peer: Plain) -> None:
    mapping = peer.session.offer(TCP, 22, "", peer.now, direction=CONNECTION)
    ((kind, msg_id, body),) = peer.heard()
    assert (kind, body) == (OFFER, b"\0\1\x16\0\x0622/tcp")
    peer.accept(msg_id)
    assert peer.heard() == [(ACK, msg_id, b"")]
    assert mapping.state is MappingState.RUNNING
    peer.data(msg_id, b"SSH-2.0")  # the server speaks first, and nobody is there yet
    assert not peer.side.got
    assert not peer.side.opened
    flow = connect(peer)
    peer.side.drain(peer.now)
    assert peer.side.opened == [flow]
    assert peer.side.got[flow] == b"SSH-2.0"
    second = connect(peer)
    peer.kill(msg_id)
    assert peer.side.ended == {flow: None}
    peer.wait(0)
    ((kind, again, _),) = peer.heard()
    assert kind == OFFER
    peer.accept(again)
    assert peer.side.opened == [flow, second]


def test_a_parked_connection_that_is_killed_is_asked_for_again_later(peer: Plain) -> None:
    peer.session.offer(TCP, 22, "ssh", peer.now, direction=CONNECTION)
    ((_, msg_id, _),) = peer.heard()
    peer.accept(msg_id)
    peer.kill(msg_id)
    peer.heard()
    assert not peer.side.ended
    assert not peer.side.opened
    peer.wait(0.9)
    assert not peer.heard()
    peer.wait(0.2)
    assert [kind for kind, _, _ in peer.heard()] == [OFFER]


def test_what_a_killed_parked_connection_said_reaches_the_next_user(peer: Plain) -> None:
    peer.session.offer(TCP, 13, "daytime", peer.now, direction=CONNECTION)
    ((_, msg_id, _),) = peer.heard()
    peer.accept(msg_id)
    peer.data(msg_id, b"12:00")
    peer.kill(msg_id)
    flow = connect(peer)
    peer.side.drain(peer.now)
    assert peer.side.got[flow] == b"12:00"
    assert peer.side.ended == {flow: None}


def test_a_connection_waits_for_the_answer_to_our_request(peer: Plain) -> None:
    peer.session.offer(UDP, 53, "dns", peer.now, direction=CONNECTION)
    ((_, msg_id, _),) = peer.heard()
    flow = connect(peer)
    assert flow.send_datagram(b"query", peer.now)
    peer.accept(msg_id)
    assert peer.side.opened == [flow]
    assert peer.heard_datagrams() == [(msg_id, b"query")]


# What is repeated, crosses, or makes no sense.


def test_a_repeated_offer_is_answered_with_kill(peer: Plain) -> None:
    offered = peer.offer(TCP, SERVER)
    peer.offer(TCP, SERVER, msg_id=offered)
    assert peer.heard() == [(KILL, offered, b"")]
    assert peer.side.mapping().state is MappingState.READY
    assert peer.session.counters["offer_id_in_use"] == 1


def test_both_choose_the_same_id(peer: Plain) -> None:
    mine = peer.session.offer(TCP, 80, "web", peer.now)
    ((_, msg_id, _),) = peer.heard()
    peer.offer(TCP, SERVER, 8080, msg_id=msg_id)
    (kill, offer) = peer.heard()
    assert kill == (KILL, msg_id, b"")
    assert offer[0] == OFFER
    assert offer[1] not in (0, msg_id)
    peer.kill(msg_id)  # the peer's answer to ours
    assert mine.state is MappingState.OFFERED
    assert len(peer.session.mappings) == 1


def test_our_own_ids_never_collide_and_are_never_zero() -> None:
    class Loaded:
        def __init__(self) -> None:
            self.values = [1 << 63, 1, 7, 2, 0, 7, 0, 0, 8]

        def getrandbits(self, k: int) -> int:
            assert k in (32, 64)
            return self.values.pop(0)

    side = Side()
    side.random = Loaded()  # type: ignore[assignment]
    side.session = side.new_session()
    peer = Plain(side)
    for port in (1, 2):
        peer.session.offer(TCP, port, "", peer.now)
    assert [msg_id for _, msg_id, _ in peer.heard()] == [7, 8]


@pytest.mark.parametrize("state", ["offered", "running"])
def test_repeated_accepts_and_acks(peer: Plain, state: str) -> None:
    peer.session.offer(TCP, 80, "web", peer.now)
    ((_, msg_id, _),) = peer.heard()
    if state == "running":
        peer.accept(msg_id)
        peer.heard()
        peer.accept(msg_id)
        assert peer.session.counters["accept_unexpected"] == 1
    peer.ack(msg_id)
    assert peer.session.counters["ack_unexpected"] == 1
    assert not peer.heard()
    assert peer.side.mapping().state is MappingState(state)


def test_unknown_ids_are_never_answered_but_accept_and_ack(peer: Plain) -> None:
    for kind in (KILL, DATA, 0x10):
        peer.send(kind, 99)
    peer.send(0x11, 99, b"\0")
    peer.send(0x12, 99, bytes(8))
    peer.datagram(99, b"toxvpn")
    assert not peer.heard()
    assert not peer.heard_datagrams()
    for kind in (ACCEPT, ACK):
        peer.send(kind, 99)
        assert peer.heard() == [(KILL, 99, b"")]
    assert peer.session.counters == {
        "kill_unknown": 1,
        "data_unknown": 2,
        "flow_control_unknown": 3,
        "accept_unknown": 1,
        "ack_unknown": 1,
    }


def test_data_on_the_wrong_carrier(peer: Plain) -> None:
    udp = peer.offer(UDP, SERVER)
    peer.ack(udp)
    peer.data(udp, b"x")
    tcp = peer.offer(TCP, SERVER)
    peer.session.connect(peer.side.mapping(protocol=TCP), peer.now)
    peer.datagram(tcp, b"x")
    assert peer.session.counters["data_unexpected"] == 2


def test_a_long_offer_of_nonsense(peer: Plain) -> None:
    for i in range(10_000):
        peer.session.receive_lossless(i.to_bytes(20, "big"), peer.now)
        peer.session.receive_lossy(i.to_bytes(20, "big"), peer.now)
    peer.session.receive_lossless(b"", peer.now)
    peer.session.receive_lossy(b"\xc9", peer.now)
    assert peer.session.counters == {"malformed_prefix": 20_001, "malformed_length": 1}


# A peer that means harm.


def test_ten_thousand_offers(peer: Plain) -> None:
    peer.side.auto_accept = False
    for i in range(10_000):
        peer.offer(TCP, SERVER, i % 65536, b"\x1b[2J%d" % i)
    assert len(peer.session.mappings) == MAX_PENDING
    assert sum(isinstance(e, ev.OfferArrived) for e in peer.side.events) == MAX_PENDING
    counters = peer.session.counters
    assert counters["offer_over_limit"] == OFFERS[0] - MAX_PENDING
    assert counters["offer_over_rate"] == 10_000 - OFFERS[0]
    assert len(peer.heard()) == MAX_UNHEARD // PACKET_COST < REFUSALS[0]  # answers are bounded too
    peer.session.offline(peer.now)
    assert not peer.session.mappings


@pytest.mark.heavy
def test_ten_thousand_offers_that_are_all_accepted(peer: Plain) -> None:
    for i in range(10_000):
        peer.offer(TCP, SERVER, i)
        peer.heard()
        peer.now += OFFERS[1]
    assert len(peer.session.mappings) == MAX_MAPPINGS
    with pytest.raises(Misuse, match="too many"):
        peer.session.restore_acceptance(SERVER, TCP, 60_000, "")
    peer.session.offer(TCP, 1, "", peer.now)  # what a contact offers takes no room from what we do


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("protocol", "direction", "limit"),
    [
        (TCP, SERVER, MAX_UNUSED_OFFERS),
        (UDP, SERVER, 1),
        (TCP, CONNECTION, MAX_FLOWS),
        (UDP, CONNECTION, MAX_FLOWS),
    ],
)
@pytest.mark.parametrize("confirmed", [False, True])
def test_the_same_offer_ten_thousand_times(
    peer: Plain, protocol: Protocol, direction: Direction, limit: int, confirmed: bool
) -> None:
    for _ in range(10_000):
        msg_id = peer.offer(protocol, direction)
        if confirmed:
            peer.ack(msg_id)
        peer.heard()
        peer.now += OFFERS[1]
    negotiation = peer.session._negotiation
    assert len(peer.session.mappings) == 1
    assert len(negotiation._ids) == limit
    assert len(negotiation._flows._flows) <= limit
    assert len(negotiation._timers._heap) <= 3 * limit + 100


def test_the_same_undecided_offer_ten_thousand_times(peer: Plain) -> None:
    peer.side.auto_accept = False
    for _ in range(10_000):
        peer.offer(TCP, SERVER)
    assert len(peer.session._negotiation._ids) == 1


def test_a_million_tiny_packets_cost_what_they_hold(peer: Plain) -> None:
    peer.side.auto_read = False
    offered = peer.offer(TCP, SERVER)
    flow = connect(peer)
    peer.ack(offered)
    for _ in range(20_000):
        peer.data(offered, b"1")
    assert isinstance(flow.channel, LosslessChannel)
    assert flow.channel._inbox.__sizeof__() < 50_000
    assert sum(isinstance(e, ev.Readable) for e in peer.side.events) == 2


def test_flows_that_come_and_go_leave_no_timers(peer: Plain) -> None:
    for _ in range(5000):
        peer.kill(peer.offer(UDP, CONNECTION))
        peer.heard()
    assert len(peer.session._negotiation._timers._heap) < 100


def test_origin_and_key_of_a_mapping(peer: Plain) -> None:
    peer.offer(TCP, SERVER, 80, "ж".encode())
    mapping = peer.side.mapping()
    assert mapping.origin is Origin.REMOTE
    assert mapping.key == (SERVER, TCP, 80, "")


@pytest.mark.parametrize("protocol", Protocol)
def test_what_waits_for_a_contact_is_told_when_it_leaves_for_good(protocol: Protocol) -> None:
    peer = Plain()
    mapping = peer.session.restore_acceptance(
        Direction.SERVER, protocol, 80, "x"
    )  # it has not offered it again yet
    flow = peer.session.connect(mapping, peer.now)
    assert flow is not None
    assert flow.state is FlowState.WAITING
    peer.session.leave(peer.now)
    peer.side.drain(peer.now)
    assert peer.side.failed == {flow: Reason.LOST}
    assert not any(peer.side.leaks().values())
    assert peer.session.next_timeout() is None
