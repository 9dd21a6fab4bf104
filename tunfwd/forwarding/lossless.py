"""The plain transport: everything in the packets of the lossless carrier, datagrams in lossy ones.

Control packets go first; then channels take turns. What toxcore cannot take yet comes back with `put_back`
and goes first the next time, so that nothing is lost and nothing overtakes. With the feature FLOW each
channel has credit, half-close and reset. Without it the stream is bounded by `PLAIN_UNREAD` on arrival only,
and its end, in either direction, is the end of both: a Kill. At once it would cost the reply, and none at all
would leave the service waiting, so ours is sent when the contact has been quiet for `LINGER`.
"""

from collections import OrderedDict, deque
from typing import Final

from tunfwd.common.timers import Timers
from tunfwd.common.values import Reason
from tunfwd.forwarding.transport import Sink
from tunfwd.wire.carriers import Carrier
from tunfwd.wire.packets import Credit, Data, Fin, Kill, Lossless, Reset, data_header, datagram_header, encode

SEND_BUFFER: Final = 256 * 1024  # bytes a channel holds that the carrier has not taken
MAX_UNSENT = 64 * 1024 * 1024  # bytes of all flows of a contact; past it a channel holds less:
SCARCE_BUFFER = 16 * 1024  # bytes; what a contact that opens many flows and reads none can make each cost
WINDOW: Final = 1024 * 1024  # bytes of credit; 4 MB/s over 250 ms
PLAIN_UNREAD = 16 * 1024 * 1024  # bytes; SPEC.md 5: a plain peer is killed past it, as nothing else bounds it
MAX_UNREAD = 256 * 1024 * 1024  # bytes of all flows of a contact; the flow that goes past it is reset
UNLIMITED: Final = 1 << 62
LINGER: Final = 2.0  # s
TURN: Final = 8  # packets a channel sends before the next one's turn
MAX_CONTROL: Final = 8192  # packets; a contact that provokes more answers than it reads gets no more of them
PACKET_COST: Final = 64  # bytes that a control packet is taken to need
MAX_DATAGRAMS: Final = 1024  # packets waiting for the carrier; the oldest are dropped


class LosslessTransport:
    """Sends by `next_packet` and `next_datagram`, which the session's owner drains."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.flow_control = False
        """Whether FLOW is in force, for channels opened from now on."""
        self.dropped_datagrams = 0
        self.dropped_control = 0
        self.unread = 0
        """Bytes that came in on all channels and wait to be read."""
        self.unsent = 0
        """Bytes that were written on all channels and wait to be sent."""
        self._put_back: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._ready: OrderedDict[LosslessChannel, None] = OrderedDict()
        self._turn = 0
        self._datagrams: deque[bytes] = deque()
        self.timers: Timers[LosslessChannel] = Timers()
        """Of channels that are to be closed when the contact is quiet."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for channel in self.timers.expire(now):
            channel.close_if_sent(now)

    def send(self, packet: Lossless) -> None:
        """Queue a control packet."""
        if len(self._control) >= MAX_CONTROL:
            self.dropped_control += 1
            return
        self._control.append(encode(self.carrier, packet))

    @property
    def control_waiting(self) -> int:
        """Bytes of control packets that the carrier has not taken, about."""
        return PACKET_COST * len(self._control)

    def trust_lost(self) -> None:
        """Do nothing: what channels hold ends with their flows."""

    def send_datagram(self, msg_id: int, payload: bytes) -> bool:
        """Queue a datagram; False where it is too large for one packet."""
        if len(payload) > self.carrier.datagram_payload:
            return False
        if len(self._datagrams) >= MAX_DATAGRAMS:
            self._datagrams.popleft()
            self.dropped_datagrams += 1
        self._datagrams.append(datagram_header(self.carrier, msg_id) + payload)
        return True

    def send_extension(self, packet: bytes) -> None:
        """Queue a lossy extension packet, encoded already."""
        if len(self._datagrams) < MAX_DATAGRAMS:
            self._datagrams.append(packet)

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram."""
        return self.carrier.datagram_payload

    def was_used(self, msg_id: int) -> bool:
        """Never: the carrier keeps order, so that nothing of an older stream comes late."""
        return False

    def open_channel(self, msg_id: int, sink: Sink) -> "LosslessChannel":
        """Open the stream of a flow."""
        return LosslessChannel(self, msg_id, sink)

    def clear(self) -> None:
        """Forget all that was queued: the carrier was interrupted, and a gap is worse than nothing."""
        for queue in (self._put_back, self._control, self._datagrams):
            queue.clear()
        self._ready.clear()

    def schedule(self, channel: "LosslessChannel") -> None:
        """Give a channel its turns until it has nothing more to send."""
        self._ready.setdefault(channel)

    def unschedule(self, channel: "LosslessChannel") -> None:
        """Take a channel's turns away."""
        self._ready.pop(channel, None)

    def next_packet(self) -> bytes | None:
        """Return the next lossless packet to send, or None."""
        if self._put_back:
            return self._put_back.popleft()
        if self._control:
            return self._control.popleft()
        while self._ready:
            channel = next(iter(self._ready))
            packet = channel.next_packet()
            if packet is None:
                self.unschedule(channel)
                self._turn = 0
                continue
            self._turn += 1
            if self._turn >= TURN:
                self._turn = 0
                if channel in self._ready:  # its last packet may have ended it
                    self._ready.move_to_end(channel)
            return packet
        return None

    @property
    def control_waits(self) -> bool:
        """Whether a control packet has not gone out yet."""
        return bool(self._put_back or self._control)

    def put_back(self, packet: bytes) -> None:
        """Take back a packet from `next_packet` that the carrier refused."""
        self._put_back.appendleft(packet)

    def next_datagram(self) -> bytes | None:
        """Return the next lossy packet to send, or None."""
        return self._datagrams.popleft() if self._datagrams else None


