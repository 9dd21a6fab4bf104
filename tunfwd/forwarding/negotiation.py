"""Offers of one contact and what becomes of them: who offered what, what was accepted, what runs. Sans-IO.

Stands between `session`, which decodes packets, and a `Transport`, which carries what this says. In the order
of a mapping's life: `offer` or an Offer that arrives; `accept` or `end`; `connect` here or a connection offer
from there; the flow's own life (`flow_table`); the end.

Every (state, packet) pair has an outcome: those of `states.MAPPING` and `states.FLOW`, and for the rest a
count and no effect. Only an Accept or Ack-Acc for a msg_id that we do not know is answered, with Kill, so
that the contact stops waiting. A step of our own that the tables do not list raises Misuse: it is a bug.
"""

from collections import Counter, deque
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.common.errors import Misuse
from tunfwd.common.timers import Timers
from tunfwd.common.values import Random, Reason
from tunfwd.forwarding.clock import Clock
from tunfwd.forwarding.events import Event, OfferArrived
from tunfwd.forwarding.flow import Flow, Mapping, Origin
from tunfwd.forwarding.flow_table import FlowTable, Limits
from tunfwd.forwarding.handshake import Handshake
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS, MappingTable
from tunfwd.forwarding.states import FlowEvent, FlowState, MappingEvent, MappingState, Role
from tunfwd.forwarding.transport import Transport
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
    Offer,
    Protocol,
    Reset,
    is_name,
)

MAX_WAITING: Final = 256  # local connections waiting for one mapping
MAX_UNUSED_OFFERS: Final = 64  # a plain server's offers of one service that no connection has used
OFFER_AGAIN: Final = 1.0  # s from a contact's leaving what it had accepted until it is offered again
WAITING_TIMEOUT: Final = 5.0  # s; a plain peer's next offer takes one round trip, a contact's return a few
OFFERS: Final = (MAX_MAPPINGS, 0.005)  # Offers at once (a contact restarts), and s for each further one
RETRY: Final[tuple[float, ...]] = (1.0, 60.0)
"""s; first and longest wait before a plain mapping that failed is offered again."""

Negotiated = Offer | Accept | AckAcc | Kill | Data | Fin | Reset | Credit
"""The packets that are about mappings and flows."""


