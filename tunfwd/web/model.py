"""What the page is told: all of the daemon's state, in parts, and how the figures went over time.

`ask` asks the daemon, and may take long; `Model.take_in` keeps what it said; whoever shows a page takes from
`Model.news` what it has not been told yet. A part that is as it was is not told again. While the daemon is
gone its last state stays, and is said to be old.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypedDict, TypeVar

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client

SAMPLES: Final = 300  # kept: five minutes while a page is open
LEAST: Final = 0.5  # s between two samples: a rate over less says little
EVENTS: Final = 500  # kept

Connect = Callable[[], Client]
T = TypeVar("T")


class Seen(NamedTuple):
    """What the daemon says at one time."""

    me: api.IdentityResult
    status: api.StatusResult
    offers: api.OffersResult
    friends: api.FriendsResult
    ports: api.MappingsResult
    invites: api.InvitesResult
    events: api.EventsResult


class DaemonState(TypedDict):
    """Whether there is somebody to ask."""

    state: Literal["running", "gone", "asking"]
    message: str


class Sample(TypedDict):
    """Figures at one time, by the number of the contact: bytes a second in and out, round trip in s."""

    at: int  # ms since 1970
    contacts: dict[str, tuple[int, int, float | None]]


class News(NamedTuple):
    """One message to a page."""

    part: str
    json: str


@dataclass
class Told:
    """What one page has been told."""

    revisions: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    events: int = 0


class Asking:
    """Asks the daemon for everything, over one connection for as long as that lasts."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._client: Client | None = None

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, after: str | None) -> Seen | UserError:
        """Return what the daemon says, with the events since `after`, or why it says nothing."""
        try:
            if self._client is None:
                self._client = self._connect()
            call = self._client.call
            return Seen(
                call(api.IDENTITY, {}),
                call(api.STATUS, {}),
                call(api.OFFER_LIST, {}),
                call(api.FRIEND_LIST, {}),
                call(api.PORTS, {}),
                call(api.INVITE_LIST, {}),
                call(api.EVENTS, {"after": after}),
            )
        except UserError as failure:
            self.close()
            return failure


class Model:
    """The state of one daemon, and what it was."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.cursor: str | None = None  # of the events
        self._clock = clock
        self._parts: dict[str, tuple[int, str]] = {}  # revision, JSON
        self._numbers: dict[str, int] = {}
        self._totals: dict[int, tuple[int, int]] = {}
        self._looked_at = 0.0
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._sampled = 0  # since the start
        self._events: deque[api.EventEntry] = deque(maxlen=EVENTS)
        self._happened = 0
        self._set("daemon", DaemonState(state="asking", message=""))

    # --- what the daemon says

    def take_in(self, seen: Seen | UserError) -> None:
        """Keep what the daemon has just said."""
        if isinstance(seen, UserError):
            self._set("daemon", DaemonState(state="gone", message=seen.message))
            return
        self._set("daemon", DaemonState(state="running", message=""))
        self._set("me", seen.me)
        contacts = [{**contact, "number": self._number(contact)} for contact in seen.status["contacts"]]
        self._set("status", {**seen.status, "contacts": contacts})
        self._set("offers", seen.offers)
        self._set("friends", seen.friends)
        self._set("ports", seen.ports)
        self._set("invites", seen.invites)
        self._sample(seen.status)
        self.cursor = seen.events["next"]
        self._events.extend(seen.events["events"])
        self._happened += len(seen.events["events"])

    def _set(self, part: str, content: Mapping[str, object]) -> None:
        text = json.dumps(content, separators=(",", ":"))  # ASCII on one line
        revision, before = self._parts.get(part, (0, ""))
        if text != before:
            self._parts[part] = revision + 1, text

    def _number(self, contact: api.ContactEntry) -> int:
        return self._numbers.setdefault(contact["via"] + contact["public_key"], len(self._numbers) + 1)

    def _sample(self, status: api.StatusResult) -> None:
        now = self._clock()
        elapsed = now - self._looked_at
        if self._samples and elapsed < LEAST:
            return
        sample = Sample(at=round(time.time() * 1000), contacts={})
        totals = {}
        for contact in status["contacts"]:
            number = self._number(contact)
            received, sent = totals[number] = contact["rx_bytes"], contact["tx_bytes"]
            before = self._totals.get(number, (received, sent))
            # Totals fall where a port is no more, and where the daemon has started again.
            into, out = (max(0, new - old) for new, old in zip((received, sent), before, strict=True))
            if contact["link"] != "offline":
                rates = round(into / elapsed), round(out / elapsed)
                sample["contacts"][str(number)] = *rates, contact.get("rtt")
        self._totals, self._looked_at = totals, now
        self._samples.append(sample)
        self._sampled += 1

    # --- what a page has not been told

    def news(self, told: Told) -> Iterator[News]:
        """Yield what has changed since `told`, which is brought up to date."""
        for part, (revision, text) in self._parts.items():
            if told.revisions.get(part) != revision:
                told.revisions[part] = revision
                yield News(part, text)
        if samples := _newest(self._samples, self._sampled - told.samples):
            told.samples = self._sampled
            yield News("samples", json.dumps(samples, separators=(",", ":")))
        if events := _newest(self._events, self._happened - told.events):
            told.events = self._happened
            yield News("events", json.dumps(events, separators=(",", ":")))


def _newest(kept: deque[T], count: int) -> list[T]:
    return list(kept)[max(0, len(kept) - count) :] if count else []
