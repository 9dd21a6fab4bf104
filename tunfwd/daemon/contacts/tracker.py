"""From the Tox client to the engine: contacts become peers, packets find their session.

The client's `Handler`: what toxcore says about friends and groups arrives here, in its own iteration.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from tunfwd.common.errors import UserError
from tunfwd.common.names import harmless
from tunfwd.common.values import Random
from tunfwd.config.rules import mistaken
from tunfwd.control.api import Link
from tunfwd.daemon.contacts.given import GivenNames
from tunfwd.daemon.contacts.greetings import Greetings
from tunfwd.daemon.contacts.offers import Offers, mistake
from tunfwd.daemon.contacts.own import OwnAddresses
from tunfwd.daemon.contacts.residents import Residents
from tunfwd.daemon.contacts.rooms import Rooms, id_text, room_id
from tunfwd.daemon.contacts.tickets import Tickets
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.peers import Peer, id_of
from tunfwd.daemon.process.logs import caused_by
from tunfwd.daemon.storage.addresses import AddressBook
from tunfwd.daemon.storage.state import ContactId, Content
from tunfwd.events import event
from tunfwd.faults import survives
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.policy import Party
from tunfwd.forwarding.session import Session
from tunfwd.forwarding.session import Settings as SessionSettings
from tunfwd.loop import current_time
from tunfwd.tox.binding.enums import Tox_Connection
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import (
    Conference,
    Contact,
    ContactOffline,
    FriendRequest,
    Group,
    Invitation,
    Member,
    Room,
    RoomState,
)
from tunfwd.tox.handler import Handler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoAccept:
    """Whose requests need nobody's word."""

    friends: frozenset[bytes]
    """Keys of those who become friends when they ask."""
    groups: frozenset[bytes]
    """Keys of friends into whose rooms we go when they invite."""


