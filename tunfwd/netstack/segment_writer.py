"""Writes the segments of one connection, from what its two buffers hold.

Told by connection.py what kind of segment is due; path.py makes frames of them.
"""

from tunfwd.netstack.path import Path
from tunfwd.netstack.receive_buffer import MAX_UNSCALED_WINDOW, WINDOW_SCALE, ReceiveBuffer
from tunfwd.netstack.send_buffer import Piece, SendBuffer
from tunfwd.netstack.types import Frame
from tunfwd.wire import tcp


class SegmentWriter:
    """Writes segments; holds what all of a connection have in common."""

    __slots__ = ("_destination", "_path", "_receive", "_send", "_source", "sack_permitted")

    def __init__(self, path: Path, ports: tuple[int, int], send: SendBuffer, receive: ReceiveBuffer) -> None:
        """`ports` are ours and the peer's."""
        self._path = path
        self._source, self._destination = ports
        self._send = send
        self._receive = receive
        self.sack_permitted = True

    def syn(self, answer: bool) -> Frame:
        """Return a SYN with all the options we know, or the answer to one, with those that it had."""
        scale = WINDOW_SCALE if self._receive.window_scale else None
        options = tcp.Options(self._path.mss, scale, self.sack_permitted)
        return self._path.segment(
            self._source,
            self._destination,
            sequence=self._send.una - 1,
            acknowledgment=self._receive.next if answer else 0,
            flags=tcp.SYN | tcp.ACK if answer else tcp.SYN,
            window=MAX_UNSCALED_WINDOW,
            options=tcp.build_syn_options(options),
        )

    def data(self, piece: Piece) -> Frame:
        """Return a segment, or a super-segment, with data or FIN."""
        return self._path.segment(
            self._source,
            self._destination,
            sequence=piece.sequence,
            acknowledgment=self._receive.next,
            flags=tcp.ACK | (tcp.PSH if piece.push else 0) | (tcp.FIN if piece.fin else 0),
            window=self._receive.advertise(),
            payload=piece.data,
            mss=self._send.mss,
        )

    def acknowledgment(self, *, probe: bool = False) -> Frame:
        """Return an empty segment. A probe has an acknowledged sequence number, and so must be answered."""
        blocks = self._receive.sack_blocks() if self.sack_permitted else []
        return self._path.segment(
            self._source,
            self._destination,
            sequence=self._send.una - 1 if probe else self._send.next,
            acknowledgment=self._receive.next,
            flags=tcp.ACK,
            window=self._receive.advertise(),
            options=tcp.build_sack(blocks) if blocks else b"",
        )

    def reset(self) -> Frame:
        """Return a reset of the connection."""
        return self._path.segment(
            self._source,
            self._destination,
            sequence=self._send.next,
            acknowledgment=self._receive.next,
            flags=tcp.RST | tcp.ACK,
        )

    def refusal(self) -> Frame:
        """Return a reset that answers a SYN."""
        return self._path.segment(
            self._source,
            self._destination,
            sequence=0,
            acknowledgment=self._receive.next,
            flags=tcp.RST | tcp.ACK,
        )

    def reset_unknown(self, acknowledgment: int) -> Frame:
        """Return a reset that answers an acknowledgment of what was never sent (RFC 9293 3.5.2)."""
        return self._path.segment(self._source, self._destination, sequence=acknowledgment, flags=tcp.RST)
