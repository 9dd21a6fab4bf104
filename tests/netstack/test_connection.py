"""TCP state by state: state, stimulus, what is expected."""

import itertools

import pytest

from tunfwd.common.errors import Misuse
from tunfwd.common.values import Reason
from tunfwd.netstack import Endpoint, connection_timer
from tunfwd.netstack.connection import PATIENCE
from tunfwd.netstack.events import Aborted, ConnectFailed
from tunfwd.netstack.states import State
from tunfwd.netstack.types import AbortReason
from tunfwd.wire import icmp, ip, tcp, vnet

from .lab import ACK, FIN, HOST4, HOST6, ISS, OWN4, OWN6, PSH, RST, SYN, SYN_OPTIONS, Lab, flatten

BUILDERS = [
    "incoming", "syn_received", "syn_sent", "established", "fin_wait_1", "fin_wait_2", "close_wait",
    "closing", "last_ack", "time_wait",
]  # fmt: skip
STATES = {name: State[name.upper()] for name in BUILDERS}
SYNCHRONIZED = BUILDERS[3:]


def in_state(name: str) -> Lab:
    lab = Lab()
    getattr(lab, name)()
    assert lab.connection.state is STATES[name]
    return lab


def window_of(lab: Lab) -> int:
    (seen,) = lab.sent()
    return seen.window


# Opening


def test_incoming_is_not_answered_until_accepted() -> None:
    lab = Lab().incoming()
    lab.arrive(SYN, options=SYN_OPTIONS)  # again
    assert lab.told() == []
    assert lab.sent() == []
    assert lab.stack.statistics().incoming == 1
    lab.connection.accept()
    (answer,) = lab.sent()
    assert answer.flags == SYN | ACK
    assert answer.acknowledgment == ISS + 1
    assert answer.window == 65535
    assert tcp.parse_options(answer.options) == tcp.Options(1460, 8, True)
    assert lab.stack.statistics().incoming == 0


def test_answer_offers_no_option_that_was_not_offered() -> None:
    lab = Lab().incoming(options=b"")
    lab.connection.accept()
    (answer,) = lab.sent()
    assert tcp.parse_options(answer.options) == tcp.Options(1460, None, False)


def test_incoming_ipv6_has_a_smaller_mss() -> None:
    lab = Lab(Endpoint(OWN6, 40000), Endpoint(HOST6, 80)).incoming()
    lab.connection.accept()
    (answer,) = lab.sent()
    assert tcp.parse_options(answer.options).mss == 1440


def test_incoming_refused() -> None:
    lab = Lab().incoming()
    lab.connection.refuse()
    assert lab.said() == [(RST | ACK, 0, 1, b"")]
    assert lab.told() == []
    assert lab.stack.statistics().connections == 0


def test_incoming_unreachable() -> None:
    lab = Lab().incoming()
    lab.connection.unreachable()
    (frame,) = map(flatten, lab.frames())
    parsed = ip.parse(frame, vnet.LENGTH)
    assert (parsed.source, parsed.destination) == (HOST4, OWN4)
    report = icmp.parse(frame, parsed)
    assert isinstance(report, icmp.Report)
    assert report.error is icmp.Error.HOST_UNREACHABLE
    assert icmp.parse_quote(report.quote) == (OWN4, HOST4, ip.TCP, 40000, 80, ISS)
    assert lab.stack.statistics().connections == 0


def test_incoming_ignored_is_given_up_with_its_sender() -> None:
    lab = Lab().incoming()
    lab.wait(PATIENCE - 1)
    assert lab.told() == []
    lab.wait(2)
    (event,) = lab.events()
    assert event == Aborted(lab.connection, AbortReason.TIMED_OUT)
    assert lab.sent() == []
    lab.connection.accept()  # too late, and harmless
    lab.connection.refuse()
    assert lab.sent() == []


def test_incoming_withdrawn_by_a_reset() -> None:
    lab = Lab().incoming()
    lab.arrive(RST, 7)
    assert lab.told() == []
    lab.arrive(RST, 1)
    assert lab.events() == [Aborted(lab.connection, AbortReason.RESET)]


