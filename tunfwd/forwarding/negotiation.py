"""Offers, mappings and flows of one contact: who offered what, what was accepted, what runs. Sans-IO.

Stands between `session`, which decodes packets and knows when the contact is there, and `transport`, which
carries what this says. In the order of a mapping's life: `offer` or an Offer that arrives; `accept` or `end`;
`connect` here or a connection offer from there; `service_up` or `service_failed`; the flow's own reads and
writes; the end.

Every (state, packet) pair has an outcome: those of `states.MAPPING` and `states.FLOW`, and for the rest a
count and no effect. Only an Accept or Ack-Acc for a msg_id that we do not know is answered, with Kill, so
that the contact stops waiting.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from tunfwd.common.budget import Budget
from tunfwd.common.errors import Misuse
from tunfwd.common.timers import Timers
from tunfwd.common.values import Random, Reason
from tunfwd.forwarding.events import (
    DatagramArrived,
    Event,
    Failed,
    FlowEnded,
    MappingChanged,
    OfferArrived,
    Opened,
    Readable,
    ServiceWanted,
    Writable,
)
from tunfwd.forwarding.flow import Flow, Mapping, Origin, offer_key
from tunfwd.forwarding.lossless import LosslessChannel
from tunfwd.forwarding.states import FlowEvent, FlowState, MappingEvent, MappingState, Role
from tunfwd.forwarding.transport import Transport
from tunfwd.forwarding.udp_flows import UdpFlows
from tunfwd.wire.packets import (
    MAX_NAME,
    MAX_PORT,
    Accept,
    AckAcc,
    Credit,
    Data,
    Direction,
    Feature,
    Fin,
    Kill,
    Lossless,
    Offer,
    Protocol,
    Reset,
    is_name,
)

MAX_PENDING = 64  # undecided offers of one contact, those of one name as one: more than a person reads
MAX_MAPPINGS = 1024  # of one contact, and as many of ours
MAX_FLOWS = 4096  # of one contact, each way, but for those of UDP that run over one mapping:
MAX_UDP_FLOWS = 2048  # of one contact, each way; the least recently used gives way
MAX_WAITING = 256  # local connections waiting for one mapping
MAX_UNUSED_OFFERS = 64  # a plain server's offers of one service that no connection has used
WAITING_TIMEOUT = 5.0  # s; a plain peer's next offer takes one round trip, a contact's return a few
ASK_AGAIN = 3.0  # s from a decision until offers without room are asked for; longer than HELLO_INTERVAL
MAX_UNHEARD = (
    4096  # bytes of control packets a contact leaves waiting and is answered still, before it is trusted
)
LINGER = 2.0  # s; see Negotiation.flow_finished
OFFERS = MAX_MAPPINGS, 0.005  # Offers of mappings at once (a contact restarts), and s for each further one
REFUSALS = 1024, 0.005  # answers to what makes no sense, or is too much, and s for each further one
RETRY = 1.0, 60.0  # s; first and longest wait before a plain mapping that came to nothing is offered again


@dataclass(frozen=True, slots=True)
class Limits:
    """Times from the configuration, in seconds."""

    connect_timeout: float = 60.0
    """How long a local connection waits for the contact's answer, and our answer for its confirmation."""
    udp_idle: float = 120.0
    """Without a datagram for so long, a UDP flow ends."""


