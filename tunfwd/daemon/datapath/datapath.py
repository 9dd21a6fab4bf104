"""All that moves packets, put together: between a TUN device, the contacts' sessions and the services."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from random import SystemRandom
from time import perf_counter

from tunfwd.common.values import Random
from tunfwd.daemon.datapath.doors import Admission, Doors
from tunfwd.daemon.datapath.engine import Engine, MappingHandler
from tunfwd.daemon.datapath.fanout import FanOut
from tunfwd.daemon.datapath.inbound import InboundFlows
from tunfwd.daemon.datapath.nameserver import NameServer
from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.datapath.pings import Pings
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.datapath.services import LocalServices, Table
from tunfwd.daemon.peers import Peers
from tunfwd.daemon.storage.state import Content
from tunfwd.netstack.events import Datagram
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.types import HostState
from tunfwd.services.poller import Poller
from tunfwd.tun.device import Device, Offload
from tunfwd.tun.nodevice import NoDevice
from tunfwd.tun.sources import Source


@dataclass(frozen=True, slots=True)
class Machine:
    """What a daemon stands on."""

    device: Device | NoDevice
    addresses: tuple[IPv4Interface, IPv6Interface]
    """Ours, on the device."""
    interface: int
    """The index of the device."""
    loopback: int
    """That of the interface which leads to this machine itself."""
    listeners: Table
    local: Container[bytes] | None = None
    """Where packets may come from; None: from anywhere."""
    present: Container[bytes] | None = None
    """The addresses that this machine has; None: all that it is to have."""
    speak_from: Callable[[tuple[Source, ...]], None] = lambda _: None
    """Have the device have addresses of ours, and programs speak from them."""
    rootless: bool = False
    """Whether contacts are reached at sockets of this machine, as it has no device of ours."""
    admission: Admission | None = None
    """Whose programs may reach contacts; None: everybody's."""
    poller: Poller = field(default_factory=Poller)
    random: Random = field(default_factory=SystemRandom)
    clock: Callable[[], float] = perf_counter
    """Measures how long contacts are served, in s."""


class Datapath:
    """The parts, each made once."""

    def __init__(
        self,
        machine: Machine,
        content: Content,
        save: Callable[[], None],
        mappings: MappingHandler,
        connect_timeout: float,
        *,
        broadcast: bool = True,
    ) -> None:
        """`save` writes `content`, soon, whenever it has changed; the timeout, of services, is in s.

        `broadcast` is whether what is for all goes to the contacts whose port it is for.
        """
        device, random, (ipv4, ipv6) = machine.device, machine.random, machine.addresses
        self.device = device
        self._speak_from = machine.speak_from
        self.admission = machine.admission
        self.own4 = ipv4
        self.poller = machine.poller
        self.loop = machine.poller.loop
        self.peers = Peers()
        self.nameserver = NameServer(lambda: self.stack, machine.present)
        self.stack = Stack(
            machine.addresses,
            self._host_state,
            random,
            device.mtu,
            udp_segmentation=Offload.USO4 in device.offload,
            local=machine.local,
        )
        self.scheduler = Scheduler(machine.clock, self.loop.wake)
        self.doors: Doors | None = None
        if machine.rootless:
            self.doors = Doors(self.poller, self.peers, self.scheduler, machine.admission)
            self.peers.keeper = self.doors
        self.services = LocalServices(
            machine.listeners,
            content,
            save,
            (ipv4.ip, ipv6.ip),
            interface=machine.interface,
            loopback=machine.loopback,
            present=machine.present,
            by_sockets=machine.rootless,
        )
        self.pings = Pings(self.stack, self.scheduler, random)
        inbound = InboundFlows(
            self.stack,
            self.poller,
            self.scheduler,
            self.services,
            connect_timeout,
            random,
            by_sockets=machine.rootless,
        )
        self.outbound = outbound = OutboundFlows(self.stack, self.peers, self.scheduler, inbound.follow)

        def send(datagram: Datagram) -> None:
            if not inbound.datagram(datagram):
                outbound.datagram(datagram)

        self.fan_out = FanOut(self.peers, send, enabled=broadcast)
        self.engine = Engine(
            device,
            self.stack,
            self.peers,
            self.scheduler,
            mappings,
            outbound,
            inbound,
            self.fan_out,
            self.pings,
            self.nameserver,
            self.loop,
            machine.clock,
        )

    def _host_state(self, address: bytes) -> HostState:
        return HostState.ONLINE if address in self.nameserver.addresses else self.peers.host_state(address)

    def set_own(self, addresses: Iterable[IPv4Address | IPv6Address], sources: tuple[Source, ...]) -> None:
        """Have these be our own addresses, besides the device's, and programs speak from them as said."""
        known = tuple(addresses)
        self.stack.set_own(address.packed for address in known)
        self.services.set_own(known)
        self._speak_from(sources)
