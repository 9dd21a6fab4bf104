"""Whom the client knows: contacts, the rooms they are met in, and what strangers and friends ask of us.

Contacts are who packets go to and come from. A contact is one object for as long as the client lives, online
or not, so that the engine can hang its own state on it; so is a room, a group or a conference, for as long as
we are in it. Friends and members of groups look the same from outside. friends.py, groups.py and
conferences.py make all of these and keep them in step with toxcore.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from tunfwd.tox.binding.enums import Tox_Connection, Tox_Group_Role
from tunfwd.tox.binding.errors import (
    FriendCustomPacketFriendNotConnected,
    FriendCustomPacketFriendNotFound,
    FriendCustomPacketSendq,
    GroupSendCustomPacketDisconnected,
    GroupSendCustomPacketFailSend,
    GroupSendCustomPacketGroupNotFound,
    GroupSendCustomPrivatePacketDisconnected,
    GroupSendCustomPrivatePacketFailSend,
    GroupSendCustomPrivatePacketGroupNotFound,
    GroupSendCustomPrivatePacketPeerNotFound,
)
from tunfwd.tox.binding.instance import Tox_Ptr
from tunfwd.tox.pacing import GROUP_BURST, GROUP_STUCK, ROUND, Pacing
from tunfwd.tox.reunion import Reunion
from tunfwd.wire import carriers

NAME_LIMIT: Final = 128  # characters of a nickname or a room's name; toxcore allows at most 128 bytes

NONE: Final = Tox_Connection.TOX_CONNECTION_NONE
TCP: Final = Tox_Connection.TOX_CONNECTION_TCP
UDP: Final = Tox_Connection.TOX_CONNECTION_UDP


class ContactOffline(Exception):
    """The contact cannot be reached now. What was queued for it is lost."""


class Contact(ABC):
    """Someone who can be talked to."""

    __slots__ = ("_pacing", "_tox", "accepted", "connection", "full", "key", "nickname", "tried", "wait")

    kind: Literal["friend", "group"]
    carrier: carriers.Carrier

    def __init__(self, tox: Tox_Ptr, pacing: Pacing, key: bytes, nickname: str) -> None:
        self._tox = tox
        self._pacing = pacing
        self.key = key
        """32 bytes: the long-term key of a friend, the key in that group of a member."""
        self.nickname = nickname
        """As the contact names itself, cleaned; not unique, may be empty."""
        self.connection = NONE
        self.reset_queue()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key.hex()[:8]} {self.nickname!r} {self.connection.name[15:]}>"

    @property
    def online(self) -> bool:
        """Whether the contact can be reached now."""
        return self.connection is not NONE

    def reset_queue(self) -> None:
        """Begin with an empty queue (pacing.Queue)."""
        self.full = False
        self.accepted = 0
        self.tried = 0.0
        self.wait = 0.0

    @abstractmethod
    def send_lossless(self, packet: bytes) -> bool:
        """Queue a packet, carrier prefix included, at most 1373 bytes, that arrives in order and once.

        False: the queue is full, nothing was queued; try when `Handler.iterated` is called. Raises
        ContactOffline. What is queued is lost when the contact goes offline.
        """

    @abstractmethod
    def remember_node(self, key: bytes) -> None:
        """Note the contact's key in the DHT, to find it again by after a restart."""

    @abstractmethod
    def send_lossy(self, packet: bytes) -> bool:
        """Send a packet, carrier prefix included, at most 1373 bytes, that may be lost.

        False: it was lost here already. Raises ContactOffline.
        """


class Friend(Contact):
    """A Tox friend."""

    __slots__ = ("_reunion", "number", "online_since")

    kind = "friend"
    carrier = carriers.FRIEND

    def __init__(
        self, tox: Tox_Ptr, pacing: Pacing, reunion: Reunion, number: int, key: bytes, nickname: str
    ) -> None:
        super().__init__(tox, pacing, key, nickname)
        self._reunion = reunion
        self.number = number
        self.online_since = 0.0
        """time.monotonic() of when the friend came online last."""

    def remember_node(self, key: bytes) -> None:
        """See Contact."""
        self._reunion.remember(self.key, key)

    def send_lossless(self, packet: bytes) -> bool:
        """See Contact."""
        if self.full:
            return False
        self._pacing.lossless = True
        if self.connection is not UDP:
            self._pacing.relayed = True
        try:
            self._tox.friend_send_lossless_packet(self.number, packet)
        except FriendCustomPacketSendq:
            self._pacing.refused(self)
            return False
        except (FriendCustomPacketFriendNotConnected, FriendCustomPacketFriendNotFound):
            raise ContactOffline from None
        self.accepted += 1
        return True

    def send_lossy(self, packet: bytes) -> bool:
        """See Contact."""
        if self.connection is not UDP:
            self._pacing.relayed = True
        try:
            self._tox.friend_send_lossy_packet(self.number, packet)
        except FriendCustomPacketSendq:
            return False
        except (FriendCustomPacketFriendNotConnected, FriendCustomPacketFriendNotFound):
            raise ContactOffline from None
        return True


