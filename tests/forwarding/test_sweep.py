"""Every state of a mapping and of a flow, met by every packet and every call of the owner.

What a contact sends never raises. What the owner asks for raises `Misuse` where the tables have no such step,
and only there. What changes is what the tables list, and afterwards the contact can still be served: none of
it may leave the session stuck.
"""

from collections.abc import Callable

import pytest

from tests.forwarding.pair import Pair, Side
from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding.flow import Flow, Mapping, Origin
from tunfwd.forwarding.session import CARRIER_FEATURES as FEATURES
from tunfwd.forwarding.states import FLOW, MAPPING, FlowEvent, FlowState, MappingEvent, MappingState
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import (
    Accept,
    AckAcc,
    Credit,
    Data,
    Direction,
    Feature,
    Fin,
    Hello,
    Kill,
    Offer,
    Ping,
    Pong,
    Protocol,
    Reset,
    encode,
    encode_extension,
)

M, F = MappingState, FlowState
TCP, UDP = Protocol.TCP, Protocol.UDP
ID = 0x5150  # of the contact's Offers
PORT = 80
EPOCH = 77


class Scene:
    """A session in some state, and the ids a packet may name."""

    def __init__(self, origin: Origin, direction: Direction, protocol: Protocol, features: Feature) -> None:
        self.side = Side(5)
        self.side.auto_accept = False
        self.side.service = lambda flow: None
        self.session = self.side.session
        self.origin, self.direction, self.protocol, self.features = origin, direction, protocol, features
        self.now = 50.0
        self.flow: Flow | None = None
        self.mapping: Mapping | None = None

    def receive(self, packet: object) -> None:
        self.session.receive_lossless(encode(FRIEND, packet), self.now)  # type: ignore[arg-type]

    def drain(self) -> None:
        self.side.drain(self.now)
        while self.session.next_packet() is not None or self.session.lossy_to_send(0.0):
            pass
        self.side.drain(self.now)

    @property
    def msg_id(self) -> int:
        flow = self.flow
        return flow.msg_id if flow and flow.msg_id else self.mapping.msg_id if self.mapping else 1

    def reach(self, state: MappingState) -> "Scene":
        """Come to a state of the mapping the way it is come to in life."""
        session = self.session
        ours = self.origin is Origin.LOCAL
        if state is M.WAITING or ours:
            if ours:
                self.mapping = session.offer(self.protocol, PORT, "n", self.now, direction=self.direction)
            else:
                self.mapping = session.restore_acceptance(self.direction, self.protocol, PORT, "n")
        if state is M.WAITING:
            return self
        session.online(self.now)
        if self.features:
            self.receive(Hello(self.features, EPOCH))
        if not ours:
            self.receive(Offer(ID, self.protocol, self.direction, PORT, "n"))
            (self.mapping,) = session.mappings
        assert self.mapping is not None
        match state, ours:
            case M.DECLINED, True:
                self.receive(Kill(self.mapping.msg_id))
            case M.ENDED, _:
                session.end(self.mapping, self.now)
            case M.RUNNING, True:
                self.receive(Accept(self.mapping.msg_id))
            case ((M.READY | M.ACCEPTED | M.RUNNING), False):
                session.accept(self.mapping, self.now)
        self.side.drain(self.now)
        if state is M.RUNNING and not ours:
            if self.mapping.state is M.READY:
                self.flow = session.connect(self.mapping, self.now)
            elif self.side.flows:
                self.side.flows[0].service_up(self.now)
            self.receive(AckAcc(ID))
        if self.side.flows:
            self.flow = self.side.flows[0]
        self.drain()
        return self

    def serve_flow(self, state: FlowState) -> "Scene":
        """From a running mapping, come to a state of one flow."""
        session, mapping = self.session, self.mapping
        assert mapping is not None
        if state in (F.WAITING, F.REQUESTED):
            assert state is F.REQUESTED
            self.flow = session.connect(mapping, self.now)
        elif mapping.role.value == "using":
            self.flow = session.connect(mapping, self.now)
            assert self.flow is not None
            self.receive(Accept(self.flow.msg_id))
        else:
            self.receive(Offer(0x77, self.protocol, Direction.CONNECTION, PORT, ""))
            self.side.drain(self.now)
            self.flow = self.side.flows[-1]
            if state is not F.CONNECTING:
                self.flow.service_up(self.now)
            if state in (F.OPEN, F.CLOSED):
                self.receive(AckAcc(self.flow.msg_id))
        assert self.flow is not None
        if state is F.CLOSED:
            self.receive(Reset(self.flow.msg_id, Reason.ABORTED))
        self.drain()
        assert self.flow.state is state
        return self


