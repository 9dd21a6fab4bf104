"""What the control socket can ask about keys whose friend requests are dropped."""

from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX
from tunfwd.common.notation import read_key
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.contacts.tracker import ContactTracker
from tunfwd.daemon.peers import Peers
from tunfwd.daemon.storage.state import contact_id
from tunfwd.tox.contacts import Friend


class BlockCommands:
    """The handlers of `friend.block` and its like."""

    def __init__(self, contacts: ContactTracker, peers: Peers) -> None:
        self._contacts = contacts
        self._client = contacts.client
        self._tickets = contacts.tickets
        self._peers = peers

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.FRIEND_BLOCK, self._block)
        dispatcher.add(api.FRIEND_UNBLOCK, self._unblock)
        dispatcher.add(api.FRIEND_BLOCKED, self._blocked)

    async def _block(self, params: api.Block) -> api.BlockedResult:
        key, name = self._find(params.who)
        if key == self._client.public_key:
            raise UserError("usage", "this is ourselves")
        self._contacts.require_free(contact_id(key))
        self._tickets.block(key, name)
        if any(request.key == key for request in self._client.friends.requests):
            self._client.friends.reject(key)
        if (friend := self._client.friends.get(key)) is not None:
            self._client.friends.remove(friend)
        return {"blocked": [{"public_key": key.hex().upper(), "name": name}]}

    def _find(self, text: str) -> tuple[bytes, str]:
        """Return the key that a person means, and what its owner is called."""
        try:
            return read_key(text.removeprefix("tox:")), ""
        except ValueError:
            pass
        digits = text.upper()
        asking = [
            request.key
            for request in self._client.friends.requests
            if len(text) >= KEY_PREFIX and request.key.hex().upper().startswith(digits)
        ]
        if len(asking) == 1:
            return asking[0], ""
        peer = self._peers.find(text)
        if not isinstance(peer.contact, Friend):
            raise UserError("usage", f"{peer.label} is a member of a group, not a friend")
        return peer.contact.key, peer.name

    async def _unblock(self, params: api.Unblock) -> api.BlockedResult:
        blocked, text = self._tickets.blocked, params.who
        found = [key for key, name in blocked.items() if name and name == text] or [
            key for key in blocked if len(text) >= KEY_PREFIX and key.startswith(text.upper())
        ]
        if not found:
            raise UserError("not_found", f"{text!r} is not blocked; `tunfwd friend blocked` lists who is")
        if len(found) > 1:
            raise UserError("ambiguous", f"{text!r} may be any of {len(found)}; write more of the key")
        name = blocked[found[0]]
        self._tickets.unblock(found[0])
        return {"blocked": [{"public_key": found[0], "name": name}]}

    async def _blocked(self, _: api.Nothing) -> api.BlockedResult:
        return {"blocked": [{"public_key": key, "name": name} for key, name in self._tickets.blocked.items()]}