class Member(Contact):
    """Another member of a group; the same person as a friend is another contact."""

    __slots__ = ("group", "peer_id")

    kind = "group"
    carrier = carriers.GROUP

    def __init__(self, tox: Tox_Ptr, pacing: Pacing, group: "Group", key: bytes, nickname: str) -> None:
        super().__init__(tox, pacing, key, nickname)
        self.group = group
        self.peer_id: int | None = None
        """toxcore's number for the member, new each time it joins; None while it is away."""

    def remember_node(self, key: bytes) -> None:
        """See Contact: a member is found through its group."""

    def send_lossless(self, packet: bytes) -> bool:
        """See Contact. Above 500 bytes toxcore splits the packet, at more than half the speed."""
        if self.full:
            return False
        if self.accepted >= GROUP_BURST:
            self._pacing.spent(self, ROUND)
            return False
        if not self._send(packet, lossless=True):
            self._pacing.spent(self, GROUP_STUCK)
            return False
        self.accepted += 1
        return True

    def send_lossy(self, packet: bytes) -> bool:
        """See Contact."""
        return self._send(packet, lossless=False)

    def _send(self, packet: bytes, *, lossless: bool) -> bool:
        if self.peer_id is None:
            raise ContactOffline
        if self.connection is not UDP:
            self._pacing.relayed = True
        try:
            self._tox.group_send_custom_private_packet(self.group.number, self.peer_id, lossless, packet)
        except GroupSendCustomPrivatePacketFailSend:
            return False
        except (
            GroupSendCustomPrivatePacketPeerNotFound,
            GroupSendCustomPrivatePacketDisconnected,
            GroupSendCustomPrivatePacketGroupNotFound,
        ):
            raise ContactOffline from None
        return True


class RoomState(StrEnum):
    """Whether we are in a room."""

    JOINING = "joining"
    """toxcore looks for other members, for as long as it takes."""
    JOINED = "joined"
    LOST = "lost"
    """We were refused or kicked, and nothing happens until we join again; `Room.reason` says which."""


RoomKind = Literal["group", "conference"]
Role = Literal["founder", "moderator", "user", "observer"]
ROLES: Final[dict[Tox_Group_Role, Role]] = {
    Tox_Group_Role.TOX_GROUP_ROLE_FOUNDER: "founder",
    Tox_Group_Role.TOX_GROUP_ROLE_MODERATOR: "moderator",
    Tox_Group_Role.TOX_GROUP_ROLE_USER: "user",
    Tox_Group_Role.TOX_GROUP_ROLE_OBSERVER: "observer",
}


class Room(ABC):
    """A group or a conference that we are in, or try to be in."""

    kind: RoomKind

    def __init__(self, number: int, identifier: bytes, state: RoomState) -> None:
        self.number = number
        self.id = identifier
        """32 bytes: the chat id of a group."""
        self.name = ""
        """Cleaned, not unique; empty until it is known, and perhaps for good."""
        self.public = False
        """Whether the id alone lets one in."""
        self.founded = False
        """Whether it was created here: the name is ours."""
        self.state = state
        self.reason = ""
        """Why the room is LOST."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id.hex()[:8]} {self.name!r} {self.state}>"

    @property
    @abstractmethod
    def present(self) -> int:
        """How many others are there now."""


class Group(Room):
    """A group (NGC): every member is a contact."""

    kind = "group"

    def __init__(self, tox: Tox_Ptr, number: int, identifier: bytes, state: RoomState) -> None:
        super().__init__(number, identifier, state)
        self._tox = tox
        self.members: dict[bytes, Member] = {}
        """By public key, online or away; without us."""
        self.by_peer: dict[int, Member] = {}
        """Those online, by toxcore's number."""

    @property
    def present(self) -> int:
        """See Room."""
        return len(self.by_peer)

    @property
    def role(self) -> Role:
        """What we are in this group; founders and moderators kick."""
        return ROLES[self._tox.group_self_get_role(self.number)]

    @property
    def self_key(self) -> bytes:
        """Our public key in this group."""
        return self._tox.group_self_get_public_key(self.number)

    def send_lossless(self, packet: bytes) -> bool:
        """Queue a packet to every member who is online, carrier prefix included.

        False: not every queue had space, and some may have got it. Raises ContactOffline when we are not in.
        """
        if self.state is RoomState.LOST:
            raise ContactOffline
        try:
            self._tox.group_send_custom_packet(self.number, True, packet)
        except GroupSendCustomPacketFailSend:
            return False
        except (GroupSendCustomPacketDisconnected, GroupSendCustomPacketGroupNotFound):
            raise ContactOffline from None
        return True


@dataclass(frozen=True, slots=True)
class ConferenceMember:
    """Someone in a conference."""

    key: bytes
    """The long-term public key."""
    name: str
    online: bool


class Conference(Room):
    """A conference: those members who are friends can be sent to.

    It is JOINING until a member could be reached since the start, unless we are alone in it.
    """

    kind = "conference"

    def __init__(self, number: int, identifier: bytes, state: RoomState) -> None:
        super().__init__(number, identifier, state)
        self.members: tuple[ConferenceMember, ...] = ()
        """Without us; those who are not there come last."""

    @property
    def present(self) -> int:
        """See Room."""
        return sum(member.online for member in self.members)


@dataclass(frozen=True, slots=True)
class Invitation:
    """A friend invites us to a room."""

    kind: RoomKind
    id: bytes
    """The room's."""
    name: str
    """The room's; empty where an invitation does not tell it, as that to a conference."""
    friend: Friend
    data: bytes
    """What toxcore takes when it is accepted."""


@dataclass(frozen=True, slots=True)
class FriendRequest:
    """Someone asks to be our friend."""

    key: bytes
    message: str
    """One clean line."""
    heard: float = field(default=0.0, compare=False)
    """time.monotonic() of when it came last."""
    token: bytes | None = field(default=None, repr=False)
    """Of the ticket that it came with."""
