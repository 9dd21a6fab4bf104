"""What a session's packets travel by: the lossless carrier alone, or a link once both have agreed on one.

The negotiation sends by it and does not know which of the two is underneath. Hello goes ahead of all else
that is said in an online period, and outside of the link, which it begins and ends.
"""

from collections.abc import Callable

from tunfwd.common.values import Random
from tunfwd.forwarding.handshake import Handshake
from tunfwd.forwarding.linked import LinkTransport
from tunfwd.forwarding.lossless import LosslessTransport
from tunfwd.forwarding.transport import Channel, Sink, Transport
from tunfwd.link import Link, LinkClosed
from tunfwd.link.congestion import ControllerFactory
from tunfwd.wire.carriers import Carrier
from tunfwd.wire.packets import Feature, Hello, Lossless


class Carriage:
    """Both transports of one session; a `Transport` itself."""

    __slots__ = ("_carrier", "_controller", "_current", "_handshake", "_random", "linked", "lossless")

    def __init__(
        self, carrier: Carrier, handshake: Handshake, random: Random, controller: ControllerFactory
    ) -> None:
        self._carrier = carrier
        self._handshake = handshake
        self._random = random
        self._controller = controller
        self.linked: LinkTransport | None = None
        self.lossless = LosslessTransport(carrier)
        self._current: Transport = self.lossless

    # -- which of the two --------------------------------------------------------------------------------

    def start_link(
        self,
        peer_epoch: int,
        now: float,
        *,
        is_wanted: Callable[[int], bool],
        is_trusted: Callable[[], bool],
    ) -> None:
        """Leave the lossless carrier behind: from now on all but Hello goes over the link."""
        self._current = self.linked = LinkTransport(
            self._carrier,
            (self._handshake.epoch, peer_epoch),
            self._random,
            now,
            fragment=Feature.FRAGMENT in self._handshake.features,
            controller=self._controller,
            is_wanted=is_wanted,
            is_trusted=is_trusted,
        )

    def end_link(self) -> None:
        """Drop the link, if there is one, with all that it holds."""
        if self.linked is not None:
            self.linked.link.discard()
        self.linked = None
        self._current = self.lossless

    def begin_anew(self) -> None:
        """Drop both, and trust nothing of what they hold."""
        self.end_link()
        self._current = self.lossless = LosslessTransport(self._carrier)

    def path_lost(self, now: float) -> None:
        """Drop what the carrier had queued: the contact is offline. A link waits."""
        self.lossless.clear()
        if self.linked is not None:
            self.linked.link.path_lost(now)

    def path_restored(self, now: float) -> None:
        """Have a link measure its path anew."""
        if self.linked is not None:
            self.linked.link.path_restored(now)

    # -- what leaves -------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Say Hello, unless we have in this online period."""
        hello = self._handshake.greet()
        if hello is not None:
            self.say(hello)

    def say(self, hello: Hello) -> None:
        """Send a Hello."""
        self.lossless.send(hello)

    def send(self, packet: Lossless) -> None:
        """Send a control packet, after our Hello."""
        self.greet()
        self._current.send(packet)

    def send_datagram(self, msg_id: int, payload: bytes) -> bool:
        """Send a datagram; False where it is too large."""
        return self._current.send_datagram(msg_id, payload)

    @property
    def control_waiting(self) -> int:
        """Bytes of control packets that the contact has not taken."""
        return self._current.control_waiting

    def trust_lost(self) -> None:
        """Give back what the contact was allowed for a mapping."""
        self._current.trust_lost()

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram that can be carried."""
        return self._current.datagram_payload

    def open_channel(self, msg_id: int, sink: Sink) -> Channel | None:
        """Open the byte stream of a flow; None where its id was used before."""
        return self._current.open_channel(msg_id, sink)

    def was_used(self, msg_id: int) -> bool:
        """Whether late packets may still speak of a byte stream of that id."""
        return self._current.was_used(msg_id)

    def lossy_to_send(self, now: float, *, closing: bool, brief: bool) -> list[bytes]:
        """Return the packets that the lossy carrier is to take now; `closing`: only what ends the link."""
        packets: list[bytes] = []
        if closing:
            return packets if self.linked is None else self.linked.link.packets_to_send(now)
        while (packet := self.lossless.next_datagram()) is not None:
            packets.append(packet)
        if (link := self._active_link) is not None:
            packets += link.packets_to_send(now, brief=brief)
        return packets

    @property
    def _active_link(self) -> Link | None:
        """The link, once our Hello has left: the contact drops what comes before it."""
        return None if self.linked is None or self.lossless.control_waits else self.linked.link

    # -- what arrives ------------------------------------------------------------------------------------

    def dispatch(
        self,
        now: float,
        on_control: Callable[[bytes], None],
        on_datagram: Callable[[int, bytes], None],
        on_closed: Callable[[LinkClosed], None],
    ) -> None:
        """Hand out what the link has received."""
        if self.linked is not None:
            self.linked.dispatch(now, on_control, on_datagram, on_closed)

    # -- the timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due, or None."""
        link = self._active_link
        due, of_link = self.lossless.timers.next(), None if link is None else link.next_timeout()
        if due is None or of_link is None:
            return due if of_link is None else of_link
        return min(due, of_link)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.lossless.handle_timeout(now)
        if self.linked is not None:
            self.linked.link.handle_timeout(now)
