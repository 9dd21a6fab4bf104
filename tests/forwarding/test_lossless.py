"""The plain transport and its channels, without a session around them."""

from typing import Any

import pytest

from tunfwd.common.values import Reason
from tunfwd.forwarding.lossless import LINGER, MAX_CONTROL, MAX_DATAGRAMS, TURN, WINDOW, LosslessTransport
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Credit, Data, Fin, Kill, Reset, decode

NOW = 100.0


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def channel_readable(self) -> None:
        self.said.append("readable")

    def channel_writable(self) -> None:
        self.said.append("writable")

    def channel_done(self) -> None:
        self.said.append("done")

    def channel_reset(self, reason: Reason) -> None:
        self.said.append(f"reset {reason.name}")

    def channel_broken(self, reason: Reason) -> None:
        self.said.append(f"broken {reason.name}")


def transport(*, flow_control: bool = True) -> LosslessTransport:
    new = LosslessTransport(FRIEND)
    new.flow_control = flow_control
    return new


def sent(of: LosslessTransport) -> list[Any]:
    found: list[Any] = []
    while (packet := of.next_packet()) is not None:
        found.append(decode(FRIEND, packet))
    return found


def test_data_goes_in_packets_as_large_as_they_may_be() -> None:
    wire = transport()
    channel = wire.open_channel(7, Sink())
    assert channel.write(memoryview(b"x" * 3000)) == 3000
    assert [len(data.payload) for data in sent(wire)] == [1367, 1367, 266]
    assert channel.write(b"") == 0
    assert not sent(wire)


def test_control_goes_first_and_what_was_put_back_before_it() -> None:
    wire = transport()
    channel = wire.open_channel(7, Sink())
    channel.write(b"data")
    packet = wire.next_packet()
    assert packet is not None
    wire.put_back(packet)
    wire.send(Kill(9))
    channel.write(b"more")
    assert sent(wire) == [Data(7, b"data"), Kill(9), Data(7, b"more")]


def test_channels_take_turns() -> None:
    wire = transport()
    for msg_id in (1, 2):
        wire.open_channel(msg_id, Sink()).write(bytes(3 * TURN * 1367))
    order = [data.msg_id for data in sent(wire)]
    assert order == ([1] * TURN + [2] * TURN) * 3


def test_the_last_packet_of_a_turn_may_be_the_last_of_all() -> None:
    wire = transport()
    sink = Sink()
    channel = wire.open_channel(1, sink)
    channel.write(bytes((TURN - 1) * 1367))
    channel.finish(NOW)
    channel.receive(Fin(1), NOW)
    wire.open_channel(2, Sink()).write(b"2")

    sink.channel_done = lambda: channel.drop(Reason.ABORTED)  # type: ignore[method-assign]
    assert sent(wire)[TURN - 1 :] == [Fin(1), Data(2, b"2")]


