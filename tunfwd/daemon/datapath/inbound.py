"""Contacts that reach a service of ours.

From which address is decided before anything is tried, by the offer's `source` or by `services`: from the
contact's virtual address, through the TUN device, or by an ordinary socket. How the attempt goes changes
nothing: what refuses, or does not answer, is not there. A target of its own is always reached by an ordinary
socket. Without a device virtual addresses are this machine's, of 127.0.0.0/8, and an ordinary socket has one.

Datagrams of a contact come from the service's own port at its virtual address, as long as that is free: some
games use one port at both ends and hear no other. The first answer decides which port of the service's host a
flow leads to: a TFTP server answers from another (RFC 1350 4). Such an answer is believed where that port is
the service's, too (`LocalServices.may_answer`).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tunfwd.common.streams import DatagramFlow, Stream
from tunfwd.common.values import Random, Reason
from tunfwd.daemon.datapath import journal
from tunfwd.daemon.datapath.relay import DatagramEnd, StreamRelay
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.datapath.services import LocalServices, Unreachable
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.loop import current_time
from tunfwd.netstack.events import Datagram, DatagramRefused
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.types import Endpoint, Exhausted
from tunfwd.services.datagrams import MAX_STRANGERS, TFTP_REQUEST, ServiceFlow
from tunfwd.services.poller import Poller
from tunfwd.services.streams import ServiceStream
from tunfwd.services.target import Target
from tunfwd.wire.packets import Protocol

FIRST_PORT: Final = 49152  # RFC 6335 6: where a contact's datagrams come from
PORTS: Final = 16384


class InboundFlows:
    """Connects flows to services."""

    def __init__(
        self,
        stack: Stack,
        poller: Poller,
        scheduler: Scheduler,
        services: LocalServices,
        connect_timeout: float,
        random: Random,
        *,
        by_sockets: bool = False,
    ) -> None:
        """The timeout is in s. `by_sockets`: any socket may have a contact's address, without a device."""
        self._stack = stack
        self._poller = poller
        self._scheduler = scheduler
        self._services = services
        self._connect_timeout = connect_timeout
        self._random = random
        self._by_sockets = by_sockets
        self._datagrams: dict[tuple[Endpoint, Endpoint], DatagramsFromPeer] = {}
        """By our endpoint, at a virtual address, and the service's."""
        self._by_place: dict[Endpoint, DatagramsFromPeer] = {}
        """By our endpoint."""

    def wanted(self, peer: Peer, flow: Flow) -> None:
        """A contact wants the service behind a mapping."""
        if peer.details_of(flow.mapping).paused:
            flow.service_failed(Reason.REFUSED, current_time())
            self._scheduler.touch(peer)
            return
        try:
            service = self._find(peer, flow)
        except Unreachable as unreachable:
            peer.details_of(flow.mapping).answers.missed(unreachable.reason)
            journal.failed(peer, flow, unreachable.reason)
            flow.service_failed(unreachable.reason, current_time())
            self._scheduler.touch(peer)
            return
        match flow.protocol, service:
            case Protocol.TCP, _:
                self._connect(peer, flow, service)
            case Protocol.UDP, Target():
                DatagramsFromHost(
                    self._scheduler, peer, flow, service, self._poller, self._services.may_answer
                )
            case Protocol.UDP, FromPeer():
                place = self._free_place(service)
                end = DatagramsFromPeer(
                    self._scheduler, peer, flow, self._stack, self._datagrams, place, service
                )
                end.known_by(self._by_place)

    def _free_place(self, service: "FromPeer") -> Endpoint:
        """Return where datagrams to a service come from: its own port at the contact's address, at first."""
        place = Endpoint(service.address, service.service.port)
        while place in self._by_place:
            place = Endpoint(service.address, FIRST_PORT + self._random.getrandbits(14) % PORTS)
        return place

    def _connect(self, peer: Peer, flow: Flow, service: "Service") -> None:
        inbound = InboundStream(self._scheduler, peer, flow)
        if isinstance(service, Target):
            inbound.connecting(ServiceStream(self._poller, service, inbound, self._connect_timeout, peer))
            return
        local, now = Endpoint(service.address, 0), current_time()
        try:
            connection = self._stack.connect(local, service.service, now, self._connect_timeout)
        except Exhausted:
            inbound.fail(Reason.REFUSED)
        else:
            connection.handler = inbound
            inbound.connecting(connection)

    def datagram(self, event: Datagram) -> bool:
        """Pass on what came for a contact's virtual address; False where no flow has sent to who sent it."""
        end = self._datagrams.get((event.destination, event.source))
        if end is None:  # the kernel may have chosen another of our addresses to answer from
            end = self._by_place.get(event.destination)
            if end is None or not end.is_answered_by(event.source):
                return False
        end.received(bytes(event.payload))
        return True

    def follow(self, event: Datagram) -> bool:
        """Take a datagram for the first answer to a flow, from another port; False if it is none."""
        end = self._by_place.get(event.destination)
        if end is None or not end.expects(event.source):
            return False
        if not self._services.may_answer(end.service.port, event.source.port):
            return False
        end.lead_to(event.source)
        end.received(bytes(event.payload))
        return True

    def refused(self, event: DatagramRefused) -> None:
        """Tell a flow that the kernel says that nothing listens there."""
        if (end := self._datagrams.get((event.source, event.destination))) is not None:
            end.refused(event.destination)

    def _find(self, peer: Peer, flow: Flow) -> "Service":
        """Decide how the service of a flow is reached. Raises Unreachable."""
        target, source = peer.target_of(flow.mapping), peer.details_of(flow.mapping).source
        way = self._services.way_to(target, source, flow.protocol, peer.known_as)
        if isinstance(way, Target):
            return way
        if way.source == "host":
            return Target(str(way.address), target.port)
        local = peer.address if way.address.version == 4 else peer.address6
        if local is None:  # the range is full
            raise Unreachable("the contact has no virtual address", Reason.UNREACHABLE)
        if self._by_sockets:
            return Target(str(way.address), target.port, str(local))
        return FromPeer(local.packed, Endpoint(way.address.packed, target.port), way.everywhere)


