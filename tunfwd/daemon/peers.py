"""The contacts as the daemon knows them: by name, key and virtual address, each with its session.

`Peer` ties together what belongs to one contact; `Peers` finds it by whatever a person or a packet has.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from typing import Protocol as Interface

from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX, folded, harmless
from tunfwd.common.text import clean
from tunfwd.common.values import Reason
from tunfwd.control.api import Source
from tunfwd.daemon.storage.state import ContactId, contact_id
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.policy import Party
from tunfwd.forwarding.session import Session
from tunfwd.netstack.types import HostState
from tunfwd.services.target import Target
from tunfwd.tox.contacts import Contact, Member
from tunfwd.wire.packets import Direction, Feature, Protocol

SILENCE: Final = 10  # datagrams without an answer that are worth a word; what only ever sends does not mind
ASK: Final = 4.0  # s without a packet of a contact until it is asked for one
SILENT: Final = 2.5 * ASK  # s: two questions are unanswered; toxcore takes 24 to 32 to give a contact up
FIRST_FREE_PORT: Final = 49152  # RFC 6335: dynamic ports, where an offered one is taken or left open
NO_ADDRESS: Final = "no IPv4 address is left in the range"


@dataclass(slots=True)
class Answers:
    """Whether the service of a mapping answers, as far as the last attempts tell; at either end of it."""

    failed: int = 0
    """Connections in a row, or datagrams that were refused."""
    reason: Reason | None = None
    """Why the last one failed."""
    silent: int = 0
    """Datagrams in a row without any in return."""

    def heard(self) -> None:
        """It has answered."""
        self.failed = self.silent = 0

    def missed(self, reason: Reason) -> None:
        """A connection has failed."""
        self.failed += 1
        self.reason = reason

    @property
    def trouble(self) -> str | None:
        """What a person should know; None where all is well, or as well as can be told."""
        if self.failed and self.reason is not None:
            return f"{self.reason.words} {self.failed} x"
        return f"no answer to {self.silent} datagrams" if self.silent >= SILENCE else None


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a socket of this machine stands at a port of a contact, where there is no device."""

    port: int | None
    """None: nowhere."""
    reason: str | None
    """Why it is not the port that the mapping has."""


@dataclass(slots=True)
class MappingSettings:
    """What the daemon knows of a mapping beyond what is negotiated."""

    local_port: int = 0
    """Where it is reached at the contact's virtual address; 0 where the service is ours."""
    target: Target | None = None
    """The service, where it is ours. None: this machine, at the mapping's port."""
    source: Source = "auto"
    paused: bool = False
    """Whether connections to the service are refused for now."""
    answers: Answers = field(default_factory=Answers)
    listening: Listening | None = None
    """None where there is a device."""


