"""The one timer of a connection: its purpose, its deadline, and how often it has expired without progress.

Kept by connection.py; stack.py finds it when it is due.
"""

import enum
from typing import Final

from tunfwd.netstack.send_buffer import SendBuffer
from tunfwd.netstack.types import NEVER

SYN_TIMEOUT: Final = 0.3  # s before the first SYN or SYN/ACK is resent; RFC 6298 2.1 says 1 s, for any path
SYN_ACK_ATTEMPTS: Final = 6  # doublings of 0.3 s make 38 s
RETRANSMISSION_TIMEOUT: Final = 0.2  # s; RFC 6298 2.4 says 1 s; a kernel here answers in 40 ms at the latest
MAX_ATTEMPTS: Final = 9  # doublings of 0.2 s make 102 s; RFC 9293 3.8.3 wants at least 100 s
PROBE_INTERVAL: Final = 0.3  # s before the first probe of a closed window
PROBE_SILENCE: Final = 100.0  # s without any answer to probes, after which the peer is considered gone
MAX_INTERVAL: Final = 60.0  # s; RFC 6298 2.5
KEEP_ALIVE: Final = 7200.0  # s of silence; RFC 9293 3.8.4
KEEP_ALIVE_INTERVAL: Final = 75.0  # s between keep-alive probes


class Purpose(enum.Enum):
    """What the timer runs for."""

    IDLE = enum.auto()
    RETRANSMIT = enum.auto()
    PROBE = enum.auto()
    """The peer's window is too small to send anything: ask whether it still is (RFC 9293 3.8.6.1)."""
    KEEP_ALIVE = enum.auto()
    TIME_WAIT = enum.auto()
    PATIENCE = enum.auto()
    """The owner has not decided about a SYN."""


class ConnectionTimer:
    """Times are in seconds, on the clock of the stack's caller."""

    __slots__ = ("attempts", "deadline", "heard", "purpose")

    def __init__(self) -> None:
        self.purpose = Purpose.IDLE
        self.deadline = NEVER
        self.attempts = 0
        """Expirations since the peer last made progress."""
        self.heard = 0.0
        """When a segment of the peer last arrived."""

    def start(self, purpose: Purpose, deadline: float) -> None:
        """Run for `purpose` until `deadline`."""
        self.purpose = purpose
        self.deadline = deadline

    def stop(self) -> None:
        """Stop; attempts are still counted."""
        self.start(Purpose.IDLE, NEVER)

    def start_syn(self, now: float, give_up: float) -> None:
        """Run until a SYN is to be sent again, or given up."""
        interval = SYN_TIMEOUT * (1 << min(self.attempts, 16))
        self.start(Purpose.RETRANSMIT, min(now + interval, now + MAX_INTERVAL, give_up))

    def follow(self, send: SendBuffer, now: float) -> None:
        """Run for what the state of the sending half requires; if it does so already, leave the deadline."""
        in_flight = send.next > send.una
        if in_flight and not send.window_closed:
            purpose, interval = Purpose.RETRANSMIT, RETRANSMISSION_TIMEOUT
        elif in_flight or send.waiting:
            purpose, interval = Purpose.PROBE, PROBE_INTERVAL
        else:
            purpose, interval = Purpose.KEEP_ALIVE, KEEP_ALIVE_INTERVAL
        if purpose is self.purpose:
            return
        if self.purpose is not Purpose.IDLE:  # no expiration, but a new situation
            self.attempts = 0
        if purpose is not Purpose.KEEP_ALIVE:
            interval = min(interval * (1 << min(self.attempts, 16)), MAX_INTERVAL)
        elif not self.attempts:
            interval = KEEP_ALIVE - max(0.0, now - self.heard)
        self.start(purpose, now + interval)

    def restart(self, send: SendBuffer, now: float) -> None:
        """Measure from now on: the peer has made progress (RFC 6298 5.3)."""
        self.stop()
        self.follow(send, now)

    @property
    def exhausted(self) -> bool:
        """Whether retransmissions have gone unanswered for too long."""
        return self.attempts > MAX_ATTEMPTS

    def peer_is_gone(self, now: float) -> bool:
        """Whether no probe has been answered for too long."""
        return self.attempts > MAX_ATTEMPTS and now > self.heard + PROBE_SILENCE

    def peer_is_awake(self, now: float) -> bool:
        """Whether a keep-alive probe can wait, as the peer was heard in the meantime."""
        return now < self.heard + KEEP_ALIVE
