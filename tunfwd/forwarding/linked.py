"""The transport over a link: control packets in its ordered channel, flows as its streams.

Stands where `lossless` stands with a contact that has no link, and turns the link's events into calls.
"""

from collections.abc import Callable
from typing import Final

from tunfwd.common.values import Random, Reason
from tunfwd.forwarding.transport import Sink
from tunfwd.link import (
    Bbr,
    ControlReceived,
    DatagramReceived,
    Link,
    LinkClosed,
    StreamClosed,
    StreamEnded,
    StreamReadable,
    StreamReset,
    StreamStopped,
    StreamWritable,
)
from tunfwd.link.congestion import ControllerFactory
from tunfwd.wire.carriers import Carrier
from tunfwd.wire.packets import Credit, Data, ExtensionType, Fin, Kill, Lossless, encode

MAX_DATAGRAM: Final = 65_507  # bytes; the largest UDP payload of IPv4


class LinkTransport:
    """One link, with the channels of the flows that run over it."""

    def __init__(
        self,
        carrier: Carrier,
        epochs: tuple[int, int],
        random: Random,
        now: float,
        *,
        fragment: bool,
        controller: ControllerFactory = Bbr,
        is_wanted: Callable[[int], bool] = lambda _: True,
        is_trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """`epochs` are ours and the contact's; `fragment` is whether large datagrams may be cut.

        `is_wanted` is whether there is a flow of a msg_id, `is_trusted` whether a mapping was accepted.
        """
        self._carrier = carrier
        self._fragment = fragment
        prefix = carrier.extension + bytes((ExtensionType.LINK,))
        self.link = Link(
            *epochs,
            random,
            now,
            prefix=prefix,
            fragment=fragment,
            controller=controller,
            is_wanted=is_wanted,
            is_trusted=is_trusted,
        )
        self.dropped_control = 0
        self._channels: dict[int, LinkChannel] = {}
        self._arrived: list[bytes] = []

    # -- what leaves -------------------------------------------------------------------------------------

    def send(self, packet: Lossless) -> None:
        """Send a control packet, as the lossless carrier would have it."""
        if not self.link.send_control(encode(self._carrier, packet)):
            self.dropped_control += 1

    @property
    def control_waiting(self) -> int:
        """Bytes of control packets that the contact has not acknowledged."""
        return self.link.control_waiting

    def trust_lost(self) -> None:
        """Give back what the contact was allowed for what is not accepted any more."""
        self.link.trust_lost()

    def send_datagram(self, msg_id: int, payload: bytes) -> bool:
        """Send a datagram; False where it is too large."""
        return self.link.send_datagram(msg_id, payload)

    @property
    def datagram_payload(self) -> int:
        """Bytes of the largest datagram."""
        return MAX_DATAGRAM if self._fragment else self._carrier.datagram_payload - 32

    def open_channel(self, msg_id: int, sink: Sink) -> "LinkChannel | None":
        """Open the stream of a flow; None where the contact has used its id up."""
        if not self.link.stream_open(msg_id):
            return None
        channel = self._channels[msg_id] = LinkChannel(self, msg_id, sink)
        return channel

    def was_used(self, msg_id: int) -> bool:
        """Whether this link has, or lately had, a stream of that id."""
        return self.link.stream_is_known(msg_id)

    def forget(self, msg_id: int) -> None:
        """Drop the channel of a flow that is over."""
        self._channels.pop(msg_id, None)

    @property
    def wasted(self) -> int:
        """Packets of the contact that had no effect."""
        statistics = self.link.statistics
        return statistics.foreign + statistics.malformed + statistics.duplicates + statistics.idle

    # -- what arrives ------------------------------------------------------------------------------------

    def arrived(self, packet: bytes) -> None:
        """Keep a packet until `dispatch`, so that those that come together cost one acknowledgement."""
        self._arrived.append(packet)

    def dispatch(
        self,
        now: float,
        on_control: Callable[[bytes], None],
        on_datagram: Callable[[int, bytes], None],
        on_closed: Callable[[LinkClosed], None],
    ) -> None:
        """Take in what arrived, and hand out what came of it."""
        link, channels = self.link, self._channels
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            link.receive(arrived, now)
        while (event := link.next_event()) is not None:
            match event:
                case ControlReceived(message):
                    on_control(message)
                case DatagramReceived(id_, data):
                    on_datagram(id_, data)
                case LinkClosed():
                    on_closed(event)
                case _ if (channel := channels.get(event.id)) is not None:
                    match event:
                        case StreamReadable():
                            channel.sink.channel_readable()
                        case StreamEnded():
                            channel.at_end = True
                            channel.sink.channel_readable()
                        case StreamWritable():
                            channel.sink.channel_writable()
                        case StreamReset(reason=reason) | StreamStopped(reason=reason):
                            channel.sink.channel_reset(Reason(reason))
                        case StreamClosed():
                            channel.sink.channel_done()


class LinkChannel:
    """The stream of one flow."""

    __slots__ = ("_finished", "_id", "_link", "_transport", "at_end", "sink")

    def __init__(self, transport: LinkTransport, msg_id: int, sink: Sink) -> None:
        self._transport = transport
        self._link = transport.link
        self._id = msg_id
        self._finished = False
        self.sink = sink
        self.at_end = False
        """Whether the far side has ended its direction and all of it was read."""

    @property
    def space(self) -> int:
        """Bytes that `write` takes now."""
        return 0 if self._finished else self._link.stream_space(self._id)

    def write(self, data: bytes | memoryview) -> int:
        """Take what there is room for."""
        return 0 if self._finished else self._link.stream_write(self._id, data)

    def read(self, limit: int) -> bytes:
        """Return what has come in, and give the far side credit for as much again."""
        return self._link.stream_read(self._id, limit)

    def finish(self, now: float) -> None:
        """End our direction, after all that was written."""
        self._finished = True
        self._link.stream_finish(self._id)

    def receive(self, packet: Data | Fin | Credit | Kill, now: float) -> bool:
        """Refuse it: all about a stream comes in the link's own frames."""
        return False

    def reset(self, reason: Reason) -> None:
        """Give up both directions."""
        self._link.stream_reset(self._id, reason)
        self._link.stream_stop(self._id, reason)
        self._transport.forget(self._id)

    def drop(self, reason: Reason) -> None:
        """Give up what is left of either direction, which after an orderly end is nothing.

        This may overtake the control packet that says why, so it has the reason, too.
        """
        self.reset(reason)