class LosslessChannel:
    """The stream of one flow in Data packets."""

    __slots__ = (
        "_buffer",
        "_cut_short",
        "_fin_queued",
        "_fin_received",
        "_fin_sent",
        "_flow_control",
        "_granted",
        "_header",
        "_inbox",
        "_kill_queued",
        "_limit",
        "_msg_id",
        "_over",
        "_payload",
        "_read",
        "_sent",
        "_sink",
        "_transport",
    )

    def __init__(self, transport: LosslessTransport, msg_id: int, sink: Sink) -> None:
        self._transport = transport
        self._msg_id = msg_id
        self._sink = sink
        self._header = data_header(transport.carrier, msg_id)
        self._payload = transport.carrier.stream_payload
        self._flow_control = transport.flow_control
        self._over = False
        # towards the contact
        self._buffer = bytearray()
        self._sent = 0
        self._limit = WINDOW if self._flow_control else UNLIMITED
        self._cut_short = False
        self._fin_queued = self._fin_sent = self._kill_queued = False
        # from the contact
        self._inbox = bytearray()
        self._read = 0
        self._granted = WINDOW if self._flow_control else UNLIMITED
        self._fin_received = False

    # -- what leaves, in order: write, next_packet, credit from the far side -----------------------------

    @property
    def space(self) -> int:
        """Bytes that `write` takes now."""
        return 0 if self._fin_queued or self._over else max(0, self._room - len(self._buffer))

    @property
    def _room(self) -> int:
        return SEND_BUFFER if self._transport.unsent < MAX_UNSENT else SCARCE_BUFFER

    def write(self, data: bytes | memoryview) -> int:
        """Take what there is room for."""
        space = self.space
        if len(data) > space:
            self._cut_short = True
            data = memoryview(data)[:space]
        if data:
            self._buffer += data
            self._transport.unsent += len(data)
            self._transport.schedule(self)
        return len(data)

    def finish(self, now: float) -> None:
        """End our direction after all that was written; without FLOW, both, when the contact is quiet."""
        self._fin_queued = True
        if self._flow_control:
            self._transport.schedule(self)
        else:
            self._transport.timers.set(self, now + LINGER)

    def close_if_sent(self, now: float) -> None:
        """End both directions with a Kill, as v0.1 has it, unless something is still to be sent."""
        if self._buffer:
            self._transport.timers.set(self, now + LINGER)
        else:
            self._kill_queued = True
            self._transport.schedule(self)

    def next_packet(self) -> bytes | None:
        """Return the next packet of this stream that credit allows, or None."""
        if self._over:
            return None
        buffer = self._buffer
        size = min(len(buffer), self._payload, self._limit - self._sent)
        if size > 0:
            packet = self._header + memoryview(buffer)[:size]
            del buffer[:size]
            self._transport.unsent -= size
            self._sent += size
            if self._cut_short and len(buffer) <= self._room // 2:
                self._cut_short = False
                self._sink.channel_writable()
            return packet
        if buffer or not self._fin_queued or self._fin_sent:
            return None
        if self._flow_control:
            self._fin_sent = True
            packet = encode(self._transport.carrier, Fin(self._msg_id))
        elif self._kill_queued:
            self._fin_sent = self._fin_received = True
            packet = encode(self._transport.carrier, Kill(self._msg_id))
        else:
            return None
        self._check_done()
        return packet

    def _credit(self, limit: int) -> None:
        """Send up to `limit` bytes in all; a lower limit than before says nothing."""
        if limit > self._limit:
            self._limit = limit
            if self._buffer:
                self._transport.schedule(self)

    # -- what arrives, in order: receive, read -----------------------------------------------------------

    def receive(self, packet: Data | Fin | Credit | Kill, now: float) -> bool:
        """Take in a packet about the stream: with FLOW a Kill is none, without it Fin and Credit are none."""
        match packet:
            case Data():
                if self._transport.timers.has(self):  # the contact is not quiet yet
                    self._transport.timers.set(self, now + LINGER)
                self._received(packet.payload)
                return True
            case Kill() if not self._flow_control:
                self._killed()
                return True
            case Fin() if self._flow_control:
                self._ended()
                return True
            case Credit() if self._flow_control:
                self._credit(packet.limit)
                return True
        return False

    def _received(self, payload: bytes) -> None:
        if self._over or not payload:
            return
        unread = len(self._inbox) + len(payload)
        if (
            self._fin_received
            or self._read + unread > self._granted
            or unread > PLAIN_UNREAD
            or self._transport.unread + len(payload) > MAX_UNREAD
        ):
            self._sink.channel_broken(Reason.OVERFLOW)
            return
        self._inbox += payload
        self._transport.unread += len(payload)
        if unread == len(payload):
            self._sink.channel_readable()

    def _ended(self) -> None:
        if self._fin_received or self._over:
            return
        self._fin_received = True
        self._sink.channel_readable()
        self._check_done()

    def _killed(self) -> None:
        """End both directions, as v0.1 has it; what came before can still be read."""
        self._transport.timers.cancel(self)
        self._forget_unsent()
        self._fin_queued = self._fin_sent = True
        self._ended()

    @property
    def at_end(self) -> bool:
        """Whether there is no more to read, ever."""
        return self._fin_received and not self._inbox

    def read(self, limit: int) -> bytes:
        """Return what has come in, and give the far side credit for as much again."""
        inbox = self._inbox
        if not inbox or limit <= 0:
            return b""
        data = bytes(memoryview(inbox)[:limit])
        del inbox[: len(data)]
        self._transport.unread -= len(data)
        self._read += len(data)
        if self._flow_control and not self._fin_received and not self._over:
            limit = self._read + WINDOW
            if limit - self._granted >= WINDOW // 4:
                self._granted = limit
                self._transport.send(Credit(self._msg_id, limit))
        self._check_done()
        return data

    # -- the end -----------------------------------------------------------------------------------------

    def reset(self, reason: Reason) -> None:
        """Drop everything and say so: a Reset with the reason, or v0.1's Kill."""
        if not self._over:
            self.drop(reason)
            packet = Reset(self._msg_id, reason) if self._flow_control else Kill(self._msg_id)
            self._transport.send(packet)

    def drop(self, reason: Reason) -> None:
        """Drop everything and say nothing."""
        self._over = True
        self._transport.timers.cancel(self)
        self._transport.unschedule(self)
        self._transport.unread -= len(self._inbox)
        self._inbox.clear()
        self._forget_unsent()

    def _forget_unsent(self) -> None:
        self._transport.unsent -= len(self._buffer)
        self._buffer.clear()

    def _check_done(self) -> None:
        if self._fin_sent and self._fin_received and not self._inbox and not self._over:
            self._over = True
            self._sink.channel_done()
