"""The parts of `Tox_Ptr` that concern groups (NGC) and conferences; instance.py joins them to the rest."""

from collections.abc import Callable
from typing import Any, Final

from tunfwd.tox.binding.calls import buffer, call, error, expect, fixed
from tunfwd.tox.binding.enums import (
    Tox_Conference_Type,
    Tox_Connection,
    Tox_Group_Exit_Type,
    Tox_Group_Join_Fail,
    Tox_Group_Mod_Event,
    Tox_Group_Privacy_State,
    Tox_Group_Role,
)
from tunfwd.tox.binding.errors import NoGroups, raise_code
from tunfwd.tox.binding.opening import ffi

KEY_SIZE: Final = 32  # bytes; chat ids, conference ids and public keys alike

_SELF: Final = "TOX_ERR_GROUP_SELF_QUERY"
_PEER: Final = "TOX_ERR_GROUP_PEER_QUERY"
_STATE: Final = "TOX_ERR_GROUP_STATE_QUERY"
_MEMBER: Final = "TOX_ERR_CONFERENCE_PEER_QUERY"


class _Instance:
    _lib: Any

    def _get(self) -> Any:
        raise NotImplementedError

    def _on(self, event: str, function: Callable[..., None]) -> None:
        raise NotImplementedError


class Groups(_Instance):
    """Groups: members are found by a chat id and known by a key of their own in each group."""

    @property
    def _has_groups(self) -> bool:
        return hasattr(self._lib, "tox_group_new")

    def _require_groups(self) -> None:
        if not self._has_groups:
            raise NoGroups

    def group_new(self, privacy_state: Tox_Group_Privacy_State, group_name: bytes, name: bytes) -> int:
        """Create a group that we own; `name` is ours in it."""
        self._require_groups()
        function, sizes = self._lib.tox_group_new, (len(group_name), len(name))
        arguments = (privacy_state, group_name, sizes[0], name, sizes[1])
        return int(call("TOX_ERR_GROUP_NEW", function, self._get(), *arguments))

    def group_join(self, chat_id: bytes, name: bytes, password: bytes) -> int:
        """Start joining a public group; `handle_group_self_join` or `handle_group_join_fail` follows."""
        self._require_groups()
        expect("chat_id", chat_id, KEY_SIZE)
        arguments = (chat_id, name, len(name), password or ffi.NULL, len(password))
        return int(call("TOX_ERR_GROUP_JOIN", self._lib.tox_group_join, self._get(), *arguments))

    def group_reconnect(self, group_number: int) -> None:
        """Start joining a group again that we left for now, were put out of, or lost. Not in pytox yet."""
        call("TOX_ERR_GROUP_RECONNECT", self._lib.tox_group_reconnect, self._get(), group_number)

    def group_leave(self, group_number: int, part_message: bytes) -> None:
        """Leave for good: our key in the group is deleted."""
        arguments = (group_number, part_message, len(part_message))
        call("TOX_ERR_GROUP_LEAVE", self._lib.tox_group_leave, self._get(), *arguments)

    def group_invite_friend(self, group_number: int, friend_number: int) -> None:
        """Invite a friend who is online."""
        function = self._lib.tox_group_invite_friend
        call("TOX_ERR_GROUP_INVITE_FRIEND", function, self._get(), group_number, friend_number)

    def group_invite_accept(
        self, friend_number: int, invite_data: bytes, name: bytes, password: bytes
    ) -> int:
        """Start joining the group a friend invited us to; `invite_data` is that of the invitation."""
        function = self._lib.tox_group_invite_accept
        arguments = (invite_data, len(invite_data), name, len(name), password or ffi.NULL, len(password))
        return int(call("TOX_ERR_GROUP_INVITE_ACCEPT", function, self._get(), friend_number, *arguments))

    def group_set_password(self, group_number: int, password: bytes) -> None:
        """Ask a password of who joins from now on; founders only, empty for none."""
        arguments = (group_number, password or ffi.NULL, len(password))
        call("TOX_ERR_GROUP_SET_PASSWORD", self._lib.tox_group_set_password, self._get(), *arguments)

    def group_kick_peer(self, group_number: int, peer_id: int) -> None:
        """Put a peer out of the group; moderators only."""
        function = self._lib.tox_group_kick_peer
        call("TOX_ERR_GROUP_KICK_PEER", function, self._get(), group_number, peer_id)

    @property
    def group_number_groups(self) -> int:
        """How many groups we are in, connected or not."""
        if not self._has_groups:
            return 0
        return int(self._lib.tox_group_get_number_groups(self._get()))

    def group_get_name(self, group_number: int) -> bytes:
        """Return the group's name: empty until its state has arrived."""
        lib, tox = self._lib, self._get()
        size = call(_STATE, lib.tox_group_get_name_size, tox, group_number)
        return fixed(size, lambda data: call(_STATE, lib.tox_group_get_name, tox, group_number, data))

    def group_get_password(self, group_number: int) -> bytes:
        """Return the password that the group takes: empty where it takes none."""
        lib, tox = self._lib, self._get()
        size = call(_STATE, lib.tox_group_get_password_size, tox, group_number)
        return fixed(size, lambda data: call(_STATE, lib.tox_group_get_password, tox, group_number, data))

    def group_get_chat_id(self, group_number: int) -> bytes:
        """Return what others join the group by."""
        function, tox = self._lib.tox_group_get_chat_id, self._get()
        return fixed(KEY_SIZE, lambda data: call(_STATE, function, tox, group_number, data))

    def group_get_privacy_state(self, group_number: int) -> Tox_Group_Privacy_State:
        """Tell whether the group is public."""
        function = self._lib.tox_group_get_privacy_state
        return Tox_Group_Privacy_State(call(_STATE, function, self._get(), group_number))

    def group_self_set_name(self, group_number: int, name: bytes) -> None:
        """Set our name in the group."""
        function, arguments = self._lib.tox_group_self_set_name, (group_number, name, len(name))
        call("TOX_ERR_GROUP_SELF_NAME_SET", function, self._get(), *arguments)

    def group_self_get_role(self, group_number: int) -> Tox_Group_Role:
        """Return what we may do in the group."""
        function = self._lib.tox_group_self_get_role
        return Tox_Group_Role(call(_SELF, function, self._get(), group_number))

    def group_self_get_peer_id(self, group_number: int) -> int:
        """Return our number among the peers, new at every join."""
        return int(call(_SELF, self._lib.tox_group_self_get_peer_id, self._get(), group_number))

    def group_self_get_public_key(self, group_number: int) -> bytes:
        """Return our key in the group."""
        function, tox = self._lib.tox_group_self_get_public_key, self._get()
        return fixed(KEY_SIZE, lambda data: call(_SELF, function, tox, group_number, data))

    def group_peer_get_name(self, group_number: int, peer_id: int) -> bytes:
        """Return a peer's name: any bytes, at most 128."""
        lib, tox, peer = self._lib, self._get(), (group_number, peer_id)
        size = call(_PEER, lib.tox_group_peer_get_name_size, tox, *peer)
        return fixed(size, lambda data: call(_PEER, lib.tox_group_peer_get_name, tox, *peer, data))

    def group_peer_get_connection_status(self, group_number: int, peer_id: int) -> Tox_Connection:
        """Return how a peer is connected."""
        function = self._lib.tox_group_peer_get_connection_status
        return Tox_Connection(call(_PEER, function, self._get(), group_number, peer_id))

    def group_peer_get_public_key(self, group_number: int, peer_id: int) -> bytes:
        """Return a peer's key in this group, which stays when the peer id changes."""
        function, tox = self._lib.tox_group_peer_get_public_key, self._get()
        return fixed(KEY_SIZE, lambda data: call(_PEER, function, tox, group_number, peer_id, data))

    def group_send_custom_packet(self, group_number: int, lossless: bool, data: bytes) -> None:
        """Send a packet to every peer of the group."""
        function, arguments = (
            self._lib.tox_group_send_custom_packet,
            (group_number, lossless, data, len(data)),
        )
        call("TOX_ERR_GROUP_SEND_CUSTOM_PACKET", function, self._get(), *arguments)

    def group_send_custom_private_packet(
        self, group_number: int, peer_id: int, lossless: bool, data: bytes
    ) -> None:
        """Send a packet to one peer: at most 1373 bytes; split by toxcore when lossless and above 500."""
        send = self._lib.tox_group_send_custom_private_packet
        if not send(self._get(), group_number, peer_id, lossless, data, len(data), error):
            raise_code("TOX_ERR_GROUP_SEND_CUSTOM_PRIVATE_PACKET", error[0])

    # Events: override these

    def handle_group_invite(self, friend_number: int, invite_data: bytes, group_name: bytes) -> None:
        """A friend invites us."""

    def handle_group_self_join(self, group_number: int) -> None:
        """We are in."""

    def handle_group_join_fail(self, group_number: int, fail_type: Tox_Group_Join_Fail) -> None:
        """We were not let in."""

    def handle_group_peer_join(self, group_number: int, peer_id: int) -> None:
        """A peer is there, and can be talked to."""

    def handle_group_peer_exit(
        self,
        group_number: int,
        peer_id: int,
        exit_type: Tox_Group_Exit_Type,
        name: bytes,
        part_message: bytes,
    ) -> None:
        """A peer is gone; its number may be another's later."""

    def handle_group_peer_name(self, group_number: int, peer_id: int, name: bytes) -> None:
        """A peer has another name."""

    def handle_group_moderation(
        self, group_number: int, source_peer_id: int, target_peer_id: int, mod_type: Tox_Group_Mod_Event
    ) -> None:
        """A moderator did something to a peer."""

    def handle_group_custom_packet(self, group_number: int, peer_id: int, data: bytes) -> None:
        """A packet to the whole group."""

    def handle_group_custom_private_packet(self, group_number: int, peer_id: int, data: bytes) -> None:
        """A packet to us alone."""

    def _install_group_callbacks(self) -> None:
        def invite(
            _tox: Any, friend: int, data: Any, length: int, name: Any, name_length: int, _data: Any
        ) -> None:
            self.handle_group_invite(friend, buffer(data, length)[:], buffer(name, name_length)[:])

        def self_join(_tox: Any, group: int, _data: Any) -> None:
            self.handle_group_self_join(group)

        def join_fail(_tox: Any, group: int, reason: int, _data: Any) -> None:
            self.handle_group_join_fail(group, Tox_Group_Join_Fail(reason))

        def peer_join(_tox: Any, group: int, peer: int, _data: Any) -> None:
            self.handle_group_peer_join(group, peer)

        def peer_exit(_tox: Any, group: int, peer: int, reason: int, *texts: Any) -> None:
            name, size, part, part_size, _ = texts
            why = Tox_Group_Exit_Type(reason)
            self.handle_group_peer_exit(group, peer, why, buffer(name, size)[:], buffer(part, part_size)[:])

        def peer_name(_tox: Any, group: int, peer: int, name: Any, length: int, _data: Any) -> None:
            self.handle_group_peer_name(group, peer, buffer(name, length)[:])

        def moderation(_tox: Any, group: int, source: int, target: int, what: int, _data: Any) -> None:
            self.handle_group_moderation(group, source, target, Tox_Group_Mod_Event(what))

        def custom(_tox: Any, group: int, peer: int, data: Any, length: int, _data: Any) -> None:
            self.handle_group_custom_packet(group, peer, buffer(data, length)[:])

        def private(_tox: Any, group: int, peer: int, data: Any, length: int, _data: Any) -> None:
            self.handle_group_custom_private_packet(group, peer, buffer(data, length)[:])

        self._on("group_invite", invite)
        self._on("group_self_join", self_join)
        self._on("group_join_fail", join_fail)
        self._on("group_peer_join", peer_join)
        self._on("group_peer_exit", peer_exit)
        self._on("group_peer_name", peer_name)
        self._on("group_moderation", moderation)
        self._on("group_custom_packet", custom)
        self._on("group_custom_private_packet", private)


