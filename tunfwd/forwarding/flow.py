"""Mappings and flows as data: what is offered, and each connection over it.

A mapping is one port of one contact, from the first Offer to the last Kill. A flow is one TCP connection, or
one UDP conversation, between an application and a service. `Negotiation` makes, changes and ends both. The
session's owner reads them, and joins each flow to something local: with `read` and `write` for TCP, with
`send_datagram` and the event `DatagramArrived` for UDP.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from typing import Protocol as Interface

from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding.states import (
    MAPPING,
    FlowEvent,
    FlowState,
    MappingEvent,
    MappingState,
    Role,
    next_flow_state,
    next_mapping_state,
)
from tunfwd.forwarding.transport import Channel
from tunfwd.wire.packets import Direction, Protocol

MAX_EARLY: Final = 64 * 1024  # bytes of datagrams that wait for the flow to open; the oldest are dropped
EARLY_COST: Final = 64  # bytes charged for each of them beside its payload


class Origin(Enum):
    """Who offered."""

    LOCAL = "local"
    REMOTE = "remote"


def offer_key(
    direction: Direction, protocol: Protocol, port: int, name: str
) -> tuple[Direction, Protocol, int, str]:
    """Return what two Offers of the same thing have in common: the port, or where that is any, the name."""
    return (direction, protocol, port, "" if port else name)


@dataclass(eq=False, slots=True)
class Mapping:
    """One offered port. `Negotiation` changes it; everybody else reads.

    `msg_id` is that of the latest Offer: a mapping outlives it when the contact comes back, and with
    plain peers each flow uses one up. Counts are in bytes of payload, `tx` towards the contact.
    """

    origin: Origin
    direction: Direction
    protocol: Protocol
    port: int
    name: str
    msg_id: int = 0
    state: MappingState = MappingState.WAITING
    multi_flow: bool = False
    """Whether each flow is a connection offer of its own (feature MANY), or the flow is the mapping's."""
    public_id: int | None = None
    """The msg_id of the Offer that went to the whole group, while it is this mapping's."""
    accepted: bool = False
    """Whether it was accepted: a remote one by us, for good; ours by the contact, in this run of it."""
    late_accept: int = 0
    """The msg_id of the contact's Offer that was declined here and is wanted after all; 0 where none is."""
    flows: "set[Flow]" = field(default_factory=set)
    waiting_flows: "deque[Flow]" = field(default_factory=deque)
    """Those of local connections that wait for an Offer, or for Ack-Acc."""
    unused_offers: deque[int] = field(default_factory=deque)
    """A plain server's Offers that no connection has used yet."""
    idle_flow: "Flow | None" = None
    """The one flow of a plain mapping, open before a local connection uses it, or between two."""
    failures: int = 0
    """How often in a row a plain mapping's flow has come to nothing."""
    rx_bytes: int = 0
    tx_bytes: int = 0
    drops: int = 0

    @property
    def role(self) -> Role:
        """Which end of it is here."""
        ours = self.origin is Origin.LOCAL
        serving = ours if self.direction is Direction.SERVER else not ours
        return Role.SERVING if serving else Role.USING

    @property
    def key(self) -> tuple[Direction, Protocol, int, str]:
        """What makes an Offer the same one as before, under another msg_id."""
        return offer_key(self.direction, self.protocol, self.port, self.name)

    def has_step(self, event: MappingEvent) -> bool:
        """Whether the event means something in this state."""
        return (self.state, event) in MAPPING

    def advance(self, event: MappingEvent) -> None:
        """Change state. Raises `Misuse` where the event means nothing in this state."""
        self.state = next_mapping_state(self.state, event)

    def abandon(self) -> None:
        """Wait if it stands, else end, whatever state a mistake of ours has left it in."""
        self.flows.clear()
        self.waiting_flows.clear()
        self.unused_offers.clear()
        self.idle_flow = self.public_id = None
        if self.origin is Origin.REMOTE and not self.accepted:
            self.state = MappingState.ENDED
        elif self.state is not MappingState.DECLINED:
            self.state = MappingState.WAITING


