"""What may happen to a mapping and to a flow, and what comes of it: all state changes go through two tables.

A pair that a table does not list changes nothing where the contact caused it, and is counted; where it is a
step of our own, it raises Misuse. `SPEC.md` has the same tables for readers; a test compares the two.
"""

from enum import IntEnum, StrEnum, auto
from typing import Final

from tunfwd.common.errors import Misuse


class Role(StrEnum):
    """Which end of a mapping this machine is."""

    SERVING = "serving"
    """The service is here; connections come from the contact."""
    USING = "using"
    """The service is the contact's; connections start here, at its virtual address."""


class MappingState(StrEnum):
    """Where a mapping stands. The values are what users see."""

    WAITING = "waiting"
    """Nothing is negotiated: the contact is offline, or between two offers."""
    OFFERED = "offered"
    """Our Offer is out."""
    PENDING = "pending"
    """The contact's Offer is here and undecided."""
    READY = "ready"
    """Decided yes; with a plain peer Accept waits for the first local connection."""
    ACCEPTED = "accepted"
    """Our Accept is out."""
    RUNNING = "running"
    """Ack-Acc went or came."""
    DECLINED = "declined"
    """The contact said no to ours."""
    ENDED = "ended"


class MappingEvent(IntEnum):
    """What happens to a mapping."""

    OFFER_SENT = auto()
    OFFER_RECEIVED = auto()
    ACCEPT_SENT = auto()
    """A person or a rule accepts; Accept goes out."""
    ACCEPT_DEFERRED = auto()
    """The same, where Accept waits for a connection."""
    ACCEPT_RECEIVED = auto()
    ACK_RECEIVED = auto()
    CONNECTED = auto()
    """A plain server's last open offer went to a local connection."""
    FLOW_ENDED = auto()
    """A plain mapping's only flow is over, and with it the msg_id."""
    KILL_RECEIVED = auto()
    """The contact withdraws what it offered."""
    DECLINE_RECEIVED = auto()
    """The contact declines what we offered, or what we asked for, however late."""
    LEAVE_RECEIVED = auto()
    """The contact has no more use for a service of ours that it had accepted, and may have again."""
    LOST = auto()
    """The contact went offline, or restarted."""
    FORGOTTEN = auto()
    """The contact restarted: whatever it decided before, it may be asked again."""
    WITHDRAWN = auto()
    """Killed or denied here."""


M, E = MappingState, MappingEvent
MAPPING: Final[dict[tuple[MappingState, MappingEvent], MappingState]] = {
    (M.WAITING, E.OFFER_SENT): M.OFFERED,
    (M.OFFERED, E.OFFER_SENT): M.OFFERED,
    (M.RUNNING, E.OFFER_SENT): M.OFFERED,  # renewed: the contact forgot, we did not
    (M.DECLINED, E.OFFER_SENT): M.OFFERED,  # the contact has changed its mind
    (M.WAITING, E.OFFER_RECEIVED): M.PENDING,
    (M.PENDING, E.OFFER_RECEIVED): M.PENDING,
    (M.READY, E.OFFER_RECEIVED): M.PENDING,
    (M.ACCEPTED, E.OFFER_RECEIVED): M.PENDING,
    (M.RUNNING, E.OFFER_RECEIVED): M.PENDING,
    (M.PENDING, E.ACCEPT_SENT): M.ACCEPTED,
    (M.PENDING, E.ACCEPT_DEFERRED): M.READY,
    (M.OFFERED, E.ACCEPT_RECEIVED): M.RUNNING,
    (M.ACCEPTED, E.ACK_RECEIVED): M.RUNNING,
    (M.READY, E.CONNECTED): M.RUNNING,
    (M.ACCEPTED, E.FLOW_ENDED): M.WAITING,
    (M.RUNNING, E.FLOW_ENDED): M.WAITING,
    (M.OFFERED, E.DECLINE_RECEIVED): M.DECLINED,
    (M.RUNNING, E.DECLINE_RECEIVED): M.DECLINED,
    (M.RUNNING, E.LEAVE_RECEIVED): M.WAITING,
    (M.PENDING, E.KILL_RECEIVED): M.ENDED,
    (M.READY, E.KILL_RECEIVED): M.WAITING,
    (M.ACCEPTED, E.KILL_RECEIVED): M.ENDED,
    (M.RUNNING, E.KILL_RECEIVED): M.ENDED,
    (M.OFFERED, E.LOST): M.WAITING,
    (M.DECLINED, E.FORGOTTEN): M.WAITING,
    (M.PENDING, E.LOST): M.ENDED,
    (M.READY, E.LOST): M.WAITING,
    (M.ACCEPTED, E.LOST): M.WAITING,
    (M.RUNNING, E.LOST): M.WAITING,
} | {(state, E.WITHDRAWN): M.ENDED for state in M if state is not M.ENDED}


class FlowState(IntEnum):
    """Where a flow stands."""

    WAITING = auto()
    """A local connection waits for its mapping to be negotiated."""
    REQUESTED = auto()
    """A local connection waits for the contact's answer."""
    CONNECTING = auto()
    """The local service is being connected, before we answer."""
    ANSWERED = auto()
    """The local service is connected; Ack-Acc has not come yet."""
    OPEN = auto()
    CLOSED = auto()


class FlowEvent(IntEnum):
    """What happens to a flow."""

    SENT = auto()
    """The connection offer, or with a plain peer the Accept, went out."""
    AGREED = auto()
    """Accept for our connection offer, or Ack-Acc for our Accept, came in."""
    SERVICE_UP = auto()
    SERVICE_UP_LAST = auto()
    """The service is up and our answer to it is the last word of the negotiation."""
    ENDED = auto()


F, G = FlowState, FlowEvent
FLOW: Final[dict[tuple[FlowState, FlowEvent], FlowState]] = {
    (F.WAITING, G.SENT): F.REQUESTED,
    (F.REQUESTED, G.AGREED): F.OPEN,
    (F.CONNECTING, G.SERVICE_UP): F.ANSWERED,
    (F.CONNECTING, G.SERVICE_UP_LAST): F.OPEN,
    (F.ANSWERED, G.AGREED): F.OPEN,
} | {(state, G.ENDED): F.CLOSED for state in F if state is not F.CLOSED}


def next_mapping_state(state: MappingState, event: MappingEvent) -> MappingState:
    """Return what a mapping becomes. Raises `Misuse` where the table has no such step."""
    after = MAPPING.get((state, event))
    if after is None:
        raise Misuse(f"a mapping that is {state.name} has no step {event.name}")
    return after


def next_flow_state(state: FlowState, event: FlowEvent) -> FlowState:
    """Return what a flow becomes. Raises `Misuse` where the table has no such step."""
    after = FLOW.get((state, event))
    if after is None:
        raise Misuse(f"a flow that is {state.name} has no step {event.name}")
    return after
