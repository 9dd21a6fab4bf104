"""What the control socket can ask about groups and conferences.

Most of it is the same for both; each handler is registered once a kind.
"""

from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX, harmless
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.contacts.rooms import ID_DIGITS, id_text, room_id
from tunfwd.daemon.contacts.tracker import ContactTracker, link_of
from tunfwd.daemon.peers import NO_ADDRESS, Peer, Peers
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.contacts import (
    Conference,
    ConferenceMember,
    ContactOffline,
    Friend,
    Group,
    Invitation,
    Member,
    Room,
    RoomKind,
    RoomState,
)
from tunfwd.tox.rooms import RoomList

FORGOTTEN: Final = 0.5  # s within which toxcore has forgotten a group

_STATES: Final[dict[RoomState, api.RoomState]] = {
    RoomState.JOINING: "connecting",
    RoomState.JOINED: "online",
    RoomState.LOST: "lost",
}


class RoomCommands:
    """The handlers of `group.*` and `conference.*`."""

    def __init__(self, contacts: ContactTracker, peers: Peers) -> None:
        self._client = contacts.client
        self._contacts = contacts
        self._peers = peers
        self._rooms = contacts.rooms

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.GROUP_CREATE, self._create_group)
        dispatcher.add(api.GROUP_JOIN, self._join_group)
        dispatcher.add(api.GROUP_RENAME, self._rename)
        dispatcher.add(api.GROUP_INVITE, partial(self._invite, "group"))
        dispatcher.add(api.GROUP_LIST, partial(self._list, "group"))
        dispatcher.add(api.GROUP_PEERS, partial(self._members, "group"))
        dispatcher.add(api.GROUP_KICK, self._kick)
        dispatcher.add(api.GROUP_LEAVE, partial(self._leave, "group"))
        dispatcher.add(api.CONFERENCE_CREATE, self._create_conference)
        dispatcher.add(api.CONFERENCE_JOIN, self._join_conference)
        dispatcher.add(api.CONFERENCE_INVITE, partial(self._invite, "conference"))
        dispatcher.add(api.CONFERENCE_LIST, partial(self._list, "conference"))
        dispatcher.add(api.CONFERENCE_PEERS, partial(self._members, "conference"))
        dispatcher.add(api.CONFERENCE_LEAVE, partial(self._leave, "conference"))

    def entries(self) -> list[api.GroupEntry]:
        """Return every room and every invitation, as `status` lists them."""
        invitations = self._client.groups.invitations + self._client.conferences.invitations
        return [*map(self.entry, self._rooms), *map(self._invitation_entry, invitations)]

    def _known(self, kind: RoomKind) -> RoomList[Any]:
        return self._client.groups if kind == "group" else self._client.conferences

    # How we get into a room.

    async def _create_group(self, params: api.GroupCreate) -> api.GroupResult:
        try:
            group = self._client.groups.create(
                params.name, public=params.public, password=params.password or ""
            )
        except ToxError as error:
            raise UserError("failed", f"the group cannot be created: {error}") from None
        self._name_if_free(group, params.name)
        return self._result(group)

    async def _create_conference(self, params: api.ConferenceCreate) -> api.GroupResult:
        try:
            conference = self._client.conferences.create(params.name)
        except ToxError as error:
            raise UserError("failed", f"the conference cannot be created: {error}") from None
        self._name_if_free(conference, params.name)
        return self._result(conference)

    def _name_if_free(self, room: Room, name: str) -> None:
        """Have a new room called as a person says; one of several of that name gets a suffix."""
        with suppress(UserError):
            self._contacts.rename_room(room, name)

    async def _join_group(self, params: api.GroupJoin) -> api.GroupResult:
        groups, password, name = self._client.groups, params.password or "", params.name
        invitation = self._invitation(params.group, "group")
        again = params.password is not None
        chat_id = self._chat_id(params.group, again=again) if invitation is None else invitation.id
        if name is not None:
            self._rooms.require_free(name, "group", groups.get(chat_id))
        trying = groups.get(chat_id)
        if invitation is None and trying is not None and trying.state is RoomState.JOINING:
            groups.give_up(trying)  # with another password, perhaps, and nobody has said yet that it is wrong
            await trio.sleep(FORGOTTEN)
        try:
            group = (groups.join if invitation is None else groups.accept)(chat_id, password)
        except ToxError as error:
            raise UserError("failed", f"the group cannot be joined: {error}") from None
        if name is not None:
            self._contacts.rename_room(group, name)
        elif invitation is not None and params.group == invitation.name == harmless(params.group, ""):
            self._name_if_free(group, params.group)  # a person typed it
        return self._result(group)

    def _chat_id(self, text: str, *, again: bool) -> bytes:
        """Return the id of a group that we are not in, or have lost, or try `again` to be in."""
        try:
            chat_id = bytes.fromhex(text)
        except ValueError:
            chat_id = b""
        known: Room | None
        if len(chat_id) == 32:
            known = self._client.groups.get(chat_id)
        else:
            try:
                known = self._rooms.find(text, "group")
            except UserError:
                raise UserError(
                    "not_found", f"no invitation {text!r}, and it is not a chat id of 64 hex digits"
                ) from None
        if known is None:
            return chat_id
        label = self._rooms.label(known)
        if known.state is RoomState.JOINED:
            raise UserError("failed", f"we are in {label} already")
        if known.state is RoomState.JOINING and not again:
            raise UserError(
                "failed",
                f"we are joining {label}: none of its members has let us in yet. If it has a password: "
                f"`tunfwd group join {text} --password-file FILE`",
            )
        return known.id

    async def _join_conference(self, params: api.Group) -> api.GroupResult:
        invitation = self._invitation(params.group, "conference")
        if invitation is None:
            raise UserError("not_found", f"no invitation {params.group!r}; see `tunfwd conference list`")
        try:
            return self._result(self._client.conferences.accept(invitation.id))
        except ToxError as error:
            raise UserError("failed", f"the conference cannot be joined: {error}") from None

    # What is done in one.

    async def _rename(self, params: api.GroupRename) -> api.GroupResult:
        group = self._rooms.find(params.group, "group")
        self._contacts.require_free(room_id(group))
        self._contacts.rename_room(group, params.to)
        return self._result(group)

    async def _invite(self, kind: RoomKind, params: api.Invite) -> api.GroupResult:
        room = self._rooms.find(params.group, kind)
        friend = self._friend(params.friend)
        try:
            self._known(kind).invite(room, friend)
        except ToxError as error:
            raise UserError("failed", f"{params.friend} cannot be invited: {error}") from None
        return self._result(room)

    def _friend(self, text: str) -> Friend:
        peer = self._peers.find(text)
        if not isinstance(peer.contact, Friend):
            raise UserError("usage", f"{peer.label} is not a friend: only friends can be invited")
        if not peer.contact.online:
            raise UserError("offline", f"{peer.label} is offline")
        return peer.contact

    async def _kick(self, params: api.Kick) -> api.GroupResult:
        group = self._rooms.find(params.group, "group")
        peer = self._peers.find(f"group:{self._rooms.name(group)}/{params.member}")
        assert isinstance(peer.contact, Member)
        try:
            self._client.groups.kick(peer.contact)
        except ContactOffline:
            raise UserError("offline", f"{peer.label} is not there") from None
        except ToxError as error:
            raise UserError("denied", f"{peer.label} cannot be kicked: {error}") from None
        return self._result(group)

    async def _leave(self, kind: RoomKind, params: api.Group) -> api.GroupResult:
        known = self._known(kind)
        if invitation := self._invitation(params.group, kind):
            entry = self._invitation_entry(invitation)
            known.decline(invitation.id)
            return {"group": entry}
        room = self._rooms.find(params.group, kind)
        self._contacts.require_free(room_id(room))
        result = self._result(room)
        known.leave(room)
        return result

    # What is to be seen.

    async def _list(self, kind: RoomKind, _: api.Nothing) -> api.GroupsResult:
        return {"groups": [entry for entry in self.entries() if entry["kind"] == kind]}

    async def _members(self, kind: RoomKind, params: api.Group) -> api.MembersResult:
        room = self._rooms.find(params.group, kind)
        peers = {peer.contact.key: peer for peer in self._rooms.members(room)}
        if isinstance(room, Conference):
            entries = [
                _member_entry(peer) if (peer := peers.get(member.key)) else _unreachable_entry(member)
                for member in room.members
            ]
        else:
            entries = list(map(_member_entry, peers.values()))
        result: api.MembersResult = {"group": self.entry(room), "peers": entries}
        if isinstance(room, Group) and (own := self._contacts.own.in_group(room)) is not None:
            result["self"] = {
                "name": self._client.name,
                "public_key": room.self_key.hex().upper(),
                "address": None if own.address is None else str(own.address),
                "address6": str(own.address6),
                "role": room.role,
            }
        return result

    def _invitation(self, text: str, kind: RoomKind) -> Invitation | None:
        """Return the invitation that a person means: by name, inviter, or the beginning of the id."""
        entries = [(held, self._invitation_entry(held)) for held in self._known(kind).invitations]
        found = (
            [invitation for invitation, entry in entries if text == entry["name"]]
            or [invitation for invitation, entry in entries if text == entry["inviter"]]
            or [i for i, entry in entries if len(text) >= KEY_PREFIX and entry["id"].startswith(text.upper())]
        )
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)} invitations; give an id")
        return found[0] if found else None

    def _result(self, room: Room) -> api.GroupResult:
        return {"group": self.entry(room)}

    def entry(self, room: Room) -> api.GroupEntry:
        """Return a room as results have it."""
        return {
            "name": self._rooms.name(room),
            "id": id_text(room),
            "kind": room.kind,
            "state": _STATES[room.state],
            "public": room.public,
            "members": room.present,
            "reason": clean(room.reason) or None,
            "inviter": None,
        }

    def _invitation_entry(self, invitation: Invitation) -> api.GroupEntry:
        peer, identifier = self._peers.of(invitation.friend), invitation.id.hex().upper()
        return {
            "name": invitation.name or identifier[:ID_DIGITS].lower(),
            "id": identifier,
            "kind": invitation.kind,
            "state": "invited",
            "public": False,
            "members": 0,
            "reason": None,
            "inviter": peer.name if peer is not None else invitation.friend.key.hex().upper(),
        }


def _member_entry(peer: Peer) -> api.MemberEntry:
    return {
        "name": peer.name,
        "public_key": peer.key,
        "address": peer.shown_address,
        "address6": str(peer.address6),
        "link": link_of(peer),
        "reachable": True,
        "advice": NO_ADDRESS if peer.address is None else None,
    }


def _unreachable_entry(member: ConferenceMember) -> api.MemberEntry:
    key = member.key.hex().upper()
    return {
        "name": member.name or key[:ID_DIGITS].lower(),
        "public_key": key,
        "address": None,
        "address6": None,
        "link": "offline",
        "reachable": False,
        "advice": "not a friend; ask for their Tox address, then: tunfwd friend add ADDRESS",
    }
