"""Local applications that reach a contact's service at its virtual address.

In the order of a connection's life: a SYN or a datagram comes out of the netstack; its port leads to a
mapping; the mapping gives a flow; what the contact answers is what the application hears. Where there is no
device, sockets of this machine take the netstack's place, as `Caller` and `Network`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final
from typing import Protocol as Interface

from tunfwd.common.budget import Budget
from tunfwd.common.streams import Stream, StreamHandler
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath import journal
from tunfwd.daemon.datapath.relay import DatagramEnd, StreamRelay
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.states import FlowState
from tunfwd.loop import current_time
from tunfwd.netstack.connection import Connection
from tunfwd.netstack.events import Datagram
from tunfwd.netstack.types import Endpoint
from tunfwd.wire.packets import Protocol

ON_ITS_WAY: Final = 5.0  # s; longer than a datagram is on its way, and the end of its flow that it crosses
REPEATS: Final = (16, 0.1)  # of such datagrams, and s for each further one

NEVER: Final = float("-inf")
UDP_OVERHEAD: Final = {4: 28, 16: 48}  # bytes of IP and UDP header, by the length of an address


class Caller(Stream, Interface):
    """An application that wants to be connected, which one of the methods below answers."""

    handler: StreamHandler | None
    """Who hears what it does; set before it is answered."""

    def accept(self) -> None:
        """Tell it that it is connected."""

    def refuse(self) -> None:
        """Tell it that nothing listens there."""

    def unreachable(self) -> None:
        """Tell it that the host cannot be reached."""

    def ignore(self) -> None:
        """Answer as a dead host does."""


class Network(Interface):
    """What brings applications' datagrams, and takes the answers."""

    def send_datagram(self, local: Endpoint, remote: Endpoint, payload: bytes) -> None:
        """Send a datagram from a virtual address to an application."""

    def port_unreachable(self, event: Datagram) -> None:
        """Tell the sender that nothing listens there."""

    def host_unreachable(self, event: Datagram) -> None:
        """Tell the sender that the host cannot be reached."""

    def too_big(self, event: Datagram, mtu: int) -> None:
        """Tell the sender that an IP packet of `mtu` bytes is the most that can be carried."""


class Hosts(Interface):
    """The contacts, at the addresses that applications know."""

    def __iter__(self) -> Iterator[Peer]:
        """Return all of them."""

    def at(self, address: bytes) -> Peer | None:
        """Return who is at an address."""


class OutboundFlows:
    """Answers what applications send to virtual addresses."""

    def __init__(
        self, network: Network, hosts: Hosts, scheduler: Scheduler, is_answer: Callable[[Datagram], bool]
    ) -> None:
        """`is_answer` takes what is for no port of a contact, if a service answers it from another port."""
        self._is_answer = is_answer
        self._repeats = Budget(*REPEATS)
        self._network = network
        self._hosts = hosts
        self._scheduler = scheduler
        self._datagrams: dict[tuple[Endpoint, Endpoint], OutboundDatagrams] = {}

    def incoming(self, connection: Connection) -> None:
        """A SYN: not answered before the contact's service is connected, and refused where nothing is."""
        self.call(self._hosts.at(connection.local.address), connection.local.port, connection)

    def call(self, peer: Peer | None, port: int, caller: Caller) -> None:
        """Connect an application to a port of a contact."""
        mapping = peer.ports.get((Protocol.TCP, port)) if peer is not None else None
        if peer is None or mapping is None:
            caller.refuse()
            return
        flow = peer.session.connect(mapping, current_time())
        if flow is None:
            caller.unreachable()
            return
        OutboundStream(self._scheduler, peer, flow, caller, self)
        self._scheduler.touch(peer)

    def datagram(self, event: Datagram) -> None:
        """A datagram: one flow for each application's endpoint and each virtual one."""
        end = self._datagrams.get((event.source, event.destination))
        if end is None or end.is_over:
            end = self._new_datagrams(event)
        if end is not None:
            end.send(event)

    def _new_datagrams(self, event: Datagram) -> "OutboundDatagrams | None":
        peer = self._hosts.at(event.destination.address)
        mapping = peer.ports.get((Protocol.UDP, event.destination.port)) if peer is not None else None
        if peer is None or mapping is None:
            if not self._is_answer(event):
                self._network.port_unreachable(event)
            return None
        flow = peer.session.connect(mapping, current_time())
        if flow is None:
            self._network.host_unreachable(event)
            return None
        if not event.packet:
            flow.rest_briefly()
        self._scheduler.touch(peer)
        if isinstance(flow.end, OutboundDatagrams):  # a plain mapping has one flow for all applications
            flow.end.network = self._network
            return flow.end
        return OutboundDatagrams(
            self._network, self._scheduler, self._datagrams, peer, flow, event, self._repeat
        )

    def close(self) -> None:
        """End all that is under way: there are no applications any more."""
        for end in list(self._datagrams.values()):
            end.close()
        self._datagrams.clear()
        for peer in self._hosts:
            for mapping in peer.session.mappings:
                for flow in list(mapping.flows):
                    if isinstance(flow.end, OutboundStream) and flow.end.is_by(self):
                        flow.end.end()

    def _repeat(self, event: Datagram) -> None:
        """Send what the contact's end of a flow has crossed by another flow, once."""
        if self._repeats.spend(current_time()):
            end = self._new_datagrams(event)
            if end is not None:
                end.send(event, repeated=True)