class Negotiation:
    """All mappings with one contact, and through them its flows."""

    def __init__(
        self,
        clock: Clock,
        handshake: Handshake,
        transport: Transport,
        events: deque[Event],
        counters: Counter[str],
        random: Random,
        limits: Limits,
    ) -> None:
        self._clock = clock
        self._handshake = handshake
        self._transport = transport
        self._events = events
        self._counters = counters
        self._ids: dict[int, Mapping | Flow] = {}
        self._timers: Timers[Mapping | Flow] = Timers()
        self._offers = Budget(*OFFERS)
        self._flows = FlowTable(
            clock,
            handshake,
            transport,
            events,
            counters,
            limits,
            ids=self._ids,
            timers=self._timers,
            is_trusted=self.is_trusted,
            on_ended=self._renew,
        )
        self._mappings = MappingTable(clock, transport, events, random, self._flows, self._ids, self._timers)

    @property
    def mappings(self) -> list[Mapping]:
        """All mappings, in the order they were made. To be read, not changed."""
        return self._mappings.all

    @property
    def unseen(self) -> int:
        """Offers of the contact that there was no room for."""
        return self._mappings.unseen

    @property
    def timers(self) -> int:
        """How many timers are held."""
        return len(self._timers)

    # -- mappings: what the owner does -------------------------------------------------------------------

    def offer(
        self, protocol: Protocol, port: int, name: str, direction: Direction, public_id: int | None
    ) -> Mapping:
        """Make an offer of ours; see `Session.offer`."""
        if not 0 <= port <= MAX_PORT:
            raise Misuse(f"{port} is not a valid port")
        if not is_name(name):
            raise Misuse(f"a name is at most {MAX_NAME} bytes of UTF-8")
        if self._mappings.ours(direction, protocol, port) is not None:
            raise Misuse(f"{port}/{protocol.name.lower()} is already offered; kill it first")
        mapping = self._mappings.add(Origin.LOCAL, direction, protocol, port, name)
        if self._handshake.is_online and public_id is not None and public_id not in self._ids:
            mapping.msg_id = mapping.public_id = public_id
            self._ids[public_id] = mapping
            self._mappings.move(mapping, MappingEvent.OFFER_SENT)
        elif self._handshake.is_online:
            self._offer(mapping)
        return mapping

    def offered(self, protocol: Protocol, port: int, direction: Direction) -> Mapping | None:
        """Return what stands of ours under these."""
        return self._mappings.ours(direction, protocol, port)

    def offer_all(self, *, again: bool = False, renew: bool = False) -> None:
        """Offer what is ours and waits; `again` what is offered already; to `renew`, what carries flows."""
        for mapping in self._mappings.all:
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
        mapping.msg_id = self._mappings.new_id()
        self._ids[mapping.msg_id] = mapping
        self._mappings.move(mapping, MappingEvent.OFFER_SENT)
        name = mapping.name
        if mapping.direction is Direction.CONNECTION and not name:
            name = f"{mapping.port}/{mapping.protocol.name.lower()}"  # a nameless one would be a single flow
        self._transport.send(Offer(mapping.msg_id, mapping.protocol, mapping.direction, mapping.port, name))

    def restore_acceptance(self, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping:
        """Remember an acceptance from before; see `Session.restore_acceptance`."""
        if self._mappings.theirs(direction, protocol, port, name) is not None:
            raise Misuse(f"{port}/{protocol.name.lower()} is already accepted")
        mapping = self._mappings.add(Origin.REMOTE, direction, protocol, port, name)
        mapping.accepted = True
        return mapping

    def accept(self, mapping: Mapping) -> None:
        """Accept an offer of the contact's. Raises `Misuse` where there is none to accept."""
        if mapping.state is not MappingState.PENDING:
            raise Misuse(f"nothing to accept: it is {mapping.state.value}")
        mapping.accepted = True
        mapping.late_accept = 0
        mapping.multi_flow = self._is_multi_flow(mapping)
        if not mapping.multi_flow and mapping.role is Role.SERVING:
            self._mappings.move(mapping, MappingEvent.ACCEPT_SENT)
            self._flows.want_service(mapping, mapping.msg_id)
        elif mapping.multi_flow or mapping.protocol is Protocol.UDP:
            self._mappings.move(mapping, MappingEvent.ACCEPT_SENT)
            self._transport.send(Accept(mapping.msg_id))
        else:
            mapping.unused_offers.append(mapping.msg_id)
            self._mappings.move(mapping, MappingEvent.ACCEPT_DEFERRED)
            self._start_waiting(mapping)

    def offer_anew(self, mapping: Mapping, name: str) -> None:
        """Call a service of ours by another name from now on; connections go on."""
        self._mappings.rename(mapping, name)
        running = mapping.state is MappingState.RUNNING and mapping.multi_flow
        if running or mapping.state is MappingState.OFFERED:
            self._offer(mapping)

    def accept_late(self, mapping: Mapping, msg_id: int) -> None:
        """Want what was declined, after all: the contact offers it again when it hears so."""
        mapping.late_accept = msg_id
        if self._handshake.is_online:
            self._accept_late(mapping)

    def accept_all_late(self) -> None:
        """Say again what is wanted after all: the contact may not have been there."""
        for mapping in self._mappings.all:
            self._accept_late(mapping)

    def _accept_late(self, mapping: Mapping) -> None:
        if mapping.late_accept and mapping.state is MappingState.WAITING:
            self._transport.send(Accept(mapping.late_accept))

    def end_flows(self, mapping: Mapping) -> None:
        """Reset all connections over a mapping, which stands."""
        for flow in list(mapping.flows):
            self._flows.reset_flow(flow, Reason.ABORTED, tell_owner=True)

    def end(self, mapping: Mapping) -> None:
        """Withdraw, deny or kill, with all flows. A public Offer's own Kill is the owner's to send."""
        if mapping.state is MappingState.ENDED:
            return  # the contact ended it meanwhile, as an event says
        self.end_flows(mapping)
        for msg_id in self._mappings.ids_of(mapping):
            if msg_id != mapping.public_id:
                self._transport.send(Kill(msg_id))
        self._mappings.move(mapping, MappingEvent.WITHDRAWN)

    # -- what becomes of all of them ---------------------------------------------------------------------

    def offline(self) -> None:
        """Forget what was to be asked for: the contact repeats it when it comes back."""
        self._mappings.forget_unseen()

    def reset_all(self, *, restarted: bool) -> list[int]:
        """Drop all that is under way. Return the flows' msg_ids: the contact may still believe in them."""
        ended = self._flows.drop_all()
        self._ids.clear()
        self._mappings.reset(restarted=restarted)
        return ended

    def abandon(self) -> list[Flow]:
        """Forget all that is under way, whatever state a mistake of ours has left it in; return the flows.

        Nothing of it is asked to end in order. What stands is waiting; the owner ends the flows' other ends.
        """
        flows = self._flows.abandon()
        self._ids.clear()
        self._timers.clear()
        self._mappings.abandon()
        return flows

    def fail_waiting(self) -> None:
        """End the local connections that wait: the contact does not come back."""
        for mapping in self._mappings.all:
            for flow in list(mapping.waiting_flows):
                self._flows.drop(flow, Reason.LOST)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due, or None."""
        due, again = self._timers.next(), self._mappings.ask_again_at
        if due is None or again is None:
            return again if due is None else due
        return min(due, again)

    def handle_timeout(self) -> bool:
        """Do what is due. Return whether the contact is to be asked for its offers once more."""
        for owner in self._timers.expire(self._clock.now):
            if isinstance(owner, Flow):
                self._flows.expire(owner)
            elif self._handshake.is_online and owner.state is MappingState.WAITING:
                self._offer(owner)
        return self._mappings.asks_again() and self._handshake.is_online

    def _is_multi_flow(self, mapping: Mapping) -> bool:
        """Whether the mapping carries many flows, each an offer of its own, or is itself the one flow."""
        wanted = Feature.MANY if mapping.direction is Direction.SERVER else Feature.MANY | Feature.FLOW
        return wanted in self._handshake.features

    @property
    def has_accepted_as_plain(self) -> bool:
        """Whether something was agreed on as with a plain contact, before this one said that it is not."""
        agreed = (MappingState.READY, MappingState.ACCEPTED, MappingState.RUNNING)
        return any(
            m.state in agreed and not m.multi_flow and self._is_multi_flow(m) for m in self._mappings.all
        )

    def is_trusted(self) -> bool:
        """Whether a mapping was accepted, by either side."""
        return self._mappings.is_trusted()

    def is_flow(self, msg_id: int) -> bool:
        """Whether there is a flow of that id, whose datagrams are wanted."""
        return isinstance(self._ids.get(msg_id), Flow)

    # -- what the contact does ---------------------------------------------------------------------------

    def receive(self, packet: Negotiated) -> None:
        """Take in a packet about mappings and flows."""
        match packet:
            case Data():
                self._flows.on_data(packet)
            case Offer():
                self._on_offer(packet)
            case Accept():
                self._on_accept(packet.msg_id)
            case AckAcc():
                self._on_ack(packet.msg_id)
            case Kill():
                self._on_kill(packet)
            case Fin() | Reset() | Credit():
                self._on_flow_control(packet)

    def receive_datagram(self, data: Data) -> None:
        """Take in a datagram of a flow."""
        self._flows.on_datagram(data)

    def _on_offer(self, offer: Offer) -> None:
        known = self._ids.get(offer.msg_id)
        if known is not None or self._transport.was_used(offer.msg_id):
            self._counters["offer_id_in_use"] += 1
            self._flows.refuse(Kill(offer.msg_id))
            if isinstance(known, Mapping) and known.state is MappingState.OFFERED:
                self._offer(known)  # both sides chose this id at once: theirs is refused, ours moves away
        elif self._is_flow(offer):
            mapping = self._mappings.serving(offer)
            if mapping is not None and self._flows.make_room(mapping):
                self._flows.want_service(mapping, offer.msg_id)
            else:  # too many, or its mapping was ended here while the Offer was on its way
                self._counters["flow_over_limit" if mapping else "flow_unserved"] += 1
                self._flows.refuse(self._flows.decline(offer.msg_id, Reason.REFUSED))
        elif not self._offers.spend(self._clock.now):
            self._counters["offer_over_rate"] += 1
            self._flows.refuse(Kill(offer.msg_id))
        elif (found := self._place(offer)) is not None:
            self._take_in(found, offer)
        else:
            self._counters["offer_over_limit"] += 1
            if self._handshake.features and self._mappings.is_full_of_undecided(offer.name):
                self._mappings.unseen += 1  # left unanswered: it is asked for again when there is room
            else:
                self._flows.refuse(Kill(offer.msg_id))

    def _take_in(self, mapping: Mapping, offer: Offer) -> None:
        undecided = mapping.state is MappingState.PENDING
        mapping.msg_id = offer.msg_id
        self._ids[offer.msg_id] = mapping
        self._mappings.move(mapping, MappingEvent.OFFER_RECEIVED)
        if mapping.accepted:
            self.accept(mapping)
        elif not undecided:
            self._events.append(OfferArrived(mapping))

    def _is_flow(self, offer: Offer) -> bool:
        """Whether a connection offer is one flow of a mapping. Else it is a request, to be decided on."""
        if offer.direction is not Direction.CONNECTION or Feature.MANY not in self._handshake.features:
            return False
        return (
            not offer.name
            if Feature.FLOW in self._handshake.features
            else self._mappings.serving(offer) is not None
        )

    def _place(self, offer: Offer) -> Mapping | None:
        """Return the mapping that an Offer renews, or a new one; None where there are too many."""
        what = offer.direction, offer.protocol, offer.port, offer.name
        mapping = self._mappings.theirs(*what)
        if mapping is None:
            return self._mappings.add(Origin.REMOTE, *what) if self._mappings.has_room(offer.name) else None
        undecided = mapping.state is MappingState.PENDING and not mapping.accepted
        if undecided and offer.name != mapping.name and self._mappings.is_full_of_undecided(offer.name):
            return None  # under its own name it has room
        return self._renamed(mapping, offer.name) if self._make_way(mapping) else None

    def _renamed(self, mapping: Mapping, name: str) -> Mapping:
        """Call a mapping as its latest Offer does, unless it was accepted under the name that it has."""
        if not mapping.accepted:
            self._mappings.rename(mapping, name)
        return mapping

    def _make_way(self, mapping: Mapping) -> bool:
        """Drop what a newer Offer of the same puts out of date; False where one more is too many."""
        if mapping.msg_id not in mapping.unused_offers and self._ids.get(mapping.msg_id) is mapping:
            del self._ids[mapping.msg_id]
        if self._is_multi_flow(mapping):
            return True
        if mapping.role is Role.SERVING:
            return self._flows.make_room(mapping)
        if mapping.protocol is Protocol.UDP:
            for flow in mapping.flows - set(mapping.waiting_flows):
                self._flows.reset_flow(flow, Reason.LOST, tell_owner=True)
        return len(mapping.unused_offers) < MAX_UNUSED_OFFERS

    def _on_accept(self, msg_id: int) -> None:
        match self._ids.get(msg_id):
            case Mapping(state=MappingState.OFFERED) as mapping:
                mapping.accepted = True
                mapping.multi_flow = self._is_multi_flow(mapping)
                self._mappings.move(mapping, MappingEvent.ACCEPT_RECEIVED)
                if not mapping.multi_flow and mapping.role is Role.SERVING:
                    self._flows.want_service(mapping, msg_id)
                    if mapping.protocol is Protocol.UDP:
                        self._transport.send(AckAcc(msg_id))
                else:
                    self._transport.send(AckAcc(msg_id))
                    self._run(mapping)
            case Flow(state=FlowState.REQUESTED) as flow if flow.mapping.multi_flow:
                self._transport.send(AckAcc(msg_id))
                self._flows.open(flow)
            case None:
                declined = self._mappings.declined(msg_id)
                if declined is not None and Feature.MANY in self._handshake.features:
                    self._offer(declined)  # the contact has changed its mind
                else:
                    self._counters["accept_unknown"] += 1
                    self._flows.refuse(Kill(msg_id))
            case _:
                self._counters["accept_unexpected"] += 1

    def _on_ack(self, msg_id: int) -> None:
        match self._ids.get(msg_id):
            case Mapping(state=MappingState.ACCEPTED) as mapping:
                self._mappings.move(mapping, MappingEvent.ACK_RECEIVED)
                self._run(mapping)
            case Flow(state=FlowState.ANSWERED) as flow:
                if not flow.mapping.multi_flow:  # which may run by a later Offer's flow already
                    self._mappings.move_if_listed(flow.mapping, MappingEvent.ACK_RECEIVED)
                self._flows.open(flow)
            case Flow(state=FlowState.REQUESTED) as flow if not flow.mapping.multi_flow:
                self._flows.open(flow)
            case None:
                self._counters["ack_unknown"] += 1
                self._flows.refuse(Kill(msg_id))
            case _:
                self._counters["ack_unexpected"] += 1

    def _on_kill(self, kill: Kill) -> None:
        match self._ids.get(kill.msg_id):
            case Mapping() as mapping:
                self._on_mapping_kill(mapping, kill.msg_id)
            case Flow() as flow:
                self._flows.on_kill(flow, kill)
            case None:
                self._counters["kill_unknown"] += 1

    def _on_flow_control(self, packet: Fin | Reset | Credit) -> None:
        match self._ids.get(packet.msg_id):
            case Flow() as flow:
                self._flows.on_flow_control(flow, packet)
            case Mapping() as mapping if isinstance(packet, Reset):
                # Given up while undecided: perhaps sent before our Hello was read there.
                self._on_mapping_kill(mapping, packet.msg_id)
            case None:
                self._counters["flow_control_unknown"] += 1
            case _:
                self._counters["flow_control_unexpected"] += 1

    def _on_mapping_kill(self, mapping: Mapping, msg_id: int) -> None:
        del self._ids[msg_id]
        if msg_id in mapping.unused_offers:
            mapping.unused_offers.remove(msg_id)
            if mapping.unused_offers:
                return
        for flow in list(mapping.flows) if mapping.multi_flow else ():
            self._flows.reset_flow(flow, Reason.ABORTED, tell_owner=True)
        if mapping.origin is Origin.LOCAL:
            mapping.accepted = False
            leaves = mapping.multi_flow and mapping.direction is Direction.SERVER
            if leaves and self._mappings.move_if_listed(mapping, MappingEvent.LEAVE_RECEIVED):
                self._timers.set(mapping, self._clock.now + OFFER_AGAIN)
            else:
                self._mappings.move_if_listed(mapping, MappingEvent.DECLINE_RECEIVED)
        elif mapping.multi_flow or not self._mappings.move_if_listed(mapping, MappingEvent.FLOW_ENDED):
            self._mappings.move_if_listed(mapping, MappingEvent.KILL_RECEIVED)

    # -- flows from here: a local connection arrives -----------------------------------------------------

    def connect(self, mapping: Mapping) -> Flow | None:
        """Start a flow to the contact's service; see `Session.connect`."""
        if (
            not self._handshake.is_online
            or mapping.role is not Role.USING
            or mapping.state is MappingState.ENDED
        ):
            return None
        if not mapping.multi_flow and mapping.protocol is Protocol.UDP and mapping.flows:
            return next(iter(mapping.flows))
        if idle := mapping.idle_flow:
            mapping.idle_flow = None
            self._flows.tell_open(idle)
            return idle
        if len(mapping.waiting_flows) >= MAX_WAITING or not self._flows.make_room(mapping):
            self._counters["flow_over_limit"] += 1
            return None
        flow = self._flows.new(mapping, FlowState.WAITING)
        if mapping.state is MappingState.DECLINED:  # no offer will come that is worth waiting for
            self._flows.drop(flow, Reason.REFUSED)
        elif not self._start(flow):
            mapping.waiting_flows.append(flow)
            self._timers.set(flow, self._clock.now + WAITING_TIMEOUT)
        return flow

    def _run(self, mapping: Mapping) -> None:
        """Give a mapping that is confirmed to the local connections that wait."""
        if mapping.multi_flow:
            self._start_waiting(mapping)
            return
        # Plain: the mapping is one flow, open from now on. Whoever connects next has it.
        waiting = mapping.waiting_flows.popleft() if mapping.waiting_flows else None
        flow = waiting or self._flows.new(mapping, FlowState.WAITING)
        if not self._flows.bind(flow, mapping.msg_id):
            return
        flow.advance(FlowEvent.SENT)
        if waiting is None and mapping.protocol is Protocol.TCP:
            mapping.idle_flow = flow
            flow.advance(FlowEvent.AGREED)
        else:
            self._flows.open(flow)

    def _start_waiting(self, mapping: Mapping) -> None:
        while mapping.waiting_flows:
            flow = mapping.waiting_flows.popleft()
            if not self._start(flow):
                mapping.waiting_flows.appendleft(flow)
                return

    def _start(self, flow: Flow) -> bool:
        """Ask the contact for this flow; False where its mapping has not been negotiated that far."""
        mapping = flow.mapping
        if mapping.multi_flow and mapping.state is MappingState.RUNNING:
            if self._flows.bind(flow, self._mappings.new_id()):
                offer = Offer(flow.msg_id, mapping.protocol, Direction.CONNECTION, mapping.port, "")
                self._flows.ask(flow, offer)
            return True
        if mapping.multi_flow or not mapping.unused_offers:
            return False
        msg_id = mapping.unused_offers.popleft()
        if not mapping.unused_offers:
            self._mappings.move(mapping, MappingEvent.CONNECTED)
        if self._flows.bind(flow, msg_id):
            self._flows.ask(flow, Accept(msg_id))
        return True

    def _renew(self, mapping: Mapping, failed: bool) -> None:
        """Offer again what a plain mapping's flow has used up, the later the more often it failed."""
        if self._mappings.move_if_listed(mapping, MappingEvent.FLOW_ENDED) and mapping.origin is Origin.LOCAL:
            first, longest = RETRY
            delay = min(first * 2.0 ** min(mapping.failures, 10), longest) if failed else 0.0
            mapping.failures += failed
            self._timers.set(mapping, self._clock.now + delay)
