"""The applications of the benchmark: a server, and clients that measure. Plain sockets, no tunfwd in them.

    app.py server PORT                    TCP and UDP
    app.py MEASUREMENT HOST PORT [VALUE]  prints one JSON object, of seconds and MB/s

The first byte of a TCP connection says what the server does: e(cho), s(ink, then says how much it got), or
g(ive for as many tenths of a second as the next byte says). It counts UDP datagrams, answers a "?" with
how many there were, and sends back one that begins with an "e".
"""

import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

CHUNK = 256 * 1024
ROUND_TRIPS = 500
CONNECTS = 200
PAUSE = 0.002  # s, in which everything goes to sleep
LOAD_TIME = 8.0  # s
DATAGRAM_RATE = 10_000  # a second
DATAGRAM_SIZE = 1200  # bytes
TIME_LIMIT = 120.0  # s for any single wait


def serve(port: int) -> None:
    threading.Thread(target=_count, args=(port,), daemon=True).start()
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _count(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("0.0.0.0", port))
        received = 0
        while True:
            data, sender = receiver.recvfrom(65536)
            if data == b"?":
                receiver.sendto(b"%d" % received, sender)
                received = 0
            elif data[:1] == b"e":
                receiver.sendto(data, sender)
            else:
                received += 1


def _answer(connection: socket.socket) -> None:
    with connection, suppress(ConnectionResetError):  # a client that was ended
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


def upload(address: tuple[str, int], seconds: float, congestion: str = "") -> float:
    """Return MB/s, from the first byte sent to the server's word that it got the last.

    `congestion` is the kernel's algorithm for this connection, where not the usual one.
    """
    with _connect(address) as connection:
        if congestion:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection.sendall(b"s")
        started = time.perf_counter()
        sent = 0
        while time.perf_counter() < started + seconds:
            connection.sendall(bytes(CHUNK))
            sent += CHUNK
        connection.shutdown(socket.SHUT_WR)
        total: int
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


def round_trips(
    address: tuple[str, int], pause: float = PAUSE, goes_on: Callable[[], bool] = lambda: True
) -> list[float]:
    """Return round trips of one byte on an open connection, in s; only those while `goes_on`."""
    times: list[float] = []
    with _connect(address) as connection:
        connection.sendall(b"e")
        while len(times) < ROUND_TRIPS and goes_on():
            started = time.perf_counter()
            connection.sendall(b".")
            assert connection.recv(1) == b"."
            times.append(time.perf_counter() - started)
            if pause:
                time.sleep(pause)
    return times


def udp_round_trips(address: tuple[str, int]) -> list[float]:
    """Return round trips of a datagram, in s; what is lost is sent again, and not counted."""
    times: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.settimeout(1)
        while len(times) < ROUND_TRIPS:
            started = time.perf_counter()
            sender.send(b"e")
            with suppress(TimeoutError):
                sender.recv(64)
                times.append(time.perf_counter() - started)
    return times


def trips(address: tuple[str, int], seconds: float) -> int:
    """Go there and back for so long, and return how often."""
    until, count = time.perf_counter() + seconds, 0
    with _connect(address) as connection:
        connection.sendall(b"e")
        while time.perf_counter() < until:
            connection.sendall(b".")
            assert connection.recv(1) == b"."
            count += 1
    return count


def first_bytes(address: tuple[str, int], pause: float = PAUSE) -> list[float]:
    """Return the times from connect to the first echoed byte, in s."""
    times = []
    for _ in range(CONNECTS):
        started = time.perf_counter()
        with _connect(address) as connection:
            connection.sendall(b"e.")
            assert connection.recv(1) == b"."
            times.append(time.perf_counter() - started)
        if pause:
            time.sleep(pause)
    return times


def at_once(address: tuple[str, int], count: int) -> float:
    """Open `count` connections at once; return s until all have been echoed a byte."""
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            opening = socket.socket()
            opening.setblocking(False)
            opening.connect_ex(address)
            selector.register(opening, selectors.EVENT_WRITE)
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


