"""All connections, by their endpoints: how many there may be, and what port and sequence number one gets."""

import hashlib
import struct
from collections import Counter

from tunfwd.netstack.connection import Connection, Environment
from tunfwd.netstack.path import Path
from tunfwd.netstack.types import Endpoint, Exhausted, Misuse, Random

MAX_CONNECTIONS = 4096  # in any state
MAX_INCOMING = 2048  # SYNs that wait for the owner
MAX_INCOMING_PER_ADDRESS = 512
FIRST_EPHEMERAL_PORT = 49152  # RFC 6335 6

Key = tuple[bytes, bytes, int, int]
"""As in the packets that arrive: source and destination address, source and destination port."""


class ConnectionTable:
    """Connections in any state but CLOSED."""

    __slots__ = (
        "_connections",
        "_environment",
        "_incoming",
        "_mtu",
        "_next_port",
        "_random",
        "_secret",
        "incoming",
    )

    def __init__(self, environment: Environment, random: Random, mtu: int) -> None:
        self._environment = environment
        self._random = random
        self._mtu = mtu
        self._secret = random.getrandbits(256).to_bytes(32, "big")
        self._next_port = random.getrandbits(14)
        self._connections: dict[Key, Connection] = {}
        self.incoming = 0
        """How many SYNs wait for the owner."""
        self._incoming: Counter[bytes] = Counter()  # the same by virtual address

    def __len__(self) -> int:
        return len(self._connections)

    def get(self, key: Key) -> Connection | None:
        """The connection that a packet belongs to."""
        return self._connections.get(key)

    def new_incoming(self, local: Endpoint, remote: Endpoint, now: float) -> Connection | None:
        """A connection for a SYN; None if there is no room."""
        if (
            len(self._connections) >= MAX_CONNECTIONS
            or self.incoming >= MAX_INCOMING
            or self._incoming[local.address] >= MAX_INCOMING_PER_ADDRESS
        ):
            return None
        self.incoming += 1
        self._incoming[local.address] += 1
        return self._new(local, remote, now)

    def new_outgoing(self, local: Endpoint, remote: Endpoint, now: float) -> Connection:
        """A connection from a virtual address, with a free port if `local` has port 0. Exhausted, Misuse."""
        if len(self._connections) >= MAX_CONNECTIONS:
            raise Exhausted("too many connections")
        if local.port == 0:
            local = Endpoint(local.address, self._free_port(local.address, remote))
        elif _key(local, remote) in self._connections:
            raise Misuse("such a connection exists")
        return self._new(local, remote, now)

    def decided(self, connection: Connection) -> None:
        """One SYN less waits for the owner."""
        address = connection.local.address
        self.incoming -= 1
        self._incoming[address] -= 1
        if not self._incoming[address]:
            del self._incoming[address]

    def remove(self, connection: Connection) -> None:
        """The endpoints of a connection are free again."""
        key = _key(connection.local, connection.remote)
        if self._connections.get(key) is connection:
            del self._connections[key]

    def _new(self, local: Endpoint, remote: Endpoint, now: float) -> Connection:
        path = Path(local.address, remote.address, self._mtu)
        sequence = self._initial_sequence(local, remote, now)
        connection = Connection(self._environment, path, (local.port, remote.port), sequence)
        self._connections[_key(local, remote)] = connection
        return connection

    def _initial_sequence(self, local: Endpoint, remote: Endpoint, now: float) -> int:
        """RFC 6528: increasing for each pair of endpoints, so that TIME_WAIT over there lets a SYN pass."""
        name = local.address + remote.address + struct.pack(">HH", local.port, remote.port)
        digest = hashlib.blake2s(name, key=self._secret, digest_size=4).digest()
        return (int.from_bytes(digest, "big") + int(now * 250_000)) & 0xFFFFFFFF

    def _free_port(self, address: bytes, remote: Endpoint) -> int:
        """RFC 6056 3.3.5, with steps of up to 16."""
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
