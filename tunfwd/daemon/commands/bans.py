"""What the control socket can ask about members of groups that are kept out."""

from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.rooms import RoomCommands
from tunfwd.daemon.contacts.rooms import room_id
from tunfwd.daemon.contacts.tracker import ContactTracker
from tunfwd.daemon.peers import Peers
from tunfwd.daemon.storage.state import ContactId
from tunfwd.tox.contacts import Room


class BanCommands:
    """The handlers of `group.ban`, `group.unban` and `group.banned`."""

    def __init__(self, contacts: ContactTracker, peers: Peers, rooms: RoomCommands) -> None:
        self._contacts = contacts
        self._peers = peers
        self._entries = rooms
        self._rooms = contacts.rooms
        self._banned = contacts.banned

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.GROUP_BAN, self._ban)
        dispatcher.add(api.GROUP_UNBAN, self._unban)
        dispatcher.add(api.GROUP_BANNED, self._list)

    async def _ban(self, params: api.Kick) -> api.BannedMembersResult:
        group = self._rooms.find(params.group, "group")
        peer = self._peers.find(f"group:{self._rooms.name(group)}/{params.member}")
        self._contacts.ban(peer)
        return self._result(group, [peer.id])

    async def _unban(self, params: api.Kick) -> api.BannedMembersResult:
        group, text = self._rooms.find(params.group, "group"), params.member
        known = self._of(group)
        found = [one for one in known if self._banned[one] == text] or [
            one
            for one in known
            if len(text) >= KEY_PREFIX and one.rpartition("/")[2].startswith(text.upper())
        ]
        if not found:
            raise UserError("not_found", f"{text!r} is not banned; see `tunfwd group banned`")
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)}; write more of the key")
        result = self._result(group, found)
        self._contacts.unban(found[0])
        return result

    async def _list(self, params: api.Group) -> api.BannedMembersResult:
        group = self._rooms.find(params.group, "group")
        return self._result(group, self._of(group))

    def _of(self, group: Room) -> list[ContactId]:
        return [one for one in self._banned if one.startswith(room_id(group))]

    def _result(self, group: Room, members: list[ContactId]) -> api.BannedMembersResult:
        entries: list[api.BlockedEntry] = [
            {"public_key": one.rpartition("/")[2], "name": self._banned[one]} for one in members
        ]
        return {"group": self._entries.entry(group), "banned": entries}