def test_incoming_syn_of_a_new_attempt_replaces_the_old() -> None:
    lab = Lab().incoming()
    lab.arrive(SYN, 5000, options=b"")
    lab.connection.accept()
    (answer,) = lab.sent()
    assert answer.acknowledgment == ISS + 5001
    assert tcp.parse_options(answer.options).window_scale is None


def test_incoming_acknowledgment_of_nothing_is_reset() -> None:
    lab = Lab().incoming()
    lab.arrive(ACK, 1, 77)
    assert lab.said() == [(RST, 77, 0, b"")]


def test_syn_received_answer_is_sent_again() -> None:
    lab = Lab().syn_received()
    for interval in (0.3, 0.6, 1.2, 2.4):
        lab.wait(interval - 0.01)
        assert lab.said() == []
        lab.wait(0.02)
        assert lab.said() == [(SYN | ACK, 0, 1, b"")]
    lab.arrive(SYN, options=SYN_OPTIONS)
    assert lab.said() == [(SYN | ACK, 0, 1, b"")]


def test_syn_received_gives_up() -> None:
    lab = Lab().syn_received()
    for _ in range(connection_timer.SYN_ACK_ATTEMPTS + 1):
        lab.wait(60)
        lab.sent()
    assert lab.events() == [Aborted(lab.connection, AbortReason.TIMED_OUT)]


@pytest.mark.parametrize("acknowledgment", [0, 2, 5000])
def test_syn_received_wrong_acknowledgment_is_reset(acknowledgment: int) -> None:
    lab = Lab().syn_received()
    lab.arrive(ACK, 1, acknowledgment)
    assert lab.said() == [(RST, acknowledgment, 0, b"")]
    assert lab.connection.state is State.SYN_RECEIVED


def test_syn_received_data_with_the_acknowledgment() -> None:
    lab = Lab().syn_received()
    lab.arrive(PSH | ACK, 1, 1, b"GET /")
    assert lab.told() == ["Connected", "Readable"]
    assert lab.connection.read(100) == b"GET /"
    assert lab.said() == [(ACK, 1, 6, b"")]


def test_written_before_the_handshake_is_sent_after_it() -> None:
    lab = Lab().incoming()
    lab.connection.accept()
    assert lab.connection.write(b"SSH-2.0") == 7
    (answer,) = lab.sent()
    lab.iss = answer.sequence
    lab.arrive(ACK, 1, 1)
    assert lab.said() == [(PSH | ACK, 1, 1, b"SSH-2.0")]


def test_syn_sent_is_answered() -> None:
    lab = Lab().syn_sent()
    lab.arrive(SYN | ACK, 0, 1, options=SYN_OPTIONS)
    assert lab.told() == ["Connected"]
    (seen,) = lab.sent()
    assert (seen.flags, seen.acknowledgment) == (ACK, ISS + 1)
    assert seen.window << 8 == 1 << 20


def test_syn_sent_written_and_shut_down() -> None:
    lab = Lab().syn_sent()
    lab.connection.write(b"all I have to say")
    lab.connection.shutdown()
    assert lab.said() == []
    lab.arrive(SYN | ACK, 0, 1, options=SYN_OPTIONS)
    assert lab.said() == [(FIN | PSH | ACK, 1, 1, b"all I have to say")]
    assert lab.connection.state is State.FIN_WAIT_1


def test_syn_sent_repeats_and_times_out() -> None:
    lab = Lab().syn_sent(timeout=1.0)
    for interval in (0.3, 0.6):
        lab.wait(interval)
        assert lab.said() == [(SYN, 0, 0, b"")]
    lab.wait(0.2)
    assert lab.events() == [ConnectFailed(lab.connection, Reason.TIMED_OUT)]
    assert lab.said() == []
    assert lab.stack.statistics().connections == 0


def test_syn_sent_refused() -> None:
    lab = Lab().syn_sent()
    lab.arrive(RST, 0)  # without an acknowledgment anyone could have sent it
    lab.arrive(RST | ACK, 0, 2)
    assert lab.told() == []
    lab.arrive(RST | ACK, 0, 1)
    assert lab.events() == [ConnectFailed(lab.connection, Reason.REFUSED)]