def packets_for(scene: Scene) -> dict[str, Callable[[], None]]:
    """All that a contact can send."""
    msg_id, proto = scene.msg_id, scene.protocol
    lossless = {
        "offer, same id": Offer(msg_id, proto, scene.direction, PORT, "n"),
        "offer, renewed": Offer(0x999, proto, scene.direction, PORT, "n"),
        "offer, other": Offer(0x998, proto, Direction.SERVER, 81, "other"),
        "connection offer": Offer(0x997, proto, Direction.CONNECTION, PORT, ""),
        "connection offer, id 0": Offer(0, proto, Direction.CONNECTION, PORT, ""),
        "accept": Accept(msg_id),
        "accept, unknown": Accept(0x1234),
        "ack": AckAcc(msg_id),
        "ack, unknown": AckAcc(0x1234),
        "kill": Kill(msg_id),
        "kill, unknown": Kill(0x1234),
        "data": Data(msg_id, b"data"),
        "data, empty": Data(msg_id, b""),
        "data, huge": Data(msg_id, bytes(2 << 20)),
        "fin": Fin(msg_id),
        "reset": Reset(msg_id, Reason.REFUSED),
        "credit": Credit(msg_id, (1 << 64) - 1),
        "credit, less": Credit(msg_id, 0),
        "hello, again": Hello(scene.features, EPOCH),
        "hello, plainer": Hello(Feature(0), EPOCH),
        "hello, restarted": Hello(FEATURES, EPOCH + 1),
    }
    calls: dict[str, Callable[[], None]] = {
        name: lambda packet=packet: scene.receive(packet)  # type: ignore[misc]
        for name, packet in lossless.items()
    }
    lossy = {
        "datagram": b"\xc8" + msg_id.to_bytes(4, "little") + b"d",
        "ping": encode_extension(FRIEND, Ping(1)),
        "pong": encode_extension(FRIEND, Pong(1)),
    }
    for name, packet in lossy.items():
        calls[name] = lambda packet=packet: scene.session.receive_lossy(packet, scene.now)  # type: ignore[misc]
    return calls


def owner_calls_for(scene: Scene) -> dict[str, Callable[[], None]]:
    """All that the owner can do."""
    session, mapping, flow = scene.session, scene.mapping, scene.flow
    assert mapping is not None

    def time_passes() -> None:
        scene.now += 3600
        session.handle_timeout(scene.now)

    def end() -> None:
        if mapping in session.mappings:
            session.end(mapping, scene.now)

    calls: dict[str, Callable[[], object]] = {
        "accept here": lambda: session.accept(mapping, scene.now),
        "end": end,
        "connect": lambda: session.connect(mapping, scene.now),
        "offline": lambda: session.offline(scene.now),
        "online": lambda: session.online(scene.now),
        "offer": lambda: session.offer(scene.protocol, PORT, "again", scene.now),
        "ping": lambda: session.ping(3, scene.now),
        "hour": time_passes,
    }
    if flow is not None:
        calls |= {
            "service up": lambda: flow.service_up(scene.now),
            "service failed": lambda: flow.service_failed(Reason.TIMED_OUT, scene.now),
            "write": lambda: flow.write(b"w" * 1_000_000),
            "read": lambda: flow.read(10),
            "finish": lambda: flow.finish(scene.now),
            "reset by us": flow.reset,
            "datagram out": lambda: flow.send_datagram(b"u", scene.now),
        }
    return calls  # type: ignore[return-value]


KINDS = [
    (origin, direction, protocol, features)
    for origin in Origin
    for direction in Direction
    for protocol in Protocol
    for features in (Feature(0), FEATURES, Feature.MANY)
]


