"""Groups (NGC), their members, and invitations to them.

Fed by client.py with toxcore's events about groups; tells the handler. A member is the same object when it
comes back: toxcore's number for it changes at each join, its public key in the group does not.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

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
    GroupInviteAcceptFailSend,
    GroupLeaveFailSend,
    GroupLeaveGroupNotFound,
    GroupPeerQueryPeerNotFound,
    GroupSendCustomPacketDisconnected,
    GroupSendCustomPacketFailSend,
    GroupSendCustomPacketGroupNotFound,
    GroupStateQueryGroupNotFound,
)
from tunfwd.tox.contacts import NONE, UDP, ContactOffline, Friend, Member
from tunfwd.wire import carriers

if TYPE_CHECKING:
    from tunfwd.tox.binding.instance import Tox_Ptr
    from tunfwd.tox.handler import Handler
    from tunfwd.tox.pacing import Pacing

log = logging.getLogger(__name__)

MAX_INVITATIONS = 32  # of one friend; the oldest gives way
INVITATION_DELAY = 2.0  # s that a friend is online before its invitations are told; see tell_invitations
MAX_EARLY_PEERS = 32  # of all groups, whose packets are kept until toxcore announces them
MAX_EARLY_PACKETS = 64  # of one such peer
NAME_LIMIT = 128  # characters; toxcore allows 48 bytes for a group's name and 128 for a member's
MAX_NUMBER = 4096  # the highest of toxcore's group numbers looked for at start

_LOSSY = (carriers.GROUP.lossy, carriers.GROUP.extension)
_REFUSALS = {
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_PEER_LIMIT: "the group is full",
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_INVALID_PASSWORD: "wrong password",
    Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_UNKNOWN: "refused",
}
_EXITS = {
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT: "left",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_TIMEOUT: "timed out",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_DISCONNECTED: "disconnected",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_SELF_DISCONNECTED: "we are disconnected",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_KICK: "kicked",
    Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_SYNC_ERROR: "out of step with the group",
}
_FOR_GOOD = (Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_KICK)


class State(StrEnum):
    """Whether we are in a group."""

    JOINING = "joining"
    """toxcore looks for other members, for as long as it takes."""
    JOINED = "joined"
    LOST = "lost"
    """We were refused or kicked, and nothing happens until we join again; `Group.reason` says which."""


class NoSuchInvitation(LookupError):
    """We are not invited there."""


@dataclass(frozen=True, slots=True)
class GroupInvitation:
    """A friend invites us to a group."""

    chat_id: bytes
    name: str
    friend: Friend
    data: bytes


class Group:
    """A group we are in, or try to be in."""

    def __init__(self, tox: Tox_Ptr, number: int, chat_id: bytes, state: State) -> None:
        self._tox = tox
        self.number = number
        self.chat_id = chat_id
        self.name = ""
        """Cleaned, not unique; empty until the group's state has arrived."""
        self.public = False
        """Whether the chat id alone lets one in."""
        self.founded = False
        """Whether it was created here: the name is ours."""
        self.state = state
        self.reason = ""
        """Why the group is LOST."""
        self.members: dict[bytes, Member] = {}
        """By public key, online or away; without us."""
        self.by_peer: dict[int, Member] = {}
        """Those online, by toxcore's number."""

    def __repr__(self) -> str:
        return f"<group {self.chat_id.hex()[:8]} {self.name!r} {self.state}>"

    @property
    def self_key(self) -> bytes:
        """Our public key in this group."""
        return self._tox.group_self_get_public_key(self.number)

    @property
    def self_name(self) -> str:
        """Our name in this group."""
        return clean(self._tox.group_self_get_name(self.number), NAME_LIMIT)

    def send_lossless(self, packet: bytes) -> bool:
        """Queue a packet to every member who is online, carrier prefix included.

        False: not every queue had space, and some may have got it. Raises ContactOffline when we are not in.
        """
        if self.state is State.LOST:
            raise ContactOffline
        try:
            self._tox.group_send_custom_packet(self.number, True, packet)
        except GroupSendCustomPacketFailSend:
            return False
        except (GroupSendCustomPacketDisconnected, GroupSendCustomPacketGroupNotFound):
            raise ContactOffline from None
        return True