def test_syn_sent_answer_to_another_syn_is_reset() -> None:
    lab = Lab().syn_sent()
    lab.arrive(SYN | ACK, 0, 5)
    assert lab.said() == [(RST, 5, 0, b"")]
    assert lab.connection.state is State.SYN_SENT


@pytest.mark.parametrize(
    ("error", "failure"),
    [(icmp.Error.HOST_UNREACHABLE, Reason.UNREACHABLE), (icmp.Error.PORT_UNREACHABLE, Reason.REFUSED)],
)
def test_syn_sent_icmp_error(error: icmp.Error, failure: Reason) -> None:
    lab = Lab()
    lab.connection = lab.stack.connect(lab.host, lab.program, lab.now)
    (frame,) = lab.frames()
    syn = b"".join(frame)[vnet.LENGTH :]
    for quote in (syn[:24] + bytes(16), syn):  # another sequence number: forged
        header, message = icmp.build_error(OWN4, HOST4, error, quote)
        assert lab.told() == []
        lab.stack.receive([vnet.PLAIN + header + message], lab.now)
    assert lab.events() == [ConnectFailed(lab.connection, failure)]


def test_established_does_not_end_by_an_icmp_error() -> None:
    lab = Lab().established()
    lab.connection.write(b"x")
    (frame,) = lab.frames()
    header, message = icmp.build_error(
        OWN4, HOST4, icmp.Error.HOST_UNREACHABLE, b"".join(frame)[vnet.LENGTH :]
    )
    lab.stack.receive([vnet.PLAIN + header + message], lab.now)
    assert lab.told() == []


def test_simultaneous_open() -> None:
    lab = Lab().syn_sent()
    lab.arrive(SYN, options=SYN_OPTIONS)
    assert lab.said() == [(SYN | ACK, 0, 1, b"")]
    lab.arrive(ACK, 1, 1)
    assert lab.told() == ["Connected"]


# Data


def test_acknowledges_once_for_many_segments() -> None:
    lab = Lab().established()
    for number in range(10):
        lab.arrive(PSH | ACK, 1 + number * 100, 1, b"x" * 100)
    assert lab.told() == ["Readable"]
    assert lab.said() == [(ACK, 1, 1001, b"")]
    assert lab.connection.read(150) == b"x" * 150
    assert lab.connection.read(10_000) == b"x" * 850
    assert lab.connection.read(1) == b""


def test_a_gap_is_told_at_once_with_sack() -> None:
    lab = Lab().established()
    for start in (101, 301, 201):
        lab.arrive(ACK, start, 1, b"x" * 50)
    duplicates = lab.sent()
    assert [seen.acknowledgment - ISS for seen in duplicates] == [1, 1, 1]
    islands = [[n - ISS for n in _blocks(seen.options)] for seen in duplicates]
    assert islands == [[101, 151], [301, 351, 101, 151], [201, 251, 301, 351, 101, 151]]


def _blocks(options: bytes) -> list[int]:
    assert options[:3] == bytes((1, 1, 5))
    return [int.from_bytes(options[n : n + 4], "big") for n in range(4, len(options), 4)]


def test_no_sack_without_permission() -> None:
    lab = Lab().established(options=b"")
    lab.arrive(ACK, 101, 1, b"x")
    assert {seen.options for seen in lab.sent()} == {b""}


def test_gap_filled() -> None:
    lab = Lab().established()
    lab.arrive(ACK, 4, 1, b"def")
    lab.arrive(FIN | ACK, 10, 1, b"j")
    lab.sent()
    assert lab.told() == []
    lab.arrive(ACK, 1, 1, b"abcd")  # overlaps
    lab.arrive(ACK, 5, 1, b"efghijkl")  # and goes on beyond the FIN
    assert lab.told() == ["Readable"]
    assert lab.connection.read(100) == b"abcdefghij"
    assert lab.told() == ["Eof"]
    assert lab.said()[-1] == (ACK, 1, 12, b"")


