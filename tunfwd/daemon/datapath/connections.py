"""Brings what the netstack tells of a connection to whoever holds it: the connection's `handler`."""

from typing import assert_never

from tunfwd.netstack import events
from tunfwd.netstack.connection import Connection

ConnectionEvent = (
    events.Readable
    | events.Writable
    | events.Connected
    | events.Eof
    | events.Closed
    | events.Aborted
    | events.ConnectFailed
)


def hand_over(event: ConnectionEvent) -> None:
    """Tell the connection's handler, if it has one; after its last event it has none."""
    connection = event.connection
    handler = connection.handler
    if handler is None:
        return
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
            connection.handler = None
            handler.closed(connection)
        case events.Aborted(reason=reason):
            connection.handler = None
            handler.aborted(connection, reason.value)
        case events.ConnectFailed(reason=failure):
            connection.handler = None
            handler.connect_failed(connection, failure)
        case _:
            assert_never(event)


def fail(connection: Connection) -> None:
    """Reset a connection that could not be served, and what it was joined to."""
    handler, connection.handler = connection.handler, None
    connection.abort()
    if handler is not None:
        handler.aborted(connection, "a failure in here")
