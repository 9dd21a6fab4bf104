"""One TCP connection between a virtual address and a program behind the kernel (RFC 9293).

Fed by stack.py with segments and the time; in return asks it for a turn to send, and to tell the owner. The
data are kept by receive_buffer.py and send_buffer.py; states, timer and choice of segments are here.

Nothing is sent from within a call of the owner or on arrival of a segment, except duplicate acknowledgments:
`transmit` sends everything, once for each round of arrivals, and so acknowledges any number of segments once.
"""

from typing import Final, Protocol, assert_never

from tunfwd.common.errors import Misuse
from tunfwd.common.streams import StreamHandler
from tunfwd.common.values import Reason
from tunfwd.netstack.connection_timer import SYN_ACK_ATTEMPTS, ConnectionTimer, Purpose
from tunfwd.netstack.path import Path
from tunfwd.netstack.receive_buffer import WINDOW_SCALE, Arrival, ReceiveBuffer
from tunfwd.netstack.segment_writer import SegmentWriter
from tunfwd.netstack.send_buffer import SendBuffer
from tunfwd.netstack.sequence import unwrap
from tunfwd.netstack.shares import Shares
from tunfwd.netstack.states import RECEIVING, SYNCHRONIZED, TRANSITIONS, State, Step
from tunfwd.netstack.types import NEVER, AbortReason, Endpoint, Frame
from tunfwd.wire import tcp
from tunfwd.wire.checksum import Buffer

SUPER_SEGMENTS: Final = 8  # a round and connection: enough to fill the window of a reader that keeps up
CONNECT_TIMEOUT: Final = 75.0  # s; RFC 9293 3.8.3 lets the owner choose less
PATIENCE: Final = 130.0  # s a SYN waits for the owner; a Linux client gives up after 127 s
TIME_WAIT: Final = 1.0  # s; RFC 9293 3.4.2 says 4 minutes; the path is a queue in this machine
ACK_DELAY: Final = 0.002
"""s that the acknowledgment of a small segment waits for data to go with; RFC 9293 3.8.6.3 allows 0.5 s.

An answer over a short path comes within that. With a longer wait, a program that waits for an acknowledgment
before it sends the rest of its question (Nagle's algorithm) would notice.
"""
QUICK_AT_FIRST: Final = 16  # segments of a connection that are acknowledged at once, as Linux does
QUICK: Final = 64  # the same, after data did not follow in time: the path is long, or nothing is answered
MIN_MSS: Final = 88  # bytes; less would make a super-segment of more packets than the kernel cuts


class Environment(Protocol):
    """What a connection asks of the stack it belongs to."""

    def wants_to_send(self, connection: "Connection") -> None:
        """Have `transmit` called in this round."""

    def send_now(self, frame: Frame) -> None:
        """Send ahead of what `transmit` returns."""

    def report_unreachable(self, connection: "Connection") -> None:
        """Answer the connection's SYN with an ICMP error."""

    def decided(self, connection: "Connection") -> None:
        """The connection has left INCOMING."""

    def forget(self, connection: "Connection") -> None:
        """The connection is CLOSED: no segment is for it any more."""


class Listener(Protocol):
    """What the owner of the stack is told of a connection; see events.py."""

    def incoming(self, connection: "Connection") -> None:
        """A SYN waits for the owner."""

    def connected(self, connection: "Connection") -> None:
        """The handshake is complete."""

    def connect_failed(self, connection: "Connection", reason: Reason) -> None:
        """The connection could not be established."""

    def readable(self, connection: "Connection") -> None:
        """There is something to read."""

    def writable(self, connection: "Connection") -> None:
        """There is space again."""

    def eof(self, connection: "Connection") -> None:
        """The peer has finished."""

    def aborted(self, connection: "Connection", reason: AbortReason) -> None:
        """The connection was reset or lost."""

    def closed(self, connection: "Connection") -> None:
        """Both directions have ended in order."""


