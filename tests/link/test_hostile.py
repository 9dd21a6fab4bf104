"""What a peer may not do ends its link and nothing else; what makes no sense is counted."""

import gc
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from tests.link.rawpeer import RawPeer
from tunfwd.link import ControlReceived, LinkClosed, StreamEnded, StreamReadable, StreamReset
from tunfwd.link.streams import (
    CONTROL_WINDOW,
    INITIAL_WINDOW,
    LINK_WINDOW,
    MAX_PIECES,
    MAX_STREAMS,
    MAX_UNCLAIMED,
    UNEARNED_BYTES,
    UNEARNED_STREAMS,
)
from tunfwd.wire.frames import (
    ACK_HEADER,
    Close,
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


def message(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


VIOLATIONS: dict[str, list[Frame | bytes]] = {
    "beyond stream credit": [Stream(1, INITIAL_WINDOW, b"x", False)],
    "far beyond stream credit": [Stream(1, (1 << 62) - 10, b"x", False)],
    "beyond control credit": [Stream(0, CONTROL_WINDOW, b"x", False)],
    "data beyond FIN": [Stream(1, 0, b"abc", True), Stream(1, 3, b"d", False)],
    "FIN below data": [Stream(1, 0, b"abc", False), Stream(1, 1, b"", True)],
    "two FINs": [Stream(1, 0, b"abc", True), Stream(1, 2, b"", True)],
    "two FINs, the second higher": [Stream(1, 0, b"abc", True), Stream(1, 5, b"", True)],
    "reset below data": [Stream(1, 0, b"abc", False), ResetStream(1, 0, 2)],
    "reset beyond credit": [ResetStream(1, 0, INITIAL_WINDOW + 1)],
    "reset beside FIN": [Stream(1, 5, b"abc", True), ResetStream(1, 0, 9)],
    "end of control": [Stream(0, 0, b"", True)],
    "reset of control": [ResetStream(0, 0, 0)],
    "stop of control": [StopSending(0, 0)],
    "empty control message": [Stream(0, 0, message(b""), False)],
    "long control message": [Stream(0, 0, struct.pack("<H", 1374), False)],
    "ack of nothing sent": [encode_ack([0], [1], 0.0, 100)],
    "ack below zero": [ACK_HEADER.pack(2, 0, 0, 0, 5)],
    "ack far ahead": [encode_ack([1 << 30], [(1 << 30) + 1], 0.0, 100)],
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_closes_the_link(name: str) -> None:
    peer = RawPeer()
    peer.say(*VIOLATIONS[name])
    assert peer.violation()
    assert peer.link.closed
    assert peer.frames() == [Close(1)]
    assert peer.link.next_timeout() is None
    peer.say(Ping())  # answered again, ever more rarely
    for _ in range(100):
        peer.say(Ping())
    assert len(peer.frames()) <= 5
    assert peer.events() == []


def test_credit_of_the_link_is_a_bound() -> None:
    peer = RawPeer()
    sent = 0
    id_ = 1
    while not peer.link.closed and sent <= LINK_WINDOW:
        peer.link.stream_open(id_)
        peer.say(Stream(id_, INITIAL_WINDOW - 1, b"x", False))
        sent += INITIAL_WINDOW
        id_ += 1
    assert "credit" in (peer.violation() or "")
    assert sent <= LINK_WINDOW + INITIAL_WINDOW


def held_by(peer: RawPeer, talk: Callable[[], None]) -> tuple[int, int]:
    """Bytes that a peer makes the link hold by talking, and what is left when the link is over."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    talk()
    peer.events()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    peer.link.discard()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held, left


STRANGERS: dict[str, Callable[[int], list[Frame]]] = {
    "many streams": lambda n: [Stream(1 + n, 0, b"x" * 1300, False)],
    "full windows": lambda n: [Stream(1 + n // 50, 1300 * (n % 50), b"x" * 1300, False)],
    "one-byte pieces with gaps": lambda n: [Stream(1, 2 * (20 * n + i), b"x", False) for i in range(20)],
    "pieces of many streams": lambda n: [Stream(1 + n % 100, 5 + n, b"x", False) for i in range(20)],
    "resets": lambda n: [ResetStream(1 + 20 * n + i, 0, 9) for i in range(20)],
    "stops": lambda n: [StopSending(1 + 20 * n + i, 0) for i in range(20)],
    "resets and stops": lambda n: [f for f in (ResetStream(1 + n, 0, 9), StopSending(1 + n, 0))],
    "pieces of control messages": lambda n: [Stream(0, 3 + 40 * n + 2 * i, b"x", False) for i in range(20)],
    "fragments": lambda n: [Fragment(1, n, 65_507, 512, b"x" * 1000)],
}


@pytest.mark.heavy
@pytest.mark.parametrize("what", STRANGERS)
@pytest.mark.parametrize("listens", [True, False])
def test_a_stranger_can_make_us_hold_little(what: str, listens: bool) -> None:
    """No stream was opened, because nothing was accepted; whether or not it acknowledges what we say."""

    def talk(peer: RawPeer, packets: int) -> None:
        for number in range(packets):
            peer.say(*STRANGERS[what](number))
            if number % 50 == 49:
                heard = peer.hear()
                if listens and heard:
                    peer.acknowledge(heard)
            if peer.link.closed:
                return

    talk(RawPeer(is_wanted=lambda _: False), 100)  # what is made once in a process is not the peer's
    peer = RawPeer(is_wanted=lambda _: False)
    held, left = held_by(peer, lambda: talk(peer, 1500))
    assert held < 250_000
    assert left < 60_000


def test_data_of_streams_that_nobody_opened_is_bounded() -> None:
    """A little before the first flow, windows of 4096 streams after it."""
    peer = RawPeer()
    for id_ in range(1, UNEARNED_STREAMS + 1):
        peer.say(Stream(id_, 0, b"x", False))
    assert peer.violation() is None
    peer.say(Stream(UNEARNED_STREAMS + 1, 0, b"x", False))
    assert "too many streams" in (peer.violation() or "")
    peer = RawPeer()
    for offset in range(0, UNEARNED_BYTES, 1024):
        peer.say(Stream(1, offset, bytes(1024), False))
    assert "too much data" in (peer.violation() or "")
    peer = RawPeer()
    peer.link.stream_open(1 << 30)
    for id_ in range(1, MAX_UNCLAIMED + 1):
        peer.say(Stream(id_, 0, b"x", False))
    assert peer.violation() is None
    peer.say(Stream(MAX_UNCLAIMED + 1, 0, b"x", False))
    assert "too many streams" in (peer.violation() or "")


def test_a_stream_that_was_given_up_before_it_was_opened() -> None:
    """Its id is used up; a stop is answered, and again when the answer is lost."""
    peer = RawPeer()
    peer.say(ResetStream(7, 3, 0), StopSending(7, 3))
    heard = peer.hear()
    assert ResetStream(7, 3, 0) in [frame for _, frames in heard for frame in frames]
    assert not peer.link.stream_open(7)
    peer.acknowledge(heard)
    assert not peer.link.stream_open(7)
    peer.say(StopSending(7, 3))
    assert peer.frames_of(ResetStream) == []


def test_streams_that_the_peer_never_ends_are_bounded() -> None:
    peer = RawPeer()
    for id_ in range(1, MAX_STREAMS + 1):
        assert peer.link.stream_open(id_)
        peer.link.stream_reset(id_, 0)
        peer.link.stream_stop(id_, 0)
    assert not peer.link.stream_open(MAX_STREAMS + 1)


def test_pieces_behind_gaps_are_bounded() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_open(2)
    peer.link.stream_open(3)
    for id_ in (1, 2, 3):
        for offset in range(1, INITIAL_WINDOW - 200, 200):
            peer.say(*[Stream(id_, offset + n, b"x", False) for n in range(0, 200, 2)])
    assert "pieces" in (peer.violation() or "")
    assert MAX_PIECES < 3 * INITIAL_WINDOW // 2


@pytest.mark.heavy
def test_memory_stays_bounded_when_nothing_is_read() -> None:
    """Everything a peer can make us hold without a violation, in the pieces that cost most."""
    peer = RawPeer()
    peer.link.stream_open(1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for offset in range(0, INITIAL_WINDOW, 128):
        peer.say(*[Stream(1, offset + n, b"xy", False) for n in range(0, 128, 2)])
    for number in range(3000):
        peer.say(Fragment(1, number, 65_507, 7, b"x" * 1000))
        peer.say(*[Fragment(2, number // 100, 65_507, n, b"x") for n in range(0, 60, 2)])
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert not peer.link.closed
    assert used < 4_000_000


def test_optimistic_ack() -> None:
    """A peer that acknowledges what it cannot have seen, to be sent more, is caught by a number left out."""
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(MaxStreamData(1, 1 << 30))
    highest = -1
    for _ in range(3000):
        if peer.link.closed:
            break
        peer.link.stream_write(1, b"x" * 60_000)
        for number, _ in peer.hear():
            highest = max(highest, number)
        peer.now += 0.01
        if highest >= 0:
            peer.say(encode_ack([0], [highest + 1], 0.0, 100))
    assert "left out" in (peer.violation() or "")


def test_repeated_and_old_acks_change_nothing() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, b"x" * 10_000)
    numbers = [number for number, _ in peer.hear()]
    path = peer.link.recovery.path
    ack = encode_ack([numbers[0]], [numbers[3] + 1], 0.0, 100)
    peer.say(ack)
    once = path.in_flight, path.delivered, peer.link.recovery.controller.cwnd
    for _ in range(20):
        peer.say(ack)
        peer.say(encode_ack([numbers[0]], [numbers[0] + 1], 9999.0, 100))
    assert (path.in_flight, path.delivered, peer.link.recovery.controller.cwnd) == once
    assert not peer.link.closed


def test_packets_that_tell_nothing_new_are_counted() -> None:
    """Whoever sends many of them floods."""
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, b"x" * 10_000)
    numbers = [number for number, _ in peer.hear()]
    statistics = peer.link.statistics
    first, all_of_it = (encode_ack([numbers[0]], [end + 1], 0.0, 100) for end in (numbers[3], numbers[-1]))
    news: list[Frame | bytes] = [first, all_of_it, MaxData(1 << 30), Stream(2, 0, b"x", False)]
    for told in news:
        peer.say(told)
        assert statistics.idle == 0
    nothing: list[Frame | bytes] = [first, all_of_it, Ping(), first + all_of_it]
    for count, told in enumerate(nothing, start=1):
        peer.say(told)
        assert statistics.idle == count
    assert not peer.link.closed


def test_conflicting_data_never_replaces_what_arrived() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Stream(1, 4, b"efgh", False))
    peer.say(Stream(1, 2, b"XXXXXXXX", False))
    peer.say(Stream(1, 0, b"ab", False))
    peer.say(Stream(1, 0, b"YYYY", False))
    assert peer.link.stream_read(1, 100) == b"abXXefghXX"


@pytest.mark.parametrize(
    "junk", [b"", b"\x00", b"\xc9", b"\xc9\x02", b"\xc9\x02" + b"\0" * 7, b"\xc9\x02" + b"\0" * 8]
)
def test_short_packets_are_counted(junk: bytes) -> None:
    peer = RawPeer()
    peer.link.receive((junk,), peer.now)
    assert peer.link.statistics.malformed == 1
    assert peer.events() == []


def test_malformed_packet_changes_nothing_at_all() -> None:
    peer = RawPeer()
    peer.say(Stream(1, 0, b"abc", False), b"\xee")
    assert peer.link.statistics.malformed == 1
    assert peer.events() == []
    assert peer.frames() == []  # not acknowledged either
    peer.say(Stream(1, 0, b"abc", False), number=0)  # its number is still free
    assert peer.events() == [StreamReadable(1)]


def test_another_pair_of_epochs() -> None:
    peer = RawPeer()
    peer.say(Stream(1, 0, b"abc", False), tag=peer.tag ^ 1)
    assert peer.link.statistics.foreign == 1
    assert peer.events() == []


def test_own_packets_thrown_back() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_write(1, b"hello")
    packets = peer.link.packets_to_send(peer.now)
    peer.link.receive(packets, peer.now)
    assert peer.link.statistics.foreign == len(packets) == 1
    assert peer.events() == []


def test_repeated_packets_are_dropped() -> None:
    peer = RawPeer()
    for _ in range(3):
        peer.say(Datagram(1, b"once"), number=5)
    assert len(peer.events()) == 1
    assert peer.link.statistics.duplicates == 2


def test_far_numbers() -> None:
    """Numbers that jump, forward by almost half of their space and back again."""
    peer = RawPeer()
    for number in (0, (1 << 31) - 1, (1 << 32) - 3, 1 << 32, (1 << 32) + 1, (1 << 32) - 1):
        peer.say(Datagram(number, b"x"), number=number) if number < 1 << 32 else peer.say(
            Ping(), number=number
        )
    assert peer.link._acks.expected == (1 << 32) + 2
    assert len(peer.events()) == 4


def test_credit_that_shrinks_is_ignored() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(MaxStreamData(1, 100), MaxData(5), MaxStreamData(77, 1 << 63), MaxData((1 << 64) - 1))
    assert peer.link.stream_write(1, b"x" * 1000) == 1000
    assert sum(len(frame.data) for frame in peer.frames_of(Stream)) == 1000


def test_frames_after_the_end_are_ignored() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.link.stream_finish(1)
    numbers = [number for number, _ in peer.hear()]
    peer.say(Stream(1, 0, b"abc", True), encode_ack([numbers[0]], [numbers[-1] + 1], 0.0, 100))
    assert peer.link.stream_read(1, 10) == b"abc"
    assert [type(event).__name__ for event in peer.events()] == [
        "StreamReadable",
        "StreamEnded",
        "StreamClosed",
    ]
    for frame in (
        Stream(1, 0, b"abc", True),
        ResetStream(1, 1, 3),
        StopSending(1, 1),
        MaxStreamData(1, 1 << 40),
    ):
        peer.say(frame)
    assert peer.events() == []
    assert not peer.link.closed


def test_data_after_reset_is_not_delivered() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Stream(1, 0, b"abc", False), ResetStream(1, 9, 10))
    assert peer.events() == [StreamReadable(1), StreamReset(1, 9)]
    peer.say(Stream(1, 3, b"defghij", False))
    assert peer.link.stream_read(1, 100) == b""
    assert peer.events() == []


def test_reset_after_everything_was_read_is_the_end_it_was() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Stream(1, 0, b"abc", True))
    peer.link.stream_read(1, 100)
    peer.say(ResetStream(1, 9, 3))
    assert peer.events() == [StreamReadable(1), StreamEnded(1)]


def test_close_from_the_peer() -> None:
    peer = RawPeer()
    peer.link.stream_open(1)
    peer.say(Close(0))
    assert peer.events() == [LinkClosed(0, None)]
    assert peer.frames() == []
    assert peer.link.stream_write(1, b"into the void") == 13
    assert peer.link.stream_read(1, 10) == b""


def test_control_messages_split_anywhere() -> None:
    stream = b"".join(message(bytes([n]) * size) for n, size in ((1, 1), (2, 1373), (3, 40)))
    for cut in range(1, len(stream), 7):
        peer = RawPeer()
        peer.say(Stream(0, cut, stream[cut:], False)) if len(stream) - cut < 1300 else None
        peer.say(Stream(0, 0, stream[:cut], False))
        if len(stream) - cut >= 1300:
            peer.say(Stream(0, cut, stream[cut:], False))
        assert peer.events() == [
            ControlReceived(b"\1"),
            ControlReceived(b"\2" * 1373),
            ControlReceived(b"\3" * 40),
        ]


def test_what_was_allowed_for_what_is_over_is_given_back() -> None:
    """Streams have run; then nothing is agreed on any more, and a few KB are left, as at first."""
    trusted = True
    peer = RawPeer(is_trusted=lambda: trusted)
    peer.link.stream_open(1)
    peer.say(Stream(1, 0, b"abc", False))
    for id_ in range(2, 100):
        peer.say(*(Stream(id_, offset, bytes(600), False) for offset in (0, 600)))
    assert peer.violation() is None
    trusted = False
    peer.link.trust_lost()
    assert peer.violation() == "too much data of streams nobody asked for"
    assert len(peer.link._streams) == 0


def test_without_trust_a_flow_goes_on_and_nothing_new_begins() -> None:
    peer = RawPeer(is_trusted=lambda: False)
    peer.link.stream_open(1)
    for offset in range(0, 30_000, 1000):
        peer.say(Stream(1, offset, bytes(1000), False))
    peer.link.trust_lost()
    for id_ in range(2, 18):
        peer.say(Stream(id_, 0, bytes(600), False))
    assert peer.violation() is None
    peer.say(Stream(18, 0, b"x", False))
    assert peer.violation() == "too many streams nobody asked for"
