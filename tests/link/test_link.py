"""The surface of a link, as its owner sees it."""

import re
from pathlib import Path

import pytest

from tests.link.rawpeer import RawPeer
from tunfwd.common.errors import Misuse
from tunfwd.link import (
    MAX_PACKET,
    ControlReceived,
    DatagramReceived,
    StreamEnded,
    StreamReadable,
    StreamWritable,
)
from tunfwd.link.acks import ACK_AFTER, MAX_ACK_DELAY
from tunfwd.link.congestion import INITIAL_PACKETS
from tunfwd.link.datagrams import MAX_DATAGRAM
from tunfwd.link.link import BRIEF, BRIEF_TIME
from tunfwd.link.recovery import MAX_PROBE_TIMEOUT
from tunfwd.link.rtt import INITIAL_RTT
from tunfwd.link.streams import CONTROL_WINDOW, INITIAL_WINDOW, LINK_WINDOW, MAX_MESSAGE
from tunfwd.wire import frames
from tunfwd.wire.frames import Ack, Close, Datagram, Frame, MaxData, MaxStreamData, Ping, Stream


def test_nothing_to_do_nothing_to_wait_for() -> None:
    peer = RawPeer()
    assert peer.link.next_timeout() is None
    assert peer.link.packets_to_send(peer.now) == []
    assert peer.link.next_event() is None


def test_one_byte_leaves_at_once_and_is_acknowledged_soon() -> None:
    peer = RawPeer()
    peer.link.stream_open(7)
    peer.link.stream_write(7, b"!")
    (packet,) = peer.link.packets_to_send(peer.now)
    assert len(packet) == 2 + 8 + 15 + 1
    peer.say(Stream(7, 0, b"?", False))
    assert peer.link.next_timeout() == peer.now + MAX_ACK_DELAY
    assert [type(frame) for frame in peer.frames()] == [Ack]


def test_small_streams_share_packets() -> None:
    peer = RawPeer()
    for id_ in range(1, 41):
        peer.link.stream_open(id_)
        peer.link.stream_write(id_, b"hello")
    assert len(peer.link.packets_to_send(peer.now)) == 1


class Unlimited:
    """Congestion control that never holds back."""

    cwnd, pacing_rate, quantum = 1 << 30, 1e12, 1 << 30

    def __init__(self, *_: object) -> None: ...

    def on_send(self, now: float) -> None: ...


def bulk_sender() -> RawPeer:
    peer = RawPeer(controller=Unlimited)
    peer.link.stream_open(1)
    peer.link.stream_open(2)
    peer.say(MaxData(1 << 30), MaxStreamData(1, 1 << 30), MaxStreamData(2, 1 << 30))
    peer.link.packets_to_send(peer.now)
    return peer


def burst(peer: RawPeer, **options: bool) -> int:
    """How many packets leave at once, of more than there is room for in one burst."""
    peer.link.stream_write(1, bytes(200_000))
    return len(peer.link.packets_to_send(peer.now, **options))


@pytest.mark.parametrize("what", ["stream", "datagram"])
def test_bursts_are_brief_while_somebody_has_little_to_say(what: str) -> None:
    """The next byte of a terminal waits for what left before it, which is little."""
    peer = bulk_sender()
    assert burst(peer) > 3 * BRIEF
    if what == "stream":
        peer.link.stream_write(2, b"!")
    else:
        peer.link.send_datagram(3, b"?")
    burst(peer)  # holds it, with more of the bulk
    assert burst(peer) == BRIEF
    due = peer.link.next_timeout()
    assert due is not None
    assert due <= peer.now  # the rest of it
    peer.now += BRIEF_TIME
    assert burst(peer) > 3 * BRIEF


def test_bursts_are_brief_while_others_wait_elsewhere() -> None:
    peer = bulk_sender()
    assert burst(peer, brief=True) == BRIEF
    assert burst(peer) > 3 * BRIEF


