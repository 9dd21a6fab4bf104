"""Broadcasts of this machine, to every contact whose port they are for: how games find each other.

A datagram to a broadcast or multicast address and a UDP port goes to each contact online whose port of that
number was accepted, over a flow of its own, as if it had been sent to each. What they answer comes from their
virtual addresses. Nothing new goes over the wire, and nothing that comes from a contact gets here.

What keeps it small: ports that are never fanned out, a budget of copies for each port and for all, and a
short life for flows that nobody answers (`Flow.rest_briefly`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.control.glance import LanEntry
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.loop import current_time
from tunfwd.netstack.events import Broadcast, Datagram
from tunfwd.netstack.types import Endpoint
from tunfwd.wire.packets import Protocol

DENIED: Final = frozenset({67, 68, 137, 138, 1900, 3702, 5353, 5355})
"""DHCP, NetBIOS, SSDP, WS-Discovery, mDNS, LLMNR: a contact that heard these could answer them, and be taken
for the host that is looked for, or for the router."""
PORT_COPIES: Final = (256, 1 / 128)  # of one port: at once, and s for each further one
ALL_COPIES: Final = (1024, 1 / 512)  # of all ports
MAX_PORTS: Final = 64  # that are remembered, for status; the one used longest ago gives way

NO_PACKET: Final = memoryview(b"")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PortUse:
    """What was sent to all at a port."""

    budget: Budget
    contacts: int = 0
    """How many the latest went to."""
    broadcasts: int = 0
    copies: int = 0
    last: float = 0.0


class FanOut:
    """Sends what is for all to each."""

    def __init__(self, peers: Peers, send: Callable[[Datagram], object], *, enabled: bool = True) -> None:
        """`send` takes a datagram to one contact, as if a program had sent it there."""
        self._peers = peers
        self._send = send
        self._enabled = enabled
        self._budget = Budget(*ALL_COPIES)
        self.ports: dict[int, PortUse] = {}
        """By number, the one used last at the end."""
        self.denied = 0
        """Broadcasts to ports that are never fanned out."""
        self.over_rate = 0
        """Broadcasts for which there was no budget."""

    def broadcast(self, event: Broadcast, send: Callable[[Datagram], object] | None = None) -> None:
        """Send a datagram to everyone it is for; by `send`, where it is of another network."""
        port = event.destination.port
        if not self._enabled or port in DENIED:
            self.denied += port in DENIED
            return
        version = len(event.source.address)
        places = [place for peer in self._peers if (place := _place(peer, port, version)) is not None]
        if not places:
            return
        use, now = self._use(port), current_time()
        if not (use.budget.spend(now, len(places)) and self._budget.spend(now, len(places))):
            self.over_rate += 1
            return
        use.contacts = len(places)
        use.broadcasts += 1
        use.copies += len(places)
        use.last = now
        send = self._send if send is None else send
        for place in places:
            send(Datagram(event.source, place, event.payload, False, NO_PACKET))

    def entries(self, now: float) -> list[LanEntry]:
        """Return what went out, as `status` lists it."""
        return [
            {
                "port": port,
                "contacts": use.contacts,
                "broadcasts": use.broadcasts,
                "copies": use.copies,
                "seconds": now - use.last,
            }
            for port, use in self.ports.items()
            if use.broadcasts
        ]

    def _use(self, port: int) -> PortUse:
        use = self.ports.pop(port, None)
        if use is None:
            use = PortUse(Budget(*PORT_COPIES))
            log.info("broadcasts to %d/udp go to the contacts whose port was accepted", port)
        self.ports[port] = use
        if len(self.ports) > MAX_PORTS:
            del self.ports[next(iter(self.ports))]
        return use


def _place(peer: Peer, port: int, version: int) -> Endpoint | None:
    """Return where a contact's port is, as far as it is accepted and the contact is there."""
    if (Protocol.UDP, port) not in peer.ports or not peer.session.is_online:
        return None
    address = peer.address6 if version == 16 else peer.address
    return None if address is None else Endpoint(address.packed, port)
