"""The last wall: whatever fails in serving one contact, connection or service, the others do not notice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import trio

from tests.netstack.lab import SYN_OPTIONS, tcp_frame
from tunfwd import faults
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath import connections
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.session import FEATURES
from tunfwd.forwarding.states import MappingState
from tunfwd.netstack import events
from tunfwd.netstack.types import Endpoint
from tunfwd.tox.client import INTRODUCTIONS, Client
from tunfwd.tox.contacts import ContactOffline
from tunfwd.tox.pacing import Pacing
from tunfwd.tox.sockets import Activity
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Accept, AckAcc, Direction, Feature, Hello, Lossless, Offer, Protocol, encode
from tunfwd.wire.tcp import SYN

from .simulated import Daemon

APPLICATION = 40_000


class Bug(Exception):
    """What nobody thought of."""


def fail(*_: object, **__: object) -> Any:
    raise Bug


@pytest.fixture(autouse=True)
def tally() -> Iterator[faults.Tally]:
    yield faults.tally
    faults.tally.count = 0
    faults.tally.told.clear()


class End:
    """An end of a flow that remembers."""

    def __init__(self) -> None:
        self.over: list[Reason | None] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None

    def flow_ended(self, reason: Reason | None) -> None:
        self.over.append(reason)


class Scene:
    """Two friends, each with a service of theirs accepted here, and a flow to it."""

    def __init__(self) -> None:
        self.daemon = Daemon()
        self.alice, self.bob = self.daemon.befriend("alice"), self.daemon.befriend("bob")
        self.ends = {peer: self.connect(peer) for peer in (self.alice, self.bob)}

    def hear(self, peer: Peer, *packets: Lossless) -> None:
        for packet in packets:
            self.daemon.contacts.lossless(peer.contact, encode(FRIEND, packet))
        self.daemon.settle()

    def connect(self, peer: Peer) -> End:
        self.hear(
            peer, Hello(Feature.MANY | Feature.FLOW, 7), Offer(5, Protocol.TCP, Direction.SERVER, 80, "web")
        )
        (mapping,) = peer.session.mappings
        self.daemon.offers.accept(peer, mapping, None, None)
        self.hear(peer, AckAcc(5))
        assert mapping.state is MappingState.RUNNING
        flow = peer.session.connect(mapping, trio.current_time())
        assert flow is not None
        flow.end = end = End()
        self.hear(peer, Accept(flow.msg_id))
        assert flow.is_open
        return end

    def only_bob_failed(self, times: int = 1) -> None:
        self.daemon.settle()
        assert self.ends[self.bob].over == [Reason.LOST]
        assert self.bob.session.counters["failures"] == times
        assert not self.bob.session.is_online
        assert self.ends[self.alice].over == []
        assert self.alice.session.counters["failures"] == 0
        assert self.alice.session.is_online

    async def bob_is_back(self) -> None:
        epoch = self.bob.session.epoch
        self.daemon.forget_traffic()
        await trio.sleep(2)
        self.bob.session.handle_timeout(trio.current_time())
        self.daemon.scheduler.touch(self.bob)
        self.daemon.settle()
        assert self.bob.session.is_online
        hello = encode(FRIEND, Hello(FEATURES | Feature.TICKET, epoch))
        number = self.bob.contact.number  # type: ignore[attr-defined]
        assert self.daemon.tox.to_friends[0] == (number, hello)


ENTRIES: dict[str, Callable[[Scene], None]] = {
    "receive_lossless": lambda s: s.daemon.contacts.lossless(s.bob.contact, b"\xa7\x02\0\0\0\0"),
    "receive_lossy": lambda s: s.daemon.contacts.lossy(s.bob.contact, b"\xc9\x02"),
    "receive_public": lambda s: s.daemon.engine.public(s.bob, b"\xa7"),
    "path_changed": lambda s: s.daemon.contacts.contact_connection(s.bob.contact),
    "next_event": lambda s: s.daemon.scheduler.touch(s.bob),
    "lossy_to_send": lambda s: s.daemon.scheduler.touch(s.bob),
    "next_packet": lambda s: s.daemon.scheduler.touch(s.bob),
    "next_timeout": lambda s: s.daemon.scheduler.touch(s.bob),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("method", ENTRIES)
async def test_a_session_that_fails_begins_anew_alone(
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.abc.Clock,
) -> None:
    scene = Scene()
    before = scene.bob.session.epoch
    with monkeypatch.context() as patch:
        real = getattr(scene.bob.session, method)
        calls: list[object] = []

        def once(*arguments: object, **options: object) -> object:
            calls.append(arguments)
            return fail() if len(calls) == 1 else real(*arguments, **options)

        patch.setattr(scene.bob.session, method, once)
        ENTRIES[method](scene)
        scene.daemon.settle()
    scene.only_bob_failed()
    assert scene.bob.session.epoch == before + 1
    (record,) = [r for r in caplog.records if r.name == "tunfwd.faults"]
    assert record.exc_info
    assert record.exc_info[0] is Bug
    assert record.message.startswith("bob failed")
    await scene.bob_is_back()


@pytest.mark.interpreted
async def test_a_fault_that_stays_is_met_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    """Nothing spins, and the log keeps its head."""
    scene = Scene()
    monkeypatch.setattr(scene.bob.session, "lossy_to_send", fail)
    scene.daemon.scheduler.touch(scene.bob)
    with trio.move_on_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.daemon.datapath.loop.run)
            nursery.start_soon(scene.daemon.engine.run)
    assert 5 < scene.bob.session.counters["failures"] <= 600
    assert scene.ends[scene.alice].over == []
    assert scene.alice.session.is_online
    assert len([r for r in caplog.records if r.name == "tunfwd.faults" and r.exc_info]) == 1


async def test_what_the_owner_fails_over_is_the_contacts_loss_too(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    scene = Scene()
    monkeypatch.setattr(scene.daemon.offers, "offered", fail)
    scene.hear(scene.bob, Offer(6, Protocol.TCP, Direction.SERVER, 81, ""))
    scene.only_bob_failed()
    await scene.bob_is_back()


@pytest.mark.interpreted
async def test_an_end_that_fails_to_end_is_let_go() -> None:
    scene = Scene()
    scene.ends[scene.bob].flow_ended = fail  # type: ignore[method-assign]
    scene.bob.session.receive_lossless = fail  # type: ignore[method-assign]
    scene.daemon.contacts.lossless(scene.bob.contact, b"\xa7")
    scene.daemon.settle()
    assert faults.tally.count == 2
    assert scene.alice.session.is_online


@pytest.mark.interpreted
async def test_a_timer_that_fails() -> None:
    scene = Scene()
    scene.bob.session.handle_timeout = fail  # type: ignore[method-assign]
    scene.daemon.engine._deadlines.set(scene.bob, 0.0)
    scene.daemon.engine.due = 0.0
    scene.daemon.engine.work()
    scene.only_bob_failed()


async def test_the_carrier_that_fails_is_met_as_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that a contact is offline is news that toxcore brings in another way."""
    scene = Scene()

    def offline(_: bytes) -> bool:
        raise ContactOffline

    monkeypatch.setattr(type(scene.bob.contact), "send_lossless", lambda *_: offline(b""))
    scene.hear(scene.bob, Accept(99))
    assert faults.tally.count == 0
    monkeypatch.setattr(type(scene.bob.contact), "send_lossless", fail)
    scene.hear(scene.bob, Accept(99))
    scene.only_bob_failed()


