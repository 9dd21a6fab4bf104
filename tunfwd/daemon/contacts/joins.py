"""The tickets that we have been given and have joined by, until their makers have let us in.

What a ticket names is accepted ahead, as standing acceptances, so that it is the same after a restart and
nothing else is accepted with it. What is left to do is here: claiming it of the contact, and for a private
group taking the contact's invitation. Used by tickets.py.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from tunfwd.common.errors import UserError
from tunfwd.common.ports import read_ports
from tunfwd.common.text import clean
from tunfwd.daemon.contacts.offers import Offers, Place, protocol_name
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.process.logs import caused_by
from tunfwd.daemon.storage.state import ContactId, Content, Join, group_id
from tunfwd.forwarding.flow import Origin
from tunfwd.forwarding.states import MappingState
from tunfwd.tox.contacts import Group, Invitation, RoomState
from tunfwd.wire.packets import Direction

MAX_JOINS: Final = 256  # that wait for an answer at once
CLAIM_AGAIN: Final = 10.0  # s; toxcore does not repeat an invitation that gets lost
KEPT: Final = 10.0  # s from the contact's yes, which it may forget if it is killed before it is on its disk
ASK_AGAIN: Final = 300.0  # s; toxcore asks again after 5, 10, 20 s and so on, as if nobody ever came back
MAX_REFUSED: Final = 64  # remembered, for their people to be told

log = logging.getLogger(__name__)


class Joins:
    """What we wait for."""

    def __init__(
        self,
        content: Content,
        offers: Offers,
        touch: Callable[[Peer], None],
        save: Callable[[], None],
    ) -> None:
        self._content = content
        self._offers = offers
        self._touch = touch
        self._save = save
        self._refused: dict[bytes, None] = {}  # tokens, the latest last
        self._claimed: dict[bytes, float] = {}  # when each was last claimed
        self._answered: dict[bytes, float] = {}  # when each was first found valid
        self._asked: dict[bytes, float] = {}  # when a friend request was last made for each

    # -- what a person does

    def require_room(self) -> None:
        """Raise UserError where there are too many."""
        if len(self._content.joins) >= MAX_JOINS:
            raise UserError("failed", f"{MAX_JOINS} tickets wait for an answer; remove friends who give none")

    def begin(self, peer: Peer, join: Join, ports: Sequence[Place], name: str) -> None:
        """Accept ahead what a ticket names, and claim it."""
        taken = self._offers.accept_ahead(peer, ports, name)
        join = replace(join, ports=[f"{port}/{protocol_name(protocol)}" for protocol, port in taken])
        self._content.joins = [*(one for one in self._content.joins if one.token != join.token), join]
        self._refused.pop(bytes.fromhex(join.token), None)
        self._save()
        self.restore(peer)

    def is_refused(self, token: bytes) -> bool:
        """Whether the maker of a ticket has said that it lets us in no longer."""
        return token in self._refused

    # -- contacts

    def restore(self, peer: Peer) -> None:
        """Go on with a contact in this run."""
        for join in self._of(peer.id):
            self._asked[bytes.fromhex(join.token)] = trio.current_time()
            self._claim(peer, join)

    def forget(self, contact: ContactId) -> None:
        """A contact is no more."""
        for join in self._of(contact):
            self._answered.pop(bytes.fromhex(join.token), None)
        kept = [join for join in self._content.joins if join.contact != contact]
        if len(kept) < len(self._content.joins):
            self._content.joins = kept
            self._save()

    def _of(self, contact: ContactId) -> list[Join]:
        return [join for join in self._content.joins if join.contact == contact]

    def _claim(self, peer: Peer, join: Join) -> None:
        token, now = bytes.fromhex(join.token), trio.current_time()
        self._claimed[token] = now
        peer.session.claim(token, now)
        self._touch(peer)

    def answered(self, peer: Peer, token: bytes, *, valid: bool) -> None:
        """A contact has said what a ticket of its is worth."""
        join = next((one for one in self._of(peer.id) if one.token == token.hex()), None)
        if join is None:
            peer.session.forget_claim(token)
        elif not valid:
            log.warning(
                "%s does not know our ticket, or no longer: it is spent, expired or revoked",
                peer.label,
                extra=caused_by(peer),
            )
            self._refused[token] = None
            if len(self._refused) > MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._end(peer, join)
            self._withdraw(peer, join)
        elif join.group is None and token not in self._answered:
            log.info("%s has let us in", peer.label, extra=caused_by(peer))
            self._answered[token] = trio.current_time()

    def _end(self, peer: Peer | None, join: Join) -> None:
        token = bytes.fromhex(join.token)
        self._content.joins = [one for one in self._content.joins if one != join]
        for times in (self._claimed, self._asked, self._answered):
            times.pop(token, None)
        if peer is not None:
            peer.session.forget_claim(token)
        self._save()

    def _withdraw(self, peer: Peer, join: Join) -> None:
        """Accept no longer what was not offered: another offer of the same is for a person to decide on."""
        ports = {(spec.protocol, spec.port) for text in join.ports for spec in read_ports(text)}
        for mapping in list(peer.session.mappings):
            place = mapping.protocol.name.lower(), mapping.port
            ours = mapping.origin is Origin.REMOTE and mapping.direction is Direction.SERVER
            if ours and place in ports and mapping.state is MappingState.WAITING:
                self._offers.end(peer, mapping)
        self._touch(peer)

    # -- groups

    def wants(self, invitation: Invitation) -> Join | None:
        """Return the join that an invitation answers: of that contact, into that group, and no other."""
        wanted = invitation.friend.key.hex().upper(), group_id(invitation.id)
        joins = self._content.joins
        return next((join for join in joins if (join.contact, join.group) == wanted), None)

    def group_changed(self, group: Group, peer_of: Callable[[ContactId], Peer | None]) -> None:
        """Who has come into a group waits for it no longer."""
        if group.state is RoomState.JOINED:
            for join in [one for one in self._content.joins if one.group == group_id(group.id)]:
                log.info("in the group %r, by a ticket", clean(group.name))
                self._end(peer_of(join.contact), join)

    def due(self, now: float, peer_of: Callable[[ContactId], Peer | None]) -> list[Join]:
        """Claim again, or end, what is due; return those whose contacts are to be asked again."""
        silent = []
        for join in list(self._content.joins):
            token, peer = bytes.fromhex(join.token), peer_of(join.contact)
            if peer is None:
                continue
            if peer.session.is_online:
                self._asked[token] = now
                if now - self._answered.get(token, now) >= KEPT:
                    self._end(peer, join)
                    continue
                if join.group is not None and now - self._claimed.get(token, now) >= CLAIM_AGAIN:
                    self._claim(peer, join)
            elif now - self._asked.setdefault(token, now) >= ASK_AGAIN:
                self._asked[token] = now
                silent.append(join)
        return silent
