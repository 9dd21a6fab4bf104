"""Programs with a network of their own (`tunfwd run`): each brings the TUN device of its own namespace.

Behind it is a netstack of its own, and behind that the contacts, as they are for all programs: what comes
goes the way of all, by outbound.py, and names are answered for. Contacts do not reach anything in there.

    the guest's device -> its netstack -> outbound -> sessions

Where the virtual range is of the loopback, which no device can be for, each address is one of INSIDE there,
with the same host part. A guest goes when the process that brought it does, or the device.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_address
from typing import Final

import trio

from tunfwd.common.values import Random
from tunfwd.daemon.datapath import connections
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.datapath.nameserver import Answer, NameServer
from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.names import Address, Host, Names
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.faults import note
from tunfwd.loop import NEVER, READABLE, WRITABLE, current_time
from tunfwd.netstack import events
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.types import Endpoint, Frame, HostState
from tunfwd.tun.device import DeviceLost, Offload, PassedDevice

INSIDE: Final = IPv4Address("10.77.0.0")
MAX_GUESTS: Final = 64
EVENTS: Final = 256  # of a guest's netstack in one pass, before others get their turn


class Translation:
    """The addresses of the virtual network as guests see them."""

    def __init__(self, outside: IPv4Network) -> None:
        """`outside` is the range as it is on this machine."""
        self.outside = outside
        self.inside = outside
        if outside.is_loopback:
            self.inside = IPv4Network((INSIDE, outside.prefixlen), strict=False)
        self._change = int(outside.network_address) ^ int(self.inside.network_address)

    def __call__(self, address: bytes) -> bytes:
        """Return the other side's address for one, packed, either way; those of IPv6 are the same."""
        if len(address) != 4 or not self._change:
            return address
        return (int.from_bytes(address) ^ self._change).to_bytes(4)

    def of(self, address: IPv4Address) -> IPv4Address:
        """Do so for an address that is not packed."""
        return IPv4Address(self(address.packed))


class Hosts:
    """The contacts, at the addresses that guests see."""

    def __init__(self, peers: Peers, translate: Translation) -> None:
        self._peers = peers
        self._translate = translate

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers)

    def at(self, address: bytes) -> Peer | None:
        """Return who is at an address."""
        return self._peers.at(self._translate(address))

    def state(self, address: bytes) -> HostState:
        """Say whether an address can be reached."""
        return self._peers.host_state(self._translate(address))


class NamesInside:
    """The names of the virtual network, at the addresses that guests see."""

    def __init__(self, names: Names, translate: Translation) -> None:
        self._names = names
        self._translate = translate
        self.domain = names.domain

    def find(self, name: str) -> Host | None:
        """See Names."""
        return self._seen(self._names.find(name))

    def at(self, address: Address | bytes | str) -> Host | None:
        """See Names."""
        packed = address if isinstance(address, bytes) else ip_address(address).packed
        return self._seen(self._names.at(self._translate(packed)))

    def exists(self, name: str) -> bool:
        """See Names."""
        return self._names.exists(name)

    def _seen(self, host: Host | None) -> Host | None:
        if host is None or host.address is None:
            return host
        return Host(host.name, self._translate.of(host.address), host.address6, host.peer)


@dataclass(frozen=True, slots=True)
class Place:
    """What the network of a guest is to be like."""

    own: tuple[IPv4Interface, IPv6Interface]
    """The device's addresses."""
    resolver: tuple[bytes, bytes]
    """Where names are asked for."""
    answer: Answer | None
    """What answers; None: nobody."""


