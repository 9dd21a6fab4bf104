"""A SOCKS5 server, by which programs reach contacts by name: browsers, ssh, curl.

It leads to contacts and nowhere else. What a client sends is bounded in size and time until it is connected;
from then on it is a `Caller` as any other, and what it is told is what became of its connection.
"""

import socket
from functools import partial
from ipaddress import ip_address
from typing import Final

import trio

from tunfwd.common.streams import Stream, StreamHandler
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath.associations import Association
from tunfwd.daemon.datapath.doors import Admission
from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.names import Names
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.netstack.types import Endpoint
from tunfwd.services.listening import ListeningStream, bind_datagrams, endpoint_of
from tunfwd.services.poller import Poller
from tunfwd.services.socks import (
    MAX_MESSAGE,
    Address,
    Command,
    Enclosed,
    Handshake,
    NotSocks,
    Refused,
    Reply,
    Request,
    answer,
)
from tunfwd.services.streams import SocketStream
from tunfwd.wire.packets import Protocol

OWNER: Final = "SOCKS"  # whose share of sockets these are of
PATIENCE: Final = 10.0  # s for a client to say what it wants, and again to take the refusal
MAX_UNDECIDED: Final = 256  # clients that have not said it yet


class Socks:
    """The server."""

    def __init__(
        self,
        listener: socket.socket,
        poller: Poller,
        outbound: OutboundFlows,
        peers: Peers,
        scheduler: Scheduler,
        names: Names,
        admission: Admission | None,
    ) -> None:
        """Serve on a socket that listens; None admits everybody."""
        self._poller = poller
        self._outbound = outbound
        self._peers = peers
        self._scheduler = scheduler
        self._names = names
        self._admission = admission
        self.undecided = 0
        self._own = endpoint_of(listener.getsockname())
        self._listening = ListeningStream(poller, listener, self._accepted)

    def _accepted(self, connection: socket.socket) -> None:
        try:
            program = endpoint_of(connection.getpeername())
            place = endpoint_of(connection.getsockname())
        except OSError:  # gone already
            connection.close()
            return
        if self.undecided >= MAX_UNDECIDED:
            connection.close()
            return
        SocksClient(self, self._poller, connection, self._admits(Protocol.TCP, program, place))

    def _admits(self, protocol: Protocol, program: Endpoint, place: Endpoint) -> bool:
        return self._admission is None or self._admission.allows(protocol, program, place)

    def connect(self, client: "SocksClient", request: Request) -> None:
        """Connect a client to whom it wants."""
        found = self._find(request.host)
        if isinstance(found, Reply):
            client.fail_with(found)
        elif not found.session.is_online:
            client.unreachable()
        else:
            self._outbound.call(found, request.port, client)

    def associate(self, request: Request, client: socket.socket) -> Association | None:
        """Return a way for a client's datagrams, at the address where it connected; None: there is no room.

        It has to be the client's address that they come from. Its port may be told; it is not the one of its
        connection.
        """
        if not self._poller.sockets.take(OWNER):
            return None
        try:
            bound = bind_datagrams(client.getsockname()[0], 0)
            program = Endpoint(endpoint_of(client.getpeername()).address, request.port)
        except OSError:
            self._poller.sockets.give_back(OWNER)
            return None
        return Association(
            self._poller,
            self._peers,
            self._scheduler,
            bound,
            program,
            self._whom,
            partial(self._admits, Protocol.UDP),
            self._peers.dropped,
        )

    def _whom(self, enclosed: Enclosed) -> Peer | None:
        found = self._find(enclosed.host)
        return None if isinstance(found, Reply) else found

    def _find(self, wanted: Address | str) -> Peer | Reply:
        if isinstance(wanted, str):
            try:
                return self._at(ip_address(wanted).packed)  # an address, written as a name
            except ValueError:
                pass
            host = self._names.find(wanted)
            if host is not None and host.peer is not None:
                return host.peer
            return Reply.HOST_UNREACHABLE if self._names.covers(wanted) else Reply.NOT_ALLOWED
        return self._at(wanted.packed)

    def _at(self, address: bytes) -> Peer | Reply:
        peer = self._peers.at(address)
        return Reply.NOT_ALLOWED if peer is None else peer


