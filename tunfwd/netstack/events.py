"""What the stack tells its owner, in the order it happened.

A connection's story ends with exactly one of ConnectFailed, Aborted and Closed, or with a call of the owner
(refuse, unreachable, abort), after which nothing is heard of it.
"""

from builtins import Exception, memoryview  # compiled, a dataclass looks up the types of its fields here
from collections import deque
from dataclasses import dataclass
from typing import Final

from tunfwd.common.values import Reason
from tunfwd.netstack.connection import Connection
from tunfwd.netstack.shares import Shares
from tunfwd.netstack.types import AbortReason, Endpoint
from tunfwd.wire import icmp

MAX_DATAGRAM_EVENTS: Final = 8192
"""Datagrams that wait for the owner; and LEAST_DATAGRAM_EVENTS for each virtual address beyond."""
MAX_DATAGRAM_EVENTS_PER_ADDRESS: Final = 4096
"""The newest are dropped."""
LEAST_DATAGRAM_EVENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Incoming:
    """A SYN for a host that is online: accept(), refuse(), unreachable(), or let it wait.

    Unanswered for PATIENCE, or given up by its sender, it ends with Aborted.
    """

    connection: Connection


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is complete, whichever side began it."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """connect() failed."""

    connection: Connection
    reason: Reason
    """REFUSED, UNREACHABLE or TIMED_OUT."""


@dataclass(init=False, slots=True)
class Readable:
    """There is data to read; not repeated before read() was called."""

    connection: Connection

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


@dataclass(frozen=True, slots=True)
class Writable:
    """There is ample space again after a write was cut short."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Eof:
    """The peer has finished sending, and everything it sent has been read."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Aborted:
    """A reset came, or the peer fell silent; what was not read or not delivered is lost."""

    connection: Connection
    reason: AbortReason


@dataclass(frozen=True, slots=True)
class Closed:
    """Both directions have ended in order and everything was read and delivered."""

    connection: Connection


@dataclass(init=False, slots=True)
class Datagram:
    """A UDP datagram for a host that is online."""

    source: Endpoint
    destination: Endpoint
    payload: memoryview
    dont_fragment: bool
    """Whether Stack.too_big is the way to say that it cannot be carried; always true of IPv6."""
    packet: memoryview
    """The beginning of its IP packet, for errors to quote; empty where no error may answer it."""

    def __init__(
        self,
        source: Endpoint,
        destination: Endpoint,
        payload: memoryview,
        dont_fragment: bool,
        packet: memoryview,
    ) -> None:
        self.source = source
        self.destination = destination
        self.payload = payload
        self.dont_fragment = dont_fragment
        self.packet = packet


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A UDP datagram of this machine to nobody in particular: a broadcast, a multicast, or outside the range.

    No error ever answers it.
    """

    source: Endpoint
    destination: Endpoint
    payload: memoryview


@dataclass(frozen=True, slots=True)
class DatagramRefused:
    """A datagram sent from `source` did not reach `destination`; the reason says why."""

    source: Endpoint
    destination: Endpoint
    reason: Reason


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """An echo request to a host that is online; Stack.answer_echo answers for it."""

    source: bytes
    destination: bytes
    echo: icmp.Echo


@dataclass(frozen=True, slots=True)
class Fault:
    """The stack itself failed over a packet, or in serving `connection`, which has been reset."""

    error: Exception
    connection: Connection | None


Event = (
    Incoming
    | Connected
    | ConnectFailed
    | Readable
    | Writable
    | Eof
    | Aborted
    | Closed
    | Datagram
    | Broadcast
    | DatagramRefused
    | EchoRequest
    | Fault
)


class EventQueue:
    """Events that wait for the owner, oldest first; connections report their own (connection.Listener)."""

    __slots__ = ("_datagrams", "_events")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._datagrams: Shares[bytes] = Shares(
            MAX_DATAGRAM_EVENTS, MAX_DATAGRAM_EVENTS_PER_ADDRESS, LEAST_DATAGRAM_EVENTS
        )

    def append(self, event: Event) -> None:
        """Queue an event for the owner."""
        self._events.append(event)

    def reserve(self, address: bytes) -> bool:
        """Reserve a place for a datagram to a virtual address; False where too many wait."""
        return self._datagrams.take(address)

    def next(self) -> Event | None:
        """Return the next event, or None. Events of muted connections are left out."""
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Readable):  # the usual one
                if event.connection.muted:
                    continue
                return event
            if isinstance(event, Datagram | Broadcast):
                self._datagrams.give_back(event.destination.address)
                return event
            if isinstance(event, EchoRequest | DatagramRefused | Fault) or not event.connection.muted:
                return event
        return None

    # -- what connections tell ---------------------------------------------------------------------------

    def incoming(self, connection: Connection) -> None:
        """A SYN waits for the owner."""
        self._events.append(Incoming(connection))

    def connected(self, connection: Connection) -> None:
        """The handshake is complete."""
        self._events.append(Connected(connection))

    def connect_failed(self, connection: Connection, reason: Reason) -> None:
        """The connection could not be established."""
        self._events.append(ConnectFailed(connection, reason))

    def readable(self, connection: Connection) -> None:
        """There is something to read."""
        self._events.append(Readable(connection))

    def writable(self, connection: Connection) -> None:
        """There is space again."""
        self._events.append(Writable(connection))

    def eof(self, connection: Connection) -> None:
        """The peer has finished."""
        self._events.append(Eof(connection))

    def aborted(self, connection: Connection, reason: AbortReason) -> None:
        """The connection was reset or lost."""
        self._events.append(Aborted(connection, reason))

    def closed(self, connection: Connection) -> None:
        """Both directions have ended in order."""
        self._events.append(Closed(connection))
