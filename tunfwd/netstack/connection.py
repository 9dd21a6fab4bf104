"""One TCP connection between a virtual address and a program behind the kernel (RFC 9293).

Fed by stack.py with segments and the time; asks it, in return, to be let send and to tell the owner. The data
are kept by receive_buffer.py and send_buffer.py; here are the states, the timer and what is said on the wire.

Nothing is sent from within a call of the owner or on arrival of a segment, save duplicate acknowledgments:
`transmit` sends all, once for each round of arrivals, and so acknowledges once however many segments came.
"""

import enum
from typing import Protocol

from tunfwd.netstack import events
from tunfwd.netstack.events import AbortReason, Failure
from tunfwd.netstack.path import Path
from tunfwd.netstack.receive_buffer import MAX_UNSCALED_WINDOW, WINDOW_SCALE, Arrival, ReceiveBuffer
from tunfwd.netstack.send_buffer import Piece, SendBuffer
from tunfwd.netstack.sequence import unwrap
from tunfwd.netstack.states import RECEIVING, SYNCHRONIZED, TRANSITIONS, State, Step
from tunfwd.netstack.timers import NEVER
from tunfwd.netstack.types import Endpoint, Frame, Misuse
from tunfwd.wire import tcp
from tunfwd.wire.checksum import Buffer

SUPER_SEGMENTS = 8  # a round and connection: enough to fill the window of a reader that keeps up
SYN_TIMEOUT = 0.3  # s before the first SYN or SYN/ACK is sent again; RFC 6298 2.1 says 1 s for the Internet
RETRANSMISSION_TIMEOUT = 0.2  # s; RFC 6298 2.4 says 1 s; a kernel here answers in 40 ms at the latest
PROBE_INTERVAL = 0.3  # s before the first probe of a closed window
MAX_INTERVAL = 60.0  # s; RFC 6298 2.5
MAX_ATTEMPTS = 9  # doublings of 0.2 s make 102 s; RFC 9293 3.8.3 wants at least 100 s
PROBE_SILENCE = 100.0  # s without any answer to probes before the peer is taken for gone
SYN_ACK_ATTEMPTS = 6  # doublings of 0.3 s make 38 s
CONNECT_TIMEOUT = 75.0  # s; RFC 9293 3.8.3 lets the owner choose less
PATIENCE = 130.0  # s a SYN waits for the owner; a Linux client gives up after 127 s
TIME_WAIT = 1.0  # s; RFC 9293 3.4.2 says 4 minutes; the path is a queue in this machine
KEEP_ALIVE = 7200.0  # s of silence; RFC 9293 3.8.4
KEEP_ALIVE_INTERVAL = 75.0  # s between keep-alive probes
MIN_MSS = 88  # bytes; less would make a super-segment of more packets than the kernel cuts


class Environment(Protocol):
    """What a connection asks of the stack it belongs to."""

    def emit(self, event: events.Event) -> None:
        """Tell the owner."""

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


class Timer(enum.Enum):
    """What happens at the deadline."""

    IDLE = enum.auto()
    RETRANSMIT = enum.auto()
    PROBE = enum.auto()
    """The peer's window is too small to send anything: ask whether it still is (RFC 9293 3.8.6.1)."""
    KEEP_ALIVE = enum.auto()
    TIME_WAIT = enum.auto()
    PATIENCE = enum.auto()


