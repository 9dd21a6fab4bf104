"""Contacts that reach a service of ours.

The service sees who connects: a service of this machine is first tried from the contact's own virtual
address, through the TUN device, so that its logs, bans and firewall rules work for each contact. What refuses
there (it listens on loopback only), or does not answer within `PEER_PATIENCE` (a firewall on the interface),
is tried with an ordinary socket, and the log says so once. An offer with a target of its own is always
reached with an ordinary socket, and an offer's `source` can force either way.
"""

import logging

import trio

from tunfwd.common.streams import ConnectFailure, DatagramFlow, Stream
from tunfwd.common.values import Random
from tunfwd.daemon.datapath.relay import Splice
from tunfwd.daemon.datapath.switch import Switch
from tunfwd.daemon.peers import Details, Peer
from tunfwd.daemon.process.logs import caused_by
from tunfwd.forwarding.flow import Flow
from tunfwd.netstack.types import Endpoint, Exhausted
from tunfwd.services.datagrams import ServiceFlow
from tunfwd.services.streams import ServiceStream
from tunfwd.wire.packets import Protocol, Reason

PEER_PATIENCE = 1.0  # s for a service of this machine to answer a contact's virtual address
HOST_ONLY = 60.0  # s until the virtual address is tried again after it was not answered
FIRST_PORT, PORTS = 49152, 16384  # RFC 6335 6: where a contact's datagrams come from

_REASONS = {
    ConnectFailure.REFUSED: Reason.REFUSED,
    ConnectFailure.UNREACHABLE: Reason.UNREACHABLE,
    ConnectFailure.TIMED_OUT: Reason.TIMED_OUT,
    ConnectFailure.FAILED: Reason.UNREACHABLE,
}

log = logging.getLogger(__name__)


class Serving:
    """Connects flows to services."""

    def __init__(self, switch: Switch, own: bytes, connect_timeout: float, random: Random) -> None:
        """`own` is this machine's virtual address, packed; the timeout, in s, is for ordinary sockets."""
        self._switch = switch
        self._own = own
        self._connect_timeout = connect_timeout
        self._random = random

    def wanted(self, peer: Peer, flow: Flow) -> None:
        """A contact wants the service behind a mapping."""
        if peer.address is None and Reach(peer, flow).peer_first():
            # The range is full. Never as this machine instead: whoever fills it would become 127.0.0.1.
            peer.session.service_failed(flow, Reason.UNREACHABLE, trio.current_time())
            self._switch.touch(peer)
            return
        if flow.protocol is Protocol.TCP:
            TcpService(self._switch, peer, flow, self._own, self._connect_timeout)
        else:
            DatagramRelay(self._switch, peer, flow, self._own, self._random)


class Reach:
    """From which address the service of a flow is to be tried."""

    def __init__(self, peer: Peer, flow: Flow) -> None:
        self.details: Details = peer.details_of(flow.mapping)
        self.target = peer.target_of(flow.mapping)
        self._what = f"{self.target} for {peer.label}"
        self._by = caused_by(peer)

    def peer_first(self) -> bool:
        """Whether to try from the contact's virtual address."""
        if self.target.host is not None or self.details.source == "host":
            return False
        return self.details.source == "peer" or trio.current_time() >= self.details.host_only_until

    def host_next(self, failure: ConnectFailure) -> bool:
        """Whether to go on with an ordinary socket, after that failed."""
        if self.details.source == "peer":
            return False
        if failure is not ConnectFailure.REFUSED:
            self.details.host_only_until = trio.current_time() + HOST_ONLY
        return True

    def host_works(self) -> None:
        """Say, once, that the service does not see who connects."""
        if self.details.source == "auto" and self.target.host is None and not self.details.said:
            self.details.said = True
            log.info(
                "%s answers this machine's own addresses only: it will not see who connects",
                self._what,
                extra=self._by,
            )


