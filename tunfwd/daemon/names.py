"""What contacts, members of groups and this machine are called in DNS, and who a name is.

    bob.tunfwd.internal                 a friend
    player1.lan-party.tunfwd.internal   a member of a group
    self.tunfwd.internal                this machine, also under its own nickname

Fed with the peers as they are; asked by whatever takes names: the resolver, SOCKS, commands, the log. Names
follow from what contacts are called (peers.py): who is called by a person here goes first, and else who had
the name first keeps it, so that nobody takes another's by calling himself so. Pure: no I/O.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import idna

from tunfwd.common.names import folded
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.tox.contacts import Member

DEFAULT_DOMAIN: Final = "tunfwd.internal"  # .internal is reserved for private use
MAX_LABEL: Final = 63  # bytes; RFC 1035 2.3.4
MAX_NAME: Final = 253  # characters of a whole name
SELF: Final = "self"  # no contact may be called so (common/names.py)

_FRIENDS: Final = ""  # where friends' names stand: at the domain itself

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Host:
    """Who a name is."""

    name: str
    """The whole name, without a dot at its end."""
    address: IPv4Address | None
    address6: IPv6Address | None
    peer: Peer | None = None
    """None: this machine."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All that it has."""
        return tuple(address for address in (self.address, self.address6) if address is not None)


@dataclass(frozen=True, slots=True)
class OwnName:
    """What this machine is called in one place."""

    group: bytes | None
    """The chat id of the group; None: among friends."""
    name: str
    """As others see it: our nickname."""
    address: IPv4Address | None
    address6: IPv6Address


@lru_cache(4096)
def label_of(name: str) -> str:
    """Return a valid label like a name, in lower case; of another script in Punycode. It may be empty.

    What no label has, spaces and punctuation, becomes "-".
    """
    kept = "".join(
        character if unicodedata.category(character)[0] in "LNM" else "-"
        for character in folded(name.replace("'", "").replace("’", ""))
    )
    words = _joined(kept)
    if words.isascii():
        return words[:MAX_LABEL].strip("-")
    for text in (words, _joined("".join(filter(_is_valid, words)))):
        try:
            return idna.alabel(text[:MAX_LABEL].strip("-")).decode()
        except (idna.IDNAError, UnicodeError):
            continue
    return _joined("".join(filter(str.isascii, words)))[:MAX_LABEL].strip("-")


def _joined(text: str) -> str:
    """Return the words between hyphens, with one between two: only another script has more."""
    return "-".join(word for word in text.split("-") if word)


def _is_valid(character: str) -> bool:
    try:
        idna.check_label(character)
    except idna.IDNAError:
        return character == "-"
    return True


def in_ascii(name: str) -> str:
    """Return a name as DNS has it: lower case, each label that needs it in Punycode, no dot at its end."""
    labels = name.removesuffix(".").split(".")
    return ".".join(label.lower() if label.isascii() else label_of(label) for label in labels)