# Local connections.


def syn(scene: Scene, port: int = APPLICATION) -> None:
    assert scene.bob.address is not None
    frame = tcp_frame(
        Endpoint(scene.daemon.book.own.packed, port), Endpoint(scene.bob.address.packed, 80), SYN, 1000,
        options=SYN_OPTIONS,
    )  # fmt: skip
    scene.daemon.stack.receive([frame], trio.current_time())
    scene.daemon.engine.round()
    scene.daemon.settle()


@pytest.mark.interpreted
async def test_a_connection_that_cannot_be_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    sent: list[object] = []

    def write(frame: object) -> bool:
        sent.append(frame)
        return True

    scene.daemon.engine._device.write = write  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setattr(scene.daemon.engine._outbound, "incoming", fail)
        syn(scene)
        scene.daemon.engine.round()
    assert faults.tally.count == 1
    assert len(sent) == 1
    assert scene.daemon.stack.statistics().connections == 0
    syn(scene, APPLICATION + 1)  # and the next one is served
    assert len(scene.daemon.connections) == 1
    assert scene.bob.session.is_online


def flow_of(scene: Scene) -> Flow:
    (connection,) = scene.daemon.connections
    flow: Flow = connection.handler.flow  # type: ignore[union-attr]
    return flow


@pytest.mark.interpreted
@pytest.mark.parametrize("where", ["stack", "relay"])
async def test_a_connection_that_fails_is_reset_with_its_flow(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    syn(scene)
    flow = flow_of(scene)
    scene.hear(scene.bob, Accept(flow.msg_id))
    (connection,) = scene.daemon.connections
    assert flow.is_open
    if where == "stack":
        monkeypatch.setattr(type(connection), "receive", fail)
        syn(scene)
    else:
        monkeypatch.setattr(connections, "hand_over", fail)
        scene.daemon.stack._events.append(events.Readable(connection))
        scene.daemon.engine.round()
    scene.daemon.settle()
    assert not flow.is_open
    assert not scene.daemon.connections
    assert scene.daemon.stack.statistics().connections == 0
    assert scene.bob.session.is_online
    assert scene.bob.session.counters["failures"] == 0
    assert [end.over for end in scene.ends.values()] == [[], []]


@pytest.mark.interpreted
async def test_a_frame_that_fails_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    stack = scene.daemon.stack
    with monkeypatch.context() as patch:
        patch.setattr(type(stack), "_receive_tcp", fail)
        syn(scene)
    assert faults.tally.count == 1
    syn(scene)
    assert len(scene.daemon.connections) == 1


# What toxcore tells, and what rules accept.


async def test_what_is_to_be_done_soon_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    done: list[int] = []
    scene.daemon.contacts._soon += [fail, lambda: done.append(1)]
    scene.daemon.settle()
    assert done == [1]
    assert faults.tally.count == 1


def test_a_traceback_is_shown_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        assert not faults.survives("it", fail)
    assert faults.survives("it", lambda: None)
    assert faults.tally.count == 5
    assert [bool(record.exc_info) for record in caplog.records] == [True] + 4 * [False]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_a_task_that_fails_begins_again(autojump_clock: trio.abc.Clock) -> None:
    begun: list[float] = []

    async def task() -> None:
        begun.append(trio.current_time())
        await trio.sleep(1)
        if len(begun) < 4:
            raise Bug

    start = trio.current_time()
    await faults.persists("a task", task)
    assert [round(at - start) for at in begun] == [0, 11, 22, 33]
    assert faults.tally.count == 3


TASKS = ["joining", "_introduce_friends", "_remember_friends", "_save_when_dirty", "_check_connections"]


@pytest.mark.parametrize("broken", TASKS)
async def test_a_task_of_the_node_that_fails_is_not_the_end_of_it(
    broken: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    async def fails() -> None:
        raise Bug

    client = Client.__new__(Client)
    for part in ("_tox", "_handler", "_reunion", "groups", "friends", "policing", "save"):
        monkeypatch.setattr(client, part, Mock(), raising=False)
    for name, value in (("_chores_at", 0.0), ("_quiet_until", 0.0), ("due", float("inf"))):
        monkeypatch.setattr(client, name, value, raising=False)
    client._tox.iteration_interval = 1000  # type: ignore[misc]
    client._pacing = Pacing()
    client._activity = Activity((), None, None)
    for task in TASKS:
        work = AsyncMock(wraps=fails if task == broken else trio.sleep_forever)
        monkeypatch.setattr(client, task, Mock(run=work) if task == "joining" else work, raising=False)
    with trio.move_on_after(99.5):
        await client.run()
    assert faults.tally.count == 10
    assert client._tox.iterate.call_count == 100  # type: ignore[attr-defined]


async def test_one_friend_that_cannot_be_introduced_keeps_nobody_else_from_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    client = Client.__new__(Client)
    introduce = Mock(side_effect=[Bug, None])
    monkeypatch.setattr(client, "_tox", Mock(), raising=False)
    monkeypatch.setattr(client, "_reunion", Mock(introduce=introduce), raising=False)
    friends = [Mock(online=False, key=key) for key in (b"a", b"b")]
    monkeypatch.setattr(client, "friends", friends, raising=False)
    with trio.move_on_after(INTRODUCTIONS[0] + 0.1):
        await client._introduce_friends()
    assert [call.args[0] for call in introduce.call_args_list] == [b"a", b"b"]
    assert faults.tally.count == 1
