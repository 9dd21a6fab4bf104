"""All flows of one contact: how many there may be, what each is told, and how each ends. Sans-IO.

`negotiation` decides when a flow begins, and over which mapping. From there on it is here: `new`, `bind`,
`want_service` or `ask`, `open`, its datagrams and the packets about its stream, `drop`.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.common.timers import Timers
from tunfwd.common.values import Reason
from tunfwd.forwarding.clock import Clock
from tunfwd.forwarding.events import (
    DatagramArrived,
    Event,
    Failed,
    FlowEnded,
    Opened,
    Readable,
    ServiceWanted,
    Writable,
)
from tunfwd.forwarding.flow import Flow, Mapping, Origin
from tunfwd.forwarding.handshake import Handshake
from tunfwd.forwarding.states import FlowEvent, FlowState, Role
from tunfwd.forwarding.transport import Transport
from tunfwd.forwarding.udp_flows import DEFAULT_IDLE, UdpFlows
from tunfwd.wire.packets import Accept, AckAcc, Credit, Data, Feature, Fin, Kill, Lossless, Protocol, Reset

MAX_FLOWS = 4096  # of one contact, each way, but for those of UDP that run over one mapping:
MAX_UDP_FLOWS = 2048  # of one contact, each way; the least recently used gives way
REFUSALS: Final = (1024, 0.005)  # answers to what makes no sense, or is too much, and s for each further one
MAX_UNHEARD: Final = 4096
"""Bytes of control packets that a contact may leave waiting and be answered still, before it is trusted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times from the configuration, in seconds."""

    connect_timeout: float = 60.0
    """How long a local connection waits for the contact's answer, and our answer for its confirmation."""
    udp_idle: float = DEFAULT_IDLE
    """Without a datagram for so long, a UDP flow ends that has carried both ways."""


