"""Takes questions about names at the resolver's virtual addresses, by UDP and TCP, from this machine alone.

    netstack -> datagram, incoming -> answer -> netstack

What answers is given by `open`. Nothing here waits: an answer is made from what is known.
"""

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Final, Protocol

from tunfwd.common.streams import Stream
from tunfwd.common.values import Reason
from tunfwd.netstack.connection import Connection
from tunfwd.netstack.events import Datagram
from tunfwd.netstack.stack import Stack

PORT: Final = 53
MAX_STREAMS: Final = 64  # the one that was opened longest ago gives way
MAX_UNSENT: Final = 1 << 18  # bytes of answers that nobody reads
LENGTH: Final = 2  # bytes before each message of a stream; RFC 1035 4.2.2


class Answer(Protocol):
    """What answers."""

    def __call__(self, data: bytes, *, stream: bool) -> bytes | None:
        """Return the answer to a message, or None."""


class NameServer:
    """The host that is asked."""

    def __init__(self, stack: Callable[[], Stack], present: Container[bytes] | None) -> None:
        """`present` has this machine's addresses besides those on the device, packed."""
        self._stack = stack
        self._present: Container[bytes] = present if present is not None else ()
        self._answer: Answer | None = None
        self.addresses: frozenset[bytes] = frozenset()
        """Where it is; empty until it is open."""
        self._streams: OrderedDict[Questions, None] = OrderedDict()

    def open(self, answer: Answer, *addresses: bytes) -> None:
        """Answer from now on, at these addresses."""
        self._answer = answer
        self.addresses = frozenset(addresses)

    def datagram(self, event: Datagram) -> bool:
        """Answer a datagram; False where it is for somebody else."""
        if event.destination.address not in self.addresses or self._answer is None:
            return False
        stack = self._stack()
        if event.destination.port != PORT:
            stack.port_unreachable(event)
        elif self._is_ours(event.source.address):
            answer = self._answer(bytes(event.payload), stream=False)
            if answer is not None:
                stack.send_datagram(event.destination, event.source, answer)
        return True

    def incoming(self, connection: Connection) -> bool:
        """Take a connection; False where it is for somebody else."""
        if connection.local.address not in self.addresses or self._answer is None:
            return False
        if connection.local.port != PORT or not self._is_ours(connection.remote.address):
            connection.refuse()
            return True
        if len(self._streams) >= MAX_STREAMS:
            oldest, _ = self._streams.popitem(last=False)
            oldest.end()
        questions = Questions(connection, self._answer, self._streams)
        self._streams[questions] = None
        connection.handler = questions
        connection.accept()
        return True

    def _is_ours(self, source: bytes) -> bool:
        return self._stack().is_own(source) or source in self._present


class Questions:
    """A stream of questions, each answered in its turn."""

    def __init__(
        self, connection: Connection, answer: Answer, streams: "OrderedDict[Questions, None]"
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._streams = streams
        self._asked = bytearray()
        self._unsent = bytearray()

    def end(self) -> None:
        """Reset it."""
        self._streams.pop(self, None)
        self._connection.abort()

    def readable(self, stream: Stream) -> None:
        """Answer all that is asked."""
        while data := stream.read(1 << 16):
            self._asked += data
            while len(self._asked) >= LENGTH:
                size = LENGTH + int.from_bytes(self._asked[:LENGTH], "big")
                if len(self._asked) < size:
                    break
                answer = self._answer(bytes(self._asked[LENGTH:size]), stream=True)
                del self._asked[:size]
                if answer is None:
                    self.end()
                    return
                self._unsent += len(answer).to_bytes(LENGTH, "big") + answer
            if len(self._unsent) > MAX_UNSENT:
                self.end()
                return
        self.writable(stream)

    def writable(self, stream: Stream) -> None:
        """Send what there was no room for."""
        if self._unsent:
            sent = stream.write(bytes(self._unsent))
            del self._unsent[:sent]

    def eof(self, stream: Stream) -> None:
        """No more questions."""
        stream.shutdown()

    def connected(self, stream: Stream) -> None:
        """The asker's turn."""

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """Nobody asks any more."""
        self._streams.pop(self, None)

    def aborted(self, stream: Stream, reason: str) -> None:
        """Nobody asks any more."""
        self._streams.pop(self, None)

    def closed(self, stream: Stream) -> None:
        """All is said."""
        self._streams.pop(self, None)
