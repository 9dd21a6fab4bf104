"""Several ports of one contact and one name, shown as the one thing that they are to a person.

JSON has an object for each port; tables and sentences have these.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar, cast

from tunfwd.cli.output import span
from tunfwd.common.ports import text_of
from tunfwd.control import api

E = TypeVar("E", api.OfferEntry, api.MappingEntry)
Entry = api.OfferEntry | api.MappingEntry


class Together(Generic[E]):
    """Entries of one contact, name and kind: at least one, and more only where there is a name."""

    def __init__(self, entries: Sequence[E]) -> None:
        self.entries: Sequence[E] = entries

    @property
    def first(self) -> E:
        """The entry whose id stands for all."""
        first: E = self.entries[0]
        return first

    @property
    def id(self) -> str:
        """The first id, and how many more there are."""
        more = len(self.entries) - 1
        return f"{self.first['id']} +{more}" if more else self.first["id"]

    @property
    def ports(self) -> str:
        """The ports, with their protocols."""
        return ports_text(self.entries)

    @property
    def numbers(self) -> str:
        """The ports, without their protocols."""
        return text_of(entry["port"] for entry in self.entries)

    @property
    def named(self) -> str:
        """The ports with name and id, in a sentence."""
        name = f" as {self.first['name']}" if self.first["name"] else ""
        return f"{self.ports}{name} ({self.id})"

    @property
    def target(self) -> str | None:
        """Where the services are, if they are ours."""
        targets = {entry["target"] for entry in self.entries}
        if len(targets) == 1:
            return self.first["target"]
        hosts = {(entry["target"] or "").removesuffix(f":{entry['port']}") for entry in self.entries}
        return f"{hosts.pop()}:{self.numbers}" if len(hosts) == 1 else f"{len(targets)} targets"

    @property
    def sees(self) -> str | None:
        """Whom the services see."""
        return ", ".join(sorted({entry.get("sees") or "-" for entry in self.entries}))

    @property
    def state(self) -> str:
        """The state, or how many are in each."""
        states = Counter(map(_state, self.entries))
        if len(states) == 1:
            return next(iter(states))
        return ", ".join(f"{count} {state}" for state, count in states.most_common())

    def sum(self, key: Callable[[E], int]) -> int:
        """Add up what is counted of each."""
        return sum(map(key, self.entries))


def together(entries: Sequence[E], kind: Callable[[E], Hashable] = lambda _: None) -> list[Together[E]]:
    """Put together what shares contact, name, direction, origin and `kind`, in the order of their first."""
    groups: dict[Hashable, list[E]] = {}
    for number, entry in enumerate(entries):
        apart = None if entry["name"] else number
        place = (entry["contact"], entry["name"], entry["direction"], entry["origin"], kind(entry), apart)
        groups.setdefault(place, []).append(entry)
    return [Together(group) for group in groups.values()]


def ports_text(
    entries: Sequence[api.OfferEntry] | Sequence[api.MappingEntry] | Sequence[api.InviteOffer],
) -> str:
    """Return the ports of entries: "27015/tcp 27015-27030/udp"."""
    if any(entry["port"] == 0 for entry in entries):
        return " ".join(f"{entry['port'] or 'any'}/{entry['protocol']}" for entry in entries)
    protocols = dict.fromkeys(entry["protocol"] for entry in entries)
    return " ".join(
        f"{text_of(entry['port'] for entry in entries if entry['protocol'] == protocol)}/{protocol}"
        for protocol in protocols
    )


def _state(entry: Entry) -> str:
    mapping = cast("api.MappingEntry", entry)  # an offer has none of its own keys
    interrupted = mapping.get("interrupted_seconds")
    if interrupted is not None:
        kept = span(mapping.get("kept_seconds") or 0)
        return f"interrupted {span(interrupted)}, kept {kept} more"
    if silent := mapping.get("silent_seconds"):
        return f"{entry['state']}, silent for {span(silent)}"
    state = entry["state"]
    if members := cast("api.OfferEntry", entry).get("members"):
        state += f", taken by {cast('api.OfferEntry', entry).get('taken', 0)} of {members}"
    trouble = "paused" if entry.get("paused") else entry.get("trouble")
    return f"{state}, {trouble}" if trouble else state