@dataclass(eq=False, slots=True)
class Peer:
    """One contact."""

    contact: Contact
    session: Session
    id: ContactId
    name: str
    address: IPv4Address | None
    """None where the range is full."""
    address6: IPv6Address
    own_key: bytes = b""
    """What the contact knows us by."""
    via: str = "friend"
    """How we know it: "friend", or "group:NAME"."""
    details: dict[Mapping, MappingSettings] = field(default_factory=dict)
    ports: dict[tuple[Protocol, int], Mapping] = field(default_factory=dict)
    """What can be reached at the virtual address."""
    known_as: tuple[IPv4Address | IPv6Address, ...] = ()
    """By which addresses it knows this machine, IPv4 first."""
    ports_changed: Callable[[], None] = lambda: None
    folded: str = ""
    """The name, as others are compared with it."""
    party: Party = field(default_factory=lambda: Party(""))
    """What rules may call it. Not its nickname."""
    offline_since: float | None = None
    path_since: float | None = None
    """Since when it is reached as it is; None: it is offline."""
    heard: float = 0.0
    """When a packet of it came last, to a twentieth of a second."""
    inbox: deque[bytes] = field(default_factory=deque)
    """Lossy packets that wait for its turn."""
    batch: int = 16
    """How many of them are taken in at a time: fewer where they cost much."""
    packets: int = 0
    """How many came since it was last looked whether it floods."""
    wasted: int = 0
    """How many were to no avail until then, in all."""
    excess: float = 0.0
    """How many of those are beyond what is tolerated; given back with time."""
    blocked: bool = False
    """Whether toxcore's queue for it was full at the last try."""
    keeper: "PortKeeper | None" = None
    """Who is told where it can be reached."""

    def offer_id(self, origin: Origin, direction: Direction, protocol: Protocol, port: int, name: str) -> str:
        """Return how a person names an offer without doubt: the same at both ends, and after any restart."""
        offerer, receiver = self.own_key, self.contact.key
        if origin is Origin.REMOTE:
            offerer, receiver = receiver, offerer
        what = repr((direction.value, protocol.value, port, "" if port else name))
        return blake2b(offerer + receiver + what.encode(), digest_size=4).hexdigest()

    def id_of(self, mapping: Mapping) -> str:
        """Return the id of the offer that a mapping is of."""
        return self.offer_id(mapping.origin, mapping.direction, mapping.protocol, mapping.port, mapping.name)

    @property
    def label(self) -> str:
        """How a person names it without doubt."""
        return f"{self.via}/{self.name}" if isinstance(self.contact, Member) else self.name

    @property
    def key(self) -> str:
        """Its public key, in upper-case hex."""
        return self.contact.key.hex().upper()

    def silence(self, now: float) -> float | None:
        """Return for how many seconds it has not answered, though it was asked to; None where it has."""
        asked = self.session.is_online and Feature.PING in self.session.features and self.is_relied_on
        silent = now - self.heard
        return silent if asked and silent >= SILENT else None

    @property
    def is_relied_on(self) -> bool:
        """Whether something is accepted of it or by it, so that its silence matters."""
        return any(mapping.accepted for mapping in self.session.mappings)

    @property
    def shown_address(self) -> str | None:
        """Its virtual IPv4 address, as results have it."""
        return None if self.address is None else str(self.address)

    def details_of(self, mapping: Mapping) -> MappingSettings:
        """Return what is known of a mapping, to be filled in."""
        return self.details.setdefault(mapping, MappingSettings())

    def target_of(self, mapping: Mapping) -> Target:
        """Return where the service of a mapping is that is ours."""
        return self.details_of(mapping).target or Target(None, mapping.port)

    def free_port(self, protocol: Protocol, port: int, wanted: int | None) -> int:
        """Return where a mapping of `port` can be reached: at `wanted`, or else at `port`, or else elsewhere.

        Raises UserError where `wanted` belongs to another mapping, or there is no port left.
        """
        if wanted is not None:
            if (protocol, wanted) in self.ports:
                raise UserError(
                    "usage",
                    f"port {wanted}/{protocol.name.lower()} of {self.label} is in use; choose another",
                )
            return wanted
        if port and (protocol, port) not in self.ports:
            return port
        for free in range(FIRST_FREE_PORT, 65536):
            if (protocol, free) not in self.ports:
                return free
        raise UserError("failed", f"{self.label} has no port left")

    def give_port(self, mapping: Mapping, port: int) -> None:
        """Make a mapping reachable at a free port."""
        self.ports[mapping.protocol, port] = mapping
        self.details_of(mapping).local_port = port
        self.ports_changed()
        self._tell_keeper()

    def take_port(self, mapping: Mapping) -> None:
        """Make a mapping unreachable again, where it is reachable."""
        details = self.details.get(mapping)
        place = mapping.protocol, details.local_port if details is not None else 0
        if self.ports.get(place) is mapping:
            del self.ports[place]
            self.ports_changed()
        self._tell_keeper()

    def _tell_keeper(self) -> None:
        if self.keeper is not None:
            self.keeper.update(self)

    def forget(self, mapping: Mapping) -> None:
        """A mapping has ended."""
        self.take_port(mapping)
        self.details.pop(mapping, None)


class PortKeeper(Interface):
    """Sees to it that contacts are reached at their addresses and ports, where the device does not."""

    def update(self, peer: Peer) -> None:
        """The contact has another address, or other ports."""

    def remove(self, peer: Peer) -> None:
        """The contact is no more."""


