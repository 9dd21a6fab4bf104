"""Conferences: people known by their long-term keys, of whom the friends can be sent to.

Fed by client.py with toxcore's events about conferences; tells the handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunfwd.common.text import clean_bytes as clean
from tunfwd.tox.binding.enums import Tox_Conference_Type
from tunfwd.tox.binding.errors import ConferenceTitleInvalidLength

if TYPE_CHECKING:
    from tunfwd.tox.binding.instance import Tox_Ptr
    from tunfwd.tox.contacts import Friend
    from tunfwd.tox.handler import Handler

log = logging.getLogger(__name__)

MAX_INVITATIONS = 32  # of one friend; the oldest gives way
NAME_LIMIT = 128


class NoSuchConferenceInvitation(LookupError):
    """We are not invited there."""


@dataclass(frozen=True, slots=True)
class ConferenceInvitation:
    """A friend invites us to a conference."""

    id: bytes
    friend: Friend
    cookie: bytes


@dataclass(frozen=True, slots=True)
class ConferenceMember:
    """Someone in a conference."""

    key: bytes
    """The long-term public key."""
    name: str
    online: bool


class Conference:
    """A conference we are in."""

    def __init__(self, number: int, identifier: bytes) -> None:
        self.number = number
        self.id = identifier
        self.title = ""
        self.connected = False
        """Whether a member could be reached since the start, or we are alone in it."""
        self.members: tuple[ConferenceMember, ...] = ()
        """Without us; those who are not there come last."""

    def __repr__(self) -> str:
        return f"<conference {self.id.hex()[:8]} {self.title!r} {len(self.members)}>"


class Conferences:
    """The conferences we are in, and the invitations to others."""

    def __init__(self, tox: Tox_Ptr, handler: Handler, save: Callable[[], object], own_key: bytes) -> None:
        self._tox = tox
        self._handler = handler
        self._save = save
        self._own_key = own_key
        self._by_number: dict[int, Conference] = {}
        self._invitations: dict[bytes, ConferenceInvitation] = {}
        self.dropped_invitations = 0
        """Invitations that gave way to newer ones of the same friend."""
        for number in tox.conference_chatlist:
            self._know(number)

    def __iter__(self) -> Iterator[Conference]:
        return iter(list(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, identifier: bytes) -> Conference | None:
        """Find a conference by its id."""
        return next((conference for conference in self if conference.id == identifier), None)

    @property
    def invitations(self) -> list[ConferenceInvitation]:
        """Where friends invite us to, oldest first; at most 32 of each, gone with the process."""
        return list(self._invitations.values())

    # What a person, or a rule, decides

    def create(self, title: str) -> Conference:
        """Create a conference. Raises errors.ConferenceNew…, errors.ConferenceTitle…."""
        number = self._tox.conference_new()
        if title:
            self._tox.conference_set_title(number, title.encode())
        return self._added(number, connected=True)

    def invite(self, conference: Conference, friend: Friend) -> None:
        """Invite a friend who is online. Raises errors.ConferenceInvite…."""
        self._tox.conference_invite(friend.number, conference.number)

    def accept(self, identifier: bytes) -> Conference:
        """Accept an invitation. Raises NoSuchConferenceInvitation, errors.ConferenceJoin…."""
        invitation = self._invitations.get(identifier)
        if invitation is None:
            raise NoSuchConferenceInvitation(f"no invitation to {identifier.hex().upper()} is pending")
        number = self._tox.conference_join(invitation.friend.number, invitation.cookie)
        del self._invitations[identifier]
        return self._added(number, connected=False)

    def decline(self, identifier: bytes) -> None:
        """Forget an invitation. Raises NoSuchConferenceInvitation."""
        if self._invitations.pop(identifier, None) is None:
            raise NoSuchConferenceInvitation(f"no invitation to {identifier.hex().upper()} is pending")

    def leave(self, conference: Conference) -> None:
        """Leave a conference."""
        self._tox.conference_delete(conference.number)
        del self._by_number[conference.number]
        conference.members = ()
        conference.connected = False
        self._handler.conference_changed(conference)
        self._save()

    def _added(self, number: int, *, connected: bool) -> Conference:
        conference = self._know(number)
        conference.connected = connected
        self._save()
        return conference

    def _know(self, number: int) -> Conference:
        conference = self._by_number[number] = Conference(number, self._tox.conference_get_id(number))
        self._look(conference)
        return conference

    # toxcore's events

    def on_invite(self, friend: Friend, kind: Tox_Conference_Type, cookie: bytes) -> None:
        """Hold an invitation; a newer one to the same conference replaces it."""
        if kind != Tox_Conference_Type.TOX_CONFERENCE_TYPE_TEXT:
            name = friend.nickname or friend.key.hex()[:8]
            log.info(
                "%s invites to a call, which is ignored", name, extra={"cause": (friend.key.hex(), name)}
            )
            return
        identifier = cookie[3:35]  # after the inviter's number for it, and its type
        self._invitations.pop(identifier, None)
        invitation = self._invitations[identifier] = ConferenceInvitation(identifier, friend, cookie)
        theirs = [held.id for held in self._invitations.values() if held.friend is friend]
        if len(theirs) > MAX_INVITATIONS:
            del self._invitations[theirs[0]]
            self.dropped_invitations += 1
        self._handler.conference_invitation(invitation)

    def on_connected(self, number: int) -> None:
        """Note that we are in."""
        conference = self._by_number.get(number) or self._know(number)
        conference.connected = True
        self.on_changed(number)

    def on_changed(self, number: int) -> None:
        """Note who is there, and under which title."""
        if conference := self._by_number.get(number):
            self._look(conference)
            self._handler.conference_changed(conference)

    def _look(self, conference: Conference) -> None:
        tox, number = self._tox, conference.number
        try:
            conference.title = clean(tox.conference_get_title(number), NAME_LIMIT)
        except ConferenceTitleInvalidLength:
            conference.title = ""
        here = [
            ConferenceMember(
                tox.conference_peer_get_public_key(number, peer),
                clean(tox.conference_get_peer_name(number, peer), NAME_LIMIT),
                online=True,
            )
            for peer in range(tox.conference_get_peer_count(number))
        ]
        away = [
            ConferenceMember(
                tox.conference_offline_peer_get_public_key(number, peer),
                clean(tox.conference_offline_peer_get_name(number, peer), NAME_LIMIT),
                online=False,
            )
            for peer in range(tox.conference_get_offline_peer_count(number))
        ]
        members = {member.key: member for member in away + here}  # who is here counts, if in both
        members.pop(self._own_key, None)
        conference.members = tuple(sorted(members.values(), key=lambda member: not member.online))