class Connection:
    """The stack's end of a connection: `local` is a virtual address, `remote` the program's."""

    __slots__ = (
        "_acknowledge",
        "_attempts",
        "_closed_told",
        "_environment",
        "_eof_told",
        "_give_up",
        "_heard",
        "_path",
        "_probe",
        "_readable_told",
        "_receive",
        "_sack",
        "_send",
        "_send_scale",
        "_syn_due",
        "_timer",
        "deadline",
        "local",
        "muted",
        "remote",
        "state",
        "syn_packet",
        "wake_up",
        "will_send",
    )

    def __init__(self, environment: Environment, path: Path, ports: tuple[int, int], sequence: int) -> None:
        """`ports` are ours and the peer's; `sequence` is our initial sequence number."""
        self._environment = environment
        self._path = path
        self.local = Endpoint(path.source, ports[0])
        self.remote = Endpoint(path.destination, ports[1])
        self.state = State.CLOSED
        self.syn_packet = b""
        """The IP packet of the SYN that is to be answered."""
        self.muted = False
        """Whether the owner wants to hear no more."""
        self.will_send = False
        """Whether `transmit` is going to be called; the stack's."""
        self.deadline = NEVER
        self.wake_up = NEVER
        self._timer = Timer.IDLE
        self._attempts = 0  # expirations since the peer last made progress
        self._heard = 0.0
        self._give_up = NEVER
        self._send = SendBuffer(sequence + 1, path.mss, path.max_payload)
        self._send_scale = 0
        self._receive = ReceiveBuffer(0)
        self._sack = False
        self._syn_due = False
        self._acknowledge = False
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
            return  # given up by its sender in the meantime, as an event says
        self._require(State.INCOMING)
        self._advance(Step.ACCEPT)
        self._environment.decided(self)
        self._syn_due = True
        self._stop_timer()
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
        self._environment.report_unreachable(self)
        self._close()

    @property
    def send_space(self) -> int:
        """How many bytes `write` would take now."""
        return 0 if self.state is State.CLOSED else self._send.space

    def write(self, data: Buffer) -> int:
        """Take as much of `data` as there is room for, and return how many bytes that was.

        Writable follows a short write. Nothing is taken once the connection is over, as an event says.
        """
        if self._send.closing:
            raise Misuse("write after shutdown")
        if self.state is State.CLOSED:
            return 0
        accepted = self._send.write(data)
        self._wants_to_send()
        return accepted

    @property
    def read_available(self) -> int:
        """How many bytes `read` would return now."""
        return len(self._receive)

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes that have arrived; reading is what opens the window."""
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
        if self.state in (State.INCOMING, State.SYN_SENT):
            raise Misuse(f"shutdown in {self.state.name}")
        if self.state is not State.CLOSED:
            self._send.closing = True
            self._wants_to_send()

    def abort(self) -> None:
        """Reset the connection and drop what is buffered. The owner hears nothing more of it."""
        self.muted = True
        if self.state in SYNCHRONIZED or self.state is State.SYN_RECEIVED:
            self._reset(self._send.next, self._receive.next)
        elif self.state is State.INCOMING:
            self._reset(0, self._receive.next)
        self._close()

    # Opening

    def open_passively(self, segment: tcp.Segment, syn_packet: bytes, now: float) -> None:
        """Hold a SYN until the owner decides."""
        self.state = State.INCOMING
        self.syn_packet = syn_packet
        self._take_syn(segment)
        self._start_timer(Timer.PATIENCE, now + PATIENCE)
        self._environment.emit(events.Incoming(self))

    def open_actively(self, timeout: float, now: float) -> None:
        """Send a SYN, and give up after `timeout` seconds."""
        self.state = State.SYN_SENT
        self._give_up = now + timeout
        self._receive.window_scale = WINDOW_SCALE
        self._sack = True
        self._syn_due = True
        self._wants_to_send()

    def _take_syn(self, segment: tcp.Segment) -> None:
        """Agree on options: each is in use only if both sides named it."""
        options = tcp.parse_options(segment.options)
        self._receive = ReceiveBuffer(segment.sequence + 1)
        self._receive.window_scale = WINDOW_SCALE if options.window_scale is not None else 0
        self._send_scale = options.window_scale or 0
        self._sack = options.sack_permitted
        mss = self._path.default_mss if options.mss is None else max(options.mss, MIN_MSS)
        self._send.mss = min(mss, self._path.mss)
        self._send.set_window(segment.sequence, segment.window)

    # Arrival of segments

    def receive(self, segment: tcp.Segment, now: float) -> None:
        """Process a segment (RFC 9293 3.10.7)."""
        self._heard = now
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
            self._reset(segment.acknowledgment)
        elif segment.flags & tcp.SYN:
            self._take_syn(segment)  # the same again, or a new attempt from the same port

    def _arrives_syn_sent(self, segment: tcp.Segment, now: float) -> None:
        flags = segment.flags
        if flags & tcp.ACK and unwrap(segment.acknowledgment, self._send.una) != self._send.una:
            if not flags & tcp.RST:
                self._reset(segment.acknowledgment)
        elif flags & tcp.RST:
            if flags & tcp.ACK:
                self._fail(Failure.REFUSED)
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
            self._arrives_unacceptable(start, flags)
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
                self._environment.send_now(self._acknowledgment())
            else:
                self._acknowledge = True
            if receive.finished and self.state in RECEIVING:
                self._advance(Step.FIN_RECEIVED)
                self._enter_time_wait(now)
            self._tell_data()

    def _arrives_unacceptable(self, start: int, flags: int) -> None:
        if flags & tcp.RST:
            return
        if self.state is State.SYN_RECEIVED and flags & tcp.SYN and start + 1 == self._receive.next:
            self._syn_due = True  # our answer was lost
        else:
            self._acknowledge = True
            if self.state is State.TIME_WAIT and flags & tcp.FIN:
                self._start_timer(Timer.TIME_WAIT, self._heard + TIME_WAIT)

    def _arrives_acknowledgment(self, segment: tcp.Segment, start: int, now: float) -> bool:
        """The fifth step; whether to go on with the segment."""
        send = self._send
        acknowledgment = unwrap(segment.acknowledgment, send.una)
        if self.state is State.SYN_RECEIVED:
            if acknowledgment != send.una:
                self._reset(segment.acknowledgment)
                return False
            self._establish(now)
        if acknowledgment > send.next:
            self._acknowledge = True
            return False
        if acknowledgment < send.una:
            return True  # old; what else it brings may be new
        moved = send.update_window(start, acknowledgment, segment.window << self._send_scale)
        if acknowledgment > send.una:
            send.acknowledge(acknowledgment)
            self._attempts = 0
            self._restart_timer(now)
            if send.shortage_over():
                self._environment.emit(events.Writable(self))
            if send.fin_acknowledged:
                self._fin_acknowledged(now)
        elif moved:
            self._window_moved(now)
        elif send.in_flight and not segment.payload and not segment.flags & tcp.FIN:
            send.duplicate()
        return True

    def _window_moved(self, now: float) -> None:
        if self._timer is Timer.PROBE:
            self._attempts = 0
            if self._send.in_flight:
                self._send.retransmit()  # was dropped for want of a window
        self._restart_timer(now)

    def _establish(self, now: float) -> None:
        self._syn_due = False
        self._give_up = NEVER
        self._attempts = 0
        self._advance(Step.SYN_ACKNOWLEDGED)
        self._restart_timer(now)
        self._environment.emit(events.Connected(self))

    def _fin_acknowledged(self, now: float) -> None:
        if (self.state, Step.FIN_ACKNOWLEDGED) in TRANSITIONS:
            self._advance(Step.FIN_ACKNOWLEDGED)
            self._enter_time_wait(now)
            if self.state is State.CLOSED:
                self._close()
                self._tell_end()

    def _enter_time_wait(self, now: float) -> None:
        if self.state is State.TIME_WAIT:
            self._start_timer(Timer.TIME_WAIT, now + TIME_WAIT)
            self._tell_end()

    def _tell_data(self) -> None:
        if len(self._receive) and not self._readable_told:
            self._readable_told = True
            self._environment.emit(events.Readable(self))
        self._tell_end()

    def _tell_end(self) -> None:
        if self._receive.finished and not len(self._receive):
            if not self._eof_told:
                self._eof_told = True
                self._environment.emit(events.Eof(self))
            if self.state in (State.TIME_WAIT, State.CLOSED) and not self._closed_told:
                self._closed_told = True
                self._environment.emit(events.Closed(self))

    # What goes out

    def transmit(self, frames: list[Frame], now: float) -> bool:
        """Append the frames that are due; whether there is more for another round."""
        if self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            if self._syn_due:
                self._syn_due = False
                frames.append(self._syn())
                deadline = now + min(SYN_TIMEOUT * (1 << min(self._attempts, 16)), MAX_INTERVAL)
                self._start_timer(Timer.RETRANSMIT, min(deadline, self._give_up))
            elif self._acknowledge and self.state is State.SYN_RECEIVED:
                frames.append(self._acknowledgment())
        elif self.state in SYNCHRONIZED:
            more = self._transmit_data(frames)
            if self._acknowledge or self._probe:
                frames.append(self._acknowledgment())
            self._set_timer(now)
            return more
        self._acknowledge = False
        return False

    def _transmit_data(self, frames: list[Frame]) -> bool:
        send = self._send
        for _ in range(SUPER_SEGMENTS):
            piece = send.next_piece()
            if piece is None:
                return False
            frames.append(self._data(piece))
            if piece.fin and (self.state, Step.FIN_SENT) in TRANSITIONS:
                self._advance(Step.FIN_SENT)
        return True

    def _syn(self) -> Frame:
        answer = self.state is State.SYN_RECEIVED
        options = tcp.Options(
            self._path.mss, WINDOW_SCALE if self._receive.window_scale else None, self._sack
        )
        return self._path.segment(
            self.local.port,
            self.remote.port,
            sequence=self._send.una - 1,
            acknowledgment=self._receive.next if answer else 0,
            flags=tcp.SYN | tcp.ACK if answer else tcp.SYN,
            window=MAX_UNSCALED_WINDOW,
            options=tcp.build_syn_options(options),
        )

    def _data(self, piece: Piece) -> Frame:
        self._acknowledge = False
        return self._path.segment(
            self.local.port,
            self.remote.port,
            sequence=piece.sequence,
            acknowledgment=self._receive.next,
            flags=tcp.ACK | (tcp.PSH if piece.push else 0) | (tcp.FIN if piece.fin else 0),
            window=self._receive.advertise(),
            payload=piece.data,
            mss=self._send.mss,
        )

    def _acknowledgment(self) -> Frame:
        """An empty segment. As a probe it bears a number that is acknowledged already, and so is answered."""
        sequence = self._send.una - 1 if self._probe else self._send.next
        self._acknowledge = self._probe = False
        blocks = self._receive.sack_blocks() if self._sack else []
        return self._path.segment(
            self.local.port,
            self.remote.port,
            sequence=sequence,
            acknowledgment=self._receive.next,
            flags=tcp.ACK,
            window=self._receive.advertise(),
            options=tcp.build_sack(blocks) if blocks else b"",
        )

    def _reset(self, sequence: int, acknowledgment: int | None = None) -> None:
        self._environment.send_now(
            self._path.segment(
                self.local.port,
                self.remote.port,
                sequence=sequence,
                acknowledgment=acknowledgment or 0,
                flags=tcp.RST if acknowledgment is None else tcp.RST | tcp.ACK,
            )
        )

    # The timer

    def handle_timeout(self, now: float) -> None:
        """Do what the deadline was for."""
        timer = self._timer
        self._stop_timer()
        self._attempts += 1
        match timer:
            case Timer.RETRANSMIT:
                self._retransmit(now)
            case Timer.PROBE | Timer.KEEP_ALIVE:
                self._send_probe(timer, now)
            case Timer.TIME_WAIT:
                self._advance(Step.TIMED_WAIT_OVER)
                self._close()
            case Timer.PATIENCE:
                self._abort(AbortReason.TIMED_OUT)
            case Timer.IDLE:
                pass
        self._wants_to_send()

    def _retransmit(self, now: float) -> None:
        if self.state is State.SYN_SENT:
            if now >= self._give_up:
                self._fail(Failure.TIMED_OUT)
            self._syn_due = True
        elif self.state is State.SYN_RECEIVED:
            if self._attempts > SYN_ACK_ATTEMPTS:
                self._abort(AbortReason.TIMED_OUT)
            self._syn_due = True
        elif self._attempts > MAX_ATTEMPTS:
            self._reset(self._send.next, self._receive.next)
            self._abort(AbortReason.TIMED_OUT)
        else:
            self._send.retransmit()

    def _send_probe(self, timer: Timer, now: float) -> None:
        if timer is Timer.KEEP_ALIVE and now < self._heard + KEEP_ALIVE:
            self._attempts = 0
        elif self._attempts > MAX_ATTEMPTS and now > self._heard + PROBE_SILENCE:
            self._reset(self._send.next, self._receive.next)
            self._abort(AbortReason.TIMED_OUT)
        else:
            self._probe = True
            self._send.override()

    def _set_timer(self, now: float) -> None:
        """Have the timer run that the state calls for; one that runs already goes on."""
        if self.state is State.TIME_WAIT:
            return
        send = self._send
        if send.in_flight and not send.window_closed:
            timer, interval = Timer.RETRANSMIT, RETRANSMISSION_TIMEOUT
        elif send.in_flight or send.waiting:
            timer, interval = Timer.PROBE, PROBE_INTERVAL
        else:
            timer, interval = Timer.KEEP_ALIVE, 0.0
        if timer is self._timer:
            return
        if self._timer is not Timer.IDLE:  # not an expiration, so a new situation
            self._attempts = 0
        if timer is not Timer.KEEP_ALIVE:
            self._start_timer(timer, now + min(interval * (1 << min(self._attempts, 16)), MAX_INTERVAL))
        elif self._attempts:
            self._start_timer(timer, now + KEEP_ALIVE_INTERVAL)
        else:
            self._start_timer(timer, max(now, self._heard) + KEEP_ALIVE)

    def _restart_timer(self, now: float) -> None:
        """Progress: measure from now on (RFC 6298 5.3)."""
        if self.state is not State.TIME_WAIT:
            self._stop_timer()
            self._set_timer(now)

    def _start_timer(self, timer: Timer, deadline: float) -> None:
        self._timer = timer
        self.deadline = deadline

    def _stop_timer(self) -> None:
        self._timer = Timer.IDLE
        self.deadline = NEVER

    # Ends

    def icmp_error(self, failure: Failure, sequence: int) -> None:
        """An ICMP error about a segment of ours. Only one about a SYN ends a connection (RFC 5927)."""
        if self.state is State.SYN_SENT and sequence == (self._send.una - 1) & 0xFFFFFFFF:
            self._fail(failure)

    def packet_too_big(self, mtu: int, sequence: int) -> None:
        """A segment of ours did not fit the path (RFC 1191): send smaller ones, beginning with those lost."""
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

    def _fail(self, failure: Failure) -> None:
        self._environment.emit(events.ConnectFailed(self, failure))
        self._close()

    def _abort(self, reason: AbortReason) -> None:
        if not self._closed_told:
            self._environment.emit(events.Aborted(self, reason))
            self._receive.read(len(self._receive))
        self._close()

    def _close(self) -> None:
        """Leave any state for CLOSED."""
        if self.state is State.INCOMING:
            self._environment.decided(self)
        self.state = State.CLOSED
        self._stop_timer()
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