def test_numbers_wrap() -> None:
    lab = Lab()
    wrap = 2**32 - 3 - ISS
    lab.arrive(SYN, wrap, options=SYN_OPTIONS)
    (event,) = lab.events()
    event.connection.accept()  # type: ignore[union-attr]
    (answer,) = lab.sent()
    lab.iss = answer.sequence
    lab.arrive(PSH | ACK, wrap + 1, 1, b"0123456789")
    assert event.connection.read(100) == b"0123456789"  # type: ignore[union-attr]
    assert lab.said() == [(ACK, 1, (wrap + 11) % 2**32, b"")]


def test_old_and_far_segments_are_answered_but_not_taken() -> None:
    lab = Lab().established()
    lab.arrive(ACK, 1, 1, b"abc")
    lab.sent()
    for sequence in (0, 1, 1 << 21, -5000, 1 << 31):
        lab.arrive(ACK, sequence, 1, b"abc"[: 1 if sequence == 0 else 3])
        assert lab.said() == [(ACK, 1, 4, b"")]
    assert lab.connection.read(100) == b"abc"


@pytest.mark.parametrize("acknowledgment", [2, -10_000_000, 1 << 31])
def test_implausible_acknowledgment_is_answered_and_dropped(acknowledgment: int) -> None:
    lab = Lab().established()
    lab.arrive(ACK, 1, acknowledgment, b"abc")
    assert lab.said() == [(ACK, 1, 1, b"")]
    assert len(lab.connection._receive) == 0


def test_segments_without_acknowledgment_are_dropped() -> None:
    lab = Lab().established()
    lab.arrive(PSH, 1, None, b"abc")
    assert lab.said() == []
    assert len(lab.connection._receive) == 0


def test_large_writes_leave_as_super_segments_up_to_the_window() -> None:
    lab = Lab().established(window=2000)  # scaled: 256 000
    data = bytes(range(256)) * 4096
    assert lab.connection.write(data + b"more") == len(data)
    assert lab.connection._send.space == 0
    sent = lab.sent()
    assert b"".join(seen.payload for seen in sent) == data[: 1460 * 175]  # of 256 000
    assert {seen.gso_size for seen in sent} == {1460}
    assert len(sent) == 4
    assert all(len(seen.payload) % 1460 == 0 for seen in sent[:-1])
    assert lab.said() == []
    lab.arrive(ACK, 1, 255_501, window=2000)
    assert lab.told() == []  # too little space to bother the owner
    assert sum(len(seen.payload) for seen in lab.sent()) == 255_500
    lab.arrive(ACK, 1, 511_001, window=2000)
    assert lab.told() == ["Writable"]
    assert lab.connection._send.space == 511_000


def test_a_round_is_eight_super_segments() -> None:
    lab = Lab().established()
    lab.connection.write(bytes(1 << 20))
    assert len(lab.sent()) == 8
    assert lab.stack.next_timeout() == 0.0
    assert len(lab.sent()) == 8
    assert len(lab.sent()) == 1
    assert lab.stack.next_timeout() != 0.0


def test_small_writes_of_a_round_leave_together() -> None:
    lab = Lab().established()
    for _ in range(47):
        lab.connection.write(b"x" * 1400)
    frames = lab.frames()
    assert [len(frame) for frame in frames] == [2, 2]
    assert sum(len(frame[1]) for frame in frames) == 47 * 1400


def test_data_carries_the_acknowledgment() -> None:
    lab = Lab().established()
    lab.arrive(PSH | ACK, 1, 1, b"ping")
    lab.connection.write(b"pong")
    assert lab.said() == [(PSH | ACK, 1, 5, b"pong")]


def test_the_mss_of_the_peer_is_kept() -> None:
    lab = Lab().established(options=tcp.build_syn_options(tcp.Options(500)), window=65535)
    lab.connection.write(bytes(5000))
    assert [(seen.gso_size, len(seen.payload)) for seen in lab.sent()] == [(500, 5000)]