class SocksClient(SocketStream):
    """A client, its own handler until it is connected; a `Caller` then, or what an association stands by."""

    __slots__ = ("_admitted", "_association", "_handshake", "_rest", "_server")

    def __init__(self, server: Socks, poller: Poller, accepted: socket.socket, admitted: bool) -> None:
        super().__init__(poller, None, OWNER)
        self._server = server
        self._admitted = admitted
        self._rest = b""
        self._association: Association | None = None
        self._handshake: Handshake | None = Handshake()
        server.undecided += 1
        self.handler = _Beginning()
        self._open(accepted)
        if not self._has_place:
            self.abort()
        else:
            poller.start(self._expire, self)

    async def _expire(self) -> None:
        await trio.sleep(PATIENCE)
        if type(self.handler) is _Beginning:
            self.abort()

    # -- what it wants

    @property
    def is_undecided(self) -> bool:
        """Whether it has not said yet."""
        return self._handshake is not None

    def hear(self) -> None:
        """Take in what it says."""
        if self._handshake is None:
            self.read(MAX_MESSAGE)  # refused already: it is not waited for
            return
        try:
            while data := self.read(MAX_MESSAGE):
                said, request = self._handshake.receive(data)
                if said:
                    self.write(said)
                if request is not None:
                    self._rest = self._handshake.rest
                    self._decide()
                    self._go_on(request)
                    return
        except NotSocks:
            self.abort()
        except Refused as refused:
            self._refuse(refused.answer)

    def _go_on(self, request: Request) -> None:
        if not self._admitted:
            self.fail_with(Reply.NOT_ALLOWED)
        elif request.command is Command.CONNECT:
            self._server.connect(self, request)
        else:
            self._associate(request)

    def _associate(self, request: Request) -> None:
        self._rest = b""
        self._association = self._server.associate(request, self._socket)
        if self._association is None:
            self.fail_with(Reply.GENERAL_FAILURE)
        else:
            self.handler = _Associated()
            self.write(answer(Reply.SUCCEEDED, self._association.place))

    def _decide(self) -> None:
        if self._handshake is not None:
            self._handshake = None
            self._server.undecided -= 1

    def read(self, limit: int) -> bytes:
        """See Stream: what came with the request goes first."""
        if self._rest and self._handshake is None:
            data, self._rest = self._rest[:limit], self._rest[limit:]
            return data
        return super().read(limit)

    # -- what it is told: as `Caller`

    def accept(self) -> None:
        """See Caller."""
        self.write(answer(Reply.SUCCEEDED))

    def refuse(self) -> None:
        """See Caller."""
        self.fail_with(Reply.CONNECTION_REFUSED)

    def unreachable(self) -> None:
        """See Caller."""
        self.fail_with(Reply.HOST_UNREACHABLE)

    def ignore(self) -> None:
        """See Caller."""
        self.fail_with(Reply.TTL_EXPIRED)

    def fail_with(self, reply: Reply) -> None:
        """Tell it why there is no connection, and end."""
        self._refuse(answer(reply))

    def _refuse(self, said: bytes) -> None:
        self._decide()
        self._rest = b""
        if self.is_over:
            return
        self.handler = _Beginning()
        self.write(said)
        self.shutdown()
        self._poller.start(self._expire, self)

    def _close(self) -> None:
        self._decide()
        if self._association is not None:
            self._association.close()
            self._association = None
            self._poller.sockets.give_back(OWNER)
        super()._close()


class _Beginning(StreamHandler):
    """Hears what a client does that is not connected."""

    def connected(self, stream: Stream) -> None:
        """It is from the beginning."""

    def connect_failed(self, stream: Stream, failure: Reason) -> None:
        """It cannot be."""

    def readable(self, stream: Stream) -> None:
        """It says something."""
        assert isinstance(stream, SocksClient)
        stream.hear()

    def writable(self, stream: Stream) -> None:
        """Answers are short."""

    def eof(self, stream: Stream) -> None:
        """It says nothing more: the end of it, if it has not said what it wants."""
        if isinstance(stream, SocksClient) and stream.is_undecided:
            stream.abort()

    def aborted(self, stream: Stream, reason: str) -> None:
        """It is gone."""

    def closed(self, stream: Stream) -> None:
        """It is gone."""


class _Associated(_Beginning):
    """Hears what a client does whose datagrams are carried: nothing that it says means anything."""

    def readable(self, stream: Stream) -> None:
        """It is not listened to."""
        stream.read(MAX_MESSAGE)

    def eof(self, stream: Stream) -> None:
        """That is the end of it."""
        stream.abort()
