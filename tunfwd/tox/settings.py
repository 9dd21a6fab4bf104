"""What the `[tox]` part of the configuration can say. The daemon fills it; client.py obeys it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, Self

_NODE: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5}):(?P<key>[0-9A-Fa-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the network to start from, or a relay."""

    host: str
    port: int
    key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "HOST:PORT:KEY", KEY in 64 hex digits; an IPv6 address in brackets. Raises ValueError."""
        match = _NODE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT:KEY with a key of 64 hex digits")
        host = match["v6"] or match["host"]
        if not host.isprintable():
            raise ValueError(f"{text!r}: {host!r} is not a host name or address")
        port = int(match["port"])
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} in {text!r} is not a port")
        return cls(host, port, bytes.fromhex(match["key"]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.key.hex().upper()}"


Origin = Literal["bootstrap", "relays", "bundled", "added"]
USUAL_TCP_PORTS: Final = (443, 3389, 33445)  # where relays listen, the one that firewalls let through first


@dataclass(frozen=True, slots=True)
class NetworkNode:
    """A node that we may join at, as configured or from a list."""

    key: bytes
    hosts: tuple[str, ...]
    """Addresses or names, in the order to try."""
    udp_port: int | None
    """None: it is used as a relay only."""
    tcp_ports: tuple[int, ...]
    """In the order to try."""
    origin: Origin
    maintainer: str = ""
    location: str = ""

    @classmethod
    def of(cls, node: Node, origin: Origin) -> Self:
        """Return what [tox] `bootstrap` or `relays` names."""
        if origin == "relays":
            return cls(node.key, (node.host,), None, (node.port,), origin)
        # It may relay at other ports than the one where it listens for UDP.
        ports = dict.fromkeys((node.port, *USUAL_TCP_PORTS))
        return cls(node.key, (node.host,), node.port, tuple(ports), origin)

    @property
    def is_numeric(self) -> bool:
        """Whether no name has to be resolved."""
        return all(is_address(host) for host in self.hosts)

    def __str__(self) -> str:
        host, port = self.hosts[0], self.udp_port or self.tcp_ports[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_address(host: str) -> bool:
    """Tell an address from a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that every connection goes through. UDP does not."""

    kind: Literal["http", "socks5"]
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to be a node, and as whom. Defaults are those of an ordinary machine."""

    savedata: Path
    """The file of our identity; made at the first start."""
    passphrase_file: Path | None = None
    """Encrypts the identity; the first line counts."""
    name: str = ""
    """Our nickname; empty leaves the one in the identity."""
    library: Literal["builtin", "pytox"] = "builtin"
    """Which binding to libtoxcore to use."""
    bootstrap: tuple[Node, ...] = ()
    public_nodes: tuple[NetworkNode, ...] = ()
    """Nodes to join at besides those of `bootstrap`; none unless somebody says which."""
    relays: tuple[Node, ...] = ()
    """Relays to use besides those that toxcore finds."""
    udp: bool = True
    udp_port: int = 0
    """0: the first free one of 33445 to 33545."""
    ipv6: bool = True
    local_discovery: bool = True
    tcp_relay_port: int = 0
    """Port to relay for others at; 0: do not."""
    proxy: Proxy | None = None
    groups: bool = True
    """False runs without groups on a library that has none."""

    def __post_init__(self) -> None:
        for name, port in (("udp_port", self.udp_port), ("tcp_relay_port", self.tcp_relay_port)):
            if not 0 <= port <= 65535:
                raise ValueError(f"{name}: {port} is not a port")
        if len(self.name.encode()) > 128:
            raise ValueError("name: more than 128 bytes in UTF-8")
        if self.proxy is not None and not 1 <= self.proxy.port <= 65535:
            raise ValueError(f"proxy: {self.proxy.port} is not a port")

    @property
    def network_nodes(self) -> tuple[NetworkNode, ...]:
        """All nodes that we may join at."""
        return (
            *(NetworkNode.of(node, "bootstrap") for node in self.bootstrap),
            *(NetworkNode.of(node, "relays") for node in self.relays),
            *self.public_nodes,
        )


def nodes(texts: Iterable[str]) -> tuple[Node, ...]:
    """Read a list of "HOST:PORT:KEY". Raises ValueError naming the wrong one."""
    return tuple(map(Node.parse, texts))
