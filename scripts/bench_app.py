"""The applications of the benchmark: a server, and a client that measures. Plain sockets, no tunfwd in them.

    bench_app.py server PORT
    bench_app.py client HOST PORT SECONDS     prints one JSON object; each bulk transfer takes SECONDS

The first byte of a connection says what the server does: e(cho), s(ink, then says how much it got), or
g(ive for as many tenths of a second as the next byte says).
"""

import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

CHUNK = 256 * 1024
ROUND_TRIPS = 500
CONNECTS = 200
TIME_LIMIT = 120.0  # s for any single wait


def serve(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        match connection.recv(1):
            case b"e":
                while data := connection.recv(CHUNK):
                    connection.sendall(data)
            case b"s":
                total = 0
                while data := connection.recv(CHUNK):
                    total += len(data)
                connection.sendall(struct.pack(">Q", total))
            case b"g":
                until = time.perf_counter() + connection.recv(1)[0] / 10
                while time.perf_counter() < until:
                    connection.sendall(bytes(CHUNK))


def _connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, TIME_LIMIT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def upload(address: tuple[str, int], seconds: float) -> float:
    """Return MB/s, from the first byte sent to the server's word that it got the last."""
    with _connect(address) as connection:
        connection.sendall(b"s")
        started = time.perf_counter()
        sent = 0
        while time.perf_counter() < started + seconds:
            connection.sendall(bytes(CHUNK))
            sent += CHUNK
        connection.shutdown(socket.SHUT_WR)
        (total,) = struct.unpack(">Q", connection.recv(8, socket.MSG_WAITALL))
        assert total == sent, (total, sent)
        return total / (time.perf_counter() - started) / 1e6


def download(address: tuple[str, int], seconds: float) -> float:
    """Return MB/s, from the request to the last byte."""
    with _connect(address) as connection:
        started = time.perf_counter()
        connection.sendall(b"g" + bytes([int(seconds * 10)]))
        total = 0
        while data := connection.recv(CHUNK):
            total += len(data)
        return total / (time.perf_counter() - started) / 1e6


def round_trips(address: tuple[str, int], pause: float = 0.002) -> list[float]:
    """Return round trips of one byte on an open connection, in s."""
    times = []
    with _connect(address) as connection:
        connection.sendall(b"e")
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            connection.sendall(b".")
            assert connection.recv(1) == b"."
            times.append(time.perf_counter() - started)
            time.sleep(pause)
    return times


def first_bytes(address: tuple[str, int]) -> list[float]:
    """Return the times from connect to the first echoed byte, in s."""
    times = []
    for _ in range(CONNECTS):
        started = time.perf_counter()
        with _connect(address) as connection:
            connection.sendall(b"e.")
            assert connection.recv(1) == b"."
            times.append(time.perf_counter() - started)
        time.sleep(0.002)
    return times


def at_once(address: tuple[str, int], count: int) -> float:
    """Open `count` connections at once; return s until all have been echoed a byte."""
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(address)
            selector.register(connection, selectors.EVENT_WRITE)
        waiting = count
        while waiting:
            ready = selector.select(TIME_LIMIT)
            assert ready, f"{waiting} connections came to nothing"
            for key, events in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if events & selectors.EVENT_WRITE:
                    connection.send(b"e.")
                    selector.modify(connection, selectors.EVENT_READ)
                else:
                    assert connection.recv(1) == b"."
                    selector.unregister(connection)
                    connection.close()
                    waiting -= 1
    return time.perf_counter() - started


def quantile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def _after_a_rest(
    transfer: Callable[[tuple[str, int], float], float], address: tuple[str, int], seconds: float
) -> float:
    time.sleep(
        1.5
    )  # toxcore forgets the last transfer's rate in a second; the bare carrier starts there, too
    return transfer(address, seconds)


def measure(address: tuple[str, int], seconds: float) -> dict[str, float]:
    echoes, firsts = round_trips(address), first_bytes(address)
    return {
        "round_trip_median": quantile(echoes, 0.5),
        "round_trip_p99": quantile(echoes, 0.99),
        "first_byte_median": quantile(firsts, 0.5),
        "first_byte_p99": quantile(firsts, 0.99),
        "connections_200": at_once(address, 200),
        "upload": _after_a_rest(upload, address, seconds),
        "download": _after_a_rest(download, address, seconds),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", port]:
            serve(int(port))
        case ["client", host, port, seconds]:
            print(json.dumps(measure((host, int(port)), float(seconds))))
        case _:
            sys.exit(__doc__)
