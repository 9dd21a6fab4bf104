"""The stack: packets of the TUN device in, connections and datagrams out, and back.

    frames -> receive -> IP -> TCP -> Connection -> events
                            -> UDP -> Datagram
                            -> ICMP -> EchoRequest, errors
    Connection, DatagramQueue, errors -> packets_to_send -> frames

It stands for all hosts of the virtual network but our own: every address is listened to, on every port, and
what becomes of a packet is for the owner to decide. No I/O, no clock: the owner passes frames and the time.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final, assert_never

from tunfwd.common.errors import Malformed, Misuse
from tunfwd.common.timers import Timers
from tunfwd.common.values import Random, Reason
from tunfwd.netstack import events
from tunfwd.netstack.connection import CONNECT_TIMEOUT, Connection
from tunfwd.netstack.connection_table import ConnectionTable
from tunfwd.netstack.datagrams import MAX_PAYLOAD_V4, MAX_PAYLOAD_V6, DatagramQueue
from tunfwd.netstack.error_queue import ErrorQueue
from tunfwd.netstack.events import DatagramRefused, EchoRequest, Event, EventQueue, Fault
from tunfwd.netstack.path import Path
from tunfwd.netstack.reassembly import Reassembly
from tunfwd.netstack.statistics import Statistics
from tunfwd.netstack.types import NEVER, Endpoint, Frame, HostState
from tunfwd.netstack.virtual_network import Verdict, VirtualNetwork
from tunfwd.wire import icmp, ip, tcp, udp, vnet
from tunfwd.wire.checksum import Buffer, checksum, pseudo_header_sum

MAX_ECHO_REQUESTS: Final = 256  # that wait for the owner; the oldest gives way
MAX_FRAMES: Final = 4096  # resets and the like that wait to be sent
FRAMES_A_ROUND: Final = 256  # of TCP; how long sending may keep us from receiving


class Stack:
    """All virtual hosts behind one TUN device.

    After any call, its consequences are in `next_event`, `packets_to_send` and `next_timeout`.
    """

    def __init__(
        self,
        own: tuple[IPv4Interface, IPv6Interface],
        host_state: Callable[[bytes], HostState],
        random: Random,
        mtu: int = 1500,
        *,
        udp_segmentation: bool = True,
        local: Container[bytes] | None = None,
    ) -> None:
        """`own` are this machine's addresses on the device, with the virtual networks they belong to.

        `host_state` is asked, with a packed address, for each SYN, datagram and echo request. `mtu` in bytes.
        `udp_segmentation` is whether the kernel takes super-segments of UDP (Linux 6.2). `local`
        is asked, with a packed address that is not `own`, whether it is this machine's; what comes from
        others, forwarded by the kernel, is dropped. None: nobody is asked.
        """
        self._network = VirtualNetwork(own, local)
        self._host_state = host_state
        self._mtu = mtu
        self._events = EventQueue()
        self._table = ConnectionTable(self, self._events, random, mtu)
        self._timers: Timers[Connection] = Timers()
        self._reassembly = Reassembly()
        self._datagrams = DatagramQueue(mtu, udp_segmentation, random.getrandbits(32))
        self._echoes: OrderedDict[tuple[bytes, bytes, int], None] = OrderedDict()
        self._senders: deque[Connection] = deque()
        self._frames: list[Frame] = []
        self._errors = ErrorQueue()
        self._statistics = Statistics()

    def set_own(self, addresses: Iterable[bytes]) -> None:
        """Have the device have these addresses of ours, packed, besides those that it always has."""
        self._network.set_own(addresses)

    def is_own(self, address: bytes) -> bool:
        """Whether a packed address is one of ours on the device."""
        return self._network.is_own(address)

    def statistics(self) -> Statistics:
        """Return a copy of the counters."""
        return replace(
            self._statistics,
            fragments_dropped=self._reassembly.dropped,
            datagrams_dropped=self._statistics.datagrams_dropped + self._datagrams.dropped,
            errors_suppressed=self._errors.suppressed,
            connections=len(self._table),
            incoming=self._table.incoming,
            timers=len(self._timers),
        )

    # In

    def receive(self, frames: Iterable[Buffer], now: float) -> None:
        """Process frames as read: virtio_net_hdr and one packet each. They must not change afterwards.

        What is malformed, or not for a virtual host, is dropped and counted.
        """
        for frame in frames:
            self._statistics.frames += 1
            try:
                self._receive_frame(frame, now)
            except Malformed:
                self._statistics.malformed += 1
            except Exception as error:  # a bug of ours: it costs this packet, and no other
                self._events.append(Fault(error, None))

    def _receive_frame(self, frame: Buffer, now: float) -> None:
        packet = ip.parse(frame, vnet.LENGTH)
        header = vnet.parse(frame)
        if packet.fragment is not None:
            self._receive_fragment(frame, packet, now)
        elif packet.protocol == ip.TCP:
            self._receive_tcp(frame, packet, header, now)
        elif self._is_answerable(packet):
            self._receive_other(frame, packet, header)

    def _receive_fragment(self, frame: Buffer, packet: ip.Packet, now: float) -> None:
        self._statistics.fragments += 1
        whole = self._reassembly.add(frame, packet, now)
        if whole is None:
            return
        payload, first = whole
        packet = replace(packet, start=0, payload=0, end=len(payload), fragment=None, dont_fragment=False)
        header = vnet.Header(0, vnet.GSO_NONE, 0, 0, 0, 0)
        if packet.protocol == ip.TCP:
            self._receive_tcp(payload, packet, header, now)
        elif self._is_answerable(packet):
            self._receive_other(payload, packet, header, first)

    def _is_answerable(self, packet: ip.Packet) -> bool:
        """Whether the packet goes from one host to another, and not from a virtual one."""
        match verdict := self._network.judge(packet.source, packet.destination):
            case Verdict.FINE:
                return True
            case Verdict.FOR_ALL if packet.protocol == ip.UDP:
                return True
            case Verdict.FOR_ALL | Verdict.NOISE:
                self._statistics.noise += 1
            case Verdict.BAD_SOURCE:
                self._statistics.bad_source += 1
            case Verdict.FOREIGN:
                self._statistics.foreign_source += 1
            case _:
                assert_never(verdict)
        return False

    def _is_sound(self, data: Buffer, packet: ip.Packet, header: vnet.Header) -> bool:
        """Whether the transport checksum is right, or need not be verified."""
        if header.flags & (vnet.FLAG_NEEDS_CSUM | vnet.FLAG_DATA_VALID):
            return True
        initial = 0
        if packet.protocol != ip.ICMP:
            initial = pseudo_header_sum(
                packet.source, packet.destination, packet.protocol, packet.end - packet.payload
            )
        if checksum(memoryview(data)[packet.payload : packet.end], initial) == 0:
            return True
        self._statistics.bad_checksum += 1
        return False

    # TCP in

    def _receive_tcp(self, data: Buffer, packet: ip.Packet, header: vnet.Header, now: float) -> None:
        segment = tcp.parse(data, packet.payload, packet.end)
        if not self._is_sound(data, packet, header):
            return
        key = (packet.source, packet.destination, segment.source_port, segment.destination_port)
        connection = self._table.get(key)
        if connection is not None and not connection.superseded_by(segment):
            try:
                connection.receive(segment, now)
            except Exception as error:
                self._give_up(connection, error)
            self._keep_time(connection)
            return
        if not self._is_answerable(packet):
            return
        if not segment.source_port or not segment.destination_port:
            raise Malformed("port 0")
        if segment.flags & (tcp.SYN | tcp.ACK | tcp.RST) == tcp.SYN:
            self._receive_syn(data, packet, segment, now)
        elif not segment.flags & tcp.RST:
            self._reset(packet, segment)

    def _receive_syn(self, data: Buffer, packet: ip.Packet, segment: tcp.Segment, now: float) -> None:
        original = memoryview(data)[packet.start : packet.end]
        if not self._is_online(packet, original):
            return
        local = Endpoint(packet.destination, segment.destination_port)
        remote = Endpoint(packet.source, segment.source_port)
        connection = self._table.new_incoming(local, remote, now)
        if connection is None:
            self._statistics.syns_dropped += 1
            return
        connection.open_passively(segment, bytes(original[: icmp.QUOTE_V4]), now)
        self._keep_time(connection)

    def _reset(self, packet: ip.Packet, segment: tcp.Segment) -> None:
        """Answer a segment that belongs to no connection (RFC 9293 3.10.7.1)."""
        self._statistics.resets_sent += 1
        path = Path(packet.destination, packet.source, self._mtu)
        ports = segment.destination_port, segment.source_port
        if segment.flags & tcp.ACK:
            self.send_now(path.segment(*ports, sequence=segment.acknowledgment, flags=tcp.RST))
            return
        length = len(segment.payload) + bool(segment.flags & tcp.SYN) + bool(segment.flags & tcp.FIN)
        self.send_now(
            path.segment(
                *ports,
                sequence=0,
                acknowledgment=segment.sequence + length,
                flags=tcp.RST | tcp.ACK,
            )
        )

    # UDP and ICMP in

    def _receive_other(
        self, data: Buffer, packet: ip.Packet, header: vnet.Header, first: memoryview | None = None
    ) -> None:
        """Process UDP and ICMP; `first` is the first fragment of a packet that came in several."""
        original = memoryview(data)[packet.start : packet.end] if first is None else first
        if packet.protocol == ip.UDP:
            self._receive_udp(data, packet, header, original)
        elif packet.protocol == (ip.ICMP if packet.version == 4 else ip.ICMPV6):
            if self._is_sound(data, packet, header):
                self._receive_icmp(data, packet, original)
        else:
            self._statistics.unknown_protocol += 1
            if self._is_online(packet, original):
                self._answer_error(icmp.Error.PROTOCOL_UNREACHABLE, packet, original)

    def _receive_udp(
        self, data: Buffer, packet: ip.Packet, header: vnet.Header, original: memoryview
    ) -> None:
        datagram = udp.parse(data, packet.payload, packet.end)
        if datagram.checksum == 0 and packet.version == 6:
            raise Malformed("UDP without a checksum")
        if datagram.destination_port == 0:
            raise Malformed("port 0")
        if datagram.checksum and not self._is_sound(data, packet, header):
            return
        for_all = False
        if self._host_state(packet.destination) is not HostState.ONLINE:
            for_all = self._is_for_all(packet)
            if not for_all:
                self._report_absence(packet, original)
                return
        source = Endpoint(packet.source, datagram.source_port)
        destination = Endpoint(packet.destination, datagram.destination_port)
        payload = datagram.payload
        size = len(payload)
        if header.gso_type & ~vnet.GSO_ECN == vnet.GSO_UDP_L4:
            size = header.gso_size or size
        for offset in range(0, size and len(payload), size) if size else (0,):
            if not self._events.reserve(packet.destination):
                self._statistics.datagrams_dropped += 1
                continue
            part = payload[offset : offset + size]
            if for_all:
                self._events.append(events.Broadcast(source, destination, part))
                continue
            self._events.append(events.Datagram(source, destination, part, packet.dont_fragment, original))

    def _is_for_all(self, packet: ip.Packet) -> bool:
        """Whether a datagram is this machine's, to nobody in particular."""
        network = self._network
        to_all = network.judge(packet.source, packet.destination) is Verdict.FOR_ALL
        return to_all or (network.is_outside(packet.destination) and network.is_ours(packet.source))

    def _receive_icmp(self, data: Buffer, packet: ip.Packet, original: memoryview) -> None:
        match icmp.parse(data, packet):
            case icmp.Echo() as echo:
                if self._is_online(packet, original):
                    self._receive_echo(EchoRequest(packet.source, packet.destination, echo))
            case icmp.Report() as report:
                self._receive_report(report)
            case None:
                self._statistics.icmp_ignored += 1

    def _receive_echo(self, request: EchoRequest) -> None:
        self._echoes[request.source, request.destination, request.echo.rest] = None
        if len(self._echoes) > MAX_ECHO_REQUESTS:
            self._echoes.popitem(last=False)
            self._statistics.echo_requests_dropped += 1
        self._events.append(request)

    def _receive_report(self, report: icmp.Report) -> None:
        quoted = icmp.parse_quote(report.quote)
        if quoted.protocol == ip.TCP:
            connection = self._table.get(
                (quoted.destination, quoted.source, quoted.destination_port, quoted.source_port)
            )
            if connection is None:
                self._statistics.icmp_ignored += 1
            elif report.error is icmp.Error.TOO_BIG:
                connection.packet_too_big(report.mtu, quoted.sequence)
            else:
                refused = report.error in (icmp.Error.PORT_UNREACHABLE, icmp.Error.PROTOCOL_UNREACHABLE)
                connection.icmp_error(Reason.REFUSED if refused else Reason.UNREACHABLE, quoted.sequence)
                self._keep_time(connection)
        elif quoted.protocol == ip.UDP and report.error is not icmp.Error.TOO_BIG:
            refused = report.error is icmp.Error.PORT_UNREACHABLE
            self._events.append(
                DatagramRefused(
                    Endpoint(quoted.source, quoted.source_port),
                    Endpoint(quoted.destination, quoted.destination_port),
                    Reason.REFUSED if refused else Reason.UNREACHABLE,
                )
            )
        else:
            self._statistics.icmp_ignored += 1

    def _is_online(self, packet: ip.Packet, original: memoryview) -> bool:
        """Whether the destination is there; if not, its absence is reported to the sender."""
        if self._host_state(packet.destination) is HostState.ONLINE:
            return True
        self._report_absence(packet, original)
        return False

    def _report_absence(self, packet: ip.Packet, original: memoryview) -> None:
        self._statistics.host_unreachable += 1
        self._answer_error(icmp.Error.HOST_UNREACHABLE, packet, original)

    def _answer_error(self, error: icmp.Error, packet: ip.Packet, original: memoryview) -> None:
        self._errors.append(error, packet.destination, packet.source, quote=original)

    # The owner's calls

    def next_event(self) -> Event | None:
        """Return the next event, or None."""
        return self._events.next()

    def connect(
        self, local: Endpoint, remote: Endpoint, now: float, timeout: float = CONNECT_TIMEOUT
    ) -> Connection:
        """Open a connection from a virtual address; port 0 stands for any that is free.

        Connected follows, or ConnectFailed, at the latest after `timeout` seconds. Raises Exhausted, and
        Misuse if there is such a connection already.
        """
        connection = self._table.new_outgoing(local, remote, now)
        connection.open_actively(timeout, now)
        return connection

    def send_datagram(self, local: Endpoint, remote: Endpoint, payload: bytes) -> None:
        """Send a UDP datagram from a virtual address; Misuse if it is longer than any can be."""
        if len(payload) > (MAX_PAYLOAD_V4 if len(local.address) == 4 else MAX_PAYLOAD_V6):
            raise Misuse("datagram too long")
        self._datagrams.append(local, remote, payload)

    def port_unreachable(self, event: events.Datagram) -> None:
        """Say that nothing listens on the port that the datagram is for."""
        self._datagram_error(icmp.Error.PORT_UNREACHABLE, event)

    def host_unreachable(self, event: events.Datagram) -> None:
        """Say that the host that the datagram is for cannot be reached after all."""
        self._datagram_error(icmp.Error.HOST_UNREACHABLE, event)

    def too_big(self, event: events.Datagram, mtu: int) -> None:
        """Say that an IP packet of `mtu` bytes is the most that can be carried. Silent if it may be cut."""
        if event.dont_fragment:
            least = ip.MIN_MTU_V4 if len(event.source.address) == 4 else ip.MIN_MTU_V6
            self._datagram_error(icmp.Error.TOO_BIG, event, max(mtu, least))

    def answer_echo(self, request: EchoRequest) -> None:
        """Answer for the host that is pinged; once, and not if too many others came since."""
        try:
            del self._echoes[request.source, request.destination, request.echo.rest]
        except KeyError:
            return
        path = Path(request.destination, request.source, self._mtu)
        message = icmp.build_echo_reply(request.destination, request.source, request.echo)
        protocol = ip.ICMP if len(request.source) == 4 else ip.ICMPV6
        for frame in path.fragments(protocol, message, self._datagrams.next_identification()):
            self.send_now(frame)

    def _datagram_error(self, error: icmp.Error, event: events.Datagram, mtu: int = 0) -> None:
        if not event.packet:
            return
        self._errors.append(
            error, event.destination.address, event.source.address, quote=event.packet, mtu=mtu
        )

    # Out

    def packets_to_send(self, now: float) -> list[Frame]:
        """Return the frames to write now, in order. If there are more, `next_timeout` is not after `now`."""
        frames, self._frames = self._frames, []
        if self._errors:
            frames += self._errors.frames(now)
        if self._datagrams:
            frames += self._datagrams.frames()
        senders = self._senders
        for _ in range(len(senders)):
            if len(frames) >= FRAMES_A_ROUND:
                break
            connection = senders.popleft()
            connection.will_send = False
            try:
                more = connection.transmit(frames, now)
            except Exception as error:
                more = False
                self._give_up(connection, error)
            if more:
                self.wants_to_send(connection)
            self._keep_time(connection)
        return frames

    @property
    def has_frames(self) -> bool:
        """Whether `packets_to_send` may have any."""
        return bool(self._senders or self._frames or self._errors or self._datagrams)

    def next_timeout(self) -> float | None:
        """Return when to call handle_timeout, and packets_to_send after it; None if nothing is due, ever."""
        if self._senders or self._frames or self._errors or self._datagrams:
            return 0.0
        due, of_fragments = self._timers.next(), self._reassembly.deadline
        deadline = of_fragments if due is None else min(due, of_fragments)
        return None if deadline == NEVER else deadline

    def handle_timeout(self, now: float) -> None:
        """Act on every deadline that has passed."""
        self._reassembly.expire(now)
        for connection in self._timers.expire(now):
            try:
                connection.handle_timeout(now)
            except Exception as error:
                self._give_up(connection, error)
            self._keep_time(connection)

    def _keep_time(self, connection: Connection) -> None:
        """Note that a connection's deadline may have changed."""
        deadline = connection.deadline
        if deadline == NEVER:
            self._timers.cancel(connection)
        else:
            self._timers.set(connection, deadline)

    def _give_up(self, connection: Connection, error: Exception) -> None:
        """Reset a connection in whose processing a bug of ours came to light, and tell the owner."""
        handler = connection.handler
        self._events.append(Fault(error, connection))
        connection.timer.stop()
        try:
            connection.abort()
        except Exception:
            self._table.remove(connection)
        connection.handler = handler  # for the owner, who tells it

    # What connections ask for; see connection.Environment

    def wants_to_send(self, connection: Connection) -> None:
        """Have the connection asked for frames."""
        if not connection.will_send:
            connection.will_send = True
            self._senders.append(connection)

    def send_now(self, frame: Frame) -> None:
        """Send a frame that is not retransmitted."""
        if len(self._frames) < MAX_FRAMES:
            self._frames.append(frame)
        else:
            self._statistics.frames_dropped += 1

    def report_unreachable(self, connection: Connection) -> None:
        """Answer a SYN with an ICMP error."""
        self._errors.append(
            icmp.Error.HOST_UNREACHABLE,
            connection.local.address,
            connection.remote.address,
            quote=connection.syn_packet,
        )

    def decided(self, connection: Connection) -> None:
        """Count a SYN as no longer waiting for the owner."""
        self._table.decided(connection)

    def forget(self, connection: Connection) -> None:
        """Release a connection's endpoints, and its timer."""
        self._table.remove(connection)
        self._keep_time(connection)