class ContactTracker(Handler):
    """Keeps the peers in step with the Tox client's contacts."""

    def __init__(
        self,
        datapath: Datapath,
        offers: Offers,
        book: AddressBook,
        content: Content,
        save: Callable[[], None],
        random: Random,
        settings: SessionSettings,
        auto_accept: AutoAccept,
        start: Callable[[Handler], Client],
    ) -> None:
        """Have `start` make the client, and make peers of the contacts it knows from earlier runs."""
        self._engine = datapath.engine
        self._peers = datapath.peers
        self._offers = offers
        self._book = book
        self._content = content
        self._given = GivenNames(content.names)
        self._save = save
        self._random = random
        self._auto_accept = auto_accept
        self._soon: list[Callable[[], object]] = []  # what may not be done from within toxcore's iteration
        self._started = False
        self.named: Callable[[Peer | Room], None] = lambda _contact: None
        """Told of each contact and group that is new, or has a new name."""
        self.held: Callable[[ContactId], str | None] = lambda _id: None
        """Says why a friend or group cannot be removed or renamed by a command, if so."""
        self.banned = content.banned
        self._first: Contact | None = None  # whose packet was the first in toxcore's iteration
        self.residents = Residents(book, datapath.peers, content, settings.outage, self.forget)
        self.greetings = Greetings(settings.features, random)
        self.client = client = start(self)
        self.own = OwnAddresses(client, book, datapath.peers, datapath.set_own)
        self._settings = replace(settings, node_key=client.dht_key, tickets=True)
        self.rooms = Rooms(
            client.groups,
            client.conferences,
            datapath.peers,
            datapath.scheduler,
            content,
            save,
            self.greetings,
            random,
        )
        touch = self._touch = datapath.scheduler.touch
        self.tickets = Tickets(
            client, content, save, offers, datapath.peers, touch, self.added, self.rename_room
        )
        self._engine.on_claim = self.tickets.claimed
        self._engine.on_claim_answered = self.tickets.answered
        offers.agreed = self._agreed
        offers.ended = self.rooms.mapping_ended
        self.residents.forget_strangers()
        for friend in client.friends:
            self.added(friend)
        for group in client.groups:
            for member_id in self._members_of(group):
                key = bytes.fromhex(member_id.rpartition("/")[2])
                self.added(client.groups.remember(group, key, self._content.names.get(member_id, "")))
        offers.started()
        self.own.follow()
        self._started = True
        self.explain_rules()

    def accept_by_rule(self, auto_accept: AutoAccept) -> None:
        """Go by other rules about requests and invitations from now on."""
        self._auto_accept = auto_accept

    def explain_rules(self) -> None:
        """Say which rules do not mean whom they name."""
        self._offers.policy.explain()
        for friend in self.client.friends:
            peer = self.added(friend)
            for pattern in self._offers.policy.mistaken(peer):
                log.warning("%s", mistake(pattern, peer))
        for group in self.client.groups:
            self._explain_group(group)

    def _explain_group(self, group: Group) -> None:
        if not self.rooms.is_named(group):
            party = Party("", group=id_text(group))
            label = self.rooms.label(group)
            for pattern in mistaken(self._offers.policy.patterns, f"{label}/", party):
                log.warning(
                    'the rule for "%s" does not mean %s, whose founder named it: '
                    "`tunfwd group rename %s NAME` names it here, or write its chat id",
                    pattern,
                    label,
                    self.rooms.name(group),
                )

    def _members_of(self, room: Room) -> list[ContactId]:
        """Return the ids of a group's members that something was agreed with, in whichever run."""
        prefix = room_id(room)
        return [known for known in self.residents.agreed() if known.startswith(prefix) and known != prefix]

    # Contacts come to be, and cease.

    def added(self, contact: Contact, name: str | None = None) -> Peer:
        """Make a peer of a contact, under the name that a person gave it, then or now."""
        if peer := self._peers.of(contact):
            return peer
        peer_id = id_of(contact)
        epoch = self.greetings.epoch_for(peer_id)
        session = Session(contact.carrier, epoch=epoch, random=self._random, settings=self._settings)
        own_key = contact.group.self_key if isinstance(contact, Member) else self.client.public_key
        peer = Peer(contact, session, peer_id, "", None, self._book.address6(peer_id), own_key)
        peer.known_as = self.own.known_to(peer).addresses
        if name is not None:
            self.rename(peer, name)
        else:
            self._name(peer)
        self._engine.add(peer)
        self._offers.restore(peer)
        self.tickets.joins.restore(peer)
        self.residents.added(peer)
        if not isinstance(contact, Member):
            self._save()
            if self._started:
                log.info("%s is a friend now", peer.label, extra=caused_by(peer, "friend_added"))
        self.rooms.joined(peer)
        self.named(peer)
        return peer

    def require_free(self, contact: ContactId) -> None:
        """Raise UserError for a friend or group that no command may remove or rename."""
        if (reason := self.held(contact)) is not None:
            raise UserError("denied", reason)

    def _name(self, peer: Peer) -> None:
        """Find out what a contact is called: by a person here, or else by itself."""
        names, nickname, contact = self._content.names, peer.contact.nickname, peer.contact
        if isinstance(contact, Member):
            group, rooms = contact.group, self.rooms
            via = rooms.label(group)
            group_name = rooms.name(group) if rooms.is_named(group) else None
            peer.party = Party(peer.key, group=id_text(group), group_name=group_name)
            if names.get(peer.id, nickname) != nickname:
                names[peer.id] = nickname
                self._save()
            name = self._peers.unique_name(nickname, peer.id, among=via, is_taken=lambda _: False)
            self._peers.call(peer, name, via)
            return
        given = harmless(names.get(peer.id, ""), peer.key) or None
        peer.party = Party(peer.key, given)

        def is_taken(name: str) -> bool:
            return self._given.is_taken(name, peer.id)

        name = given or self._peers.unique_name(nickname, peer.id, among=peer.via, is_taken=is_taken)
        self._peers.call(peer, name, peer.via)

    def rename(self, peer: Peer, name: str) -> None:
        """Call a friend as a person wishes. Whoever calls itself so gives way."""
        self._given.give(peer.id, name)
        self._name(peer)
        for other in self._peers.alike(peer):
            self._name(other)
        self._save()
        self.named(peer)

    def rename_room(self, room: Room, name: str) -> None:
        """Call a group or conference as a person wishes. Raises UserError where another is called so."""
        other = self.rooms.rename(room, name)
        self._peers.changed()
        for peer in self._peers:
            if isinstance(peer.contact, Member) and peer.contact.group in (room, other):
                self._name(peer)
        self.named(room)

    def _agreed(self, peer: Peer) -> None:
        """Something stands with a contact from now on: it is remembered while it is away."""
        if isinstance(peer.contact, Member):  # its name, too, so that nobody else gets it meanwhile
            self._content.names[peer.id] = peer.contact.nickname
        self.residents.agreed_with(peer)

    def contact_removed(self, contact: Contact) -> None:
        """See Handler."""
        peer = self._peers.of(contact)
        if peer is None:
            return
        if not isinstance(contact, Member):
            log.info("%s is a friend no longer", peer.label, extra=caused_by(peer, "friend_removed"))
        self.rooms.forget_peer(peer)
        self._engine.remove(peer)
        self.residents.removed(peer)
        self.greetings.part_from(peer.id, peer.session.epoch)
        in_group = isinstance(contact, Member) and contact.group in self.client.groups
        if not (in_group and self.residents.stands(peer.id)):  # a group that is lost may be joined again
            self._forget(peer.id)

    def forget(self, peer: Peer) -> None:
        """Forget a member that is away, with all that stands with it."""
        assert isinstance(peer.contact, Member)
        if peer.contact.peer_id is not None:
            return
        self._offers.forget(peer.id)
        self.client.groups.forget(peer.contact)

    def _forget(self, contact: ContactId) -> None:
        known = contact in self._content.addresses or contact in self._content.names
        self._offers.forget(contact)
        self.tickets.joins.forget(contact)
        self.residents.released(contact)
        self._given.take(contact)
        if known:
            self._save()

    def ban(self, peer: Peer) -> None:
        """Ignore a member for good, end what was agreed with it, and put it out where we may."""
        contact = peer.contact
        assert isinstance(contact, Member)
        self._content.banned[peer.id] = peer.name
        for mapping in list(peer.session.mappings):
            self.end(peer, mapping)
        self._put_out(contact)
        if contact.online:  # it stays in the group, and is nobody to us
            self.contact_removed(contact)
        else:
            self.forget(peer)
        self._save()
        log.info("banned: %s", peer.label)

    def unban(self, member: ContactId) -> None:
        """Take a member as any other again."""
        del self._content.banned[member]
        self._save()
        for group in self.client.groups:
            for contact in list(group.by_peer.values()):
                if id_of(contact) == member:
                    self.contact_online(contact)

    def _put_out(self, member: Member) -> None:
        with suppress(ToxError, ContactOffline):  # who may is the group's to say
            self.client.groups.kick(member)

    def end(self, peer: Peer, mapping: Mapping) -> None:
        """End what was agreed with a contact that is going to be removed."""
        self._offers.end(peer, mapping)
        self._touch(peer)

    def contact_renamed(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._name(peer)

    # Contacts come and go.

    def contact_online(self, contact: Contact) -> None:
        """See Handler."""
        if isinstance(contact, Member) and id_of(contact) in self._content.banned:
            self._soon.append(lambda: self._put_out(contact))
            return
        peer = self.added(contact)
        self.residents.came(peer)
        peer.path_since = current_time()
        link = link_of(peer)
        log.info("%s is online (%s)", peer.label, link, extra=caused_by(peer, "online", link=link))
        self._engine.online(peer)

    def contact_offline(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            peer.path_since = None
            log.info("%s is offline", peer.label, extra=caused_by(peer, "offline"))
            self._engine.offline(peer)
            self.residents.went(peer, current_time())

    def contact_left(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._engine.part(peer)
            self.residents.left(peer)

    def member_gone(self, member: Member) -> None:
        """See Handler: who joins again is somebody new, and is not to find its own ghost there."""
        if peer := self._peers.of(member):
            self._soon.append(lambda: self.forget(peer))

    def contact_connection(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            link = link_of(peer)
            by = caused_by(peer, "path", link=link)
            peer.path_since = current_time()
            log.info("%s is reached by another path: %s", peer.label, link, extra=by)
            self._engine.moved(peer)

    def friend_request(self, request: FriendRequest) -> bool:
        """See Handler: tickets and rules come first, so that nobody who waits for a person is in the way."""
        key = request.key.hex().upper()
        if action := self.tickets.decide(request):
            self._soon.append(action)
            return True
        if request.key in self._auto_accept.friends:
            self._soon.append(lambda: self._accept_friend(request))
            return True
        if any(held.key == request.key for held in self.client.friends.requests):
            return False  # said when it first came
        log.info(
            "%s asks to be a friend: %r; `tunfwd friend accept %s`, and `tunfwd friend list` for all who ask",
            key,
            request.message,
            key[:8],
            extra={"cause": ("strangers", "strangers")}
            | event("friend_request", public_key=key, message=request.message),
        )
        return False

    def _accept_friend(self, request: FriendRequest) -> None:
        try:
            friend = self.client.friends.add_key(request.key)
        except ToxError:
            self.client.friends.hold(request)
            raise
        self.added(friend)

    # Rooms.

    def invitation(self, invitation: Invitation) -> None:
        """See Handler."""
        friend, kind = invitation.friend, invitation.kind
        rooms = self.client.groups if kind == "group" else self.client.conferences
        name = invitation.name or invitation.id.hex()[:8]
        peer = self._peers.of(friend)
        by = friend.key.hex()[:8] if peer is None else peer.label
        cause = {"cause": (friend.key.hex(), by)} | event(
            "invitation", contact=by, public_key=friend.key.hex().upper(), room=f"{kind}:{name}"
        )
        if action := self.tickets.invited(invitation):
            log.info("%s invites to the %s %r, as its ticket says", by, kind, name, extra=cause)
            self._soon.append(action)
        elif friend.key in self._auto_accept.groups:
            log.info("%s invites to the %s %r, accepted by rule", by, kind, name, extra=cause)
            self._soon.append(lambda: rooms.accept(invitation.id))
        else:
            log.info("%s invites to the %s %r; `tunfwd %s join %s`", by, kind, name, kind, name, extra=cause)

    def room_changed(self, room: Room) -> None:
        """See Handler."""
        self.own.room_changed()
        self._peers.changed()
        if room not in self.rooms:
            self.rooms.left(room)
            self._offers.refusals.forget(room_id(room))
            for banned in [known for known in self._content.banned if known.startswith(room_id(room))]:
                del self._content.banned[banned]
            for member_id in self._members_of(room):
                self._forget(member_id)
        elif isinstance(room, Conference):
            self._soon.append(lambda: self.rooms.changed(room))
        elif isinstance(room, Group):
            self._group_changed(room)

    def _group_changed(self, group: Group) -> None:
        label = self.rooms.label(group)
        reason = f" ({group.reason})" if group.reason else ""
        if group.state is RoomState.JOINED:
            self._explain_group(group)
        self.tickets.group_changed(group)
        cause = {"cause": (room_id(group), label)}
        told = event("group", room=label, state=str(group.state), reason=group.reason)
        log.info("%s: %s%s", label, group.state, reason, extra=cause | told)
        for peer in self._peers:
            if isinstance(peer.contact, Member) and peer.contact.group is group:
                self._name(peer)

    # Packets.

    def lossless(self, contact: Contact, data: bytes) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._first = self._first or contact
            self._engine.lossless(peer, data)

    def lossy(self, contact: Contact, data: bytes) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._first = self._first or contact
            self._engine.lossy(peer, data)

    def public(self, member: Member, data: bytes) -> None:
        """See Handler: it concerns this member alone, as if it had come to us only."""
        if peer := self._peers.of(member):
            self._engine.public(peer, data)

    def iterated(self) -> None:
        """See Handler."""
        if self._soon:
            soon, self._soon = self._soon, []
            for action in soon:
                survives("what a rule accepts", self._carry_out, action)
        if self.own.is_behind:
            survives("our own addresses", self.own.follow)
        now = current_time()
        if now >= self.tickets.due:
            survives("tickets", self.tickets.sweep, now)
        if now >= self.residents.due:
            survives("forgetting strangers", self.residents.sweep, now)
        self._engine.iterated()
        self._police()

    def _police(self) -> None:
        """Have less received of contacts that flood us."""
        if self._first is not None:
            self.client.policing.heard(self._first)
            self._first = None
        if (flooding := self._engine.flooding()) is not None:
            self.client.policing.judge({peer.contact for peer in flooding})

    def _carry_out(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (UserError, ToxError, LookupError) as error:
            log.warning("accepted by rule, but: %s", error, extra={"cause": ("rules", "contacts")})


def link_of(peer: Peer) -> Link:
    """How a contact is reached."""
    match peer.contact.connection:
        case Tox_Connection.TOX_CONNECTION_UDP:
            return "direct"
        case Tox_Connection.TOX_CONNECTION_TCP:
            return "relay"
    return "offline"