class Guest:
    """One of them: the device's watcher, and a worker of the loop."""

    def __init__(
        self,
        device: PassedDevice,
        life: int,
        place: Place,
        hosts: Hosts,
        translate: Translation,
        datapath: Datapath,
        random: Random,
    ) -> None:
        """`life` is a descriptor that is readable once the guest is gone. It and the device end with this."""
        self._device = device
        self._life = life
        self._hosts = hosts
        self._translate = translate
        self._datapath = datapath
        self._loop = datapath.loop
        self._stack = Stack(
            place.own, self._state, random, device.mtu, udp_segmentation=Offload.USO4 in device.offload
        )
        self._nameserver = NameServer(lambda: self._stack, None)
        if place.answer is not None:
            self._nameserver.open(place.answer, *place.resolver)
        self._outbound = OutboundFlows(self._stack, hosts, datapath.scheduler, lambda _: False)
        self._frames: deque[Frame] = deque()
        self._interest: int | None = None
        self._has_news = False
        self.due = NEVER
        """See Worker."""
        self.gone = trio.Event()

    def _state(self, address: bytes) -> HostState:
        return HostState.ONLINE if address in self._nameserver.addresses else self._hosts.state(address)

    async def serve(self) -> None:
        """Work until the guest is gone, or cancelled; then end all that is under way."""
        try:
            self._watch_device()
            self._loop.watch(self._life, READABLE, _Life(self.gone))
            async with trio.open_nursery() as nursery:
                await nursery.start(self._loop.attend, self)
                await self.gone.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._outbound.close()
            for descriptor in (self._device.fileno(), self._life):
                self._loop.watch(descriptor, None, self)
            self._device.close()
            os.close(self._life)

    # -- the device

    def _watch_device(self) -> None:
        interest = WRITABLE if self._frames else READABLE
        if interest != self._interest:
            self._interest = interest
            self._loop.watch(self._device.fileno(), interest, self)

    def ready(self, _events: int) -> None:
        """See Watcher."""
        self._has_news = True
        if not self._frames:
            try:
                frames = self._device.read()
            except DeviceLost:
                self.fail()
            else:
                self._stack.receive(frames, current_time())

    def fail(self) -> None:
        """See Watcher."""
        self._loop.watch(self._device.fileno(), None, self)
        self.gone.set()

    discard = fail

    # -- a pass

    def work(self) -> None:
        """See Worker."""
        if self.gone.is_set():
            return
        now = current_time()
        if self.due > now and not (self._has_news or self._stack.has_frames):
            return
        self._has_news = False
        self._stack.handle_timeout(now)
        for _ in range(EVENTS):
            if (event := self._stack.next_event()) is None:
                break
            self._hand_out(event)
        else:
            self._has_news = True
            self._loop.wake()
        self._write_frames()
        due = self._stack.next_timeout()
        self.due = NEVER if due is None or self._frames else due

    def _write_frames(self) -> None:
        frames = self._frames
        if not frames:
            frames.extend(self._stack.packets_to_send(current_time()))
        try:
            while frames and self._device.write(frames[0]):
                frames.popleft()
        except DeviceLost:
            self.fail()
        else:
            self._watch_device()

    def _hand_out(self, event: events.Event) -> None:
        """Do what an event asks for; if that fails, the connection it is of is reset."""
        try:
            self._on_event(event)
        except Exception as fault:
            note("a connection of a program that was run", fault)
            connection = getattr(event, "connection", None)
            if connection is not None:
                connections.fail(connection)

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.Incoming():
                if not self._nameserver.incoming(event.connection):
                    self._outbound.incoming(event.connection)
            case events.Datagram():
                if not self._nameserver.datagram(event):
                    self._outbound.datagram(event)
            case events.Broadcast():
                self._datapath.fan_out.broadcast(event, self._to_one)
            case events.EchoRequest():
                peer = self._hosts.at(event.destination)
                if peer is not None:
                    self._datapath.pings.echo(peer, event, self._stack)
            case events.DatagramRefused():
                pass  # an answer that nobody in there waits for any more
            case events.Fault(error, connection):
                note("the netstack of a program that was run", error)
                if connection is not None:
                    connections.fail(connection)
            case _:
                connections.hand_over(event)

    def _to_one(self, datagram: events.Datagram) -> None:
        """Send what is for all to one contact, whose address is as others see it."""
        to = Endpoint(self._translate(datagram.destination.address), datagram.destination.port)
        self._outbound.datagram(replace(datagram, destination=to))


class _Life:
    """Watches whether a guest is there."""

    def __init__(self, gone: trio.Event) -> None:
        self._gone = gone

    def ready(self, _events: int) -> None:
        """See Watcher."""
        self.fail()

    def fail(self) -> None:
        """See Watcher."""
        self._gone.set()


class Guests:
    """All of them."""

    def __init__(self, datapath: Datapath, translate: Translation, random: Random) -> None:
        self._datapath = datapath
        self._translate = translate
        self._random = random
        self._hosts = Hosts(datapath.peers, translate)
        self.count = 0
        """How many there are."""

    def admit(self, device: PassedDevice, life: int, place: Place) -> None:
        """Serve one more, until it is gone; the device and `life` are its own from now on."""
        guest = Guest(device, life, place, self._hosts, self._translate, self._datapath, self._random)
        self._datapath.poller.start(partial(self._serve, guest), guest)
        self.count += 1

    async def _serve(self, guest: Guest) -> None:
        try:
            await guest.serve()
        finally:
            self.count -= 1
