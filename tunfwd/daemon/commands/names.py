"""What a person may call a contact that others are not called already."""

from collections.abc import Iterable

from tunfwd.common.errors import UserError
from tunfwd.common.names import folded, is_key_prefix
from tunfwd.daemon.peers import Peer
from tunfwd.tox.contacts import FriendRequest


def require_new_name(peers: Iterable[Peer], requests: Iterable[FriendRequest], name: str, key: str) -> None:
    """Raise UserError where a person gave another friend that name, or another's key begins with it."""
    others = [peer for peer in peers if peer.key != key]
    if any(peer.party.name is not None and folded(peer.party.name) == folded(name) for peer in others):
        raise UserError("failed", f"there is a contact named {name!r} already; choose another name")
    keys = [peer.key for peer in others]
    keys += [request.key.hex().upper() for request in requests]
    if is_key_prefix(name) and any(other.startswith(name.upper()) for other in keys if other != key):
        raise UserError("failed", f"{name!r} is how another's public key begins; choose another name")
