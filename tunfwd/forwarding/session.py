"""One contact: is it there, what can it do, and what do its packets mean. Sans-IO.

The whole surface of the package. Packets from the contact go in by `receive_lossless` and `receive_lossy`;
what is to be sent comes out of `next_packet` and `lossy_to_send`; what the owner has to do or know, out of
`next_event`. Beneath it: `handshake` (Hello), `negotiation` (offers and flows), `carriage` (what packets
travel by). A contact is plain (v0.1 only) until it says Hello.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.common.errors import Malformed
from tunfwd.common.values import Random
from tunfwd.forwarding.announcements import Announcements
from tunfwd.forwarding.carriage import Carriage
from tunfwd.forwarding.clock import Clock
from tunfwd.forwarding.events import Event, HelloArrived, PongArrived
from tunfwd.forwarding.flow import Flow, Mapping
from tunfwd.forwarding.flow_table import MAX_FLOWS, MAX_UDP_FLOWS, Limits
from tunfwd.forwarding.handshake import Handshake
from tunfwd.forwarding.negotiation import Negotiation
from tunfwd.link import Bbr, Link, LinkClosed
from tunfwd.link.congestion import ControllerFactory
from tunfwd.wire.carriers import FRIEND, Carrier
from tunfwd.wire.packets import (
    Claim,
    Claimed,
    Data,
    Direction,
    ExtensionType,
    Feature,
    Hello,
    Kill,
    Node,
    Ping,
    Pong,
    Protocol,
    Type,
    decode,
    decode_datagram,
    decode_extension,
    encode_extension,
)

CARRIER_FEATURES: Final = Feature.MANY | Feature.FLOW | Feature.PING  # what takes no link
FEATURES: Final = CARRIER_FEATURES | Feature.LINK | Feature.FRAGMENT
PONGS: Final = (256, 0.005)  # answers to Pings at once, and s for each further one
MAX_ORPHANS: Final = 2 * (MAX_FLOWS + MAX_UDP_FLOWS)  # flows that a contact that went offline may believe in


class Farewell(Enum):
    """How far our leaving has come."""

    SAID = auto()
    """As far as the contact is there to hear it."""
    HEARD = auto()
    """The contact has answered, or there was nothing to tell it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration decides."""

    features: Feature = FEATURES
    limits: Limits = field(default_factory=Limits)
    outage: float = 60.0
    """s that a link's flows outlive a contact that is offline."""
    controller: ControllerFactory = Bbr
    """The link's congestion control."""
    node_key: bytes = b""
    """Our key as a node of the DHT, for friends to find us again by; empty where they are not to be told."""
    tickets: bool = False
    """Whether the owner answers friends' claims to tickets."""

    def features_with(self, carrier: Carrier) -> Feature:
        """Return what we offer to contacts of a carrier."""
        features = self.features
        if carrier is FRIEND:
            features |= Feature.NODE if self.node_key else Feature(0)
            features |= Feature.TICKET if self.tickets else Feature(0)
        return features


