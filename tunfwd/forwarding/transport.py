"""How a session's packets travel: what the lossless carrier and the link have in common.

The negotiation sends packets and opens channels, and does not know which of the two is underneath.
"""

from typing import Protocol

from tunfwd.common.values import Reason
from tunfwd.wire.packets import Credit, Data, Fin, Kill, Lossless


class Sink(Protocol):
    """The owner of a channel: what it is told."""

    def channel_readable(self) -> None:
        """Bytes, or the end of them, wait to be read where there were none."""

    def channel_writable(self) -> None:
        """There is room again after a write that was cut short."""

    def channel_done(self) -> None:
        """Both directions have ended in order, and all was sent."""

    def channel_reset(self, reason: Reason) -> None:
        """The far side has reset the stream."""

    def channel_broken(self, reason: Reason) -> None:
        """The far side broke the rules of the channel; it can only be reset."""


class Channel(Protocol):
    """One flow's byte stream, both ways."""

    @property
    def space(self) -> int:
        """Bytes that `write` takes now."""

    @property
    def at_end(self) -> bool:
        """Whether the far side has ended its direction and all of it was read."""

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes to send, in order; return how many, which may be fewer than given."""

    def read(self, limit: int) -> bytes:
        """Return up to `limit` received bytes; b"" when there are none yet, or no more."""

    def finish(self, now: float) -> None:
        """End our direction, after all that was written."""

    def receive(self, packet: Data | Fin | Credit | Kill, now: float) -> bool:
        """Take in a packet about the stream; False where such a packet means nothing to it."""

    def reset(self, reason: Reason) -> None:
        """Drop everything in both directions and tell the far side."""

    def drop(self, reason: Reason) -> None:
        """Drop everything in both directions; the far side is told in another way, or is gone."""


class Transport(Protocol):
    """What a session sends with."""

    def send(self, packet: Lossless) -> None:
        """Send a control packet, in order, ahead of bulk data."""

    def send_datagram(self, msg_id: int, payload: bytes) -> bool:
        """Send one datagram, or return False where it is too large to be carried."""

    @property
    def control_waiting(self) -> int:
        """Bytes of control packets that the contact has not taken."""

    def trust_lost(self) -> None:
        """Give back what the contact was allowed for a mapping: none is accepted any more."""

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram that can be carried."""

    def open_channel(self, msg_id: int, sink: Sink) -> Channel | None:
        """Open the byte stream of a flow; None where its id was used before."""

    def was_used(self, msg_id: int) -> bool:
        """Whether a byte stream of that id was opened before, and late packets may still speak of it."""
