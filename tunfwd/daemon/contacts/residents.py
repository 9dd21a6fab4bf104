"""Who has a virtual address, and for how long a member of a group that is away is remembered.

Anybody can join a public group, under as many keys as he likes, so nothing that a stranger does is kept for
good. Four kinds of contacts, in the order in which they give way (`Worth`): members that nothing was agreed
with, members that a rule accepted something from, members that a person offered something to, asked or
accepted something from, and friends. The first kind is forgotten once it has been away for as long as its
connections could have survived; of the second, the `MAX_AWAY` that left last are remembered; the others until
a person says otherwise.

A full range is no failure. Who comes gets the address of the weakest contact, if that is weaker, those away
before those present and the longest away first. Otherwise he has none until there is room, and is reached by
IPv6 alone. Fed by tracker.py.
"""

import logging
from collections.abc import Callable, Iterator
from enum import IntEnum
from ipaddress import IPv4Address
from math import inf
from typing import Final

from tunfwd.daemon.peers import Peer, Peers
from tunfwd.daemon.storage.addresses import AddressBook, NoAddressLeft
from tunfwd.daemon.storage.state import AcceptedMapping, ContactId, Content, StandingOffer, StandingRequest
from tunfwd.forwarding.flow import Origin
from tunfwd.tox.contacts import Member

MAX_AWAY: Final = 64  # members remembered while they are away with whom no person agreed on anything
GRACE: Final = 10.0  # s beyond `outage`, after which no connection of a contact that is away goes on
SWEEP: Final = 5.0  # s between looks at who is away

log = logging.getLogger(__name__)


class Worth(IntEnum):
    """Why a contact is remembered; the lowest gives way first."""

    STRANGER = 0
    RULE = 1
    PERSON = 2
    FRIEND = 3