def beside_upload(
    address: tuple[str, int], seconds: float = LOAD_TIME, congestion: str = ""
) -> tuple[list[float], float]:
    """Return round trips of one byte while another connection is kept full, in s, and its MB/s."""
    rates: list[float] = []
    load = threading.Thread(target=lambda: rates.append(upload(address, seconds, congestion)), daemon=True)
    load.start()
    time.sleep(2)
    times = round_trips(address, 0.005, load.is_alive)
    load.join()
    return times, rates[0]


def datagrams(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Send datagrams at a steady rate; return the part of them that the server did not get."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.settimeout(TIME_LIMIT)
        sender.send(b"?")
        sender.recv(64)
        started = time.perf_counter()
        total = int(DATAGRAM_RATE * seconds)
        sent = 0
        while sent < total:
            due = min(total, int((time.perf_counter() - started) * DATAGRAM_RATE))
            while sent < due:
                sender.send(bytes(DATAGRAM_SIZE))
                sent += 1
            time.sleep(0.0005)
        time.sleep(1)
        sender.send(b"?")
        return {"lost": 1 - int(sender.recv(64)) / sent}


def hold(address: tuple[str, int], count: int) -> None:
    """Keep `count` connections open, each used once, until stdin ends."""
    connections = []
    for _ in range(count):
        connection = _connect(address)
        connection.sendall(b"e.")
        assert connection.recv(1) == b"."
        connections.append(connection)
    print("ready", flush=True)
    sys.stdin.read()


def _after_a_rest(
    transfer: Callable[[tuple[str, int], float], float], address: tuple[str, int], seconds: float
) -> float:
    time.sleep(
        1.5
    )  # toxcore forgets the last transfer's rate in a second; the bare carrier starts there, too
    return transfer(address, seconds)


def _quantiles(name: str, times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {f"{name}_median": ordered[len(ordered) // 2], f"{name}_p99": ordered[len(ordered) * 99 // 100]}


def delays(address: tuple[str, int]) -> dict[str, float]:
    """Measure what has to be quick."""
    return {
        **_quantiles("round_trip", round_trips(address, 0)),
        **_quantiles("round_trip_paused", round_trips(address)),
        **_quantiles("first_byte", first_bytes(address, 0)),
        **_quantiles("first_byte_paused", first_bytes(address)),
        "connections_200": at_once(address, 200),
        "connections_1000": at_once(address, 1000),
    }


def beside(address: tuple[str, int], seconds: float = LOAD_TIME, congestion: str = "") -> dict[str, float]:
    """Measure what has to be quick while there is much."""
    times, rate = beside_upload(address, seconds, congestion)
    return {**_quantiles("loaded", times), "loaded_upload": rate}


def rates(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Measure what has to be much."""
    return {
        "upload": _after_a_rest(upload, address, seconds),
        "download": _after_a_rest(download, address, seconds),
    }


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    match arguments:
        case ["server", port]:
            serve(int(port))
            return
        case ["delays", host, port]:
            result = delays((host, int(port)))
        case ["rates", host, port, seconds]:
            result = rates((host, int(port)), float(seconds))
        case ["idle", host, port]:
            result = _quantiles("idle", round_trips((host, int(port))))
        case ["loaded", host, port]:
            result = beside((host, int(port)))
        case ["loaded", host, port, seconds, *congestion]:
            result = beside((host, int(port)), float(seconds), *congestion)
        case ["datagrams", host, port, seconds]:
            result = datagrams((host, int(port)), float(seconds))
        case ["upload", host, port, seconds, *congestion]:
            result = {"upload": upload((host, int(port)), float(seconds), *congestion)}
        case ["download", host, port, seconds]:
            result = {"download": download((host, int(port)), float(seconds))}
        case ["udp", host, port]:
            result = _quantiles("udp", udp_round_trips((host, int(port))))
        case ["trips", host, port, seconds]:
            result = {"trips": trips((host, int(port)), float(seconds))}
        case ["hold", host, port, count]:
            hold((host, int(port)), int(count))
            return
        case _:
            sys.exit(__doc__)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
