"""All streams of a link: their table, their credit, and whose turn it is to send.

**Credit.** A sleeping reader must not hold back any other, and a hostile peer must not fill our memory. So
a stream's credit is what bounds memory, drawn from one pool: a stream may be granted as much as half of
what is left of it (dynamic thresholds, Choudhury and Hahne 1998). A stream that is not read keeps what it
was granted and gets no more; half of the rest stays for the next. Link credit (MAX_DATA) stands behind that
as a hard bound, counts bytes from arrival to reading, and an honest peer meets it only if more than a
thousand streams sleep with full windows. Stream 0, which carries control messages, is outside of both.

**Turns.** A stream that had nothing to send goes first, once (as in FQ-CoDel, RFC 8290 4.2); all others
take turns, a packet each.

A long file, because table, credit and turns are decided together, on the same few numbers.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from tunfwd.common.errors import Misuse
from tunfwd.link.errors import PeerViolation
from tunfwd.link.events import (
    ControlReceived,
    Event,
    StreamClosed,
    StreamEnded,
    StreamReadable,
    StreamReset,
    StreamStopped,
    StreamWritable,
)
from tunfwd.link.receive import ReceiveStream
from tunfwd.link.send import SendStream
from tunfwd.wire.frames import MaxData, MaxStreamData, ResetStream, StopSending, encode_frame
from tunfwd.wire.frames import Stream as StreamFrame

INITIAL_WINDOW: Final = 65_536  # bytes a stream may send before any credit; part of the protocol
CONTROL_WINDOW: Final = 262_144  # bytes, of stream 0; part of the protocol
LINK_WINDOW: Final = 64 << 20  # bytes unread in all streams, at most; part of the protocol as initial credit
WINDOW_GROWTH: Final = 4  # at a time, so that a window never holds up a congestion window that doubles
MAX_WINDOW: Final = 8 << 20  # bytes; 3 times what 100 Mbit/s and 200 ms need
SEND_BUDGET: Final = 64 << 20  # bytes written and not acknowledged, in all streams
MIN_SEND_BUFFER: Final = 65_536  # bytes a stream may always have waiting …
MAX_SEND_BUFFER: Final = 8 << 20  # … and at most; between them, four congestion windows: a loss holds two up
# bytes of room that are worth waking a writer for, and that a stream has in any case
WRITABLE: Final = 16_384
MAX_STREAMS: Final = 16_384  # at once; twice as many as a contact may have flows, both ways
MAX_UNCLAIMED: Final = 4096  # streams with data whose control message has not arrived
# the same, and what they may hold in bytes, before the owner has opened any, and when nothing is agreed on
# any more that could have streams: credit is earned
UNEARNED_STREAMS: Final = 16
UNEARNED_BYTES: Final = 16_384
PIECE_COST: Final = 256  # bytes that a piece beyond a gap is taken to need beside its data
MAX_REFUSED: Final = 256  # streams that the peer stopped before they were opened, and waits for us to reset
MAX_CONTROL_PIECES: Final = 4096  # beyond gaps in stream 0; before a stream was opened, an eighth of it
MAX_PIECES: Final = 65_536  # pieces beyond gaps, in all streams
# closed streams whose late packets are still recognised: before many were opened, as many and these
MAX_FORGOTTEN: Final = 16_384
FORGOTTEN_AT_FIRST: Final = 256
MAX_MESSAGE: Final = 1373  # bytes of a control message
CONTROL: Final = 0  # the stream that carries control messages
_LENGTH_SIZE: Final = 2
TUNING_SLACK: Final = 0.02  # s an event loop may take to read what arrived

SmallFrame: TypeAlias = MaxData | MaxStreamData | ResetStream | StopSending


class Stream:
    """Both halves of a stream."""

    __slots__ = ("charge", "claimed", "granted_at", "receive", "send")

    def __init__(self, receive: ReceiveStream, send: SendStream) -> None:
        self.receive = receive
        self.send = send
        self.claimed = False  # the owner knows it
        self.charge = 0  # of the pool: granted and not read
        self.granted_at = 0.0  # when it got credit last


class _Nobody:
    """Stands where streams tell of their progress, when the link is over."""

    def sendable(self, half: SendStream) -> None:
        pass

    def progressed(self, half: SendStream, freed: int) -> None:
        pass


class DueFrames:
    """Frames of one kind that are to be sent, by the id of their stream; resent when lost."""

    __slots__ = ("_build", "_on_acked", "due")

    def __init__(
        self,
        build: Callable[[int], SmallFrame | None],
        on_acked: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`build` returns the frame for an id, or None where it makes no sense any more."""
        self.due: dict[int, None] = {}
        self._build = build
        self._on_acked = on_acked

    def add(self, id_: int) -> None:
        """Have the frame of a stream sent."""
        self.due[id_] = None

    def clear(self) -> None:
        """Send none, and refer to nobody: the link is over."""
        self.due.clear()
        self._build = lambda _: None
        self._on_acked = lambda _: None

    def take(self) -> tuple[int, bytes | None]:
        """Return the id that has waited longest, and its frame, if it still makes sense."""
        id_ = next(iter(self.due))
        del self.due[id_]
        frame = self._build(id_)
        return id_, None if frame is None else encode_frame(frame)

    def acked(self, id_: int, _stop: int, _fin: bool, /) -> None:
        """Note that the peer has it."""
        self._on_acked(id_)

    def lost(self, id_: int, _stop: int, _fin: bool, /) -> None:
        """Send it again."""
        self.due[id_] = None


