"""All mappings of one contact: how many there may be, which one a packet speaks of, every change of state.

`negotiation` decides what happens; each change goes through `move`, which tells the owner of it.
"""

from collections import Counter, deque
from typing import Final

from tunfwd.common.errors import Misuse
from tunfwd.common.timers import Timers
from tunfwd.common.values import Random, Reason
from tunfwd.forwarding.clock import Clock
from tunfwd.forwarding.events import Event, MappingChanged
from tunfwd.forwarding.flow import Flow, Mapping, Origin, offer_key
from tunfwd.forwarding.flow_table import FlowTable
from tunfwd.forwarding.states import MappingEvent, MappingState, Role
from tunfwd.forwarding.transport import Transport
from tunfwd.wire.packets import Direction, Offer, Protocol

MAX_PENDING: Final = 64  # undecided offers of one contact, those of one name as one: more than a person reads
MAX_MAPPINGS: Final = 1024  # of one contact, and as many of ours
ASK_AGAIN: Final = 3.0  # s from a decision until offers without room are asked for; above HELLO_INTERVAL


class MappingTable:
    """The mappings with one contact, in the order they were made."""

    __slots__ = (
        "_at",
        "_clock",
        "_counts",
        "_events",
        "_flows",
        "_ids",
        "_random",
        "_timers",
        "_transport",
        "_undecided",
        "all",
        "ask_again_at",
        "unseen",
    )

    def __init__(
        self,
        clock: Clock,
        transport: Transport,
        events: deque[Event],
        random: Random,
        flows: FlowTable,
        ids: dict[int, Mapping | Flow],
        timers: Timers[Mapping | Flow],
    ) -> None:
        self.all: list[Mapping] = []
        self._at: dict[int, list[Mapping]] = {}
        """By port, in the same order."""
        self._counts: Counter[Origin] = Counter()
        """How many there are, by whose they are."""
        self._undecided: Counter[str] = Counter()
        """How many of the contact's wait for a decision, by name."""
        self.unseen = 0
        """Offers of the contact that there was no room for, since it last was asked for all."""
        self.ask_again_at: float | None = None
        """When to ask for them: there is room."""
        self._clock = clock
        self._transport = transport
        self._events = events
        self._random = random
        self._flows = flows
        self._ids = ids
        self._timers = timers

    def add(self, origin: Origin, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping:
        """Make a mapping. Raises `Misuse` where there are too many."""
        if self._counts[origin] >= MAX_MAPPINGS:
            raise Misuse("too many mappings with this contact")
        mapping = Mapping(origin, direction, protocol, port, name)
        mapping.msg_id = self.new_id()  # until it is offered: an id for people to name it by
        self._list(mapping)
        return mapping

    def _list(self, mapping: Mapping) -> None:
        self.all.append(mapping)
        self._at.setdefault(mapping.port, []).append(mapping)
        self._counts[mapping.origin] += 1

    def _unlist(self, mapping: Mapping) -> None:
        self.all.remove(mapping)
        self._counts[mapping.origin] -= 1
        at = self._at[mapping.port]
        at.remove(mapping)
        if not at:
            del self._at[mapping.port]

    def rename(self, mapping: Mapping, name: str) -> None:
        """Call a mapping otherwise; with any port, it would be another one."""
        undecided = mapping.state is MappingState.PENDING
        if undecided:
            self._decided(mapping)
        mapping.name = name
        if undecided:
            self._undecided[name] += 1

    def _decided(self, mapping: Mapping) -> None:
        self._undecided[mapping.name] -= 1
        if not self._undecided[mapping.name]:
            del self._undecided[mapping.name]

    def new_id(self) -> int:
        """Return a msg_id that is not in use."""
        while True:
            msg_id = self._random.getrandbits(32)
            if msg_id and msg_id not in self._ids and not self._transport.was_used(msg_id):
                return msg_id

    # -- which one ---------------------------------------------------------------------------------------

    def ours(self, direction: Direction, protocol: Protocol, port: int) -> Mapping | None:
        """Return what we offer under these."""
        for mapping in self._at.get(port, ()):
            if (mapping.origin, mapping.direction, mapping.protocol) == (Origin.LOCAL, direction, protocol):
                return mapping
        return None

    def theirs(self, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping | None:
        """Return what the contact offers under these, now or before."""
        key = offer_key(direction, protocol, port, name)
        for mapping in self._at.get(port, ()):
            if mapping.origin is Origin.REMOTE and mapping.key == key:
                return mapping
        return None

    def declined(self, msg_id: int) -> Mapping | None:
        """Return what we offered last under that msg_id, if the contact has declined it."""
        for mapping in self.all:
            if mapping.msg_id == msg_id and mapping.state is MappingState.DECLINED:
                return mapping
        return None

    def serving(self, offer: Offer) -> Mapping | None:
        """Return the running mapping that a connection offer belongs to."""
        for mapping in self._at.get(offer.port, ()):
            if (
                mapping.role is Role.SERVING
                and mapping.multi_flow
                and mapping.accepted
                and mapping.state in (MappingState.RUNNING, MappingState.OFFERED)  # OFFERED: being renewed
                and mapping.protocol == offer.protocol
            ):
                return mapping
        return None

    def ids_of(self, mapping: Mapping) -> list[int]:
        """Return the msg_ids of a mapping's own; those of flows are theirs."""
        return [i for i in {mapping.msg_id, *mapping.unused_offers} if self._ids.get(i) is mapping]

    def has_room(self, name: str) -> bool:
        """Whether the contact may offer something more, of that name."""
        return self._counts[Origin.REMOTE] < MAX_MAPPINGS and not self.is_full_of_undecided(name)

    def is_full_of_undecided(self, name: str) -> bool:
        """Whether an offer of that name is more than a person reads; ports of one name are read as one."""
        undecided, nameless = self._undecided, self._undecided[""]
        if name and name in undecided:
            return False
        return len(undecided) - bool(nameless) + nameless >= MAX_PENDING

    def is_trusted(self) -> bool:
        """Whether a mapping was accepted, by either side."""
        return any(mapping.accepted for mapping in self.all)

    # -- changes of state --------------------------------------------------------------------------------

    def move_if_listed(self, mapping: Mapping, event: MappingEvent) -> bool:
        """Change a mapping's state by what happened; False, without effect, where that means nothing."""
        if not mapping.has_step(event):
            return False
        self.move(mapping, event)
        return True

    def move(self, mapping: Mapping, event: MappingEvent) -> None:
        """Change a mapping's state by a step that must be one of the table's, and tell the owner."""
        before = mapping.state
        mapping.advance(event)
        if before is not mapping.state:
            if before is MappingState.PENDING:
                self._decided(mapping)
            elif mapping.state is MappingState.PENDING:
                self._undecided[mapping.name] += 1
        if mapping.state is MappingState.ENDED:
            self._unlist(mapping)
            self._timers.cancel(mapping)
            for msg_id in self.ids_of(mapping):
                del self._ids[msg_id]
        if before is MappingState.PENDING and mapping.state is not before and self.unseen:
            self.ask_again_at = self.ask_again_at or self._clock.now + ASK_AGAIN
        if mapping.state is not before:
            self._events.append(MappingChanged(mapping))
        if mapping.state in (MappingState.ENDED, MappingState.DECLINED):
            for flow in list(mapping.waiting_flows):
                self._flows.drop(flow, Reason.REFUSED)
        unused = (MappingState.ENDED, MappingState.DECLINED)
        if (mapping.state in unused or event is MappingEvent.LEAVE_RECEIVED) and not self.is_trusted():
            self._transport.trust_lost()

    def reset(self, *, restarted: bool) -> None:
        """Have all wait for the contact, whose program was `restarted` or not."""
        for mapping in list(self.all):
            mapping.unused_offers.clear()
            self._timers.cancel(mapping)
            self.move_if_listed(mapping, MappingEvent.LOST)
            if restarted:
                mapping.accepted = mapping.accepted and mapping.origin is Origin.REMOTE
                self.move_if_listed(mapping, MappingEvent.FORGOTTEN)

    def abandon(self) -> None:
        """Have what stands wait, whatever state a mistake of ours has left it in; what does not is over."""
        mappings, self.all = self.all, []
        self._at.clear()
        self._counts.clear()
        self._undecided.clear()
        for mapping in mappings:
            before = mapping.state
            mapping.abandon()
            if mapping.state is not MappingState.ENDED:
                self._list(mapping)
            if mapping.state is not before:
                self._events.append(MappingChanged(mapping))

    def asks_again(self) -> bool:
        """Return, once, whether it is time to have the contact repeat its offers."""
        if self.ask_again_at is None or self.ask_again_at > self._clock.now:
            return False
        self.forget_unseen()
        return True

    def forget_unseen(self) -> None:
        """Count from nothing again: the contact repeats its offers."""
        self.unseen, self.ask_again_at = 0, None
