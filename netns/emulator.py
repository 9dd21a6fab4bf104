"""Joins hosts through TAP devices, and carries their frames as link.py decides.

A process of its own, started by topology.py. It stands where the bridge would: each host's eth0 is a TAP
device, and this process a switch that learns addresses. What a host sends passes through that host's
Direction; what it receives has passed through the senders'. So two hosts with a delay of 25 ms each are 50 ms
of round trip apart.

Not trio: its timeouts are rounded to milliseconds. select() keeps the microseconds, and with few devices is
as fast.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytun
from pyroute2 import netns

from netns.control import MAX_MESSAGE
from netns.link import Conditions, Direction

INTERFACE = "eth0"  # in every host
MAX_FRAME = 2048  # bytes; 1514 with the MTU of 1500, and no offload is negotiated that would make larger ones
BATCH = 64  # frames from one device before the others have their turn
QUANTUM = 100e-6  # s of rest between rounds: bounds the wake-ups, and by as much frames may be late
TUNSETOFFLOAD = 0x400454D0  # <linux/if_tun.h>


class Port:
    """One host: its TAP device, and the direction that leads away from it."""

    def __init__(self, host: str, namespace: str, direction: Direction) -> None:
        self.host = host
        self.direction = direction
        netns.pushns(namespace)
        try:
            self._device = pytun.TunTapDevice(name=INTERFACE, flags=pytun.IFF_TAP | pytun.IFF_NO_PI)
        finally:
            netns.popns()
        self._fd: int = self._device.fileno()
        os.set_blocking(self._fd, False)
        fcntl.ioctl(self._fd, TUNSETOFFLOAD, 0)

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> list[bytes]:
        """Frames that the host has sent, a batch at most."""
        frames: list[bytes] = []
        with contextlib.suppress(OSError):  # none left, or the device is down
            while len(frames) < BATCH:
                frames.append(os.read(self._fd, MAX_FRAME))
        return frames

    def deliver(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the device is down: as if unplugged
            os.write(self._fd, frame)


class Switch:
    """Carries every frame to the port its destination was last seen at, or to all."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self.ports = ports
        self._seen_at: dict[bytes, Port] = {}

    def accept(self, port: Port, now: float) -> bool:
        """Take in what a host has sent; whether there was anything."""
        frames = port.receive()
        for frame in frames:
            port.direction.send(frame, now)
        return bool(frames)

    def forward(self, now: float) -> None:
        for port in self.ports:
            for frame in port.direction.arrived(now):
                self._seen_at[frame[6:12]] = port
                group = frame[0] & 1
                target = None if group else self._seen_at.get(frame[:6])
                if target is not None:
                    target.deliver(frame)
                    continue
                for other in self.ports:
                    if other is not port:
                        other.deliver(frame)

    def next_arrival(self) -> float | None:
        times = [time for port in self.ports if (time := port.direction.next_arrival()) is not None]
        return min(times, default=None)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out a request of control.py. Raises KeyError, TypeError, ValueError, with nothing changed."""
        changes = {
            port: dataclasses.replace(port.direction.conditions, **request["change"][port.host])
            for port in self.ports
            if port.host in request.get("change", {})
        }
        for port, conditions in changes.items():
            port.direction.change(conditions)
        return {
            port.host: {
                "conditions": dataclasses.asdict(port.direction.conditions),
                "counters": dataclasses.asdict(port.direction.counters),
            }
            for port in self.ports
        }


def carry(switch: Switch, control: socket.socket, owner: int | None) -> None:
    """Until told to quit, or until the owner's end of the pipe `owner` is closed."""
    sources: list[Port | socket.socket | int] = [*switch.ports, control]
    sources += [] if owner is None else [owner]
    while True:
        due = switch.next_arrival()
        timeout = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select(sources, [], [], timeout)
        now = time.monotonic()
        busy = False
        for source in readable:
            if isinstance(source, Port):
                busy |= switch.accept(source, now)
            elif source == owner or not _serve(switch, control):
                return
        switch.forward(time.monotonic())
        if busy:
            time.sleep(QUANTUM)


def _serve(switch: Switch, control: socket.socket) -> bool:
    """Answer one request; False if it was to quit."""
    message, asker = control.recvfrom(MAX_MESSAGE)
    request = {}
    try:
        request = json.loads(message)
        answer = switch.answer(request)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        answer = {"error": str(error)}
    with contextlib.suppress(OSError):  # nobody waits for it any more
        control.sendto(json.dumps(answer).encode(), socket.MSG_DONTWAIT, asker)
    return not (isinstance(request, dict) and request.get("quit"))


def main(settings: dict[str, Any]) -> None:
    """With "control" (a path), "hosts" ({name: namespace}), "conditions", "seed", and "keep" (no owner)."""
    if settings["keep"] and os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # other work on the machine is not to show as jitter
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
    conditions = Conditions(**settings["conditions"])
    ports = [
        Port(host, namespace, Direction(conditions, random.Random(f"{settings['seed']}/{host}")))
        for host, namespace in settings["hosts"].items()
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        Path(settings["control"]).unlink(missing_ok=True)
        os.umask(0o077)
        control.bind(settings["control"])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2) if settings["keep"] else (1,):  # who reads them is not to wait for us
            os.dup2(quiet, stream)
        carry(Switch(ports), control, None if settings["keep"] else sys.stdin.fileno())
    Path(settings["control"]).unlink(missing_ok=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
