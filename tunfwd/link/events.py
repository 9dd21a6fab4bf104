"""What a link tells its owner, through ``Link.next_event``."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """The next control message, whole and in order."""

    message: bytes


@dataclass(init=False, slots=True)
class StreamReadable:
    """There is something to read where there was nothing.

    Not repeated before the stream has been read empty.
    """

    id: int

    def __init__(self, id: int) -> None:
        self.id = id


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer has finished, and everything it sent has been read."""

    id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer has given its half up: what was unread is gone, and nothing more comes."""

    id: int
    reason: int


@dataclass(frozen=True, slots=True)
class StreamStopped:
    """The peer reads no further: our half has been reset."""

    id: int
    reason: int


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """There is room again after a write that was cut short."""

    id: int


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """Both halves are done and acknowledged; the link has forgotten the stream."""

    id: int


@dataclass(init=False, slots=True)
class DatagramReceived:
    """A datagram of a flow."""

    id: int
    data: bytes

    def __init__(self, id: int, data: bytes) -> None:
        self.id = id
        self.data = data


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The link is over: by the peer's Close, or because the peer broke the rules (`violation` says which)."""

    reason: int
    violation: str | None


Event: TypeAlias = (
    ControlReceived
    | StreamReadable
    | StreamEnded
    | StreamReset
    | StreamStopped
    | StreamWritable
    | StreamClosed
    | DatagramReceived
    | LinkClosed
)
