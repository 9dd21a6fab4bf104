"""One link, one session, one stack: each with a hostile peer, an owner that does its part, and a clock."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.negotiation import WAITING_TIMEOUT
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.states import FlowState, MappingState, Role
from tunfwd.link import Bbr, Cubic, Link, NewReno, StreamReadable
from tunfwd.link.congestion import ControllerFactory
from tunfwd.netstack import Connection, Endpoint, Stack, events
from tunfwd.netstack.states import State
from tunfwd.netstack.types import Exhausted
from tunfwd.wire import ip, tcp, udp, vnet
from tunfwd.wire.carriers import FRIEND, GROUP
from tunfwd.wire.checksum import checksum
from tunfwd.wire.frames import HEADER, link_tag
from tunfwd.wire.packets import Data, Direction, Feature, Hello, Protocol, encode

from ..forwarding.pair import Side
from ..netstack.lab import HOST4, HOST6, OFFLINE, OWN, OWN4, OWN6, UNKNOWN, flatten, host_state, tcp_frame
from .bounds import link_in_bounds, session_in_bounds, stack_in_bounds
from .choices import Choices
from .hostile import EPOCHS, PORTS, Hostile

if TYPE_CHECKING:
    from tunfwd.wire.carriers import Carrier

DELAYS = (0.0, 0.001, 0.05, 0.5, 3.0, 70.0, 200.0)  # s between two steps
SERVICES = (True, None, Reason.REFUSED, Reason.TIMED_OUT)  # how a service answers

# --- a link -------------------------------------------------------------------------------------------------


def link(data: bytes) -> None:
    """Frames of a peer, and an owner with streams of its own."""
    choices = Choices(data)
    now = 1000.0
    hostile = Hostile(FRIEND)
    prefix = hostile._link_prefix
    controllers: tuple[ControllerFactory, ...] = (Bbr, Cubic, NewReno)
    controller = choices.one_of(controllers)
    under_test = Link(5, EPOCHS[0], Random(1), now, prefix=prefix, controller=controller)
    hostile.heard(encode(FRIEND, Hello(FEATURES, 5)))
    ended: set[int] = set()
    for id_ in (1, 2):
        under_test.stream_open(id_)
    while choices:
        if choices.below(3):
            packets = [hostile._on_link(hostile._frame(choices), choices)]
            if choices.yes(16):
                header = HEADER.pack(link_tag(EPOCHS[0], 5), choices.number(32))
                packets.append(prefix + header + choices.take(choices.below(64)))
            under_test.receive(packets, now)
        else:
            now += choices.one_of(DELAYS[:6])
            _own_link(under_test, ended, choices, now)
        while (event := under_test.next_event()) is not None:
            if isinstance(event, StreamReadable) and choices.below(4):
                under_test.stream_read(event.id, 1 << 16)
        timeout = under_test.next_timeout()
        if timeout is not None and timeout <= now:
            under_test.handle_timeout(now)
        for packet in under_test.packets_to_send(now):
            assert len(packet) <= 1373
            hostile.heard(packet)
        link_in_bounds(under_test)


def _own_link(under_test: Link, ended: set[int], choices: Choices, now: float) -> None:
    id_ = 1 + choices.below(2)
    match choices.below(9):
        case 0 | 1 | 2:
            if id_ not in ended:
                under_test.stream_write(id_, choices.payload(60_000))
        case 3:
            under_test.send_datagram(id_, choices.payload(60_000))
        case 4:
            under_test.send_control(encode(FRIEND, Data(id_, choices.payload(1300))))
        case 5:
            under_test.stream_read(id_, choices.number(16))
        case 6:
            if choices.yes(4):
                ended.add(id_)
                under_test.stream_finish(id_)
        case 7:
            if choices.yes(8):
                under_test.stream_reset(id_, 1)
                under_test.stream_stop(id_, 1)
        case 8:
            under_test.path_lost(now)
            under_test.path_restored(now)


# --- a session ----------------------------------------------------------------------------------------------


def plain_session(data: bytes) -> None:
    """A contact that need not say Hello, where we have no link."""
    _session(data, FRIEND, CARRIER_FEATURES)


def linked_session(data: bytes) -> None:
    """A contact that we have a link with from the start."""
    _session(data, FRIEND, FEATURES, greet=True)


def member_session(data: bytes) -> None:
    """A member of a group."""
    _session(data, GROUP, FEATURES)


def _session(data: bytes, carrier: Carrier, features: Feature, *, greet: bool = False) -> None:
    choices = Choices(data)
    side = Side(1, carrier=carrier, features=features)
    hostile = Hostile(carrier)
    now = 100.0
    side.session.online(now)
    side.session.offer(Protocol.TCP, 80, "web", now)
    side.session.offer(Protocol.UDP, 53, "dns", now)
    if greet:
        side.session.receive_lossless(encode(carrier, Hello(FEATURES, EPOCHS[0])), now)
    _carry(side, hostile, now)
    while choices:
        if choices.below(4):
            for way, packet in hostile.say(choices):
                getattr(side.session, f"receive_{way}")(packet, now)
        else:
            now += _own_session(side, choices, now)
        _carry(side, hostile, now)
        session_in_bounds(side.session)
    side.session.leave(now)
    _carry(side, hostile, now + WAITING_TIMEOUT)  # until those know it that wait for the contact to come back
    left = side.leaks()
    assert not any(left.values()), left


def _own_session(side: Side, choices: Choices, now: float) -> float:
    """One step of the owner's; returns the seconds that pass."""
    session = side.session
    flows = list(side.flows[-8:])
    match choices.below(12):
        case 0:
            return choices.one_of(DELAYS)
        case 1:
            answer = choices.one_of(SERVICES)
            side.service = lambda _: answer
        case 2:
            side.auto_accept = not side.auto_accept
        case 3:
            side.auto_read = not side.auto_read
        case 4:
            direction = Direction.CONNECTION if choices.below(2) else Direction.SERVER
            protocol = choices.one_of((Protocol.TCP, Protocol.UDP))
            with suppress(Misuse):  # the same port twice
                session.offer(protocol, choices.one_of(PORTS), "mine", now, direction=direction)
        case 5 | 6:
            using = [m for m in session.mappings if m.role is Role.USING and m.accepted]
            if using and (flow := session.connect(choices.one_of(using), now)) is not None:
                side.flows.append(flow)
        case 7:
            if session.mappings and choices.yes(4):
                session.end(choices.one_of(session.mappings), now)
        case 8:
            pending = [m for m in session.mappings if m.state is MappingState.PENDING]
            if pending:
                session.accept(choices.one_of(pending), now)
        case 9:
            session.offline(now)
            side.drain(now)
            session.online(now + choices.one_of(DELAYS))
        case _:
            if flows:
                _own_flow(side, choices.one_of(flows), choices, now)
    return 0.0


