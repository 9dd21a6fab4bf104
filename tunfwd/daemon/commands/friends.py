"""What the control socket can ask about friends, and those who would like to be."""

from typing import Final

import trio

from tunfwd.common.errors import UserError
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.names import require_new_name
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.contacts.tracker import ContactTracker
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.tox.binding.errors import FriendAddAlreadySent, FriendAddBadChecksum, FriendAddOwnKey, ToxError
from tunfwd.tox.contacts import FriendRequest, Member
from tunfwd.tox.friends import Friends, parse_address

FAREWELL: Final = 10  # looks at most, whether a friend that is removed has heard what ends with that
HEARING: Final = 0.1  # s from one to the next


class FriendCommands:
    """The handlers of `friend.*`."""

    def __init__(self, contacts: ContactTracker, peers: Peers, nodes: NodeCommands) -> None:
        self._contacts = contacts
        self._peers = peers
        self._nodes = nodes
        self._friends: Friends = contacts.client.friends

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.FRIEND_ADD, self._add)
        dispatcher.add(api.FRIEND_ACCEPT, self._accept)
        dispatcher.add(api.FRIEND_REJECT, self._reject)
        dispatcher.add(api.FRIEND_REMOVE, self._remove)
        dispatcher.add(api.FRIEND_RENAME, self._rename)
        dispatcher.add(api.FRIEND_LIST, self._list)

    async def _add(self, params: api.FriendAdd) -> api.FriendResult:
        address = parse_address(params.address)
        if params.name is not None:
            self.require_new_name(params.name, address[:32].hex().upper())
        try:
            friend = self._friends.add(address, params.message or f"tunfwd of {self._contacts.client.name}")
        except FriendAddOwnKey:
            raise UserError("usage", "this is our own address") from None
        except FriendAddAlreadySent:
            raise UserError("failed", "this is a friend already; `tunfwd friend list` shows it") from None
        except FriendAddBadChecksum:
            raise UserError("usage", "the address has a mistake in it: its checksum is wrong") from None
        except ToxError as error:
            raise UserError("failed", f"toxcore: {error}") from None
        entry = _friend_entry(self._contacts.added(friend, params.name))
        return {"friend": entry, "network": "online" if self._nodes.is_online else "offline"}

    async def _accept(self, params: api.FriendAccept) -> api.FriendResult:
        request = self._find_request(params.key)
        if params.name is not None:
            self.require_new_name(params.name, request.key.hex().upper())
        try:
            friend = self._friends.accept(request.key)
        except ToxError as error:
            raise UserError("failed", f"toxcore: {error}") from None
        return {"friend": _friend_entry(self._contacts.added(friend, params.name))}

    async def _reject(self, params: api.FriendReject) -> api.FriendResult:
        request = self._find_request(params.key)
        self._friends.reject(request.key)
        return {"friend": _request_entry(request)}

    async def _remove(self, params: api.FriendRemove) -> api.FriendResult:
        peer = self._peers.find(params.name)
        friend = self._friends.get(peer.contact.key)
        if friend is None or friend is not peer.contact:
            raise UserError("usage", f"{peer.label} is a member of a group, not a friend")
        self._contacts.require_free(peer.id)
        entry, ended = _friend_entry(peer), self._end_all(peer)
        for _ in range(FAREWELL if peer.session.is_online and ended else 0):
            await trio.sleep(HEARING)  # at least once: without a link nothing tells when it has heard
            if not peer.session.control_waiting:
                break
        if friend in list(self._friends):  # nobody has removed it meanwhile
            self._friends.remove(friend)
        return {"friend": entry, "ended": ended}

    def _end_all(self, peer: Peer) -> list[api.Killed]:
        """Withdraw what was agreed with a friend, who hears of it; return what that was."""
        ended: list[api.Killed] = []
        for mapping in list(peer.session.mappings):
            ended.append({"id": peer.id_of(mapping), "contact": peer.label, "name": clean(mapping.name)})
            self._contacts.end(peer, mapping)
        return ended

    async def _list(self, _: api.Nothing) -> api.FriendsResult:
        friends = [_friend_entry(peer) for peer in self._peers if peer.contact.kind == "friend"]
        return {"friends": friends + [_request_entry(request) for request in self._friends.requests]}

    def require_new_name(self, name: str, key: str) -> None:
        """Raise UserError where a person gave another friend that name, or a key begins with it."""
        require_new_name(self._peers, self._friends.requests, name, key)

    async def _rename(self, params: api.FriendRename) -> api.FriendResult:
        peer = self._peers.find(params.name)
        if isinstance(peer.contact, Member):
            raise UserError("usage", f"{peer.label} is a member of a group, not a friend")
        self._contacts.require_free(peer.id)
        self.require_new_name(params.to, peer.key)
        self._contacts.rename(peer, params.to)
        return {"friend": _friend_entry(peer)}

    def _find_request(self, text: str) -> FriendRequest:
        key = text.upper()
        found = [r for r in self._friends.requests if key and r.key.hex().upper().startswith(key)]
        if not found:
            raise UserError(
                "not_found", f"nobody with a key {text!r} asks to be a friend; see `tunfwd friend list`"
            )
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)} keys; write more of it")
        return found[0]


def _friend_entry(peer: Peer) -> api.FriendEntry:
    return {
        "public_key": peer.key,
        "name": peer.name,
        "state": "online" if peer.session.is_online else "offline",
        "address": peer.shown_address,
        "address6": str(peer.address6),
        "message": None,
    }


def _request_entry(request: FriendRequest) -> api.FriendEntry:
    return {
        "public_key": request.key.hex().upper(),
        "name": "",
        "state": "pending",
        "address": None,
        "address6": None,
        "message": request.message,
    }