class FlowOwner(Interface):
    """What a flow asks of the table that it belongs to."""

    def service_up(self, flow: "Flow", now: float) -> None:
        """The flow's service is connected."""

    def service_failed(self, flow: "Flow", reason: Reason, now: float) -> None:
        """The flow's service could not be connected."""

    def send_datagram(self, flow: "Flow", payload: bytes, now: float) -> bool:
        """Send a datagram of an open flow; False where it is too large to be carried."""

    def rest_briefly(self, flow: "Flow") -> None:
        """End a flow of datagrams soon, unless it is answered."""

    def reset_flow(self, flow: "Flow", reason: Reason, *, tell_owner: bool = False) -> None:
        """End a flow at once, and tell the contact."""

    def flow_readable(self, flow: "Flow") -> None:
        """There is something to read on an open flow."""

    def flow_writable(self, flow: "Flow") -> None:
        """There is room to write on a flow."""

    def flow_done(self, flow: "Flow") -> None:
        """Both directions have ended in order."""

    def flow_reset(self, flow: "Flow", reason: Reason) -> None:
        """The contact has reset the flow's stream."""


class FlowEnd(Interface):
    """The local end of a flow: what it is told of the contact's doings, by the session's owner."""

    def flow_opened(self) -> None:
        """The contact's side is up: data may flow."""

    def flow_failed(self, reason: Reason) -> None:
        """The contact's service could not be connected."""

    def flow_readable(self) -> None:
        """There is something to read, or the end of it."""

    def flow_writable(self) -> None:
        """There is room again after a short write."""

    def flow_datagram(self, payload: bytes) -> None:
        """A datagram came."""

    def flow_ended(self, reason: Reason | None) -> None:
        """The flow is over, in order if `reason` is None."""


