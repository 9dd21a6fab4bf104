"""A contact that knows the protocol, remembers what it was told, and says whatever the input makes of it.

It answers nothing by itself. A packet of its may be right in every part but one, which takes an attacker
further than noise does: the ids are those in use, the link's tag and numbers are good, its credit is honest
when the input wants that.
"""

from __future__ import annotations

from collections import deque

from tunfwd.common.values import Reason
from tunfwd.link.ranges import RangeSet
from tunfwd.wire import frames
from tunfwd.wire.carriers import Carrier
from tunfwd.wire.packets import (
    TOKEN,
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
    datagram_header,
    decode,
    encode,
    encode_extension,
)

from .choices import Choices

PORTS = (80, 22, 53, 0, 65535)
NAMES = ("", "web", "game", "web2", "\u202eevil\n", "x" * 255, "é")
FEATURES = (
    Feature(0),
    Feature.LINK,
    Feature.MANY | Feature.FLOW | Feature.PING,
    Feature.MANY | Feature.LINK,
    Feature.MANY | Feature.LINK | Feature.FRAGMENT | Feature.FLOW | Feature.PING,
    Feature(0xFFFFFFFF),
)
EPOCHS = (7, 8, 7 | 1 << 32, 1 << 63)
KNOWN_IDS = 24

Packets = list[tuple[str, bytes]]
"""Each with how it is carried: "lossless", "lossy" or "public"."""


