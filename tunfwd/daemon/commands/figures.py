"""What our end of a contact's link measures."""

from typing import Literal, NamedTuple

import trio

from tunfwd.daemon.contacts.tracker import link_of
from tunfwd.daemon.peers import Peer


class Figures(NamedTuple):
    """None, each, where there is no link, or nothing was sent over it yet."""

    path: Literal["direct", "relay"] | None
    """None: offline."""
    path_seconds: float | None
    """For how long it has been this one; None: offline."""
    rtt: float | None
    """s, smoothed."""
    loss: float | None
    """The part of the bytes sent over this path that was lost."""
    window: int | None
    """Bytes that may be in flight."""


def figures_of(peer: Peer) -> Figures:
    """Return the figures of a contact's link."""
    reached = link_of(peer)
    path = None if reached == "offline" else reached
    since = None if path is None or peer.path_since is None else trio.current_time() - peer.path_since
    link = peer.session.link
    if link is None or path is None:
        return Figures(path, since, None, None, None)
    recovery = link.recovery
    sent = recovery.path.delivered + recovery.path.lost
    loss = recovery.path.lost / sent if sent else None
    return Figures(path, since, link.round_trip, loss, recovery.controller.cwnd)