def reachable(kind: tuple[Origin, Direction, Protocol, Feature], state: MappingState) -> bool:
    origin, direction, protocol, features = kind
    if origin is Origin.LOCAL:
        return state not in (M.PENDING, M.READY, M.ACCEPTED)
    if state in (M.OFFERED, M.DECLINED):
        return False
    plain_tcp = protocol is TCP and direction is Direction.SERVER and not features
    return (state is not M.READY) if not plain_tcp else (state is not M.ACCEPTED)


SCENES = {
    f"{state.value} {origin.value} {direction.name} {protocol.name} {features!s}".lower(): (
        (origin, direction, protocol, features),
        state,
    )
    for origin, direction, protocol, features in KINDS
    for state in MappingState
    if reachable((origin, direction, protocol, features), state)
}

# States one step away, by what the tables say.
NEXT = {state: {state} for state in MappingState}
for (before, _), after in MAPPING.items():
    NEXT[before].add(after)


def ways(state: MappingState, steps: int) -> set[MappingState]:
    """The states within so many steps of the table."""
    found = {state}
    for _ in range(steps):
        found |= {after for before in found for after in NEXT[before]}
    return found


def still_works(scene: Scene) -> None:
    """Whatever happened: a new period with the contact carries a connection."""
    session = scene.session
    scene.drain()
    session.offline(scene.now)
    scene.now += 10  # what is held for the contact's return has given up
    session.handle_timeout(scene.now)
    scene.drain()
    assert not any(scene.side.leaks().values())
    for mapping in list(session.mappings):
        session.end(mapping, scene.now)
    scene.side.auto_accept, scene.side.service = True, lambda flow: True
    scene.drain()
    pair = Pair(scene.side, Side(9))
    pair.now = scene.now
    pair.connect()
    before = len(scene.side.flows)
    session.offer(TCP, 7, "echo", pair.now)
    pair.run(1)
    using = pair.b.session.connect(pair.b.mapping(), pair.now)
    assert using is not None
    pair.run(1)
    using.write(b"works")
    pair.run(1)
    assert scene.side.got[scene.side.flows[before]] == b"works"


def is_misuse(stimulus: str, scene: Scene) -> bool:
    """Whether a call of the owner is a step that the tables do not have."""
    mapping, flow = scene.mapping, scene.flow
    match stimulus:
        case "accept here":
            return mapping is None or mapping.state is not M.PENDING
        case "offer":
            same = (Origin.LOCAL, Direction.SERVER, scene.protocol)
            return any((m.origin, m.direction, m.protocol) == same for m in scene.session.mappings)
        case "service up" | "service failed":  # one that is closed was ended by the contact meanwhile
            return flow is not None and flow.state not in (F.CONNECTING, F.CLOSED)
    return False


@pytest.mark.parametrize("name", SCENES)
def test_every_state_of_a_mapping(name: str) -> None:
    kind, state = SCENES[name]
    reference = Scene(*kind).reach(state)
    assert reference.mapping is not None
    assert reference.mapping.state is state
    names = [*packets_for(reference), *owner_calls_for(reference)]
    for stimulus in names:
        scene = Scene(*kind).reach(state)
        calls = packets_for(scene) | owner_calls_for(scene)
        mapping = scene.mapping
        assert mapping is not None
        if is_misuse(stimulus, scene):
            with pytest.raises(Misuse):
                calls[stimulus]()
        else:
            calls[stimulus]()
        # At most lost, offered again, and accepted, in one stimulus.
        assert mapping.state in ways(state, 3), stimulus
        assert (mapping.state is M.ENDED) == (mapping not in scene.session.mappings)
        still_works(scene)


STIMULI = [
    *packets_for(Scene(Origin.LOCAL, Direction.SERVER, TCP, FEATURES)),
    *("accept here", "end", "connect", "offline", "online", "offer", "ping", "hour"),
    *("service up", "service failed", "write", "read", "finish", "reset by us", "datagram out"),
]


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("state", [state for state in FlowState if state is not F.WAITING])
@pytest.mark.parametrize("stimulus", STIMULI)
def test_every_state_of_a_flow(protocol: Protocol, state: FlowState, stimulus: str) -> None:
    for origin in Origin:
        direction = Direction.SERVER
        serves = origin is Origin.LOCAL
        if (state is F.REQUESTED and serves) or (state in (F.CONNECTING, F.ANSWERED) and not serves):
            direction = Direction.CONNECTION  # the role that has this state
        scene = Scene(origin, direction, protocol, FEATURES).reach(M.RUNNING).serve_flow(state)
        flow = scene.flow
        assert flow is not None
        calls = packets_for(scene) | owner_calls_for(scene)
        if is_misuse(stimulus, scene):
            with pytest.raises(Misuse):
                calls[stimulus]()
            assert flow.state is state
        else:
            calls[stimulus]()
        allowed = {state, *(after for (before, _), after in FLOW.items() if before is state)}
        assert flow.state in allowed
        still_works(scene)


