"""What the control socket can ask about groups and conferences."""

from contextlib import suppress
from typing import TypeVar

from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX, harmless
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.contacts.rooms import ID_DIGITS, Room, Rooms, id_text
from tunfwd.daemon.contacts.tracker import Contacts, link_of
from tunfwd.daemon.peers import NO_ADDRESS, Peer, Peers
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.client import Client
from tunfwd.tox.conferences import Conference, ConferenceInvitation
from tunfwd.tox.contacts import ContactOffline, Friend, Member
from tunfwd.tox.groups import Group, GroupInvitation, State

_STATES: dict[State, api.RoomState] = {
    State.JOINING: "connecting",
    State.JOINED: "online",
    State.LOST: "lost",
}

Invitation = GroupInvitation | ConferenceInvitation
AnyInvitation = TypeVar("AnyInvitation", GroupInvitation, ConferenceInvitation)


class RoomCommands:
    """The handlers of `group.*` and `conference.*`."""

    def __init__(self, client: Client, contacts: Contacts, peers: Peers, rooms: Rooms) -> None:
        self._client = client
        self._contacts = contacts
        self._peers = peers
        self._rooms = rooms

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.GROUP_CREATE, self._group_create)
        dispatcher.add(api.GROUP_JOIN, self._group_join)
        dispatcher.add(api.GROUP_RENAME, self._group_rename)
        dispatcher.add(api.GROUP_INVITE, self._group_invite)
        dispatcher.add(api.GROUP_LIST, self._group_list)
        dispatcher.add(api.GROUP_PEERS, self._group_peers)
        dispatcher.add(api.GROUP_KICK, self._group_kick)
        dispatcher.add(api.GROUP_LEAVE, self._group_leave)
        dispatcher.add(api.CONFERENCE_CREATE, self._conference_create)
        dispatcher.add(api.CONFERENCE_JOIN, self._conference_join)
        dispatcher.add(api.CONFERENCE_INVITE, self._conference_invite)
        dispatcher.add(api.CONFERENCE_LIST, self._conference_list)
        dispatcher.add(api.CONFERENCE_PEERS, self._conference_peers)
        dispatcher.add(api.CONFERENCE_LEAVE, self._conference_leave)

    def entries(self) -> list[api.GroupEntry]:
        """Return every room and every invitation, as `status` lists them."""
        return [
            *map(self._entry, self._rooms),
            *map(self._invitation_entry, self._client.groups.invitations),
            *map(self._invitation_entry, self._client.conferences.invitations),
        ]

    # Groups.

    async def _group_create(self, params: api.GroupCreate) -> api.GroupResult:
        try:
            group = self._client.groups.create(
                params.name, public=params.public, password=params.password or ""
            )
        except ToxError as error:
            raise UserError("failed", f"the group cannot be founded: {error}") from None
        self._name_if_free(group, params.name)
        return {"group": self._entry(group)}

    def _name_if_free(self, room: Room, name: str) -> None:
        """Have a new room called as a person says; one of several of that name gets a suffix."""
        with suppress(UserError):
            self._contacts.rename_room(room, name)

    async def _group_join(self, params: api.GroupJoin) -> api.GroupResult:
        groups, password, name = self._client.groups, params.password or "", params.name
        invitation = self._invitation(params.group, groups.invitations)
        chat_id = self._chat_id(params.group) if invitation is None else invitation.chat_id
        if name is not None:
            self._rooms.require_free(name, Group, groups.get(chat_id))
        try:
            group = (groups.join if invitation is None else groups.accept)(chat_id, password)
        except ToxError as error:
            raise UserError("failed", f"the group cannot be joined: {error}") from None
        if name is not None:
            self._contacts.rename_room(group, name)
        elif invitation is not None and params.group == invitation.name == harmless(params.group, ""):
            self._name_if_free(group, params.group)  # a person typed it
        return {"group": self._entry(group)}

    async def _group_rename(self, params: api.GroupRename) -> api.GroupResult:
        group = self._group(params.group)
        self._contacts.rename_room(group, params.to)
        return {"group": self._entry(group)}

    def _chat_id(self, text: str) -> bytes:
        try:
            chat_id = bytes.fromhex(text)
        except ValueError:
            chat_id = b""
        if len(chat_id) == 32:
            group = self._client.groups.get(chat_id)
            if group is not None and group.state is not State.LOST:
                raise UserError("failed", f"we are in {self._rooms.label(group)} already")
            return chat_id
        try:
            lost = self._group(text)
        except UserError:
            raise UserError(
                "not_found", f"no invitation {text!r}, and it is no chat id of 64 hex digits"
            ) from None
        if lost.state is not State.LOST:
            raise UserError("failed", f"we are in {self._rooms.label(lost)} already")
        return lost.chat_id

    async def _group_invite(self, params: api.Invite) -> api.GroupResult:
        group = self._group(params.group)
        friend = self._friend(params.friend)
        try:
            self._client.groups.invite(group, friend)
        except ToxError as error:
            raise UserError("failed", f"{params.friend} cannot be invited: {error}") from None
        return {"group": self._entry(group)}

    async def _group_list(self, _: api.Nothing) -> api.GroupsResult:
        return {"groups": [entry for entry in self.entries() if entry["kind"] == "group"]}

    async def _group_peers(self, params: api.Group) -> api.MembersResult:
        group = self._group(params.group)
        return {"group": self._entry(group), "peers": list(map(_member_entry, self._rooms.members(group)))}

    async def _group_kick(self, params: api.Kick) -> api.GroupResult:
        group = self._group(params.group)
        peer = self._peers.find(f"group:{self._rooms.name(group)}/{params.member}")
        assert isinstance(peer.contact, Member)
        try:
            self._client.groups.kick(peer.contact)
        except ContactOffline:
            raise UserError("offline", f"{peer.label} is not there") from None
        except ToxError as error:
            raise UserError("denied", f"{peer.label} cannot be put out: {error}") from None
        return {"group": self._entry(group)}

    async def _group_leave(self, params: api.Group) -> api.GroupResult:
        if invitation := self._invitation(params.group, self._client.groups.invitations):
            entry = self._invitation_entry(invitation)
            self._client.groups.decline(invitation.chat_id)
            return {"group": entry}
        group = self._group(params.group)
        entry = self._entry(group)
        self._client.groups.leave(group)
        return {"group": entry}

    def _group(self, text: str) -> Group:
        group = self._rooms.find(text, Group)
        assert isinstance(group, Group)
        return group

    # Conferences.

    async def _conference_create(self, params: api.ConferenceCreate) -> api.GroupResult:
        try:
            conference = self._client.conferences.create(params.name)
        except ToxError as error:
            raise UserError("failed", f"the conference cannot be founded: {error}") from None
        self._name_if_free(conference, params.name)
        return {"group": self._entry(conference)}

    async def _conference_join(self, params: api.Group) -> api.GroupResult:
        conferences = self._client.conferences
        invitation = self._invitation(params.group, conferences.invitations)
        if invitation is None:
            raise UserError("not_found", f"no invitation {params.group!r}; see `tunfwd conference list`")
        try:
            return {"group": self._entry(conferences.accept(invitation.id))}
        except ToxError as error:
            raise UserError("failed", f"the conference cannot be joined: {error}") from None

    async def _conference_invite(self, params: api.Invite) -> api.GroupResult:
        conference = self._conference(params.group)
        friend = self._friend(params.friend)
        try:
            self._client.conferences.invite(conference, friend)
        except ToxError as error:
            raise UserError("failed", f"{params.friend} cannot be invited: {error}") from None
        return {"group": self._entry(conference)}

    async def _conference_list(self, _: api.Nothing) -> api.GroupsResult:
        return {"groups": [entry for entry in self.entries() if entry["kind"] == "conference"]}

    async def _conference_peers(self, params: api.Group) -> api.MembersResult:
        conference = self._conference(params.group)
        friends = {peer.contact.key: peer for peer in self._rooms.members(conference)}
        members: list[api.MemberEntry] = []
        for member in conference.members:
            key = member.key.hex().upper()
            if peer := friends.get(member.key):
                members.append(_member_entry(peer))
            else:
                members.append(
                    {
                        "name": member.name or key[:ID_DIGITS].lower(),
                        "public_key": key,
                        "address": None,
                        "address6": None,
                        "link": "offline",
                        "reachable": False,
                        "advice": "no friend; ask for their Tox address, then: tunfwd friend add ADDRESS",
                    }
                )
        return {"group": self._entry(conference), "peers": members}

    async def _conference_leave(self, params: api.Group) -> api.GroupResult:
        conferences = self._client.conferences
        if invitation := self._invitation(params.group, conferences.invitations):
            entry = self._invitation_entry(invitation)
            conferences.decline(invitation.id)
            return {"group": entry}
        conference = self._conference(params.group)
        entry = self._entry(conference)
        conferences.leave(conference)
        return {"group": entry}

    def _conference(self, text: str) -> Conference:
        conference = self._rooms.find(text, Conference)
        assert isinstance(conference, Conference)
        return conference

    # Both.

    def _friend(self, text: str) -> Friend:
        peer = self._peers.find(text)
        if not isinstance(peer.contact, Friend):
            raise UserError("usage", f"{peer.label} is no friend: only friends can be invited")
        if not peer.contact.online:
            raise UserError("offline", f"{peer.label} is offline")
        return peer.contact

    def _invitation(self, text: str, invitations: list[AnyInvitation]) -> AnyInvitation | None:
        """Return the invitation that a person means: by name, inviter, or the beginning of the id."""
        entries = [(invitation, self._invitation_entry(invitation)) for invitation in invitations]
        found = (
            [invitation for invitation, entry in entries if text == entry["name"]]
            or [invitation for invitation, entry in entries if text == entry["inviter"]]
            or [i for i, entry in entries if len(text) >= KEY_PREFIX and entry["id"].startswith(text.upper())]
        )
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)} invitations; give an id")
        return found[0] if found else None

    def _entry(self, room: Room) -> api.GroupEntry:
        if isinstance(room, Group):
            online = room.by_peer
            return {
                "name": self._rooms.name(room),
                "id": id_text(room),
                "kind": "group",
                "state": _STATES[room.state],
                "public": room.public,
                "members": len(online),
                "reason": clean(room.reason) or None,
                "inviter": None,
            }
        return {
            "name": self._rooms.name(room),
            "id": id_text(room),
            "kind": "conference",
            "state": "online" if room.connected else "connecting",
            "public": False,
            "members": sum(member.online for member in room.members),
            "reason": None,
            "inviter": None,
        }

    def _invitation_entry(self, invitation: Invitation) -> api.GroupEntry:
        peer = self._peers.of(invitation.friend)
        if isinstance(invitation, GroupInvitation):
            kind, name, identifier = "group", invitation.name, invitation.chat_id.hex().upper()
        else:
            kind, name, identifier = "conference", "", invitation.id.hex().upper()
        return {
            "name": name or identifier[:ID_DIGITS].lower(),
            "id": identifier,
            "kind": "group" if kind == "group" else "conference",
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
