"""All connections, by their endpoints: how many there may be, and what port and sequence number one gets.

Each virtual address has shares of its own: one of the connections that programs here open to it, one of those
that are opened from it to services here. So no contact takes another's places, nor one direction the other's.
"""

import hashlib
import struct
from typing import Final

from tunfwd.common.errors import Misuse
from tunfwd.common.values import Random
from tunfwd.netstack.connection import Connection, Environment, Listener
from tunfwd.netstack.path import Path
from tunfwd.netstack.shares import Shares
from tunfwd.netstack.types import Endpoint, Exhausted

MAX_CONNECTIONS: Final = 16384  # each way, in any state; and LEAST for each virtual address beyond
MAX_PER_ADDRESS: Final = 4096
LEAST: Final = 256
MAX_INCOMING: Final = 4096  # SYNs that wait for the owner; and LEAST_INCOMING for each virtual address beyond
MAX_INCOMING_PER_ADDRESS: Final = 2048  # a program that opens a thousand at once needs no retransmission
LEAST_INCOMING: Final = 64
FIRST_EPHEMERAL_PORT: Final = 49152  # RFC 6335 6

Key = tuple[bytes, bytes, int, int]
"""As in the packets that arrive: source and destination address, source and destination port."""


class ConnectionTable:
    """Connections in any state but CLOSED."""

    __slots__ = (
        "_connections",
        "_environment",
        "_from_hosts",
        "_listener",
        "_mtu",
        "_next_port",
        "_random",
        "_secret",
        "_to_hosts",
        "_undecided",
    )

    def __init__(self, environment: Environment, listener: Listener, random: Random, mtu: int) -> None:
        self._environment = environment
        self._listener = listener
        self._random = random
        self._mtu = mtu
        self._secret = random.getrandbits(256).to_bytes(32, "big")
        self._next_port = random.getrandbits(14)
        self._connections: dict[Key, Connection] = {}
        # By virtual address:
        self._to_hosts: Shares[bytes] = Shares(MAX_CONNECTIONS, MAX_PER_ADDRESS, LEAST)
        self._from_hosts: Shares[bytes] = Shares(MAX_CONNECTIONS, MAX_PER_ADDRESS, LEAST)
        self._undecided: Shares[bytes] = Shares(MAX_INCOMING, MAX_INCOMING_PER_ADDRESS, LEAST_INCOMING)

    @property
    def incoming(self) -> int:
        """How many SYNs wait for the owner."""
        return self._undecided.taken

    def __len__(self) -> int:
        return len(self._connections)

    def get(self, key: Key) -> Connection | None:
        """Return the connection that a packet belongs to."""
        return self._connections.get(key)

    def new_incoming(self, local: Endpoint, remote: Endpoint, now: float) -> Connection | None:
        """Return a connection for a SYN; None if there is no room."""
        if not self._undecided.take(local.address):
            return None
        if not self._to_hosts.take(local.address):
            self._undecided.give_back(local.address)
            return None
        return self._new(local, remote, self._to_hosts, now)

    def new_outgoing(self, local: Endpoint, remote: Endpoint, now: float) -> Connection:
        """Return a connection from a virtual address, with a free port if `local` has port 0.

        Raises Exhausted, and Misuse if there is such a connection already.
        """
        if local.port == 0:
            local = Endpoint(local.address, self._free_port(local.address, remote))
        elif _key(local, remote) in self._connections:
            raise Misuse("such a connection exists")
        if not self._from_hosts.take(local.address):
            raise Exhausted("too many connections from this address")
        return self._new(local, remote, self._from_hosts, now)

    def decided(self, connection: Connection) -> None:
        """Count a SYN as no longer waiting for the owner."""
        self._undecided.give_back(connection.local.address)

    def remove(self, connection: Connection) -> None:
        """Release the endpoints of a connection."""
        key = _key(connection.local, connection.remote)
        if self._connections.get(key) is connection:
            del self._connections[key]
            connection.share.give_back(connection.local.address)

    def _new(self, local: Endpoint, remote: Endpoint, share: Shares[bytes], now: float) -> Connection:
        path = Path(local.address, remote.address, self._mtu)
        sequence = self._initial_sequence(local, remote, now)
        connection = Connection(
            self._environment, self._listener, path, (local.port, remote.port), sequence, share
        )
        self._connections[_key(local, remote)] = connection
        return connection

    def _initial_sequence(self, local: Endpoint, remote: Endpoint, now: float) -> int:
        """Return a number that grows for each pair of endpoints (RFC 6528): TIME_WAIT passes a SYN."""
        name = local.address + remote.address + struct.pack(">HH", local.port, remote.port)
        digest = hashlib.blake2s(name, key=self._secret, digest_size=4).digest()
        return (int.from_bytes(digest, "big") + int(now * 250_000)) & 0xFFFFFFFF

    def _free_port(self, address: bytes, remote: Endpoint) -> int:
        """Return a free port by RFC 6056 3.3.5, with steps of up to 16."""
        count = 65536 - FIRST_EPHEMERAL_PORT
        self._next_port += self._random.getrandbits(4)
        for _ in range(count):
            self._next_port = (self._next_port + 1) % count
            local = Endpoint(address, FIRST_EPHEMERAL_PORT + self._next_port)
            if _key(local, remote) not in self._connections:
                return local.port
        raise Exhausted("no free port")


def _key(local: Endpoint, remote: Endpoint) -> Key:
    return remote.address, local.address, remote.port, local.port
