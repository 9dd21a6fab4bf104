"""Lists of nodes of the Tox network, as nodes.tox.chat/json has them, and the nodes that we join at.

One list comes with the program (nodes.json beside this file, with the dates when each node was last named); a
person adds others with `tunfwd nodes update`. What is not exactly in that schema is refused as a whole, with
one line that says where. Used by joining.py and probing.py; the command line reads lists with it, too.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from tunfwd.common.notation import KEY_DIGITS, Port, read_host, read_key
from tunfwd.common.schema import Mismatch, Parse, decode
from tunfwd.files import read_whole
from tunfwd.tox.settings import USUAL_TCP_PORTS, NetworkNode, Origin, is_address

MAX_LIST: Final = 512 << 10  # bytes
MAX_NODES: Final = 100  # of a list
MAX_TCP_PORTS: Final = 8  # of a node
MAX_TEXT: Final = 1000  # characters of what a list says about a node
MAX_KEPT_TEXT: Final = 40  # characters of it that are kept

_NO_HOST: Final = ("", "-", "NONE")  # what lists write for no address


class ListError(ValueError):
    """A list cannot be used; the message says why, in words that follow its name."""


def _read_host(text: str) -> str | None:
    if text in _NO_HOST:
        return None
    host = read_host(text)
    if is_address(host) and (_never_a_host(ipaddress.ip_address(host)) or "%" in host):
        raise ValueError(f"{text!r} is not the address of a host")
    return host


def _never_a_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    reserved = address.version == 4 and address.is_reserved  # class E, and the broadcast address
    return address.is_multicast or address.is_unspecified or reserved


def _read_key(text: str) -> bytes:
    if len(text) != KEY_DIGITS:
        raise ValueError(f"{text!r} is not a public key: {KEY_DIGITS} hex digits")
    return read_key(text)


def _read_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT} characters")
    return text


Key = Annotated[bytes, Parse(str, _read_key)]
HostOrNone = Annotated[str | None, Parse(str, _read_host)]
Text = Annotated[str, Parse(str, _read_text)]


@dataclass(frozen=True, slots=True)
class ListedNode:
    """An entry of a list. The keys after `tcp_ports` are for people, and those of the list's makers."""

    public_key: Key
    port: Port
    ipv4: HostOrNone = None
    ipv6: HostOrNone = None
    tcp_ports: tuple[Port, ...] | None = None
    maintainer: Text = ""
    location: Text = ""
    seen: Text = ""
    version: Text = ""
    motd: Text = ""
    status_udp: bool | None = None
    status_tcp: bool | None = None
    last_ping: int | None = None

    def __post_init__(self) -> None:
        if not self.ipv4 and not self.ipv6:
            raise ValueError("has neither 'ipv4' nor 'ipv6'")
        if len(self.tcp_ports or ()) > MAX_TCP_PORTS:
            raise Mismatch(("tcp_ports",), f"has more than {MAX_TCP_PORTS} ports")

    def document(self) -> dict[str, Any]:
        """The entry as it is kept and sent."""
        return {
            "public_key": self.public_key.hex().upper(),
            "ipv4": self.ipv4 or "-",
            "ipv6": self.ipv6 or "-",
            "port": self.port,
            "tcp_ports": list(self.tcp_ports or ()),
            "maintainer": self.maintainer[:MAX_KEPT_TEXT],
            "location": self.location[:MAX_KEPT_TEXT],
        }


@dataclass(frozen=True, slots=True)
class _List:
    """The whole document."""

    nodes: tuple[ListedNode, ...]
    _about: str = ""
    last_scan: int | None = None
    last_refresh: int | None = None


def read_list(data: bytes) -> tuple[ListedNode, ...]:
    """Return the nodes of a list. Raises ListError."""
    if len(data) > MAX_LIST:
        raise ListError(f"is longer than {MAX_LIST >> 10} KiB")
    try:
        content = json.loads(data.decode())
    except UnicodeDecodeError:
        raise ListError("is not UTF-8 text") from None
    except RecursionError:
        raise ListError("is nested too deeply") from None
    except ValueError as wrong:
        raise ListError(f"is not JSON, or cut short: {wrong}") from None
    try:
        _bound(content)
        listed = decode(_List, content).nodes
    except Mismatch as wrong:
        raise ListError(f"is not a list of nodes: {wrong}") from None
    if not listed:
        raise ListError("names no node")
    return listed


def _bound(content: object) -> None:
    """Raise Mismatch for a list of too many nodes, before they are looked at."""
    nodes = content.get("nodes") if isinstance(content, dict) else None
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        raise Mismatch(("nodes",), f"has {len(nodes)} entries; {MAX_NODES} is the most")


def bundled() -> tuple[ListedNode, ...]:
    """Return the list that comes with the program."""
    return read_file(Path(__file__).with_name("nodes.json"))


def read_file(path: Path) -> tuple[ListedNode, ...]:
    """Return the nodes of a list in a file. Raises ListError, whose message names the file."""
    try:
        return read_list(read_whole(path, MAX_LIST + 1))
    except ListError as wrong:
        raise ListError(f"{path} {wrong}") from None
    except OSError as failure:
        raise ListError(f"{path}: {failure.strerror}") from None


def merge(newer: Iterable[ListedNode], older: Iterable[ListedNode]) -> tuple[ListedNode, ...]:
    """Return both lists as one; of two entries of a key, the newer."""
    by_key = {node.public_key: node for node in (*older, *newer)}
    first = {node.public_key: by_key[node.public_key] for node in newer}
    return tuple((first | by_key).values())[:MAX_NODES]


def listed(node: ListedNode, origin: Origin) -> NetworkNode:
    """Return an entry of a list as one to join at."""
    hosts = tuple(host for host in (node.ipv4, node.ipv6) if host)
    ports = sorted(node.tcp_ports or (), key=_preference)
    return NetworkNode(
        node.public_key, hosts, node.port, tuple(ports), origin, node.maintainer, node.location
    )


def _preference(port: int) -> int:
    return USUAL_TCP_PORTS.index(port) if port in USUAL_TCP_PORTS else len(USUAL_TCP_PORTS)


def public(added: Sequence[ListedNode], own: Path | bool) -> tuple[NetworkNode, ...]:
    """Return the public nodes: `added` ones, and the bundled or, where `own` is a file, those of that.

    None where `own` is False. Raises ListError where the file is of no use.
    """
    if own is False:
        return ()
    base = bundled() if own is True else read_file(own)
    added_keys = {(node.public_key, node.ipv4, node.ipv6) for node in added}
    kept = [node for node in base if (node.public_key, node.ipv4, node.ipv6) not in added_keys]
    return (*(listed(node, "added") for node in added), *(listed(node, "bundled") for node in kept))
