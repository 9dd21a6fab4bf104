"""Where everything that moves is looked up: which end belongs to a flow, which to a local stream.

`engine` feeds it with events of sessions and of the netstack; `callers` and `serving` put their ends in.
"""

from typing import Protocol

import trio

from tunfwd.common.streams import Stream, StreamHandler
from tunfwd.common.values import Reason
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.forwarding.flow import Flow
from tunfwd.netstack import events
from tunfwd.netstack.connection import Connection
from tunfwd.netstack.events import AbortReason, ConnectFailed, Event
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.types import Endpoint
from tunfwd.services.poller import Poller

_OF_NO_STREAM = events.Incoming | events.Datagram | events.DatagramRefused | events.EchoRequest | events.Fault


class FlowEnd(Protocol):
    """Our end of a flow: what it is told of the contact's doings."""

    def flow_opened(self) -> None:
        """The contact's side is up: data may flow."""

    def flow_failed(self, reason: Reason) -> None:
        """The contact's service could not be connected."""

    def flow_readable(self) -> None:
        """There is something to read, or the end of it."""

    def flow_writable(self) -> None:
        """There is room again after a short write."""

    def flow_datagram(self, payload: bytes) -> None:
        """A datagram came."""

    def flow_ended(self, reason: Reason | None) -> None:
        """The flow is over, in order if `reason` is None."""


class DatagramService(Protocol):
    """A flow's end that sends datagrams to a service from a virtual address."""

    def received(self, payload: bytes) -> None:
        """The service has answered."""

    def refused(self) -> None:
        """The kernel says that nothing listens there."""


class Switch:
    """The tables."""

    def __init__(self, stack: Stack, poller: Poller, peers: Peers) -> None:
        self.stack = stack
        self.poller = poller
        self.peers = peers
        self.dirty: set[Peer] = set()
        """Peers whose session has events or packets, or may have."""
        self.attended = False
        """Whether a round is under way, which sees to all that is dirty."""
        self.work = trio.Event()
        """Set where a round is wanted."""
        self.ends: dict[Flow, FlowEnd] = {}
        self.streams: dict[Connection, StreamHandler] = {}
        self.datagram_services: dict[tuple[Endpoint, Endpoint], DatagramService] = {}
        """By our endpoint, at a virtual address, and the service's."""

    def touch(self, peer: Peer) -> None:
        """Have the peer's session looked after, in this round or one soon."""
        self.dirty.add(peer)
        if not self.attended:
            self.work.set()

    def wake(self) -> None:
        """Have a round soon."""
        self.work.set()

    def abort(self, stream: Stream) -> None:
        """Reset a local stream. Its handler hears nothing more of it, so nobody has to find that."""
        if isinstance(stream, Connection):
            self.streams.pop(stream, None)
        stream.abort()

    def stream_event(self, event: Event) -> bool:
        """Pass an event of a connection to whoever holds it; False where nobody does."""
        if isinstance(event, _OF_NO_STREAM):
            return False
        connection = event.connection
        handler = self.streams.get(connection)
        if handler is None:
            return False
        match event:
            case events.Readable():
                handler.readable(connection)
            case events.Writable():
                handler.writable(connection)
            case events.Connected():
                handler.connected(connection)
            case events.Eof():
                handler.eof(connection)
            case events.Closed():
                del self.streams[connection]
                handler.closed(connection)
            case events.Aborted(reason=AbortReason() as reason):
                del self.streams[connection]
                handler.aborted(connection, reason.value)
            case ConnectFailed(reason=Reason() as reason):
                del self.streams[connection]
                handler.connect_failed(connection, reason)
        return True

    def fail(self, event: Event) -> None:
        """An event could not be served: reset its connection, and what that was spliced to."""
        if isinstance(event, events.Datagram | events.DatagramRefused | events.EchoRequest):
            return
        connection = event.connection
        if connection is not None:
            handler = self.streams.pop(connection, None)
            connection.abort()
            if handler is not None:
                handler.aborted(connection, "a failure in here")