class Residents:
    """The contacts with their claims to an address."""

    def __init__(
        self,
        book: AddressBook,
        peers: Peers,
        content: Content,
        outage: float,
        forget: Callable[[Peer], None],
    ) -> None:
        """`outage` is how long, in s, connections outlive a contact's absence; `forget` removes a member."""
        self._book = book
        self._peers = peers
        self._content = content
        self._patience = outage + GRACE
        self._forget = forget
        self._away: dict[Peer, float] = {}  # members, and when they left; the longest away first
        self._without: dict[Peer, None] = {}  # those for whom there was no address, the first to come first
        self.due = -inf
        """When `sweep` is to be called, on trio's clock."""
        self._said = False

    # What is agreed.

    def _standing(self) -> Iterator[StandingOffer | StandingRequest | AcceptedMapping]:
        yield from self._content.offers
        yield from self._content.requests
        yield from self._content.mappings

    def agreed(self) -> list[ContactId]:
        """Return the ids of all that something stands with, each once, the oldest first."""
        return list(dict.fromkeys(one.contact for one in self._standing()))

    def stands(self, contact: ContactId) -> bool:
        """Whether something stands with a contact that is kept from one run to the next."""
        return any(one.contact == contact for one in self._standing())

    def _by_person(self) -> set[ContactId]:
        """Return the ids of all that a person agreed on something with."""
        return {
            one.contact for one in self._standing() if not (isinstance(one, AcceptedMapping) and one.by_rule)
        }

    def worth(self, peer: Peer, by_person: set[ContactId] | None = None) -> Worth:
        """Return what a contact is remembered for; `by_person`, where many are asked about."""
        if not isinstance(peer.contact, Member):
            return Worth.FRIEND
        if peer.id in (self._by_person() if by_person is None else by_person):
            return Worth.PERSON
        mappings = peer.session.mappings
        if any(mapping.accepted and mapping.origin is Origin.REMOTE for mapping in mappings):
            return Worth.RULE
        return Worth.STRANGER

    def agreed_with(self, peer: Peer) -> None:
        """Something stands with a contact from now on."""
        self._book.keep(peer.id)
        if peer in self._without:
            self._house(peer)

    def forget_strangers(self) -> None:
        """Forget the members in the state file that nothing stands with."""
        standing = set(self.agreed())
        content = self._content
        for contact in {*content.addresses, *content.names}:
            _, slash, key = contact.partition("/")
            if slash and key and contact not in standing:
                self._book.release(contact)
                content.names.pop(contact, None)

    # Contacts come and go.

    def added(self, peer: Peer) -> None:
        """A contact is here who was not: it gets an address, where there is one for it."""
        if isinstance(peer.contact, Member) and not peer.session.is_online:
            self._away[peer] = -inf
        self._house(peer)

    def came(self, peer: Peer) -> None:
        """A contact is online."""
        self._away.pop(peer, None)
        if peer in self._without:
            self._house(peer)

    def went(self, peer: Peer, now: float) -> None:
        """A contact is away."""
        if isinstance(peer.contact, Member):
            self._away[peer] = now
            if len(self._away) > MAX_AWAY:
                self.due = now

    def left(self, peer: Peer) -> None:
        """A member that has gone said goodbye, or was put out: no connection waits for it."""
        if peer in self._away:
            self._away[peer] = -inf
            self.due = -inf

    def removed(self, peer: Peer) -> None:
        """A contact is no peer any more."""
        self._away.pop(peer, None)
        self._without.pop(peer, None)
        if peer.id not in self._content.addresses:
            self.released(peer.id)

    def released(self, contact: ContactId) -> None:
        """A contact's address is free, for whoever waits for one."""
        self._book.release(contact)
        self._house_who_wait()

    def _house_who_wait(self) -> None:
        by_person = self._by_person() if self._without else None
        for peer in sorted(self._without, key=lambda peer: -self.worth(peer, by_person)):
            self._house(peer)

    def sweep(self, now: float) -> None:
        """Forget the strangers that have been away for long, and of those with rules all but the latest."""
        if now < self.due or not (self._away or self._without):
            return
        self.due = now + SWEEP
        people = self._by_person()
        away = [
            (self.worth(peer, people), since, n, peer) for n, (peer, since) in enumerate(self._away.items())
        ]
        weak = sorted(entry for entry in away if entry[0] < Worth.PERSON)
        for number, (worth, since, _, peer) in enumerate(weak):
            overdue = worth is Worth.STRANGER and now - since >= self._patience
            if overdue or number < len(weak) - MAX_AWAY:
                self._forget(peer)
        self._house_who_wait()

    # Addresses.

    @property
    def without(self) -> int:
        """How many contacts have no address."""
        return len(self._without)

    def _house(self, peer: Peer) -> None:
        """Give a contact its address, or another's."""
        if (address := self._try(peer)) is None:
            self._without[peer] = None
            return
        self._without.pop(peer, None)
        self._peers.move(peer, address)
        if self.worth(peer) is Worth.FRIEND or self.stands(peer.id):
            self._book.keep(peer.id)

    def _try(self, peer: Peer) -> IPv4Address | None:
        try:
            return self._book.assign(peer.id)
        except NoAddressLeft as full:
            if self._make_room(peer):
                return self._book.assign(peer.id)
            if not self._said:
                self._said = True
                log.warning("%s: %s, and whoever comes next, is reached by IPv6 alone", full, peer.label)
            return None

    def _make_room(self, newcomer: Peer) -> bool:
        """Take an address from a contact that is worth less, or worth the same and away."""
        people = self._by_person()
        claim = (self.worth(newcomer, people), newcomer not in self._away)
        housed = [
            (self.worth(peer, people), peer not in self._away, self._away.get(peer, 0.0), number, peer)
            for number, peer in enumerate(self._peers)
            if peer.address is not None and not any(mapping.flows for mapping in peer.session.mappings)
        ]
        if not housed:
            return False
        worth, present, _, _, weakest = min(housed)
        if (worth, present) >= claim:
            return False
        self._peers.move(weakest, None)
        self._book.release(weakest.id)
        self._without[weakest] = None
        return True
