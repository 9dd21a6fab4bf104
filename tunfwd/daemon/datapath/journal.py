"""What the log says of connections: opened, failed, ended; bounded for each contact."""

import logging
from typing import Final

from tunfwd.common.text import clean
from tunfwd.common.values import Reason
from tunfwd.daemon.peers import Peer
from tunfwd.events import Kind, event
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.states import Role
from tunfwd.loop import current_time
from tunfwd.wire.packets import Protocol

log: Final = logging.getLogger(__name__)


def opened(peer: Peer, flow: Flow) -> None:
    """A connection stands."""
    _say(peer, flow, "connection_opened", "connected: %s", _what(peer, flow))


def failed(peer: Peer, flow: Flow, reason: Reason) -> None:
    """A connection never came to be."""
    _say(peer, flow, "connection_failed", "not connected: %s: %s", _what(peer, flow), reason.words)


def ended(peer: Peer, flow: Flow, reason: Reason | None) -> None:
    """A connection is over."""
    seconds = current_time() - flow.since
    how = "in order" if reason is None else reason.words
    amounts = f"{seconds:.1f} s, {flow.tx_bytes} bytes to the contact, {flow.rx_bytes} from it"
    _say(peer, flow, "connection_ended", "ended, %s: %s, %s", how, _what(peer, flow), amounts)


def _say(peer: Peer, flow: Flow, kind: Kind, line: str, *details: str) -> None:
    # Datagrams make a flow of each question: those are for who looks for something.
    level = logging.INFO if flow.protocol is Protocol.TCP else logging.DEBUG
    if log.isEnabledFor(level):
        mapping = flow.mapping
        about = event(
            kind,
            contact=peer.label,
            public_key=peer.key,
            id=peer.id_of(mapping),
            protocol=flow.protocol.name.lower(),
            port=mapping.port,
            name=clean(mapping.name),
        )
        extra = {"cause": (peer.id, peer.label), **about}
        log.log(level, line, *details, extra=extra)


def _what(peer: Peer, flow: Flow) -> str:
    mapping = flow.mapping
    name = f" ({clean(mapping.name)})" if mapping.name else ""
    if flow.role is Role.SERVING:
        return f"{peer.label} to {peer.target_of(mapping)}{name}"
    return f"from here to {mapping.port}/{flow.protocol.name.lower()} of {peer.label}{name}"
