"""Sockets and services of this process in the namespaces of other hosts.

A socket belongs for good to the namespace that its thread was in when it was made, so a thread goes there,
makes it, and ends. Everything here has a time limit.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import pytest

from netns.topology import Host

from ..tun.namespace import CLONE_NEWNET, _check, libc

T = TypeVar("T")

TIME = 30.0
"""s at most, for a connection, each of its reads and writes, and all else that a test gives no other time.
On a machine with nothing else to do all of it takes milliseconds."""
ASKED_AGAIN = 2.0  # s


@contextmanager
def folder_of_daemons() -> Iterator[Path]:
    """A folder with a short path, which the user that a daemon becomes can reach: not so pytest's own."""
    with tempfile.TemporaryDirectory(prefix="tunfwd-e2e-", dir="/tmp") as path:
        yield Path(path)


def enter(host: Host) -> None:
    """Move this thread into the host's namespace for good."""
    namespace = os.open(f"/run/netns/{host.namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.setns(namespace, CLONE_NEWNET))
    finally:
        os.close(namespace)


def inside(host: Host, action: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, initializer=enter, initargs=(host,)) as pool:
        return pool.submit(action).result()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def make_socket(host: Host, address: str, kind: int, protocol: int = 0) -> socket.socket:
    made = inside(host, lambda: socket.socket(family_of(address), kind, protocol))
    made.settimeout(TIME)
    return made


def connect(host: Host, address: str, port: int, timeout: float = TIME) -> socket.socket:
    connection = make_socket(host, address, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    connection.settimeout(TIME)
    return connection


def datagram_socket(host: Host, address: str, port: int) -> socket.socket:
    """A UDP socket connected to the address: it hears of ICMP errors, and only from there."""
    connected = make_socket(host, address, socket.SOCK_DGRAM)
    connected.connect((address, port))
    return connected


def until_heard(send: Callable[[], object], hear: Callable[[float], object], wanted: object) -> None:
    """Send a datagram until it is heard, by `hear`, which waits for so many seconds at most.

    As all do that use UDP: a busy machine loses some. What else is heard comes late, from before.
    """
    deadline = time.monotonic() + TIME
    heard = []
    while time.monotonic() < deadline:
        send()
        with suppress(TimeoutError, queue.Empty):
            while (found := hear(ASKED_AGAIN)) != wanted:
                heard.append(found)
            return
    pytest.fail(f"not heard: {wanted!r:.100}, but {heard!r:.300}")


def exchange(client: socket.socket, payload: bytes, answer: bytes | None = None) -> None:
    """Ask by datagram until it is answered, with the same if nothing else is said."""

    def hear(seconds: float) -> bytes:
        client.settimeout(seconds)
        return client.recv(1 << 16)

    until_heard(lambda: client.send(payload), hear, payload if answer is None else answer)


def read_all(connection: socket.socket, timeout: float = TIME) -> bytes:
    connection.settimeout(timeout)
    data = bytearray()
    while piece := connection.recv(1 << 20):
        data += piece
    return bytes(data)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, f"end after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def bytes_of(seed: int, size: int) -> bytes:
    """Bytes of which every 8 differ, so that a piece lost, doubled or moved shows."""
    return struct.pack(f"<{(size + 7) // 8}Q", *range(seed << 32, (seed << 32) + (size + 7) // 8))[:size]


class TcpService:
    """Accepts connections on a host, each served by `serve` in a thread of its own."""

    def __init__(
        self,
        host: Host,
        port: int,
        serve: Callable[[socket.socket], object],
        address: str = "0.0.0.0",
    ) -> None:
        self.peers: list[str] = []
        self._serve = serve
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = make_socket(host, address, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.settimeout(None)
        self._listener.bind((address, port))
        self._listener.listen(1024)
        self._start(self._accept)

    def _start(self, action: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=action, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # close() ends it
            while True:
                connection, peer = self._listener.accept()
                self.peers.append(peer[0])
                self._connections.add(connection)
                self._start(self._handle, connection)

    def _handle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._serve(connection)
        self._connections.discard(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(TIME)
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIME)
            assert not thread.is_alive(), "a service did not end"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


class UdpEcho:
    """Answers each datagram with itself; remembers who asked."""

    def __init__(self, host: Host, port: int, address: str = "0.0.0.0") -> None:
        self.peers: list[tuple[str, int]] = []
        self._socket = make_socket(host, address, socket.SOCK_DGRAM)
        self._socket.settimeout(None)
        self._socket.bind((address, port))
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            with suppress(OSError):
                data, peer = self._socket.recvfrom(1 << 16)
                if not self._ending:
                    self.peers.append(peer[:2])
                    self._socket.sendto(data, peer)

    def close(self) -> None:
        self._ending = True
        with suppress(OSError):  # wakes it up, although it is not connected
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIME)
        self._socket.close()
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def eventually(condition: Callable[[], T], what: str, timeout: float = TIME) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.02)
    return answer
