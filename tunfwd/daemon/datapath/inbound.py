"""Contacts that reach a service of ours.

From which address is decided before anything is tried, by the offer's `source` or by `services`: from the
contact's virtual address, through the TUN device, or by an ordinary socket. How the attempt goes changes
nothing: what refuses, or does not answer, is not there. A target of its own is always reached by an ordinary
socket.
"""

from dataclasses import dataclass

import trio

from tunfwd.common.streams import DatagramFlow, Stream
from tunfwd.common.values import Random, Reason
from tunfwd.daemon.datapath.relay import Splice
from tunfwd.daemon.datapath.services import LocalServices, Unreachable
from tunfwd.daemon.datapath.switch import Switch
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.netstack.types import Endpoint, Exhausted
from tunfwd.services.datagrams import ServiceFlow
from tunfwd.services.streams import ServiceStream
from tunfwd.services.target import Target
from tunfwd.wire.packets import Protocol

FIRST_PORT, PORTS = 49152, 16384  # RFC 6335 6: where a contact's datagrams come from


class Serving:
    """Connects flows to services."""

    def __init__(
        self, switch: Switch, services: LocalServices, connect_timeout: float, random: Random
    ) -> None:
        """The timeout is in s."""
        self._switch = switch
        self._services = services
        self._connect_timeout = connect_timeout
        self._random = random

    def wanted(self, peer: Peer, flow: Flow) -> None:
        """A contact wants the service behind a mapping."""
        try:
            service = self._find(peer, flow)
        except Unreachable as unreachable:
            peer.details_of(flow.mapping).answers.missed(unreachable.reason)
            peer.session.service_failed(flow, unreachable.reason, trio.current_time())
            self._switch.touch(peer)
            return
        if flow.protocol is Protocol.TCP:
            TcpService(self._switch, peer, flow, service, self._connect_timeout)
        else:
            DatagramRelay(self._switch, peer, flow, service, self._random)

    def _find(self, peer: Peer, flow: Flow) -> "Service":
        """Decide how the service of a flow is reached. Raises Unreachable."""
        target, source = peer.target_of(flow.mapping), peer.details_of(flow.mapping).source
        way = self._services.way_to(target, source, flow.protocol)
        if isinstance(way, Target):
            return way
        if way.source == "host":
            return Target(str(way.address), target.port)
        local = peer.address if way.address.version == 4 else peer.address6
        if local is None:  # the range is full
            raise Unreachable("the contact has no virtual address", Reason.UNREACHABLE)
        return FromPeer(local.packed, Endpoint(way.address.packed, target.port))


@dataclass(frozen=True, slots=True)
class FromPeer:
    """A service that is reached from a contact's virtual address."""

    address: bytes
    """The contact's."""
    service: Endpoint


Service = FromPeer | Target
"""How a service is reached: through the TUN device, or by an ordinary socket."""


class TcpService(Splice):
    """A connection of a contact to a service."""

    def __init__(self, switch: Switch, peer: Peer, flow: Flow, service: Service, timeout: float) -> None:
        super().__init__(switch, peer, flow)
        self._answers = peer.details_of(flow.mapping).answers
        self._connecting: Stream | None = None
        if isinstance(service, Target):
            self._connecting = ServiceStream(switch.poller, service, self, timeout, peer)
            return
        local, now = Endpoint(service.address, 0), trio.current_time()
        try:
            connection = switch.stack.connect(local, service.service, now, timeout)
        except Exhausted:
            self._fail(Reason.REFUSED)
            return
        self._connecting = connection
        switch.streams[connection] = self

    def connected(self, stream: Stream) -> None:
        """The service is up: tell the contact."""
        self._answers.heard()
        self.local = stream
        self._peer.session.service_up(self.flow, trio.current_time())
        self._switch.touch(self._peer)

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """The service is not there."""
        self._fail(failure)

    def _fail(self, failure: Reason) -> None:
        self._switch.ends.pop(self.flow, None)
        self._answers.missed(failure)
        self._peer.session.service_failed(self.flow, failure, trio.current_time())
        self._switch.touch(self._peer)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact has gone, perhaps before the service answered."""
        if self.local is None and self._connecting is not None:
            self._switch.abort(self._connecting)
        super().flow_ended(reason)


class DatagramRelay:
    """A contact's datagrams to a service, and back."""

    def __init__(self, switch: Switch, peer: Peer, flow: Flow, service: Service, random: Random) -> None:
        self._switch = switch
        self._peer = peer
        self._flow = flow
        self._answers = peer.details_of(flow.mapping).answers
        self._host: ServiceFlow | None = None
        self._ends: tuple[Endpoint, Endpoint] | None = None
        switch.ends[flow] = self
        if isinstance(service, Target):
            self._host = ServiceFlow(switch.poller, service, self, peer)
        else:
            while self._ends is None or self._ends in switch.datagram_services:
                port = FIRST_PORT + random.getrandbits(14) % PORTS
                self._ends = Endpoint(service.address, port), service.service
            switch.datagram_services[self._ends] = self
        peer.session.service_up(flow, trio.current_time())
        switch.touch(peer)

    # From the contact.

    def flow_opened(self) -> None:
        """Nothing waits for it."""

    def flow_failed(self, reason: Reason) -> None:
        """The flow never came to be."""
        self.flow_ended(reason)

    def flow_readable(self) -> None:
        """Datagrams come by themselves."""

    def flow_writable(self) -> None:
        """Datagrams wait for nothing."""

    def flow_datagram(self, payload: bytes) -> None:
        """Send it to the service."""
        self._answers.silent += 1
        if self._host is not None:
            if not self._host.send(payload):
                self._flow.mapping.drops += 1
        elif self._ends is not None:
            self._switch.stack.send_datagram(*self._ends, payload)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact is done."""
        self._switch.ends.pop(self._flow, None)
        if self._ends is not None:
            self._switch.datagram_services.pop(self._ends, None)
        if self._host is not None:
            self._host.close()

    # From the service.

    def received(self, payload: bytes) -> None:
        """The service has answered."""
        self._answers.heard()
        self._flow.send_datagram(payload, trio.current_time())
        self._switch.touch(self._peer)

    def refused(self) -> None:
        """Nothing listens for the contact's virtual address."""
        self._give_up(Reason.REFUSED)

    def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
        """The service has answered an ordinary socket."""
        self.received(payload)

    def datagram_failed(self, flow: DatagramFlow, failure: Reason) -> None:
        """The service is not there."""
        self._give_up(failure)

    def _give_up(self, failure: Reason) -> None:
        self._answers.missed(failure)
        self._flow.reset(failure)
        self.flow_ended(failure)
        self._switch.touch(self._peer)
