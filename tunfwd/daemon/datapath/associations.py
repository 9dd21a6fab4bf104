"""UDP through the SOCKS5 server (RFC 1928 7): one socket for each client that asks for it, for as long as its
connection stands.

Datagrams go the way of all local programs, by outbound.py, to contacts and nowhere else. What is dropped is
counted, and nobody is told: there is no ICMP by this way.
"""

from collections import Counter
from collections.abc import Callable
from socket import socket

from tunfwd.daemon.datapath.doors import NO_PACKET
from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.netstack.events import Datagram
from tunfwd.netstack.types import Endpoint
from tunfwd.services.listening import ListeningDatagrams, endpoint_of
from tunfwd.services.poller import Poller
from tunfwd.services.socks import Enclosed, Fragment, NotSocks, enclose, open_datagram


class Association:
    """A client's way for datagrams; the `Network` of those that come by it."""

    def __init__(
        self,
        poller: Poller,
        peers: Peers,
        scheduler: Scheduler,
        bound: socket,
        client: Endpoint,
        find: Callable[[Enclosed], Peer | None],
        admits: Callable[[Endpoint, Endpoint], bool],
        dropped: Counter[str],
    ) -> None:
        """`client` is where it sends from, at port 0 where that is not known yet.

        `find` says whom a datagram is for, and `admits` whether the program at the first place may send to
        the second, which is ours.
        """
        self._client = client
        self._find = find
        self._admits = admits
        self._dropped = dropped
        self._outbound = OutboundFlows(self, peers, scheduler, lambda _: False)
        self.place = endpoint_of(bound.getsockname())
        """Where it takes them."""
        self._socket = ListeningDatagrams(poller, bound, self._received)

    def close(self) -> None:
        """Take no more, and end what is under way."""
        self._socket.close()
        self._outbound.close()

    # -- what the client sends

    def _received(self, program: Endpoint, data: bytes) -> None:
        if program.address != self._client.address or self._client.port not in (0, program.port):
            self._drop("foreign")
        elif not self._admits(program, self.place):
            self._drop("refused")
        else:
            self._client = program  # the first to send is the one: others may have this address, too
            self._send(program, data)

    def _send(self, program: Endpoint, data: bytes) -> None:
        try:
            enclosed = open_datagram(data)
        except Fragment:
            self._drop("fragments")
            return
        except NotSocks:
            self._drop("malformed")
            return
        peer = self._find(enclosed)
        if peer is None:
            self._drop("unknown")
            return
        if isinstance(enclosed.host, str):
            address = (peer.address or peer.address6).packed
        else:
            address = enclosed.host.packed
        to = Endpoint(address, enclosed.port)
        self._outbound.datagram(Datagram(program, to, memoryview(enclosed.payload), False, NO_PACKET))

    def _drop(self, reason: str) -> None:
        self._dropped[f"socks_{reason}"] += 1

    # -- what goes back: as `Network`

    def send_datagram(self, local: Endpoint, remote: Endpoint, payload: bytes) -> None:
        """See Network."""
        self._socket.send(remote, enclose(local, payload))

    def port_unreachable(self, event: Datagram) -> None:
        """See Network."""
        self._drop("unreachable")

    host_unreachable = port_unreachable

    def too_big(self, event: Datagram, mtu: int) -> None:
        """See Network."""
        self._drop("too_big")
