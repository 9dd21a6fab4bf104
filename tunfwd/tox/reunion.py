"""Finds friends again after a restart of either side, within a second or two and without the onion.

toxcore has a new key in the DHT in each run, and forgets those of its friends. It then searches for them
through the onion, along paths of nodes that it never forgets: where each restart of a friend has left a dead
one among few, nearly every path is dead, and the search goes on for minutes or for good. Instead:

- Friends tell each other their DHT keys (SPEC.md, NODE). After a restart we tell them to our own toxcore, in
  the packet that the friend would send, were it found: toxcore then connects to it at once. Such a packet is
  sealed for the two of us, so that either can make it (`introduce`).
- An orderly end keeps our own DHT key and port, and a friend that waits for us reconnects by itself. toxcore
  has no option for that: its secret is one of the numbers drawn while an instance is made (sodium.py).
- After a crash the friend's toxcore still holds the old connection, for up to 32 s, and drops a handshake
  that comes with the same DHT key, or from the same port: the key is new then, and so is the port, if it is
  ours to choose. Where no friend can hold one any more, the key stays: both sides may have crashed.
- What a friend says is on disk at once: whoever crashes then knows where its friends are now.

All of it is a hint: who answers is authenticated by toxcore, by the friend's long-term key.
"""

import json
import logging
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from tunfwd.files import read_whole, write_whole
from tunfwd.tox.binding import sodium
from tunfwd.tox.binding.sodium import KEY_SIZE, NONCE_SIZE

SUFFIX: Final = ".reunion.json"
FIRST_PORT, LAST_PORT = 33445, 33545  # toxcore's own range
CLOSE_PORTS: Final = 10  # after the first one; toxcore asks them for neighbours at its start, others later
HELD: Final = 45.0  # s that a friend may hold the connection of a run that crashed; 32 in toxcore, and a bit

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
    """Of the DHT key."""
    ended: bool = True
    """Whether that run has ended in order; not so while it runs, and after a crash."""
    friends: dict[bytes, bytes] = field(default_factory=dict)
    """DHT keys by long-term keys."""


class Reunion:
    """The DHT keys: our own, and those of our friends."""

    def __init__(self, savedata: Path) -> None:
        """Read what the last run left beside its identity."""
        self._path = savedata.with_suffix(SUFFIX)
        self._memory = _read(self._path)
        self._met = _modified(self._path)  # when a friend was online last; the file's time
        self._held = not self._memory.ended and abs(time.time() - self._met) < HELD
        self._public = self._secret = b""
        self._announced: dict[bytes, int] = {}
        self.changed = trio.Event()
        """Set when there is something to save."""
        self.changed.set()

    @property
    def first_port(self) -> int:
        """The first UDP port to try where any will do; 0 leaves it to toxcore."""
        last = self._memory.udp_port
        if not FIRST_PORT <= last <= LAST_PORT:
            return 0
        if not self._held:
            return last
        return last + 1 if last < FIRST_PORT + CLOSE_PORTS else FIRST_PORT

    @contextmanager
    def making(self) -> Iterator[list[bytes]]:
        """While an instance is made: give it the DHT key of the last run, and note what it draws."""
        memory = self._memory
        kept = {memory.draw: memory.secret} if memory.secret and not self._held else {}
        with sodium.secrets_drawn(kept) as drawn:
            yield drawn

    def made(self, drawn: list[bytes], dht_key: bytes, udp_port: int | None) -> None:
        """Find the instance's own secret, by its public key, in what it drew."""
        memory = self._memory
        memory.udp_port, memory.draw, memory.secret = udp_port or 0, -1, b""
        self._public = dht_key
        for number, secret in enumerate(drawn):
            if sodium.public_key(secret) == dht_key:
                self._secret, memory.draw, memory.secret, memory.ended = secret, number, secret, False
                return
        memory.ended = True  # without a key to keep it makes no difference
        log.info("the DHT key's secret was not found: friends that restart are searched for by toxcore alone")

    def remember(self, friend: bytes, dht_key: bytes) -> None:
        """Note the DHT key of a friend."""
        if self._memory.friends.get(friend) != dht_key:
            self._memory.friends[friend] = dht_key
            self.changed.set()
        self._announced.pop(friend, None)

    def forget(self, friend: bytes) -> None:
        """The friend is none any more."""
        if self._memory.friends.pop(friend, None) is not None:
            self.changed.set()

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

    def meet(self) -> None:
        """A friend is online, and may hold the connection for a while if we crash."""
        self._met = time.time()
        self._stamp()

    def save(self) -> None:
        """Write the file if anything has changed; where that fails, the next change tries again."""
        if self.changed.is_set():
            self.changed = trio.Event()
            self._write()

    def end(self) -> None:
        """This run has ended in order: the next one goes on with our key."""
        self._memory.ended = True
        self._write()

    def _write(self) -> None:
        memory = self._memory
        document = {
            "udp_port": memory.udp_port,
            "draw": memory.draw,
            "secret": memory.secret.hex(),
            "ended": memory.ended,
            "friends": {friend.hex().upper(): key.hex().upper() for friend, key in memory.friends.items()},
        }
        try:
            write_whole(self._path, json.dumps(document, indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
        self._stamp()

    def _stamp(self) -> None:
        with suppress(OSError):
            os.utime(self._path, (self._met, self._met))


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


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


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
    ended = document.get("ended", bool(secret)) is True
    friends = {bytes.fromhex(friend): bytes.fromhex(key) for friend, key in document["friends"].items()}
    keys = [*friends, *friends.values(), secret or bytes(KEY_SIZE)]
    if any(len(key) != KEY_SIZE for key in keys):
        raise ValueError("a key of another length")
    return _Memory(port, draw, secret, ended, friends)
