"""A link in real time: two processes, the loopback interface, a select loop each.

    python -m scripts.benchmarks.link_udp [SECONDS] [Bbr|Cubic|NewReno]

Prints bulk goodput, the CPU each end took, and the round trip of one byte on another stream, idle and under
load. There is no Tox in it: what is measured is the link, and how its controllers bear a real event loop.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import socket
import statistics
import sys
import time

from tunfwd import link as links
from tunfwd.link import Link, StreamReadable, StreamWritable

PREFIX = b"\xc9\x02"
CHUNK = bytes(65536)
ITERATE = 200  # packets taken in at once


class End:
    def __init__(self, sock: socket.socket, local: int, remote: int, controller: type) -> None:
        self.sock = sock
        now = time.monotonic()
        self.link = Link(local, remote, random.Random(local), now, prefix=PREFIX, controller=controller)
        for id_ in (1, 2):
            self.link.stream_open(id_)

    def turn(self, most: float) -> None:
        """Wait, take in what is there, let the application act, send what may leave."""
        timeout = self.link.next_timeout()
        now = time.monotonic()
        wait = most if timeout is None else min(max(timeout - now, 0.0), most)
        select.select([self.sock], [], [], wait)
        packets: list[bytes] = []
        try:
            while len(packets) < ITERATE:
                packets.append(self.sock.recv(2048))
        except BlockingIOError:
            pass
        now = time.monotonic()
        if packets:
            self.link.receive(packets, now)
        timeout = self.link.next_timeout()
        if timeout is not None and timeout <= now:
            self.link.handle_timeout(now)
        while (event := self.link.next_event()) is not None:
            self.act(event)
        for packet in self.link.packets_to_send(now):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self.sock.send(packet)

    def act(self, event: object) -> None:
        raise NotImplementedError


class Echo(End):
    read = 0

    def act(self, event: object) -> None:
        if type(event) is StreamReadable:
            data = self.link.stream_read(event.id, 1 << 30)
            if event.id == 1:
                self.read += len(data)
            else:
                self.link.stream_write(2, data)


class Asker(End):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.asked = 0.0
        self.trips: list[float] = []
        self.bulk = False

    def act(self, event: object) -> None:
        if type(event) is StreamReadable:
            self.link.stream_read(event.id, 100)
            self.trips.append(time.monotonic() - self.asked)
            self.asked = 0.0
        elif type(event) is StreamWritable and self.bulk:
            self.fill()

    def fill(self) -> None:
        while self.link.stream_write(1, CHUNK) == len(CHUNK):
            pass

    def run(self, seconds: float, pause: float) -> tuple[float, float]:
        """Median and 99th percentile of the round trips of one byte, in ms."""
        self.trips.clear()
        end = time.monotonic() + seconds
        due = 0.0
        while (now := time.monotonic()) < end:
            if not self.asked and now >= due:
                self.asked, due = now, now + pause
                self.link.stream_write(2, b"?")
            self.turn(0.001)
        trips = sorted(self.trips)
        return statistics.median(trips) * 1e3, trips[len(trips) * 99 // 100] * 1e3


def serve(sock: socket.socket, controller: type, seconds: float) -> None:
    echo = Echo(sock, 2, 1, controller)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        echo.turn(0.05)
    print(f"receiver: {time.process_time():.2f} s of CPU, {echo.read / 1e6:.0f} MB read", flush=True)
    os._exit(0)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    controller = getattr(links, sys.argv[2]) if len(sys.argv) > 2 else links.Bbr
    ends = []
    for _ in range(2):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        ends.append(sock)
    ends[0].connect(ends[1].getsockname())
    ends[1].connect(ends[0].getsockname())
    gc.disable()
    child = os.fork()
    if child == 0:
        serve(ends[1], controller, seconds + 2.5)
    asker = Asker(ends[0], 1, 2, controller)
    median, worst = asker.run(2.0, 0.01)
    print(f"idle: median {median:.2f} ms, 99 % {worst:.2f} ms")
    asker.bulk = True
    asker.fill()
    cpu, sent = time.process_time(), asker.link.recovery.path.delivered
    median, worst = asker.run(seconds, 0.01)
    cpu, sent = time.process_time() - cpu, asker.link.recovery.path.delivered - sent
    print(f"under load: median {median:.2f} ms, 99 % {worst:.2f} ms")
    recovery = asker.link.recovery
    print(
        f"sender: {sent / seconds / 1e6:.1f} MB/s, {cpu:.2f} s of CPU in {seconds:g},"
        f" lost {recovery.path.lost}, timeouts {recovery.timeouts}, spurious {recovery.spurious_losses}"
    )
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
