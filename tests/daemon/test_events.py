"""Events: what is told, to how many, and that nobody is waited for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tunfwd.control import api
from tunfwd.daemon.process.events import KEPT, MAX_READERS, Event, Events, TooManyReaders
from tunfwd.daemon.process.logs import Log
from tunfwd.events import KINDS, Kind, event
from tunfwd.forwarding.policy import Action, Rule

from ..tox.simulated_toxcore import Network
from .living import PATIENCE, Living, befriend

log = logging.getLogger("tunfwd.test")
OFFERS: tuple[Kind, ...] = ("offer",)


@pytest.fixture
def events() -> Iterator[Events]:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    with Events() as kept:
        yield kept
    logging.getLogger().setLevel(level)


def opened(number: int) -> None:
    log.info("connection %d", number, extra=event("connection_opened", port=number))


def test_records_that_say_so_are_events_and_others_are_not(events: Events) -> None:
    log.info("%s is online", "bob", extra=event("online", contact="bob"))
    log.info("nothing of interest")
    log.warning("the disk is full")
    log.error("worse")
    told = events.read(events.end._replace(others=0, connections=0)).events
    assert [(one.kind, one.text) for one in told] == [
        ("online", "bob is online"),
        ("warning", "the disk is full"),
        ("error", "worse"),
    ]
    assert told[0].details == {"contact": "bob"}
    assert [one.number for one in told] == [1, 2, 3]


def test_a_text_that_would_steer_a_terminal_does_not(events: Events) -> None:
    start = events.end
    log.info("%s is online", "b\x1b[2Jo\nb\u202e", extra=event("online"))
    assert events.read(start).events[0].text == "b[2Jo b is online"


def test_a_call_that_does_not_fit_its_format_string_is_told_all_the_same(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    start = events.end
    log.info("%d things", "no", extra=event("online"))
    assert [one.text for one in events.read(start).events] == ["%d things"]


def test_what_is_kept_is_bounded_and_what_is_lost_is_counted(events: Events) -> None:
    start = events.end
    for number in range(KEPT + 10):
        log.info("%d", number, extra=event("offer"))
    batch = events.read(start)
    assert (len(batch.events), batch.lost) == (KEPT, 10)
    assert [batch.events[0].text, batch.events[-1].text] == ["10", str(KEPT + 9)]
    assert events.read(batch.read) == type(batch)((), batch.read, 0)


def test_connections_do_not_take_the_place_of_other_events(events: Events) -> None:
    start = events.end
    log.info("an offer", extra=event("offer"))
    for number in range(3 * KEPT):
        opened(number)
    batch = events.read(start)
    assert batch.events[0].text == "an offer"
    assert batch.lost == 2 * KEPT
    assert [one.text for one in events.read(start, OFFERS).events] == ["an offer"]


def test_who_wants_no_connections_has_not_lost_any(events: Events) -> None:
    start = events.end
    for number in range(3 * KEPT):
        opened(number)
    assert events.read(start, ("offer", "online")).lost == 0


async def test_a_reader_waits_for_what_it_wants(events: Events, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        told: list[Event] = []

        async def read() -> None:
            told.extend((await events.wait(events.end, OFFERS)).events)

        nursery.start_soon(read)
        await trio.sleep(1)
        opened(1)
        await trio.sleep(1)
        assert not told
        log.info("at last", extra=event("offer"))
    assert [one.text for one in told] == ["at last"]


async def test_a_record_of_another_thread_wakes_a_reader(events: Events) -> None:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            nursery.start_soon(trio.to_thread.run_sync, lambda: log.warning("from afar"))
            assert [one.text for one in (await events.wait(events.end)).events] == ["from afar"]


async def test_readers_are_bounded(events: Events, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_READERS):
            nursery.start_soon(events.wait, events.end)
        await trio.sleep(1)
        with pytest.raises(TooManyReaders):
            await events.wait(events.end)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(1):  # they have left
        await events.wait(events.end)


def test_events_are_told_at_any_level_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger().level
    with Log("ERROR") as written, Events() as kept:
        written.start()
        log.info("bob is online", extra=event("online"))
        log.error("trouble")
    logging.getLogger().setLevel(level)
    assert [one.text for one in kept.read(kept.end._replace(others=0)).events] == ["bob is online", "trouble"]
    assert capfd.readouterr().err.endswith(" ERROR tunfwd.test: trouble\n")


# In a daemon.


async def test_two_people_become_friends_and_offer(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that a page or a hook needs to know is told, and passes through JSON."""
    caplog.set_level(logging.INFO)
    async with Living.running(tmp_path, "alice") as alice, Living.running(tmp_path, "bob") as bob:
        start = (await alice.call("events", new=True))["next"]
        await befriend(alice, bob)
        bob.serve(8080)
        await bob.call("offer.add", protocol="tcp", port=8080, to=["alice"], name="web")
        told: list[api.EventEntry] = []
        while not any(one["event"] == "offer" for one in told):
            with trio.fail_after(PATIENCE):
                answer = await alice.call("events", after=start, wait=60.0)
            start = answer["next"]
            told += answer["events"]
    by_kind = {one["event"]: one for one in json.loads(json.dumps(told))}
    assert {"friend_request", "friend_added", "online", "offer"} <= by_kind.keys()
    offer = by_kind["offer"]
    assert (offer["contact"], offer["protocol"], offer["port"], offer["name"]) == ("bob", "tcp", 8080, "web")
    assert offer["text"].startswith('offered: 8080/tcp "web" from bob')
    assert by_kind["friend_request"]["public_key"] == alice.client.public_key.hex().upper()
    assert by_kind["online"]["link"] == "direct"
    assert [one["seq"] for one in told] == sorted(one["seq"] for one in told)


async def test_a_rule_tells_what_it_did(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Living.running(tmp_path, "alice", rules=(Rule(Action.DENY),)) as alice,
        Living.running(tmp_path, "bob") as bob,
    ):
        await befriend(alice, bob)
        bob.serve(22)
        await bob.call("offer.add", protocol="tcp", port=22, to=["alice"], name="ssh")
        with trio.fail_after(PATIENCE):
            answer = await alice.call("events", kinds=["denied"], wait=60.0)
    assert [(one["contact"], one["port"]) for one in answer["events"]] == [("bob", 22)]


async def test_a_place_in_another_runs_events_is_their_beginning(alice: Living) -> None:
    log.warning("first")
    answer = await alice.call("events", after="00000000.77.77")
    assert answer["events"][0]["seq"] == 1
    assert answer["events"][-1]["text"] == "first"
    assert (await alice.call("events", after=answer["next"]))["events"] == []


@pytest.mark.parametrize(
    "params",
    [
        {"after": "x"},
        {"after": "00000000.1"},
        {"after": "00000000.1." + 19 * "9"},
        {"wait": -1.0},
        {"wait": 1e9},
        {"kinds": ["sneeze"]},
    ],
)
async def test_what_makes_no_sense_is_refused(alice: Living, params: dict[str, object]) -> None:
    assert (await alice.refusal("events", **params))[0] == "usage"


def test_the_page_names_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
