"""Random frames, mostly sensible, from a peer that means nothing by them: nothing raises, all bounds hold."""

import random

import pytest

from tests.link.rawpeer import RawPeer
from tunfwd.link import Bbr, Cubic, NewReno, StreamReadable
from tunfwd.link.streams import LINK_WINDOW
from tunfwd.wire.frames import (
    Datagram,
    Fragment,
    Frame,
    MaxData,
    MaxStreamData,
    Ping,
    ResetStream,
    StopSending,
    Stream,
    encode_ack,
)


def some_frame(rng: random.Random, peer: RawPeer) -> Frame | bytes:
    id_ = rng.choice((1, 2, 3, rng.randrange(1, 50)))
    offset = rng.choice((0, rng.randrange(300), rng.randrange(60_000)))
    kind = rng.randrange(100)
    if kind < 50:
        return Stream(id_, offset, bytes(rng.randrange(300)), rng.random() < 0.002)
    if kind < 75:
        highest = max(peer.link.recovery._next_number - 1, 0)
        low = rng.randrange(highest + 1)
        return encode_ack([low], [rng.randrange(low, highest + 1) + 1], rng.random(), 100)
    if kind < 80:
        return MaxStreamData(id_, rng.randrange(1 << rng.randrange(1, 64)))
    if kind < 82:
        return MaxData(rng.randrange(1 << rng.randrange(1, 64)))
    if kind < 85:
        return ResetStream(id_ if rng.random() < 0.05 else id_ + 50, rng.randrange(1 << 16), offset)
    if kind < 88:
        return StopSending(id_, rng.randrange(1 << 16))
    if kind < 92:
        return Datagram(id_, bytes(rng.randrange(300)))
    if kind < 96:
        size = rng.randrange(1, 3000)
        at = rng.randrange(size)
        return Fragment(id_, rng.randrange(4), size, at, bytes(rng.randrange(1, min(size - at, 200) + 1)))
    if kind < 98:
        return Stream(0, offset % 300, b"\1\0x" * 3, False)
    return Ping()


@pytest.mark.parametrize("seed", range(300))
def test_random_frames(seed: int) -> None:
    rng = random.Random(seed)
    peer = RawPeer(controller=rng.choice((Bbr, Cubic, NewReno)))
    link = peer.link
    for id_ in (1, 2, 3):
        link.stream_open(id_)
    for _ in range(200):
        if rng.random() < 0.1:
            peer.say(*[some_frame(rng, peer) for _ in range(3)], rng.randbytes(5))
        peer.say(some_frame(rng, peer), number=peer.number if rng.random() < 0.9 else rng.randrange(1 << 32))
        peer.number += 1
        for event in peer.events():
            if isinstance(event, StreamReadable) and rng.random() < 0.7:
                link.stream_read(event.id, rng.randrange(2000))
        action = rng.randrange(12)
        if action < 6:
            link.stream_write(rng.randrange(1, 4), bytes(rng.randrange(5000)))
        elif action == 6 and rng.random() < 0.05:
            link.stream_reset(rng.randrange(1, 4), 7)
        elif action == 7 and rng.random() < 0.05:
            link.stream_stop(rng.randrange(1, 4), 7)
        elif action == 8:
            link.send_datagram(1, bytes(rng.randrange(3000)))
        elif action == 9 and rng.random() < 0.05:
            link.path_lost(peer.now)
            link.path_restored(peer.now + 1)
        peer.now += rng.choice((-0.01, 0.0, 0.001, 0.1))
        link.handle_timeout(peer.now)
        assert all(len(packet) <= 1373 for packet in link.packets_to_send(peer.now))
        if link.closed:
            break
        timeout = link.next_timeout()
        assert timeout is None or timeout > peer.now - 10
        streams = link._streams
        assert 0 <= streams._charged <= LINK_WINDOW + 100 * 65_536
        assert 0 <= streams._received - streams._consumed <= LINK_WINDOW
        assert streams.unacked == sum(pair.send.unacked for pair in streams._streams.values())
        assert streams._pieces == sum(pair.receive.pieces_waiting for pair in streams._streams.values())
        path = link.recovery.path
        assert path.in_flight == sum(packet.size for packet in link.recovery.sent)
