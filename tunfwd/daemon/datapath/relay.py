"""The relay between a flow of a contact and a local stream, and what a local end is told.

The local stream is a connection of the netstack or an ordinary socket; the relay does not know which. What
one side has no room for waits here, at most one `CHUNK` each way, and stops the other side's reading: that is
how a slow reader stops the far writer. outbound.py and inbound.py add how the two sides come to be.
"""

from abc import abstractmethod
from typing import Final

from tunfwd.common.streams import Stream
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath import journal
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.loop import current_time

CHUNK: Final = 256 * 1024  # bytes read at once


class StreamRelay:
    """Moves bytes both ways until both directions have ended, or one side aborts."""

    def __init__(self, scheduler: Scheduler, peer: Peer, flow: Flow) -> None:
        self.flow = flow
        self.local: Stream | None = None
        self._scheduler = scheduler
        self._peer = peer
        self._to_local = memoryview(b"")
        self._to_flow = memoryview(b"")
        self._local_eof = False
        self._flow_write_closed = False
        """Whether our direction, towards the contact, has ended."""
        self._local_write_closed = False
        """Whether the contact's direction, towards the local stream, has ended."""
        flow.end = self

    # From the contact.

    def flow_opened(self) -> None:
        """Data may flow."""
        self._from_flow()
        self._from_local()

    def flow_failed(self, reason: Reason) -> None:
        """The flow never came to be."""
        self.flow_ended(reason)

    def flow_readable(self) -> None:
        """The contact has sent something."""
        self._from_flow()

    def flow_writable(self) -> None:
        """There is room again after a short write."""
        self._from_local()

    def flow_datagram(self, payload: bytes) -> None:
        """Streams have none."""

    def flow_ended(self, reason: Reason | None) -> None:
        """The flow is over: in order, when everything it brought was read, or else at once."""
        self.flow.end = None
        if self.local is not None:
            journal.ended(self._peer, self.flow, reason)
        if reason is not None and self.local is not None:
            self.local.abort()
        elif reason is None:
            self._flow_write_closed = True
            self._from_flow()

    def _from_flow(self) -> None:
        """Move what the contact sent, as far as the local stream has room."""
        local, flow = self.local, self.flow
        if local is None or self._local_write_closed:
            return
        while True:
            if self._to_local:
                taken = local.write(self._to_local)
                self._to_local = self._to_local[taken:]
                if self._to_local:
                    return  # `writable` goes on
            data = flow.read(CHUNK)
            if not data:
                break
            self._to_local = memoryview(data)
        self._scheduler.touch(self._peer)
        if flow.at_end:
            self._local_write_closed = True
            local.shutdown()

    # From the local stream.

    def connected(self, stream: Stream) -> None:
        """The local stream is up."""

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """The local stream never came to be."""

    def readable(self, stream: Stream) -> None:
        """The local side has sent something."""
        self._from_local()

    def writable(self, stream: Stream) -> None:
        """There is room again after a short write."""
        self._from_flow()

    def eof(self, stream: Stream) -> None:
        """The local side has finished sending, and all of it was read."""
        self._local_eof = True
        self._from_local()

    def aborted(self, stream: Stream, reason: str) -> None:
        """The local side has reset the connection."""
        if self.flow.end is not None:
            journal.ended(self._peer, self.flow, Reason.ABORTED)
        self.flow.end = None
        self.flow.reset(Reason.ABORTED)
        self._scheduler.touch(self._peer)

    def closed(self, stream: Stream) -> None:
        """Both directions of the local stream have ended in order; the flow's end may still be on its way."""

    def _from_local(self) -> None:
        """Move what the local side sent, as far as the flow has room."""
        local, flow = self.local, self.flow
        if local is None:
            return
        while True:
            if self._to_flow:
                taken = flow.write(self._to_flow)
                self._to_flow = self._to_flow[taken:]
                if self._to_flow:
                    break  # `flow_writable`, or `flow_opened`, goes on
            data = local.read(CHUNK)
            if not data:
                break
            if self._flow_write_closed:  # nobody is there to take it: say so, as a kernel would
                local.abort()
                return
            self._to_flow = memoryview(data)
        self._scheduler.touch(self._peer)
        if self._local_eof and not self._to_flow and not self._flow_write_closed and flow.is_open:
            self._flow_write_closed = True
            flow.finish(current_time())


class DatagramEnd:
    """The local end of a flow of datagrams: for the most part it waits for nothing."""

    def flow_opened(self) -> None:
        """What waited is on its way already."""

    def flow_failed(self, reason: Reason) -> None:
        """The flow never came to be."""
        self.flow_ended(reason)

    def flow_readable(self) -> None:
        """Datagrams come by themselves."""

    def flow_writable(self) -> None:
        """Datagrams wait for nothing."""

    @abstractmethod
    def flow_datagram(self, payload: bytes) -> None:
        """A datagram came from the contact."""

    @abstractmethod
    def flow_ended(self, reason: Reason | None) -> None:
        """The flow is over."""
