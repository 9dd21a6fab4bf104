"""CPU per packet of a bulk transfer between two links in memory, each end measured by itself.

    python -m scripts.benchmarks.link [MB]

The clock is virtual and the path perfect (1 ms round trip), so that only the link's own work is timed: at
the sender writing, building packets and taking in Acks; at the receiver taking in packets, reading the
stream and building Acks.
"""

from __future__ import annotations

import gc
import random
import sys
import time

from tunfwd.link import Bbr, Cubic, Link, NewReno, StreamReadable

PREFIX = b"\xc9\x02"
CHUNK = bytes(range(256)) * 256
TICK = 0.0005  # s; one way, and what arrives at once
BATCH = 44  # packets the path carries in a tick: 120 MB/s


def transfer(size: int, controller: type, streams: int = 1) -> tuple[float, float, int, int]:
    """Seconds of CPU at sender and receiver, packets and Acks."""
    sender = Link(1, 2, random.Random(1), 0.0, prefix=PREFIX, controller=controller)
    receiver = Link(2, 1, random.Random(2), 0.0, prefix=PREFIX, controller=controller)
    for id_ in range(1, streams + 1):
        sender.stream_open(id_)
        receiver.stream_open(id_)
    now = 0.0
    spent_sending = spent_receiving = 0.0
    packets_total = acks_total = written = read = 0
    wire: list[bytes] = []
    queue: list[bytes] = []
    wire_back: list[bytes] = []
    clock = time.perf_counter
    while read < size:
        now += TICK
        begin = clock()
        if wire_back:
            sender.receive(wire_back, now)
        while sender.next_event() is not None:
            pass
        if written < size:
            for id_ in range(1, streams + 1):
                while True:
                    taken = sender.stream_write(id_, CHUNK)
                    written += taken
                    if taken < len(CHUNK):
                        break
        timeout = sender.next_timeout()
        if timeout is not None and timeout <= now:
            sender.handle_timeout(now)
        packets = sender.packets_to_send(now)
        spent_sending += clock() - begin
        packets_total += len(packets)
        begin = clock()
        if wire:
            receiver.receive(wire, now)
        while (event := receiver.next_event()) is not None:
            if type(event) is StreamReadable:
                read += len(receiver.stream_read(event.id, 1 << 30))
        timeout = receiver.next_timeout()
        if timeout is not None and timeout <= now:
            receiver.handle_timeout(now)
        acks = receiver.packets_to_send(now)
        spent_receiving += clock() - begin
        acks_total += len(acks)
        queue += packets
        wire, queue = queue[:BATCH], queue[BATCH:]
        wire_back = acks
    return spent_sending, spent_receiving, packets_total, acks_total


def main() -> None:
    size = int(sys.argv[1]) * 1_000_000 if len(sys.argv) > 1 else 100_000_000
    gc.disable()
    print(f"{'':>10} {'streams':>8} {'packets':>8} {'acks':>6} {'send µs/pkt':>12} {'recv µs/pkt':>12}")
    for controller in (Bbr, Cubic, NewReno):
        for streams in (1, 10):
            sending, receiving, packets, acks = transfer(size, controller, streams)
            print(
                f"{controller.__name__:>10} {streams:>8} {packets:>8} {acks:>6}"
                f" {sending / packets * 1e6:>12.2f} {receiving / packets * 1e6:>12.2f}"
            )


if __name__ == "__main__":
    main()
