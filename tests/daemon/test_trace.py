"""Traces of links: what they tell and nothing else, what bounds them, and that being off is free."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from types import FrameType, FunctionType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.daemon.commands import trace as commands
from tunfwd.daemon.commands.trace import LEASE, MAX_TRACES, Buffer, Following, TraceCommands, start
from tunfwd.daemon.datapath.engine import Engine
from tunfwd.daemon.datapath.trace import Trace
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.process import qlog
from tunfwd.daemon.process.qlog import QlogFiles
from tunfwd.faults import tally
from tunfwd.forwarding.session import CARRIER_FEATURES, Settings
from tunfwd.link import Link
from tunfwd.wire.carriers import FRIEND, GROUP, Carrier
from tunfwd.wire.frames import (
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
    encode_frame,
)
from tunfwd.wire.packets import Protocol

from .joined import Joined, Program

SECRET = b"what nobody but the two is to read "


def entries(records: bytes | str) -> list[dict[str, Any]]:
    """Header and events."""
    text = records if isinstance(records, str) else records.decode()
    return [json.loads(entry) for entry in text.split("\x1e")[1:]]


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event.get("name") == name]


def numbers(events: list[dict[str, Any]], name: str) -> list[int]:
    return [data["header"]["packet_number"] for data in named(events, name)]


class Traced:
    """Two daemons, one of which is to be looked at, with a connection between them."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self.tap = joined.using.daemon.tap
        self.engine = joined.using.daemon.datapath.engine
        self.peer = joined.server

    async def connect(self) -> Program:
        program = self.joined.using.kernel.connect(self.joined.address, 8080)
        await trio.sleep(1)
        return program

    @property
    def service(self) -> Program:
        return self.joined.serving.kernel.accepted[-1]

    def begin(self, limit: int = 1 << 26) -> tuple[Trace, Buffer]:
        buffer = Buffer()
        trace = start(self.peer, buffer, limit=limit)
        self.tap.add(self.peer, trace)
        return trace, buffer

    def end(self) -> None:
        self.tap.end(self.peer, "stopped")


@pytest.fixture
async def traced(autojump_clock: MockClock) -> AsyncIterator[Traced]:
    async with Joined.running() as joined:
        await joined.offer(Protocol.TCP, 8080)
        joined.serving.kernel.listening[8080] = lambda program: None
        yield Traced(joined)


async def test_a_transfer_is_told_packet_by_packet_and_nothing_of_what_it_carries(
    traced: Traced, autojump_clock: MockClock
) -> None:
    trace, buffer = traced.begin()
    program = await traced.connect()
    program.write(SECRET * 1000)
    await trio.sleep(5)
    link = traced.peer.session.link
    assert link is not None
    traced.end()
    records = buffer.take()
    header, *events = entries(records)
    assert header["qlog_version"] == "0.3"
    assert SECRET[:8] not in records
    assert len(traced.service.read) == len(SECRET) * 1000
    sent, received = numbers(events, "transport:packet_sent"), numbers(events, "transport:packet_received")
    assert len(sent) == trace.packets_sent == link.statistics.packets_sent
    assert len(received) == trace.packets_received == link.statistics.packets_received
    assert sent == sorted(set(sent))
    streams = [
        frame
        for data in named(events, "transport:packet_sent")
        for frame in data["frames"]
        if frame["frame_type"] == "stream" and frame["stream_id"]
    ]
    assert sum(frame["length"] for frame in streams) == len(SECRET) * 1000
    acked = [
        range_
        for data in named(events, "transport:packet_received")
        for frame in data["frames"]
        if frame["frame_type"] == "ack"
        for range_ in frame["acked_ranges"]
    ]
    wants_ack = [
        data["header"]["packet_number"]
        for data in named(events, "transport:packet_sent")
        if any(frame["frame_type"] != "ack" for frame in data["frames"])
    ]
    assert max(high for _, high in acked) == wants_ack[-1]
    measured: dict[str, Any] = {}
    for data in named(events, "recovery:metrics_updated"):
        measured |= data
    assert measured["congestion_window"] == link.recovery.controller.cwnd
    assert measured["bytes_in_flight"] == 0
    assert measured["smoothed_rtt"] == round(link.recovery.rtt.smoothed * 1e3, 3)
    assert not named(events, "recovery:packet_lost")
    assert events[-1]["data"] == {"reason": "stopped", "dropped": 0}


