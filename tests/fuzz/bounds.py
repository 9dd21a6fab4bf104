"""What may be held for whom, whatever they do: asked after each step of a fuzzer."""

from __future__ import annotations

from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.flow_table import MAX_FLOWS
from tunfwd.forwarding.lossless import MAX_CONTROL, MAX_DATAGRAMS, MAX_UNREAD, MAX_UNSENT
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS, MAX_PENDING
from tunfwd.forwarding.negotiation import MAX_UNUSED_OFFERS, MAX_WAITING
from tunfwd.forwarding.session import Session
from tunfwd.forwarding.states import MappingState
from tunfwd.link import Link
from tunfwd.link.streams import LINK_WINDOW, MAX_FORGOTTEN, MAX_PIECES, MAX_UNCLAIMED, SEND_BUDGET
from tunfwd.netstack import Stack
from tunfwd.netstack.connection_table import MAX_CONNECTIONS, MAX_INCOMING

MAX_COUNTERS = 64  # of a session: kinds of what was counted, never anything that a contact chose
SLACK = 1 << 20  # bytes by which the last packet or write may pass a bound


def session_in_bounds(session: Session) -> None:
    """What one contact can make us hold."""
    negotiation, lossless = session._negotiation, session._carriage.lossless
    mappings = session.mappings
    assert len(session.counters) <= MAX_COUNTERS
    assert len(mappings) <= MAX_MAPPINGS
    undecided = [mapping.name for mapping in mappings if mapping.state is MappingState.PENDING]
    assert len(set(undecided) - {""}) + undecided.count("") <= MAX_PENDING
    for mapping in mappings:
        assert len(mapping.waiting_flows) <= MAX_WAITING
        assert len(mapping.unused_offers) <= MAX_UNUSED_OFFERS
    flows = negotiation._flows._flows
    assert len(flows) <= MAX_FLOWS
    assert flows == {flow for mapping in mappings for flow in mapping.flows}
    known = {owner for owner in negotiation._ids.values() if isinstance(owner, Flow)}
    assert known <= flows
    assert len(lossless._control) <= MAX_CONTROL
    assert len(lossless._datagrams) <= MAX_DATAGRAMS
    assert 0 <= lossless.unsent <= MAX_UNSENT + SLACK
    assert 0 <= lossless.unread <= MAX_UNREAD + SLACK
    if session._carriage.linked is not None:
        link_in_bounds(session._carriage.linked.link)
        assert session._carriage.linked._channels.keys() <= {flow.msg_id for flow in flows}


def link_in_bounds(link: Link) -> None:
    """What a peer can make a link hold; one that is over holds nothing."""
    if link.closed:
        assert not link.recovery.sent
        assert not len(link._streams)
        return
    streams = link._streams
    pairs = streams._streams.values()
    assert sum(not pair.claimed for pair in pairs) <= MAX_UNCLAIMED
    assert len(streams._forgotten) <= MAX_FORGOTTEN
    assert 0 <= streams._received - streams._consumed <= LINK_WINDOW
    assert streams._pieces == sum(pair.receive.pieces_waiting for pair in pairs)
    assert streams._pieces <= MAX_PIECES
    assert streams.unacked == sum(pair.send.unacked for pair in pairs)
    assert streams.unacked <= SEND_BUDGET + SLACK
    assert link.recovery.path.in_flight == sum(packet.size for packet in link.recovery.sent)


def stack_in_bounds(stack: Stack) -> None:
    """What packets can make the netstack hold."""
    statistics = stack.statistics()
    assert 0 <= statistics.incoming <= min(statistics.connections, MAX_INCOMING)
    assert statistics.connections <= MAX_CONNECTIONS