def _own_flow(side: Side, flow: Flow, choices: Choices, now: float) -> None:
    if flow.state is FlowState.CONNECTING:
        side.answer(flow, choices.one_of(SERVICES), now)
        return
    match choices.below(6):
        case 0 | 1:
            if flow.channel is not None:
                flow.write(choices.payload(100_000))
        case 2:
            if flow.channel is not None:
                side.read(flow, choices.number(16))
        case 3:
            if flow.is_open and flow.channel is None:
                flow.send_datagram(choices.payload(3000), now)
        case 4:
            if flow.is_open and flow.channel is not None:
                flow.finish(now)
        case 5:
            flow.reset(Reason.ABORTED)


def _carry(side: Side, hostile: Hostile, now: float) -> None:
    """Do what is due, and let the contact hear what is said to it."""
    session = side.session
    side.drain(now)
    while (packet := session.next_packet()) is not None:
        hostile.heard(packet)
    for packet in session.lossy_to_send(now):
        hostile.heard(packet)
    side.drain(now)
    for _ in range(20):
        timeout = session.next_timeout()
        if timeout is None or timeout > now:
            break
        session.handle_timeout(now)
        side.drain(now)


# --- the netstack -------------------------------------------------------------------------------------------

ADDRESSES = (OWN4, HOST4, OFFLINE, UNKNOWN, OWN6, HOST6, bytes(4), b"\xff" * 4, b"\x7f\0\0\1", b"\xff" * 16)
FLAGS = (tcp.SYN, tcp.ACK, tcp.SYN | tcp.ACK, tcp.RST, tcp.FIN | tcp.ACK, tcp.RST | tcp.ACK, 0, 0xFF)


