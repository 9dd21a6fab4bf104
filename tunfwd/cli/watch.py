"""`tunfwd watch`: contacts, how they are reached and what goes through, live; a key decides what is asked."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunfwd.cli.output import milliseconds, size, span
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.common.text import clean
from tunfwd.control import api

INTERVAL: Final = 1.0  # s between two looks at the daemon
HISTORY: Final = 24  # rates that a sparkline shows
BARS: Final = "▁▂▃▄▅▆▇█"
WIDE: Final = 100  # columns from which all is shown
NARROW: Final = 60
KEYS: Final = "↑ ↓ choose   a accept   d deny   q quit"


class Decision(NamedTuple):
    """Something that waits for a person."""

    key: str
    """What the daemon knows it by."""
    contact: str
    text: str
    kind: str
    """"offer", "request" or "friend"."""


@dataclass
class Rates:
    """Bytes a second of one contact, newest last."""

    received: deque[float] = field(default_factory=lambda: deque([0.0], HISTORY))
    sent: deque[float] = field(default_factory=lambda: deque([0.0], HISTORY))
    totals: tuple[int, int] | None = None

    def add(self, received: int, sent: int, seconds: float) -> None:
        """Take in totals, that fall where a port is no more."""
        if self.totals is not None:
            self.received.append(max(0, received - self.totals[0]) / seconds)
            self.sent.append(max(0, sent - self.totals[1]) / seconds)
        self.totals = received, sent


@dataclass
class View:
    """What is on the screen."""

    status: api.StatusResult | None = None
    decisions: list[Decision] = field(default_factory=list)
    chosen: int = 0
    note: str = ""
    """What became of the last key, or why nothing is known."""
    asking: Decision | None = None
    """A request that was chosen to be accepted, which a second key confirms: it opens a port of ours."""
    rates: dict[str, Rates] = field(default_factory=dict)
    looked_at: float = 0.0

    def take_in(
        self, status: api.StatusResult, offers: api.OffersResult, friends: api.FriendsResult, now: float
    ) -> None:
        """Show a newer state."""
        elapsed = max(now - self.looked_at, 1e-3)
        kept = {}
        for contact in status["contacts"]:
            key = contact["via"] + contact["public_key"]
            kept[key] = rates = self.rates.get(key, Rates())
            rates.add(contact["rx_bytes"], contact["tx_bytes"], elapsed)
        self.status, self.rates, self.looked_at = status, kept, now
        self.decisions = list(_decisions(offers, friends))
        self.chosen = max(0, min(self.chosen, len(self.decisions) - 1))
        self.note = "" if self.note.startswith("!") else self.note


def _decisions(offers: api.OffersResult, friends: api.FriendsResult) -> Iterator[Decision]:
    for friend in friends["friends"]:
        if friend["state"] == "pending":
            message = f": {friend['message']}" if friend["message"] else ""
            text = f"{friend['public_key'][:8]}… asks to be a friend{message}"
            yield Decision(friend["public_key"], "", text, "friend")
    for offer in offers["offers"]:
        if offer["origin"] != "remote" or offer["state"] != "pending":
            continue
        what = f"{offer['port']}/{offer['protocol']}" + (f" “{offer['name']}”" if offer["name"] else "")
        if offer["direction"] == "server":
            yield Decision(offer["id"], offer["contact"], f"{offer['contact']} offers {what}", "offer")
        else:
            text = f"{offer['contact']} asks to reach {what} of this machine"
            yield Decision(offer["id"], offer["contact"], text, "request")


def render(view: View, width: int, height: int) -> RenderableType:
    """Return the screen."""
    status = view.status
    if status is None:
        return Text(view.note.removeprefix("!") or "asking the daemon …", style="yellow")
    online = sum(contact["link"] != "offline" for contact in status["contacts"])
    head = Text.assemble(
        ("tunfwd", "bold"),
        "   ",
        ("in the Tox network", "green") if status["network"] == "online" else ("not connected", "bold red"),
        f"   {online} of {len(status['contacts'])} contacts online",
        overflow="ellipsis",
        no_wrap=True,
    )
    decisions = _decision_lines(view, max(3, height // 3))
    room = max(2, height - 5 - len(decisions))  # but for head, header, foot, and a line between them
    return Group(head, Text(""), _contacts(view, status, width, room), *decisions, _foot(view))


def _contacts(view: View, status: api.StatusResult, width: int, room: int) -> RenderableType:
    if not status["contacts"]:
        return Text("No contacts yet: tunfwd share PORT/PROTO, or tunfwd join TICKET", style="dim")
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("CONTACT", no_wrap=True, overflow="ellipsis", ratio=1, min_width=8)
    table.add_column("PATH", no_wrap=True, width=11)
    table.add_column("RTT", no_wrap=True, justify="right", width=8)
    table.add_column("IN/s", no_wrap=True, justify="right", width=8)
    table.add_column("OUT/s", no_wrap=True, justify="right", width=8)
    graph = HISTORY if width >= WIDE else 8
    if width >= NARROW:
        table.add_column("", no_wrap=True, width=graph)
    if width >= WIDE:
        table.add_column("LOSS", no_wrap=True, justify="right", width=6)
        table.add_column("PORTS", no_wrap=True, justify="right", width=5)
        table.add_column("CONNS", no_wrap=True, justify="right", width=5)
        table.add_column("ADDRESS", no_wrap=True, width=15)
    ordered = sorted(status["contacts"], key=lambda contact: contact["link"] == "offline")
    visible = room if len(ordered) <= room else room - 1
    for contact in ordered[:visible]:
        rates = view.rates[contact["via"] + contact["public_key"]]
        name = contact["name"] if contact["via"] == "friend" else f"{contact['via']}/{contact['name']}"
        away = contact["link"] == "offline"
        rtt, loss = contact.get("rtt"), contact.get("loss")
        cells: list[RenderableType] = [
            Text(clean(name), style="dim" if away else ""),
            _path(contact),
            Text("" if rtt is None else milliseconds(rtt)),
            Text(_rate(rates.received[-1])),
            Text(_rate(rates.sent[-1])),
        ]
        if width >= NARROW:
            both = [a + b for a, b in zip(rates.received, rates.sent, strict=True)]
            cells.append(Text(sparkline(both[-graph:]), style="cyan"))
        if width >= WIDE:
            cells += [
                Text("" if loss is None else f"{loss:.1%}"),
                Text(str(contact["ports"])),
                Text(str(contact["connections"])),
                Text(contact["address"] or "-"),
            ]
        table.add_row(*cells)
    if (hidden := len(ordered) - visible) > 0:
        return Group(table, Text(f"… and {hidden} more", style="dim"))
    return table


def _path(contact: api.ContactEntry) -> Text:
    if contact["link"] != "offline":
        return Text(contact["link"], style="green" if contact["link"] == "direct" else "yellow")
    since = contact["offline_seconds"]
    return Text("offline" if since is None else f"offline {span(since)}", style="dim")


def _rate(value: float) -> str:
    return size(round(value)) if value >= 1 else ""


def sparkline(values: list[float]) -> str:
    """Return values as bars, the highest of them full; nothing where nothing went."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(
        BARS[min(len(BARS) - 1, round(value / top * (len(BARS) - 1)))] if value > 0 else " "
        for value in values
    )


