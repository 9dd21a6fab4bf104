"""What the stack tells its owner, in the order it happened.

A connection's story ends with exactly one of ConnectFailed, Aborted and Closed, or with a call of the owner
(refuse, unreachable, abort), after which nothing is heard of it.
"""

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunfwd.common.values import Reason
from tunfwd.netstack.types import Endpoint
from tunfwd.wire import icmp

if TYPE_CHECKING:
    from tunfwd.netstack.connection import Connection


class AbortReason(enum.Enum):
    """Why a connection did not end in order."""

    RESET = "reset by peer"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A SYN for a host that is online: accept(), refuse(), unreachable(), or let it wait.

    Unanswered for PATIENCE, or given up by its sender, it ends with Aborted.
    """

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is complete, whichever side began it."""

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """connect() came to nothing."""

    connection: "Connection"
    reason: Reason


@dataclass(frozen=True, slots=True)
class Readable:
    """There is something to read; not told again before read() was called."""

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class Writable:
    """There is ample space again after a write was cut short."""

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class Eof:
    """The peer has finished sending, and everything it sent has been read."""

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class Aborted:
    """A reset came, or the peer fell silent; what was not read or not delivered is lost."""

    connection: "Connection"
    reason: AbortReason


@dataclass(frozen=True, slots=True)
class Closed:
    """Both directions have ended in order and everything was read and delivered."""

    connection: "Connection"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram for a host that is online."""

    source: Endpoint
    destination: Endpoint
    payload: memoryview
    dont_fragment: bool
    """Whether Stack.too_big is the way to say that it cannot be carried; always true of IPv6."""
    packet: memoryview
    """How the IP packet began that it came in, for errors to quote."""


@dataclass(frozen=True, slots=True)
class DatagramRefused:
    """A datagram sent from `source` did not reach `destination`; the reason says why."""

    source: Endpoint
    destination: Endpoint
    reason: Reason


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """Somebody pings a host that is online; Stack.answer_echo answers for it."""

    source: bytes
    destination: bytes
    echo: icmp.Echo


@dataclass(frozen=True, slots=True)
class Fault:
    """The stack itself failed over a packet, or in serving `connection`, which has been reset."""

    error: Exception
    connection: "Connection | None"


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
    | DatagramRefused
    | EchoRequest
    | Fault
)