@pytest.mark.parametrize(("mss", "size"), [(None, 536), (1, 88), (9000, 1460)])
def test_odd_mss(mss: int | None, size: int) -> None:
    lab = Lab().established(options=tcp.build_syn_options(tcp.Options(mss)))
    lab.connection.write(bytes(5000))
    assert [seen.gso_size for seen in lab.sent()] == [size]


def test_mss_follows_the_path() -> None:
    lab = Lab().established()
    lab.connection.write(bytes(5000))
    (frame,) = lab.frames()
    header, message = icmp.build_error(
        OWN4, HOST4, icmp.Error.TOO_BIG, b"".join(frame)[vnet.LENGTH :], mtu=1280
    )
    lab.stack.receive([vnet.PLAIN + header + message], lab.now)
    (again,) = lab.sent()
    assert (again.gso_size, len(again.payload)) == (1240, 5000)


# Loss


def test_retransmission_backs_off_and_gives_up() -> None:
    lab = Lab().established()
    lab.connection.write(b"hello")
    assert lab.said() == [(PSH | ACK, 1, 1, b"hello")]
    interval = connection_timer.RETRANSMISSION_TIMEOUT
    for _ in range(connection_timer.MAX_ATTEMPTS):
        lab.wait(interval - 0.01)
        assert lab.said() == []
        lab.wait(0.02)
        assert lab.said() == [(PSH | ACK, 1, 1, b"hello")]
        interval = min(2 * interval, connection_timer.MAX_INTERVAL)
    lab.wait(interval + 1)
    assert lab.events() == [Aborted(lab.connection, AbortReason.TIMED_OUT)]
    assert lab.said() == [(RST | ACK, 6, 1, b"")]


def test_progress_resets_the_back_off() -> None:
    lab = Lab().established()
    lab.connection.write(b"hello")
    lab.sent()
    for _ in range(4):
        lab.wait(10)
        lab.sent()
    lab.arrive(ACK, 1, 3)
    assert lab.said() == [(PSH | ACK, 3, 1, b"llo")]  # what followed was lost as well
    lab.wait(0.21)
    assert lab.said() == [(PSH | ACK, 3, 1, b"llo")]


def test_three_duplicates_repair_without_waiting() -> None:
    lab = Lab().established()
    size = 64240  # 44 segments of 1460 bytes
    lab.connection.write(bytes(5 * size))
    assert [len(seen.payload) for seen in lab.sent()] == [size] * 5
    for _ in range(2):
        lab.arrive(ACK, 1, 1)
        assert lab.said() == []
    lab.arrive(ACK, 1, 1)
    assert [(s, len(p)) for _, s, _, p in lab.said()] == [(1, size)]
    lab.arrive(ACK, 1, 1 + 2 * size)  # partial: another was lost
    assert [(s, len(p)) for _, s, _, p in lab.said()] == [(1 + 2 * size, size)]
    lab.arrive(ACK, 1, 1 + 5 * size)
    assert lab.said() == []


def test_few_in_flight_need_fewer_duplicates() -> None:
    lab = Lab().established()
    for _ in range(2):
        lab.connection.write(b"x" * 100)
        lab.sent()
    lab.arrive(ACK, 1, 1)
    assert lab.said() == [(PSH | ACK, 1, 1, b"x" * 100)]


@pytest.mark.parametrize("what", ["window", "data"])
def test_not_every_repeated_acknowledgment_is_a_duplicate(what: str) -> None:
    lab = Lab().established()
    lab.connection.write(b"x" * 100)
    lab.sent()
    if what == "window":
        lab.arrive(ACK, 1, 1, window=60000)
        assert lab.said() == []
    else:
        lab.arrive(ACK, 1, 1, b"y")
        assert lab.said() == [(ACK, 101, 2, b"")]


# Windows


