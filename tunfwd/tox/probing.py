"""Asks nodes of the Tox network whether they are there, beside toxcore, which does not tell.

Over UDP go a DHT ping, which every toxcore answers, and only who has the node's key can; and the request for
information that bootstrap daemons answer to anybody (packet 0xF0): who answers that alone has another key.
Over TCP it is the handshake of a relay. Our own key is made for the occasion. Used by joining.py when we do
not get into the network, by `tunfwd nodes --test` and by doctor.
"""

import errno
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from tunfwd.tox.binding import sodium
from tunfwd.tox.settings import NetworkNode

Answer = Literal["answers", "wrong key", "no answer", "refused", "unreachable"]
ORDER: Final[tuple[Answer, ...]] = (
    "answers",
    "wrong key",
    "no answer",
    "refused",
    "unreachable",
)  # best first

UDP_WAITS: Final = (0.5, 0.7, 1.3)  # s for an answer to the first question, the second, the last
TCP_TIME: Final = 3.0  # s for the connection and the handshake

_PING_REQUEST: Final = b"\x00"  # toxcore, network.h: NET_PACKET_PING_REQUEST
_PING_RESPONSE: Final = b"\x01"  # NET_PACKET_PING_RESPONSE
_PING_ID_SIZE: Final = 8  # bytes
_INFO: Final = b"\xf0"  # BOOTSTRAP_INFO_PACKET_ID, of request and answer
_INFO_REQUEST: Final = _INFO.ljust(78, b"\0")  # toxcore, bootstrap_node_packets.c: INFO_REQUEST_PACKET_LENGTH
_MAX_DATAGRAM: Final = 2048  # bytes
_SESSION_KEY: Final = (
    sodium.KEY_SIZE + sodium.NONCE_SIZE
)  # what either side of a relay's handshake seals, bytes
_REFUSALS: Final = (errno.ECONNREFUSED, errno.EPERM, errno.EACCES)
"""Nobody listens there, or a firewall says no; our own host's may."""


@dataclass(slots=True)
class Outcome:
    """What a node said."""

    node: NetworkNode
    udp: Answer | None = None
    """None: not asked."""
    tcp: dict[int, Answer] = field(default_factory=dict)
    """By port."""

    @property
    def relay(self) -> Answer | None:
        """The best of the answers over TCP."""
        return min(self.tcp.values(), key=ORDER.index, default=None)

    @property
    def answers(self) -> bool:
        """Whether the node is there."""
        return "answers" in (self.udp, self.relay)

    @property
    def told(self) -> str:
        """The outcome in words, as they follow the node's name."""
        if self.answers:
            return "answers"
        if "wrong key" in (self.udp, self.relay):
            return "something answers there, but has another key"
        ways = [("UDP", self.udp), (f"TCP ({', '.join(map(str, self.tcp))})", self.relay)]
        said = [f"{answer} over {way}" for way, answer in ways if answer is not None]
        return ", ".join(said) or "was not asked"


async def ask(
    nodes: Mapping[NetworkNode, Sequence[str]], *, udp: bool = True, tcp: bool = True
) -> list[Outcome]:
    """Ask all nodes, at the addresses given, at the same time; takes up to 3 s."""
    outcomes = [Outcome(node) for node in nodes]
    async with trio.open_nursery() as nursery:
        for outcome in outcomes:
            for address in nodes[outcome.node]:
                if udp and outcome.node.udp_port is not None:
                    nursery.start_soon(_ask_udp, outcome, address, outcome.node.udp_port)
                for port in outcome.node.tcp_ports if tcp else ():
                    nursery.start_soon(_ask_tcp, outcome, address, port)
    return outcomes


async def _ask_udp(outcome: Outcome, address: str, port: int) -> None:
    ping = _Ping(outcome.node.key)
    answer: Answer = "no answer"
    try:
        with _socket(address, socket.SOCK_DGRAM) as own:
            await own.connect((address, port))
            for wait in UDP_WAITS:
                for question in filter(None, (ping.request, _INFO_REQUEST)):
                    await own.send(question)
                with trio.move_on_after(wait):
                    while answer != "answers":
                        answer = _best(answer, ping.judge(await own.recv(_MAX_DATAGRAM)))
                if answer == "answers":
                    break
    except OSError as error:
        answer = _answer_of(error)
    outcome.udp = _best(outcome.udp, answer)


async def _ask_tcp(outcome: Outcome, address: str, port: int) -> None:
    answer: Answer = "no answer"
    try:
        with trio.move_on_after(TCP_TIME), _socket(address, socket.SOCK_STREAM) as own:
            await own.connect((address, port))
            answer = await _shake_hands(own, outcome.node.key)
    except OSError as error:
        answer = _answer_of(error)
    outcome.tcp[port] = _best(outcome.tcp.get(port), answer)


def _socket(address: str, kind: socket.SocketKind) -> trio.socket.SocketType:
    return trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def _answer_of(error: OSError) -> Answer:
    return "refused" if error.errno in _REFUSALS else "unreachable"


def _best(*answers: Answer | None) -> Answer:
    return min((answer for answer in answers if answer is not None), key=ORDER.index)


class _Ping:
    """A DHT ping to the owner of a key. Layout: toxcore, ping.c."""

    def __init__(self, key: bytes) -> None:
        self._key, self._secret = key, secrets.token_bytes(sodium.KEY_SIZE)
        self._id = secrets.token_bytes(_PING_ID_SIZE)
        self.request = b""
        """Empty where it cannot be sealed: without libsodium, or for what is no key."""
        nonce = secrets.token_bytes(sodium.NONCE_SIZE)
        if sodium.is_usable():
            with suppress(ValueError):
                sealed = sodium.box(_PING_REQUEST + self._id, nonce, key, self._secret)
                self.request = _PING_REQUEST + sodium.public_key(self._secret) + nonce + sealed

    def judge(self, data: bytes) -> Answer:
        """Return what a datagram of the node's says about it."""
        if data[:1] == _INFO:
            return "wrong key" if self.request else "answers"  # until the ping is answered, too
        nonce_at = 1 + sodium.KEY_SIZE
        sealed_at = nonce_at + sodium.NONCE_SIZE
        if data[:1] != _PING_RESPONSE or data[1:nonce_at] != self._key or not self.request:
            return "no answer"
        said = sodium.open_box(data[sealed_at:], data[nonce_at:sealed_at], self._key, self._secret)
        return "answers" if said == _PING_RESPONSE + self._id else "no answer"


async def _shake_hands(own: trio.socket.SocketType, key: bytes) -> Answer:
    """Say hello as the client of a relay, and look whether the answer is sealed with its key.

    Layout: toxcore, TCP_client.c. A relay that cannot open ours, as its key is another, hangs up.
    """
    if not sodium.is_usable():
        return "answers"
    secret, nonce = secrets.token_bytes(sodium.KEY_SIZE), secrets.token_bytes(sodium.NONCE_SIZE)
    try:
        sealed = sodium.box(secrets.token_bytes(_SESSION_KEY), nonce, key, secret)
    except ValueError:
        return "wrong key"
    stream = trio.SocketStream(own)
    await stream.send_all(sodium.public_key(secret) + nonce + sealed)
    answer = b""
    size = sodium.NONCE_SIZE + _SESSION_KEY + sodium.MAC_SIZE
    while len(answer) < size:
        try:
            data = await stream.receive_some(size - len(answer))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            return "wrong key"
        answer += data
    nonce, sealed = answer[: sodium.NONCE_SIZE], answer[sodium.NONCE_SIZE :]
    return "wrong key" if sodium.open_box(sealed, nonce, key, secret) is None else "answers"