class Negotiation:
    """All mappings and flows with one contact."""

    def __init__(
        self,
        transport: Transport,
        events: deque[Event],
        counters: Counter[str],
        *,
        send: Callable[[Lossless], None],
        random: Random,
        limits: Limits,
    ) -> None:
        self.mappings: list[Mapping] = []
        self.features = Feature(0)
        self.is_online = False
        self.timers: Timers[Mapping | Flow] = Timers()
        self.transport = transport
        self._events = events
        self._counters = counters
        self._send = send
        self._random = random
        self._limits = limits
        self.unseen = 0
        """Offers of the contact that there was no room for, since it last was asked for all."""
        self.ask_again_at: float | None = None
        """When to ask for them: there is room."""
        self._now = 0.0
        self._ids: dict[int, Mapping | Flow] = {}
        self._flows: set[Flow] = set()
        # Shares, by who begins a flow: neither side keeps out the other, nor UDP TCP.
        self._counts: Counter[Role] = Counter()
        self._udp = {role: UdpFlows(role, limits.udp_idle) for role in Role}
        self._lingering: set[Flow] = set()
        self._offers = Budget(*OFFERS)
        self._refusals = Budget(*REFUSALS)

    # Mappings: what the owner does.

    def offer(
        self,
        protocol: Protocol,
        port: int,
        name: str,
        now: float,
        *,
        direction: Direction = Direction.SERVER,
        public_id: int | None = None,
    ) -> Mapping:
        """Offer a port of ours, or with direction CONNECTION ask for one of the contact's.

        It stands until `end`, and is offered again whenever the contact comes back. `public_id` is the
        msg_id of an Offer that goes to the whole group at once, by the owner. Raises `Misuse` where the
        same port stands already.
        """
        self._now = now
        if not 0 <= port <= MAX_PORT:
            raise Misuse(f"{port} is no port")
        if not is_name(name):
            raise Misuse(f"a name is at most {MAX_NAME} bytes of UTF-8")
        for mapping in self.mappings:
            same = (mapping.origin, mapping.direction, mapping.protocol, mapping.port)
            if same == (Origin.LOCAL, direction, protocol, port):
                raise Misuse(f"{port}/{protocol.name.lower()} stands already; kill it first")
        mapping = self._add(Mapping(Origin.LOCAL, direction, protocol, port, name))
        if self.is_online and public_id is not None and public_id not in self._ids:
            mapping.msg_id = mapping.public_id = public_id
            self._ids[public_id] = mapping
            self._move(mapping, MappingEvent.OFFER_SENT)
        elif self.is_online:
            self._offer(mapping)
        return mapping

    def offer_all(self, *, again: bool = False, renew: bool = False) -> None:
        """Offer what is ours and waits; `again` what is offered already; to `renew`, what carries flows."""
        for mapping in self.mappings:
            due = (
                mapping.state is MappingState.WAITING
                or (again and mapping.state is MappingState.OFFERED)
                or (renew and mapping.state is MappingState.RUNNING and mapping.multi_flow)
            )
            if due and mapping.origin is Origin.LOCAL:
                self._offer(mapping)

    def _offer(self, mapping: Mapping) -> None:
        if self._ids.get(mapping.msg_id) is mapping:
            del self._ids[mapping.msg_id]
        mapping.public_id = None
        mapping.msg_id = self._new_id()
        self._ids[mapping.msg_id] = mapping
        self._move(mapping, MappingEvent.OFFER_SENT)
        name = mapping.name
        if mapping.direction is Direction.CONNECTION and not name:
            name = f"{mapping.port}/{mapping.protocol.name.lower()}"  # a nameless one would be a single flow
        self._send(Offer(mapping.msg_id, mapping.protocol, mapping.direction, mapping.port, name))

    def restore_acceptance(self, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping:
        """Remember an acceptance from before: when the contact offers this again, it is taken at once."""
        key = offer_key(direction, protocol, port, name)
        if any(mapping.origin is Origin.REMOTE and mapping.key == key for mapping in self.mappings):
            raise Misuse(f"{port}/{protocol.name.lower()} is accepted already")
        mapping = self._add(Mapping(Origin.REMOTE, direction, protocol, port, name))
        mapping.accepted = True
        return mapping

    def accept(self, mapping: Mapping, now: float) -> None:
        """Accept an offer of the contact's. Raises `Misuse` where there is none to accept."""
        self._now = now
        if mapping.state is not MappingState.PENDING:
            raise Misuse(f"nothing to accept: it is {mapping.state.value}")
        mapping.accepted = True
        mapping.multi_flow = self._lasts(mapping)
        if not mapping.multi_flow and mapping.role is Role.SERVING:
            self._move(mapping, MappingEvent.ACCEPT_SENT)
            self._want_service(mapping, mapping.msg_id)
        elif mapping.multi_flow or mapping.protocol is Protocol.UDP:
            self._move(mapping, MappingEvent.ACCEPT_SENT)
            self._send(Accept(mapping.msg_id))
        else:
            mapping.unused_offers.append(mapping.msg_id)
            self._move(mapping, MappingEvent.ACCEPT_DEFERRED)
            self._start_held(mapping)

    def end(self, mapping: Mapping, now: float) -> None:
        """Withdraw, deny or kill, with all its flows. A public Offer's own Kill is the owner's to send."""
        self._now = now
        for flow in list(mapping.flows):
            self.reset_flow(flow, Reason.ABORTED, tell_owner=True)
        for msg_id in self._ids_of(mapping):
            if msg_id != mapping.public_id:
                self._send(Kill(msg_id))
        self._move(mapping, MappingEvent.WITHDRAWN)

    def reset_all(self, *, restarted: bool) -> list[int]:
        """Everything under way is gone. Returns the flows' msg_ids: the contact may still believe in them."""
        lost = []
        for flow in list(self._flows):
            if flow.state is not FlowState.WAITING:
                lost.append(flow.msg_id)
                self._drop(flow, Reason.LOST, renew=False)
        self._ids.clear()
        for mapping in list(self.mappings):
            mapping.unused_offers.clear()
            self.timers.cancel(mapping)
            self._move(mapping, MappingEvent.LOST)
            if restarted:
                mapping.accepted = mapping.accepted and mapping.origin is Origin.REMOTE
                self._move(mapping, MappingEvent.FORGOTTEN)
        return lost

    def abandon(self) -> list[Flow]:
        """Forget all that is under way, whatever state a mistake of ours has left it in; returns the flows.

        Nothing of it is asked to end in order. What stands is waiting; the owner ends the flows' other ends.
        """
        flows = list(self._flows)
        for flow in flows:
            flow.state = FlowState.CLOSED
            flow.channel = None
        self._flows.clear()
        self._counts.clear()
        self._udp = {role: UdpFlows(role, self._limits.udp_idle) for role in Role}
        self._lingering.clear()
        self._ids.clear()
        self.timers = Timers()
        mappings, self.mappings = self.mappings, []
        for mapping in mappings:
            mapping.flows.clear()
            mapping.waiting_flows.clear()
            mapping.unused_offers.clear()
            mapping.idle_flow = mapping.public_id = None
            before = mapping.state
            if mapping.origin is Origin.REMOTE and not mapping.accepted:
                mapping.state = MappingState.ENDED
            else:
                self.mappings.append(mapping)
                if before is not MappingState.DECLINED:
                    mapping.state = MappingState.WAITING
            if mapping.state is not before:
                self._events.append(MappingChanged(mapping))
        return flows

    def fail_waiting(self) -> None:
        """The contact does not come back: no local connection waits for it."""
        for mapping in self.mappings:
            for flow in list(mapping.waiting_flows):
                self._drop(flow, Reason.LOST)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        for owner in self.timers.expire(now):
            if isinstance(owner, Mapping):
                if self.is_online and owner.state is MappingState.WAITING:
                    self._offer(owner)
            elif owner.state is FlowState.OPEN:
                if isinstance(owner.channel, LosslessChannel):  # half-closed, and the contact is quiet
                    if owner.channel.all_sent:
                        owner.channel.close()
                    else:
                        self.timers.set(owner, now + LINGER)
                else:  # an idle UDP flow
                    self._end_idle(owner)
            else:
                held = owner.state is FlowState.WAITING
                self.reset_flow(owner, Reason.REFUSED if held else Reason.TIMED_OUT, tell_owner=True)

    def _lasts(self, mapping: Mapping) -> bool:
        """Whether the mapping carries many flows, each an offer of its own, or is itself the one flow."""
        wanted = Feature.MANY if mapping.direction is Direction.SERVER else Feature.MANY | Feature.FLOW
        return wanted in self.features

    @property
    def accepted_as_plain(self) -> bool:
        """Whether something was agreed on as with a plain contact, before this one said that it is not."""
        agreed = (MappingState.READY, MappingState.ACCEPTED, MappingState.RUNNING)
        return any(m.state in agreed and not m.multi_flow and self._lasts(m) for m in self.mappings)

    # Mappings: what the contact does.

    def on_offer(self, offer: Offer, now: float) -> None:
        """Take an Offer."""
        self._now = now
        known = self._ids.get(offer.msg_id)
        if known is not None or self.transport.was_used(offer.msg_id):
            self._counters["offer_id_in_use"] += 1
            self._refuse(Kill(offer.msg_id))
            if isinstance(known, Mapping) and known.state is MappingState.OFFERED:
                self._offer(known)  # both sides chose this id at once: theirs is refused, ours moves away
        elif self._is_flow(offer):
            mapping = self._serving(offer)
            if mapping is not None and self._make_room(mapping):
                self._want_service(mapping, offer.msg_id)
            else:  # too many, or its mapping was ended here while the Offer was on its way
                self._counters["flow_over_limit" if mapping else "flow_unserved"] += 1
                self._refuse(self._declined(offer.msg_id, Reason.REFUSED))
        elif not self._offers.spend(now):
            self._counters["offer_over_rate"] += 1
            self._refuse(Kill(offer.msg_id))
        elif (found := self._place(offer)) is not None:
            undecided = found.state is MappingState.PENDING
            found.msg_id = offer.msg_id
            self._ids[offer.msg_id] = found
            self._move(found, MappingEvent.OFFER_RECEIVED)
            if found.accepted:
                self.accept(found, now)
            elif not undecided:
                self._events.append(OfferArrived(found))
        else:
            self._counters["offer_over_limit"] += 1
            if self.features and self._is_full_of_undecided(offer.name):
                self.unseen += 1  # left unanswered: it is asked for again when there is room
            else:
                self._refuse(Kill(offer.msg_id))

    def _is_flow(self, offer: Offer) -> bool:
        """Whether a connection offer is one flow of a mapping. Else it is a request, to be decided on."""
        if offer.direction is not Direction.CONNECTION or Feature.MANY not in self.features:
            return False
        return not offer.name if Feature.FLOW in self.features else self._serving(offer) is not None

    def _serving(self, offer: Offer) -> Mapping | None:
        """Return the running mapping that a connection offer belongs to."""
        for mapping in self.mappings:
            if (
                mapping.role is Role.SERVING
                and mapping.multi_flow
                and mapping.accepted
                and mapping.state in (MappingState.RUNNING, MappingState.OFFERED)  # OFFERED: being renewed
                and (mapping.protocol, mapping.port) == (offer.protocol, offer.port)
            ):
                return mapping
        return None

    def _place(self, offer: Offer) -> Mapping | None:
        """Return the mapping that an Offer renews, or a new one; None where there are too many."""
        key = offer_key(offer.direction, offer.protocol, offer.port, offer.name)
        remote = 0
        for mapping in self.mappings:
            if mapping.port == offer.port and mapping.key == key and mapping.origin is Origin.REMOTE:
                undecided = mapping.state is MappingState.PENDING and not mapping.accepted
                if undecided and offer.name != mapping.name and self._is_full_of_undecided(offer.name):
                    return None  # under its own name it has room
                return self._renamed(mapping, offer.name) if self._make_way(mapping) else None
            remote += mapping.origin is Origin.REMOTE
        if remote >= MAX_MAPPINGS or self._is_full_of_undecided(offer.name):
            return None
        return self._add(Mapping(Origin.REMOTE, offer.direction, offer.protocol, offer.port, offer.name))

    def _is_full_of_undecided(self, name: str) -> bool:
        """Whether an offer of that name is more than a person reads; ports of one name are read as one."""
        undecided = [mapping.name for mapping in self.mappings if mapping.state is MappingState.PENDING]
        names = set(undecided) - {""}
        return name not in names and len(names) + undecided.count("") >= MAX_PENDING

    def _renamed(self, mapping: Mapping, name: str) -> Mapping:
        """Call a mapping as its latest Offer does, unless it was accepted under the name that it has."""
        if not mapping.accepted:
            mapping.name = name
        return mapping

    def _make_way(self, mapping: Mapping) -> bool:
        """Let go of what a newer Offer of the same puts out of date; False where one more is too many."""
        if mapping.msg_id not in mapping.unused_offers and self._ids.get(mapping.msg_id) is mapping:
            del self._ids[mapping.msg_id]
        if self._lasts(mapping):
            return True
        if mapping.role is Role.SERVING:
            return self._make_room(mapping)
        if mapping.protocol is Protocol.UDP:
            for flow in mapping.flows - set(mapping.waiting_flows):
                self.reset_flow(flow, Reason.LOST, tell_owner=True)
        return len(mapping.unused_offers) < MAX_UNUSED_OFFERS

    def on_accept(self, msg_id: int, now: float) -> None:
        """Take an Accept."""
        self._now = now
        match self._ids.get(msg_id):
            case Mapping(state=MappingState.OFFERED) as mapping:
                mapping.accepted = True
                mapping.multi_flow = self._lasts(mapping)
                self._move(mapping, MappingEvent.ACCEPT_RECEIVED)
                if not mapping.multi_flow and mapping.role is Role.SERVING:
                    self._want_service(mapping, msg_id)
                    if mapping.protocol is Protocol.UDP:
                        self._send(AckAcc(msg_id))
                else:
                    self._send(AckAcc(msg_id))
                    self._run(mapping)
            case Flow(state=FlowState.REQUESTED) as flow if flow.mapping.multi_flow:
                self._send(AckAcc(msg_id))
                self._open(flow)
            case None:
                self._counters["accept_unknown"] += 1
                self._refuse(Kill(msg_id))
            case _:
                self._counters["accept_unexpected"] += 1

    def on_ack(self, msg_id: int, now: float) -> None:
        """Take an Ack-Acc."""
        self._now = now
        match self._ids.get(msg_id):
            case Mapping(state=MappingState.ACCEPTED) as mapping:
                self._move(mapping, MappingEvent.ACK_RECEIVED)
                self._run(mapping)
            case Flow(state=FlowState.ANSWERED) as flow:
                if not flow.mapping.multi_flow:
                    self._move(flow.mapping, MappingEvent.ACK_RECEIVED)
                self._open(flow)
            case Flow(state=FlowState.REQUESTED) as flow if not flow.mapping.multi_flow:
                self._open(flow)
            case None:
                self._counters["ack_unknown"] += 1
                self._refuse(Kill(msg_id))
            case _:
                self._counters["ack_unexpected"] += 1

    def on_kill(self, msg_id: int, now: float) -> None:
        """Take a Deny/Kill."""
        self._now = now
        match self._ids.get(msg_id):
            case Mapping() as mapping:
                self._on_mapping_kill(mapping, msg_id)
            case Flow(state=FlowState.OPEN, channel=LosslessChannel() as channel) as flow:
                if channel.flow_control:
                    self._drop(flow, Reason.ABORTED)
                else:  # v0.1's end of a connection, in order
                    self._lingering.discard(flow)
                    self.timers.cancel(flow)
                    channel.killed()
            case Flow(state=FlowState.OPEN) as flow:
                self._drop(flow, None if flow.protocol is Protocol.UDP else Reason.ABORTED)
            case Flow() as flow:
                self._drop(flow, Reason.REFUSED)
            case None:
                self._counters["kill_unknown"] += 1

    def _on_mapping_kill(self, mapping: Mapping, msg_id: int) -> None:
        del self._ids[msg_id]
        if msg_id in mapping.unused_offers:
            mapping.unused_offers.remove(msg_id)
            if mapping.unused_offers:
                return
        for flow in list(mapping.flows) if mapping.multi_flow else ():
            self.reset_flow(flow, Reason.ABORTED, tell_owner=True)
        if mapping.origin is Origin.LOCAL:
            mapping.accepted = False
            self._move(mapping, MappingEvent.DECLINE_RECEIVED)
        elif mapping.multi_flow or not self._move(mapping, MappingEvent.FLOW_ENDED):
            self._move(mapping, MappingEvent.KILL_RECEIVED)

    # Flows from here: a local connection arrives.

    def connect(self, mapping: Mapping, now: float) -> Flow | None:
        """Start a flow to the contact's service; None where the contact is offline or there are too many.

        `Opened` or `Failed` follows. The one flow of a plain UDP mapping is shared by all who connect.
        """
        self._now = now
        if not self.is_online or mapping.role is not Role.USING or mapping.state is MappingState.ENDED:
            return None
        if not mapping.multi_flow and mapping.protocol is Protocol.UDP and mapping.flows:
            return next(iter(mapping.flows))
        if parked := mapping.idle_flow:
            mapping.idle_flow = None
            self._tell_open(parked)
            return parked
        if len(mapping.waiting_flows) >= MAX_WAITING or not self._make_room(mapping):
            self._counters["flow_over_limit"] += 1
            return None
        flow = self._new_flow(mapping, FlowState.WAITING)
        if mapping.state is MappingState.DECLINED:  # no offer will come that is worth waiting for
            self._drop(flow, Reason.REFUSED)
        elif not self._start(flow):
            mapping.waiting_flows.append(flow)
            self.timers.set(flow, now + WAITING_TIMEOUT)
        return flow

    def _run(self, mapping: Mapping) -> None:
        """The mapping is confirmed: let the local connections that waited have it."""
        if mapping.multi_flow:
            self._start_held(mapping)
            return
        # Plain: the mapping is one flow, open from now on. Whoever connects next has it.
        held = mapping.waiting_flows.popleft() if mapping.waiting_flows else None
        flow = held or self._new_flow(mapping, FlowState.WAITING)
        if not self._bind(flow, mapping.msg_id):
            return
        flow.handle(FlowEvent.SENT)
        if held is None and mapping.protocol is Protocol.TCP:
            mapping.idle_flow = flow
            flow.handle(FlowEvent.AGREED)
        else:
            self._open(flow)

    def _start_held(self, mapping: Mapping) -> None:
        while mapping.waiting_flows:
            flow = mapping.waiting_flows.popleft()
            if not self._start(flow):
                mapping.waiting_flows.appendleft(flow)
                return

    def _start(self, flow: Flow) -> bool:
        """Ask the contact for this flow; False where its mapping has not been negotiated that far."""
        mapping = flow.mapping
        if mapping.multi_flow and mapping.state is MappingState.RUNNING:
            if not self._bind(flow, self._new_id()):
                return True
            self._send(Offer(flow.msg_id, mapping.protocol, Direction.CONNECTION, mapping.port, ""))
        elif mapping.unused_offers and not mapping.multi_flow:
            msg_id = mapping.unused_offers.popleft()
            if not mapping.unused_offers:
                self._move(mapping, MappingEvent.CONNECTED)
            if not self._bind(flow, msg_id):
                return True
            self._send(Accept(msg_id))
        else:
            return False
        flow.handle(FlowEvent.SENT)
        self.timers.set(flow, self._now + self._limits.connect_timeout)
        return True

    # Flows from there: the service is wanted.

    def _want_service(self, mapping: Mapping, msg_id: int) -> None:
        flow = self._new_flow(mapping, FlowState.CONNECTING)
        if self._bind(flow, msg_id):
            self._events.append(ServiceWanted(flow))

    def service_up(self, flow: Flow, now: float) -> None:
        """The service is connected: give the contact the answer that waited for it."""
        self._now = now
        if flow.state is not FlowState.CONNECTING:
            return
        if flow.mapping.origin is Origin.LOCAL and not flow.mapping.multi_flow:
            flow.handle(FlowEvent.SERVICE_UP_LAST)
            if flow.protocol is Protocol.TCP:
                self._send(AckAcc(flow.msg_id))
            self._tell_open(flow)
        else:
            flow.handle(FlowEvent.SERVICE_UP)
            self.timers.set(flow, now + self._limits.connect_timeout)
            self._send(Accept(flow.msg_id))

    def service_failed(self, flow: Flow, reason: Reason, now: float) -> None:
        """The service could not be connected."""
        self._now = now
        if flow.state is FlowState.CONNECTING:
            self._decline(flow.msg_id, reason)
            self._drop(flow, reason, tell_owner=False)

    def _decline(self, msg_id: int, reason: Reason) -> None:
        self._send(self._declined(msg_id, reason))

    def _declined(self, msg_id: int, reason: Reason) -> Lossless:
        return Reset(msg_id, reason) if Feature.FLOW in self.features else Kill(msg_id)

    def _refuse(self, answer: Lossless) -> None:
        """Answer what makes no sense or is too much, unless the contact lives on answers, or hears none."""
        if self.transport.control_waiting > MAX_UNHEARD and not self.is_trusted():
            self._counters["refusal_unheard"] += 1
        elif self._refusals.spend(self._now):
            self._send(answer)
        else:
            self._counters["refusal_over_rate"] += 1

    # Data.

    def on_data(self, data: Data, now: float) -> None:
        """Take a piece of stream."""
        self._now = now
        flow = self._ids.get(data.msg_id)
        if not isinstance(flow, Flow):
            self._counters["data_unknown"] += 1
        elif not isinstance(flow.channel, LosslessChannel):
            self._counters["data_unexpected"] += 1
        else:
            if flow in self._lingering:
                self.timers.set(flow, now + LINGER)
            flow.channel.received(data.payload)

    def on_datagram(self, data: Data, now: float) -> None:
        """Take a datagram. It may have overtaken the Accept or Ack-Acc that the contact sent before it."""
        self._now = now
        flow = self._ids.get(data.msg_id)
        if not isinstance(flow, Flow):
            self._counters["data_unknown"] += 1
        elif flow.protocol is not Protocol.UDP:
            self._counters["data_unexpected"] += 1
        else:
            self._keep_alive(flow, now, sent=False)
            flow.mapping.rx_bytes += len(data.payload)
            self._events.append(DatagramArrived(flow, data.payload))

    def is_trusted(self) -> bool:
        """Whether a mapping was accepted, by either side."""
        return any(mapping.accepted for mapping in self.mappings)

    def is_flow(self, msg_id: int) -> bool:
        """Whether there is a flow of that id, whose datagrams are wanted."""
        return isinstance(self._ids.get(msg_id), Flow)

    def send_datagram(self, flow: Flow, payload: bytes, now: float) -> bool:
        """Send a datagram of an open flow; False where it is too large to be carried."""
        if not self.transport.send_datagram(flow.msg_id, payload):
            flow.mapping.drops += 1
            return False
        self._keep_alive(flow, now, sent=True)
        flow.mapping.tx_bytes += len(payload)
        return True

    def _keep_alive(self, flow: Flow, now: float, *, sent: bool) -> None:
        """Put off the idle end of UDP. A plain mapping is its flow, and ends only when somebody kills it."""
        if flow.counts_as_udp:
            idle = self._udp[flow.role].used(flow, now, sent=sent)
            if flow.is_open:
                self.timers.set(flow, now + idle)

    def on_flow_control(self, packet: Fin | Reset | Credit, now: float) -> None:
        """Take a packet of the feature FLOW."""
        self._now = now
        flow = self._ids.get(packet.msg_id)
        if flow is None:
            self._counters["flow_control_unknown"] += 1
            return
        match packet, flow:
            case Reset(), Mapping():  # given up while undecided: perhaps sent before our Hello was read there
                self._on_mapping_kill(flow, packet.msg_id)
            case Reset(reason=reason), Flow():
                self._drop(flow, reason)
            case Fin(), Flow(channel=LosslessChannel(flow_control=True) as channel):
                channel.ended()
            case Credit(limit=limit), Flow(channel=LosslessChannel(flow_control=True) as channel):
                channel.credit(limit)
            case _:
                self._counters["flow_control_unexpected"] += 1

    def flow_readable(self, flow: Flow) -> None:
        """There is something to read on an open flow. A parked one has nobody yet to read it."""
        if flow.mapping.idle_flow is not flow:
            self._events.append(Readable(flow))

    def flow_writable(self, flow: Flow) -> None:
        """There is room to write on a flow."""
        self._events.append(Writable(flow))

    # The beginning and the end of a flow.

    def _new_flow(self, mapping: Mapping, state: FlowState) -> Flow:
        flow = Flow(self, mapping, 0, state)
        self._flows.add(flow)
        mapping.flows.add(flow)
        if flow.counts_as_udp:
            self._udp[flow.role].add(flow, self._now)
        else:
            self._counts[flow.role] += 1
        return flow

    def _make_room(self, mapping: Mapping) -> bool:
        """Whether the mapping may have one more flow. Among those of UDP an old one ends for it."""
        if not (mapping.multi_flow and mapping.protocol is Protocol.UDP):
            return self._counts[mapping.role] < MAX_FLOWS
        flows = self._udp[mapping.role]
        if len(flows) >= MAX_UDP_FLOWS and (oldest := flows.first_to_go()) is not None:
            self._counters["udp_flow_displaced"] += 1
            if oldest.is_open:
                self._end_idle(oldest)
            else:
                self.reset_flow(oldest, Reason.ABORTED, tell_owner=True)
        return True

    def _end_idle(self, flow: Flow) -> None:
        """End an open UDP flow, in order."""
        self._send(Kill(flow.msg_id))
        self._drop(flow, None)

    def _bind(self, flow: Flow, msg_id: int) -> bool:
        """Give a flow its msg_id, and with TCP its stream.

        False where the contact has used up the stream of that id, as it can between an offer and its
        acceptance: the flow is over, and the contact told.
        """
        flow.msg_id = msg_id
        self._ids[msg_id] = flow
        if flow.protocol is Protocol.TCP:
            flow.channel = self.transport.open_channel(msg_id, flow)
            if flow.channel is None:
                self._counters["stream_used_up"] += 1
                self._decline(msg_id, Reason.ABORTED)
                self._drop(flow, Reason.REFUSED)
                return False
        return True

    def _open(self, flow: Flow) -> None:
        flow.handle(FlowEvent.AGREED)
        self._tell_open(flow)

    def _tell_open(self, flow: Flow) -> None:
        self.timers.cancel(flow)
        if flow.counts_as_udp:
            self.timers.set(flow, self._now + self._udp[flow.role].idle)
        flow.mapping.failures = 0
        self._events.append(Opened(flow))
        if flow.channel is not None:
            self._events.append(Readable(flow))
        flow.opened(self._now)

    def flow_finished(self, flow: Flow, now: float) -> None:
        """Our side has half-closed.

        v0.1 cannot say so: a Kill ends both directions, and at once it would cost the reply, while none at
        all would leave the service hanging. So the Kill waits until the contact has been quiet for `LINGER`.
        """
        if isinstance(flow.channel, LosslessChannel) and not flow.channel.flow_control:
            self._lingering.add(flow)
            self.timers.set(flow, now + LINGER)

    def flow_reset(self, flow: Flow, reason: Reason) -> None:
        """The contact has reset the flow's stream."""
        self._drop(flow, reason)

    def flow_done(self, flow: Flow) -> None:
        """Both directions have ended in order."""
        self._drop(flow, None)

    def reset_flow(self, flow: Flow, reason: Reason, *, tell_owner: bool = False) -> None:
        """End a flow at once, and say so to the contact."""
        if flow.state in (FlowState.CLOSED, FlowState.WAITING):
            pass
        elif flow.channel is None or flow.state is FlowState.CONNECTING:
            self._decline(flow.msg_id, reason)
        else:
            flow.channel.reset(reason)
        self._drop(flow, reason, tell_owner=tell_owner)

    def _drop(
        self, flow: Flow, reason: Reason | None, *, tell_owner: bool = True, renew: bool = True
    ) -> None:
        waiting = flow.state in (FlowState.WAITING, FlowState.REQUESTED)
        if not flow.handle(FlowEvent.ENDED):
            return
        mapping = flow.mapping
        if self._ids.get(flow.msg_id) is flow:
            del self._ids[flow.msg_id]
        self._flows.discard(flow)
        if flow.counts_as_udp:
            self._udp[flow.role].discard(flow)
        else:
            self._counts[flow.role] -= 1
        self._lingering.discard(flow)
        self.timers.cancel(flow)
        mapping.flows.discard(flow)
        if flow in mapping.waiting_flows:
            mapping.waiting_flows.remove(flow)
        flow.release(reason)
        parked = mapping.idle_flow is flow
        if parked:
            mapping.idle_flow = None
        elif tell_owner and waiting:
            self._events.append(Failed(flow, Reason.REFUSED if reason is None else reason))
        elif tell_owner:
            self._events.append(FlowEnded(flow, reason))
        if renew and not mapping.multi_flow and len(mapping.flows) == len(mapping.waiting_flows):
            self._renew(mapping, failed=parked or reason is not None)

    def _renew(self, mapping: Mapping, *, failed: bool) -> None:
        """A plain mapping's flow is over: offer the same again, the later the more often it failed."""
        if self._move(mapping, MappingEvent.FLOW_ENDED) and mapping.origin is Origin.LOCAL:
            first, longest = RETRY
            delay = min(first * 2.0 ** min(mapping.failures, 10), longest) if failed else 0.0
            mapping.failures += failed
            self.timers.set(mapping, self._now + delay)

    # Small things.

    def _add(self, mapping: Mapping) -> Mapping:
        if sum(other.origin is mapping.origin for other in self.mappings) >= MAX_MAPPINGS:
            raise Misuse("too many mappings with this contact")
        mapping.msg_id = self._new_id()  # until it is offered: an id for people to name it by
        self.mappings.append(mapping)
        return mapping

    def _move(self, mapping: Mapping, event: MappingEvent) -> bool:
        before = mapping.state
        if not mapping.handle(event):
            return False
        if mapping.state is MappingState.ENDED:
            self.mappings.remove(mapping)
            self.timers.cancel(mapping)
            for msg_id in self._ids_of(mapping):
                del self._ids[msg_id]
        if before is MappingState.PENDING and mapping.state is not before and self.unseen:
            self.ask_again_at = self.ask_again_at or self._now + ASK_AGAIN
        if mapping.state is not before:
            self._events.append(MappingChanged(mapping))
        if mapping.state in (MappingState.ENDED, MappingState.DECLINED):
            for flow in list(mapping.waiting_flows):
                self._drop(flow, Reason.REFUSED)
            if not self.is_trusted():
                self.transport.trust_lost()
        return True

    def _ids_of(self, mapping: Mapping) -> list[int]:
        return [i for i in {mapping.msg_id, *mapping.unused_offers} if self._ids.get(i) is mapping]

    def _new_id(self) -> int:
        while True:
            msg_id = self._random.getrandbits(32)
            if msg_id and msg_id not in self._ids and not self.transport.was_used(msg_id):
                return msg_id
