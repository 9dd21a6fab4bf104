"""Measures the stack through a real TUN device: `python -m scripts.benchmarks.netstack [GIGABYTES]`, as root.

The program at the kernel's end is a process of its own; the stack has this one, and what is read is thrown
away.
"""

from __future__ import annotations

import subprocess
import sys
import time
from ipaddress import ip_address

from tests.netstack.kernel import MEGABYTE, SOURCE, Machine, Talk, machine, own
from tunfwd.netstack import Endpoint

SINK = 106  # read and throw away

SENDER = """
import socket, sys
data = bytes(1 << 20)
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    for _ in range(int(sys.argv[3])):
        connection.sendall(data)
    connection.shutdown(1)
    connection.recv(1)
"""
RECEIVER = """
import socket, sys
buffer = bytearray(1 << 20)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 9000), family=family)
print("ready", flush=True)
connection, _ = server.accept()
while connection.recv_into(buffer):
    pass
"""
ECHO_CLIENT = """
import socket, statistics, sys, time
times = []
with socket.create_connection((sys.argv[1], 7)) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3000):
        started = time.perf_counter()
        connection.send(b"x")
        connection.recv(1)
        times.append(time.perf_counter() - started)
times.sort()
print(f"1-byte round trip: median {times[1500] * 1e6:.0f} us, p99 {times[2970] * 1e6:.0f} us")
"""


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def report(what: str, made: Machine, size: int, started: float, cpu: float) -> None:
    elapsed = time.monotonic() - started
    used = made.cpu - cpu
    print(f"{what}: {size / elapsed / 1e6:.0f} MB/s, {used / size * 1e9:.2f} s of CPU per GB")


def main() -> None:
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 2) * 1000) << 20
    with machine() as made:
        for host in ("10.77.3.9", "fd77::9"):
            started, cpu = time.monotonic(), made.cpu
            sender = python(SENDER, host, SINK, size >> 20)
            sender.wait(60)
            report(f"kernel -> stack, {host}", made, size, started, cpu)

            receiver = python(RECEIVER, ip_address(own(host)))
            assert receiver.stdout is not None
            receiver.stdout.readline()
            started, cpu = time.monotonic(), made.cpu

            def begin(host: str = host) -> None:
                local, remote = Endpoint(ip_address(host).packed, 0), Endpoint(own(host), 9000)
                connection = made.stack.connect(local, remote, time.monotonic())
                made.talks[connection] = Talk(connection, SOURCE, size // len(MEGABYTE) * len(MEGABYTE))

            made.call(begin)
            receiver.wait(60)
            report(f"stack -> kernel, {host}", made, size, started, cpu)
        echo = python(ECHO_CLIENT, "10.77.3.9")
        print(echo.communicate(timeout=30)[0], end="")
        print(made.call(made.stack.statistics))


if __name__ == "__main__":
    main()
