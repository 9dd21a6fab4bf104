"""Both ends of a ticket, where they meet contacts: who comes by ours, and whom we have come to by theirs.

A ticket of ours is redeemed by a friend request, or, by who is a friend already, with a Claim; either makes
a friend of its bearer, offers what the ticket names, and invites into its group. Used by tracker.py, which
hears of all that, and by the commands.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

import trio

from tunfwd.common.errors import UserError
from tunfwd.common.ports import read_ports
from tunfwd.daemon.contacts.invites import Invites
from tunfwd.daemon.contacts.joins import Joins
from tunfwd.daemon.contacts.offers import Offers, protocol_named, read_service
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.daemon.process.logs import caused_by
from tunfwd.daemon.storage.state import ContactId, Content, Invite, Join, room_of
from tunfwd.forwarding.flow import Origin
from tunfwd.forwarding.states import MappingState
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Friend, FriendRequest, Group, Invitation, RoomState
from tunfwd.wire.packets import Direction, Protocol
from tunfwd.wire.ticket import write_message

Action = Callable[[], object]

SWEEP: Final = 1.0  # s between looks at what waits

log = logging.getLogger(__name__)


class Tickets:
    """What is given out, and what has been taken."""

    def __init__(
        self,
        client: Client,
        content: Content,
        save: Callable[[], None],
        offers: Offers,
        peers: Peers,
        touch: Callable[[Peer], None],
        added: Callable[[Friend], Peer],
        rename: Callable[[Group, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`touch` has a contact looked after soon, `added` makes a peer of a new friend, and `rename` calls a
        group as a person wishes; `clock` returns the seconds since 1970.
        """
        self.invites = Invites(content, save, clock)
        self.joins = Joins(content, offers, touch, save)
        self.blocked_requests = 0
        """Friend requests of keys that are blocked."""
        self._client = client
        self._content = content
        self._save = save
        self._offers = offers
        self._peers = peers
        self._touch = touch
        self._added = added
        self._rename = rename
        self.due = -inf
        """When `sweep` is to be called, on trio's clock."""

    def peer_of(self, contact: ContactId) -> Peer | None:
        """Return a friend by its id."""
        friend = self._client.friends.get(bytes.fromhex(contact)) if "/" not in contact else None
        return None if friend is None else self._peers.of(friend)

    # -- whom we want nothing of

    @property
    def blocked(self) -> dict[str, str]:
        """The keys whose requests are dropped, with what their owners were called."""
        return self._content.blocked

    def is_blocked(self, key: bytes) -> bool:
        """Whether a key's requests are dropped."""
        return key.hex().upper() in self._content.blocked

    def block(self, key: bytes, name: str) -> None:
        """Drop a key's requests from now on, whatever they come with."""
        self._content.blocked[key.hex().upper()] = name
        self._save()

    def unblock(self, key: str) -> None:
        """Take a key's requests again."""
        del self._content.blocked[key]
        self._save()

    # -- who comes by a ticket of ours

    def decide(self, request: FriendRequest) -> Action | None:
        """Return what is to be done about a friend request; None where that is for a rule or a person to say.

        It may not be done from within toxcore's iteration.
        """
        if self.is_blocked(request.key):
            self.blocked_requests += 1
            return _nothing
        if request.token is None:
            return None
        key = request.key.hex().upper()
        judgement = self.invites.judge(key, request.token, trio.current_time())
        if judgement.verdict != "valid":
            log.info(
                "%s comes with a ticket that is %s: left to you",
                key,
                judgement.verdict,
                extra={"cause": ("strangers", "strangers")},
            )
            return None
        invite = judgement.invite
        assert invite is not None
        return lambda: self._befriend(request, invite)

    def _befriend(self, request: FriendRequest, invite: Invite) -> None:
        try:
            friend = self._client.friends.add_key(request.key)
        except ToxError:
            self._client.friends.hold(request)
            raise
        self._redeem(self._added(friend), invite)

    def claimed(self, peer: Peer, token: bytes) -> None:
        """A friend has a ticket of ours, or says so."""
        now = trio.current_time()
        judgement = self.invites.judge(peer.key, token, now)
        if judgement.verdict == "unread":
            return  # it has guessed enough, and is not told more
        valid = judgement.verdict == "valid"
        if valid:
            assert judgement.invite is not None
            self._redeem(peer, judgement.invite)
        else:
            log.info("%s claims a ticket that is %s", peer.label, judgement.verdict, extra=caused_by(peer))
        peer.session.answer_claim(token, now, valid=valid)
        self._touch(peer)

    def _redeem(self, peer: Peer, invite: Invite) -> None:
        """Let in who comes by an invite, once or again."""
        first = self.invites.let_in(invite, peer.id)
        if first:
            by = caused_by(peer, "joined", invite=invite.id)
            log.info("%s has joined by the invite %s", peer.label, invite.id, extra=by)
        for text in invite.ports:
            for spec in read_ports(text):
                self._offer(peer, invite, protocol_named(spec.protocol), spec.port, first=first)
        if invite.group is not None:
            self._invite(peer, invite.group)
        self._touch(peer)

    def _offer(self, peer: Peer, invite: Invite, protocol: Protocol, port: int, *, first: bool) -> None:
        """Offer a port; what the contact had declined and now wants, again. What was killed here stays so."""
        standing = next(
            (
                mapping
                for mapping in peer.session.mappings
                if (mapping.origin, mapping.direction) == (Origin.LOCAL, Direction.SERVER)
                and (mapping.protocol, mapping.port) == (protocol, port)
            ),
            None,
        )
        declined = standing is not None and standing.state is MappingState.DECLINED
        if standing is not None and declined:
            self._offers.end(peer, standing)
        if declined or (standing is None and first):
            try:
                target = read_service(invite.target)
                self._offers.offer(peer, protocol, port, invite.name, target, invite.source)
            except UserError as error:
                log.warning("%s", error.message, extra=caused_by(peer))

    def _invite(self, peer: Peer, group_id: ContactId) -> None:
        """Invite a friend who is there into a group; who is not claims the ticket when it comes."""
        group = self._client.groups.get(room_of(group_id))
        if group is None or not isinstance(peer.contact, Friend) or not peer.contact.online:
            return
        try:
            self._client.groups.invite(group, peer.contact)
        except ToxError as error:
            log.warning("%s cannot be invited: %s", peer.label, error, extra=caused_by(peer))

    # -- whom we have come to

    def answered(self, peer: Peer, token: bytes, valid: bool) -> None:
        """A contact has said what a ticket of its is worth."""
        self.joins.answered(peer, token, valid=valid)

    def invited(self, invitation: Invitation) -> Action | None:
        """Return what is to be done about an invitation that a ticket has promised; None for all others."""
        join = self.joins.wants(invitation)
        if join is None:
            return None
        group = self._client.groups.get(invitation.id)
        if group is not None and group.state is RoomState.JOINED:
            return _nothing
        return lambda: self._enter(invitation, join)

    def _enter(self, invitation: Invitation, join: Join) -> None:
        group = self._client.groups.accept(invitation.id, join.password)
        if join.group_name is not None:
            self._rename(group, join.group_name)

    def group_changed(self, group: Group) -> None:
        """Whether we are in a group has changed."""
        self.joins.group_changed(group, self.peer_of)

    def sweep(self, now: float) -> None:
        """Go on with what waits for others."""
        if now < self.due:
            return
        self.due = now + SWEEP
        for join in self.joins.due(now, self.peer_of):
            peer = self.peer_of(join.contact)
            if peer is not None and isinstance(peer.contact, Friend) and not peer.contact.online:
                with suppress(ToxError):
                    self._client.friends.ask(
                        peer.contact, bytes.fromhex(join.address), self.message(bytes.fromhex(join.token))
                    )

    def message(self, token: bytes) -> str:
        """Return the message of a friend request that comes with a ticket."""
        return write_message(token, f"tunfwd of {self._client.name}")


def _nothing() -> None:
    """What is to be done about what is not wanted."""