class Conferences(_Instance):
    """Conferences, the older kind of group: members are known by their long-term keys."""

    def conference_new(self) -> int:
        """Create a conference."""
        return int(call("TOX_ERR_CONFERENCE_NEW", self._lib.tox_conference_new, self._get()))

    def conference_delete(self, conference_number: int) -> None:
        """Leave a conference."""
        function = self._lib.tox_conference_delete
        call("TOX_ERR_CONFERENCE_DELETE", function, self._get(), conference_number)

    def conference_invite(self, friend_number: int, conference_number: int) -> None:
        """Invite a friend who is online."""
        function = self._lib.tox_conference_invite
        call("TOX_ERR_CONFERENCE_INVITE", function, self._get(), friend_number, conference_number)

    def conference_join(self, friend_number: int, cookie: bytes) -> int:
        """Accept a friend's invitation; `cookie` is that of the invitation."""
        function, arguments = self._lib.tox_conference_join, (friend_number, cookie, len(cookie))
        return int(call("TOX_ERR_CONFERENCE_JOIN", function, self._get(), *arguments))

    def conference_get_title(self, conference_number: int) -> bytes:
        """Return the title; CONFERENCE_TITLE_INVALID_LENGTH when there is none."""
        family, lib, tox = "TOX_ERR_CONFERENCE_TITLE", self._lib, self._get()
        size = call(family, lib.tox_conference_get_title_size, tox, conference_number)
        return fixed(
            size, lambda data: call(family, lib.tox_conference_get_title, tox, conference_number, data)
        )

    def conference_set_title(self, conference_number: int, title: bytes) -> None:
        """Set the title for everyone: 1 to 128 bytes."""
        arguments = (conference_number, title, len(title))
        call("TOX_ERR_CONFERENCE_TITLE", self._lib.tox_conference_set_title, self._get(), *arguments)

    @property
    def conference_chatlist(self) -> list[int]:
        """The numbers of the conferences we are in."""
        numbers = ffi.new("uint32_t[]", self._lib.tox_conference_get_chatlist_size(self._get()))
        self._lib.tox_conference_get_chatlist(self._get(), numbers)
        return list(numbers)

    def conference_get_id(self, conference_number: int) -> bytes:
        """Return the conference's id, the same for all its members."""
        data = ffi.new("uint8_t[]", KEY_SIZE)
        if not self._lib.tox_conference_get_id(self._get(), conference_number, data):
            raise_code(_MEMBER, 1)  # tox.h has no error for this: the conference does not exist
        return bytes(buffer(data))

    def conference_get_peer_count(self, conference_number: int) -> int:
        """Return how many members are there, we included."""
        return int(call(_MEMBER, self._lib.tox_conference_peer_count, self._get(), conference_number))

    def conference_get_peer_name(self, conference_number: int, peer_number: int) -> bytes:
        """Return a member's name."""
        lib, tox, peer = self._lib, self._get(), (conference_number, peer_number)
        size = call(_MEMBER, lib.tox_conference_peer_get_name_size, tox, *peer)
        return fixed(size, lambda data: call(_MEMBER, lib.tox_conference_peer_get_name, tox, *peer, data))

    def conference_peer_get_public_key(self, conference_number: int, peer_number: int) -> bytes:
        """Return a member's long-term key."""
        function, tox = self._lib.tox_conference_peer_get_public_key, self._get()
        return fixed(
            KEY_SIZE, lambda data: call(_MEMBER, function, tox, conference_number, peer_number, data)
        )

    def conference_get_offline_peer_count(self, conference_number: int) -> int:
        """Return how many members are known but not there."""
        function = self._lib.tox_conference_offline_peer_count
        return int(call(_MEMBER, function, self._get(), conference_number))

    def conference_offline_peer_get_name(self, conference_number: int, offline_peer_number: int) -> bytes:
        """Return the name of a member who is not there."""
        lib, tox, peer = self._lib, self._get(), (conference_number, offline_peer_number)
        size = call(_MEMBER, lib.tox_conference_offline_peer_get_name_size, tox, *peer)
        return fixed(
            size, lambda data: call(_MEMBER, lib.tox_conference_offline_peer_get_name, tox, *peer, data)
        )

    def conference_offline_peer_get_public_key(
        self, conference_number: int, offline_peer_number: int
    ) -> bytes:
        """Return the long-term key of a member who is not there."""
        function, tox = self._lib.tox_conference_offline_peer_get_public_key, self._get()
        peer = (conference_number, offline_peer_number)
        return fixed(KEY_SIZE, lambda data: call(_MEMBER, function, tox, *peer, data))

    # Events: override these

    def handle_conference_invite(self, friend_number: int, type_: Tox_Conference_Type, cookie: bytes) -> None:
        """A friend invites us."""

    def handle_conference_connected(self, conference_number: int) -> None:
        """We are in."""

    def handle_conference_title(self, conference_number: int, peer_number: int, title: bytes) -> None:
        """A member set the title."""

    def handle_conference_peer_name(self, conference_number: int, peer_number: int, name: bytes) -> None:
        """A member has another name."""

    def handle_conference_peer_list_changed(self, conference_number: int) -> None:
        """A member came or went: all peer numbers may be others'."""

    def _install_conference_callbacks(self) -> None:
        def invite(_tox: Any, friend: int, type_: int, cookie: Any, length: int, _data: Any) -> None:
            self.handle_conference_invite(friend, Tox_Conference_Type(type_), buffer(cookie, length)[:])

        def connected(_tox: Any, conference: int, _data: Any) -> None:
            self.handle_conference_connected(conference)

        def title(_tox: Any, conference: int, peer: int, title: Any, length: int, _data: Any) -> None:
            self.handle_conference_title(conference, peer, buffer(title, length)[:])

        def peer_name(_tox: Any, conference: int, peer: int, name: Any, length: int, _data: Any) -> None:
            self.handle_conference_peer_name(conference, peer, buffer(name, length)[:])

        def changed(_tox: Any, conference: int, _data: Any) -> None:
            self.handle_conference_peer_list_changed(conference)

        self._on("conference_invite", invite)
        self._on("conference_connected", connected)
        self._on("conference_title", title)
        self._on("conference_peer_name", peer_name)
        self._on("conference_peer_list_changed", changed)