class Program:
    """The kernel's side of connections, as far as the input keeps to the rules."""

    def __init__(self) -> None:
        self.next: dict[int, int] = {}  # sequence number, by our port
        self.heard: dict[int, int] = {}  # what to acknowledge

    def frame(self, choices: Choices) -> bytes:
        """Any frame that a kernel, or somebody behind it, could send."""
        v6 = choices.yes(4)
        source, destination = (OWN6, HOST6) if v6 else (OWN4, HOST4)
        if choices.yes(8):
            source = choices.one_of(ADDRESSES)
        if choices.yes(8):
            destination = choices.one_of(ADDRESSES)
        if len(source) != len(destination):
            source = destination
        match choices.below(10):
            case 0:
                return vnet.PLAIN + choices.take(choices.below(80))
            case 1:
                return self._other(choices, source, destination)
            case 2:
                return self._fragment(choices, source, destination)
            case 3:
                return _whole(source, destination, ip.UDP, self._udp(choices))
        return self._segment(choices, source, destination)

    def _segment(self, choices: Choices, source: bytes, destination: bytes) -> bytes:
        port = 40000 + choices.below(4)
        flags = choices.one_of(FLAGS) if choices.below(3) else tcp.ACK
        sequence = self.next.get(port, 1000)
        acknowledgment = self.heard.get(port, 0)
        payload = choices.payload(3000) if flags == tcp.ACK else b""
        match choices.below(8):
            case 0:
                sequence = choices.number(32)
            case 1:
                acknowledgment = choices.number(32)
            case 2:
                sequence = (sequence - choices.below(3000)) & 0xFFFFFFFF
            case 3:
                sequence = (sequence + choices.below(3000)) & 0xFFFFFFFF
            case _:
                length = len(payload) + bool(flags & tcp.SYN) + bool(flags & tcp.FIN)
                self.next[port] = (sequence + length) & 0xFFFFFFFF
        window = choices.number(16) & 0xFFFF
        options = choices.take(choices.below(11) * 4) if choices.yes(4) else b""
        options += bytes(-len(options) % 4)
        return tcp_frame(
            Endpoint(source, port), Endpoint(destination, choices.one_of((80, 81))), flags, sequence,
            acknowledgment, payload, window, options,
        )  # fmt: skip

    def _udp(self, choices: Choices) -> bytes:
        payload = choices.payload(2000)
        return (
            udp.build_header(choices.one_of((5000, 0)), choices.one_of((53, 0)), 8 + len(payload), 0)
            + payload
        )

    def _other(self, choices: Choices, source: bytes, destination: bytes) -> bytes:
        """ICMP of a right checksum, most of it an error about one of our packets; or some other protocol."""
        if choices.yes(4):
            return _whole(source, destination, choices.below(256), choices.take(60))
        port = 40000 + choices.below(4)
        sequence = (self.heard.get(port, 0) - choices.below(2) & 0xFFFFFFFF).to_bytes(4, "big")
        ports = (80).to_bytes(2, "big") + port.to_bytes(2, "big") + sequence
        quote = ip.build_header(destination, source, choices.one_of((ip.TCP, ip.UDP)), 8) + ports
        body = choices.one_of((quote, choices.take(40)))
        v4 = len(source) == 4
        kind = choices.one_of((3, 8, 11, 12) if v4 else (1, 2, 3, 4, 128))
        message = bytearray((kind, choices.below(6), 0, 0)) + choices.number(32).to_bytes(4, "big") + body
        pseudo = b"" if v4 else source + destination + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58))
        message[2:4] = checksum(pseudo + message).to_bytes(2, "big")
        return _whole(source, destination, ip.ICMP if v4 else ip.ICMPV6, bytes(message))

    def _fragment(self, choices: Choices, source: bytes, destination: bytes) -> bytes:
        payload = self._udp(choices)
        if len(source) != 4:
            return _whole(source, destination, ip.UDP, payload)
        header = bytearray(ip.build_header(source, destination, ip.UDP, len(payload)))
        header[4:6] = choices.below(3).to_bytes(2, "big")
        header[6:8] = (choices.below(2) << 13 | choices.number(13) & 0x1FFF).to_bytes(2, "big")
        header[10:12] = bytes(2)
        header[10:12] = checksum(header).to_bytes(2, "big")
        return vnet.PLAIN + header + payload

    def hear(self, frame: bytes) -> None:
        """Learn what is to be acknowledged."""
        packet = ip.parse(frame, vnet.LENGTH)
        if packet.protocol == ip.TCP and packet.fragment is None:
            segment = tcp.parse(frame, packet.payload, packet.end)
            length = len(segment.payload) + bool(segment.flags & tcp.SYN) + bool(segment.flags & tcp.FIN)
            self.heard[segment.destination_port] = (segment.sequence + length) & 0xFFFFFFFF


