"""Two sessions, or one session and raw v0.1 bytes, joined in memory under a virtual clock."""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from tunfwd.common.values import Reason
from tunfwd.forwarding import events as ev
from tunfwd.forwarding.flow import Flow, Mapping, Origin
from tunfwd.forwarding.flow_table import Limits
from tunfwd.forwarding.session import CARRIER_FEATURES as FEATURES
from tunfwd.forwarding.session import Session, Settings
from tunfwd.forwarding.states import FlowState, MappingState, Role
from tunfwd.wire.carriers import FRIEND, Carrier
from tunfwd.wire.packets import Direction, Feature, Protocol

Answer = Reason | bool | None  # of a service: True is up, None is no answer yet, a reason is why it failed


@dataclass(frozen=True)
class Standing:
    """What a side offers or has accepted, through restarts."""

    direction: Direction
    protocol: Protocol
    port: int
    name: str


class Side:
    """A session and an owner for it, which answers its events the way the daemon does."""

    def __init__(
        self,
        seed: int = 1,
        *,
        carrier: Carrier = FRIEND,
        features: Feature = FEATURES,
        limits: Limits | None = None,
        outage: float = 60.0,
        node_key: bytes = b"",
        tickets: bool = False,
    ) -> None:
        self.random = Random(seed)
        self.carrier = carrier
        self.settings = Settings(features, limits or Limits(), outage, node_key=node_key, tickets=tickets)
        self.service: Callable[[Flow], Answer] = lambda flow: True
        self.auto_accept = True
        self.auto_read = True
        self.auto_end = True
        self.forget_all()
        self.session = self.new_session()

    def new_session(self) -> Session:
        epoch = self.random.getrandbits(64)
        return Session(self.carrier, epoch=epoch, random=self.random, settings=self.settings)

    def forget_all(self) -> None:
        self.events: list[ev.Event] = []
        self.flows: list[Flow] = []
        self.opened: list[Flow] = []
        self.failed: dict[Flow, Reason] = {}
        self.ended: dict[Flow, Reason | None] = {}
        self.got: dict[Flow, bytearray] = {}
        self.eof: set[Flow] = set()
        self.datagrams: dict[Flow, list[bytes]] = {}

    def restart(self) -> None:
        """Come back as another run, with what the state directory keeps."""
        kept = [
            (m.origin, m.direction, m.protocol, m.port, m.name, m.accepted) for m in self.session.mappings
        ]
        self.forget_all()
        self.session = self.new_session()
        for origin, direction, protocol, port, name, taken in kept:
            if origin is Origin.LOCAL:
                self.session.offer(protocol, port, name, 0.0, direction=direction)
            elif taken:
                self.session.restore_acceptance(direction, protocol, port, name)

    def mapping(self, **wanted: object) -> Mapping:
        """The one mapping with these attributes."""
        found = [m for m in self.session.mappings if all(getattr(m, k) == v for k, v in wanted.items())]
        assert len(found) == 1, found
        return found[0]

    def drain(self, now: float) -> bool:
        """Handle the events there are; whether there were any."""
        any_event = False
        while (event := self.session.next_event()) is not None:
            any_event = True
            self.events.append(event)
            self.handle(event, now)
        return any_event

    def handle(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.OfferArrived(mapping):
                if self.auto_accept and mapping.state is MappingState.PENDING:
                    self.session.accept(mapping, now)
            case ev.ServiceWanted(flow):
                self.flows.append(flow)
                self.answer(flow, self.service(flow), now)
            case ev.Opened(flow):
                assert flow not in self.failed
                assert flow not in self.ended
                self.opened.append(flow)
            case ev.Failed(flow, reason):
                assert flow not in self.opened
                assert flow not in self.failed
                self.failed[flow] = reason
            case ev.FlowEnded(flow, reason):
                assert flow not in self.ended
                assert flow not in self.failed
                self.ended[flow] = reason
            case ev.Readable(flow):
                if self.auto_read:
                    self.read(flow)
                if self.auto_end and flow in self.eof and flow.role is Role.SERVING:
                    flow.finish(now)
            case ev.DatagramArrived(flow, payload):
                self.datagrams.setdefault(flow, []).append(payload)

    def answer(self, flow: Flow, answer: Answer, now: float) -> None:
        if isinstance(answer, Reason):
            flow.service_failed(answer, now)
        elif answer:
            flow.service_up(now)

    def fail(self, now: float) -> None:
        """A mistake in the session came to light: what its owner does then."""
        for flow in self.session.fail(now):
            assert flow not in self.ended
            self.ended[flow] = Reason.LOST

    def read(self, flow: Flow, limit: int = 1 << 30) -> bytes:
        data = flow.read(limit)
        self.got.setdefault(flow, bytearray()).extend(data)
        if flow.at_end:
            self.eof.add(flow)
        return data

    def leaks(self) -> dict[str, int]:
        """What a session holds for flows; all zero when none is left."""
        negotiation = self.session._negotiation
        transport = self.session._carriage.lossless
        flow_ids = sum(isinstance(owner, Flow) for owner in negotiation._ids.values())
        timers = sum(isinstance(owner, Flow) for owner in negotiation._timers._deadlines)
        linked = self.session._carriage.linked
        return {
            "flows": len(negotiation._flows._flows),
            "ids": flow_ids,
            "timers": timers,
            "lingering": len(transport.timers._deadlines),
            "shares": sum(negotiation._flows._counts.values())
            + sum(map(len, negotiation._flows._udp.values())),
            "of mappings": sum(len(m.flows) + len(m.waiting_flows) for m in self.session.mappings),
            "turns": len(transport._ready),
            "unread": transport.unread,
            "unsent": transport.unsent,
            "channels": 0 if linked is None else len(linked._channels),
            "streams": 0 if linked is None else len(linked.link._streams),
            "unacknowledged": 0 if linked is None else linked.link._streams.unacked,
        }


@dataclass
class Path:
    """One direction of a carrier: delayed, full at `capacity` lossless packets, which stay in order.

    Lossy ones may be lost, come twice, or come late and out of order: three probabilities.
    """

    delay: float = 0.0
    lossless_lag: float = 0.0  # s that lossless packets take longer
    capacity: int = 1 << 30
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    seed: int = 0
    lossless: deque[tuple[float, bytes]] = field(default_factory=deque)
    lossy: list[tuple[float, int, bytes]] = field(default_factory=list)  # a heap

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._order = count()

    def put_lossy(self, packet: bytes, now: float) -> None:
        """Send it on its way, or not."""
        chance = self._random.random
        if self.loss and chance() < self.loss:
            return
        for _ in range(1 + (self.duplicate > 0 and chance() < self.duplicate)):
            late = self.delay * 2 * chance() if self.reorder and chance() < self.reorder else 0.0
            heapq.heappush(self.lossy, (now + self.delay + late, next(self._order), packet))

    def take_lossy(self, now: float) -> list[bytes]:
        """What has arrived."""
        arrived = []
        while self.lossy and self.lossy[0][0] <= now:
            arrived.append(heapq.heappop(self.lossy)[2])
        return arrived

    @property
    def due(self) -> list[float]:
        """When something will arrive."""
        return [queue[0][0] for queue in (self.lossless, self.lossy) if queue]


class Pair:
    """Two sides and the carrier between them."""

    def __init__(self, a: Side | None = None, b: Side | None = None, **path: float) -> None:
        self.now = 100.0
        self.a, self.b = a or Side(1), b or Side(2)
        self.sides = (self.a, self.b)
        self.paths = {side: Path(**path, seed=n) for n, side in enumerate(self.sides)}  # type: ignore[arg-type]
        self.trace: list[tuple[str, bytes]] = []
        self.refused = 0  # times that the carrier was full

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def connect(self) -> None:
        for side in self.sides:
            side.session.online(self.now)
        self.settle()

    def disconnect(self) -> None:
        """The carrier is interrupted: what it had is lost, and both notice."""
        for side in self.sides:
            self.lose(side)
        self.settle()

    def lose(self, side: Side) -> None:
        """One side sees the other go; what it had sent is lost."""
        self.paths[side].lossless.clear()
        self.paths[side].lossy.clear()
        side.session.offline(self.now)

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(100_000):
            if not any([self._step(side) for side in self.sides]):
                return
        raise AssertionError("it never comes to rest")

    def _step(self, side: Side) -> bool:
        worked = side.drain(self.now)
        path, other = self.paths[side], self.other(side)
        name = "a" if side is self.a else "b"
        while (packet := side.session.next_packet()) is not None:
            if len(path.lossless) >= path.capacity:
                side.session.put_back(packet)
                self.refused += 1
                break
            assert len(packet) <= side.carrier.lossless_limit
            self.trace.append((name, packet))
            path.lossless.append((self.now + path.delay + path.lossless_lag, packet))
            worked = True
        for packet in side.session.lossy_to_send(self.now):
            path.put_lossy(packet, self.now)
            worked = True
        while path.lossless and path.lossless[0][0] <= self.now:
            other.session.receive_lossless(path.lossless.popleft()[1], self.now)
            other.drain(self.now)
            worked = True
        if arrived := path.take_lossy(self.now):
            for packet in arrived:
                other.session.receive_lossy(packet, self.now)
            other.drain(self.now)
            worked = True
        return worked

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            self.settle()
            due = [time for path in self.paths.values() for time in path.due]
            due += [t for side in self.sides if (t := side.session.next_timeout()) is not None]
            if not due or min(due) > end:
                self.now = end
                return
            self.now = max(self.now, min(due))
            for side in self.sides:
                timeout = side.session.next_timeout()
                if timeout is not None and timeout <= self.now:
                    side.session.handle_timeout(self.now)

    # A served port, and a connection to it.

    def serve(self, protocol: Protocol = Protocol.TCP, port: int = 80, name: str = "web") -> Mapping:
        """Offer from `a`; returns the mapping at `b`, running."""
        self.a.session.offer(protocol, port, name, self.now)
        self.run(10 * self.paths[self.a].delay)
        return self.b.mapping(port=port, protocol=protocol, origin=Origin.REMOTE)

    def open(self, mapping: Mapping) -> tuple[Flow, Flow]:
        """Connect at `b`; returns the flow's two ends, the using one first."""
        before = len(self.a.flows)
        flow = self.b.session.connect(mapping, self.now)
        assert flow is not None
        self.run(10 * self.paths[self.a].delay)
        assert flow.state is FlowState.OPEN
        return flow, self.a.flows[before]

    def no_leaks(self) -> None:
        for side in self.sides:
            assert not any(side.leaks().values()), side.leaks()


class Plain:
    """A session facing a peer that speaks v0.1 and nothing else, byte by byte."""

    def __init__(self, side: Side | None = None) -> None:
        self.side = side or Side(1)
        self.session = self.side.session
        self.now = 100.0
        self.session.online(self.now)
        self.next_id = 0x1000

    def send(self, kind: int, msg_id: int, body: bytes = b"") -> None:
        packet = b"\xa7" + bytes((kind,)) + msg_id.to_bytes(4, "little") + body
        self.session.receive_lossless(packet, self.now)
        self.side.drain(self.now)

    def offer(
        self, protocol: Protocol, direction: Direction, port: int = 80, name: bytes = b"x", msg_id: int = 0
    ) -> int:
        if not msg_id:
            self.next_id += 1
            msg_id = self.next_id
        body = bytes((protocol, direction)) + port.to_bytes(2, "little") + bytes((len(name),)) + name
        self.send(0, msg_id, body)
        return msg_id

    def accept(self, msg_id: int) -> None:
        self.send(1, msg_id)

    def ack(self, msg_id: int) -> None:
        self.send(2, msg_id)

    def kill(self, msg_id: int) -> None:
        self.send(3, msg_id)

    def data(self, msg_id: int, payload: bytes) -> None:
        self.send(4, msg_id, payload)

    def datagram(self, msg_id: int, payload: bytes) -> None:
        self.session.receive_lossy(b"\xc8" + msg_id.to_bytes(4, "little") + payload, self.now)
        self.side.drain(self.now)

    def heard(self) -> list[tuple[int, int, bytes]]:
        """(type, msg_id, rest) of everything said since the last time; a Hello is skipped, as v0.1 does."""
        self.side.drain(self.now)
        packets = []
        while (packet := self.session.next_packet()) is not None:
            assert packet[:1] == b"\xa7"
            if packet[1] != 0x0F:
                packets.append((packet[1], int.from_bytes(packet[2:6], "little"), packet[6:]))
        self.side.drain(self.now)
        return packets

    def heard_datagrams(self) -> list[tuple[int, bytes]]:
        packets = []
        for packet in self.session.lossy_to_send(self.now):
            assert packet[:1] == b"\xc8"
            packets.append((int.from_bytes(packet[1:5], "little"), packet[5:]))
        return packets

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.session.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.session.handle_timeout(self.now)
            self.side.drain(self.now)
        self.now = end


def said(pair: Pair, name: str) -> Counter[int]:
    """How many packets of each type byte a side has sent (friend carrier)."""
    return Counter(packet[1] for who, packet in pair.trace if who == name)