class Groups:
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
        self._tox = tox
        self._pacing = pacing
        self._handler = handler
        self._save = save
        self._save_soon = save_soon
        self._nickname = nickname
        self._by_number: dict[int, Group] = {}
        self._refused: dict[bytes, Group] = {}
        self._invitations: dict[bytes, GroupInvitation] = {}
        self._early: dict[bytes, tuple[GroupInvitation, float]] = {}  # not to be told before then
        self.dropped_invitations = 0
        """Invitations that gave way to newer ones of the same friend."""
        self.strays = 0
        """Packets of peers that toxcore had not announced, and that were too many to keep."""
        self._unannounced: dict[tuple[int, bytes], list[tuple[bool, bytes]]] = {}  # by group and public key
        self._load()

    def _load(self) -> None:
        number = 0
        while len(self._by_number) < self._tox.group_number_groups and number < MAX_NUMBER:
            with contextlib.suppress(GroupStateQueryGroupNotFound):
                self._know(number, State.JOINING)
            number += 1

    def __iter__(self) -> Iterator[Group]:
        return iter([*self._by_number.values(), *self._refused.values()])

    def __len__(self) -> int:
        return len(self._by_number) + len(self._refused)

    def get(self, chat_id: bytes) -> Group | None:
        """Find a group by its chat id."""
        known = (group for group in self if group.chat_id == chat_id)
        return next(known, None)

    @property
    def invitations(self) -> list[GroupInvitation]:
        """Where friends invite us to, oldest first; at most 32 of each, gone with the process."""
        return list(self._invitations.values())

    # What a person, or a rule, decides

    def create(self, name: str, *, public: bool = False, password: str = "") -> Group:
        """Create a group that is ours. Raises errors.GroupNew…."""
        states = Tox_Group_Privacy_State
        state = states.TOX_GROUP_PRIVACY_STATE_PUBLIC if public else states.TOX_GROUP_PRIVACY_STATE_PRIVATE
        number = self._tox.group_new(state, name.encode(), self._nickname().encode())
        if password:
            self._tox.group_set_password(number, password.encode())
        return self._added(number, State.JOINED)

    def join(self, chat_id: bytes, password: str = "") -> Group:
        """Start joining a public group, or one that was lost. Raises errors.GroupJoin….

        `Handler.group_changed` follows when we are in, or refused. Where we were put out we come back with
        the key we had.
        """
        self._refused.pop(chat_id, None)
        group = self.get(chat_id)
        if group is not None and group.state is State.LOST:
            self._tox.group_reconnect(group.number)
            self._settle(group, State.JOINING, "")
            return group
        number = self._tox.group_join(chat_id, self._nickname().encode(), password.encode())
        return self._added(number, State.JOINING)

    def accept(self, chat_id: bytes, password: str = "") -> Group:
        """Accept an invitation. Raises NoSuchInvitation, or errors.GroupInviteAccept…; then as `join`.

        toxcore does not repeat what gets lost between the two (it can, when several join at once): being
        invited and accepting again does. Where it cannot even be sent, the invitation is told once more when
        the friend is there.
        """
        invitation = self._invitations.get(chat_id)
        if invitation is None:
            raise NoSuchInvitation(f"no invitation to {chat_id.hex().upper()} is pending")
        if group := self.get(chat_id):
            if group.state is State.JOINED:
                del self._invitations[chat_id]
                return group
            self.leave(group)
        self._refused.pop(chat_id, None)
        try:
            number = self._tox.group_invite_accept(
                invitation.friend.number, invitation.data, self._nickname().encode(), password.encode()
            )
        except GroupInviteAcceptFailSend:
            self._leave_unknown()
            del self._invitations[chat_id]
            self._early[chat_id] = invitation, time.monotonic() + INVITATION_DELAY
            raise
        del self._invitations[chat_id]
        group = self._added(number, State.JOINING)
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

    def decline(self, chat_id: bytes) -> None:
        """Forget an invitation. Raises NoSuchInvitation."""
        if self._invitations.pop(chat_id, None) is None:
            raise NoSuchInvitation(f"no invitation to {chat_id.hex().upper()} is pending")

    def invite(self, group: Group, friend: Friend) -> None:
        """Invite a friend who is online. Raises errors.GroupInviteFriend…."""
        self._tox.group_invite_friend(group.number, friend.number)

    def kick(self, member: Member) -> None:
        """Put a member out of its group. Raises errors.GroupKickPeer…, ContactOffline."""
        if member.peer_id is None:
            raise ContactOffline
        self._tox.group_kick_peer(member.group.number, member.peer_id)
        self._gone(member)  # toxcore tells everybody but us

    def leave(self, group: Group) -> None:
        """Leave a group for good; our key in it is deleted."""
        if self._refused.pop(group.chat_id, None) is None:
            self._drop(group)
        group.state = State.LOST
        group.reason = "left"
        self._handler.group_changed(group)
        self._save()

    def _drop(self, group: Group) -> None:
        """Let toxcore forget a group; it does so in its next round."""
        with contextlib.suppress(GroupLeaveFailSend):
            self._tox.group_leave(group.number, b"")
        del self._by_number[group.number]
        for member in list(group.members.values()):
            self._away(member)
            self._handler.contact_removed(member)
        group.members.clear()
        for place in [place for place in self._unannounced if place[0] == group.number]:
            del self._unannounced[place]

    def _added(self, number: int, state: State) -> Group:
        group = self._know(number, state)
        self._save()
        return group

    def _know(self, number: int, state: State) -> Group:
        group = Group(self._tox, number, self._tox.group_get_chat_id(number), state)
        self._look(group)
        self._by_number[number] = group
        return group

    def _look(self, group: Group) -> None:
        group.name = clean(self._tox.group_get_name(group.number), NAME_LIMIT)
        state = self._tox.group_get_privacy_state(group.number)
        group.founded = self._tox.group_self_get_role(group.number) == Tox_Group_Role.TOX_GROUP_ROLE_FOUNDER
        group.public = state == Tox_Group_Privacy_State.TOX_GROUP_PRIVACY_STATE_PUBLIC

    # toxcore's events about groups

    def on_invite(self, friend: Friend, data: bytes, name: bytes) -> None:
        """Hold an invitation; a newer one to the same group replaces it."""
        chat_id = data[:32]  # then the inviter's key in the group
        self._invitations.pop(chat_id, None)
        self._early.pop(chat_id, None)
        self._early[chat_id] = GroupInvitation(chat_id, clean(name, NAME_LIMIT), friend, data), 0.0
        held = [*self._invitations.values(), *(invitation for invitation, _ in self._early.values())]
        theirs = [invitation.chat_id for invitation in held if invitation.friend is friend]
        if len(theirs) > MAX_INVITATIONS:
            self._invitations.pop(theirs[0], None)
            self._early.pop(theirs[0], None)
            self.dropped_invitations += 1

    def tell_invitations(self, now: float) -> None:
        """Tell of invitations that can be accepted; `now` is of time.monotonic().

        Until both friends know each other's address, about a second after they are connected, toxcore drops
        what accepting sends, and whoever accepted is never let in.
        """
        for chat_id, (invitation, earliest) in list(self._early.items()):
            friend = invitation.friend
            if friend.online and now >= max(earliest, friend.online_since + INVITATION_DELAY):
                del self._early[chat_id]
                self._invitations[chat_id] = invitation
                self._handler.group_invitation(invitation)

    def on_self_join(self, number: int) -> None:
        """Note that we are in."""
        group = self._by_number.get(number) or self._know(number, State.JOINING)
        self._settle(group, State.JOINED, "")
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
            if hasattr(self._tox, "group_reconnect"):
                self._settle(group, State.LOST, f"kicked{by}")
            else:
                self._lose(group, f"kicked{by}")

    def _lose(self, group: Group, reason: str) -> None:
        """Keep a group only to say why it is lost; joining it again is joining it anew."""
        self._refused[group.chat_id] = group
        self._drop(group)
        group.state = State.LOST
        group.reason = reason
        self._handler.group_changed(group)

    def _settle(self, group: Group, state: State, reason: str) -> None:
        group.state = state
        group.reason = reason
        self._look(group)
        if state is State.LOST:
            for member in list(group.by_peer.values()):
                self._gone(member)
        self._handler.group_changed(group)

    # toxcore's events about members

    def on_peer_join(self, number: int, peer_id: int) -> None:
        """Note that a member is there, perhaps again."""
        group = self._by_number.get(number) or self._know(number, State.JOINING)
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

    def on_peer_exit(self, number: int, peer_id: int, why: Tox_Group_Exit_Type) -> None:
        """Note that a member is away."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        if group is None or member is None:
            return
        name = member.nickname or member.key.hex()[:8]
        cause = {"cause": (f"{group.chat_id.hex()}/{member.key.hex()}", f"{group.name}/{name}")}
        log.info("%s of %r: %s", name, group.name, _EXITS.get(why, "gone"), extra=cause)
        if why in _FOR_GOOD:
            self._gone(member)
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

    def _gone(self, member: Member) -> None:
        self._away(member)
        self._handler.contact_left(member)

    # Packets

    def _keep(self, number: int, peer_id: int, public: bool, data: bytes) -> None:
        """Keep what a member says before toxcore announces it here.

        The two sides confirm each other one after the other, and who is first may speak at once: a Hello
        that was lost here would never be said again.
        """
        try:
            key = self._tox.group_peer_get_public_key(number, peer_id)  # numbers are given anew, keys are not
        except GroupPeerQueryPeerNotFound:
            self.strays += 1
            return
        peers = self._unannounced
        kept = peers.setdefault((number, key), [])
        if len(peers) > MAX_EARLY_PEERS:
            del peers[next(iter(peers))]
        if len(kept) < MAX_EARLY_PACKETS:
            kept.append((public, data))
        else:
            self.strays += 1

    def on_private(self, number: int, peer_id: int, data: bytes) -> None:
        """Pass a packet on; that it was lossy shows only in its prefix."""
        group = self._by_number.get(number)
        member = group.by_peer.get(peer_id) if group else None
        if member is None:
            self._keep(number, peer_id, False, data)
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
            self._keep(number, peer_id, True, data)
            return
        self._pacing.backlog = True
        self._handler.public(member, data)