def test_packets_are_full_but_not_more() -> None:
    for prefix in (b"\xc9\x02", b"\xa7\xc9\x02"):
        peer = RawPeer()
        peer.link._prefix = prefix
        peer.link.stream_open(1)
        peer.link.stream_write(1, bytes(50_000))
        for size in range(0, 3000, 77):
            peer.link.send_datagram(2, bytes(size))
        peer.link.send_control(bytes(1373))
        sizes = {len(packet) for packet in peer.link.packets_to_send(peer.now)}
        assert max(sizes) <= 1373


def test_order_of_urgency() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, bytes(30_000))
    peer.link.send_datagram(2, b"datagram")
    peer.link.send_control(b"control")
    peer.say(Ping())
    (_, first), *_ = peer.hear()
    assert [type(frame) for frame in first] == [Ack, Stream, Datagram, Stream]
    assert isinstance(first[1], Stream)
    assert isinstance(first[3], Stream)
    assert (first[1].id, first[3].id) == (0, 1)


def test_control_messages_are_bounded() -> None:
    peer = RawPeer()
    for bad in (b"", bytes(1374)):
        with pytest.raises(Misuse):
            peer.link.send_control(bad)
    sent = 0
    while peer.link.send_control(bytes(1373)):
        sent += 1
    assert 500 < sent < 2000


def test_ids_are_used_once() -> None:
    peer = RawPeer()
    assert peer.link.stream_open(5)
    for id_ in (0, 5):
        assert not peer.link.stream_open(id_)
    peer.say(Stream(6, 0, b"early", True))
    assert peer.link.stream_open(6)
    assert peer.link.stream_read(6, 100) == b"early"


def test_write_after_finish_is_a_mistake() -> None:
    peer = RawPeer()
    peer.link.stream_open(5)
    peer.link.stream_finish(5)
    with pytest.raises(Misuse):
        peer.link.stream_write(5, b"more")


def test_a_short_write_is_followed_by_room() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    space = peer.link.stream_space(1)
    assert peer.link.stream_write(1, bytes(space + 1)) == space
    assert peer.link.stream_write(1, b"x") == 0
    seen = []
    for _ in range(20):
        peer.acknowledge(peer.hear())
        peer.say(MaxStreamData(1, 1 << 20))
        seen += peer.events()
        if seen:
            break
    assert seen == [StreamWritable(1)]
    assert peer.link.stream_space(1) > 0


def test_readable_is_told_once_until_read() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Stream(1, 0, b"abc", False))
    peer.say(Stream(1, 3, b"def", False))
    assert peer.events() == [StreamReadable(1)]
    assert peer.link.stream_read(1, 4) == b"abcd"
    peer.say(Stream(1, 6, b"g", True))
    assert peer.events() == []
    assert peer.link.stream_read(1, 4) == b"efg"
    assert peer.events() == [StreamEnded(1)]


def test_half_close_both_ways() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Stream(1, 0, b"", True))
    assert peer.events() == [StreamEnded(1)]
    assert peer.link.stream_write(1, b"still here") == 10
    peer.link.stream_finish(1)
    assert peer.frames_of(Stream) == [Stream(1, 0, b"still here", True)]


def test_credit_comes_with_reading_only() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    for offset in range(0, 65_000, 1000):
        peer.say(Stream(1, offset, bytes(1000), False))
    assert peer.frames_of(MaxStreamData) == []
    peer.link.stream_read(1, 60_000)
    (credit,) = peer.frames_of(MaxStreamData)
    assert credit.id == 1
    assert credit.limit > 120_000


def test_datagrams_are_not_sent_again() -> None:
    peer = RawPeer()
    peer.link.send_datagram(4, b"once")
    assert peer.frames_of(Datagram) == [Datagram(4, b"once")]
    peer.now += 5.0
    peer.link.handle_timeout(peer.now)
    assert set(peer.frames()) == {Ping()}


def test_a_datagram_after_a_long_silence_is_not_an_old_one() -> None:
    peer = RawPeer()
    peer.link.packets_to_send(peer.now)
    peer.now += 100.0
    peer.link.send_datagram(4, b"new")
    assert peer.frames() == [Datagram(4, b"new")]


