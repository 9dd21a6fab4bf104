"""The states of a TCP connection (RFC 9293 3.3.2) and all ways from one to another."""

import enum
from typing import Final


class State(enum.IntEnum):
    """As in RFC 9293, less LISTEN, which every address and port is in, and with INCOMING."""

    INCOMING = enum.auto()
    """A SYN has arrived; whether it is answered is for the owner to decide."""
    SYN_SENT = enum.auto()
    SYN_RECEIVED = enum.auto()
    ESTABLISHED = enum.auto()
    FIN_WAIT_1 = enum.auto()
    FIN_WAIT_2 = enum.auto()
    CLOSE_WAIT = enum.auto()
    CLOSING = enum.auto()
    LAST_ACK = enum.auto()
    TIME_WAIT = enum.auto()
    CLOSED = enum.auto()


class Step(enum.IntEnum):
    """What moves a connection from one state to the next."""

    ACCEPT = enum.auto()
    """The owner lets a SYN be answered."""
    SYN_CROSSED = enum.auto()
    """Both sides opened at once."""
    SYN_ACKNOWLEDGED = enum.auto()
    FIN_SENT = enum.auto()
    FIN_ACKNOWLEDGED = enum.auto()
    FIN_RECEIVED = enum.auto()
    TIMED_WAIT_OVER = enum.auto()


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.INCOMING, Step.ACCEPT): State.SYN_RECEIVED,
    (State.SYN_SENT, Step.SYN_CROSSED): State.SYN_RECEIVED,
    (State.SYN_SENT, Step.SYN_ACKNOWLEDGED): State.ESTABLISHED,
    (State.SYN_RECEIVED, Step.SYN_ACKNOWLEDGED): State.ESTABLISHED,
    (State.ESTABLISHED, Step.FIN_SENT): State.FIN_WAIT_1,
    (State.ESTABLISHED, Step.FIN_RECEIVED): State.CLOSE_WAIT,
    (State.FIN_WAIT_1, Step.FIN_ACKNOWLEDGED): State.FIN_WAIT_2,
    (State.FIN_WAIT_1, Step.FIN_RECEIVED): State.CLOSING,
    (State.FIN_WAIT_2, Step.FIN_RECEIVED): State.TIME_WAIT,
    (State.CLOSE_WAIT, Step.FIN_SENT): State.LAST_ACK,
    (State.CLOSING, Step.FIN_ACKNOWLEDGED): State.TIME_WAIT,
    (State.LAST_ACK, Step.FIN_ACKNOWLEDGED): State.CLOSED,
    (State.TIME_WAIT, Step.TIMED_WAIT_OVER): State.CLOSED,
}
"""Besides these, any state is left for CLOSED by a reset, either way, and by giving up."""

SYNCHRONIZED: Final = frozenset(State) - {State.INCOMING, State.SYN_SENT, State.SYN_RECEIVED, State.CLOSED}
"""FIN has not been sent."""
RECEIVING: Final = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
"""The peer's FIN has not arrived."""