def test_the_window_closes_with_what_is_unread_and_reading_opens_it() -> None:
    lab = Lab().established()
    sent = 0
    while sent < 1 << 20:
        size = min(32768, (1 << 20) - sent)
        lab.arrive(ACK, 1 + sent, 1, bytes(size))
        sent += size
        assert window_of(lab) << 8 == (1 << 20) - sent
    lab.arrive(ACK, 1 + sent, 1, b"x")  # a probe
    assert window_of(lab) == 0
    assert len(lab.connection._receive) == 1 << 20
    lab.connection.read(100_000)
    assert lab.said() == []  # the silly window syndrome
    lab.connection.read(200_000)
    assert window_of(lab) == 300_000 >> 8
    lab.arrive(ACK, 1 + sent, 1, b"x")
    assert window_of(lab) == 299_999 >> 8


def test_without_scaling_the_window_is_64_kilobytes() -> None:
    lab = Lab().established(options=tcp.build_syn_options(tcp.Options(1460)))
    lab.arrive(ACK, 1, 1, bytes(1000))
    assert window_of(lab) == 65535
    for start in range(1001, 1_000_000, 1000):
        lab.arrive(ACK, start, 1, bytes(1000))
    lab.sent()
    assert (
        len(lab.connection._receive) == 66_535
    )  # what was read in before the window was told, and the window


def test_a_closed_window_is_probed_until_it_opens() -> None:
    lab = Lab().established(window=0)
    lab.connection.write(b"hello")
    assert lab.said() == []
    for interval in (0.3, 0.6, 1.2):
        lab.wait(interval)
        assert lab.said() == [(ACK, 0, 1, b"")]  # an old number, to be answered
        lab.arrive(ACK, 1, 1, window=0)
        assert lab.said() == []
    for _ in range(40):  # as long as there are answers there is hope
        lab.wait(60)
        assert lab.said() == [(ACK, 0, 1, b"")]
        lab.arrive(ACK, 1, 1, window=0)
    lab.arrive(ACK, 1, 1, window=1)
    assert lab.said() == [(PSH | ACK, 1, 1, b"hello")]
    lab.wait(0.21)
    assert lab.said() == [(PSH | ACK, 1, 1, b"hello")]


def test_unanswered_probes_end_the_connection() -> None:
    lab = Lab().established(window=0)
    lab.connection.write(b"hello")
    lab.sent()
    for _ in range(20):
        lab.wait(60)
        lab.sent()
    assert lab.events() == [Aborted(lab.connection, AbortReason.TIMED_OUT)]


def test_a_window_that_closes_over_what_is_in_flight() -> None:
    lab = Lab().established()
    lab.connection.write(bytes(10_000))
    lab.sent()
    lab.arrive(ACK, 1, 1001, window=0)
    lab.wait(0.31)
    assert lab.said() == [(ACK, 1000, 1, b"")]
    lab.arrive(ACK, 1, 1001, window=100)
    (again,) = lab.sent()
    assert (again.sequence - lab.iss, len(again.payload)) == (1001, 9000)


def test_a_window_too_small_for_a_segment_is_used_after_a_while() -> None:
    lab = Lab().established(options=tcp.build_syn_options(tcp.Options(1460)), window=1000)
    lab.connection.write(bytes(5000))
    assert lab.said() == []
    lab.wait(0.31)
    assert [len(payload) for _, _, _, payload in lab.said()] == [1000, 0]


def test_fin_waits_for_the_window() -> None:
    lab = Lab().established(options=tcp.build_syn_options(tcp.Options(1460)), window=5)
    lab.connection.write(b"hello")
    lab.connection.shutdown()
    assert lab.said() == [(PSH | ACK, 1, 1, b"hello")]
    lab.arrive(ACK, 1, 6, window=0)
    assert lab.said() == []
    lab.arrive(ACK, 1, 6, window=10)
    assert lab.said() == [(FIN | ACK, 6, 1, b"")]


def test_keep_alive() -> None:
    lab = Lab().established()
    for _ in range(3):
        lab.wait(connection_timer.KEEP_ALIVE + 1)
        assert lab.said() == [(ACK, 0, 1, b"")]
        lab.arrive(ACK, 1, 1)
        assert lab.said() == []
    for _ in range(connection_timer.MAX_ATTEMPTS + 1):
        lab.wait(connection_timer.KEEP_ALIVE)
        lab.sent()
    assert lab.events() == [Aborted(lab.connection, AbortReason.TIMED_OUT)]


