"""The addresses by which contacts know this machine: one among friends, one in each group.

Every host computes a contact's address from its key (storage/addresses.py); so do we from our own keys, and
the device has what comes of it. So a service that says where it is, in an answer, says what holds at the
other end, too; programs speak to each contact from the address that it knows. Fed by tracker.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from tunfwd.daemon.names import OwnName
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.daemon.storage.addresses import AddressBook, NoAddressLeft
from tunfwd.daemon.storage.state import ContactId, contact_id
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Group, Member, RoomState
from tunfwd.tun.sources import MAX_SOURCES, Address, Network, Source


@dataclass(frozen=True, slots=True)
class Own:
    """This machine, as those in one place know it."""

    id: ContactId
    address: IPv4Address | None
    """None where the range is full."""
    address6: IPv6Address

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those that it has, IPv4 first."""
        return (self.address6,) if self.address is None else (self.address, self.address6)


class OwnAddresses:
    """All of them."""

    def __init__(
        self,
        client: Client,
        book: AddressBook,
        peers: Peers,
        tell: Callable[[list[Address], tuple[Source, ...]], None],
    ) -> None:
        """`tell` is for what is to go by them, whenever they have changed."""
        self._client = client
        self._book = book
        self._peers = peers
        self._tell = tell
        self._groups: dict[Group, Own] = {}
        self._told: tuple[Source, ...] | None = None
        self._reach = -1
        self._rooms_changed = True
        self._rooms_seen = 0
        self.among_friends = self._give(contact_id(client.public_key))

    def __iter__(self) -> Iterator[Own]:
        return iter([self.among_friends, *self._groups.values()])

    def in_group(self, group: Group) -> Own | None:
        """Return what we are in a group; None where we are not in it yet."""
        return self._groups.get(group)

    def names(self) -> Iterator[OwnName]:
        """Return what we are called."""
        for group, own in ((None, self.among_friends), *self._groups.items()):
            where = None if group is None else group.id
            yield OwnName(where, self._client.name, own.address, own.address6)

    def room_changed(self) -> None:
        """Note that a group may be lost, or found again."""
        self._rooms_changed = True

    @property
    def is_behind(self) -> bool:
        """Whether `follow` has something to see."""
        return (
            self._rooms_changed
            or self._reach != self._peers.reach
            or self._rooms_seen != len(self._client.groups)
        )

    def follow(self) -> None:
        """See whether groups, or what of members is reached, have changed; tell what comes of it."""
        self._rooms_changed = False
        self._rooms_seen = len(self._client.groups)
        groups = {group for group in self._client.groups if group.state is not RoomState.LOST}
        if groups != self._groups.keys():
            self._follow_groups(groups)
        elif self._reach == self._peers.reach:
            return
        self._reach = self._peers.reach
        sources = tuple(self._sources())[:MAX_SOURCES]
        if sources != self._told:
            self._told = sources
            self._tell([address for own in self for address in own.addresses], sources)

    def _follow_groups(self, groups: set[Group]) -> None:
        for group in self._groups.keys() - groups:
            self._book.release(self._groups.pop(group).id)
        for group in groups - self._groups.keys():
            self._groups[group] = self._give(contact_id(group.self_key, group.id))
        for peer in self._peers:
            peer.known_as = self.known_to(peer).addresses
        self._peers.changed()

    def _give(self, contact: ContactId) -> Own:
        try:
            address = self._book.assign(contact)
        except NoAddressLeft:
            address = None
        return Own(contact, address, self._book.address6(contact))

    def known_to(self, peer: Peer) -> Own:
        """Return what a contact knows us as."""
        group = peer.contact.group if isinstance(peer.contact, Member) else None
        return self.among_friends if group is None else self._groups.get(group, self.among_friends)

    def _sources(self) -> Iterator[Source]:
        """Say what is spoken from: to friends, and all else, as they know us, to members as those do."""
        networks: dict[int, Network] = {4: self._book.network, 6: self._book.network6}
        for address in self.among_friends.addresses:
            yield Source(networks[address.version], address)
        for own in self._groups.values():
            for address in own.addresses:
                yield Source(ip_network(address), address)
        for peer in self._peers:
            if peer.ports and isinstance(peer.contact, Member):
                for address in peer.known_as:
                    there = peer.address if address.version == 4 else peer.address6
                    if there is not None:
                        yield Source(ip_network(there), address)
