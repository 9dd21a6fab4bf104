"""The ports of contacts as sockets of this machine: what a daemon without a device has in place of one.

Linux lets any user bind any address of 127.0.0.0/8, so each port that was accepted listens at its contact's
own address there. What comes in goes the way of all local applications, by outbound.py.

Told by `Peers` of each change; sees to it at once, so that a command can say where a port is.
"""

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final
from typing import Protocol as Interface

from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Listening, Peer, Peers
from tunfwd.netstack.events import Datagram
from tunfwd.netstack.types import Endpoint
from tunfwd.services.listening import ListeningDatagrams, ListeningStream, bind_datagrams, bind_stream
from tunfwd.services.poller import Poller
from tunfwd.services.streams import CallerStream
from tunfwd.wire.packets import Protocol

ELSEWHERE: Final = 8000  # what a port that cannot be had is moved by at first: 22 is at 8022, 80 at 8080
FIRST_FREE_PORT: Final = 49152  # RFC 6335: dynamic ports
TRIES: Final = 64  # of those
NO_PACKET: Final = memoryview(b"")  # what a datagram came in is not known, and no error quotes it

Place = tuple[Protocol, int]


class Admission(Interface):
    """Says which programs of this machine may reach contacts."""

    def allows(self, protocol: Protocol, program: Endpoint, port: Endpoint) -> bool:
        """Whether the owner of the socket at `program`, which speaks to `port`, may."""
        ...

    def permits(self, user: int) -> bool:
        """Whether programs of the user with this number may."""
        ...


@dataclass(slots=True)
class Door:
    """One port that listens."""

    peer: Peer
    address: bytes
    """The contact's."""
    port: int
    """The one of the mapping."""
    listens: int
    """Where it listens."""
    socket: ListeningStream | ListeningDatagrams | None = None
    """None where it cannot listen."""


class Doors:
    """All of them; the `Network` of the datagrams that come by them."""

    def __init__(
        self, poller: Poller, peers: Peers, scheduler: Scheduler, admission: Admission | None
    ) -> None:
        """None admits everybody."""
        self._poller = poller
        self._admission = admission
        self._outbound = OutboundFlows(self, peers, scheduler, lambda _: False)
        self._doors: dict[Peer, dict[Place, Door]] = {}
        self._senders: dict[Endpoint, ListeningDatagrams] = {}
        """By the contact's address and the mapping's port."""
        self.refused = 0
        """Programs of users who may not reach contacts."""

    # -- which there are

    def update(self, peer: Peer) -> None:
        """The contact has another address, or other ports."""
        doors = self._doors.setdefault(peer, {})
        address = None if peer.address is None else peer.address.packed
        for place, door in list(doors.items()):
            if place not in peer.ports or door.address != address:
                self._close(doors.pop(place))
        if address is not None:
            for place, mapping in peer.ports.items():
                if place not in doors:
                    doors[place] = door = Door(peer, address, place[1], place[1])
                    peer.details_of(mapping).listening = self._open(door, place, peer)
        if not doors:
            del self._doors[peer]

    def remove(self, peer: Peer) -> None:
        """The contact is no more."""
        for door in self._doors.pop(peer, {}).values():
            self._close(door)

    def _open(self, door: Door, place: Place, peer: Peer) -> Listening:
        """Have a port listen, elsewhere if need be."""
        protocol, wanted = place
        host = str(peer.address)
        reason: str | None = None
        for port in _candidates(place, peer):
            try:
                if protocol is Protocol.TCP:
                    door.socket = self._listen(door, bind_stream(host, port))
                else:
                    door.socket = self._receive(door, bind_datagrams(host, port))
            except OSError as error:
                reason = reason or _explain(error, wanted)
                if error.errno in (errno.EACCES, errno.EPERM, errno.EADDRINUSE):
                    continue
                break
            door.listens = port
            return Listening(port, reason)
        return Listening(None, reason or "no port is left")

    def _listen(self, door: Door, listener: socket.socket) -> ListeningStream:
        return ListeningStream(self._poller, listener, partial(self._accepted, door))

    def _receive(self, door: Door, bound: socket.socket) -> ListeningDatagrams:
        opened = ListeningDatagrams(self._poller, bound, partial(self._received, door))
        self._senders[Endpoint(door.address, door.port)] = opened
        return opened

    def _close(self, door: Door) -> None:
        if isinstance(door.socket, ListeningDatagrams):
            self._senders.pop(Endpoint(door.address, door.port), None)
        if door.socket is not None:
            door.socket.close()

    # -- who comes

    def _accepted(self, door: Door, connection: socket.socket) -> None:
        program = connection.getpeername()
        caller = CallerStream(self._poller, connection, (door.peer, "callers"))
        if caller.is_over:
            return
        if not self._may(Protocol.TCP, Endpoint(socket.inet_aton(program[0]), program[1]), door):
            caller.refuse()
        elif not door.peer.session.is_online:
            caller.unreachable()
        else:
            self._outbound.call(door.peer, door.port, caller)

    def _received(self, door: Door, program: Endpoint, payload: bytes) -> None:
        if self._may(Protocol.UDP, program, door):
            place = Endpoint(door.address, door.port)
            self._outbound.datagram(Datagram(program, place, memoryview(payload), False, NO_PACKET))

    def _may(self, protocol: Protocol, program: Endpoint, door: Door) -> bool:
        if self._admission is None or self._admission.allows(
            protocol, program, Endpoint(door.address, door.listens)
        ):
            return True
        self.refused += 1
        return False

    # -- what goes back: as `Network`

    def send_datagram(self, local: Endpoint, remote: Endpoint, payload: bytes) -> None:
        """See Network."""
        if (sender := self._senders.get(local)) is not None:
            sender.send(remote, payload)

    def port_unreachable(self, event: Datagram) -> None:
        """See Network: only the kernel speaks ICMP, so the sender hears nothing."""

    host_unreachable = port_unreachable

    def too_big(self, event: Datagram, mtu: int) -> None:
        """See Network."""


def _candidates(place: Place, peer: Peer) -> Iterator[int]:
    """Find where a port may listen: at itself, or else at no other mapping's."""
    protocol, wanted = place
    yield wanted
    for port in (wanted + ELSEWHERE, *range(FIRST_FREE_PORT, FIRST_FREE_PORT + TRIES)):
        if port <= 65535 and (protocol, port) not in peer.ports:
            yield port


def _explain(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"port {port} takes a privilege here"
        case errno.EADDRINUSE:
            return f"port {port} is in use on this machine"
    return os.strerror(error.errno or 0)