# What each event of the tables comes from: the outcome of single packets, by name.
OUTCOMES: list[tuple[str, str, MappingState]] = [
    ("offered local server tcp 0", "accept", M.RUNNING),
    ("offered local server tcp 0", "kill", M.DECLINED),
    ("offered local server tcp 0", "offline", M.WAITING),
    ("offered local server tcp 0", "ack", M.OFFERED),
    ("pending remote server tcp 0", "accept here", M.READY),
    ("pending remote server udp 0", "accept here", M.ACCEPTED),
    ("pending remote server tcp 0", "kill", M.ENDED),
    ("pending remote server tcp 0", "offer, renewed", M.PENDING),
    ("pending remote server tcp 0", "offer, same id", M.PENDING),
    ("pending remote server tcp 0", "offline", M.ENDED),
    ("pending remote server tcp 0", "end", M.ENDED),
    ("ready remote server tcp 0", "kill", M.WAITING),
    ("ready remote server tcp 0", "connect", M.RUNNING),
    ("ready remote server tcp 0", "offer, renewed", M.READY),
    ("accepted remote server udp 0", "ack", M.RUNNING),
    ("accepted remote server udp 0", "kill", M.WAITING),
    ("running remote server udp 0", "offer, renewed", M.ACCEPTED),
    ("running local server tcp 0", "service failed", M.WAITING),
    ("running local server tcp 0", "offline", M.WAITING),
]


@pytest.mark.parametrize(("scene_name", "stimulus", "outcome"), OUTCOMES)
def test_outcomes(scene_name: str, stimulus: str, outcome: MappingState) -> None:
    kind, state = SCENES[scene_name]
    scene = Scene(*kind).reach(state)
    (packets_for(scene) | owner_calls_for(scene))[stimulus]()
    assert scene.mapping is not None
    assert scene.mapping.state is outcome


def test_tables_are_complete() -> None:
    """Every state is entered by something; every event does something; ends are final."""
    assert {after for after in MAPPING.values()} | {M.WAITING} == set(MappingState)
    assert {event for _, event in MAPPING} == set(MappingEvent)
    assert M.ENDED not in {state for state, _ in MAPPING}
    assert {event for _, event in FLOW} == set(FlowEvent)
    assert F.CLOSED not in {state for state, _ in FLOW}


@pytest.mark.parametrize("event", MappingEvent)
@pytest.mark.parametrize("state", MappingState)
def test_a_mapping_has_no_step_but_the_tables(state: MappingState, event: MappingEvent) -> None:
    mapping = Mapping(Origin.LOCAL, Direction.SERVER, TCP, PORT, "n", state=state)
    after = MAPPING.get((state, event))
    assert mapping.has_step(event) == (after is not None)
    if after is None:
        with pytest.raises(Misuse, match=f"{state.name} has no step {event.name}"):
            mapping.advance(event)
    else:
        mapping.advance(event)
    assert mapping.state is (after or state)


@pytest.mark.parametrize("event", FlowEvent)
@pytest.mark.parametrize("state", FlowState)
def test_a_flow_has_no_step_but_the_tables(state: FlowState, event: FlowEvent) -> None:
    mapping = Mapping(Origin.LOCAL, Direction.SERVER, TCP, PORT, "n")
    flow = Flow(Side().session._negotiation._flows, mapping, 1, state)
    after = FLOW.get((state, event))
    if after is None:
        with pytest.raises(Misuse, match=f"{state.name} has no step {event.name}"):
            flow.advance(event)
    else:
        flow.advance(event)
    assert flow.state is (after or state)