def test_datagrams_do_not_outlive_the_path() -> None:
    peer = RawPeer()
    peer.link.send_datagram(4, b"before")
    peer.link.path_lost(peer.now)
    assert not peer.link.send_datagram(4, b"during")
    peer.link.path_restored(peer.now)
    assert peer.frames() == []
    assert peer.link.datagrams_dropped == 2


def test_large_datagrams_need_the_feature() -> None:
    peer = RawPeer(fragment=False)
    assert not peer.link.send_datagram(4, bytes(2000))
    peer = RawPeer()
    assert peer.link.send_datagram(4, bytes(65_507))
    pieces: list[Frame] = []
    while len(pieces) < 49:
        heard = peer.hear()
        pieces += [frame for _, frames in heard for frame in frames]
        peer.now += 0.01
        peer.acknowledge(heard)
    other = RawPeer()
    for piece in pieces:
        other.say(piece)
    assert other.events() == [DatagramReceived(4, bytes(65_507))]


def test_lost_frames_are_sent_again_in_new_packets() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, b"precious")
    peer.link.stream_finish(1)
    peer.link.send_control(b"order")
    (first, _), *_ = peer.hear()
    peer.now += 2.0
    peer.link.handle_timeout(peer.now)
    again = peer.hear()
    assert again[0][0] > first
    assert [frame for frame in again[0][1] if isinstance(frame, Stream)] == [
        Stream(0, 0, b"\5\0order", False),
        Stream(1, 0, b"precious", True),
    ]


def test_path_down_is_silence() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, bytes(5000))
    peer.hear()
    peer.link.path_lost(peer.now)
    assert peer.link.next_timeout() is None
    peer.say(Ping())
    peer.now += 50
    peer.link.handle_timeout(peer.now)
    assert peer.link.packets_to_send(peer.now) == []
    peer.link.path_restored(peer.now)
    assert sum(len(frame.data) for frame in peer.frames_of(Stream)) == 5000


def test_close_is_said_once() -> None:
    peer = RawPeer()
    peer.link.close(9)
    peer.link.close(9)
    assert peer.frames() == [Close(9)]
    assert peer.link.packets_to_send(peer.now) == []
    assert peer.events() == []


def test_control_goes_on_past_its_first_window() -> None:
    peer = RawPeer()
    count = 0
    for offset in range(0, 2_000_000, 1200):
        peer.say(Stream(0, offset, b"\xae\x04" + bytes(1198), False))
        count += sum(type(event) is ControlReceived for event in peer.events())
        if count % 50 == 0:
            peer.frames()
    assert not peer.link.closed
    assert count == 1667


def test_the_document_says_what_the_program_does() -> None:
    text = (
        (Path(frames.__file__).parent / "LINK.md").read_text().split("## Constants")[1].split("## Vectors")[0]
    )
    table = dict(re.findall(r"^\| (\w[^|]*?) \| ([^|]*?) \|$", text, re.M))
    assert table == {
        "whole packet": f"{MAX_PACKET} bytes",
        "initial credit: stream, stream 0, link": ", ".join(
            f"{window:_}".replace("_", " ") for window in (INITIAL_WINDOW, CONTROL_WINDOW, LINK_WINDOW)
        )
        + " bytes",
        "control message": f"1 to {MAX_MESSAGE} bytes",
        "datagram": f"{MAX_DATAGRAM:_} bytes".replace("_", " "),
        "ranges in an Ack": f"{frames.MAX_RANGES}",
        "Ack delay, at most": f"{MAX_ACK_DELAY * 1000:g} ms",
        "packets acknowledged without delay": f"{ACK_AFTER}",
        "initial round-trip time": f"{INITIAL_RTT * 1000:g} ms",
        "probe timeout, at most": f"{MAX_PROBE_TIMEOUT:g} s",
        "initial window": f"{INITIAL_PACKETS} packets",
    }
