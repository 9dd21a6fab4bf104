"""The acknowledgment of a small segment waits for the answer that carries it, and not for long."""

from __future__ import annotations

import pytest

from tunfwd.netstack.connection import ACK_DELAY, QUICK, QUICK_AT_FIRST
from tunfwd.netstack.events import Incoming
from tunfwd.netstack.types import Endpoint

from .lab import ACK, FIN, PSH, SYN, SYN_OPTIONS, Lab, tcp_frame


class Talk:
    """A connection that is past its beginning: small segments may wait."""

    def __init__(self) -> None:
        self.lab = Lab().established()
        self.acknowledged = 1
        self.lab.frames()
        self.sequence = 1
        for _ in range(QUICK_AT_FIRST):
            assert self.say(b"x") == [ACK]

    def say(self, data: bytes, flags: int = PSH | ACK) -> list[int]:
        """Have the program say something; return the flags of what it is answered at once."""
        self.lab.arrive(flags, self.sequence, self.acknowledged, data)
        self.sequence += len(data)
        self.lab.connection.read(1 << 20)
        return self.heard()

    def heard(self) -> list[int]:
        return [seen.flags for seen in self.lab.sent()]


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_an_answer_carries_it(talk: Talk) -> None:
    for _ in range(100):
        assert talk.say(b"question") == []
        talk.lab.connection.write(b"answer")
        (seen,) = talk.lab.sent()
        assert seen.flags == PSH | ACK
        talk.acknowledged += len(b"answer")
        assert seen.acknowledgment == talk.lab.connection._receive.next & 0xFFFFFFFF
    talk.lab.wait(ACK_DELAY)
    assert talk.heard() == []


def test_without_an_answer_a_timer_sends_it_once(talk: Talk) -> None:
    assert talk.say(b"x") == []
    due = talk.lab.stack.next_timeout()
    assert due == pytest.approx(talk.lab.now + ACK_DELAY)
    talk.lab.wait(ACK_DELAY)
    assert talk.heard() == [ACK]
    talk.lab.wait(1.0)
    assert talk.heard() == []


def test_more_small_segments_do_not_put_it_off(talk: Talk) -> None:
    began = talk.lab.now
    for _ in range(4):
        assert talk.say(b"x") == []
        talk.lab.wait(ACK_DELAY / 8)
    assert talk.lab.stack.next_timeout() == pytest.approx(began + ACK_DELAY)


def test_bulk_is_acknowledged_at_once(talk: Talk) -> None:
    assert talk.say(bytes(talk.lab.connection._send.mss)) == [ACK]
    half = bytes(talk.lab.connection._send.mss // 2)
    assert talk.say(half) == []
    assert talk.say(half + b"x") == [ACK]


def test_the_end_is_acknowledged_at_once(talk: Talk) -> None:
    assert talk.say(b"bye", FIN | PSH | ACK) == [ACK]


def test_a_gap_is_told_at_once(talk: Talk) -> None:
    talk.sequence += 10
    assert talk.say(b"beyond") == [ACK]


def test_where_no_answer_comes_in_time_nothing_waits_for_a_while(talk: Talk) -> None:
    """On a long path the wait would be in vain each time."""
    assert talk.say(b"x") == []
    talk.lab.wait(ACK_DELAY)
    assert talk.heard() == [ACK]
    for _ in range(QUICK):
        assert talk.say(b"x") == [ACK]
    assert talk.say(b"x") == []


def test_a_reset_leaves_no_timer(talk: Talk) -> None:
    assert talk.say(b"x") == []
    talk.lab.connection.abort()
    talk.lab.frames()
    assert talk.lab.stack.next_timeout() is None


@pytest.mark.parametrize("count", [1000, 2000])
def test_a_burst_of_connections_waits_for_no_repetition(count: int) -> None:
    lab = Lab()
    lab.incoming()
    connection = lab.connection
    for port in range(count - 1):
        program = Endpoint(connection.remote.address, 10_000 + port)
        lab.stack.receive([tcp_frame(program, connection.local, SYN, 1000, options=SYN_OPTIONS)], lab.now)
    assert lab.stack.statistics().syns_dropped == 0
    incoming = [event for event in lab.events() if isinstance(event, Incoming)]
    for event in incoming:
        event.connection.accept()
    answers = 0
    while frames := lab.frames():
        answers += len(frames)
    assert answers >= count - 1
