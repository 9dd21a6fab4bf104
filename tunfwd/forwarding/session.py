"""One contact: is it there, what can it do, and what do its packets mean. Sans-IO.

Packets from the contact go in by `receive_lossless` and `receive_lossy`, and on to `negotiation`. What is to
be sent comes out of `next_packet` and `next_datagram`; what the owner has to do or know, out of `next_event`.
A contact is plain (v0.1 only) until it says Hello.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, auto

from tunfwd.common.budget import Budget
from tunfwd.common.errors import Malformed
from tunfwd.common.values import Random, Reason
from tunfwd.forwarding.events import (
    ClaimAnswered,
    ClaimArrived,
    Event,
    HelloArrived,
    NodeArrived,
    PongArrived,
)
from tunfwd.forwarding.flow import Flow, Mapping
from tunfwd.forwarding.linked import LinkTransport
from tunfwd.forwarding.lossless import LosslessTransport
from tunfwd.forwarding.negotiation import MAX_FLOWS, MAX_UDP_FLOWS, Limits, Negotiation
from tunfwd.link import Bbr, Link, LinkClosed
from tunfwd.link.congestion import ControllerFactory
from tunfwd.wire.carriers import FRIEND, Carrier
from tunfwd.wire.packets import (
    Accept,
    AckAcc,
    Claim,
    Claimed,
    Credit,
    Data,
    Direction,
    ExtensionType,
    Feature,
    Fin,
    Hello,
    Kill,
    Lossless,
    Node,
    Offer,
    Ping,
    Pong,
    Protocol,
    Reset,
    Type,
    decode,
    decode_datagram,
    decode_extension,
    encode_extension,
)

CARRIER_FEATURES = Feature.MANY | Feature.FLOW | Feature.PING  # what takes no link
FEATURES = CARRIER_FEATURES | Feature.LINK | Feature.FRAGMENT
HELLO_INTERVAL = (
    2.0  # s; a Hello within it of ours is an answer, or crossed it: two programs never ring forever
)
PONGS = 256, 0.005  # answers to Pings at once, and s for each further one
NODES = 16, 2.0  # DHT keys, and s for each further one
CLAIMS = 64, 2.0  # Claims and answers to them, and s for each further one
EPOCHS = 16, 2.0  # Hellos with a new epoch, each of which ends a link and begins one; s for each further one
REPEAT = (
    3.0,
    48.0,
)  # s until a Hello is repeated that none came after, doubled up to the last; above HELLO_INTERVAL


PAUSE = (
    1.0,
    60.0,
)  # s that a session rests which failed: doubled each time, until it goes well for the longest
MAX_ORPHANS = 2 * (MAX_FLOWS + MAX_UDP_FLOWS)  # flows that a contact that went offline may believe in


class Farewell(Enum):
    """How far our leaving has come."""

    SAID = auto()
    """As far as the contact is there to hear it."""
    HEARD = auto()
    """The contact has answered, or there was nothing to tell it."""


RUN = 0xFFFFFFFF_00000000  # of an epoch: the same as long as the program runs; below it, links are counted


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


def next_epoch(epoch: int) -> int:
    """Return the epoch that, in the same run, says that nothing of before goes on."""
    return epoch & RUN | (epoch + 1) & ~RUN


class Session:
    """The whole of what is negotiated and under way with one contact."""

    def __init__(
        self, carrier: Carrier, *, epoch: int, random: Random, settings: Settings | None = None
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._carrier = carrier
        self._link_prefix = carrier.extension + bytes((ExtensionType.LINK,))
        self._hello_prefix = carrier.lossless + bytes((Type.HELLO,))
        self._epoch = epoch
        self._random = random
        self._settings = settings or Settings()
        self._own_features = self._settings.features
        if self._settings.node_key and carrier is FRIEND:
            self._own_features |= Feature.NODE
        if self._settings.tickets and carrier is FRIEND:
            self._own_features |= Feature.TICKET
        self._events: deque[Event] = deque()
        self._lossless = LosslessTransport(carrier)
        self._linked: LinkTransport | None = None
        self._outage_ends: float | None = None  # the link's patience with a contact that is offline
        self._negotiation = Negotiation(
            self._lossless,
            self._events,
            self.counters,
            send=self._send,
            random=random,
            limits=self._settings.limits,
        )
        self._now = 0.0
        self._orphans: list[int] = []  # flows the contact may still believe in
        self._peer_epoch: int | None = None
        self._hello_sent_at: float | None = None  # in this online period
        self._answers = 0  # that may come to Hellos of ours, in this online period
        self._patience = 0.0  # s until the Hello is repeated that goes unheard; 0 where it is not
        self._repeat_at: float | None = None  # while none has come in this online period
        self._failed_at = -PAUSE[1]
        self._pause = 0.0
        self._resumes: float | None = None  # after a failure
        self._node_sent = False  # in this online period
        self._claims: dict[bytes, bool] = {}  # tokens of the contact's tickets; sent in this online period
        self._pongs = Budget(*PONGS)
        self._epochs = Budget(*EPOCHS)
        self._nodes = Budget(*NODES)
        self._claims_taken = Budget(*CLAIMS)
        self._farewell: Farewell | None = None

    @property
    def is_online(self) -> bool:
        """Whether the contact is."""
        return self._negotiation.is_online

    @property
    def features(self) -> Feature:
        """The features in force; none while the contact is plain."""
        return self._negotiation.features

    @property
    def mappings(self) -> list[Mapping]:
        """All mappings, in the order they were made. To be read, not changed."""
        return self._negotiation.mappings

    @property
    def unseen_offers(self) -> int:
        """Offers of the contact that there was no room for; they come again when others were decided on."""
        return self._negotiation.unseen

    @property
    def timers(self) -> int:
        """How many timers are held for mappings and flows."""
        return len(self._negotiation.timers)

    @property
    def epoch(self) -> int:
        """This run of ours, as the contact knows it."""
        return self._epoch

    @property
    def wasted(self) -> int:
        """Packets of the contact that were to no avail: malformed, unknown, too many, or nothing new."""
        link = 0
        if self._linked is not None:
            statistics = self._linked.link.statistics
            link = statistics.foreign + statistics.malformed + statistics.duplicates + statistics.idle
        return self.counters.total() + link

    @property
    def greeted(self) -> bool:
        """Whether we have said Hello since the contact came online."""
        return self._hello_sent_at is not None

    # The contact comes and goes.

    def online(self, now: float) -> None:
        """The contact has come online: plain until it says otherwise, unless its link is still there."""
        self._now = now
        if self._resumes is not None or self._farewell is not None:
            return
        self._negotiation.is_online = True
        self._outage_ends = None
        self._hello_sent_at = None
        self._answers = 0
        self._patience, self._repeat_at = 0.0, None
        self._node_sent = False
        self._claims = dict.fromkeys(self._claims, False)
        if self._linked is not None:
            self._linked.link.path_restored(now)
        else:
            self._set_features(Feature(0))
        for msg_id in self._orphans:
            self._send(Kill(msg_id))
        self._orphans.clear()
        if self.mappings or self._claims or self._has_met:  # it may not have noticed, and must offer again
            self._greet()
            self._send_node()
            self._send_claims()
            # What we offered before there was a link may be lost with what the carrier had queued.
            self._negotiation.offer_all(again=self._linked is not None)

    def path_changed(self, now: float) -> None:
        """The contact is reached by another path: what was measured on the last says nothing of it."""
        self._now = now
        if self._linked is not None:
            self._linked.link.path_restored(now)

    def offline(self, now: float) -> None:
        """The contact has gone. A link waits for it; nothing else can, as what toxcore had queued is lost."""
        self._now = now
        self._resumes = self._repeat_at = None
        self._negotiation.is_online = False
        self._negotiation.unseen, self._negotiation.ask_again_at = 0, None
        self._lossless.clear()
        if self._farewell is not None:
            self._farewell = Farewell.HEARD  # as it seems, or it will not
            return
        if self._linked is not None:
            self._linked.link.path_lost(now)
            self._outage_ends = now + self._settings.outage
        else:
            self._orphans = (self._orphans + self._negotiation.reset_all(restarted=False))[-MAX_ORPHANS:]

    def fail(self, now: float) -> list[Flow]:
        """A mistake of ours came to light in serving the contact: begin anew, trusting nothing that ran.

        Returns the flows that are lost with it, for the owner to end what they were spliced to. The contact
        counts as offline for a moment, and longer the more often this happens, lest it be done all day.
        """
        self._now = now
        self.counters["failures"] += 1
        was_online = self.is_online or self._resumes is not None
        first, longest = PAUSE
        well = now - self._failed_at - self._pause  # s since it resumed
        self._pause = first if well >= longest else min(2 * self._pause, longest)
        self._failed_at = now
        self._events.clear()
        linked = self._linked is not None
        self._unlink()
        self._lossless = LosslessTransport(self._carrier)
        self._negotiation.transport = self._lossless
        self._negotiation.is_online = False
        self._set_features(Feature(0))
        self._epoch = next_epoch(self._epoch)
        self._repeat_at = None
        self._resumes = now + self._pause if was_online else None
        flows = self._negotiation.abandon()
        if not linked:  # over a link the new epoch says it
            self._orphans = (self._orphans + [flow.msg_id for flow in flows if flow.msg_id])[-MAX_ORPHANS:]
        return flows

    def leave(self, now: float) -> None:
        """The contact, or we, have left for good: not even a link waits any longer."""
        self.offline(now)
        if self._linked is not None:
            self._begin_anew(Feature(0))
        self._negotiation.fail_waiting()

    def close(self, now: float) -> None:
        """Our program ends: part, and tell the contact while it is there. What comes is not taken any more.

        With a link that is its Close, which the contact's new Hello answers; without one it is the end of
        each flow. Mappings stand: the next run of ours offers them again.
        """
        self._now = now
        if not self.is_online:
            self.leave(now)
            self._farewell = Farewell.HEARD
            return
        flows = self._negotiation.reset_all(restarted=False)
        self._negotiation.is_online = False
        self._lossless.clear()
        if self._linked is not None:
            self._linked.link.close()
        for msg_id in flows if self._linked is None else ():
            self._lossless.send(Kill(msg_id))
        self._farewell = Farewell.SAID if self._linked is not None or flows else Farewell.HEARD

    @property
    def is_closing(self) -> bool:
        """Whether the contact may not have heard yet that we leave."""
        return self._farewell is Farewell.SAID

    def close_again(self, now: float) -> None:
        """Repeat what `close` said over the link, which may be lost."""
        self._now = now
        if self._linked is not None and self.is_closing:
            self._linked.link.close_again()

    def _begin_anew(self, features: Feature) -> None:
        """What was under way is lost, as with a link that is over: the contact has to begin anew, too."""
        self._unlink()
        self._epoch = next_epoch(self._epoch)
        self._set_features(features)
        self._negotiation.reset_all(restarted=False)
        if self.is_online:
            self._ask_hello()
            self._negotiation.offer_all()

    def _unlink(self) -> None:
        if self._linked is not None:
            self._linked.link.discard()
        self._linked = None
        self._outage_ends = None
        self._negotiation.transport = self._lossless

    @property
    def _has_met(self) -> bool:
        """Whether the contact is known to say Hello, or may have while we had failed and did not hear it."""
        return self._peer_epoch is not None or self.counters["failures"] > 0

    def _greet(self) -> None:
        """Say Hello, once in an online period: it goes before all else that we say."""
        if self._hello_sent_at is None:
            self._ask_hello()
            self._expect_hello()

    def _ask_hello(self) -> None:
        """Say Hello to have one."""
        self._answers += 1
        self._say_hello()

    def _say_hello(self) -> None:
        self._hello_sent_at = self._now
        self._lossless.send(Hello(self._own_features, self._epoch))

    def hello_was_broadcast(self, now: float) -> None:
        """The owner has said Hello, to the contact and others at once."""
        self._now = now
        if self._hello_sent_at is None:
            self._hello_sent_at = now
            self._answers += 1
            if self._has_met:  # of all the others nobody expects one
                self._expect_hello()

    def _expect_hello(self) -> None:
        """Have our first Hello of an online period repeated until one comes.

        What the contact said while it was offline to us is lost, and our Hello may be the answer to it in the
        contact's eyes, and so go unanswered. A later one will not.
        """
        self._patience = REPEAT[0]
        self._repeat_at = self._now + self._patience

    def _repeat_hello(self) -> None:
        self._patience *= 2
        self._repeat_at = self._now + self._patience if self._patience <= REPEAT[1] else None
        self._ask_hello()

    def _on_hello(self, hello: Hello) -> None:
        known = self._peer_epoch
        anew = known is not None and known != hello.epoch
        if anew and not self._epochs.spend(self._now):
            self.counters["hello_over_rate"] += 1
            return
        self._peer_epoch = hello.epoch
        if known is not None and anew:
            self._unlink()
            self._lossless.clear()
            self._negotiation.reset_all(restarted=known & RUN != hello.epoch & RUN)
        linked = self._linked is not None
        if not linked:
            self._set_features(hello.features & self._own_features)
            if Feature.LINK in self.features:
                self._start_link(hello.epoch)
        sent_at = self._hello_sent_at
        fresh = sent_at is not None and self._now - sent_at < HELLO_INTERVAL
        unasked = not self._answers and not fresh
        repeated = self._patience > REPEAT[0]
        self._answers = max(0, self._answers - 1)
        self._patience, self._repeat_at = 0.0, None
        if anew or unasked:
            self._say_hello()
        self._events.append(HelloArrived())
        self._send_node()
        self._send_claims()
        if not linked and self._negotiation.accepted_as_plain:  # its first Hello was lost
            self._begin_anew(self.features)
        elif anew:
            self._negotiation.offer_all()
        elif unasked:
            # It came back without our noticing it gone, and without a link has forgotten: offer again, keep
            # what runs. Or it had no room for all that was offered, and now has.
            self._negotiation.offer_all(again=True, renew=not linked)
        elif repeated:  # as our first Hello, what we said after it may not have been heard
            self._negotiation.offer_all(again=True)

    def _send_node(self) -> None:
        """Tell a friend where we are in the DHT, once in an online period."""
        if Feature.NODE in self.features and not self._node_sent:
            self._node_sent = True
            self._send(Node(self._settings.node_key))

    def _send_claims(self) -> None:
        """Tell a friend which tickets of its we have, each once in an online period."""
        if Feature.TICKET in self.features:
            for token in [token for token, sent in self._claims.items() if not sent]:
                self._claims[token] = True
                self._send(Claim(token))

    def _start_link(self, peer_epoch: int) -> None:
        """Leave the lossless carrier behind: from now on all but Hello goes over the link."""
        self._linked = self._negotiation.transport = LinkTransport(
            self._carrier,
            (self._epoch, peer_epoch),
            self._random,
            self._now,
            fragment=Feature.FRAGMENT in self.features,
            controller=self._settings.controller,
            is_wanted=self._negotiation.is_flow,
            is_trusted=self._negotiation.is_trusted,
        )

    def _set_features(self, features: Feature) -> None:
        self._negotiation.features = features
        self._lossless.flow_control = Feature.FLOW in features

    # Packets in.

    def receive_lossless(self, packet: bytes, now: float) -> None:
        """Take a packet of the lossless carrier, prefix included."""
        self._now = now
        if not self.is_online:
            self.counters["offline"] += 1
            if self.is_closing and packet.startswith(self._hello_prefix):
                self._farewell = Farewell.HEARD
            return
        self._on_packet(packet)

    def _on_packet(self, packet: bytes) -> None:
        """Take a packet of the lossless carrier, or of the link's control channel in its place."""
        now = self._now
        try:
            value = decode(self._carrier, packet)
        except Malformed as error:
            self.counters[f"malformed_{error.kind}"] += 1
            return
        match value:
            case Data():
                self._negotiation.on_data(value, now)
            case Hello():
                self._on_hello(value)
            case Node():
                self._on_node(value)
            case Claim() | Claimed():
                self._on_claim(value)
            case Offer():
                self._negotiation.on_offer(value, now)
            case Accept():
                self._negotiation.on_accept(value.msg_id, now)
            case AckAcc():
                self._negotiation.on_ack(value.msg_id, now)
            case Kill():
                self._negotiation.on_kill(value.msg_id, now)
            case Fin() | Reset() | Credit():
                self._negotiation.on_flow_control(value, now)

    def _on_node(self, node: Node) -> None:
        if Feature.NODE not in self.features:
            self.counters["node_unexpected"] += 1
        elif self._nodes.spend(self._now):
            self._events.append(NodeArrived(node.key))
        else:
            self.counters["node_over_rate"] += 1

    def _on_claim(self, packet: Claim | Claimed) -> None:
        if Feature.TICKET not in self.features:
            self.counters["claim_unexpected"] += 1
        elif not self._claims_taken.spend(self._now):
            self.counters["claim_over_rate"] += 1
        elif isinstance(packet, Claim):
            self._events.append(ClaimArrived(packet.token))
        elif packet.token in self._claims:
            self._events.append(ClaimAnswered(packet.token, packet.valid))
        else:
            self.counters["claim_unexpected"] += 1

    def receive_public(self, packet: bytes, now: float) -> None:
        """Take a packet that the contact sent to a whole group: Hello, Offer and Kill may be public."""
        kind = packet[len(self._carrier.lossless) :][:1]
        if kind in (bytes((Type.HELLO,)), bytes((Type.OFFER,)), bytes((Type.KILL,))):
            self.receive_lossless(packet, now)
        else:
            self.counters["public_unexpected"] += 1

    def receive_lossy(self, packet: bytes, now: float) -> None:
        """Take a packet of the lossy carrier, prefix included."""
        self._now = now
        if not self.is_online:
            self.counters["offline"] += 1
            return
        try:
            if packet.startswith(self._link_prefix):
                self._on_link_packet(packet)
            elif packet.startswith(self._carrier.extension):
                self._on_extension(decode_extension(self._carrier, packet))
            else:
                self._negotiation.on_datagram(decode_datagram(self._carrier, packet), now)
        except Malformed as error:
            self.counters[f"malformed_{error.kind}"] += 1

    def _on_link_packet(self, packet: bytes) -> None:
        if self._linked is not None:
            self._linked.arrived(packet)
        else:
            self.counters["link_unknown"] += 1

    def _dispatch_link(self) -> None:
        """Hand out what the link has."""
        if self._linked is not None:
            self._linked.dispatch(
                self._now, self._on_linked_packet, self._on_linked_datagram, self._on_link_closed
            )

    def _on_linked_packet(self, packet: bytes) -> None:
        """A control packet. Hello stays outside of the link: it is what begins and ends one."""
        if packet.startswith(self._hello_prefix):
            self.counters["link_hello"] += 1
        else:
            self._on_packet(packet)

    def _on_linked_datagram(self, msg_id: int, payload: bytes) -> None:
        self._negotiation.on_datagram(Data(msg_id, payload), self._now)

    def _on_link_closed(self, event: LinkClosed) -> None:
        self.counters["link_closed" if event.violation is None else "link_violation"] += 1
        self._begin_anew(Feature(0))

    def _on_extension(self, packet: Ping | Pong) -> None:
        if Feature.PING not in self.features:
            self.counters["extension_unknown"] += 1
        elif isinstance(packet, Pong):
            self._events.append(PongArrived(packet.token))
        elif self._pongs.spend(self._now):
            self._lossless.send_extension(encode_extension(self._carrier, Pong(packet.token)))
        else:
            self.counters["ping_over_rate"] += 1

    # Packets and events out.

    def _send(self, packet: Lossless) -> None:
        self._greet()
        self._negotiation.transport.send(packet)

    def next_packet(self) -> bytes | None:
        """Return the next packet for the lossless carrier, or None. Only while online."""
        return self._lossless.next_packet() if self.is_online or self.is_closing else None

    def put_back(self, packet: bytes) -> None:
        """Give back a packet from `next_packet` that the carrier had no room for."""
        self._lossless.put_back(packet)

    def lossy_to_send(self, now: float) -> list[bytes]:
        """Return the packets that the lossy carrier is to take now. Only while online."""
        self._now = now
        packets: list[bytes] = []
        if self.is_online:
            while (packet := self._lossless.next_datagram()) is not None:
                packets.append(packet)
            if (link := self._active_link) is not None:
                packets += link.packets_to_send(now)
        elif self.is_closing and self._linked is not None:
            packets += self._linked.link.packets_to_send(now)
        return packets

    @property
    def _active_link(self) -> Link | None:
        """The link, once our Hello has left: the contact drops what comes before it."""
        return None if self._linked is None or self._lossless.control_waits else self._linked.link

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram that can be carried."""
        return self._negotiation.transport.datagram_payload

    def next_event(self) -> Event | None:
        """Return what happened next, or None."""
        if not self._events:
            self._dispatch_link()
        return self._events.popleft() if self._events else None

    @property
    def has_events(self) -> bool:
        """Whether `next_event` has one."""
        return bool(self._events)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due, or None."""
        link = self._active_link
        link_timeout = None if link is None else link.next_timeout()
        negotiation = self._negotiation
        deadlines = (
            negotiation.timers.next(),
            link_timeout,
            self._outage_ends,
            self._resumes,
            self._repeat_at,
            negotiation.ask_again_at,
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        if self._resumes is not None and self._resumes <= now:
            self._resumes = None
            self.online(now)
        if self._repeat_at is not None and self._repeat_at <= now:
            self._repeat_hello()
        self._negotiation.handle_timeout(now)
        again_at = self._negotiation.ask_again_at
        if again_at is not None and again_at <= now:
            self._ask_again()
        if self._outage_ends is not None and self._outage_ends <= now:
            self._begin_anew(Feature(0))
        if self._linked is not None:
            self._linked.link.handle_timeout(now)

    def _ask_again(self) -> None:
        """Have the contact repeat its offers, some of which found no room: a Hello not asked for does."""
        self._negotiation.unseen, self._negotiation.ask_again_at = 0, None
        if self.is_online:
            self._ask_hello()

    # What the owner wants.

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
        """Offer a port of ours, or with direction CONNECTION ask for one; see `Negotiation.offer`."""
        self._now = now
        if public_id is not None and self.is_online:
            self.hello_was_broadcast(now)  # a public Hello went before it
        return self._negotiation.offer(protocol, port, name, now, direction=direction, public_id=public_id)

    def restore_acceptance(self, direction: Direction, protocol: Protocol, port: int, name: str) -> Mapping:
        """Remember an acceptance from before; see `Negotiation.restore_acceptance`."""
        return self._negotiation.restore_acceptance(direction, protocol, port, name)

    def accept(self, mapping: Mapping, now: float) -> None:
        """Accept an offer of the contact's; raises `Misuse` where there is none to accept."""
        self._now = now
        self._negotiation.accept(mapping, now)

    def end(self, mapping: Mapping, now: float) -> None:
        """Withdraw, deny or kill a mapping, with all its flows."""
        self._now = now
        self._negotiation.end(mapping, now)

    def connect(self, mapping: Mapping, now: float) -> Flow | None:
        """Start a flow for a local connection; see `Negotiation.connect`."""
        self._now = now
        return self._negotiation.connect(mapping, now)

    def service_up(self, flow: Flow, now: float) -> None:
        """Answer `ServiceWanted`: the service is connected."""
        self._now = now
        self._negotiation.service_up(flow, now)

    def service_failed(self, flow: Flow, reason: Reason, now: float) -> None:
        """Answer `ServiceWanted`: the service could not be connected."""
        self._now = now
        self._negotiation.service_failed(flow, reason, now)

    def ping(self, token: int, now: float) -> bool:
        """Send a Ping; `PongArrived` follows. False while the contact has not said that it answers them."""
        self._now = now
        if not self.is_online:
            return False
        self._greet()
        if Feature.PING not in self.features:
            return False
        self._lossless.send_extension(encode_extension(self._carrier, Ping(token)))
        return True

    def claim(self, token: bytes, now: float) -> None:
        """Tell the contact, now and in each online period, that we have a ticket of its; again at each call.

        `ClaimAnswered` follows, and `forget_claim` ends it.
        """
        self._now = now
        self._claims[token] = False
        if self.is_online:
            self._greet()
            self._send_claims()

    def forget_claim(self, token: bytes) -> None:
        """Speak of a ticket no more."""
        self._claims.pop(token, None)

    def answer_claim(self, token: bytes, now: float, *, valid: bool) -> None:
        """Answer `ClaimArrived`."""
        self._now = now
        if self.is_online:
            self._send(Claimed(token, valid))