class FlowTable:
    """The flows of one contact, which call it as their owner."""

    __slots__ = (
        "_clock",
        "_counters",
        "_counts",
        "_events",
        "_flows",
        "_handshake",
        "_ids",
        "_is_trusted",
        "_limits",
        "_on_ended",
        "_refusals",
        "_timers",
        "_transport",
        "_udp",
    )

    def __init__(
        self,
        clock: Clock,
        handshake: Handshake,
        transport: Transport,
        events: deque[Event],
        counters: Counter[str],
        limits: Limits,
        *,
        ids: dict[int, Mapping | Flow],
        timers: Timers[Mapping | Flow],
        is_trusted: Callable[[], bool],
        on_ended: Callable[[Mapping, bool], None],
    ) -> None:
        """`ids` and `timers` are shared with the mappings.

        `on_ended` is told of the mapping whose flow has ended, and whether that was a failure.
        """
        self._clock = clock
        self._handshake = handshake
        self._transport = transport
        self._events = events
        self._counters = counters
        self._limits = limits
        self._ids = ids
        self._timers = timers
        self._is_trusted = is_trusted
        self._on_ended = on_ended
        self._flows: set[Flow] = set()
        # Shares, by who begins a flow: neither side keeps out the other, nor UDP TCP.
        self._counts: Counter[Role] = Counter()
        self._udp = self._no_udp_flows()
        self._refusals = Budget(*REFUSALS)

    def _no_udp_flows(self) -> dict[Role, UdpFlows]:
        return {role: UdpFlows(role, self._limits.udp_idle, MAX_UDP_FLOWS) for role in Role}

    def __len__(self) -> int:
        return len(self._flows)

    # -- the beginning -----------------------------------------------------------------------------------

    def new(self, mapping: Mapping, state: FlowState) -> Flow:
        """Return a new flow; there must be room for it."""
        flow = Flow(self, mapping, 0, state)
        flow.since = self._clock.now
        self._flows.add(flow)
        mapping.flows.add(flow)
        if flow.counts_as_udp:
            self._udp[flow.role].add(flow, self._clock.now)
        else:
            self._counts[flow.role] += 1
        return flow

    def make_room(self, mapping: Mapping) -> bool:
        """Return whether the mapping may have one more flow. Among those of UDP an old one ends for it."""
        if not (mapping.multi_flow and mapping.protocol is Protocol.UDP):
            return self._counts[mapping.role] < MAX_FLOWS
        flows = self._udp[mapping.role]
        if (oldest := flows.first_to_go(self._clock.now)) is not None:
            self._counters["udp_flow_displaced"] += flows.is_full
            if oldest.is_open:
                self._end_idle(oldest)
            else:
                self.reset_flow(oldest, Reason.ABORTED, tell_owner=True)
        return True

    def bind(self, flow: Flow, msg_id: int) -> bool:
        """Give a flow its msg_id, and with TCP its stream.

        False where the contact has used up the stream of that id, as it can between an offer and its
        acceptance: the flow is over, and the contact told.
        """
        flow.msg_id = msg_id
        self._ids[msg_id] = flow
        if flow.protocol is Protocol.TCP:
            flow.channel = self._transport.open_channel(msg_id, flow)
            if flow.channel is None:
                self._counters["stream_used_up"] += 1
                self._decline(msg_id, Reason.ABORTED)
                self.drop(flow, Reason.REFUSED)
                return False
        return True

    def ask(self, flow: Flow, packet: Lossless) -> None:
        """Send what asks the contact for a flow, and wait for its answer."""
        self._transport.send(packet)
        flow.advance(FlowEvent.SENT)
        self._timers.set(flow, self._clock.now + self._limits.connect_timeout)

    def want_service(self, mapping: Mapping, msg_id: int) -> None:
        """Begin a flow that the contact asks for: have its service connected."""
        flow = self.new(mapping, FlowState.CONNECTING)
        if self.bind(flow, msg_id):
            self._events.append(ServiceWanted(flow))

    def service_up(self, flow: Flow, now: float) -> None:
        """Give the contact the answer that waited for the service."""
        self._clock.now = now
        if flow.state is FlowState.CLOSED:
            return  # the contact ended it meanwhile, as an event says
        if flow.mapping.origin is Origin.LOCAL and not flow.mapping.multi_flow:
            flow.advance(FlowEvent.SERVICE_UP_LAST)
            if flow.protocol is Protocol.TCP:
                self._transport.send(AckAcc(flow.msg_id))
            self.tell_open(flow)
        else:
            flow.advance(FlowEvent.SERVICE_UP)
            self._timers.set(flow, now + self._limits.connect_timeout)
            self._transport.send(Accept(flow.msg_id))

    def service_failed(self, flow: Flow, reason: Reason, now: float) -> None:
        """Refuse the contact the flow whose service could not be connected."""
        self._clock.now = now
        if flow.state is FlowState.CLOSED:
            return
        flow.require(FlowState.CONNECTING)
        self._decline(flow.msg_id, reason)
        self.drop(flow, reason, tell_owner=False)

    def open(self, flow: Flow) -> None:
        """Open a flow, by the contact's answer."""
        flow.advance(FlowEvent.AGREED)
        self.tell_open(flow)

    def tell_open(self, flow: Flow) -> None:
        """Tell the owner that a flow is open."""
        self._timers.cancel(flow)
        if flow.counts_as_udp:
            self._timers.set(flow, self._clock.now + self._udp[flow.role].idle)
        flow.mapping.failures = 0
        self._events.append(Opened(flow))
        if flow.channel is not None:
            self._events.append(Readable(flow))
        flow.opened(self._clock.now)

    def decline(self, msg_id: int, reason: Reason) -> Lossless:
        """Return what ends a flow that is not open."""
        return Reset(msg_id, reason) if Feature.FLOW in self._handshake.features else Kill(msg_id)

    def _decline(self, msg_id: int, reason: Reason) -> None:
        self._transport.send(self.decline(msg_id, reason))

    def refuse(self, answer: Lossless) -> None:
        """Answer what makes no sense or is too much, unless the contact lives on answers, or hears none."""
        if self._transport.control_waiting > MAX_UNHEARD and not self._is_trusted():
            self._counters["refusal_unheard"] += 1
        elif self._refusals.spend(self._clock.now):
            self._transport.send(answer)
        else:
            self._counters["refusal_over_rate"] += 1

    # -- packets about flows -----------------------------------------------------------------------------

    def on_data(self, data: Data) -> None:
        """Take in a piece of stream."""
        flow = self._ids.get(data.msg_id)
        if not isinstance(flow, Flow):
            self._counters["data_unknown"] += 1
        elif flow.channel is None or not flow.channel.receive(data, self._clock.now):
            self._counters["data_unexpected"] += 1

    def on_datagram(self, data: Data) -> None:
        """Take in a datagram. It may have overtaken the Accept or Ack-Acc that was sent before it."""
        flow = self._ids.get(data.msg_id)
        if not isinstance(flow, Flow):
            self._counters["data_unknown"] += 1
        elif flow.protocol is not Protocol.UDP:
            self._counters["data_unexpected"] += 1
        else:
            self._keep_alive(flow, self._clock.now, sent=False)
            flow.rx_bytes += len(data.payload)
            flow.mapping.rx_bytes += len(data.payload)
            self._events.append(DatagramArrived(flow, data.payload))

    def on_flow_control(self, flow: Flow, packet: Fin | Reset | Credit) -> None:
        """Take in a packet of the feature FLOW."""
        if isinstance(packet, Reset):
            self.drop(flow, packet.reason)
        elif flow.channel is None or not flow.channel.receive(packet, self._clock.now):
            self._counters["flow_control_unexpected"] += 1

    def on_kill(self, flow: Flow, kill: Kill) -> None:
        """Take in a Kill: of an open flow, or in place of the answer."""
        if flow.state is not FlowState.OPEN:
            self.drop(flow, Reason.REFUSED)
        elif flow.protocol is Protocol.UDP:
            self.drop(flow, None)
        elif flow.channel is None or not flow.channel.receive(kill, self._clock.now):
            self.drop(flow, Reason.ABORTED)

    # -- what a flow asks for (flow.FlowOwner) -----------------------------------------------------------

    def send_datagram(self, flow: Flow, payload: bytes, now: float) -> bool:
        """Send a datagram of an open flow; False where it is too large to be carried."""
        if not self._transport.send_datagram(flow.msg_id, payload):
            flow.mapping.drops += 1
            return False
        self._keep_alive(flow, now, sent=True)
        flow.tx_bytes += len(payload)
        flow.mapping.tx_bytes += len(payload)
        return True

    def _keep_alive(self, flow: Flow, now: float, *, sent: bool) -> None:
        """Put off the idle end of UDP. A plain mapping is its flow, and ends only when somebody kills it."""
        if flow.counts_as_udp:
            idle = self._udp[flow.role].used(flow, now, sent=sent)
            if flow.is_open:
                self._timers.set(flow, now + idle)

    def rest_briefly(self, flow: Flow) -> None:
        """End a flow of datagrams soon, unless it is answered."""
        if flow.counts_as_udp:
            self._udp[flow.role].rest_briefly(flow)

    def flow_readable(self, flow: Flow) -> None:
        """Tell the owner. Of an idle flow nobody is there yet to read."""
        if flow.mapping.idle_flow is not flow:
            self._events.append(Readable(flow))

    def flow_writable(self, flow: Flow) -> None:
        """Tell the owner."""
        self._events.append(Writable(flow))

    def flow_reset(self, flow: Flow, reason: Reason) -> None:
        """End a flow whose stream the contact has reset."""
        self.drop(flow, reason)

    def flow_done(self, flow: Flow) -> None:
        """End a flow in order."""
        self.drop(flow, None)

    def reset_flow(self, flow: Flow, reason: Reason, *, tell_owner: bool = False) -> None:
        """End a flow at once, and tell the contact."""
        if flow.state in (FlowState.CLOSED, FlowState.WAITING):
            pass
        elif flow.channel is None or flow.state is FlowState.CONNECTING:
            self._decline(flow.msg_id, reason)
        else:
            flow.channel.reset(reason)
        self.drop(flow, reason, tell_owner=tell_owner)

    # -- the end -----------------------------------------------------------------------------------------

    def expire(self, flow: Flow) -> None:
        """Do what the timer of a flow is for."""
        if flow.is_open:
            self._end_idle(flow)
        else:
            waiting = flow.state is FlowState.WAITING
            self.reset_flow(flow, Reason.REFUSED if waiting else Reason.TIMED_OUT, tell_owner=True)

    def _end_idle(self, flow: Flow) -> None:
        """End an open UDP flow, in order."""
        self._transport.send(Kill(flow.msg_id))
        self.drop(flow, None)

    def drop(self, flow: Flow, reason: Reason | None, *, tell_owner: bool = True, renew: bool = True) -> None:
        """Forget a flow; `renew` its mapping, if it was the flow of a plain one."""
        before, mapping = flow.state, flow.mapping
        if before is FlowState.CLOSED:
            return  # its channel's end comes back here
        flow.advance(FlowEvent.ENDED)
        if self._ids.get(flow.msg_id) is flow:
            del self._ids[flow.msg_id]
        self._flows.discard(flow)
        if flow.counts_as_udp:
            self._udp[flow.role].discard(flow)
        else:
            self._counts[flow.role] -= 1
        self._timers.cancel(flow)
        mapping.flows.discard(flow)
        if flow in mapping.waiting_flows:
            mapping.waiting_flows.remove(flow)
        flow.release(reason)
        was_idle = mapping.idle_flow is flow
        if was_idle:
            mapping.idle_flow = None
        elif tell_owner and before in (FlowState.WAITING, FlowState.REQUESTED):
            self._events.append(Failed(flow, Reason.REFUSED if reason is None else reason))
        elif tell_owner:
            self._events.append(FlowEnded(flow, reason))
        if renew and not mapping.multi_flow and len(mapping.flows) == len(mapping.waiting_flows):
            self._on_ended(mapping, was_idle or reason is not None)

    def drop_all(self) -> list[int]:
        """End all that do not wait. Return their msg_ids: the contact may still believe in them."""
        ended = []
        for flow in list(self._flows):
            if flow.state is not FlowState.WAITING:
                ended.append(flow.msg_id)
                self.drop(flow, Reason.LOST, renew=False)
        return ended

    def abandon(self) -> list[Flow]:
        """Forget and return all, whatever state a mistake of ours has left them in; none ends in order."""
        flows = list(self._flows)
        for flow in flows:
            flow.abandon()
        self._flows.clear()
        self._counts.clear()
        self._udp = self._no_udp_flows()
        return flows