class Peers:
    """All contacts."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """What the sessions of contacts that were removed had dropped, by reason: sums never go back.

        What was dropped before it was known for whom it is counts here, too.
        """
        self.keeper: PortKeeper | None = None
        """Set before the first contact is there, or never."""
        self._by_contact: dict[Contact, Peer] = {}
        self._by_address: dict[bytes, Peer] = {}
        self.revision = 0
        """Counts what `changed` was called for."""
        self.reach = 0
        """Counts changes of whose ports are reached, and where."""
        self.named: Callable[[str], Peer | None] = lambda _: None
        """Who has a name in DNS."""
        self._called: dict[tuple[str, str], dict[Peer, None]] = {}
        """By `via` and folded name."""

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._by_contact.values()))

    def changed(self) -> None:
        """What contacts are called, where they are, or what of theirs is reached may have changed."""
        self.revision += 1

    def _reach_changed(self) -> None:
        self.reach += 1

    def add(self, peer: Peer) -> None:
        """Add a contact."""
        self.changed()
        peer.ports_changed = self._reach_changed
        self._by_contact[peer.contact] = peer
        self._by_address[peer.address6.packed] = peer
        if peer.address is not None:
            self._by_address[peer.address.packed] = peer
        peer.keeper = self.keeper
        if self.keeper is not None:
            self.keeper.update(peer)

    def call(self, peer: Peer, name: str, via: str) -> None:
        """Have a contact, that is here or about to be added, be called so."""
        self.changed()
        self._uncall(peer)
        peer.name, peer.via, peer.folded = name, via, folded(name)
        self._called.setdefault((via, peer.folded), {})[peer] = None

    def _uncall(self, peer: Peer) -> None:
        place = peer.via, peer.folded
        alike = self._called.get(place)
        if alike is not None:
            alike.pop(peer, None)
            if not alike:
                del self._called[place]

    def alike(self, peer: Peer) -> list[Peer]:
        """Return the others that are called as a contact is, in the same place."""
        return [other for other in self._called.get((peer.via, peer.folded), ()) if other is not peer]

    def remove(self, peer: Peer) -> None:
        """Remove a contact."""
        self.changed()
        self._uncall(peer)
        self.reach += bool(peer.ports)
        self.dropped.update(peer.session.counters)
        del self._by_contact[peer.contact], self._by_address[peer.address6.packed]
        if peer.address is not None:
            del self._by_address[peer.address.packed]
        peer.keeper = None
        if self.keeper is not None:
            self.keeper.remove(peer)

    def move(self, peer: Peer, address: IPv4Address | None) -> None:
        """Give a contact another virtual address, or none."""
        self.changed()
        self.reach += bool(peer.ports)
        if peer.address is not None:
            del self._by_address[peer.address.packed]
        peer.address = address
        if address is not None:
            self._by_address[address.packed] = peer
        if self.keeper is not None:
            self.keeper.update(peer)

    def of(self, contact: Contact) -> Peer | None:
        """Return the peer of a contact that the Tox client knows."""
        return self._by_contact.get(contact)

    def at(self, address: bytes) -> Peer | None:
        """Return who is at a virtual address, packed."""
        return self._by_address.get(address)

    def host_state(self, address: bytes) -> HostState:
        """Whether a virtual address can be reached; asked by the netstack."""
        peer = self._by_address.get(address)
        if peer is None:
            return HostState.UNKNOWN
        return HostState.ONLINE if peer.session.is_online else HostState.OFFLINE

    def find(self, text: str) -> Peer:
        """Return who a person means: a name, a label, or the beginning of a key.

        Raises UserError where that is nobody, or more than one.
        """
        if "." in text and (named := self.named(text)) is not None:
            return named
        called = [peer for peer in self if folded(text) in (folded(peer.label), folded(peer.name))]
        exactly = [peer for peer in called if text in (peer.label, peer.name)]
        if found := exactly or called:
            return _only([peer for peer in found if peer.contact.kind == "friend"] or found, text)
        key = text.upper()
        found = [p for p in self if len(key) >= KEY_PREFIX and p.key.startswith(key)]
        found = found or [peer for peer in self if text and peer.label.startswith(text)]
        if not found:
            labels = {folded(peer.label): peer.label for peer in self}
            near = get_close_matches(folded(text[:200]), labels, n=1)
            near = near or [label for label in labels if text and label.endswith(f"/{folded(text)}")][:1]
            hint = f"did you mean {labels[near[0]]}?" if near else "`tunfwd status` lists them"
            raise UserError("not_found", f"no contact {text!r}; {hint}")
        return _only(found, text)

    def unique_name(
        self, wanted: str, peer_id: ContactId, *, among: str, is_taken: Callable[[str], bool]
    ) -> str:
        """Return a harmless name like the nickname `wanted`, that no other contact with the same `via` has.

        Nor is it one that `is_taken` says, of folded names.
        """
        key = peer_id.rpartition("/")[2]
        base = harmless(clean(wanted), key) or key[:8].lower()

        def is_used(name: str) -> bool:
            alike = self._called.get((among, name), ())
            return any(peer.id != peer_id for peer in alike) or is_taken(name)

        digits = 4
        name = base
        while is_used(folded(name)) and digits <= len(key):
            name, digits = f"{base}-{key[:digits].lower()}", digits + 4
        return name


def id_of(contact: Contact) -> ContactId:
    """Return the id that the state directory keeps a contact under."""
    group = contact.group.id if isinstance(contact, Member) else None
    return contact_id(contact.key, group)


def _only(found: list[Peer], text: str) -> Peer:
    if len(found) > 1:
        names = ", ".join(sorted(peer.label for peer in found))
        raise UserError("ambiguous", f"{text!r} may be any of {names}")
    return found[0]