class Connection:
    """The stack's end of a connection: `local` is a virtual address, `remote` the program's."""

    __slots__ = (
        "_acknowledge",
        "_closed_told",
        "_environment",
        "_eof_told",
        "_give_up",
        "_listener",
        "_path",
        "_probe",
        "_quick",
        "_readable_told",
        "_receive",
        "_send",
        "_send_scale",
        "_syn_due",
        "_unacknowledged",
        "_writer",
        "acknowledge_at",
        "handler",
        "local",
        "muted",
        "remote",
        "share",
        "state",
        "syn_packet",
        "timer",
        "will_send",
    )

    def __init__(
        self,
        environment: Environment,
        listener: Listener,
        path: Path,
        ports: tuple[int, int],
        sequence: int,
        share: Shares[bytes],
    ) -> None:
        """`ports` are ours and the peer's; `sequence` is our initial sequence number."""
        self._environment = environment
        self._listener = listener
        self._path = path
        self.local = Endpoint(path.source, ports[0])
        self.remote = Endpoint(path.destination, ports[1])
        self.share = share
        """Whose share it is counted in; kept by the table."""
        self.state = State.CLOSED
        self.syn_packet = b""
        """The IP packet of the SYN that is to be answered."""
        self.muted = False
        """Whether the owner has asked for no more events."""
        self.handler: StreamHandler | None = None
        """Where the owner passes its events to. The owner sets it; muting clears it."""
        self.will_send = False
        """Whether `transmit` is scheduled; kept by the stack."""
        self.timer = ConnectionTimer()
        self._give_up = NEVER
        self._send = SendBuffer(sequence + 1, path.mss, path.max_payload)
        self._send_scale = 0
        self._receive = ReceiveBuffer()
        self._writer = SegmentWriter(path, ports, self._send, self._receive)
        self._syn_due = False
        self._acknowledge = False
        self.acknowledge_at = NEVER
        """When an acknowledgment that waits for an answer is due without one."""
        self._unacknowledged = 0  # bytes since the last acknowledgment, in small segments
        self._quick = QUICK_AT_FIRST
        self._probe = False
        self._readable_told = False
        self._eof_told = False
        self._closed_told = False

    def __repr__(self) -> str:
        return f"<Connection {self.local.port} {self.remote.port} {self.state.name}>"

    # The owner's side

    def accept(self) -> None:
        """Answer the SYN. Connected follows; what is written before is sent then."""
        if self.state is State.CLOSED:
            return  # its sender has given up in the meantime, which an event says
        self._require(State.INCOMING)
        self._advance(Step.ACCEPT)
        self._environment.decided(self)
        self._syn_due = True
        self.timer.stop()
        self._wants_to_send()

    def refuse(self) -> None:
        """Answer the SYN with a reset."""
        if self.state is State.CLOSED:
            return
        self._require(State.INCOMING)
        self.abort()

    def unreachable(self) -> None:
        """Answer the SYN with ICMP host unreachable."""
        if self.state is State.CLOSED:
            return
        self._require(State.INCOMING)
        self.muted = True
        self.handler = None
        self._environment.report_unreachable(self)
        self._close()

    def ignore(self) -> None:
        """Leave the SYN without an answer, as a dead host does, until the program gives up."""

    def write(self, data: Buffer) -> int:
        """Take as much of `data` as there is room for, and return how many bytes that was.

        Writable follows a short write. Nothing is taken after the connection's last event.
        """
        if self._send.closing:
            raise Misuse("write after shutdown")
        if self.state is State.CLOSED:
            return 0
        accepted = self._send.write(data)
        self._wants_to_send()
        return accepted

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes that have arrived; reading opens the window."""
        data = self._receive.read(limit)
        self._readable_told = False
        if data:
            if self.state in RECEIVING and self._receive.update_due():
                self._acknowledge = True
                self._wants_to_send()
            self._tell_end()
        return data

    def shutdown(self) -> None:
        """Send FIN after all that was written. Reading goes on. A second call changes nothing."""
        if self.state is State.INCOMING:
            raise Misuse("shutdown before accept")
        if self.state is not State.CLOSED:
            self._send.closing = True
            self._wants_to_send()

    def abort(self) -> None:
        """Reset the connection and drop what is buffered. The owner hears nothing more of it."""
        self.muted = True
        self.handler = None
        if self.state is State.INCOMING:
            self._environment.send_now(self._writer.refusal())
        elif self.state not in (State.SYN_SENT, State.TIME_WAIT, State.CLOSED):
            self._environment.send_now(self._writer.reset())
        self._close()

    # Opening

    def open_passively(self, segment: tcp.Segment, syn_packet: bytes, now: float) -> None:
        """Hold a SYN until the owner decides."""
        self.state = State.INCOMING
        self.syn_packet = syn_packet
        self._take_syn(segment)
        self.timer.start(Purpose.PATIENCE, now + PATIENCE)
        self._listener.incoming(self)

    def open_actively(self, timeout: float, now: float) -> None:
        """Send a SYN, and give up after `timeout` seconds."""
        self.state = State.SYN_SENT
        self._give_up = now + timeout
        self._receive.begin(0, WINDOW_SCALE)
        self._syn_due = True
        self._wants_to_send()

    def _take_syn(self, segment: tcp.Segment) -> None:
        """Agree on options: each is in use only if both sides named it."""
        options = tcp.parse_options(segment.options)
        scale = WINDOW_SCALE if options.window_scale is not None else 0
        self._receive.begin(segment.sequence + 1, scale)
        self._send_scale = options.window_scale or 0
        self._writer.sack_permitted = options.sack_permitted
        mss = self._path.default_mss if options.mss is None else max(options.mss, MIN_MSS)
        self._send.mss = min(mss, self._path.mss)
        self._send.set_window(segment.sequence, segment.window)

    # Arrival of segments

    def receive(self, segment: tcp.Segment, now: float) -> None:
        """Process a segment (RFC 9293 3.10.7)."""
        self.timer.heard = now
        if self.state is State.INCOMING:
            self._arrives_incoming(segment)
        elif self.state is State.SYN_SENT:
            self._arrives_syn_sent(segment, now)
        else:
            self._arrives(segment, now)
        self._wants_to_send()

    def _arrives_incoming(self, segment: tcp.Segment) -> None:
        if segment.flags & tcp.RST:
            if unwrap(segment.sequence, self._receive.next) == self._receive.next:
                self._abort(AbortReason.RESET)
        elif segment.flags & tcp.ACK:
            self._environment.send_now(self._writer.reset_unknown(segment.acknowledgment))
        elif segment.flags & tcp.SYN:
            self._take_syn(segment)  # the same again, or a new attempt from the same port

    def _arrives_syn_sent(self, segment: tcp.Segment, now: float) -> None:
        flags = segment.flags
        if flags & tcp.ACK and unwrap(segment.acknowledgment, self._send.una) != self._send.una:
            if not flags & tcp.RST:
                self._environment.send_now(self._writer.reset_unknown(segment.acknowledgment))
        elif flags & tcp.RST:
            if flags & tcp.ACK:
                self._fail(Reason.REFUSED)
        elif flags & tcp.SYN:
            self._take_syn(segment)
            if flags & tcp.ACK:
                self._establish(now)
                self._acknowledge = True
            else:
                self._advance(Step.SYN_CROSSED)
                self._syn_due = True

    def _arrives(self, segment: tcp.Segment, now: float) -> None:
        receive, flags, payload = self._receive, segment.flags, segment.payload
        start = unwrap(segment.sequence, receive.next)
        fin = bool(flags & tcp.FIN)
        if not receive.acceptable(start, start + len(payload) + fin + bool(flags & tcp.SYN)):
            self._arrives_unacceptable(start, flags, now)
            return
        if flags & tcp.RST:
            if start != receive.next:
                self._acknowledge = True  # a challenge: RFC 5961 3.2
            elif self.state is not State.TIME_WAIT:  # where all has arrived: RFC 1337 3
                self._abort(AbortReason.RESET)
            return
        if flags & tcp.SYN:
            self._acknowledge = True  # RFC 5961 4.2
            return
        if not flags & tcp.ACK or not self._arrives_acknowledgment(segment, start, now):
            return
        if (payload or fin) and self.state is not State.CLOSED:
            if receive.insert(start, payload, fin) is Arrival.OUT_OF_ORDER:
                self._environment.send_now(self._writer.acknowledgment())
            else:
                self._owe_acknowledgment(len(payload), now, is_end=fin)
            if receive.finished and self.state in RECEIVING:
                self._advance(Step.FIN_RECEIVED)
                self._enter_time_wait(now)
            self._tell_data()

    def _owe_acknowledgment(self, length: int, now: float, *, is_end: bool) -> None:
        """Acknowledge bulk data and FIN at once, a small segment with the answer, if that comes soon."""
        self._unacknowledged += length
        if is_end or self._unacknowledged >= self._send.mss:
            self._acknowledge = True
        elif self._quick:
            self._quick -= 1
            self._acknowledge = True
        elif self.acknowledge_at == NEVER:
            self.acknowledge_at = now + ACK_DELAY

    def _arrives_unacceptable(self, start: int, flags: int, now: float) -> None:
        if flags & tcp.RST:
            return
        repeated = flags & (tcp.SYN | tcp.ACK) == tcp.SYN and start + 1 == self._receive.next
        if repeated and self.state is State.SYN_RECEIVED:
            self._syn_due = True  # our answer was lost
        else:
            self._acknowledge = True
            if self.state is State.TIME_WAIT and flags & tcp.FIN:
                self.timer.start(Purpose.TIME_WAIT, now + TIME_WAIT)

    def _arrives_acknowledgment(self, segment: tcp.Segment, start: int, now: float) -> bool:
        """Do the fifth step; return whether to go on with the segment."""
        send = self._send
        acknowledgment = unwrap(segment.acknowledgment, send.una)
        if self.state is State.SYN_RECEIVED:
            if acknowledgment != send.una:
                self._environment.send_now(self._writer.reset_unknown(segment.acknowledgment))
                return False
            self._establish(now)
        if not send.plausible(acknowledgment):
            self._acknowledge = True  # RFC 5961 5.2
            return False
        if acknowledgment < send.una:
            return True  # an old acknowledgment; the segment's data may be new
        moved = send.update_window(start, acknowledgment, segment.window << self._send_scale)
        if acknowledgment > send.una:
            send.acknowledge(acknowledgment)
            self.timer.attempts = 0
            self.timer.restart(send, now)
            if send.shortage_over():
                self._listener.writable(self)
            if send.fin_acknowledged:
                self._fin_acknowledged(now)
        elif moved:
            self._window_moved(now)
        elif send.in_flight and not segment.payload and not segment.flags & tcp.FIN:
            send.duplicate()
        return True

    def _window_moved(self, now: float) -> None:
        if self.state is State.TIME_WAIT:
            return  # a peer that reads on after its FIN: the wait is not extended
        if self.timer.purpose is Purpose.PROBE:
            self.timer.attempts = 0
            if self._send.in_flight:
                self._send.retransmit()  # it was dropped, as the window was too small
        self.timer.restart(self._send, now)

    def _establish(self, now: float) -> None:
        self._syn_due = False
        self._give_up = NEVER
        self.timer.attempts = 0
        self._advance(Step.SYN_ACKNOWLEDGED)
        self.timer.restart(self._send, now)
        self._listener.connected(self)

    def _fin_acknowledged(self, now: float) -> None:
        if (self.state, Step.FIN_ACKNOWLEDGED) in TRANSITIONS:
            self._advance(Step.FIN_ACKNOWLEDGED)
            self._enter_time_wait(now)
            if self.state is State.CLOSED:
                self._close()
                self._tell_end()

    def _enter_time_wait(self, now: float) -> None:
        if self.state is State.TIME_WAIT:
            self.timer.start(Purpose.TIME_WAIT, now + TIME_WAIT)
            self._tell_end()

    def _tell_data(self) -> None:
        if len(self._receive) and not self._readable_told:
            self._readable_told = True
            self._listener.readable(self)
        self._tell_end()

    def _tell_end(self) -> None:
        if self._receive.finished and not len(self._receive):
            if not self._eof_told:
                self._eof_told = True
                self._listener.eof(self)
            if self.state in (State.TIME_WAIT, State.CLOSED) and not self._closed_told:
                self._closed_told = True
                self._listener.closed(self)

    # What goes out

    def transmit(self, frames: list[Frame], now: float) -> bool:
        """Append the frames that are due; return whether more are due for another round."""
        more = False
        if self.state in SYNCHRONIZED:
            more = self._transmit_data(frames)
            if self._acknowledge or self._probe:
                frames.append(self._writer.acknowledgment(probe=self._probe))
                self._has_acknowledged()
            if self.state is not State.TIME_WAIT:
                self.timer.follow(self._send, now)
        elif self._syn_due:
            frames.append(self._writer.syn(answer=self.state is State.SYN_RECEIVED))
            if self.timer.purpose is Purpose.IDLE:  # a repeated SYN does not extend the wait
                self.timer.start_syn(now, self._give_up)
        elif self._acknowledge and self.state is State.SYN_RECEIVED:
            frames.append(self._writer.acknowledgment())
        self._acknowledge = self._probe = self._syn_due = False
        return more

    def _transmit_data(self, frames: list[Frame]) -> bool:
        for _ in range(SUPER_SEGMENTS):
            piece = self._send.next_piece()
            if piece is None:
                return False
            frames.append(self._writer.data(piece))
            self._acknowledge = False
            self._has_acknowledged()
            if piece.fin and (self.state, Step.FIN_SENT) in TRANSITIONS:
                self._advance(Step.FIN_SENT)
        return True

    def _has_acknowledged(self) -> None:
        self._unacknowledged = 0
        self.acknowledge_at = NEVER

    # The timer

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is due."""
        return min(self.timer.deadline, self.acknowledge_at)

    def handle_timeout(self, now: float) -> None:
        """Act on the deadline."""
        if self.acknowledge_at <= now:
            self.acknowledge_at = NEVER
            self._quick = QUICK
            self._acknowledge = True
            self._wants_to_send()
            if self.timer.deadline > now:
                return
        purpose = self.timer.purpose
        self.timer.stop()
        self.timer.attempts += 1
        match purpose:
            case Purpose.RETRANSMIT:
                self._retransmit(now)
            case Purpose.PROBE:
                self._send.override()
                self._send_probe(now)
            case Purpose.KEEP_ALIVE:
                if self.timer.peer_is_awake(now):
                    self.timer.attempts = 0
                else:
                    self._send_probe(now)
            case Purpose.TIME_WAIT:
                self._advance(Step.TIMED_WAIT_OVER)
                self._close()
            case Purpose.PATIENCE:
                self._abort(AbortReason.TIMED_OUT)
            case Purpose.IDLE:
                pass
            case _:
                assert_never(purpose)
        self._wants_to_send()

    def _retransmit(self, now: float) -> None:
        match self.state:
            case State.SYN_SENT if now >= self._give_up:
                self._fail(Reason.TIMED_OUT)
            case State.SYN_RECEIVED if self.timer.attempts > SYN_ACK_ATTEMPTS:
                self._abort(AbortReason.TIMED_OUT)
            case State.SYN_SENT | State.SYN_RECEIVED:
                self._syn_due = True
            case _ if self.timer.exhausted:
                self._give_up_on_peer()
            case _:
                self._send.retransmit()

    def _send_probe(self, now: float) -> None:
        if self.timer.peer_is_gone(now):
            self._give_up_on_peer()
        else:
            self._probe = True

    def _give_up_on_peer(self) -> None:
        self._environment.send_now(self._writer.reset())
        self._abort(AbortReason.TIMED_OUT)

    # Ends

    def icmp_error(self, failure: Reason, sequence: int) -> None:
        """Process an ICMP error about a segment of ours; only one about a SYN ends a connection."""
        # RFC 5927
        if self.state is State.SYN_SENT and sequence == (self._send.una - 1) & 0xFFFFFFFF:
            self._fail(failure)

    def packet_too_big(self, mtu: int, sequence: int) -> None:
        """Send smaller segments, beginning with those lost: one did not fit the path (RFC 1191)."""
        number = unwrap(sequence, self._send.una)
        mss = max(MIN_MSS, mtu - self._path.mtu + self._path.mss)
        if self._send.una <= number < self._send.next and mss < self._send.mss:
            self._send.mss = mss
            self._send.retransmit()
            self._wants_to_send()

    def superseded_by(self, segment: tcp.Segment) -> bool:
        """Whether a segment opens a new connection between the same endpoints (RFC 9293 3.6.1)."""
        if self.state is not State.TIME_WAIT or segment.flags & (tcp.SYN | tcp.ACK | tcp.RST) != tcp.SYN:
            return False
        if unwrap(segment.sequence, self._receive.next) < self._receive.next:
            return False
        self._close()
        return True

    def _fail(self, failure: Reason) -> None:
        self._listener.connect_failed(self, failure)
        self._close()

    def _abort(self, reason: AbortReason) -> None:
        if not self._closed_told:
            self._listener.aborted(self, reason)
            self._receive.read(len(self._receive))
        self._close()

    def _close(self) -> None:
        """Leave any state for CLOSED."""
        if self.state is State.INCOMING:
            self._environment.decided(self)
        self.state = State.CLOSED
        self._acknowledge = self._probe = self._syn_due = False
        self._has_acknowledged()
        self.timer.stop()
        self._send.clear()
        self._environment.forget(self)

    def _advance(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise Misuse(f"{self.state.name} is not {state.name}")

    def _wants_to_send(self) -> None:
        if self.state is not State.CLOSED:
            self._environment.wants_to_send(self)
