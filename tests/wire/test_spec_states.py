"""The tables of states and bounds in SPEC.md, against the program: row for row, in both directions."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import tunfwd.wire
from tunfwd.forwarding import flow, flow_table, lossless, mapping_table, negotiation
from tunfwd.forwarding.states import (
    FLOW,
    MAPPING,
    FlowEvent,
    FlowState,
    MappingEvent,
    MappingState,
)

SPEC = Path(tunfwd.wire.__file__).with_name("SPEC.md").read_text()

StateT = TypeVar("StateT", bound=Enum)
EventT = TypeVar("EventT", bound=Enum)

# What SPEC.md calls each event: in words of the wire, where states.py has those of the program.
MAPPING_EVENTS = {
    "Offer sent": MappingEvent.OFFER_SENT,
    "Offer sent again": MappingEvent.OFFER_SENT,
    "Offer received": MappingEvent.OFFER_RECEIVED,
    "accepted here, Accept sent": MappingEvent.ACCEPT_SENT,
    "accepted here, Accept waits for a local connection": MappingEvent.ACCEPT_DEFERRED,
    "Accept received": MappingEvent.ACCEPT_RECEIVED,
    "Ack-Acc received": MappingEvent.ACK_RECEIVED,
    "the last open Offer went to a local connection": MappingEvent.CONNECTED,
    "a plain mapping's flow ended, or its Offer was killed": MappingEvent.FLOW_ENDED,
    "Kill of ours received": MappingEvent.DECLINE_RECEIVED,
    "Kill of ours received, a server with MANY": MappingEvent.LEAVE_RECEIVED,
    "Kill of theirs received": MappingEvent.KILL_RECEIVED,
    "Kill of theirs received, with MANY": MappingEvent.KILL_RECEIVED,
    "contact offline, or restarted": MappingEvent.LOST,
    "contact restarted": MappingEvent.FORGOTTEN,
    "withdrawn, denied or killed here": MappingEvent.WITHDRAWN,
}
FLOW_EVENTS = {
    "its mapping is negotiated: Offer (or, to a plain contact, Accept) sent": FlowEvent.SENT,
    "Accept (or, from a plain contact, Ack-Acc) received": FlowEvent.AGREED,
    "the service is connected: Accept sent": FlowEvent.SERVICE_UP,
    "the service is connected: Ack-Acc sent, the last word": FlowEvent.SERVICE_UP_LAST,
    "Ack-Acc received": FlowEvent.AGREED,
    "Kill, Reset, both ends finished, contact offline or restarted": FlowEvent.ENDED,
}

KB, MB = 1024, 1024 * 1024
BOUNDS = {
    "undecided offers": f"{mapping_table.MAX_PENDING}, those of one name counted once",
    "mappings": f"{mapping_table.MAX_MAPPINGS} of the contact's",
    "flows begun by one side, without the next row's": f"{flow_table.MAX_FLOWS}",
    "UDP flows begun by one side that share a mapping with others": f"{flow_table.MAX_UDP_FLOWS}",
    "unused Offers of one plain TCP server": f"{negotiation.MAX_UNUSED_OFFERS}",
    "connections that wait for one mapping": f"{negotiation.MAX_WAITING}",
    "unread bytes of one flow": f"{lossless.WINDOW // MB} MiB with FLOW, "
    f"else {lossless.PLAIN_UNREAD // MB} MiB",
    "unread bytes of all flows": f"{lossless.MAX_UNREAD // MB} MiB",
    "unsent bytes of one flow": f"{lossless.SEND_BUFFER // KB} KiB; {lossless.SCARCE_BUFFER // KB} KiB "
    f"once all flows together have {lossless.MAX_UNSENT // MB} MiB",
    "datagrams that wait for Tox": f"{lossless.MAX_DATAGRAMS}",
    "datagrams that wait for their flow to open": f"{flow.MAX_EARLY // KB} KiB",
    "answers and other control packets that wait for Tox": f"{lossless.MAX_CONTROL}",
    "the same, where no mapping is accepted": f"{flow_table.MAX_UNHEARD // KB} KiB",
}


def rows_after(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its head."""
    lines = SPEC.split(f"{heading}\n", 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table[2:]


def written(
    heading: str, states: type[StateT], events: Mapping[str, EventT], final: StateT
) -> dict[tuple[StateT, EventT], StateT]:
    """What a table of transitions says; "any" is every state but the final one."""
    named = {state.name.lower(): state for state in states}
    found: dict[tuple[StateT, EventT], StateT] = {}
    for before, event, after in rows_after(heading):
        every = [state for state in states if state is not final]
        for state in every if before.startswith("any") else [named[name] for name in before.split(", ")]:
            assert (state, events[event]) not in found, f"{state} on {event!r} stands twice"
            found[state, events[event]] = named[after]
    return found


def test_states_of_a_mapping_are_those_of_the_program() -> None:
    table = written("### States of a mapping", MappingState, MAPPING_EVENTS, MappingState.ENDED)
    assert table == MAPPING


def test_states_of_a_flow_are_those_of_the_program() -> None:
    table = written("### States of a flow", FlowState, FLOW_EVENTS, FlowState.CLOSED)
    assert table == FLOW


def test_times_of_a_flow_are_those_of_the_program() -> None:
    text = " ".join(SPEC.split("### States of a flow")[1].split("##")[0].split())
    assert f"not answered within {flow_table.Limits().connect_timeout:.0f} s" in text
    assert f"a *waiting* one fails after {negotiation.WAITING_TIMEOUT:.0f} s" in text


def test_bounds_are_those_of_the_program() -> None:
    assert {row[0]: row[1] for row in rows_after("## 10. Bounds and trust")} == BOUNDS
