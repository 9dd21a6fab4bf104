"""How long a connection lasts when nobody cares for it any more, and what is left of it: nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tunfwd.netstack.connection import PATIENCE, TIME_WAIT, Connection
from tunfwd.netstack.connection_timer import KEEP_ALIVE
from tunfwd.netstack.states import State

from .lab import ACK, FIN, PSH, RST, SYN, SYN_OPTIONS, Lab
from .test_connection import BUILDERS, in_state

CONNECT_TIMEOUT = 75.0  # s, of Lab.syn_sent

BOUNDS = {
    State.INCOMING: PATIENCE,
    State.SYN_SENT: CONNECT_TIMEOUT,
    State.SYN_RECEIVED: 40.0,
    State.ESTABLISHED: KEEP_ALIVE + 800,
    State.FIN_WAIT_1: 400.0,
    State.FIN_WAIT_2: KEEP_ALIVE + 800,
    State.CLOSE_WAIT: KEEP_ALIVE + 800,
    State.CLOSING: 400.0,
    State.LAST_ACK: 400.0,
    State.TIME_WAIT: TIME_WAIT,
    State.CLOSED: 0.0,
}
"""s of silence until a connection is forgotten. Those in which data may still flow last as long as the
program answers keep-alive probes, and no longer."""

LATE = {
    "SYN": (SYN, 0, None, b""),
    "another SYN": (SYN, -5000, None, b""),
    "SYN and ACK": (SYN | ACK, 0, 1, b""),
    "old acknowledgment": (ACK, 1, 0, b""),
    "acknowledgment": (ACK, 2, 2, b""),
    "window update": (ACK, 2, 2, b"more"),
    "acknowledgment of nothing": (ACK, 2, 9999, b""),
    "old data": (PSH | ACK, 1, 1, b"x"),
    "data": (PSH | ACK, 2, 1, b"xyz"),
    "data beyond a gap": (PSH | ACK, 500, 1, b"xyz"),
    "FIN": (FIN | ACK, 1, 1, b""),
    "FIN again": (FIN | ACK, 1, 2, b""),
    "reset out of place": (RST, 700, None, b""),
    "reset far away": (RST, 1 << 30, None, b""),
}


def arrive(lab: Lab, late: str, window: int) -> None:
    flags, sequence, acknowledgment, payload = LATE[late]
    if late == "window update":
        payload = b""
    lab.arrive(flags, sequence, acknowledgment, payload, window, SYN_OPTIONS if flags & SYN else b"")


def elapse(lab: Lab, seconds: float) -> None:
    """Time passes; what is sent is lost, and nobody looks at what is told."""
    until = lab.now + seconds
    while lab.now < until:
        lab.frames()
        lab.events()
        lab.wait(until - lab.now)
    lab.frames()
    lab.events()


@pytest.mark.parametrize("late", [None, *LATE])
@pytest.mark.parametrize("state", BUILDERS)
def test_no_state_outlives_its_bound(state: str, late: str | None) -> None:
    lab = in_state(state)
    if late is not None:
        for window in (100, 65535):
            arrive(lab, late, window)
    lab.frames()
    elapse(lab, BOUNDS[lab.connection.state] + 0.5)
    assert lab.connection.state is State.CLOSED
    assert lab.stack.statistics().connections == 0
    assert lab.stack.next_timeout() is None


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("state", ["incoming", "syn_received", "syn_sent", "time_wait"])
def test_no_late_segment_puts_off_a_bound_again_and_again(state: str, late: str) -> None:
    """Where no data can flow, that is; TIME_WAIT begins anew for a repeated FIN (RFC 9293 3.10.7.8)."""
    lab = in_state(state)
    before = lab.connection.state
    until = lab.now + BOUNDS[before] + 0.5
    number = 0
    while lab.now < until and lab.connection.state is before:
        number += 1
        arrive(lab, late, 1000 + number)
        lab.frames()
        elapse(lab, 0.09)
    if state == "time_wait" and LATE[late][0] & FIN:
        elapse(lab, TIME_WAIT + 0.1)
    assert lab.connection.state is not before


# What is left


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def end_orderly(lab: Lab) -> None:
    lab.fin_wait_1()
    lab.arrive(FIN | ACK, 1, 2)
    lab.arrive(ACK, 2, 2, window=77)
    elapse(lab, TIME_WAIT + 0.1)


def end_with_the_answer(lab: Lab) -> None:
    lab.close_wait()
    lab.connection.write(b"all of it")
    lab.connection.shutdown()
    lab.frames()
    lab.arrive(ACK, 2, 11)


def end_unread(lab: Lab) -> None:
    lab.established()
    lab.arrive(PSH | ACK, 1, 1, b"nobody reads this")
    lab.arrive(FIN | ACK, 18, 1)
    lab.connection.write(b"nor this")
    lab.connection.abort()


def end_reset(lab: Lab) -> None:
    lab.established()
    lab.arrive(PSH | ACK, 1, 1, b"nobody reads this")
    lab.connection.write(b"nor this")
    lab.frames()
    lab.arrive(RST, 18)


def end_refused(lab: Lab) -> None:
    lab.incoming().connection.refuse()


def end_unanswered(lab: Lab) -> None:
    lab.syn_sent()
    elapse(lab, CONNECT_TIMEOUT + 0.1)


ENDINGS = [end_orderly, end_with_the_answer, end_unread, end_reset, end_refused, end_unanswered]


@pytest.mark.parametrize("end", ENDINGS)
def test_nothing_refers_to_a_connection_that_is_over(end: object) -> None:
    assert callable(end)
    lab = Lab()
    other = lab.stack.connect(lab.host._replace(port=81), lab.program, lab.now, 1e6)
    lab.frames()
    with collector_off():
        end(lab)
        lab.frames()
        lab.events()
        assert lab.connection.state is State.CLOSED
        del lab.connection
        assert [o for o in gc.get_objects() if type(o) is Connection and o.local.port != 81] == []
    assert other.state is State.SYN_SENT