class Session:
    """The whole of what is negotiated and under way with one contact."""

    def __init__(
        self, carrier: Carrier, *, epoch: int, random: Random, settings: Settings | None = None
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._settings = settings or Settings()
        self._carrier = carrier
        self._link_prefix = carrier.extension + bytes((ExtensionType.LINK,))
        self._hello_prefix = carrier.lossless + bytes((Type.HELLO,))
        self._events: deque[Event] = deque()
        self._clock = Clock()
        self._handshake = Handshake(self._clock, epoch, self._settings.features_with(carrier))
        self._carriage = Carriage(carrier, self._handshake, random, self._settings.controller)
        parts = self._clock, self._handshake, self._carriage, self._events, self.counters
        self._negotiation = Negotiation(*parts, random, self._settings.limits)
        node_key = self._settings.node_key if carrier is FRIEND else b""
        self._announcements = Announcements(*parts, node_key)
        self._orphans: list[int] = []  # flows the contact may still believe in
        self._pongs = Budget(*PONGS)
        self._farewell: Farewell | None = None

    @property
    def is_online(self) -> bool:
        """Whether the contact is."""
        return self._handshake.is_online

    @property
    def features(self) -> Feature:
        """The features in force; none while the contact is plain."""
        return self._handshake.features

    @property
    def mappings(self) -> list[Mapping]:
        """All mappings, in the order they were made. To be read, not changed."""
        return self._negotiation.mappings

    @property
    def unseen_offers(self) -> int:
        """Offers of the contact that there was no room for; they come again when others were decided on."""
        return self._negotiation.unseen

    @property
    def outage_ends(self) -> float | None:
        """Until when connections wait for a contact that is offline; None where none do."""
        return self._handshake.outage_ends

    @property
    def control_waiting(self) -> int:
        """Bytes of what we said that the contact has not taken."""
        return self._carriage.control_waiting

    @property
    def timers(self) -> int:
        """How many timers are held for mappings and flows."""
        return self._negotiation.timers + len(self._carriage.lossless.timers)

    @property
    def epoch(self) -> int:
        """This run of ours, as the contact knows it."""
        return self._handshake.epoch

    @property
    def wasted(self) -> int:
        """Packets of the contact that had no effect: malformed, unknown, too many, or nothing new."""
        linked = self._carriage.linked
        return self.counters.total() + (0 if linked is None else linked.wasted)

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram that can be carried."""
        return self._carriage.datagram_payload

    # -- the contact comes and goes ----------------------------------------------------------------------

    def online(self, now: float) -> None:
        """The contact has come online: plain until it says otherwise, unless its link is still there."""
        self._clock.now = now
        if self._handshake.resumes_at is not None or self._farewell is not None:
            return
        self._handshake.online()
        self._announcements.new_period()
        linked = self._carriage.linked is not None
        if linked:
            self._carriage.path_restored(now)
        else:
            self._agree(Feature(0))
        for msg_id in self._orphans:
            self._carriage.send(Kill(msg_id))
        self._orphans.clear()
        # It may not have noticed, and must offer again.
        if self.mappings or self._announcements.are_due or self._handshake.has_met:
            self._carriage.greet()
            self._announcements.send()
            # What we offered before there was a link may be lost with what the carrier had queued.
            self._negotiation.offer_all(again=linked)

    def path_changed(self, now: float) -> None:
        """The contact is reached by another path: what was measured on the last says nothing of it."""
        self._clock.now = now
        self._carriage.path_restored(now)

    def offline(self, now: float) -> None:
        """The contact has gone. A link waits for it; nothing else can, as what toxcore had queued is lost."""
        self._clock.now = now
        self._handshake.offline()
        self._negotiation.offline()
        self._carriage.path_lost(now)
        if self._farewell is not None:
            self._farewell = Farewell.HEARD  # as it seems, or it will not
        elif self._carriage.linked is not None:
            self._handshake.outage_ends = now + self._settings.outage
        else:
            self._orphan(self._negotiation.reset_all(restarted=False))

    def leave(self, now: float) -> None:
        """The contact, or we, have left for good: not even a link waits any longer."""
        self.offline(now)
        if self._carriage.linked is not None:
            self._begin_anew(Feature(0))
        self._negotiation.fail_waiting()

    def fail(self, now: float) -> list[Flow]:
        """A mistake of ours came to light in serving the contact: begin anew, trusting nothing that ran.

        Returns the flows that are lost with it, for the owner to end what they were joined to. The contact
        counts as offline for a moment, and longer the more often this happens, lest it be done all day.
        """
        self._clock.now = now
        self.counters["failures"] += 1
        self._events.clear()
        linked = self._carriage.linked is not None
        self._handshake.fail()
        self._carriage.begin_anew()
        flows = self._negotiation.abandon()
        if not linked:  # over a link the new epoch says it
            self._orphan([flow.msg_id for flow in flows if flow.msg_id])
        return flows

    def close(self, now: float) -> None:
        """Our program ends: leave, and tell the contact while it is there. What comes has no effect any more.

        With a link that is its Close, which the contact's new Hello answers; without one it is the end of
        each flow. Mappings stand: the next run of ours offers them again.
        """
        self._clock.now = now
        linked = self._carriage.linked
        if not self.is_online:
            self.leave(now)
            self._farewell = Farewell.HEARD
            return
        flows = self._negotiation.reset_all(restarted=False)
        self._handshake.is_online = False
        self._carriage.lossless.clear()
        if linked is not None:
            linked.link.close()
        for msg_id in flows if linked is None else ():
            self._carriage.lossless.send(Kill(msg_id))
        self._farewell = Farewell.SAID if linked is not None or flows else Farewell.HEARD

    @property
    def is_closing(self) -> bool:
        """Whether the contact may not have heard yet that we leave."""
        return self._farewell is Farewell.SAID

    def close_again(self, now: float) -> None:
        """Repeat what `close` said over the link, which may be lost."""
        self._clock.now = now
        if self._carriage.linked is not None and self.is_closing:
            self._carriage.linked.link.close_again()

    def _orphan(self, msg_ids: list[int]) -> None:
        """Have the contact told, when it comes back, that these flows are over."""
        self._orphans = (self._orphans + msg_ids)[-MAX_ORPHANS:]

    def _begin_anew(self, features: Feature) -> None:
        """Drop what was under way, as with a link that is over: the contact has to begin anew, too."""
        self._end_link()
        self._handshake.begin_anew()
        self._agree(features)
        self._negotiation.reset_all(restarted=False)
        if self.is_online:
            self._carriage.say(self._handshake.ask())
            self._negotiation.offer_all()

    def _end_link(self) -> None:
        self._carriage.end_link()
        self._handshake.outage_ends = None
        self._announcements.new_period()  # what was told over the link may not have arrived

    def _agree(self, features: Feature) -> None:
        self._handshake.agree(features)
        self._carriage.lossless.flow_control = Feature.FLOW in self.features

    # -- what arrives ------------------------------------------------------------------------------------

    def receive_lossless(self, packet: bytes, now: float) -> None:
        """Take in a packet of the lossless carrier, prefix included."""
        self._clock.now = now
        if self._handshake.is_online:
            self._on_packet(packet)
            return
        self.counters["offline"] += 1
        if self.is_closing and packet.startswith(self._hello_prefix):
            self._farewell = Farewell.HEARD

    def _on_packet(self, packet: bytes) -> None:
        """Take in a packet of the lossless carrier, or of the link's control channel in its place."""
        try:
            value = decode(self._carrier, packet)
        except Malformed as error:
            self.counters[f"malformed_{error.kind}"] += 1
            return
        match value:
            case Hello():
                self._on_hello(value)
            case Node() | Claim() | Claimed():
                self._announcements.receive(value)
            case _:
                self._negotiation.receive(value)

    def _on_hello(self, hello: Hello) -> None:
        arrival = self._handshake.receive(hello)
        if arrival is None:
            self.counters["hello_over_rate"] += 1
            return
        if arrival.new_epoch:
            self._end_link()
            self._carriage.lossless.clear()
            self._negotiation.reset_all(restarted=arrival.new_run)
        linked = self._carriage.linked is not None
        if not linked:
            self._agree(hello.features)
            if Feature.LINK in self.features:
                negotiation, now = self._negotiation, self._clock.now
                self._carriage.start_link(
                    hello.epoch, now, is_wanted=negotiation.is_flow, is_trusted=negotiation.is_trusted
                )
        if arrival.is_question:
            self._carriage.say(self._handshake.answer())
        self._events.append(HelloArrived())
        self._announcements.send()
        if not linked and self._negotiation.has_accepted_as_plain:  # its first Hello was lost
            self._begin_anew(self.features)
        elif arrival.new_epoch:
            self._negotiation.offer_all()
        elif arrival.unasked:
            # It came back without our noticing it gone, and without a link has forgotten: offer again, keep
            # what runs. Or it had no room for all that was offered, and now has.
            self._negotiation.offer_all(again=True, renew=not linked)
        elif arrival.repeated:  # as our first Hello, what we said after it may not have been heard
            self._negotiation.offer_all(again=True)
        self._negotiation.accept_all_late()

    def receive_lossy(self, packet: bytes, now: float) -> None:
        """Take in a packet of the lossy carrier, prefix included."""
        self._clock.now = now
        if not self._handshake.is_online:
            self.counters["offline"] += 1
            return
        try:
            if packet.startswith(self._link_prefix):
                self._on_link_packet(packet)
            elif packet.startswith(self._carrier.extension):
                self._on_extension(decode_extension(self._carrier, packet))
            else:
                self._negotiation.receive_datagram(decode_datagram(self._carrier, packet))
        except Malformed as error:
            self.counters[f"malformed_{error.kind}"] += 1

    def _on_link_packet(self, packet: bytes) -> None:
        if self._carriage.linked is not None:
            self._carriage.linked.arrived(packet)
        else:
            self.counters["link_unknown"] += 1

    def _on_linked_packet(self, packet: bytes) -> None:
        """Take in a control packet. Hello stays outside of the link: it is what begins and ends one."""
        if packet.startswith(self._hello_prefix):
            self.counters["link_hello"] += 1
        else:
            self._on_packet(packet)

    def _on_linked_datagram(self, msg_id: int, payload: bytes) -> None:
        self._negotiation.receive_datagram(Data(msg_id, payload))

    def _on_link_closed(self, event: LinkClosed) -> None:
        self.counters["link_closed" if event.violation is None else "link_violation"] += 1
        self._begin_anew(Feature(0))

    def _on_extension(self, packet: Ping | Pong) -> None:
        if Feature.PING not in self.features:
            self.counters["extension_unknown"] += 1
        elif isinstance(packet, Pong):
            self._events.append(PongArrived(packet.token))
        elif self._pongs.spend(self._clock.now):
            self._send_extension(Pong(packet.token))
        else:
            self.counters["ping_over_rate"] += 1

    # -- what leaves, and what happened ------------------------------------------------------------------

    def next_packet(self) -> bytes | None:
        """Return the next packet for the lossless carrier, or None. Only while online."""
        return self._carriage.lossless.next_packet() if self._handshake.is_online or self.is_closing else None

    def put_back(self, packet: bytes) -> None:
        """Give back a packet from `next_packet` that the carrier had no room for."""
        self._carriage.lossless.put_back(packet)

    def lossy_to_send(self, now: float, *, brief: bool = False) -> list[bytes]:
        """Return the packets that the lossy carrier is to take now. Only while online.

        `brief`: not many, as others wait; more are due at once.
        """
        self._clock.now = now
        if not self._handshake.is_online and not self.is_closing:
            return []
        return self._carriage.lossy_to_send(now, closing=not self.is_online, brief=brief)

    def _send_extension(self, packet: Ping | Pong) -> None:
        self._carriage.lossless.send_extension(encode_extension(self._carrier, packet))

    def next_event(self) -> Event | None:
        """Return what happened next, or None."""
        if not self._events:
            self._carriage.dispatch(
                self._clock.now, self._on_linked_packet, self._on_linked_datagram, self._on_link_closed
            )
        return self._events.popleft() if self._events else None

    @property
    def has_events(self) -> bool:
        """Whether `next_event` has one."""
        return bool(self._events)

    # -- the timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due, or None."""
        handshake = self._handshake
        due: float | None = None
        for deadline in (
            self._negotiation.next_timeout(),
            self._carriage.next_timeout(),
            handshake.outage_ends,
            handshake.resumes_at,
            handshake.repeat_at,
        ):
            if deadline is not None and (due is None or deadline < due):
                due = deadline
        return due

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._clock.now = now
        handshake = self._handshake
        if handshake.resumes_at is not None and handshake.resumes_at <= now:
            handshake.resumes_at = None
            self.online(now)
        if handshake.repeat_at is not None and handshake.repeat_at <= now:
            self._carriage.say(handshake.repeat())
        if self._negotiation.handle_timeout():  # a Hello not asked for has the contact repeat its offers
            self._carriage.say(handshake.ask())
        if handshake.outage_ends is not None and handshake.outage_ends <= now:
            self._begin_anew(Feature(0))
        self._carriage.handle_timeout(now)

    # -- what the owner wants; answers to events are calls of the flow they name -------------------------

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
        same port is offered already.
        """
        self._clock.now = now
        if public_id is not None and self.is_online:
            self._handshake.broadcast()  # a public Hello went before it
        return self._negotiation.offer(protocol, port, name, direction, public_id)

    def offered(self, protocol: Protocol, port: int, direction: Direction) -> Mapping | None:
        """Return what stands of ours under these."""
        return self._negotiation.offered(protocol, port, direction)

    def restore_acceptance(self, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping:
        """Remember an acceptance from before: when the contact offers this again, it is accepted at once."""
        return self._negotiation.restore_acceptance(direction, protocol, port, name)

    def accept(self, mapping: Mapping, now: float) -> None:
        """Accept an offer of the contact's; raises `Misuse` where there is none to accept."""
        self._clock.now = now
        self._negotiation.accept(mapping)

    def accept_late(self, mapping: Mapping, msg_id: int, now: float) -> None:
        """Want what was declined, after all: a restored acceptance of what that Offer was for."""
        self._clock.now = now
        self._negotiation.accept_late(mapping, msg_id)

    def offer_anew(self, mapping: Mapping, name: str, now: float) -> None:
        """Call a service of ours by another name from now on; connections go on."""
        self._clock.now = now
        self._negotiation.offer_anew(mapping, name)

    def end_flows(self, mapping: Mapping, now: float) -> None:
        """Reset all connections over a mapping, which stands."""
        self._clock.now = now
        self._negotiation.end_flows(mapping)

    def end(self, mapping: Mapping, now: float) -> None:
        """Withdraw, deny or kill a mapping, with all its flows."""
        self._clock.now = now
        self._negotiation.end(mapping)

    def connect(self, mapping: Mapping, now: float) -> Flow | None:
        """Start a flow for a local connection; None where the contact is offline or there are too many.

        `Opened` or `Failed` follows. The one flow of a plain UDP mapping is shared by all who connect.
        """
        self._clock.now = now
        return self._negotiation.connect(mapping)

    def ping(self, token: int, now: float) -> bool:
        """Send a Ping; `PongArrived` follows. False while the contact has not said that it answers them."""
        self._clock.now = now
        if not self._handshake.is_online:
            return False
        self._carriage.greet()
        if Feature.PING not in self.features:
            return False
        self._send_extension(Ping(token))
        return True

    def claim(self, token: bytes, now: float) -> None:
        """Tell the contact, now and in each online period, that we have a ticket of its; again at each call.

        `ClaimAnswered` follows, and `forget_claim` ends it.
        """
        self._clock.now = now
        self._announcements.claim(token)
        if self._handshake.is_online:
            self._carriage.greet()
            self._announcements.send()

    def forget_claim(self, token: bytes) -> None:
        """Tell of a ticket no more."""
        self._announcements.forget_claim(token)

    def answer_claim(self, token: bytes, now: float, *, valid: bool) -> None:
        """Answer `ClaimArrived`."""
        self._clock.now = now
        if self._handshake.is_online:
            self._carriage.send(Claimed(token, valid))

    # -- what goes to a whole group at once: Hello, Offer (`offer`'s public_id) and Kill -------------------

    @property
    def link(self) -> Link | None:
        """The link, where there is one; to look at, as its owner is the session."""
        linked = self._carriage.linked
        return None if linked is None else linked.link

    @property
    def has_greeted(self) -> bool:
        """Whether we have said Hello since the contact came online."""
        return self._handshake.has_greeted

    def hello_was_broadcast(self, now: float) -> None:
        """The owner has said Hello, to the contact and others at once."""
        self._clock.now = now
        self._handshake.broadcast()

    def receive_public(self, packet: bytes, now: float) -> None:
        """Take in a packet that the contact sent to its whole group."""
        kind = packet[len(self._carrier.lossless) :][:1]
        if kind in (bytes((Type.HELLO,)), bytes((Type.OFFER,)), bytes((Type.KILL,))):
            self.receive_lossless(packet, now)
        else:
            self.counters["public_unexpected"] += 1