def _whole(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    return vnet.PLAIN + ip.build_header(source, destination, protocol, len(payload)) + payload


def stack(data: bytes) -> None:
    """Frames of any kind, and an owner with connections both ways."""
    choices = Choices(data)
    now = 1000.0
    under_test = Stack(OWN, host_state, Random(1), 1500)
    program = Program()
    connections: list[Connection] = []
    while choices:
        if choices.below(3):
            under_test.receive([program.frame(choices)], now)
        else:
            now += _own_stack(under_test, connections, choices, now)
        timeout = under_test.next_timeout()
        if timeout is not None and timeout <= now:
            under_test.handle_timeout(now)
        while (event := under_test.next_event()) is not None:
            _on_event(under_test, event, connections)
        for frame in under_test.packets_to_send(now):
            whole = flatten(frame)
            assert len(whole) <= vnet.LENGTH + 65535 + 40
            program.hear(whole)
        stack_in_bounds(under_test)


def _on_event(under_test: Stack, event: events.Event, connections: list[Connection]) -> None:
    match event:
        case events.Incoming(connection):
            connections.append(connection)
            del connections[:-8]
        case events.Datagram():
            if len(event.payload) % 3 == 1:
                under_test.port_unreachable(event)
            elif len(event.payload) % 3 == 2:
                under_test.too_big(event, 1000)
        case events.EchoRequest():
            under_test.answer_echo(event)


def _own_stack(under_test: Stack, connections: list[Connection], choices: Choices, now: float) -> float:
    """One step of the owner's; returns the seconds that pass."""
    kind = choices.below(10)
    if kind == 0:
        return choices.one_of(DELAYS)
    if kind == 1:
        local, remote = Endpoint(HOST4, 0), Endpoint(OWN4, 40000 + choices.below(4))
        with suppress(Exhausted):
            connections.append(under_test.connect(local, remote, now))
        return 0.0
    if kind == 2:
        under_test.send_datagram(Endpoint(HOST4, 53), Endpoint(OWN4, 5000), choices.payload(9000))
        return 0.0
    if not connections:
        return 0.0
    connection = choices.one_of(connections[::-1])
    if connection.state is State.INCOMING:
        choices.one_of((connection.accept, connection.accept, connection.refuse, connection.unreachable))()
        return 0.0
    match kind:
        case 3 | 4 | 5:
            if not connection._send.closing:
                connection.write(choices.payload(65535))
        case 6 | 7:
            connection.read(choices.number(16))
        case 8:
            connection.shutdown()
        case 9:
            if choices.yes(4):
                connection.abort()
    return 0.0
