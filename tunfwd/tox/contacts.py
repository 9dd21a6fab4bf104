"""Contacts: who packets go to and come from, whatever kind they are.

A contact is one object for as long as the client lives, online or not, so that the engine can hang its own
state on it. Friends and members of groups look the same from outside; friends.py and groups.py make them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from tunfwd.tox.binding.enums import Tox_Connection
from tunfwd.tox.binding.errors import (
    FriendCustomPacketFriendNotConnected,
    FriendCustomPacketFriendNotFound,
    FriendCustomPacketSendq,
    GroupSendCustomPrivatePacketDisconnected,
    GroupSendCustomPrivatePacketFailSend,
    GroupSendCustomPrivatePacketGroupNotFound,
    GroupSendCustomPrivatePacketPeerNotFound,
)
from tunfwd.tox.pacing import GROUP_BURST, GROUP_STUCK, ROUND
from tunfwd.wire import carriers

if TYPE_CHECKING:
    from tunfwd.tox.binding.instance import Tox_Ptr
    from tunfwd.tox.groups import Group
    from tunfwd.tox.pacing import Pacing
    from tunfwd.tox.reunion import Reunion

Connection = Tox_Connection
NONE = Tox_Connection.TOX_CONNECTION_NONE
TCP = Tox_Connection.TOX_CONNECTION_TCP
UDP = Tox_Connection.TOX_CONNECTION_UDP


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

    def __init__(self, tox: Tox_Ptr, pacing: Pacing, group: Group, key: bytes, nickname: str) -> None:
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
