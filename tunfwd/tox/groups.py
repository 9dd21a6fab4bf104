"""Groups (NGC), their members, and invitations to them.

Fed by client.py with toxcore's events about groups; tells the handler. A member is the same object when it
comes back: toxcore's number for it changes at each join, its public key in the group does not.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from tunfwd.common.text import clean_bytes as clean
from tunfwd.tox.binding.enums import (
    Tox_Connection,
    Tox_Group_Exit_Type,
    Tox_Group_Join_Fail,
    Tox_Group_Mod_Event,
    Tox_Group_Privacy_State,
    Tox_Group_Role,
)
from tunfwd.tox.binding.errors import (
    CODES,
    GroupInviteAcceptFailSend,
    GroupLeaveFailSend,
    GroupLeaveGroupNotFound,
    GroupPeerQueryPeerNotFound,
    GroupStateQueryGroupNotFound,
    raise_code,
)
from tunfwd.tox.binding.instance import Tox_Ptr
from tunfwd.tox.contacts import (
    NAME_LIMIT,
    NONE,
    UDP,
    ContactOffline,
    Friend,
    Group,
    Invitation,
    Member,
    RoomState,
)
from tunfwd.tox.handler import Handler
from tunfwd.tox.pacing import Pacing
from tunfwd.tox.rooms import RoomList
from tunfwd.wire import carriers

log = logging.getLogger(__name__)

INVITATION_DELAY: Final = 2.0
"""Seconds that a friend is online before its invitations are told; see tell_invitations."""
MAX_EARLY_PEERS: Final = 32  # of all groups, whose packets are kept until toxcore announces them
MAX_EARLY_PACKETS: Final = 64  # of one such peer
MAX_NUMBER: Final = 4096  # the highest of toxcore's group numbers looked for at start

_LOSSY: Final = (carriers.GROUP.lossy, carriers.GROUP.extension)
_REFUSALS: Final = {
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_PEER_LIMIT: "the group is full",
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_INVALID_PASSWORD: "wrong password",
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_UNKNOWN: "refused",
}
_EXITS: Final = {
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT: "left",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_TIMEOUT: "timed out",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_DISCONNECTED: "disconnected",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_SELF_DISCONNECTED: "we are disconnected",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_KICK: "kicked",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_SYNC_ERROR: "out of step with the group",
}
_GOODBYES: Final = (
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT,
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_KICK,
)
PART: Final = b"left"
"""What leaving for good says; toxcore says QUIT without a word when a program ends."""


class Groups(RoomList[Group]):
    """The groups we are in, and the invitations to others."""

    def __init__(
        self,
        tox: Tox_Ptr,
        pacing: Pacing,
        handler: Handler,
        save: Callable[[], object],
        save_soon: Callable[[], None],
        nickname: Callable[[], str],
    ) -> None:
        super().__init__()
        self._tox = tox
        self._pacing = pacing
        self._handler = handler
        self._save = save
        self._save_soon = save_soon
        self._nickname = nickname
        self._refused: dict[bytes, Group] = {}
        self.unannounced_dropped = 0
        """Packets of peers that toxcore had not announced, and that were too many to keep."""
        self._unannounced: dict[tuple[int, bytes], list[tuple[bool, bytes]]] = {}  # by group and public key
        self._load()

    def _load(self) -> None:
        number = 0
        while len(self._by_number) < self._tox.group_number_groups and number < MAX_NUMBER:
            with contextlib.suppress(GroupStateQueryGroupNotFound):
                self._register(number, RoomState.JOINING)
            number += 1

    def __iter__(self) -> Iterator[Group]:
        return iter([*self._by_number.values(), *self._refused.values()])

    def __len__(self) -> int:
        return len(self._by_number) + len(self._refused)

    # What a person, or a rule, decides

    def create(self, name: str, *, public: bool = False, password: str = "") -> Group:
        """Create a group that is ours. Raises errors.GroupNew…."""
        states = Tox_Group_Privacy_State
        state = states.TOX_GROUP_PRIVACY_STATE_PUBLIC if public else states.TOX_GROUP_PRIVACY_STATE_PRIVATE
        number = self._tox.group_new(state, name.encode(), self._nickname().encode())
        if password:
            self._tox.group_set_password(number, password.encode())
        return self._added(number, RoomState.JOINED)

    def join(self, chat_id: bytes, password: str = "") -> Group:
        """Start joining a public group, or one that was lost. Raises errors.GroupJoin….

        `Handler.room_changed` follows when we are in, or refused. Where we were put out we come back with
        the key we had.
        """
        self._refused.pop(chat_id, None)
        group = self.get(chat_id)
        if group is not None and group.state is RoomState.LOST:
            self._tox.group_reconnect(group.number)
            self._set_state(group, RoomState.JOINING, "")
            return group
        if group is not None:  # since 0.2.21 toxcore would leave it for a moment, and call it number 0
            raise_code("TOX_ERR_GROUP_JOIN", CODES["TOX_ERR_GROUP_JOIN"]["TOX_ERR_GROUP_JOIN_BAD_CHAT_ID"])
        number = self._tox.group_join(chat_id, self._nickname().encode(), password.encode())
        return self._added(number, RoomState.JOINING)

    def give_up(self, group: Group) -> None:
        """Try no longer to get into a group, which toxcore forgets in its next round; to `join` it anew."""
        self._drop(group)

    def accept(self, identifier: bytes, password: str = "") -> Group:
        """Accept an invitation. Raises NoSuchInvitation, or errors.GroupInviteAccept…; then as `join`.

        toxcore does not repeat what gets lost between the two (it can, when several join at once): being
        invited and accepting again does. Where it cannot even be sent, the invitation is told once more when
        the friend is there.
        """
        chat_id, invitation = identifier, self._pending(identifier)
        if group := self.get(chat_id):
            if group.state is RoomState.JOINED:
                del self._invited[chat_id]
                return group
            self.leave(group)
        self._refused.pop(chat_id, None)
        try:
            number = self._tox.group_invite_accept(
                invitation.friend.number, invitation.data, self._nickname().encode(), password.encode()
            )
        except GroupInviteAcceptFailSend:
            self._leave_unknown()
            self._hold(invitation, time.monotonic() + INVITATION_DELAY)
            raise
        del self._invited[chat_id]
        group = self._added(number, RoomState.JOINING)
        group.name = group.name or invitation.name  # until its state arrives
        return group

    def _leave_unknown(self) -> None:
        """Leave what toxcore has made for an acceptance that could not be sent, and does not take back."""
        for number in range(MAX_NUMBER):
            if self._tox.group_number_groups <= len(self._by_number):
                return
            if number not in self._by_number:
                with contextlib.suppress(GroupLeaveGroupNotFound, GroupLeaveFailSend):
                    self._tox.group_leave(number, b"")

    def remember(self, group: Group, key: bytes, nickname: str) -> Member:
        """Return the member with that key; one that was met in an earlier run only is away."""
        if (member := group.members.get(key)) is None:
            member = group.members[key] = Member(self._tox, self._pacing, group, key, nickname)
        return member

    def forget(self, member: Member) -> None:
        """Forget a member that is away. Whoever joins a public group leaves one behind: it is for the owner
        to say which of them are remembered.
        """
        if member.peer_id is None and member.group.members.pop(member.key, None) is not None:
            self._handler.contact_removed(member)

    def password(self, group: Group) -> str:
        """Return the password that a group takes, as far as it is known here; empty where there is none."""
        return self._tox.group_get_password(group.number).decode("utf-8", "replace")

    def invite(self, room: Group, friend: Friend) -> None:
        """Invite a friend who is online. Raises errors.GroupInviteFriend…."""
        self._tox.group_invite_friend(room.number, friend.number)

    def kick(self, member: Member) -> None:
        """Put a member out of its group. Raises errors.GroupKickPeer…, ContactOffline."""
        if member.peer_id is None:
            raise ContactOffline
        self._tox.group_kick_peer(member.group.number, member.peer_id)
        self._left(member)  # toxcore tells everybody but us

    def leave(self, room: Group) -> None:
        """Leave a group for good; our key in it is deleted."""
        if self._refused.pop(room.id, None) is None:
            self._drop(room)
        room.state = RoomState.LOST
        room.reason = "left"
        self._handler.room_changed(room)
        self._save()

    def _drop(self, group: Group) -> None:
        """Let toxcore forget a group; it does so in its next round."""
        with contextlib.suppress(GroupLeaveFailSend):
            self._tox.group_leave(group.number, PART)
        del self._by_number[group.number]
        for member in list(group.members.values()):
            self._away(member)
            self._handler.contact_removed(member)
        group.members.clear()
        for place in [place for place in self._unannounced if place[0] == group.number]:
            del self._unannounced[place]

    def _added(self, number: int, state: RoomState) -> Group:
        group = self._register(number, state)
        self._save()
        return group

    def _register(self, number: int, state: RoomState) -> Group:
        group = Group(self._tox, number, self._tox.group_get_chat_id(number), state)
        self._refresh(group)
        self._by_number[number] = group
        return group

    def _refresh(self, group: Group) -> None:
        group.name = clean(self._tox.group_get_name(group.number), NAME_LIMIT)
        state = self._tox.group_get_privacy_state(group.number)
        group.founded = self._tox.group_self_get_role(group.number) == Tox_Group_Role.TOX_GROUP_ROLE_FOUNDER
        group.public = state == Tox_Group_Privacy_State.TOX_GROUP_PRIVACY_STATE_PUBLIC

    # toxcore's events about groups

    def on_invite(self, friend: Friend, data: bytes, name: bytes) -> None:
        """Hold an invitation; a newer one to the same group replaces it."""
        chat_id = data[:32]  # then the inviter's key in the group
        self._hold(Invitation("group", chat_id, clean(name, NAME_LIMIT), friend, data), 0.0)

    def tell_invitations(self, now: float) -> None:
        """Tell of invitations that can be accepted; `now` is of time.monotonic().

        Until both friends know each other's address, about a second after they are connected, toxcore drops
        what accepting sends, and whoever accepted is never let in.
        """
        for chat_id, earliest in list(self._not_before.items()):
            invitation = self._invited[chat_id]
            friend = invitation.friend
            if friend.online and now >= max(earliest, friend.online_since + INVITATION_DELAY):
                del self._not_before[chat_id]
                self._handler.invitation(invitation)

    def on_self_join(self, number: int) -> None:
        """Note that we are in."""
        group = self._by_number.get(number) or self._register(number, RoomState.JOINING)
        self._set_state(group, RoomState.JOINED, "")
        self._save_soon()

    def on_join_fail(self, number: int, fail: Tox_Group_Join_Fail) -> None:
        """Note that we were refused."""
        if group := self._by_number.get(number):
            self._lose(group, _REFUSALS[Tox_Group_Join_Fail(fail)])

    def on_moderation(self, number: int, source: int, target: int, what: Tox_Group_Mod_Event) -> None:
        """Note that we were kicked; that others are is told by their exit."""
        group = self._by_number.get(number)
        if group is None or what != Tox_Group_Mod_Event.TOX_GROUP_MOD_EVENT_KICK:
            return
        if target == self._tox.group_self_get_peer_id(number):
            kicker = group.by_peer.get(source)
            by = f" by {kicker.nickname or kicker.key.hex()[:8]}" if kicker else ""
            self._set_state(group, RoomState.LOST, f"kicked{by}")

    def _lose(self, group: Group, reason: str) -> None:
        """Keep a group only to say why it is lost; joining it again is joining it anew."""
        self._refused[group.id] = group
        self._drop(group)
        group.state = RoomState.LOST
        group.reason = reason
        self._handler.room_changed(group)

    def _set_state(self, group: Group, state: RoomState, reason: str) -> None:
        group.state = state
        group.reason = reason
        self._refresh(group)
        if state is RoomState.LOST:
            for member in list(group.by_peer.values()):
                self._left(member)
        self._handler.room_changed(group)

    # toxcore's events about members

    def on_peer_join(self, number: int, peer_id: int) -> None:
        """Note that a member is there, perhaps again."""
        group = self._by_number.get(number) or self._register(number, RoomState.JOINING)
        key = self._tox.group_peer_get_public_key(number, peer_id)
        member = self.remember(group, key, "")
        self._away(member)  # it came back before its exit was noticed
        member.nickname = clean(self._tox.group_peer_get_name(number, peer_id), NAME_LIMIT)
        member.peer_id = peer_id
        member.connection = self._connection(member)
        group.by_peer[peer_id] = member
        self._save_soon()  # toxcore saves whom it can reach the group by
        self._handler.contact_online(member)
        for public, data in self._unannounced.pop((number, key), ()):
            (self.on_public if public else self.on_private)(number, peer_id, data)

    def on_peer_exit(self, number: int, peer_id: int, why: Tox_Group_Exit_Type, part: bytes = b"") -> None:
        """Note that a member is away; with a parting word of its, for good: its key is deleted there."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        if group is None or member is None:
            return
        name = member.nickname or member.key.hex()[:8]
        cause = {"cause": (f"{group.id.hex()}/{member.key.hex()}", f"{group.name}/{name}")}
        log.info("%s of %r: %s", name, group.name, _EXITS.get(why, "gone"), extra=cause)
        if why in _GOODBYES:
            self._left(member)
            if part and why == Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT:  # pytox gives the number
                self._handler.member_gone(member)
        else:
            self._away(member)

    def on_peer_name(self, number: int, peer_id: int, name: bytes) -> None:
        """Note a member's new name."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        nickname = clean(name, NAME_LIMIT)
        if member is not None and member.nickname != nickname:
            member.nickname = nickname
            self._handler.contact_renamed(member)

    def check_connections(self) -> None:
        """Ask how members are reached: toxcore does not tell when that changes."""
        for group in self:
            for member in list(group.by_peer.values()):
                connection = self._connection(member)
                if connection is not member.connection:
                    member.connection = connection
                    self._handler.contact_connection(member)

    def _connection(self, member: Member) -> Tox_Connection:
        assert member.peer_id is not None
        try:
            status = self._tox.group_peer_get_connection_status(member.group.number, member.peer_id)
        except GroupPeerQueryPeerNotFound:  # its exit will be told in the next round
            return member.connection
        connection = Tox_Connection(status)
        return Tox_Connection.TOX_CONNECTION_TCP if connection is NONE else connection

    def _away(self, member: Member) -> None:
        if member.peer_id is None:
            return
        member.group.by_peer.pop(member.peer_id, None)
        member.peer_id = None
        member.connection = NONE
        member.reset_queue()
        self._handler.contact_offline(member)

    def _left(self, member: Member) -> None:
        self._away(member)
        self._handler.contact_left(member)

    # Packets

    def _keep_unannounced(self, number: int, peer_id: int, public: bool, data: bytes) -> None:
        """Keep what a member says before toxcore announces it here.

        The two sides confirm each other one after the other, and who is first may speak at once: a Hello
        that was lost here would never be said again.
        """
        try:
            key = self._tox.group_peer_get_public_key(number, peer_id)  # numbers are given anew, keys are not
        except GroupPeerQueryPeerNotFound:
            self.unannounced_dropped += 1
            return
        peers = self._unannounced
        kept = peers.setdefault((number, key), [])
        if len(peers) > MAX_EARLY_PEERS:
            del peers[next(iter(peers))]
        if len(kept) < MAX_EARLY_PACKETS:
            kept.append((public, data))
        else:
            self.unannounced_dropped += 1

    def on_private(self, number: int, peer_id: int, data: bytes) -> None:
        """Pass a packet on; that it was lossy shows only in its prefix."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        if member is None:
            self._keep_unannounced(number, peer_id, False, data)
            return
        if member.connection is not UDP:
            self._pacing.relayed = True
        if data[:2] in _LOSSY:
            self._handler.lossy(member, data)
        else:
            self._pacing.backlog = True
            self._handler.lossless(member, data)

    def on_public(self, number: int, peer_id: int, data: bytes) -> None:
        """Pass on a packet to the whole group."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        if member is None:
            self._keep_unannounced(number, peer_id, True, data)
            return
        self._pacing.backlog = True
        self._handler.public(member, data)