@pytest.mark.interpreted
async def test_what_is_lost_is_named(
    traced: Traced, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, buffer = traced.begin()
    program = await traced.connect()
    engine = traced.joined.serving.daemon.datapath.engine
    take, large = engine.lossy, 0

    def lose(peer: Peer, packet: bytes) -> None:
        nonlocal large
        large += len(packet) > 1000
        if len(packet) <= 1000 or large % 2 or large > 20:
            take(peer, packet)

    monkeypatch.setattr(engine, "lossy", lose)
    program.write(SECRET * 1000)
    await trio.sleep(20)
    assert len(traced.service.read) == len(SECRET) * 1000
    traced.end()
    _, *events = entries(buffer.take())
    lost = numbers(events, "recovery:packet_lost")
    arrived = traced.joined.user.session.link
    assert arrived is not None
    missing = trace.packets_sent - arrived.statistics.packets_received
    assert lost == sorted(set(lost))
    assert len(lost) == trace.packets_lost == missing == 10
    assert set(lost) < set(numbers(events, "transport:packet_sent"))


async def test_a_contact_that_goes_and_comes_is_one_link_on_another_path(
    traced: Traced, autojump_clock: MockClock
) -> None:
    await traced.connect()
    _, buffer = traced.begin()
    traced.engine.offline(traced.peer)
    await trio.sleep(5)
    traced.engine.online(traced.peer)
    await trio.sleep(5)
    traced.end()
    _, *events = entries(buffer.take())
    assert [data["new"] for data in named(events, "tunfwd:contact_state_updated")] == [
        "direct",
        "offline",
        "direct",
    ]
    assert len(named(events, "tunfwd:path_restarted")) == 1
    assert len(named(events, "tunfwd:link_started")) == 1


async def test_a_plain_contact_has_packets_but_no_link(autojump_clock: MockClock) -> None:
    async with Joined.running(Settings(CARRIER_FEATURES)) as joined:
        await joined.offer(Protocol.TCP, 8080)
        joined.serving.kernel.listening[8080] = lambda program: None
        traced = Traced(joined)
        _, buffer = traced.begin()
        (await traced.connect()).write(SECRET)
        await trio.sleep(1)
        traced.end()
        records = buffer.take()
        _, *events = entries(records)
        assert SECRET[:8] not in records
        assert {data["type"] for data in named(events, "tunfwd:packet_sent")} >= {"offer", "data"}
        assert not named(events, "transport:packet_sent")


async def test_the_end_of_the_daemon_is_the_end_of_traces(traced: Traced, autojump_clock: MockClock) -> None:
    trace, buffer = traced.begin()
    await traced.connect()
    traced.engine.leave()
    assert entries(buffer.take())[-1]["data"] == {"reason": "daemon_ended", "dropped": 0}
    assert trace.over == "daemon_ended"
    assert traced.engine.observer is None


# -- being off


async def round_trip(traced: Traced, program: Program) -> Counter[str]:
    """The calls of functions of ours that one takes."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "/tunfwd/" in frame.f_code.co_filename:
            counts[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        for write, read in ((program.write, traced.service.read), (traced.service.write, program.read)):
            write(b"x")
            had = len(read)
            await trio.sleep(0.1)
            assert len(read) == had + 1
    finally:
        sys.setprofile(None)
    return counts


@pytest.mark.interpreted
async def test_off_costs_nothing_before_and_after(traced: Traced, autojump_clock: MockClock) -> None:
    program = await traced.connect()
    before = await round_trip(traced, program)
    _, buffer = traced.begin()
    during = await round_trip(traced, program)
    assert traced.engine.observer is not None
    assert buffer
    traced.end()
    after = await round_trip(traced, program)
    assert type(traced.engine) is Engine
    of_traces = ("Trace.", "Tap", "_Overheard", "Buffer", "state_of")
    assert during["Trace.sent"] >= 2
    assert during["Tap.sending"] >= 2
    assert not [name for name in before + after if name.startswith(of_traces)]
    assert min(before["Engine._send"], after["Engine._send"]) >= 2


@pytest.mark.interpreted
def test_the_engine_knows_nothing_of_traces() -> None:
    functions = [value for value in vars(Engine).values() if isinstance(value, FunctionType)]
    names = {name for function in functions for name in function.__code__.co_names}
    assert not [name for name in names if "trace" in name or "tap" in name.lower().split("_")]


# -- what goes wrong


class Full:
    """A sink that has room for some records only."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.records: list[bytes] = []

    def __call__(self, record: bytes, *, must: bool = False) -> bool:
        if not self.room and not must:
            return False
        self.room = max(0, self.room - 1)
        self.records.append(record)
        return True


def trace_into(sink: Any, carrier: Carrier = FRIEND, limit: int = 1 << 20) -> Trace:
    return Trace(carrier, sink, 0.0, title="t", wall=1e9, first=True, limit=limit)


def test_what_there_is_no_room_for_is_counted_in_its_place() -> None:
    sink = Full(2)  # the header, and one
    trace = trace_into(sink)
    for second in range(4):
        trace.state("direct", second)
    sink.room = 9
    trace.state("relay", 4.0)
    trace.end("stopped", 5.0)
    events = entries(b"".join(sink.records))[1:]
    assert [(event["name"], event["data"]) for event in events] == [
        ("tunfwd:contact_state_updated", {"new": "direct"}),
        ("tunfwd:records_dropped", {"count": 3}),
        ("tunfwd:contact_state_updated", {"new": "relay"}),
        ("tunfwd:trace_ended", {"reason": "stopped", "dropped": 3}),
    ]


def test_a_trace_has_a_size_and_says_that_it_ends() -> None:
    sink = Full(1 << 20)
    trace = trace_into(sink, limit=10_000)
    for second in range(1000):
        trace.state("direct", second)
    text = b"".join(sink.records)
    assert 9000 < len(text) <= 10_000
    assert entries(text)[-1]["data"] == {"reason": "size_limit", "dropped": 0}
    assert trace.over == "size_limit"


def test_a_trace_of_nothing_is_nothing() -> None:
    sink = Full(9)
    trace_into(sink).end("stopped", 1.0)
    assert not sink.records


@pytest.mark.parametrize("carrier", [FRIEND, GROUP], ids=["friend", "group"])
def test_each_frame_has_its_words(carrier: Carrier) -> None:
    sink = Full(99)
    trace = trace_into(sink, carrier)
    link = Link(1, 2, Random(1), 0.0)
    trace.begin(link, 0.0)
    frames: list[Frame] = [
        Ping(),
        Stream(5, 1000, SECRET, False),
        Stream(5, 1000 + len(SECRET), b"", True),
        ResetStream(5, 3, 1002),
        StopSending(5, 3),
        MaxStreamData(5, 131072),
        MaxData(1 << 26),
        Datagram(7, SECRET),
        Fragment(7, 1, 2000, 1300, SECRET),
        Close(1),
    ]
    prefix = carrier.extension + b"\x02" + link.receive_tag.to_bytes(4, "little")
    body = encode_ack([10, 20], [15, 26], 0.0015, 500) + b"".join(encode_frame(frame) for frame in frames)
    trace.received(prefix + (1).to_bytes(4, "little") + body, 1.0)
    trace.received(prefix + (2).to_bytes(4, "little") + b"\xff", 1.1)
    trace.received(prefix[:-1] + b"\0" + (2).to_bytes(4, "little") + b"\x01", 1.2)
    trace.received(carrier.extension + b"\x01" + bytes(8), 1.3)
    trace.received(carrier.extension + b"\x77", 1.4)
    trace.received(carrier.lossy + bytes(8), 1.5)
    trace.received(carrier.lossless + b"\x0f" + bytes(20), 1.6, lossless=True)
    text = b"".join(sink.records)
    assert SECRET[:8] not in text
    events = entries(text)[2:]
    length = len(SECRET)
    assert events[0]["data"]["frames"] == [
        {"frame_type": "ack", "ack_delay": 1.5, "acked_ranges": [[10, 14], [20, 25]]},
        {"frame_type": "ping"},
        {"frame_type": "stream", "stream_id": 5, "offset": 1000, "length": length},
        {"frame_type": "stream", "stream_id": 5, "offset": 1000 + length, "length": 0, "fin": True},
        {"frame_type": "reset_stream", "stream_id": 5, "error_code": 3, "final_size": 1002},
        {"frame_type": "stop_sending", "stream_id": 5, "error_code": 3},
        {"frame_type": "max_stream_data", "stream_id": 5, "maximum": 131072},
        {"frame_type": "max_data", "maximum": 1 << 26},
        {"frame_type": "datagram", "length": length},
        {"frame_type": "unknown", "frame_type_value": 10, "raw": {"payload_length": length}},
        {
            "frame_type": "connection_close",
            "error_space": "transport",
            "error_code": "protocol_violation",
        },
    ]
    assert [data["trigger"] for data in named(events, "transport:packet_dropped")] == [
        "invalid",
        "connection_unknown",
    ]
    others = [(data["type"], data["lossless"]) for data in named(events, "tunfwd:packet_received")]
    assert others == [("pong", False), ("unknown", False), ("data", False), ("hello", True)]


async def test_a_mistake_in_a_trace_costs_the_contact_nothing(
    traced: Traced, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = await traced.connect()
    traced.begin()

    def fail(*_: object) -> None:
        raise RuntimeError("of a test")

    for method in ("sent", "received", "look", "begin", "state"):
        monkeypatch.setattr(Trace, method, fail)
    faults = tally.count
    program.write(SECRET)
    await trio.sleep(1)
    traced.service.write(SECRET)
    await trio.sleep(1)
    assert bytes(traced.service.read) == bytes(program.read) == SECRET
    assert tally.count > faults
    tally.count = faults


# -- the commands


@pytest.fixture
def asked(traced: Traced) -> TraceCommands:
    return TraceCommands(traced.tap, traced.joined.using.daemon.datapath.peers)


async def test_a_command_takes_a_trace_bit_by_bit(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands
) -> None:
    began = await asked._begin(api.TraceBegin("server"))
    assert (began["contact"], began["over"]) == ("server", None)
    records = began["records"]
    program = await traced.connect()
    program.write(SECRET)
    await trio.sleep(1)
    more = await asked._next(api.TraceNext(began["trace"], wait=1.0))
    records += more["records"]
    assert more["packets_sent"] > 2
    last = await asked._next(api.TraceNext(began["trace"], end="time"))
    assert last["over"] == "time"
    events = entries(records + last["records"])
    assert events[0]["trace"]["title"] == "link to server"
    assert events[-1]["data"]["reason"] == "time"
    assert type(traced.engine) is Engine
    with pytest.raises(UserError, match="is over"):
        await asked._next(api.TraceNext(began["trace"]))


async def test_nothing_happens_and_the_wait_is_over(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands
) -> None:
    began = await asked._begin(api.TraceBegin("server"))
    await asked._next(api.TraceNext(began["trace"]))
    before = trio.current_time()
    quiet = await asked._next(api.TraceNext(began["trace"], wait=2.0))
    assert (quiet["records"], quiet["over"]) == ("", None)
    assert trio.current_time() - before == pytest.approx(2.0, abs=0.1)


async def test_a_trace_that_nobody_asks_about_ends(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands
) -> None:
    left = await asked._begin(api.TraceBegin("server"))
    await trio.sleep(LEASE + 1)
    await asked._begin(api.TraceBegin("server"))
    assert len(traced.tap.traces[traced.peer]) == 1
    with pytest.raises(UserError, match="is over"):
        await asked._next(api.TraceNext(left["trace"]))


async def test_what_nobody_takes_is_not_made_for_long(
    traced: Traced, asked: TraceCommands, autojump_clock: MockClock
) -> None:
    """Without another command, too: the next packet is the last."""
    await asked._begin(api.TraceBegin("server"))
    await trio.sleep(LEASE + 1)
    await traced.connect()
    assert type(traced.engine) is Engine
    assert not asked._asked


async def test_there_are_only_so_many_traces(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands
) -> None:
    for _ in range(MAX_TRACES):
        await asked._begin(api.TraceBegin("server"))
    with pytest.raises(UserError, match="already"):
        await asked._begin(api.TraceBegin("server"))
    with pytest.raises(UserError, match="no contact"):
        await asked._begin(api.TraceBegin("nobody"))


async def test_a_contact_that_is_removed_ends_its_trace(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands
) -> None:
    began = await asked._begin(api.TraceBegin("server"))
    traced.engine.offline(traced.peer)
    traced.engine.remove(traced.peer)
    last = await asked._next(api.TraceNext(began["trace"]))
    assert last["over"] == "contact_removed"
    assert type(traced.engine) is Engine


async def test_a_reader_that_is_too_slow_misses_some_and_is_told(
    traced: Traced, autojump_clock: MockClock, asked: TraceCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_BUFFER", 5000)
    began = await asked._begin(api.TraceBegin("server"))
    program = await traced.connect()
    program.write(SECRET * 1000)
    await trio.sleep(1)
    last = await asked._next(api.TraceNext(began["trace"], end="stopped"))
    assert len(last["records"]) < 6000
    assert last["dropped"] > 0
    assert len(traced.service.read) == len(SECRET) * 1000


# -- files


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlog"))


async def test_every_contact_has_a_file_that_is_its_owner_s_alone(
    traced: Traced, autojump_clock: MockClock, tmp_path: Path
) -> None:
    folder = tmp_path / "qlog"
    following = Following(traced.tap)
    assert await following.switch(folder) is None
    (await traced.connect()).write(SECRET)
    await trio.sleep(1)
    await following.close()
    (file,) = files_of(folder)
    assert file.name.startswith(f"server-{traced.peer.key[:8].lower()}-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    events = entries(file.read_bytes())
    assert events[-1]["name"] == "tunfwd:trace_ended"
    assert named(events, "transport:packet_sent")
    assert type(traced.engine) is Engine

    # off and on again is another file
    assert await following.switch(folder) is None
    await trio.sleep(1)
    await following.switch(None)
    assert len(files_of(folder)) == 2


async def test_a_command_s_trace_goes_on_when_files_are_switched_off(
    traced: Traced, autojump_clock: MockClock, tmp_path: Path
) -> None:
    following = Following(traced.tap)
    await following.switch(tmp_path)
    trace, _ = traced.begin()
    await following.switch(None)
    await traced.connect()
    assert trace.over is None
    assert trace.packets_sent
    assert traced.engine.observer is not None


async def test_a_contact_that_comes_later_is_traced_too(
    traced: Traced, autojump_clock: MockClock, tmp_path: Path
) -> None:
    following = Following(traced.tap)
    await following.switch(tmp_path)
    peer = traced.joined.using.daemon.befriend("../late\n\x1b")
    assert traced.tap.traces[peer]
    await following.close()
    assert {file.parent for file in files_of(tmp_path)} == {tmp_path}
    assert all(file.name.isascii() and file.name.isprintable() for file in files_of(tmp_path))


async def test_a_folder_that_cannot_be_written_to_is_said(
    traced: Traced, autojump_clock: MockClock, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    problem = await Following(traced.tap).switch(tmp_path / "file" / "below")
    assert problem is not None
    assert "Not a directory" in problem
    assert type(traced.engine) is Engine


async def test_a_disk_that_hangs_holds_nobody_up(
    traced: Traced, autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlog, "MAX_QUEUE", 5_000)
    monkeypatch.setattr(qlog, "FLUSH_TIME", 0.01)
    released = threading.Event()
    write = os.write

    def hang(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "qlog":
            released.wait(60)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", hang)
    following = Following(traced.tap)
    await following.switch(tmp_path)
    program = await traced.connect()
    program.write(SECRET * 10_000)
    await trio.sleep(5)
    assert len(traced.service.read) == len(SECRET) * 10_000
    (trace,) = traced.tap.traces[traced.peer]
    assert trace.dropped > 0
    released.set()
    await following.close()


def test_a_folder_holds_only_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qlog, "MAX_FOLDER", 1000)
    (tmp_path / "of-before.sqlog").write_bytes(bytes(800))
    files = QlogFiles(tmp_path)
    file = files.open("a")
    with caplog.at_level(logging.WARNING):
        assert [file(bytes(150)), file(bytes(150)), file(bytes(150))] == [True, False, False]
    assert file(b"the end", must=True)
    files.close()
    assert (tmp_path / "a.sqlog").stat().st_size == 157
    assert len(caplog.records) == 1


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.sqlog").write_bytes(b"before")
    (tmp_path / "a-2.sqlog").symlink_to("elsewhere")
    files = QlogFiles(tmp_path)
    files.open("a")(b"new")
    files.close()
    assert (tmp_path / "a.sqlog").read_bytes() == b"before"
    assert (tmp_path / "a-3.sqlog").read_bytes() == b"new"
    assert not (tmp_path / "elsewhere").exists()
