"""A peer that writes its packets by hand, to say what no link would."""

import random

from tunfwd.link import Link, LinkClosed
from tunfwd.link.ranges import RangeSet
from tunfwd.wire.frames import HEADER, decode_frames, encode_ack, encode_frame, link_tag

LOCAL, REMOTE = 0xAAAA, 0xBBBB
PREFIX = b"\xc9\x02"


class RawPeer:
    def __init__(self, **options):
        self.now = 1000.0
        self.link = Link(LOCAL, REMOTE, random.Random(7), self.now, prefix=PREFIX, **options)
        self.number = 0
        self.tag = link_tag(REMOTE, LOCAL)

    def say(self, *parts, number=None, tag=None):
        """One packet of these frames (or bytes)."""
        if number is None:
            number = self.number
            self.number += 1
        body = b"".join(part if isinstance(part, bytes) else encode_frame(part) for part in parts)
        packet = PREFIX + HEADER.pack(self.tag if tag is None else tag, number & 0xFFFFFFFF) + body
        self.link.receive((packet,), self.now)

    def events(self):
        found = []
        while (event := self.link.next_event()) is not None:
            found.append(event)
        return found

    def violation(self):
        for event in self.events():
            if isinstance(event, LinkClosed):
                assert event.reason == 1
                return event.violation
        return None

    def hear(self):
        """(number, frames) of all packets that leave now, with the clock moved on until nothing more does."""
        heard = []
        for _ in range(100):
            packets = self.link.packets_to_send(self.now)
            heard += [(HEADER.unpack_from(p, 2)[1], decode_frames(p, 10)) for p in packets]
            timeout = self.link.next_timeout()
            if timeout is None or timeout > self.now + 0.003:  # not for a probe timeout
                break
            self.now = max(self.now, timeout)
        return heard

    def acknowledge(self, heard):
        """An Ack of exactly these packets."""
        numbers = RangeSet()
        for number, _ in heard:
            numbers.add(number, number + 1)
        self.say(encode_ack(numbers.starts, numbers.stops, 0.0, 1000))

    def frames(self, kind=None):
        found = [frame for _, frames in self.hear() for frame in frames]
        return [frame for frame in found if kind is None or isinstance(frame, kind)]