class Flow:
    """One connection over a mapping. Its channel tells it what happens; it tells its owner."""

    __slots__ = (
        "_at_end",
        "_early",
        "_early_bytes",
        "_finish_early",
        "_owner",
        "channel",
        "counts_as_udp",
        "end",
        "mapping",
        "msg_id",
        "rx_bytes",
        "since",
        "state",
        "tx_bytes",
    )

    def __init__(self, owner: FlowOwner, mapping: Mapping, msg_id: int, state: FlowState) -> None:
        self._owner = owner
        self.mapping = mapping
        self.msg_id = msg_id
        self.state = state
        self.counts_as_udp = mapping.multi_flow and mapping.protocol is Protocol.UDP
        """Whether it is one of several UDP flows of its mapping; the negotiation's."""
        self.since = 0.0
        """When it began."""
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.channel: Channel | None = None
        self.end: FlowEnd | None = None
        """What it is joined to here: the session's owner sets it, and is given it back with each event."""
        self._at_end = False  # of a channel that is gone
        self._finish_early = False
        self._early: deque[bytes] = deque()
        self._early_bytes = 0

    @property
    def protocol(self) -> Protocol:
        """TCP or UDP."""
        return self.mapping.protocol

    @property
    def role(self) -> Role:
        """Which end of it is here."""
        return self.mapping.role

    @property
    def is_open(self) -> bool:
        """Whether data may go out."""
        return self.state is FlowState.OPEN

    def advance(self, event: FlowEvent) -> None:
        """Change state. Raises `Misuse` where the event means nothing in this state."""
        self.state = next_flow_state(self.state, event)

    def require(self, state: FlowState) -> None:
        """Raise `Misuse` unless this is the state."""
        if self.state is not state:
            raise Misuse(f"a flow that is {self.state.name} is not {state.name}")

    # -- the service's answer, which `ServiceWanted` asks for --------------------------------------------

    def service_up(self, now: float) -> None:
        """Tell the contact that the service is connected."""
        self._owner.service_up(self, now)

    def service_failed(self, reason: Reason, now: float) -> None:
        """Tell the contact that the service could not be connected, and why."""
        self._owner.service_failed(self, reason, now)

    # -- TCP ---------------------------------------------------------------------------------------------

    @property
    def space(self) -> int:
        """Bytes that `write` takes now; 0 before the flow is open."""
        return self.channel.space if self.channel is not None and self.is_open else 0

    @property
    def at_end(self) -> bool:
        """Whether the contact has ended its direction and all of it was read."""
        return self.channel.at_end if self.channel is not None else self._at_end

    def write(self, data: bytes | memoryview) -> int:
        """Send towards the contact; return how many bytes were taken."""
        if self.channel is None or not self.is_open:
            return 0
        taken = self.channel.write(data)
        self.tx_bytes += taken
        self.mapping.tx_bytes += taken
        return taken

    def read(self, limit: int) -> bytes:
        """Return bytes from the contact, up to `limit`; b"" for none. Nothing is read before it is open."""
        if self.channel is None or not self.is_open:
            return b""
        data = self.channel.read(limit)
        self.rx_bytes += len(data)
        self.mapping.rx_bytes += len(data)
        return data

    def finish(self, now: float) -> None:
        """End our direction after what was written. Before the flow is open it is remembered."""
        if not self.is_open:
            self._finish_early = True
        elif self.channel is not None:
            self.channel.finish(now)

    def reset(self, reason: Reason = Reason.ABORTED) -> None:
        """End it here and there at once."""
        self._owner.reset_flow(self, reason)

    # -- UDP ---------------------------------------------------------------------------------------------

    def send_datagram(self, payload: bytes, now: float) -> bool:
        """Send a datagram, or keep it until the flow is open; False where it is too large to be carried."""
        if self.is_open:
            return self._owner.send_datagram(self, payload, now)
        if self.state is FlowState.CLOSED:
            return False
        self._early.append(payload)
        self._early_bytes += len(payload) + EARLY_COST
        while self._early_bytes > MAX_EARLY:
            self._early_bytes -= len(self._early.popleft()) + EARLY_COST
            self.mapping.drops += 1
        return True

    def rest_briefly(self) -> None:
        """Give it up soon unless it is answered: it is one of many that ask the same."""
        self._owner.rest_briefly(self)

    # -- both: the table's calls -------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Do what was asked for before the flow was open."""
        while self._early:
            self._owner.send_datagram(self, self._early.popleft(), now)
        self._early_bytes = 0
        if self._finish_early:
            self.finish(now)

    def release(self, reason: Reason | None) -> None:
        """Drop the data of a flow that is over, and its channel, which refers to the flow."""
        self._early.clear()
        self._early_bytes = 0
        if self.channel is not None:
            self._at_end = self.channel.at_end
            self.channel.drop(Reason.ABORTED if reason is None else reason)
            self.channel = None

    def abandon(self) -> None:
        """End it whatever state a mistake of ours has left it in, and trust nothing of its channel."""
        self.state = FlowState.CLOSED
        self.channel = None

    # -- what the channel says (transport.Sink) ----------------------------------------------------------

    def channel_readable(self) -> None:
        """Pass it on, once the flow is open."""
        if self.is_open:
            self._owner.flow_readable(self)

    def channel_writable(self) -> None:
        """Pass it on."""
        self._owner.flow_writable(self)

    def channel_done(self) -> None:
        """Pass on that both directions have ended in order."""
        self._owner.flow_done(self)

    def channel_reset(self, reason: Reason) -> None:
        """Pass on that the contact has reset the stream."""
        self._owner.flow_reset(self, reason)

    def channel_broken(self, reason: Reason) -> None:
        """Reset the flow: the contact went past its credit."""
        self._owner.reset_flow(self, reason, tell_owner=True)