class Hostile:
    """One such contact."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.ids: deque[int] = deque([1, 2, 0, 0xFFFFFFFF], maxlen=KNOWN_IDS)
        self._epoch = EPOCHS[0]
        self._heard_epoch = 0
        self._link_prefix = carrier.extension + bytes((ExtensionType.LINK,))
        self._begin_link()

    def _begin_link(self) -> None:
        self._number = 0
        self._control_at = 0
        self._offsets: dict[int, int] = {}
        self._heard_numbers = RangeSet()
        self._heard_control: dict[int, bytes] = {}
        self._read_control = 0

    # What it is told.

    def heard(self, packet: bytes) -> None:
        """Learn from a packet that came."""
        if packet.startswith(self._link_prefix):
            self._heard_link(packet)
        elif packet.startswith(self.carrier.lossless):
            self._learn(packet)

    def _learn(self, packet: bytes) -> None:
        match decode(self.carrier, packet):  # what it is told is never malformed
            case Hello(epoch=epoch):
                if epoch != self._heard_epoch:
                    self._heard_epoch = epoch
                    self._begin_link()
            case Node() | Claim() | Claimed():
                pass
            case other:
                self._know(other.msg_id)

    def _know(self, msg_id: int) -> None:
        if msg_id not in self.ids:
            self.ids.append(msg_id)

    def _heard_link(self, packet: bytes) -> None:
        start = len(self._link_prefix)
        tag, number = frames.HEADER.unpack_from(packet, start)
        if tag != frames.link_tag(self._heard_epoch, self._epoch):
            return
        self._heard_numbers.add(number, number + 1)
        for frame in frames.decode_frames(packet, start + frames.HEADER_SIZE):
            match frame:
                case frames.Stream(0, offset, data, _):
                    self._heard_control[offset] = data
                case frames.Stream(msg_id) | frames.Datagram(msg_id):
                    self._know(msg_id)
        stream = b""
        for offset in sorted(self._heard_control):
            if offset <= len(stream):
                stream += self._heard_control[offset][len(stream) - offset :]
        while len(stream) >= (at := self._read_control + 2):
            end = at + int.from_bytes(stream[at - 2 : at], "little")
            if len(stream) < end:
                break
            self._read_control = end
            self._learn(stream[at:end])

    # What it says.

    def say(self, choices: Choices) -> Packets:
        """One to a few packets, as the input decides."""
        match choices.below(10):
            case 0 | 1 | 2:
                way = "public" if choices.yes(4) else "lossless"
                return [(way, encode(self.carrier, self._packet(choices)))]
            case 3 | 4:
                return [("lossy", self._on_link(self._control(self._packet(choices))))]
            case 5 | 6:
                some = [self._frame(choices) for _ in range(1 + choices.below(3))]
                return [("lossy", self._on_link(b"".join(some), choices))]
            case 7:
                return [("lossy", self._datagram(choices))]
            case 8:
                return self._hello(choices)
        return self._noise(choices)

    def _noise(self, choices: Choices) -> Packets:
        prefix = choices.one_of(
            (self.carrier.lossless, self.carrier.lossy, self.carrier.extension, self._link_prefix, b"")
        )
        way = choices.one_of(("lossless", "lossy", "public"))
        if choices.yes(8):
            token = bytes((choices.below(3),)) * TOKEN
            packet: Lossless = Claim(token) if choices.below(2) else Claimed(token, choices.yes(2))
            return [(way, encode(self.carrier, packet))]
        kind = choices.one_of((*(bytes((kind,)) for kind in Type), b"\x07", b""))
        return [(way, prefix + kind + choices.take(choices.below(40)))]

    def _hello(self, choices: Choices) -> Packets:
        features, epoch = choices.one_of(FEATURES), choices.one_of(EPOCHS)
        if epoch != self._epoch:
            self._epoch = epoch
            self._begin_link()
        return [("public" if choices.yes(8) else "lossless", encode(self.carrier, Hello(features, epoch)))]

    def _id(self, choices: Choices) -> int:
        newest_first = list(self.ids)[::-1]
        return choices.one_of(newest_first)

    def _packet(self, choices: Choices) -> Lossless:
        kind = choices.below(12)
        if kind < 4:
            msg_id = self._id(choices) if choices.yes(4) else choices.number(32)
            self._know(msg_id)
            protocol = Protocol.UDP if choices.yes(3) else Protocol.TCP
            direction = Direction.CONNECTION if choices.below(2) else Direction.SERVER
            return Offer(msg_id, protocol, direction, choices.one_of(PORTS), choices.one_of(NAMES))
        msg_id = self._id(choices)
        match kind:
            case 4 | 5:
                return Accept(msg_id)
            case 6:
                return AckAcc(msg_id)
            case 7:
                return Kill(msg_id)
            case 8:
                return Fin(msg_id)
            case 9:
                return Reset(msg_id, choices.one_of(list(Reason)))
            case 10:
                return Credit(msg_id, choices.number(64))
        return Data(msg_id, choices.payload(1300))

    def _datagram(self, choices: Choices) -> bytes:
        if choices.yes(4):
            token = choices.number(64)
            packet = Ping(token) if choices.below(2) else Pong(token)
            return encode_extension(self.carrier, packet)
        return datagram_header(self.carrier, self._id(choices)) + choices.payload(1300)

    # On the link.

    def _on_link(self, body: bytes, choices: Choices | None = None) -> bytes:
        number = self._number
        self._number += 1
        if choices is not None and choices.yes(16):
            number = choices.number(32)
        tag = frames.link_tag(self._epoch, self._heard_epoch)
        return self._link_prefix + frames.HEADER.pack(tag, number) + (body or b"\x01")

    def _control(self, packet: Lossless) -> bytes:
        message = encode(self.carrier, packet)
        data = len(message).to_bytes(2, "little") + message
        at, self._control_at = self._control_at, self._control_at + len(data)
        return frames.encode_frame(frames.Stream(0, at, data, False))

    def _frame(self, choices: Choices) -> bytes:
        msg_id = self._id(choices)
        match choices.below(14):
            case 0 | 1 | 2:
                return self._stream(choices, msg_id)
            case 3 | 4 | 5:
                return self._acknowledge(choices)
            case 6:
                size = choices.number(62) if choices.yes(4) else self._offsets.get(msg_id, 0)
                return frames.encode_frame(
                    frames.ResetStream(msg_id, choices.below(8), min(size, frames.MAX_OFFSET))
                )
            case 7:
                return frames.encode_frame(frames.StopSending(msg_id, choices.below(8)))
            case 8:
                return frames.encode_frame(frames.MaxStreamData(msg_id, choices.number(64)))
            case 9:
                return frames.encode_frame(frames.MaxData(choices.number(64)))
            case 10:
                return frames.encode_frame(frames.Datagram(msg_id, choices.payload(1200)))
            case 11:
                data = choices.payload(1000) or b"x"
                size = choices.one_of((len(data), 2 * len(data), 65535))
                offset = choices.one_of((0, len(data), size - len(data)))
                number = choices.below(4)
                if offset + len(data) > size:
                    offset = 0
                return frames.encode_frame(frames.Fragment(msg_id, number, size, offset, data))
            case 12:
                return frames.encode_frame(frames.Ping())
        if choices.yes(8):
            return frames.encode_frame(frames.Close(choices.below(4)))
        return choices.take(choices.below(20))

    def _stream(self, choices: Choices, msg_id: int) -> bytes:
        at = self._offsets.get(msg_id, 0) if msg_id else self._control_at
        data = choices.payload(1300)
        match choices.below(6):
            case 0:
                at = choices.number(62)
            case 1:
                at += choices.below(1000)
            case _:
                if msg_id:
                    self._offsets[msg_id] = at + len(data)
        at = min(at, frames.MAX_OFFSET - len(data))
        return frames.encode_frame(frames.Stream(msg_id, at, data, choices.yes(6)))

    def _acknowledge(self, choices: Choices) -> bytes:
        """All that was heard; or, of three, less than that or something of which nobody knows."""
        heard = self._heard_numbers
        if not heard.starts or choices.yes(4):
            low = choices.number(16)
            return frames.encode_ack([low], [low + 1 + choices.below(300)], choices.below(100) / 10, 500)
        if choices.yes(3):
            return frames.encode_ack(heard.starts[-1:], heard.stops[-1:], 0.0, 500)
        return frames.encode_ack(heard.starts, heard.stops, 0.0, 500)
