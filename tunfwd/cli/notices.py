"""What desktop notifications say, and how many there are: pure, for notify.py.

What peers chose (names, messages) is cut short here, and free of what would steer a display; where the
desktop reads markup, notify.py escapes it. A peer can make events as often as it likes, so that only a few
are shown in a minute, and the rest is summed up.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal

from tunfwd.common.budget import Budget
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.glance import Method
from tunfwd.events import Kind

BURST: Final = 4  # notifications at once
PAUSE: Final = 15.0  # s for each further one
MAX_TITLE: Final = 80  # characters
MAX_NAME: Final = 40
MAX_BODY: Final = 200

ALWAYS: Final[tuple[Kind, ...]] = ("friend_request", "offer", "request", "invitation", "joined")
PRESENCE: Final[tuple[Kind, ...]] = ("online", "offline")
SETTLING: Final[tuple[Kind, ...]] = ("accepted", "denied", "ended", "friend_added", "friend_removed")
"""What ends the wait for somebody's word, wherever it was given."""

WORDS: Final[dict[str, tuple[str, str]]] = {  # of one, of several
    "friend_request": ("friend request", "friend requests"),
    "offer": ("offer", "offers"),
    "request": ("request for a port", "requests for ports"),
    "invitation": ("invitation", "invitations"),
    "joined": ("person who joined", "people who joined"),
    "online": ("contact that came", "contacts that came"),
    "offline": ("contact that went", "contacts that went"),
}

Choice = Literal["accept", "deny"]
Call = tuple[Method[Any, Any], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification."""

    kind: str
    subject: str
    """What it is about: a later one of the same takes its place."""
    title: str
    body: str
    choices: dict[Choice, Call]
    """What can be done about it; nothing where a person should look twice."""


def subject_of(event: api.EventEntry) -> str | None:
    """Return what an event is about; None where that is nothing that could be waited for."""
    kind = event["event"]
    if kind in ("friend_request", "friend_added", "friend_removed"):
        return f"friend {event.get('public_key', '')}"
    if kind in ("offer", "request", "accepted", "denied", "ended"):
        return f"offer {event.get('id', '')}"
    if kind in PRESENCE:
        return f"presence {event.get('public_key', '')}"
    if kind == "invitation":
        return f"invitation {event.get('room', '')}"
    return None


def notice_of(event: api.EventEntry) -> Notice | None:
    """Return how an event is told; None where it is not."""
    kind, key = event["event"], event.get("public_key", "")
    who = clean(event.get("contact", "") or key[:8], MAX_NAME)
    title, body, choices = "", "", dict[Choice, Call]()
    match kind:
        case "friend_request":
            title = "Somebody asks to be a friend"
            body = f"{key[:8]}…: {event.get('message', '')}"
            choices = {
                "accept": (api.FRIEND_ACCEPT, {"key": key}),
                "deny": (api.FRIEND_REJECT, {"key": key}),
            }
        case "offer" | "request":
            id_, contact = event.get("id", ""), event.get("contact", "")
            title = f"{who} {'offers' if kind == 'offer' else 'asks for'} {_what(event)}"
            deny: Call = (api.OFFER_DENY, {"offer": id_, "contact": contact})
            if kind == "offer":
                body = "Accept it to reach it at this contact's address."
                choices = {
                    "accept": (api.OFFER_ACCEPT, {"offer": id_, "contact": contact, "direction": "server"}),
                    "deny": deny,
                }
            else:  # it opens a port of this machine: not by a click on what pops up
                body = f"It is a port of this machine. To open it: tunfwd allow {id_}"
                choices = {"deny": deny}
        case "invitation":
            title = f"{who} invites you into {clean(event.get('room', ''), MAX_NAME)}"
            body = event["text"]
        case "joined":
            title = f"{who} came by a ticket of yours"
        case "online":
            title = f"{who} is there"
        case "offline":
            title = f"{who} has gone"
        case _:
            return None
    subject = subject_of(event) or f"event {event['seq']}"
    return Notice(kind, subject, clean(title, MAX_TITLE), clean(body, MAX_BODY), choices)


def _what(event: api.EventEntry) -> str:
    name = clean(event.get("name", ""), MAX_NAME)
    port = f"{event.get('port', 0)}/{event.get('protocol', '')}"
    return f"{name} ({port})" if name else port


class Doorkeeper:
    """Lets a few notices through in a minute, and keeps count of the others."""

    def __init__(self) -> None:
        self._budget = Budget(BURST, PAUSE)
        self._held: Counter[str] = Counter()

    def admits(self, notice: Notice, now: float) -> bool:
        """Whether to show a notice now; one that is not shown is counted for the sum."""
        if not self._held and self._budget.spend(now):
            return True
        self._held[notice.kind] += 1
        return False

    def sum(self, now: float) -> Notice | None:
        """Return the sum of what was held back, when it is time for it."""
        if not self._held or not self._budget.spend(now):
            return None
        parts = [f"{count} {WORDS[kind][count > 1]}" for kind, count in self._held.most_common()]
        total = self._held.total()
        self._held.clear()
        title = f"tunfwd: {total} more"
        return Notice("sum", "sum", title, f"{', '.join(parts)}. tunfwd watch shows what waits for you.", {})
