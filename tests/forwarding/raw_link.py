"""A contact that writes its link packets by hand, facing a session: to say what no link would."""

from __future__ import annotations

import struct

from tests.forwarding.pair import Side
from tunfwd.link.ranges import RangeSet
from tunfwd.wire.frames import HEADER, Frame, Stream, decode_frames, encode_ack, encode_frame, link_tag
from tunfwd.wire.packets import Feature, Hello, Lossless, decode, encode

PREFIX = b"\xc9\x02"
EPOCH = 0xBBBB


class RawLink:
    def __init__(self, side: Side, features: Feature = Feature.LINK, now: float = 100.0) -> None:
        self.side, self.session, self.now = side, side.session, now
        self.features = features
        self.heard_control: list[Lossless] = []
        self.frames: list[Frame] = []
        self._epoch = EPOCH
        self._reset()
        self.session.online(now)

    def _reset(self) -> None:
        self._number = self._offset = 0
        self._seen = RangeSet()
        self._control = bytearray()
        self._control_at = 0

    def greet(self) -> None:
        """Both say Hello; the link is there."""
        self.lossless(Hello(self.features, self._epoch))
        self.hear()

    def lossless(self, packet: Lossless) -> None:
        self.session.receive_lossless(encode(self.side.carrier, packet), self.now)
        self.side.drain(self.now)

    def say(self, *frames: Frame | bytes) -> None:
        """One packet of these frames (or bytes)."""
        body = b"".join(f if isinstance(f, bytes) else encode_frame(f) for f in frames)
        tag = link_tag(self._epoch, self.session.epoch)
        packet = PREFIX + HEADER.pack(tag, self._number) + body
        self._number += 1
        self.session.receive_lossy(packet, self.now)
        self.side.drain(self.now)

    def control(self, *packets: Lossless) -> None:
        for packet in packets:
            message = encode(self.side.carrier, packet)
            data = struct.pack("<H", len(message)) + message
            offset, self._offset = self._offset, self._offset + len(data)
            self.say(Stream(0, offset, data, False))

    def hear(self, *, acknowledge: bool = True) -> list[Lossless]:
        """Take what the session sends, acknowledge it, and return the control packets among it."""
        heard: list[Lossless] = []
        for _ in range(200):
            before = len(heard), len(self._seen.starts) and self._seen.stops[-1]
            while (packet := self.session.next_packet()) is not None:
                heard.append(decode(self.side.carrier, packet))
            for lossy in self.session.lossy_to_send(self.now):
                if lossy.startswith(PREFIX):
                    self._take(lossy, heard)
            self.side.drain(self.now)
            due = self.session.next_timeout()
            if due is not None and due <= self.now + 0.003:
                self.now = max(self.now, due)
                self.session.handle_timeout(self.now)
            elif before == (len(heard), len(self._seen.starts) and self._seen.stops[-1]):
                break
        if acknowledge and self._seen:
            self.say(encode_ack(self._seen.starts, self._seen.stops, 0.0, 1000))
        return heard

    def _take(self, packet: bytes, heard: list[Lossless]) -> None:
        number = HEADER.unpack_from(packet, len(PREFIX))[1]
        self._seen.add(number, number + 1)
        for frame in decode_frames(packet, len(PREFIX) + HEADER.size):
            self.frames.append(frame)
            if isinstance(frame, Stream) and frame.id == 0:
                end = frame.offset + len(frame.data)
                if frame.offset <= self._control_at < end:
                    self._control += frame.data[self._control_at - frame.offset :]
                    self._control_at = end
        while len(self._control) >= 2:
            size = int.from_bytes(self._control[:2], "little")
            if len(self._control) < 2 + size:
                break
            heard.append(decode(self.side.carrier, bytes(self._control[2 : 2 + size])))
            del self._control[: 2 + size]

    def wait(self, seconds: float) -> list[Lossless]:
        """Let time pass; what is heard in it."""
        end, heard = self.now + seconds, self.hear()
        while (due := self.session.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.session.handle_timeout(self.now)
            heard += self.hear()
        self.now = end
        return heard