class Streams:
    """The streams of one link."""

    def __init__(self, events: deque[Event], is_trusted: Callable[[], bool]) -> None:
        self._is_trusted = is_trusted
        self.now = 0.0
        self.round_trip = 0.1  # s; how fast a window must be used up to grow
        self.cwnd = 0  # bytes; what the send buffers follow
        self.unacked = 0  # bytes in all send buffers
        self.new_streams: deque[SendStream] = deque()  # with something to send, after a silence
        self.active: deque[SendStream] = deque()  # with something to send, in turn
        self._resets = DueFrames(self._reset_frame, self._on_reset_acked)
        self._stops = DueFrames(self._stop_frame)
        self._data_credit = DueFrames(self._data_credit_frame)  # MaxData; the id is 0
        self._credits = DueFrames(self._credit_frame)  # MaxStreamData; the id 0 stands for stream 0
        self.small_frames = (self._resets, self._stops, self._data_credit, self._credits)  # the urgent first
        self.send_credit = LINK_WINDOW  # bytes the peer still lets us send
        self.granted = LINK_WINDOW  # bytes the peer may send in all
        self._send_limit = LINK_WINDOW
        self._received = 0
        self._consumed = 0
        self._charged = 0
        self._pieces = 0
        self._unclaimed: dict[int, Stream] = {}  # begun by the peer, and not opened by the owner
        self._opened = 0  # streams that the owner has opened, ever
        self._refused: dict[int, int] = {}  # the reason of those we owe a ResetStream
        self._events = events
        self._streams: dict[int, Stream] = {}
        self._forgotten: dict[int, bool] = {}  # whether it was unseen
        self.control = Stream(
            ReceiveStream(CONTROL, CONTROL_WINDOW), SendStream(CONTROL, CONTROL_WINDOW, self)
        )
        self._message = b""  # the beginning of a control message

    def __len__(self) -> int:
        return len(self._streams)

    def clear(self) -> None:
        """Drop all streams, the memory of those that were, and what refers back to here: the link is over."""
        nobody = SendStream(CONTROL, CONTROL_WINDOW, _Nobody())
        self.control = Stream(ReceiveStream(CONTROL, CONTROL_WINDOW), nobody)
        self._message = b""
        self._streams.clear()
        self._unclaimed.clear()
        self._refused.clear()
        self._forgotten.clear()
        self.new_streams.clear()
        self.active.clear()
        for frames in self.small_frames:
            frames.clear()

    # -- the owner's calls -------------------------------------------------------------------------------

    def open(self, id_: int) -> bool:
        """Claim a stream, whether or not the peer has begun it. False where the id is or was in use.

        The peer can use one up before it is claimed: by ending both halves.
        """
        if self.is_known(id_):
            return False
        stream = self._streams.get(id_)
        if stream is None:
            if len(self._streams) >= MAX_STREAMS:
                return False
            self._create(id_).claimed = True
        else:
            self._claim(id_)
        self._opened += 1
        return True

    def is_known(self, id_: int) -> bool:
        """Whether `open` would refuse the id."""
        stream = self._streams.get(id_)
        burnt = id_ == CONTROL or id_ in self._forgotten or id_ in self._refused
        return burnt or (stream is not None and stream.claimed)

    def write(self, id_: int, data: bytes | bytearray | memoryview) -> int:
        """Return how many bytes of `data` were taken; all, in vain, if the stream is gone or reset."""
        stream = self._claim(id_)
        if stream is None or stream.send.reset_reason is not None:
            return len(data)
        send = stream.send
        space = self._space(send)
        if len(data) > space:
            send.blocked = True
            data = memoryview(data)[:space]
        if data:
            self.unacked += len(data)
            send.write(data)
        return len(data)

    def space(self, id_: int) -> int:
        """Return how many bytes `write` would take."""
        stream = self._streams.get(id_)
        return self._space(stream.send) if stream is not None else MIN_SEND_BUFFER

    def _space(self, send: SendStream) -> int:
        buffer = min(max(4 * self.cwnd, MIN_SEND_BUFFER), MAX_SEND_BUFFER)
        left = max((SEND_BUDGET - self.unacked) // 2, 0)
        return max(min(buffer, max(left, WRITABLE)) - send.unacked, 0)

    def finish(self, id_: int) -> None:
        """Send FIN after what was written."""
        stream = self._claim(id_)
        if stream is not None:
            stream.send.finish()

    def reset(self, id_: int, reason: int) -> None:
        """Give our half up at once."""
        stream = self._claim(id_)
        if stream is not None:
            self._reset(stream.send, reason)
            self._close_if_done(id_, stream)

    def _reset(self, send: SendStream, reason: int) -> None:
        held = send.unacked
        if send.reset(reason):
            self.unacked -= held
            self._resets.add(send.id)

    def stop(self, id_: int, reason: int) -> None:
        """Read no further; ask the peer to reset its half."""
        stream = self._claim(id_)
        if stream is None or stream.receive.stopped or stream.receive.reset_reason is not None:
            return
        receive = stream.receive
        unread = receive.highest - receive.read_offset
        self._pieces -= receive.pieces_waiting
        receive.stop(reason)
        self._consume(unread)
        self._charge(stream, 0)
        if receive.final_size is None:
            self._stops.add(id_)
        self._close_if_done(id_, stream)

    def read(self, id_: int, limit: int) -> bytes:
        """Return up to `limit` bytes in order; b"" if there are none now."""
        stream = self._claim(id_)
        if stream is None:
            return b""
        receive = stream.receive
        data = receive.read(limit) if receive.received > receive.read_offset else b""
        if data:
            self._consume(len(data))
            self._grant(id_, stream)
        if receive.received == receive.read_offset:
            receive.readable = False
            self._end_if_read(stream)
            self._close_if_done(id_, stream)
        return data

    def send_control(self, message: bytes) -> bool:
        """Queue a control message; False if too many wait for the peer."""
        if not 0 < len(message) <= MAX_MESSAGE:
            raise Misuse("control message empty or too long")
        send = self.control.send
        if send.unacked + len(message) + _LENGTH_SIZE > 4 * CONTROL_WINDOW:
            return False
        send.write(len(message).to_bytes(_LENGTH_SIZE, "little") + message)
        return True

    # -- the peer's frames -------------------------------------------------------------------------------

    def on_stream(self, frame: StreamFrame) -> bool:
        """Take in data of a stream; False where there is no room, and its packet is to count as lost."""
        id_, offset, data, fin = frame.id, frame.offset, frame.data, frame.fin
        stream = self._streams.get(id_)
        if stream is None:
            if id_ == CONTROL:
                return self._on_control(offset, data, fin)
            if id_ in self._forgotten or id_ in self._refused:
                return True
            if len(self._unclaimed) >= (MAX_UNCLAIMED if self._earned else UNEARNED_STREAMS):
                raise PeerViolation("too many streams nobody asked for")
            stream = self._unclaimed[id_] = self._create(id_)
        receive = stream.receive
        if receive.ended and offset + len(data) <= receive.highest:
            return True
        if not stream.claimed and not self._earned:
            self.check_unearned(len(data) + PIECE_COST)
        before, pieces = receive.received, receive.pieces_waiting
        used = receive.on_data(offset, data, fin)
        if used:
            self._received += used
            if self._received > self.granted:
                raise PeerViolation("data beyond the link's credit")
        if receive.pieces_waiting != pieces:
            self._pieces += receive.pieces_waiting - pieces
            if self._pieces > MAX_PIECES:
                raise PeerViolation("too many pieces out of order")
        if receive.stopped or receive.reset_reason is not None:
            self._consume(used)
            self._close_if_done(id_, stream)
        elif receive.received != before:
            if not receive.readable:
                receive.readable = True
                self._events.append(StreamReadable(id_))
        elif fin:
            self._end_if_read(stream)
            self._close_if_done(id_, stream)
        return True

    @property
    def _earned(self) -> bool:
        return self._opened > 0 and self._is_trusted()

    def check_unearned(self, held: int = 0) -> None:
        """Raise where more than a few KB wait, `held` included, for streams that nobody agreed on."""
        for stream in self._unclaimed.values():
            receive = stream.receive
            held += receive.received - receive.read_offset
            held += receive.pieces_waiting * (MAX_MESSAGE + PIECE_COST)
        if held > UNEARNED_BYTES or len(self._unclaimed) > UNEARNED_STREAMS:
            raise PeerViolation("too much data of streams nobody asked for")

    def on_reset(self, frame: ResetStream) -> None:
        """Drop the peer's half, which it gives up; of a stream that is not there, remember the id."""
        stream = self._streams.get(frame.id)
        if frame.id == CONTROL:
            raise PeerViolation("reset of the control stream")
        if stream is None:
            if frame.id not in self._refused and frame.id not in self._forgotten:
                self._forget(frame.id, unseen=True)
                self._count_unseen(frame.final_size)
            return
        receive = stream.receive
        if receive.reset_reason is not None or receive.ended:
            return  # a repetition, or too late: all of it has been read
        unread = receive.highest - receive.read_offset
        self._pieces -= receive.pieces_waiting
        used = receive.on_reset(frame.final_size, frame.reason)
        self._received += used
        if self._received > self.granted:
            raise PeerViolation("final size beyond the link's credit")
        self._consume(used + unread)
        self._charge(stream, 0)
        if not receive.stopped:
            self._events.append(StreamReset(frame.id, frame.reason))
        self._close_if_done(frame.id, stream)

    def _count_unseen(self, final_size: int) -> None:
        """Count what was sent of a stream that is not there, and give the credit back at once."""
        if final_size > INITIAL_WINDOW:
            raise PeerViolation(f"reset at {final_size} of a stream without credit")
        self._received += final_size
        if self._received > self.granted:
            raise PeerViolation("final size beyond the link's credit")
        self._consume(final_size)

    def on_stop(self, frame: StopSending) -> bool:
        """Reset our half, as the peer asks; of a stream that is not there, say that nothing comes.

        False where too many of those wait for it to know, and the packet is to count as lost.
        """
        if frame.id == CONTROL:
            raise PeerViolation("stop of the control stream")
        stream = self._streams.get(frame.id)
        if stream is None:
            return self._refuse(frame.id, frame.reason)
        if not stream.send.done and stream.send.reset_reason is None:
            self._reset(stream.send, frame.reason)
            self._events.append(StreamStopped(frame.id, frame.reason))
        return True

    def _refuse(self, id_: int, reason: int) -> bool:
        if id_ in self._refused or self._forgotten.get(id_) is False:
            return True
        if len(self._refused) >= MAX_REFUSED:
            return False
        self._refused[id_] = reason
        self._resets.add(id_)
        return True

    def on_stream_credit(self, frame: MaxStreamData) -> None:
        """Send more of one stream."""
        stream = self.control if frame.id == CONTROL else self._streams.get(frame.id)
        if stream is not None and frame.limit > stream.send.limit:
            stream.send.limit = frame.limit
            self.sendable(stream.send)

    def on_credit(self, limit: int) -> None:
        """Send more in all."""
        if limit > self._send_limit:
            waiting = self.send_credit == 0
            self.send_credit += limit - self._send_limit
            self._send_limit = limit
            if waiting:
                for stream in self._streams.values():
                    self.sendable(stream.send)

    def _on_control(self, offset: int, data: bytes, fin: bool) -> bool:
        receive = self.control.receive
        if fin:
            raise PeerViolation("end of the control stream")
        most = MAX_CONTROL_PIECES if self._earned else MAX_CONTROL_PIECES // 8
        if offset > receive.received and receive.pieces_waiting >= most:
            return False
        receive.on_data(offset, data, False)
        if receive.received == receive.read_offset:
            return True
        buffer = self._message + receive.read(CONTROL_WINDOW)
        position = 0
        while len(buffer) - position >= _LENGTH_SIZE:
            length = int.from_bytes(buffer[position : position + _LENGTH_SIZE], "little")
            if not 0 < length <= MAX_MESSAGE:
                raise PeerViolation("control message empty or too long")
            if len(buffer) - position - _LENGTH_SIZE < length:
                break
            position += _LENGTH_SIZE
            self._events.append(ControlReceived(buffer[position : position + length]))
            position += length
        self._message = buffer[position:]
        if receive.granted - receive.read_offset < CONTROL_WINDOW // 2:
            receive.granted = receive.read_offset + CONTROL_WINDOW
            self._credits.add(CONTROL)
        return True

    # -- what became of what we sent ---------------------------------------------------------------------

    def sendable(self, half: SendStream) -> None:
        """Give a stream its turn, if it has something to send."""
        if not half.active and half.id != CONTROL and half.has_pending(self.send_credit):
            half.active = True
            self.new_streams.append(half)

    def progressed(self, half: SendStream, freed: int) -> None:
        """Make use of the room that an acknowledgement gives."""
        if half.id == CONTROL:
            return
        self.unacked -= freed
        if half.blocked and not half.finished and self._space(half) >= WRITABLE:
            half.blocked = False
            self._events.append(StreamWritable(half.id))
        stream = self._streams.get(half.id)
        if stream is not None:
            self._close_if_done(half.id, stream)

    def _on_reset_acked(self, id_: int) -> None:
        """Forget our half: the peer knows that we gave it up."""
        if self._refused.pop(id_, None) is not None:
            self._forget(id_)
            return
        stream = self._streams.get(id_)
        if stream is not None:
            stream.send.reset_acked = True
            self._close_if_done(id_, stream)

    def next_sender(self) -> SendStream | None:
        """Return the half whose turn it is; None if none has anything that it may send.

        Give it back with `served`.
        """
        while True:
            if self.new_streams:
                half = self.new_streams.popleft()
            elif self.active:
                half = self.active.popleft()
            else:
                return None
            if half.has_pending(self.send_credit):
                return half
            half.active = False

    def served(self, half: SendStream) -> None:
        """Put a half at the end of the queue after its turn.

        It keeps its place even if it has nothing left, so that it is not new again at once.
        """
        self.active.append(half)

    def unserved(self, half: SendStream) -> None:
        """Give a half its turn back."""
        self.new_streams.appendleft(half)

    # -- frames that are due -----------------------------------------------------------------------------

    @property
    def has_small_frames(self) -> bool:
        """Whether any of them is due."""
        return bool(self._resets.due or self._stops.due or self._data_credit.due or self._credits.due)

    def _data_credit_frame(self, _: int) -> MaxData:
        return MaxData(self.granted)

    def _stop_frame(self, id_: int) -> StopSending | None:
        stream = self._streams.get(id_)
        if stream is None or stream.receive.stop_reason is None or stream.receive.final_size is not None:
            return None
        return StopSending(id_, stream.receive.stop_reason)

    def _reset_frame(self, id_: int) -> ResetStream | None:
        if id_ in self._refused:
            return ResetStream(id_, self._refused[id_], 0)
        stream = self._streams.get(id_)
        if stream is None or stream.send.reset_reason is None:
            return None
        return ResetStream(id_, stream.send.reset_reason, stream.send.sent)

    def _credit_frame(self, id_: int) -> MaxStreamData | None:
        stream = self.control if id_ == CONTROL else self._streams.get(id_)
        if stream is None or stream.receive.final_size is not None or stream.receive.stopped:
            return None
        return MaxStreamData(id_, stream.receive.granted)

    # -- the table ---------------------------------------------------------------------------------------

    def _claim(self, id_: int) -> Stream | None:
        stream = self._streams.get(id_)
        if stream is None:
            return None
        if not stream.claimed:
            stream.claimed = True
            del self._unclaimed[id_]
        return stream

    def _create(self, id_: int) -> Stream:
        stream = Stream(ReceiveStream(id_, INITIAL_WINDOW), SendStream(id_, INITIAL_WINDOW, self))
        self._streams[id_] = stream
        stream.granted_at = self.now
        self._charge(stream, INITIAL_WINDOW)
        return stream

    def _end_if_read(self, stream: Stream) -> None:
        receive = stream.receive
        if not receive.ended and receive.reset_reason is None and not receive.stopped and receive.done:
            receive.ended = True
            self._charge(stream, 0)
            self._events.append(StreamEnded(receive.id))

    def _close_if_done(self, id_: int, stream: Stream) -> None:
        if not stream.send.done or not stream.receive.done or id_ not in self._streams:
            return
        self._charge(stream, 0)
        del self._streams[id_]
        self._unclaimed.pop(id_, None)
        self._forget(id_)
        self._events.append(StreamClosed(id_))

    def _forget(self, id_: int, *, unseen: bool = False) -> None:
        """Remember an id, and no more of its stream: late packets that speak of it mean nothing.

        `unseen`: the peer gave it up before anything of it was here, and may yet ask us to.
        """
        self._forgotten[id_] = unseen
        if len(self._forgotten) > min(MAX_FORGOTTEN, self._opened + FORGOTTEN_AT_FIRST):
            del self._forgotten[next(iter(self._forgotten))]

    # -- the pool ----------------------------------------------------------------------------------------

    def _charge(self, stream: Stream, charge: int) -> None:
        self._charged += charge - stream.charge
        stream.charge = charge

    def _consume(self, size: int) -> None:
        self._consumed += size
        limit = self._consumed + LINK_WINDOW
        if limit - self.granted >= (limit - self._received) >> 2:  # a quarter of what the peer may then send
            self.granted = limit
            self._data_credit.add(CONTROL)

    def _grant(self, id_: int, stream: Stream) -> None:
        receive = stream.receive
        if receive.final_size is not None:
            self._charge(stream, receive.final_size - receive.read_offset)
            return
        left = receive.granted - receive.read_offset
        self._charge(stream, left)
        if left > receive.window - (receive.window >> 2):
            return
        if self.now - stream.granted_at < 2 * self.round_trip + TUNING_SLACK:
            receive.window = min(WINDOW_GROWTH * receive.window, MAX_WINDOW)
        stream.granted_at = self.now
        pool = LINK_WINDOW - self._charged + left
        target = receive.read_offset + min(receive.window, max(pool // 2, INITIAL_WINDOW))
        if target > receive.granted:
            receive.granted = target
            self._charge(stream, receive.granted - receive.read_offset)
            self._credits.add(id_)
