"""A flow: one TCP connection, or one UDP conversation, between an application and a service.

The owner splices it to something local: `read` and `write` for TCP, `send_datagram` and `DatagramArrived`
for UDP. The negotiation opens it, feeds it and takes it away.
"""

from collections import deque
from typing import TYPE_CHECKING

from tunfwd.forwarding.states import FLOW, FlowEvent, FlowState, Role
from tunfwd.forwarding.transport import Channel
from tunfwd.wire.packets import Protocol, Reason

if TYPE_CHECKING:
    from tunfwd.forwarding.mapping import Mapping
    from tunfwd.forwarding.negotiation import Negotiation

MAX_EARLY = 64 * 1024  # bytes of datagrams that wait for the flow to open; the oldest are dropped
EARLY_COST = 64  # bytes that one is taken to need beside its payload


class Flow:
    """One connection over a mapping. Its channel tells it what happens; it tells the negotiation."""

    __slots__ = (
        "_at_end",
        "_early",
        "_early_bytes",
        "_finish_early",
        "_owner",
        "channel",
        "counts_as_udp",
        "mapping",
        "msg_id",
        "state",
    )

    def __init__(self, owner: "Negotiation", mapping: "Mapping", msg_id: int, state: FlowState) -> None:
        self._owner = owner
        self.mapping = mapping
        self.msg_id = msg_id
        self.state = state
        self.counts_as_udp = mapping.many and mapping.protocol is Protocol.UDP
        """Whether it is one of many UDP flows of its mapping; the negotiation's."""
        self.channel: Channel | None = None
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

    def handle(self, event: FlowEvent) -> bool:
        """Change state by the table; False where the table has nothing for it."""
        state = FLOW.get((self.state, event))
        if state is None:
            return False
        self.state = state
        return True

    # TCP.

    @property
    def space(self) -> int:
        """Bytes that `write` takes now; 0 before the flow is open."""
        return self.channel.space if self.channel is not None and self.is_open else 0

    @property
    def at_end(self) -> bool:
        """Whether the contact has ended its direction and all of it was read."""
        return self.channel.at_end if self.channel is not None else self._at_end

    def write(self, data: bytes | memoryview) -> int:
        """Send towards the contact; returns how much was taken."""
        if self.channel is None or not self.is_open:
            return 0
        taken = self.channel.write(data)
        self.mapping.tx_bytes += taken
        return taken

    def read(self, limit: int) -> bytes:
        """Return bytes from the contact, up to `limit`; b"" for none. Nothing is read before it is open."""
        if self.channel is None or not self.is_open:
            return b""
        data = self.channel.read(limit)
        self.mapping.rx_bytes += len(data)
        return data

    def finish(self, now: float) -> None:
        """Half-close: no more from here. Before the flow is open it is remembered."""
        if not self.is_open:
            self._finish_early = True
        elif self.channel is not None:
            self.channel.finish()
            self._owner.flow_finished(self, now)

    def reset(self, reason: Reason = Reason.ABORTED) -> None:
        """End it here and there at once."""
        self._owner.reset_flow(self, reason)

    # UDP.

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

    # Both.

    def opened(self, now: float) -> None:
        """Do what was asked for before the flow was open."""
        while self._early:
            self._owner.send_datagram(self, self._early.popleft(), now)
        self._early_bytes = 0
        if self._finish_early:
            self.finish(now)

    def release(self, reason: Reason | None) -> None:
        """The flow is over: let go of its data, and of its channel, which refers to the flow."""
        self._early.clear()
        self._early_bytes = 0
        if self.channel is not None:
            self._at_end = self.channel.at_end
            self.channel.drop(Reason.ABORTED if reason is None else reason)
            self.channel = None

    # What the channel says (transport.Sink).

    def channel_readable(self) -> None:
        """Pass it on, once the flow is open."""
        if self.is_open:
            self._owner.flow_readable(self)

    def channel_writable(self) -> None:
        """Pass it on."""
        self._owner.flow_writable(self)

    def channel_done(self) -> None:
        """Both directions ended in order."""
        self._owner.flow_done(self)

    def channel_reset(self, reason: Reason) -> None:
        """The contact has reset the stream."""
        self._owner.flow_reset(self, reason)

    def channel_broken(self, reason: Reason) -> None:
        """The contact went past its credit."""
        self._owner.reset_flow(self, reason, tell_owner=True)
