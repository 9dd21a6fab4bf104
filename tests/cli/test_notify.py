"""`tunfwd notify`: what the desktop is told and when, and what its buttons do; on a real bus."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from tunfwd.cli.notices import BURST, MAX_BODY, MAX_TITLE, PAUSE, Doorkeeper, notice_of
from tunfwd.common.errors import UserError

from .conftest import Daemon, Result

Run = Callable[..., Result]

NAME = "org.freedesktop.Notifications"
PATH = "/org/freedesktop/Notifications"
KEY = "AB" * 32
PATIENCE = 60.0


def event(kind: str, seq: int = 1, **details: Any) -> dict[str, Any]:
    return {"seq": seq, "time": "2026-01-31T12:00:00.000Z", "event": kind, "text": kind, **details}


def offer(name: str = "web", id_: str = "8de8cbf4", kind: str = "offer") -> dict[str, Any]:
    port: dict[str, Any] = {"id": id_, "protocol": "tcp", "port": 8080, "name": name}
    return event(kind, contact="bob", public_key=KEY, **port)


# -- what is said


def told(entry: dict[str, Any]) -> Any:
    return notice_of(entry)  # type: ignore[arg-type]


def test_what_peers_chose_is_cut_short_and_steers_nothing() -> None:
    hostile = "\x1b[2J\n\u202e<b>" + 5000 * "x"
    for entry in (
        event("friend_request", public_key=KEY, message=hostile),
        offer(hostile) | {"contact": hostile},
        event("invitation", contact=hostile, public_key=KEY, room=hostile),
        event("online", contact=hostile, public_key=KEY),
    ):
        notice = told(entry)
        assert len(notice.title) <= MAX_TITLE
        assert len(notice.body) <= MAX_BODY
        assert (notice.title + notice.body).isprintable()


def test_a_port_of_this_machine_is_not_opened_by_a_click() -> None:
    assert set(told(offer()).choices) == {"accept", "deny"}
    request = told(offer(kind="request"))
    assert set(request.choices) == {"deny"}
    assert "tunfwd allow 8de8cbf4" in request.body


def test_what_is_no_news_is_not_told() -> None:
    assert told(event("connection_opened")) is None
    assert told(event("warning")) is None


def test_a_few_are_shown_and_the_rest_is_summed_up() -> None:
    doorkeeper = Doorkeeper()
    notices = [told(offer(id_=f"{number:08x}")) for number in range(20)]
    assert [doorkeeper.admits(notice, 0.0) for notice in notices] == [True] * BURST + [False] * (20 - BURST)
    assert not doorkeeper.admits(told(event("friend_request", public_key=KEY)), 1.0)
    assert doorkeeper.sum(PAUSE / 2) is None
    total = doorkeeper.sum(PAUSE + 1)
    assert total is not None
    assert total.title == "tunfwd: 17 more"
    assert total.body.startswith("16 offers, 1 friend request.")
    assert doorkeeper.sum(100 * PAUSE) is None
    assert doorkeeper.admits(notices[0], 100 * PAUSE)


def test_a_storm_is_a_few_a_minute() -> None:
    doorkeeper, notice = Doorkeeper(), told(offer())
    shown = 0
    for tenth in range(36_000):  # an hour
        shown += doorkeeper.admits(notice, tenth / 10) + (doorkeeper.sum(tenth / 10) is not None)
    assert shown <= BURST + 3600 / PAUSE


# -- on a bus


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """A session's bus of its own."""
    address = f"unix:path={tmp_path}/its-bus"
    command = [
        "dbus-daemon",
        "--session",
        "--nofork",
        "--nopidfile",
        f"--address={address}",
        "--print-address=1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield address
        finally:
            process.terminate()


@dataclass
class Desktop:
    """What shows notifications, and presses their buttons."""

    address: str
    capabilities: tuple[str, ...] = ("actions", "body", "body-markup")
    told: queue.Queue[tuple[str, tuple[Any, ...]]] = field(default_factory=queue.Queue)
    bus: DBusConnection = field(init=False)
    number: int = 0

    def __enter__(self) -> Desktop:
        self.bus = open_dbus_connection(self.address)
        self.bus.send_and_get_reply(message_bus.RequestName(NAME))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def _serve(self) -> None:
        with suppress(OSError, ValueError):  # it is closed
            while True:
                self._answer(self.bus.receive())

    def _answer(self, message: Message) -> None:
        if message.header.message_type is not MessageType.method_call:
            return
        member, told = message.header.fields[HeaderFields.member], message.body
        if member == "GetCapabilities":
            self.bus.send(new_method_return(message, "as", (list(self.capabilities),)))
            return
        if member == "Notify":
            replaced = message.body[1]
            self.number += not replaced
            number = replaced or self.number
            told = (number, *message.body[3:6])
            self.bus.send(new_method_return(message, "u", (number,)))
        else:
            self.bus.send(new_method_return(message))
        self.told.put((member, told))

    def next(self) -> tuple[str, tuple[Any, ...]]:
        return self.told.get(timeout=PATIENCE)

    def emit(self, member: str, signature: str, *body: object) -> None:
        source = DBusAddress(PATH, interface=NAME)
        self.bus.send(new_signal(source, member, signature, body))

    def press(self, number: int, action: str) -> None:
        self.emit("ActionInvoked", "us", number, action)


@pytest.fixture
def desktop(bus: str) -> Iterator[Desktop]:
    with Desktop(bus) as desktop:
        yield desktop


class Feed:
    """The daemon's events, as the test puts them in; None is a daemon that has gone."""

    def __init__(self, daemon: Daemon) -> None:
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        daemon.answers["events"] = self._answer
        daemon.answers["offer.accept"] = daemon.answers["offer.deny"] = UserError(
            "not_found", "no such offer"
        )
        friend = {"public_key": KEY, "name": "x", "state": "pending", "address": None, "address6": None}
        daemon.answers["friend.reject"] = {"friend": friend | {"message": ""}}

    def _answer(self, params: dict[str, object]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        if "wait" in params:
            try:
                one = self.events.get(timeout=0.05)
            except queue.Empty:
                one = {}
            if one is None:
                raise UserError("failed", "the daemon ends")
            found = [one] if one else []
        return {"events": found, "next": "0a0b0c0d.7.0", "lost": 0}


@pytest.fixture
def feed(daemon: Daemon) -> Feed:
    return Feed(daemon)


@pytest.fixture
def notify(bus: str, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunfwd.cli", "notify", *options],
            env=environment | {"DBUS_SESSION_BUS_ADDRESS": bus},
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Notifications are on")
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def calls(daemon: Daemon, method: str) -> list[dict[str, object]]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := [params for name, params in daemon.calls if name == method]:
            return found
        time.sleep(0.01)
    raise AssertionError(method)


def test_buttons_do_what_they_say(
    notify: Callable[..., object], desktop: Desktop, feed: Feed, daemon: Daemon
) -> None:
    notify()
    feed.events.put(event("friend_request", public_key=KEY, message="<b>hi</b> & <img src=x>"))
    member, (number, title, body, actions) = desktop.next()
    assert (member, title) == ("Notify", "Somebody asks to be a friend")
    assert body == "ABABABAB…: &lt;b&gt;hi&lt;/b&gt; &amp; &lt;img src=x&gt;"
    assert actions == ["accept", "Accept", "deny", "Deny"]
    desktop.press(number + 77, "accept")  # another program's
    desktop.press(number, "default")  # a click beside the buttons
    desktop.press(number, "deny")
    assert calls(daemon, "friend.reject") == [{"key": KEY}]
    assert desktop.next() == ("Notify", (number, "Denied: Somebody asks to be a friend", "", []))

    feed.events.put(offer())
    _, (number, title, _, _) = desktop.next()
    assert title == "bob offers web (8080/tcp)"
    desktop.press(number, "accept")
    _, (replaced, title, body, _) = desktop.next()
    assert (replaced, title, body) == (number, "That did not work", "no such offer")
    [params] = calls(daemon, "offer.accept")
    assert params == {"offer": "8de8cbf4", "contact": "bob", "direction": "server"}
    assert not [name for name, _ in daemon.calls if name == "friend.accept"]


def test_what_was_decided_elsewhere_goes_away(
    notify: Callable[..., object], desktop: Desktop, feed: Feed
) -> None:
    notify()
    feed.events.put(offer())
    _, (number, *_) = desktop.next()
    feed.events.put(offer("news"))  # the same, by another name
    _, (again, title, *_) = desktop.next()
    assert (again, title) == (number, "bob offers news (8080/tcp)")
    feed.events.put(offer(kind="accepted"))
    assert desktop.next() == ("CloseNotification", (number,))


def test_contacts_come_and_go_as_chosen(
    notify: Callable[..., subprocess.Popen[str]], desktop: Desktop, feed: Feed, daemon: Daemon
) -> None:
    process = notify("--contact", "Bob")
    for name in ("alice", "bob"):
        feed.events.put(event("online", contact=name, public_key=name))
    assert desktop.next()[1][1] == "bob is there"
    assert "online" in str(daemon.calls[-1][1]["kinds"])
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
    notify()
    feed.events.put(event("offline", contact="bob", public_key="bob"))
    feed.events.put(offer())
    assert desktop.next()[1][1] == "bob offers web (8080/tcp)"


def test_a_daemon_that_is_started_again_is_followed(
    notify: Callable[..., object], desktop: Desktop, feed: Feed
) -> None:
    notify()
    feed.events.put(None)
    feed.events.put(offer())
    assert desktop.next()[1][1] == "bob offers web (8080/tcp)"


def test_a_desktop_without_buttons_or_markup(bus: str, notify: Callable[..., object], feed: Feed) -> None:
    with Desktop(bus, capabilities=("body",)) as plain:
        notify()
        feed.events.put(event("friend_request", public_key=KEY, message="a < b"))
        assert plain.next() == ("Notify", (1, "Somebody asks to be a friend", "ABABABAB…: a < b", []))


def test_another_program_of_the_session_cannot_press(
    bus: str, notify: Callable[..., object], desktop: Desktop, feed: Feed, daemon: Daemon
) -> None:
    notify()
    feed.events.put(event("friend_request", public_key=KEY, message=""))
    _, (number, *_) = desktop.next()
    with open_dbus_connection(bus) as other:
        names = other.send_and_get_reply(message_bus.ListNames()).body[0]
        for name in [name for name in names if name.startswith(":")]:
            message = new_signal(DBusAddress(PATH, interface=NAME), "ActionInvoked", "us", (number, "deny"))
            message.header.fields[HeaderFields.destination] = name
            other.send(message)
        feed.events.put(offer())
        desktop.next()
    assert not [name for name, _ in daemon.calls if name == "friend.reject"]
    desktop.press(number, "deny")
    assert calls(daemon, "friend.reject")


def test_a_desktop_that_goes_away_costs_notifications_and_no_more(
    bus: str, notify: Callable[..., subprocess.Popen[str]], feed: Feed
) -> None:
    with Desktop(bus):
        process = notify()
    feed.events.put(offer())
    assert process.stderr is not None
    assert "nothing shows notifications" in process.stderr.readline()
    with Desktop(bus) as again:
        feed.events.put(offer("news"))
        assert again.next()[1][1] == "bob offers news (8080/tcp)"


def test_without_a_bus_or_a_server_it_says_so(process: Run, bus: str, tmp_path: Path, daemon: Daemon) -> None:
    nowhere = process("notify", DBUS_SESSION_BUS_ADDRESS="")
    assert (nowhere.code, nowhere.out) == (1, "")
    assert nowhere.err.startswith("tunfwd: there is no session bus ($DBUS_SESSION_BUS_ADDRESS is not set)")
    gone = process("notify", DBUS_SESSION_BUS_ADDRESS=f"unix:path={tmp_path}/none")
    assert "does not take us" in gone.err
    garbage = process("notify", DBUS_SESSION_BUS_ADDRESS="nonsense")
    assert (garbage.code, "does not take us" in garbage.err) == (1, True)
    silent = process("notify", DBUS_SESSION_BUS_ADDRESS=bus)
    assert silent.err == (
        "tunfwd: nothing shows notifications on this desktop (org.freedesktop.DBus.Error.ServiceUnknown)\n"
    )


def test_the_session_ends(
    notify: Callable[..., subprocess.Popen[str]], tmp_path: Path, environment: dict[str, str], feed: Feed
) -> None:
    """With its bus, which has no other life than this."""
    address = f"unix:path={tmp_path}/short"
    command = [
        "dbus-daemon",
        "--session",
        "--nofork",
        "--nopidfile",
        f"--address={address}",
        "--print-address=1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as short:
        assert short.stdout is not None
        assert short.stdout.readline()
        with Desktop(address):
            process = subprocess.Popen(
                [sys.executable, "-m", "tunfwd.cli", "notify"],
                env=os.environ | environment | {"DBUS_SESSION_BUS_ADDRESS": address},
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Notifications are on")
            short.terminate()
            _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "tunfwd: the bus of this session has ended\n")