def _decision_lines(view: View, room: int) -> list[RenderableType]:
    if not view.decisions:
        return []
    lines: list[RenderableType] = [Text(""), Text(f"Waiting for you ({len(view.decisions)})", style="bold")]
    first = max(0, min(view.chosen - room + 1, len(view.decisions) - room))
    for number, decision in enumerate(view.decisions[first : first + room], start=first):
        chosen = number == view.chosen
        text = ("> " if chosen else "  ") + clean(decision.text, 200)
        lines.append(Text(text, style="reverse" if chosen else "", no_wrap=True, overflow="ellipsis"))
    return lines


def _foot(view: View) -> Text:
    if view.asking is not None:
        question = f"{clean(view.asking.text, 200)}: open it? y yes, any other key no"
        return Text("\n" + question, style="bold yellow")
    if view.note:
        return Text("\n" + view.note.removeprefix("!"), style="yellow", no_wrap=True, overflow="ellipsis")
    return Text("\n" + (KEYS if view.decisions else "q quit"), style="dim")


class Watch:
    """The loop: looks at the daemon, draws, and does what keys say."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.view = View()

    def look(self) -> None:
        """Ask the daemon; where it does not answer, say so, and ask again next time."""
        try:
            status = self._session.call(api.STATUS)
            offers = self._session.call(api.OFFER_LIST)
            friends = self._session.call(api.FRIEND_LIST)
        except UserError as failure:
            self._session.close()
            if failure.code in ("denied", "configuration"):
                raise
            self.view.note = "!" + failure.message
        else:
            self.view.take_in(status, offers, friends, time.monotonic())

    def press(self, key: str) -> bool:
        """Do what a key says; False: leave."""
        view = self.view
        view.note = ""
        if view.asking is not None:
            decision, view.asking = view.asking, None
            if key == "y":
                self._decide(decision, accept=True)
            return True
        if key in ("q", "\x03", "\x04"):
            return False
        if not view.decisions:
            return True
        if key in ("\x1b[A", "k"):
            view.chosen = max(0, view.chosen - 1)
        elif key in ("\x1b[B", "j"):
            view.chosen = min(len(view.decisions) - 1, view.chosen + 1)
        elif key in ("a", "d"):
            decision = view.decisions[view.chosen]
            if key == "a" and decision.kind == "request":
                view.asking = decision
            else:
                self._decide(decision, accept=key == "a")
        return True

    def _decide(self, decision: Decision, *, accept: bool) -> None:
        call = self._session.call
        try:
            if decision.kind == "friend" and accept:
                call(api.FRIEND_ACCEPT, key=decision.key)
            elif decision.kind == "friend":
                call(api.FRIEND_REJECT, key=decision.key)
            elif accept:
                call(api.OFFER_ACCEPT, offer=decision.key, contact=decision.contact)
            else:
                call(api.OFFER_DENY, offer=decision.key, contact=decision.contact)
        except UserError as failure:
            self.view.note = failure.message
        else:
            self.view.note = ("accepted: " if accept else "denied: ") + clean(decision.text, 200)
            self.look()


@contextmanager
def _keys() -> Iterator[None]:
    """Have keys come as they are pressed; afterwards, also at a signal, the terminal is as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _read_keys(seconds: float) -> Iterator[str]:
    """Yield the keys that are pressed within a time: characters, and what arrows send."""
    if not select.select([sys.stdin], [], [], max(0.0, seconds))[0]:
        return
    text = os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace")
    if not text:
        yield "q"  # the terminal is gone
    while text:
        length = 3 if text.startswith("\x1b[") else 1
        yield text[:length]
        text = text[length:]


@click.command()
@click.pass_context
def watch(ctx: click.Context) -> None:
    """Show contacts, paths and rates live; take decisions by a key."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "usage", "this is for a terminal; programs take `status --json` and `events --follow --json`"
        )
    console = Console(highlight=False, markup=False, emoji=False)
    watching = Watch(Session.of(ctx))
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        due = 0.0
        while True:
            if time.monotonic() >= due:
                watching.look()
                due = time.monotonic() + INTERVAL
            live.update(render(watching.view, console.width, console.height), refresh=True)
            for key in _read_keys(due - time.monotonic()):
                if not watching.press(key):
                    return
