"""Whose stream it is when the contact uses up its id before the flow: the contact's loss, and never ours.

Each msg_id is known to both sides from its Offer on, and the stream of that id is there for the asking: the
contact can begin and end it between an Offer and the flow that the Offer is for.
"""

import pytest

from tests.forwarding.pair import Side
from tests.forwarding.raw_link import RawLink
from tunfwd.common.values import Reason
from tunfwd.forwarding.flow import Flow, Origin
from tunfwd.forwarding.session import FEATURES
from tunfwd.forwarding.states import FlowState, MappingState
from tunfwd.wire.frames import Frame, ResetStream, StopSending, Stream
from tunfwd.wire.packets import Accept, AckAcc, Direction, Feature, Hello, Kill, Offer, Protocol

TCP, SERVER, CONNECTION = Protocol.TCP, Direction.SERVER, Direction.CONNECTION
ID = 0x77


def use_up(peer: RawLink, msg_id: int) -> None:
    """Both halves end, and both sides know."""
    peer.say(ResetStream(msg_id, 0, 0), StopSending(msg_id, 0))
    peer.hear()
    peer.hear()
    assert peer.session._carriage.linked is not None
    assert peer.session._carriage.linked.was_used(msg_id)


def greeted(features: Feature = Feature.LINK) -> RawLink:
    peer = RawLink(Side(1, features=FEATURES), features)
    peer.greet()
    return peer


def count(peer: RawLink) -> int:
    return peer.session.counters["stream_used_up"]


def declined(peer: RawLink, msg_id: int) -> bool:
    return Kill(msg_id) in peer.hear()


def test_they_accept_our_server_after_using_up_its_id() -> None:
    """Three lossy packets: a Hello before it, reset and stop, our reset acknowledged, Accept."""
    peer = greeted()
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    (offer,) = [p for p in peer.hear() if isinstance(p, Offer)]
    use_up(peer, offer.msg_id)
    peer.control(Accept(offer.msg_id))
    assert count(peer) == 1
    assert peer.side.flows == []
    assert declined(peer, offer.msg_id)
    assert mapping.state is MappingState.WAITING
    # It is offered again, later each time, and works for whoever plays by the rules.
    (again,) = [p for p in peer.wait(2) if isinstance(p, Offer)]
    peer.control(Accept(again.msg_id))
    assert AckAcc(again.msg_id) in peer.hear()
    assert [flow.state for flow in peer.side.flows] == [FlowState.OPEN]


def test_their_server_whose_id_they_used_up() -> None:
    peer = greeted()
    peer.control(Offer(ID, TCP, SERVER, 80, "web"))
    mapping = peer.side.mapping(origin=Origin.REMOTE)
    assert mapping.state is MappingState.READY
    use_up(peer, ID)
    flow = peer.session.connect(mapping, peer.now)
    assert flow is not None
    peer.side.drain(peer.now)
    assert peer.side.failed == {flow: Reason.REFUSED}
    assert count(peer) == 1
    assert declined(peer, ID)
    assert mapping.state is MappingState.WAITING  # type: ignore[comparison-overlap]


def test_one_of_several_held_connections_finds_its_offer_used_up() -> None:
    peer = greeted()
    peer.side.auto_accept = False
    peer.control(Offer(ID, TCP, SERVER, 80, "web"))
    mapping = peer.side.mapping(origin=Origin.REMOTE)
    flows = [peer.session.connect(mapping, peer.now) for _ in range(3)]
    assert all(isinstance(flow, Flow) for flow in flows)
    use_up(peer, ID)
    peer.session.accept(mapping, peer.now)
    peer.control(Offer(ID + 1, TCP, SERVER, 80, "web"))
    peer.side.drain(peer.now)
    assert list(peer.side.failed) == flows[:1]
    assert list(mapping.waiting_flows) == flows[2:]
    assert Accept(ID + 1) in peer.hear()
    peer.wait(6)
    peer.side.drain(peer.now)
    assert set(peer.side.failed) == {flows[0], flows[2]}


def test_their_connection_offer_whose_id_they_used_up() -> None:
    peer = greeted()
    peer.side.auto_accept = False
    peer.control(Offer(ID, TCP, CONNECTION, 22, "ssh"))
    mapping = peer.side.mapping(origin=Origin.REMOTE)
    use_up(peer, ID)
    peer.session.accept(mapping, peer.now)
    peer.side.drain(peer.now)
    assert count(peer) == 1
    assert peer.side.flows == []
    assert declined(peer, ID)
    assert mapping.state is MappingState.WAITING


def test_they_accept_our_connection_offer_after_using_up_its_id() -> None:
    peer = greeted()
    mapping = peer.session.offer(TCP, 22, "ssh", peer.now, direction=CONNECTION)
    (offer,) = [p for p in peer.hear() if isinstance(p, Offer)]
    use_up(peer, offer.msg_id)
    held = peer.session.connect(mapping, peer.now)
    assert held is not None
    peer.control(Accept(offer.msg_id))
    assert count(peer) == 1
    assert peer.side.failed == {held: Reason.REFUSED}
    assert declined(peer, offer.msg_id)
    assert mapping.state is MappingState.WAITING


@pytest.mark.parametrize("msg_id", [0, ID])
def test_a_connection_offer_of_a_running_mapping(msg_id: int) -> None:
    peer = greeted(FEATURES)
    peer.session.offer(TCP, 80, "web", peer.now)
    (offer,) = [p for p in peer.hear() if isinstance(p, Offer)]
    peer.control(Accept(offer.msg_id))
    if msg_id:
        use_up(peer, msg_id)
    peer.control(Offer(msg_id, TCP, CONNECTION, 80, ""))
    assert peer.side.flows == []
    assert peer.session.counters["offer_id_in_use"] == 1
    assert declined(peer, msg_id)


def test_the_id_0_offered_before_there_was_a_link() -> None:
    """An id like any other on the carrier; over the link it is the control messages' stream."""
    peer = RawLink(Side(1, features=FEATURES))
    peer.lossless(Offer(0, TCP, SERVER, 80, "web"))
    mapping = peer.side.mapping(origin=Origin.REMOTE)
    assert mapping.state is MappingState.READY
    peer.lossless(Hello(Feature.LINK, 0xBBBB))
    peer.hear()
    flow = peer.session.connect(mapping, peer.now)
    peer.side.drain(peer.now)
    assert flow in peer.side.failed
    assert count(peer) == 1


@pytest.mark.parametrize("order", ["data first", "stop first", "reset first", "stop only", "FIN and stop"])
def test_a_stream_that_was_begun_and_not_used_up_is_the_flows(order: str) -> None:
    """Whatever of it is there already, the flow begins, and ends, without a mistake."""
    peer = greeted()
    mapping = peer.session.offer(TCP, 80, "web", peer.now)
    (offer,) = [p for p in peer.hear() if isinstance(p, Offer)]
    id_ = offer.msg_id
    frames: dict[str, list[Frame]] = {
        "data first": [Stream(id_, 0, b"hi", False)],
        "stop first": [StopSending(id_, 1), ResetStream(id_, 1, 0)],
        "reset first": [ResetStream(id_, 1, 0)],
        "stop only": [StopSending(id_, 1)],
        "FIN and stop": [Stream(id_, 0, b"", True), StopSending(id_, 1)],
    }
    peer.say(*frames[order])
    peer.control(Accept(id_))
    peer.hear()
    peer.hear()
    peer.session.end(mapping, peer.now)
    peer.hear()
    assert peer.session.counters["failures"] == 0
