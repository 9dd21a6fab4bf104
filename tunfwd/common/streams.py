"""The local end of a forwarded connection, whatever it is made of.

A flow is joined either to a connection of the netstack, which ends in an application behind the TUN device,
or to an ordinary socket, which ends in a service. Both are a `Stream`, so the relay does not know which it
holds. What happens to a stream is told to a `StreamHandler`; datagram flows have the same pair. Types only:
the two implementations are in netstack and services, and the relay is in daemon.
"""

from typing import Protocol

from tunfwd.common.values import Reason


class Stream(Protocol):
    """A byte stream to something on this machine or near it. No call blocks or raises for a remote's sake.

    A stream ends in one of two ways. Orderly: both directions are shut down, each by its own side, and
    everything is delivered. Or aborted: by a reset, at either end, and what was under way is lost.
    """

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for, and return how many bytes that was.

        After a short write, and only then, the handler is told once that the stream is writable again.
        """

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes that have arrived, fewer if fewer are at hand, none if none are.

        What is not read is what holds the sender back. An empty result is no end of stream: that is `eof`.
        """

    def shutdown(self) -> None:
        """Send an end of stream after all that was written. Reading goes on."""

    def abort(self) -> None:
        """Reset the connection and drop what is buffered. The handler hears nothing more."""


class StreamHandler(Protocol):
    """Hears what happens to a stream. Never called from within a call to the same stream."""

    def connected(self, stream: Stream) -> None:
        """The far end has accepted the connection."""

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """The connection never came to be. The stream is over."""

    def readable(self, stream: Stream) -> None:
        """There is something to read. Not told again before `read` has been called."""

    def writable(self, stream: Stream) -> None:
        """There is space again after a short write."""

    def eof(self, stream: Stream) -> None:
        """The far end has finished sending, and all it sent has been read. Writing goes on."""

    def aborted(self, stream: Stream, reason: str) -> None:
        """The connection was reset or lost; `reason` says how, for the log. The stream is over."""

    def closed(self, stream: Stream) -> None:
        """Both directions have ended in order. The stream is over."""


class DatagramFlow(Protocol):
    """Datagrams between one local application and one service."""

    def send(self, payload: bytes) -> bool:
        """Send one datagram. False if it was dropped, for want of space or because it can never fit."""

    def close(self) -> None:
        """End the flow. The handler hears nothing more."""


class DatagramHandler(Protocol):
    """Hears what happens to a datagram flow. Never called from within a call to the same flow."""

    def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
        """One datagram came back."""

    def datagram_failed(self, flow: DatagramFlow, failure: Reason) -> None:
        """What was sent did not arrive. The flow goes on: a service may come back, and the next one may."""