def test_credit_bounds_the_sender_and_reading_gives_more() -> None:
    here, there = transport(), transport()
    sink = Sink()
    out, into = here.open_channel(1, sink), there.open_channel(1, Sink())
    total = 0
    while (taken := out.write(bytes(100_000))) or total == 0:
        total += taken
        for data in sent(here):
            into.receive(Data(1, data.payload), NOW)
    assert total - len(out._buffer) == WINDOW
    out.finish(NOW)
    assert not sent(here)  # Fin stays behind the data
    got = len(into.read(WINDOW // 4))
    (credit,) = sent(there)
    assert credit == Credit(1, WINDOW + got)
    out.receive(Credit(1, credit.limit - 1), NOW)
    out.receive(Credit(1, credit.limit), NOW)
    out.receive(Credit(1, 0), NOW)
    *pieces, fin = sent(here)
    assert sum(len(data.payload) for data in pieces) == got
    assert fin == Fin(1)
    assert sink.said == ["writable"]


def test_credit_with_nothing_to_send() -> None:
    wire = transport()
    channel = wire.open_channel(1, Sink())
    channel.receive(Credit(1, 2 * WINDOW), NOW)
    assert not sent(wire)


def test_no_credit_is_given_for_what_cannot_come() -> None:
    wire = transport()
    channel = wire.open_channel(1, Sink())
    channel.receive(Data(1, bytes(WINDOW)), NOW)
    channel.receive(Fin(1), NOW)
    assert len(channel.read(1 << 30)) == WINDOW
    assert not sent(wire)


@pytest.mark.parametrize("limit", [0, -1])
def test_reading_nothing(limit: int) -> None:
    channel = transport().open_channel(1, Sink())
    assert channel.read(10) == b""
    channel.receive(Data(1, b"x"), NOW)
    assert channel.read(limit) == b""
    assert channel.read(1) == b"x"


def test_an_orderly_end() -> None:
    wire, sink = transport(), Sink()
    channel = wire.open_channel(1, sink)
    channel.receive(Data(1, b"last words"), NOW)
    channel.receive(Fin(1), NOW)
    channel.receive(Fin(1), NOW)
    channel.finish(NOW)
    assert sent(wire) == [Fin(1)]
    assert not channel.at_end
    assert channel.read(100) == b"last words"
    assert channel.at_end
    assert sink.said == ["readable", "readable", "done"]
    channel.reset(Reason.ABORTED)  # over already
    channel.receive(Data(1, b"late"), NOW)
    channel.receive(Fin(1), NOW)
    assert not sent(wire)
    assert channel.write(b"late") == 0


@pytest.mark.parametrize(
    ("flow_control", "packet"), [(True, Reset(1, Reason.TIMED_OUT)), (False, Kill(1))], ids=["flow", "plain"]
)
def test_a_reset_drops_everything(flow_control: bool, packet: object) -> None:
    wire, sink = transport(flow_control=flow_control), Sink()
    channel = wire.open_channel(1, sink)
    channel.write(b"never sent")
    channel.receive(Data(1, b"never read"), NOW)
    channel.reset(Reason.TIMED_OUT)
    channel.reset(Reason.TIMED_OUT)
    assert sent(wire) == [packet]
    assert wire.unread == 0
    assert channel.next_packet() is None


def test_a_plain_finish_says_nothing_and_a_quiet_contact_is_told_kill() -> None:
    wire, sink = transport(flow_control=False), Sink()
    channel = wire.open_channel(1, sink)
    channel.write(b"bye")
    channel.finish(100.0)
    assert wire.timers.next() == 100.0 + LINGER
    wire.handle_timeout(100.0 + LINGER)  # the carrier has not taken it yet
    assert sent(wire) == [Data(1, b"bye")]
    assert channel.receive(Data(1, b"reply"), 103.0)  # the contact is not quiet yet
    assert not channel.receive(Credit(1, 5), 103.0)
    assert not channel.receive(Fin(1), 103.0)
    wire.handle_timeout(103.0 + LINGER - 0.1)
    assert sent(wire) == []
    wire.handle_timeout(103.0 + LINGER)
    assert sent(wire) == [Kill(1)]
    assert wire.timers.next() is None
    assert channel.read(100) == b"reply"
    assert sink.said == ["readable", "done"]


def test_queues_are_bounded() -> None:
    wire = transport()
    for i in range(MAX_CONTROL + 5):
        wire.send(Kill(i))
    for i in range(MAX_DATAGRAMS + 5):
        assert wire.send_datagram(i, b"")
    wire.send_extension(b"no room")
    assert wire.dropped_control == wire.dropped_datagrams == 5
    assert len(sent(wire)) == MAX_CONTROL
    first = wire.next_datagram()
    assert first == b"\xc8\x05\0\0\0"
    wire.send_extension(b"room")
    assert wire._datagrams[-1] == b"room"


def test_an_interruption_clears_everything() -> None:
    wire = transport()
    channel = wire.open_channel(1, Sink())
    channel.write(b"x" * 5000)
    packet = wire.next_packet()
    assert packet is not None
    wire.put_back(packet)
    wire.send(Kill(1))
    wire.send_datagram(1, b"")
    wire.clear()
    assert wire.next_packet() is None
    assert wire.next_datagram() is None