@dataclass(frozen=True, slots=True)
class FromPeer:
    """A service that is reached from a contact's virtual address."""

    address: bytes
    """The contact's."""
    service: Endpoint
    everywhere: bool
    """Whether the service may answer from any of our addresses."""


Service = FromPeer | Target
"""How a service is reached: through the TUN device, or by an ordinary socket."""


class InboundStream(StreamRelay):
    """A connection of a contact to a service."""

    def __init__(self, scheduler: Scheduler, peer: Peer, flow: Flow) -> None:
        super().__init__(scheduler, peer, flow)
        self._answers = peer.details_of(flow.mapping).answers
        self._connecting: Stream | None = None

    def connecting(self, stream: Stream) -> None:
        """Hold a stream that is not up yet."""
        self._connecting = stream

    def connected(self, stream: Stream) -> None:
        """The service is up: tell the contact."""
        self._scheduler.afterwards(partial(journal.opened, self._peer, self.flow))
        self._answers.heard()
        self.local = stream
        self.flow.service_up(current_time())
        self._scheduler.touch(self._peer)

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """The service is not there."""
        self.fail(failure)

    def fail(self, failure: Reason) -> None:
        """Tell the contact that there is no service."""
        self.flow.end = None
        self._answers.missed(failure)
        journal.failed(self._peer, self.flow, failure)
        self.flow.service_failed(failure, current_time())
        self._scheduler.touch(self._peer)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact has gone, perhaps before the service answered."""
        if self.local is None and self._connecting is not None:
            self._connecting.abort()
        super().flow_ended(reason)


class InboundDatagrams(DatagramEnd):
    """A contact's datagrams to a service, and back."""

    def __init__(self, scheduler: Scheduler, peer: Peer, flow: Flow) -> None:
        self._scheduler = scheduler
        self._peer = peer
        self._flow = flow
        self._answers = peer.details_of(flow.mapping).answers
        flow.end = self
        flow.service_up(current_time())
        scheduler.touch(peer)

    @abstractmethod
    def _send(self, payload: bytes) -> bool:
        """Send to the service; False where the datagram is lost here."""

    def flow_datagram(self, payload: bytes) -> None:
        """Send it to the service."""
        self._answers.silent += 1
        if not self._send(payload):
            self._flow.mapping.drops += 1

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact is done."""
        self._flow.end = None

    def received(self, payload: bytes) -> None:
        """The service has answered."""
        self._answers.heard()
        self._flow.send_datagram(payload, current_time())
        self._scheduler.touch(self._peer)

    def give_up(self, failure: Reason) -> None:
        """The service is not there."""
        self._answers.missed(failure)
        self._flow.reset(failure)
        self.flow_ended(failure)
        self._scheduler.touch(self._peer)


class DatagramsFromPeer(InboundDatagrams):
    """Datagrams that a service sees come from the contact's virtual address."""

    def __init__(
        self,
        scheduler: Scheduler,
        peer: Peer,
        flow: Flow,
        stack: Stack,
        table: "dict[tuple[Endpoint, Endpoint], DatagramsFromPeer]",
        place: Endpoint,
        service: "FromPeer",
    ) -> None:
        """`place` is where the contact is to the service."""
        self._stack = stack
        self._table = table
        self._place, self.service, self._everywhere = place, service.service, service.everywhere
        self._leads_to = self.service
        self._answered = False
        self._strangers = 0
        self._latest = b""  # to another port than the service's
        table[place, self.service] = self
        super().__init__(scheduler, peer, flow)

    def known_by(self, by_place: "dict[Endpoint, DatagramsFromPeer]") -> None:
        """Be found by the endpoint at the virtual address alone, too."""
        self._by_place = by_place
        by_place[self._place] = self

    def _send(self, payload: bytes) -> bool:
        if self._leads_to is not self.service:
            self._latest = payload
            if TFTP_REQUEST.match(payload):  # of the next file, which a new server process sends
                self._lead_back()
        self._stack.send_datagram(self._place, self._leads_to, payload)
        return True

    def received(self, payload: bytes) -> None:
        """The service has answered."""
        self._answered = True
        super().received(payload)

    # -- another address or port of the service's

    def is_answered_by(self, source: Endpoint) -> bool:
        """Whether an answer is the service's, from another of our addresses."""
        ports = (self.service.port, self._leads_to.port)
        return source.port in ports and self._is_its(source.address)

    def _is_its(self, address: bytes) -> bool:
        """Whether the service may have an address: the one that we reach it at, or any where it has all."""
        return address == self.service.address or (self._everywhere and self._stack.is_own(address))

    def expects(self, source: Endpoint) -> bool:
        """Whether an answer from there may be the first."""
        if self._answered or not self._is_its(source.address) or self._strangers >= MAX_STRANGERS:
            return False
        self._strangers += 1
        return True

    def lead_to(self, source: Endpoint) -> None:
        """Send what comes to another port of the service's host."""
        self._leads_to = source
        self._table[self._place, source] = self

    def _lead_back(self) -> None:
        self._table.pop((self._place, self._leads_to), None)
        self._leads_to = self.service
        self._answered = False
        self._strangers = 0

    def refused(self, where: Endpoint) -> None:
        """Nothing listens there: at the service's own port it is over, at another it begins anew."""
        if where == self.service:
            self.give_up(Reason.REFUSED)
        else:
            self._lead_back()
            self._send(self._latest)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact is done."""
        super().flow_ended(reason)
        for service in {self.service, self._leads_to}:
            self._table.pop((self._place, service), None)
        if self._by_place.get(self._place) is self:
            del self._by_place[self._place]


class DatagramsFromHost(InboundDatagrams):
    """Datagrams by an ordinary socket."""

    def __init__(
        self,
        scheduler: Scheduler,
        peer: Peer,
        flow: Flow,
        service: Target,
        poller: Poller,
        may_answer: Callable[[int, int], bool],
    ) -> None:
        """`may_answer` is asked whether, on this machine, the second port answers for the first."""
        self._socket = ServiceFlow(poller, service, self, peer, may_answer)
        super().__init__(scheduler, peer, flow)

    def _send(self, payload: bytes) -> bool:
        return self._socket.send(payload)

    def flow_ended(self, reason: Reason | None) -> None:
        """The contact is done."""
        super().flow_ended(reason)
        self._socket.close()

    def datagram(self, flow: DatagramFlow, payload: bytes) -> None:
        """The service has answered."""
        self.received(payload)

    def datagram_failed(self, flow: DatagramFlow, failure: Reason) -> None:
        """The service is not there."""
        self.give_up(failure)
