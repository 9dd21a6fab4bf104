"""A peer that writes its packets by hand, to say what no link would."""

import random
from typing import Any, TypeVar

from tunfwd.link import Event, Link, LinkClosed
from tunfwd.link.ranges import RangeSet
from tunfwd.wire.frames import HEADER, Frame, decode_frames, encode_ack, encode_frame, link_tag

LOCAL, REMOTE = 0xAAAA, 0xBBBB
PREFIX = b"\xc9\x02"

Heard = list[tuple[int, list[Frame]]]  # packet numbers, and what the packets carried
Kind = TypeVar("Kind")


class RawPeer:
    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.link = Link(LOCAL, REMOTE, random.Random(7), self.now, prefix=PREFIX, **options)
        self.number = 0
        self.tag = link_tag(REMOTE, LOCAL)

    def say(self, *parts: Frame | bytes, number: int | None = None, tag: int | None = None) -> None:
        """One packet of these frames (or bytes)."""
        if number is None:
            number = self.number
            self.number += 1
        body = b"".join(part if isinstance(part, bytes) else encode_frame(part) for part in parts)
        packet = PREFIX + HEADER.pack(self.tag if tag is None else tag, number & 0xFFFFFFFF) + body
        self.link.receive((packet,), self.now)

    def events(self) -> list[Event]:
        found = []
        while (event := self.link.next_event()) is not None:
            found.append(event)
        return found

    def violation(self) -> str | None:
        for event in self.events():
            if isinstance(event, LinkClosed):
                assert event.reason == 1
                return event.violation
        return None

    def hear(self) -> Heard:
        """(number, frames) of all packets that leave now, with the clock moved on until nothing more does."""
        heard: Heard = []
        for _ in range(100):
            packets = self.link.packets_to_send(self.now)
            heard += [(HEADER.unpack_from(p, 2)[1], decode_frames(p, 10)) for p in packets]
            timeout = self.link.next_timeout()
            if timeout is None or timeout > self.now + 0.003:  # not for a probe timeout
                break
            self.now = max(self.now, timeout)
        return heard

    def acknowledge(self, heard: Heard) -> None:
        """An Ack of exactly these packets."""
        numbers = RangeSet()
        for number, _ in heard:
            numbers.add(number, number + 1)
        self.say(encode_ack(numbers.starts, numbers.stops, 0.0, 1000))

    def frames(self) -> list[Frame]:
        return [frame for _, frames in self.hear() for frame in frames]

    def frames_of(self, kind: type[Kind]) -> list[Kind]:
        return [frame for frame in self.frames() if isinstance(frame, kind)]