class OutboundStream(StreamRelay):
    """An application's connection to the contact's service."""

    def __init__(
        self, scheduler: Scheduler, peer: Peer, flow: Flow, caller: Caller, by: OutboundFlows
    ) -> None:
        super().__init__(scheduler, peer, flow)
        self._caller = caller
        self._by = by
        self._answers = peer.details_of(flow.mapping).answers
        caller.handler = self

    def is_by(self, flows: OutboundFlows) -> bool:
        """Whether it was made by these."""
        return self._by is flows

    def end(self) -> None:
        """Reset both ends."""
        caller, self._caller.handler = self._caller, None
        self.aborted(caller, "its network is gone")
        caller.abort()

    @property
    def ends(self) -> tuple[Endpoint, Endpoint] | None:
        """The program's end, and the virtual one; None where it came by an ordinary socket."""
        caller = self._caller
        return (caller.remote, caller.local) if isinstance(caller, Connection) else None

    def flow_opened(self) -> None:
        """The service is connected, so now the application is."""
        self._answers.heard()
        self._scheduler.afterwards(partial(journal.opened, self._peer, self.flow))
        self._caller.accept()
        self.local = self._caller
        super().flow_opened()

    def flow_failed(self, reason: Reason) -> None:
        """Tell the application as its own network would."""
        self.flow.end = None
        self._caller.handler = None
        self._answers.missed(reason)
        journal.failed(self._peer, self.flow, reason)
        match reason:
            case Reason.TIMED_OUT:
                self._caller.ignore()
            case Reason.UNREACHABLE | Reason.LOST:
                self._caller.unreachable()
            case _:
                self._caller.refuse()


class OutboundDatagrams(DatagramEnd):
    """An application's datagrams to the contact's service; on a plain mapping, those of all applications."""

    def __init__(
        self,
        network: Network,
        scheduler: Scheduler,
        table: "dict[tuple[Endpoint, Endpoint], OutboundDatagrams]",
        peer: Peer,
        flow: Flow,
        first: Datagram,
        repeat: Callable[[Datagram], None],
    ) -> None:
        """`repeat` sends a datagram by another flow."""
        self._repeat = repeat
        self._asked = NEVER  # when the latest was sent, while there was no answer since
        self.network = network
        """By which the latest sender is reached."""
        self._scheduler = scheduler
        self._table = table
        self._peer = peer
        self._flow = flow
        self._answers = peer.details_of(flow.mapping).answers
        self._latest = first
        """Whose sender gets the replies; quoted in errors."""
        flow.end = self

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """The end of the program that spoke last, and the virtual one."""
        return self._latest.source, self._latest.destination

    @property
    def is_over(self) -> bool:
        """Whether the flow has ended, though this has not been told of it yet."""
        return self._flow.state is FlowState.CLOSED

    def send(self, event: Datagram, *, repeated: bool = False) -> None:
        """Send a datagram to the contact."""
        self._latest = event
        now = current_time()
        self._asked = NEVER if repeated else now
        if not self._peer.session.is_online:
            self.network.host_unreachable(event)
            return
        if not self._flow.mapping.multi_flow:
            self._table.pop((event.source, event.destination), None)
        else:
            self._table[event.source, event.destination] = self
        if not self._flow.send_datagram(bytes(event.payload), now):
            limit = self._peer.session.datagram_payload
            self.network.too_big(event, limit + UDP_OVERHEAD[len(event.source.address)])
        self._answers.silent += 1
        self._scheduler.touch(self._peer)

    def close(self) -> None:
        """End the flow, which is of this application alone."""
        if self.is_over:
            return
        self._flow.end = None
        self._flow.reset()
        self._scheduler.touch(self._peer)

    def flow_datagram(self, payload: bytes) -> None:
        """The service has answered: from the address and port that were asked."""
        self._answers.heard()
        self._asked = NEVER
        self.network.send_datagram(self._latest.destination, self._latest.source, payload)

    def flow_ended(self, reason: Reason | None) -> None:
        """The flow is over; the next datagram starts another."""
        self._flow.end = None
        ends = self._latest.source, self._latest.destination
        if self._table.get(ends) is self:
            del self._table[ends]
        if reason is Reason.REFUSED:
            self._answers.missed(reason)
        match reason:
            case None if current_time() - self._asked < ON_ITS_WAY:  # nobody there will read it
                self._repeat(self._latest)
            case None | Reason.ABORTED | Reason.TIMED_OUT | Reason.OVERFLOW:
                pass
            case Reason.REFUSED:
                self.network.port_unreachable(self._latest)
            case _:
                self.network.host_unreachable(self._latest)