# Ends


def test_half_close_by_us() -> None:
    lab = Lab().established()
    lab.connection.write(b"bye")
    lab.connection.shutdown()
    lab.connection.shutdown()
    assert lab.said() == [(PSH | FIN | ACK, 1, 1, b"bye")]
    lab.arrive(ACK, 1, 5)
    assert lab.connection.state is State.FIN_WAIT_2
    lab.arrive(PSH | ACK, 1, 5, b"and more")
    assert lab.connection.read(100) == b"and more"
    lab.told()
    lab.arrive(FIN | ACK, 9, 5)
    assert lab.told() == ["Eof", "Closed"]


def test_half_close_by_the_peer() -> None:
    lab = Lab().established()
    lab.arrive(FIN | PSH | ACK, 1, 1, b"bye")
    assert lab.told() == ["Readable"]  # the end is told when it has been read to
    lab.connection.read(2)
    assert lab.told() == []
    lab.connection.read(2)
    assert lab.told() == ["Eof"]
    lab.connection.write(b"and more")
    assert lab.said() == [(PSH | ACK, 1, 5, b"and more")]
    lab.connection.shutdown()
    assert lab.said() == [(FIN | ACK, 9, 5, b"")]
    lab.arrive(ACK, 5, 10)
    assert lab.told() == ["Closed"]
    assert lab.stack.statistics().connections == 0


def test_what_arrived_before_the_end_can_be_read_after_it() -> None:
    lab = Lab().established()
    lab.arrive(FIN | ACK, 1, 1, b"last words")
    lab.connection.shutdown()
    lab.sent()
    lab.arrive(ACK, 12, 2)
    assert lab.connection.state is State.CLOSED
    assert lab.told() == ["Readable"]
    assert lab.connection.read(100) == b"last words"
    assert lab.told() == ["Eof", "Closed"]


def test_simultaneous_close() -> None:
    lab = Lab().fin_wait_1()
    lab.arrive(FIN | ACK, 1, 1)
    assert lab.connection.state is State.CLOSING
    lab.arrive(ACK, 2, 2)
    assert lab.connection.state is State.TIME_WAIT  # type: ignore[comparison-overlap]
    assert lab.told() == ["Eof", "Closed"]


def test_fin_and_its_acknowledgment_at_once() -> None:
    lab = Lab().fin_wait_1()
    lab.arrive(FIN | ACK, 1, 2)
    assert lab.connection.state is State.TIME_WAIT


def test_a_lost_fin_is_sent_again() -> None:
    lab = Lab().fin_wait_1()
    lab.wait(0.21)
    assert lab.said() == [(FIN | ACK, 1, 1, b"")]


def test_time_wait_answers_and_is_short() -> None:
    lab = Lab().time_wait()
    lab.wait(0.9)
    lab.arrive(FIN | ACK, 1, 2)
    assert lab.said() == [(ACK, 2, 2, b"")]
    lab.wait(0.9)
    assert lab.connection.state is State.TIME_WAIT
    lab.wait(0.2)
    assert lab.connection.state is State.CLOSED  # type: ignore[comparison-overlap]
    assert lab.stack.statistics().connections == 0
    assert lab.told() == []


def test_time_wait_gives_way_to_a_new_connection() -> None:
    lab = Lab().time_wait()
    lab.arrive(SYN, 1, options=SYN_OPTIONS)  # an old number
    assert lab.told() == []
    assert lab.said() == [(ACK, 2, 2, b"")]
    lab.arrive(SYN, 100, options=SYN_OPTIONS)
    assert lab.told() == ["Incoming"]