class Names:
    """The names of all hosts of the virtual network."""

    def __init__(
        self, peers: Peers, domain: str = DEFAULT_DOMAIN, own: Callable[[], Iterable[OwnName]] = tuple
    ) -> None:
        """`own` is asked for what this machine is called, whenever that is needed."""
        self.domain = in_ascii(domain)
        self._peers = peers
        self._own = own
        self._revision = -1
        self._groups: dict[bytes, str] = {}
        self._labels: dict[tuple[bytes | None, str], tuple[str, str]] = {}
        """By group and id of each contact: what it is called, and the label that it got for that."""
        self._hosts: dict[str, Host] = {}
        self._by_address: dict[bytes, Host] = {}

    def __iter__(self) -> Iterator[Host]:
        self._refresh()
        return iter(list(self._hosts.values()))

    def find(self, name: str) -> Host | None:
        """Return who has a name, of any case and script, in the domain; None: nobody."""
        if len(name) > 4 * MAX_NAME:
            return None
        self._refresh()
        return self._hosts.get(in_ascii(name))

    def covers(self, name: str) -> bool:
        """Whether a name is the domain, or one in it, whoever has it."""
        name = in_ascii(name[: 4 * MAX_NAME])
        return name == self.domain or name.endswith(f".{self.domain}")

    def exists(self, name: str) -> bool:
        """Whether a name, or one below it, is there: a group's has no address, but members below it."""
        self._refresh()
        name = in_ascii(name[: 4 * MAX_NAME])
        return (
            name in self._hosts
            or name == self.domain
            or name.removesuffix(f".{self.domain}") in {*self._groups.values()}
        )

    def at(self, address: Address | bytes | str) -> Host | None:
        """Return who has an address."""
        self._refresh()
        packed = address if isinstance(address, bytes) else ip_address(address).packed
        return self._by_address.get(packed)

    def peer(self, name: str) -> Peer | None:
        """Return the contact that has a name."""
        host = self.find(name)
        return None if host is None else host.peer

    def of(self, peer: Peer) -> str | None:
        """Return the whole name of a contact."""
        host = self.at(peer.address6)
        return host.name if host is not None else None

    # -- who gets which

    def _refresh(self) -> None:
        """Give out names anew, where contacts have changed."""
        if self._revision == self._peers.revision:
            return
        self._revision = self._peers.revision
        peers = list(self._peers)
        self._hosts, self._by_address = {}, {}
        self._groups = self._give_groups(peers)
        places: dict[bytes | None, list[Peer]] = {}
        for peer in peers:
            places.setdefault(_group_of(peer), []).append(peer)
        labels = {}
        for group, there in places.items():
            for peer, label in self._give(group, there):
                labels[group, peer.id] = peer.name, label
                self._add(label, group, Host("", peer.address, peer.address6, peer))
        self._labels = labels
        for own in self._own():
            self._add_own(own)

    def _add_own(self, own: OwnName) -> None:
        """Know this machine, by its nickname where that is nobody else's."""
        host = Host("", own.address, own.address6)
        for label in (label_of(own.name), SELF):
            if label and (own.group is None or own.group in self._groups):
                self._add(label, own.group, host)

    def _add(self, label: str, group: bytes | None, host: Host) -> None:
        place = f"{label}.{self._groups[group]}" if group is not None else label
        name = f"{place}.{self.domain}"
        if len(name) > MAX_NAME or name in self._hosts:
            return
        named = Host(name, host.address, host.address6, host.peer)
        self._hosts[name] = named
        for address in named.addresses:
            self._by_address.setdefault(address.packed, named)

    def _give_groups(self, peers: list[Peer]) -> dict[bytes, str]:
        """Return the labels of the groups: those that a person here named go first."""
        called = {
            peer.contact.group.id: (peer.party.group_name is None, peer.via.partition(":")[2])
            for peer in peers
            if isinstance(peer.contact, Member)
        }
        for own in self._own():
            if own.group is not None:
                called.setdefault(own.group, (True, own.group.hex()[:8]))
        given: dict[bytes, str] = {}
        order = sorted(called, key=lambda group: (called[group][0], group not in self._groups, group))
        for group in order:
            given[group] = _free(label_of(called[group][1]), group.hex(), {*given.values()})
        return given

    def _give(self, group: bytes | None, there: list[Peer]) -> list[tuple[Peer, str]]:
        """Return the labels of the contacts of one place, each its own."""

        def claim(peer: Peer) -> tuple[bool, bool, bool]:
            known = self._labels.get((group, peer.id))
            incumbent = known is not None and known[0] == peer.name and known[1] == label_of(peer.name)
            return peer.party.name is None, not incumbent, label_of(peer.name) != folded(peer.name)

        used: set[str] = set()
        given = []
        for peer in sorted(there, key=claim):  # of equal claims, the first to be met goes first
            label = _free(label_of(peer.name), peer.key.lower(), used)
            used.add(label)
            given.append((peer, label))
        return given


def _group_of(peer: Peer) -> bytes | None:
    return peer.contact.group.id if isinstance(peer.contact, Member) else None


def _free(wanted: str, key: str, used: set[str]) -> str:
    """Return a label that is nobody's: the one wanted, or that with some digits of the key."""
    if wanted and wanted not in used and wanted != SELF:
        return wanted
    base = "" if wanted.startswith("xn--") else wanted[: MAX_LABEL - 20].rstrip("-")
    digits = 8 if not base else 4
    while (label := f"{base}-{key[:digits]}".lstrip("-")) in used and digits < len(key):
        digits += 4
    return label