class TcpService(Splice):
    """A connection of a contact to a service."""

    def __init__(self, switch: Switch, peer: Peer, flow: Flow, own: bytes, timeout: float) -> None:
        super().__init__(switch, peer, flow)
        self._reach = Reach(peer, flow)
        self._timeout = timeout
        self._connecting: Stream | None = None
        if self._reach.peer_first():
            self._connect_as_peer(own)
        else:
            self._connect_as_host()

    def _connect_as_peer(self, own: bytes) -> None:
        assert self._peer.address is not None
        local = Endpoint(self._peer.address.packed, 0)
        remote = Endpoint(own, self._reach.target.port)
        now = trio.current_time()
        patience = self._timeout if self._reach.details.source == "peer" else PEER_PATIENCE
        try:
            connection = self._switch.stack.connect(local, remote, now, patience)
        except Exhausted:
            self._fail(ConnectFailure.REFUSED)
            return
        self._connecting = connection
        self._switch.streams[connection] = self

    def _connect_as_host(self) -> None:
        self._connecting = ServiceStream(
            self._switch.poller, self._reach.target, self, self._timeout, self._peer
        )

    def connected(self, stream: Stream) -> None:
        """The service is up: tell the contact."""
        if isinstance(stream, ServiceStream):
            self._reach.host_works()
        self.local = stream
        self._peer.session.service_up(self.flow, trio.current_time())
        self._switch.touch(self._peer)

    def connect_failed(self, stream: Stream, failure: ConnectFailure) -> None:
        """The service is not there; perhaps an ordinary socket finds it."""
        if not isinstance(stream, ServiceStream) and self._reach.host_next(failure):
            self._connect_as_host()
        else:
            self._fail(failure)

    def _fail(self, failure: ConnectFailure) -> None:
        self._switch.ends.pop(self.flow, None)
        self._peer.session.service_failed(self.flow, _REASONS[failure], trio.current_time())
        self._switch.touch(self._peer)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact has gone, perhaps before the service answered."""
        if self.local is None and self._connecting is not None:
            self._switch.abort(self._connecting)
        super().flow_ended(reason)


class DatagramRelay:
    """A contact's datagrams to a service, and back."""

    def __init__(self, switch: Switch, peer: Peer, flow: Flow, own: bytes, random: Random) -> None:
        self._switch = switch
        self._peer = peer
        self._flow = flow
        self._reach = Reach(peer, flow)
        self._unanswered: bytes | None = None
        self._host: ServiceFlow | None = None
        self._ends: tuple[Endpoint, Endpoint] | None = None
        switch.ends[flow] = self
        if self._reach.peer_first():
            service = Endpoint(own, self._reach.target.port)
            assert peer.address is not None
            while self._ends is None or self._ends in switch.datagram_services:
                port = FIRST_PORT + random.getrandbits(14) % PORTS
                self._ends = Endpoint(peer.address.packed, port), service
            switch.datagram_services[self._ends] = self
        else:
            self._open_as_host()
        peer.session.service_up(flow, trio.current_time())
        switch.touch(peer)

    def _open_as_host(self) -> None:
        self._host = ServiceFlow(self._switch.poller, self._reach.target, self, self._peer)

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
        if self._host is not None:
            if not self._host.send(payload):
                self._flow.mapping.drops += 1
        elif self._ends is not None:
            self._unanswered = payload
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
        """The service has answered the contact's virtual address."""
        self._unanswered = None
        self._flow.send_datagram(payload, trio.current_time())
        self._switch.touch(self._peer)

    def refused(self) -> None:
        """Nothing listens for the contact's virtual address: an ordinary socket may do."""
        if self._ends is not None:
            self._switch.datagram_services.pop(self._ends, None)
            self._ends = None
        if not self._reach.host_next(ConnectFailure.REFUSED):
            self._give_up(ConnectFailure.REFUSED)
            return
        self._open_as_host()
        if self._unanswered is not None:
            self.flow_datagram(self._unanswered)

    def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
        """The service has answered an ordinary socket."""
        self._reach.host_works()
        self.received(payload)

    def datagram_failed(self, flow: DatagramFlow, failure: ConnectFailure) -> None:
        """The service is not there."""
        self._give_up(failure)

    def _give_up(self, failure: ConnectFailure) -> None:
        self._flow.reset(_REASONS[failure])
        self.flow_ended(_REASONS[failure])
        self._switch.touch(self._peer)
