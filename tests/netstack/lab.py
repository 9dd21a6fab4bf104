"""A stack under test, the program behind the kernel that it talks to, and the clock they share.

The program is played by hand: a test says what segment arrives and reads what segments come back. Frames are
taken apart here by code of its own, strict about all that the TUN device would be strict about.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from tunfwd.netstack import Connection, Endpoint, Frame, HostState, Stack, events
from tunfwd.netstack.events import Event
from tunfwd.wire import ip, tcp, vnet
from tunfwd.wire.checksum import checksum, ones_complement_sum

FIN, SYN, RST, PSH, ACK = tcp.FIN, tcp.SYN, tcp.RST, tcp.PSH, tcp.ACK

OWN = (IPv4Interface("10.77.0.1/16"), IPv6Interface("fd77::1/64"))
OWN4, OWN6 = OWN[0].ip.packed, OWN[1].ip.packed
HOST4, HOST6 = ip_address("10.77.3.9").packed, ip_address("fd77::9").packed
OFFLINE = ip_address("10.77.3.10").packed
UNKNOWN = ip_address("10.77.3.11").packed

ISS = 1_000_000  # the program's initial sequence number
PROGRAM = Endpoint(OWN4, 40000)
HOST = Endpoint(HOST4, 80)


def host_state(address: bytes) -> HostState:
    return {OFFLINE: HostState.OFFLINE, UNKNOWN: HostState.UNKNOWN}.get(address, HostState.ONLINE)


@dataclass(frozen=True)
class Seen:
    """A segment that the stack sent."""

    source: Endpoint
    destination: Endpoint
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    payload: bytes
    options: bytes
    gso_size: int

    @property
    def said(self) -> tuple[int, int, int, bytes]:
        return self.flags, self.sequence, self.acknowledgment, self.payload


def flatten(frame: Frame) -> bytes:
    return b"".join(frame)


def dissect(frame: bytes) -> Seen:
    """Read a frame as the kernel would, and check what it would check."""
    header = vnet.parse(frame)
    packet = ip.parse(frame, vnet.LENGTH)
    assert packet.protocol == ip.TCP
    assert packet.end == len(frame) <= vnet.LENGTH + 65535
    network = packet.payload - vnet.LENGTH
    segment = tcp.parse(frame, packet.payload, packet.end)
    length = 20 + len(segment.options)
    assert header.flags == vnet.FLAG_NEEDS_CSUM
    assert header.header_length == network + length
    assert (header.checksum_start, header.checksum_offset) == (network, 16)
    transport = len(frame) - packet.payload
    pseudo = packet.source + packet.destination + struct.pack(">HH", 6, transport)
    assert frame[packet.payload + 16 : packet.payload + 18] == ones_complement_sum(pseudo).to_bytes(2, "big")
    if header.gso_type:
        assert header.gso_type == (vnet.GSO_TCPV4 if packet.version == 4 else vnet.GSO_TCPV6)
        assert 0 < header.gso_size < len(segment.payload)
        assert network + length + header.gso_size <= 1500
    else:
        assert header.gso_size == 0
        assert network + transport <= 1500
    return Seen(
        Endpoint(packet.source, segment.source_port), Endpoint(packet.destination, segment.destination_port),
        segment.sequence, segment.acknowledgment, segment.flags, segment.window,
        bytes(segment.payload), bytes(segment.options), header.gso_size,
    )  # fmt: skip


def cut(frame: bytes) -> list[bytes]:
    """What a network card would make of a super-segment: packets of at most the MTU, with whole checksums."""
    header = vnet.parse(frame)
    packet = ip.parse(frame, vnet.LENGTH)
    if packet.protocol != ip.TCP:
        return [frame]
    head = frame[packet.payload : vnet.LENGTH + header.header_length]
    payload = frame[vnet.LENGTH + header.header_length :]
    size = header.gso_size or max(1, len(payload))
    packets = []
    for offset in range(0, len(payload), size) if payload else (0,):
        part = payload[offset : offset + size]
        segment = bytearray(head + part)
        segment[4:8] = (int.from_bytes(head[4:8], "big") + offset & 0xFFFFFFFF).to_bytes(4, "big")
        if offset + size < len(payload):
            segment[13] &= ~(FIN | PSH)
        segment[16:18] = b"\0\0"
        pseudo = packet.source + packet.destination + struct.pack(">HH", 6, len(segment))
        segment[16:18] = checksum(pseudo + segment).to_bytes(2, "big")
        network = ip.build_header(packet.source, packet.destination, ip.TCP, len(segment), dont_fragment=True)
        packets.append(vnet.PLAIN + network + segment)
    return packets


def packet(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """A frame with a packet that is complete as it stands."""
    return vnet.PLAIN + ip.build_header(source, destination, protocol, len(payload)) + payload


def tcp_frame(
    source: Endpoint, destination: Endpoint, flags: int, sequence: int, acknowledgment: int = 0,
    payload: bytes = b"", window: int = 65535, options: bytes = b"",
) -> bytes:  # fmt: skip
    """A frame as the kernel writes them with checksum offload."""
    header = tcp.build_header(
        source.port, destination.port, sequence=sequence, acknowledgment=acknowledgment,
        flags=flags, window=window, checksum=0, options=options,
    )  # fmt: skip
    network = ip.build_header(source.address, destination.address, ip.TCP, len(header) + len(payload))
    return vnet.build(0, 0, 0, len(network), 16) + network + header + payload


SYN_OPTIONS = tcp.build_syn_options(tcp.Options(1460, 7, True))


@dataclass
class Lab:
    """`program` is an address of the kernel's, `host` a virtual one."""

    program: Endpoint = PROGRAM
    host: Endpoint = HOST
    mtu: int = 1500
    now: float = 1000.0
    stack: Stack = field(init=False)
    iss: int = 0  # the stack's
    connection: Connection = field(init=False)
    pending: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stack = Stack(OWN, host_state, random.Random(1), self.mtu)

    def arrive(
        self, flags: int, sequence: int = 0, acknowledgment: int | None = 0, payload: bytes = b"",
        window: int = 65535, options: bytes = b"",
    ) -> None:  # fmt: skip
        """A segment of the program's: numbers count from its, and our, initial sequence number."""
        self.stack.receive(
            [
                tcp_frame(
                    self.program, self.host, flags, ISS + sequence,
                    0 if acknowledgment is None or not flags & ACK else self.iss + acknowledgment,
                    payload, window, options,
                )
            ],
            self.now,
        )  # fmt: skip

    def sent(self) -> list[Seen]:
        """What the stack sends now."""
        return [dissect(flatten(frame)) for frame in self.frames()]

    def frames(self) -> list[Frame]:
        pending, self.pending = self.pending, []
        return pending + self.stack.packets_to_send(self.now)

    def said(self) -> list[tuple[int, int, int, bytes]]:
        """Flags, sequence, acknowledgment (both relative) and payload of what the stack sends now."""
        return [
            (
                seen.flags,
                seen.sequence - self.iss & 0xFFFFFFFF,
                (seen.acknowledgment - ISS & 0xFFFFFFFF) if seen.flags & ACK else 0,
                seen.payload,
            )
            for seen in self.sent()
        ]

    def events(self) -> list[Event]:
        told = []
        while (event := self.stack.next_event()) is not None:
            told.append(event)
        return told

    def told(self) -> list[str]:
        """The names of the events."""
        return [type(event).__name__ for event in self.events()]

    def wait(self, seconds: float) -> None:
        """Let time pass, with all deadlines kept, until something is sent: `sent` and `said` return it."""
        until = self.now + seconds
        while not self.pending and (deadline := self.stack.next_timeout()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.stack.handle_timeout(self.now)
            self.pending += self.stack.packets_to_send(self.now)
        if not self.pending:
            self.now = until

    # One constructor for each state

    def incoming(self, options: bytes = SYN_OPTIONS, window: int = 65535) -> Lab:
        self.arrive(SYN, options=options, window=window)
        (event,) = self.events()
        assert isinstance(event, events.Incoming)
        self.connection = event.connection
        assert self.sent() == []
        return self

    def syn_received(self, options: bytes = SYN_OPTIONS, window: int = 65535) -> Lab:
        self.incoming(options, window)
        self.connection.accept()
        (answer,) = self.sent()
        self.iss = answer.sequence
        assert answer.flags == SYN | ACK
        return self

    def established(self, options: bytes = SYN_OPTIONS, window: int = 65535) -> Lab:
        """`window` as on the wire: SYN_OPTIONS scale it by 128 after the handshake."""
        self.syn_received(options)
        self.arrive(ACK, 1, 1, window=window)
        assert self.told() == ["Connected"]
        assert self.sent() == []
        return self

    def syn_sent(self, timeout: float = 75.0) -> Lab:
        self.connection = self.stack.connect(self.host, self.program, self.now, timeout)
        (syn,) = self.sent()
        self.iss = syn.sequence
        assert syn.flags == SYN
        return self

    def fin_wait_1(self) -> Lab:
        self.established().connection.shutdown()
        assert self.said() == [(FIN | ACK, 1, 1, b"")]
        return self

    def fin_wait_2(self) -> Lab:
        self.fin_wait_1().arrive(ACK, 1, 2)
        assert self.said() == []
        return self

    def close_wait(self) -> Lab:
        self.established().arrive(FIN | ACK, 1, 1)
        assert self.told() == ["Eof"]
        assert self.said() == [(ACK, 1, 2, b"")]
        return self

    def closing(self) -> Lab:
        self.fin_wait_1().arrive(FIN | ACK, 1, 1)
        assert self.told() == ["Eof"]
        assert self.said() == [(ACK, 2, 2, b"")]
        return self

    def last_ack(self) -> Lab:
        self.close_wait().connection.shutdown()
        assert self.said() == [(FIN | ACK, 1, 2, b"")]
        return self

    def time_wait(self) -> Lab:
        self.fin_wait_2().arrive(FIN | ACK, 1, 2)
        assert self.told() == ["Eof", "Closed"]
        assert self.said() == [(ACK, 2, 2, b"")]
        return self
