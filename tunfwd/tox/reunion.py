"""Finds friends again after a restart of either side, within a second or two and without the onion.

toxcore has a new key in the DHT in each run, and forgets those of its friends. It then searches for them
through the onion, along paths of nodes that it never forgets: where each restart of a friend has left a dead
one among few, nearly every path is dead, and the search goes on for minutes or for good. Instead:

- Friends tell each other their DHT keys (SPEC.md, NODE). After a restart we tell them to our own toxcore, in
  the packet that the friend would send, were it found: toxcore then connects to it at once. Such a packet is
  sealed for the two of us, so that either can make it (`introduce`).
- An orderly end keeps our own DHT key, and a friend that waits for us reconnects by itself. toxcore has no
  option for that: its secret is one of the numbers that it draws while an instance is made (sodium.py).
- After a crash the friend's toxcore still holds the old connection, for up to 32 s, and drops a handshake
  that comes with the same DHT key, or from the same port: the key is new then, and so is the port, if it is
  ours to choose.

All of it is a hint: who answers is authenticated by toxcore, by the friend's long-term key.
"""

import json
import logging
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tunfwd.files import read_whole, write_whole
from tunfwd.tox.binding import sodium
from tunfwd.tox.binding.sodium import KEY_SIZE, NONCE_SIZE

SUFFIX: Final = ".reunion.json"
FIRST_PORT, LAST_PORT = 33445, 33545  # toxcore's own range

_NET_PACKET_CRYPTO: Final = b"\x20"  # toxcore, network.h: a request from one DHT node to another
_CRYPTO_PACKET_DHTPK: Final = b"\x9c"  # toxcore, DHT.h: "my DHT key is …", from a friend

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What is kept from run to run."""

    udp_port: int = 0
    draw: int = -1
    """Which of the draws of a new instance is the DHT key's secret; -1 where it was not found."""
    secret: bytes = b""
    """Of the DHT key, after an orderly end; empty while an instance runs, and so after a crash."""
    friends: dict[bytes, bytes] = field(default_factory=dict)
    """DHT keys by long-term keys."""


class Reunion:
    """The DHT keys: our own, and those of our friends."""

    def __init__(self, savedata: Path) -> None:
        """Read what the last run left beside its identity."""
        self._path = savedata.with_suffix(SUFFIX)
        self._memory = _read(self._path)
        # A run that knew its secret keeps it at an orderly end; one that did not cannot tell how it ended.
        self._crashed = self._memory.draw >= 0 and not self._memory.secret
        self._public = self._secret = b""
        self._announced: dict[bytes, int] = {}
        self._changed = True

    @property
    def first_port(self) -> int:
        """The first UDP port to try where any will do; 0 leaves it to toxcore."""
        last = self._memory.udp_port
        if not self._crashed or not FIRST_PORT <= last <= LAST_PORT:
            return 0
        return last + 1 if last < LAST_PORT else FIRST_PORT

    @contextmanager
    def making(self) -> Iterator[list[bytes]]:
        """While an instance is made: give it the DHT key of the last run, and note what it draws."""
        memory = self._memory
        with sodium.secrets_drawn({memory.draw: memory.secret} if memory.secret else {}) as drawn:
            yield drawn

    def made(self, drawn: list[bytes], dht_key: bytes, udp_port: int | None) -> None:
        """Find the instance's own secret, by its public key, in what it drew."""
        memory = self._memory
        memory.udp_port, memory.draw, memory.secret = udp_port or 0, -1, b""
        self._public = dht_key
        for number, secret in enumerate(drawn):
            if sodium.public_key(secret) == dht_key:
                self._secret, memory.draw = secret, number
                return
        log.info("the DHT key's secret was not found: friends that restart are searched for by toxcore alone")

    def remember(self, friend: bytes, dht_key: bytes) -> None:
        """Note the DHT key of a friend."""
        if self._memory.friends.get(friend) != dht_key:
            self._memory.friends[friend] = dht_key
            self._changed = True
        self._announced.pop(friend, None)

    def forget(self, friend: bytes) -> None:
        """The friend is none any more."""
        self._changed |= self._memory.friends.pop(friend, None) is not None

    def introduce(self, friend: bytes, self_secret: bytes) -> None:
        """Tell our own instance the friend's DHT key, if it is known and there is a UDP port to tell it at.

        `self_secret` is that of our long-term key. toxcore takes an announcement whose number is higher than
        the last one's; a friend's own carry its clock in seconds, and so win over ours, counted from 1.
        """
        dht_key = self._memory.friends.get(friend)
        if dht_key is None or not self._secret or not self._memory.udp_port:
            return
        number = self._announced[friend] = self._announced.get(friend, 0) + 1
        try:
            packet = announcement(friend, dht_key, number, self._public, self._secret, self_secret)
        except ValueError:  # what the friend said is no key
            self.forget(friend)
            return
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(packet, ("127.0.0.1", self._memory.udp_port))

    def save(self) -> None:
        """Write the file if anything has changed; where that fails, the next change tries again."""
        if self._changed:
            self._changed = False
            self._write(b"")

    def end(self) -> None:
        """This run has ended in order: the next one may go on with our key."""
        self._write(self._secret)

    def _write(self, secret: bytes) -> None:
        memory = self._memory
        document = {
            "udp_port": memory.udp_port,
            "draw": memory.draw,
            "secret": secret.hex(),
            "friends": {friend.hex().upper(): key.hex().upper() for friend, key in memory.friends.items()},
        }
        try:
            write_whole(self._path, json.dumps(document, indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)


def announcement(
    friend: bytes, dht_key: bytes, number: int, own_dht_key: bytes, own_dht_secret: bytes, own_secret: bytes
) -> bytes:
    """Return the packet by which toxcore learns that `friend` is at `dht_key`.

    A box for two keys is the same from whichever side it is sealed, so ours are the secrets that it takes.
    Raises ValueError where a key is none. Layout: toxcore, create_request and send_dht_dhtpk.
    """
    said = _CRYPTO_PACKET_DHTPK + struct.pack(">Q", number) + dht_key
    nonce = secrets.token_bytes(NONCE_SIZE)
    request = _CRYPTO_PACKET_DHTPK + friend + nonce + sodium.box(said, nonce, friend, own_secret)
    nonce = secrets.token_bytes(NONCE_SIZE)
    sealed = sodium.box(request, nonce, dht_key, own_dht_secret)
    return _NET_PACKET_CRYPTO + own_dht_key + dht_key + nonce + sealed


def _read(path: Path) -> _Memory:
    """Return what the file says; a damaged one counts as none."""
    try:
        return _memory_of(json.loads(read_whole(path)))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        log.info("%s is of no use (%s): friends are searched for by toxcore alone", path, error)
    return _Memory()


def _memory_of(document: Mapping[str, Any]) -> _Memory:
    port, draw = int(document["udp_port"]), int(document["draw"])
    secret = bytes.fromhex(document["secret"])
    friends = {bytes.fromhex(friend): bytes.fromhex(key) for friend, key in document["friends"].items()}
    keys = [*friends, *friends.values(), secret or bytes(KEY_SIZE)]
    if any(len(key) != KEY_SIZE for key in keys):
        raise ValueError("a key of another length")
    return _Memory(port, draw, secret, friends)
