"""The programs of the soak: a server, and what uses it. Plain sockets, no tunfwd in them.

    soak_app.py server PORT           echoes TCP, and UDP datagrams
    soak_app.py USE HOST PORT COUNT   fails where an answer is not what it should be

What is sent says where it belongs, so that what comes back from another connection, or from elsewhere in this
one, is noticed.
"""

import random
import socket
import struct
import sys
import threading
from contextlib import suppress

TIME_LIMIT = 90.0  # s for any single wait: longer than a cut of the network
CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

Address = tuple[str, int]


def serve(port: int) -> None:
    """Echo, until killed."""
    threading.Thread(target=_echo_datagrams, args=(port,), daemon=True).start()
    with socket.create_server(("0.0.0.0", port), backlog=1024) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while data := connection.recv(CHUNK):
            connection.sendall(data)


def _echo_datagrams(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", port))
        while True:
            with suppress(OSError):  # an ICMP error for the last answer
                server.sendto(*server.recvfrom(65536))


def connect(address: Address) -> socket.socket:
    """A connection that gives up after `TIME_LIMIT`."""
    return socket.create_connection(address, TIME_LIMIT)


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = bytearray()
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return bytes(data)


def bulk(address: Address, megabytes: int) -> None:
    """Send a stream and read it back, both at once; then end it in order."""
    with connect(address) as connection:
        sender = threading.Thread(target=_send, args=(connection, megabytes), daemon=True)
        sender.start()
        chance = random.Random(megabytes)
        for _ in range(megabytes):
            expected = chance.randbytes(1 << 20)
            if receive(connection, len(expected)) != expected:
                sys.exit("what came back is not what was sent")
        sender.join()
        if connection.recv(1):
            sys.exit("more came back than was sent")


def _send(connection: socket.socket, megabytes: int) -> None:
    chance = random.Random(megabytes)
    for _ in range(megabytes):
        connection.sendall(chance.randbytes(1 << 20))
    connection.shutdown(socket.SHUT_WR)


def requests(address: Address, count: int) -> None:
    """One short question a connection; closed by either side, or half-closed first."""
    for number in range(count):
        with connect(address) as connection:
            question = b"question %d" % number
            connection.sendall(question)
            if number % 2:
                connection.shutdown(socket.SHUT_WR)
            if receive(connection, len(question)) != question:
                sys.exit("another answer than the question's")
            if number % 2 and connection.recv(1):
                sys.exit("more than the answer")


def resets(address: Address, count: int) -> None:
    """Connections that are reset: at once, with an answer on its way, with answers unread."""
    for number in range(count):
        with connect(address) as connection:
            connection.sendall(bytes((1 + number % 4) * CHUNK))
            if number % 3 == 0:
                connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def datagrams(address: Address, count: int) -> None:
    """One question, one answer, from a port of its own each time; most of them have to be answered."""
    answered = 0
    for number in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(TimeoutError):
            asking.settimeout(1.0)
            asking.connect(address)
            question = b"%d" % number
            asking.send(question)
            if asking.recv(100) != question:
                sys.exit("another answer than the question's")
            answered += 1
    if answered < count * 0.9:
        sys.exit(f"{answered} of {count} datagrams were answered")


USES = {use.__name__: use for use in (bulk, requests, resets, datagrams)}


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    match arguments:
        case ["server", port]:
            serve(int(port))
        case [use, host, port, count] if use in USES:
            USES[use]((host, int(port)), int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
