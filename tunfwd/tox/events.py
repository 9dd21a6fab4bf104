"""Hands toxcore's events to those concerned: friends.py, groups.py, conferences.py and the client.

The methods are pytox's, and ours; see binding/instance.py for what each event means.
"""
# ruff: noqa: D102  pytox's names

from collections.abc import Callable
from dataclasses import dataclass

from tunfwd.tox.binding import enums
from tunfwd.tox.conferences import Conferences
from tunfwd.tox.friends import Friends
from tunfwd.tox.groups import Groups


@dataclass(frozen=True, slots=True)
class Receivers:
    """Those concerned."""

    connection: Callable[[enums.Tox_Connection], object]
    """Told whether, and how, we are connected to the network."""
    friends: Friends
    groups: Groups
    conferences: Conferences


class Events:
    """Hands toxcore's events to those concerned; mixed into the class of the binding."""

    receivers: Receivers
    """Set before the first iteration."""

    def handle_self_connection_status(self, connection_status: enums.Tox_Connection) -> None:
        self.receivers.connection(enums.Tox_Connection(connection_status))

    def handle_friend_request(self, public_key: bytes, message: bytes) -> None:
        self.receivers.friends.on_request(public_key, message)

    def handle_friend_name(self, friend_number: int, name: bytes) -> None:
        self.receivers.friends.on_name(friend_number, name)

    def handle_friend_connection_status(
        self, friend_number: int, connection_status: enums.Tox_Connection
    ) -> None:
        self.receivers.friends.on_connection(friend_number, enums.Tox_Connection(connection_status))

    def handle_friend_lossless_packet(self, friend_number: int, data: bytes) -> None:
        self.receivers.friends.on_lossless(friend_number, data)

    def handle_friend_lossy_packet(self, friend_number: int, data: bytes) -> None:
        self.receivers.friends.on_lossy(friend_number, data)

    def handle_group_invite(self, friend_number: int, invite_data: bytes, group_name: bytes) -> None:
        self.receivers.groups.on_invite(
            self.receivers.friends.by_number(friend_number), invite_data, group_name
        )

    def handle_group_self_join(self, group_number: int) -> None:
        self.receivers.groups.on_self_join(group_number)

    def handle_group_join_fail(self, group_number: int, fail_type: enums.Tox_Group_Join_Fail) -> None:
        self.receivers.groups.on_join_fail(group_number, fail_type)

    def handle_group_moderation(
        self, group_number: int, source_peer_id: int, target_peer_id: int, mod_type: enums.Tox_Group_Mod_Event
    ) -> None:
        self.receivers.groups.on_moderation(group_number, source_peer_id, target_peer_id, mod_type)

    def handle_group_peer_join(self, group_number: int, peer_id: int) -> None:
        self.receivers.groups.on_peer_join(group_number, peer_id)

    def handle_group_peer_exit(
        self, group_number: int, peer_id: int, exit_type: enums.Tox_Group_Exit_Type, name: bytes, part: bytes
    ) -> None:
        self.receivers.groups.on_peer_exit(group_number, peer_id, exit_type, part)

    def handle_group_peer_name(self, group_number: int, peer_id: int, name: bytes) -> None:
        self.receivers.groups.on_peer_name(group_number, peer_id, name)

    def handle_group_custom_packet(self, group_number: int, peer_id: int, data: bytes) -> None:
        self.receivers.groups.on_public(group_number, peer_id, data)

    def handle_group_custom_private_packet(self, group_number: int, peer_id: int, data: bytes) -> None:
        self.receivers.groups.on_private(group_number, peer_id, data)

    def handle_conference_invite(
        self, friend_number: int, type_: enums.Tox_Conference_Type, cookie: bytes
    ) -> None:
        self.receivers.conferences.on_invite(self.receivers.friends.by_number(friend_number), type_, cookie)

    def handle_conference_connected(self, conference_number: int) -> None:
        self.receivers.conferences.on_connected(conference_number)

    def handle_conference_peer_list_changed(self, conference_number: int) -> None:
        self.receivers.conferences.on_changed(conference_number)

    def handle_conference_peer_name(self, conference_number: int, peer_number: int, name: bytes) -> None:
        self.receivers.conferences.on_changed(conference_number)

    def handle_conference_title(self, conference_number: int, peer_number: int, title: bytes) -> None:
        self.receivers.conferences.on_changed(conference_number)
