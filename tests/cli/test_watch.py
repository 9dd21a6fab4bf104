"""`tunfwd watch`: what is on the screen, and what keys do, in a terminal that is left as it was."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from tunfwd.cli.watch import HISTORY, View, render, sparkline

from .conftest import Daemon, Result

PATIENCE = 60.0  # s
KEY = "AB" * 32


def contact(name: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": name,
        "public_key": f"{number:064X}",
        "kind": "friend",
        "via": "friend",
        "address": "10.77.3.9",
        "address6": "fd74::1",
        "link": "direct",
        "offline_seconds": None,
        "ports": 2,
        "connections": 1,
        "tx_bytes": 0,
        "rx_bytes": 0,
        "extended": True,
        "features": [],
        "rtt": 0.0123,
        "loss": 0.01,
        "window": 14_200,
    }
    return plain | changes


def status(*contacts: dict[str, Any]) -> Any:
    return {"network": "online", "contacts": list(contacts), "drops": {}}


def offer(name: str = "web", **changes: Any) -> dict[str, Any]:
    plain = {
        "id": "0a0b0c0d",
        "contact": "bob",
        "protocol": "tcp",
        "port": 8080,
        "name": name,
        "state": "pending",
        "origin": "remote",
        "direction": "server",
        "target": None,
    }
    return plain | changes


def pending(key: str = KEY, message: str = "it is me") -> dict[str, Any]:
    return {
        "public_key": key,
        "name": "",
        "state": "pending",
        "address": None,
        "address6": None,
        "message": message,
    }


def shown(view: View, width: int = 80, height: int = 24) -> str:
    console = Console(width=width, height=height, force_terminal=False, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(render(view, width, height))
    return capture.get()


def view(*contacts: dict[str, Any], offers: Any = (), friends: Any = ()) -> View:
    made = View()
    made.take_in(status(*contacts), {"offers": list(offers)}, {"friends": list(friends)}, 100.0)
    return made


def test_rates_are_what_went_since_the_last_look() -> None:
    made = view(contact("bob"))
    made.take_in(
        status(contact("bob", rx_bytes=3_000_000, tx_bytes=500)), {"offers": []}, {"friends": []}, 102.0
    )
    [line] = [line for line in shown(made).splitlines() if line.startswith("bob")]
    assert line.split()[1:6] == ["direct", "12.3", "ms", "1.50", "MB"]
    assert "250 B" in line
    assert "█" in line


def test_totals_that_fall_are_no_rate() -> None:
    made = view(contact("bob", rx_bytes=1000))
    made.take_in(status(contact("bob", rx_bytes=10)), {"offers": []}, {"friends": []}, 101.0)
    assert made.rates["friend" + 64 * "0"].received[-1] == 0


HOSTILE = [
    "bob",
    "番組表" * 30,
    "🎮" * 64,
    "\x1b[2J\x1b[31mred",
    "[bold]markup[/bold]",
    "a\nb",
    "\u202edesrever",
]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_every_line_fits_whatever_contacts_are_called(width: int) -> None:
    made = view(
        *(contact(name, number) for number, name in enumerate(HOSTILE)),
        contact("away", 99, link="offline", offline_seconds=7200.0, rtt=None, loss=None),
        offers=[offer(name) for name in HOSTILE],
        friends=[pending(message="m" * 1000)],
    )
    text = shown(made, width)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert len(text.splitlines()) <= 24
    assert "[bold]ma" in text
    assert "offline 2h" in text


@pytest.mark.parametrize("height", [10, 24, 50])
def test_two_hundred_contacts_fit_and_those_online_come_first(height: int) -> None:
    contacts = [contact(f"away{n}", n, link="offline", offline_seconds=1.0) for n in range(199)]
    text = shown(view(*contacts, contact("here", 999)), height=height)
    assert len(text.splitlines()) <= height
    assert text.splitlines()[3].startswith("here")
    assert " more" in text


def test_empty_and_unknown() -> None:
    assert "No contacts yet: tunfwd share" in shown(view())
    made = View(note="!no daemon runs")
    assert shown(made).strip() == "!no daemon runs".removeprefix("!")


def test_a_sparkline() -> None:
    assert sparkline([0, 1, 7, 0]) == " ▂█ "
    assert sparkline([0.0] * HISTORY) == ""


# In a terminal.


def test_not_for_pipes(tunfwd: Callable[..., Result], daemon: Daemon) -> None:
    result = tunfwd("watch")
    assert (result.code, result.err.startswith("tunfwd: this is for a terminal")) == (2, True)


class Terminal:
    """A pseudo terminal in which the command runs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunfwd.cli", "watch"],
            env=environment | {"TERM": "xterm-256color", "PYTHONPATH": os.getcwd()},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        self.text = ""
        while text not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        """The exit code; what it still writes is read meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
        while select.select([self.master], [], [], 0.1)[0]:
            self.text += os.read(self.master, 65536).decode("utf-8", "replace")
        return self.process.returncode


@contextmanager
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    made = Terminal(environment)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.master)
        os.close(made.slave)


def left_as_it_was(made: Terminal) -> bool:
    return (
        termios.tcgetattr(made.slave) == made.before
        and "\x1b[?1049l" in made.text
        and "\x1b[?25h" in made.text
    )


@pytest.fixture
def busy(daemon: Daemon) -> Daemon:
    """A daemon with somebody there, and all kinds of things to decide."""
    daemon.answers |= {
        "status": status(contact("bob")),
        "offer.list": {"offers": [offer(), offer("ssh", id="0a0b0c0e", port=22, direction="connection")]},
        "friend.list": {"friends": [pending()]},
        "friend.accept": {"friend": pending() | {"state": "online"}},
        "offer.deny": {"offers": [offer(state="declined")]},
        "offer.accept": {"mapping": {}},
    }
    return daemon


def decided(daemon: Daemon) -> list[tuple[str, dict[str, object]]]:
    return [call for call in daemon.calls if call[0] not in ("status", "offer.list", "friend.list")]


def test_decisions_by_keys(busy: Daemon, environment: dict[str, str]) -> None:
    with terminal(environment) as made:
        made.wait_for("Waiting for you (3)")
        made.press("a")
        made.wait_for("accepted: ABABABAB… asks to be a friend")
        made.press("\x1b[B")
        made.press("d")
        made.wait_for("denied: bob offers 8080/tcp")
        made.press("j")
        made.press("a")
        made.wait_for("bob asks to reach 22/tcp “ssh” of this machine: open it?")
        made.press("n")
        made.wait_for("choose")
        made.press("q")
        assert made.ended() == 0
        assert left_as_it_was(made)
    assert decided(busy) == [
        ("friend.accept", {"key": KEY}),
        ("offer.deny", {"offer": "0a0b0c0d", "contact": "bob"}),
    ]


def test_a_request_is_granted_by_a_second_key(busy: Daemon, environment: dict[str, str]) -> None:
    with terminal(environment) as made:
        made.wait_for("Waiting for you (3)")
        made.press("jja")
        made.wait_for("open it?")
        made.press("y")
        deadline = time.monotonic() + PATIENCE
        while not decided(busy):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        made.press("q")
        assert made.ended() == 0
    assert decided(busy) == [("offer.accept", {"offer": "0a0b0c0e", "contact": "bob"})]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(
    busy: Daemon, environment: dict[str, str], number: signal.Signals
) -> None:
    with terminal(environment) as made:
        made.wait_for("Waiting for you")
        made.process.send_signal(number)
        assert made.ended() != 0
        assert left_as_it_was(made)


def test_a_daemon_that_is_gone_is_waited_for(daemon: Daemon, environment: dict[str, str]) -> None:
    daemon.answers["status"] = lambda _: (_ for _ in ()).throw(RuntimeError("a mistake of ours"))
    with terminal(environment) as made:
        made.wait_for("an error inside the daemon")
        daemon.answers |= {
            "status": status(contact("bob")),
            "offer.list": {"offers": []},
            "friend.list": {"friends": []},
        }
        made.wait_for("1 of 1 contacts online")
        made.press("q")
        assert made.ended() == 0
