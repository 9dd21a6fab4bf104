"""Conferences: people known by their long-term keys, of whom the friends can be sent to.

Fed by client.py with toxcore's events about conferences; tells the handler.
"""

import logging
from collections.abc import Callable

from tunfwd.common.text import clean_bytes as clean
from tunfwd.tox.binding.enums import Tox_Conference_Type
from tunfwd.tox.binding.errors import ConferenceTitleInvalidLength
from tunfwd.tox.binding.instance import Tox_Ptr
from tunfwd.tox.contacts import NAME_LIMIT, Conference, ConferenceMember, Friend, Invitation, RoomState
from tunfwd.tox.handler import Handler
from tunfwd.tox.rooms import RoomList

log = logging.getLogger(__name__)


class Conferences(RoomList[Conference]):
    """The conferences we are in, and the invitations to others."""

    def __init__(self, tox: Tox_Ptr, handler: Handler, save: Callable[[], object], own_key: bytes) -> None:
        super().__init__()
        self._tox = tox
        self._handler = handler
        self._save = save
        self._own_key = own_key
        for number in tox.conference_chatlist:
            self._register(number, RoomState.JOINING)

    # What a person, or a rule, decides

    def create(self, title: str) -> Conference:
        """Create a conference. Raises errors.ConferenceNew…, errors.ConferenceTitle…."""
        number = self._tox.conference_new()
        if title:
            self._tox.conference_set_title(number, title.encode())
        return self._added(number, RoomState.JOINED)

    def invite(self, room: Conference, friend: Friend) -> None:
        """Invite a friend who is online. Raises errors.ConferenceInvite…."""
        self._tox.conference_invite(friend.number, room.number)

    def accept(self, identifier: bytes) -> Conference:
        """Accept an invitation. Raises NoSuchInvitation, errors.ConferenceJoin…."""
        invitation = self._pending(identifier)
        number = self._tox.conference_join(invitation.friend.number, invitation.data)
        del self._invited[identifier]
        return self._added(number, RoomState.JOINING)

    def leave(self, room: Conference) -> None:
        """Leave a room."""
        self._tox.conference_delete(room.number)
        del self._by_number[room.number]
        room.members = ()
        room.state = RoomState.LOST
        room.reason = "left"
        self._handler.room_changed(room)
        self._save()

    def _added(self, number: int, state: RoomState) -> Conference:
        conference = self._register(number, state)
        self._save()
        return conference

    def _register(self, number: int, state: RoomState) -> Conference:
        conference = Conference(number, self._tox.conference_get_id(number), state)
        self._by_number[number] = conference
        self._refresh(conference)
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
        invitation = Invitation("conference", identifier, "", friend, cookie)
        self._hold(invitation)
        self._handler.invitation(invitation)

    def on_connected(self, number: int) -> None:
        """Note that we are in."""
        conference = self._by_number.get(number) or self._register(number, RoomState.JOINING)
        conference.state = RoomState.JOINED
        self.on_changed(number)

    def on_changed(self, number: int) -> None:
        """Note who is there, and under which title."""
        if conference := self._by_number.get(number):
            self._refresh(conference)
            self._handler.room_changed(conference)

    def _refresh(self, conference: Conference) -> None:
        tox, number = self._tox, conference.number
        try:
            conference.name = clean(tox.conference_get_title(number), NAME_LIMIT)
        except ConferenceTitleInvalidLength:
            conference.name = ""
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