def test_time_wait_is_not_assassinated() -> None:
    lab = Lab().time_wait()
    lab.arrive(RST, 2)
    assert lab.connection.state is State.TIME_WAIT
    assert lab.told() == []


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_reset_at_the_next_number_ends_every_state(state: str) -> None:
    lab = in_state(state)
    received = 1 if state in ("established", "fin_wait_1", "fin_wait_2") else 2
    lab.arrive(RST, received)
    if state != "time_wait":
        assert lab.connection.state is State.CLOSED
        assert lab.events() == [Aborted(lab.connection, AbortReason.RESET)]
    assert lab.said() == []


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_reset_elsewhere_in_the_window_is_challenged(state: str) -> None:
    lab = in_state(state)
    lab.arrive(RST, 1000)
    assert [flags for flags, _, _, _ in lab.said()] == [ACK]
    lab.arrive(RST, -1000)
    assert lab.said() == []
    assert lab.connection.state is STATES[state]


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_syn_in_the_window_is_challenged(state: str) -> None:
    lab = in_state(state)
    lab.arrive(SYN, 1000 if state != "time_wait" else -1000)
    assert [flags for flags, _, _, _ in lab.said()] == [ACK]
    assert lab.connection.state is STATES[state]


def test_reset_drops_what_was_not_read() -> None:
    lab = Lab().established()
    lab.arrive(ACK, 1, 1, b"abc")
    lab.arrive(RST, 4)
    assert lab.told() == ["Readable", "Aborted"]
    assert lab.connection.read(100) == b""
    assert lab.connection.write(b"x") == 0
    lab.connection.shutdown()
    lab.connection.abort()
    assert lab.said() == []


@pytest.mark.parametrize("state", BUILDERS)
def test_abort_in_every_state(state: str) -> None:
    lab = in_state(state)
    lab.connection.abort()
    resets = [flags for flags, _, _, _ in lab.said()]
    assert resets == ([] if state in ("syn_sent", "time_wait") else [RST | ACK])
    assert lab.told() == []
    assert lab.stack.statistics().connections == 0
    assert lab.stack.next_timeout() is None


def test_a_connection_that_is_aborted_at_once_sends_nothing() -> None:
    lab = Lab()
    lab.stack.connect(lab.host, lab.program, lab.now).abort()
    assert lab.sent() == []


def test_nothing_is_heard_of_an_aborted_connection() -> None:
    lab = Lab().established()
    lab.arrive(ACK, 1, 1, b"abc")
    lab.connection.abort()
    assert lab.told() == []


def test_segments_of_no_connection_are_reset() -> None:
    lab = Lab()
    lab.arrive(ACK, 5, 7)
    assert lab.said() == [(RST, 7, 0, b"")]
    lab.arrive(PSH, 5, None, b"abc")
    assert lab.said() == [(RST | ACK, 0, 8, b"")]
    lab.arrive(SYN | FIN | ACK, 5, 7)
    assert lab.said() == [(RST, 7, 0, b"")]
    lab.arrive(RST | ACK, 5, 7)
    lab.arrive(RST, 5)
    assert lab.said() == []
    assert lab.stack.statistics().resets_sent == 3


# Misuse


def test_misuse() -> None:
    lab = Lab().established()
    with pytest.raises(Misuse):
        lab.connection.accept()
    with pytest.raises(Misuse):
        lab.connection.refuse()
    with pytest.raises(Misuse):
        lab.connection.unreachable()
    lab.connection.shutdown()
    with pytest.raises(Misuse):
        lab.connection.write(b"x")
    with pytest.raises(Misuse):
        lab.stack.connect(lab.host, lab.program, lab.now)
    with pytest.raises(Misuse):
        Lab().incoming().connection.shutdown()


# Everything in every state


@pytest.mark.heavy
@pytest.mark.parametrize("state", BUILDERS)
def test_any_flags_in_any_state(state: str) -> None:
    """No combination of flags, place and data makes the stack fail, or answer more than twice."""
    places = (-5, -1, 0, 1, 2, 1000, 1 << 20, 1 << 31)
    for flags, place in itertools.product(range(256), places):
        lab = in_state(state)
        for acknowledgment, payload in ((1, b""), (2, b"xyz"), (-1, b"x"), (77, b"")):
            lab.arrive(flags, place, acknowledgment, payload, window=flags)
            answers = lab.sent()
            assert len(answers) <= 2
            assert not [seen for seen in answers if seen.flags & RST] or not flags & RST
            lab.events()
        lab.stack.next_timeout()
