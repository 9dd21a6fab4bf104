"""Processor time of a broadcast: one daemon asks N contacts, each answers. In memory, without Tox and kernel.

python -m scripts.benchmarks.fanout [CONTACTS [BROADCASTS]]
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from tests.daemon.simulated import Daemon
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.netstack.path import Path
from tunfwd.tun.device import Offload, Statistics
from tunfwd.wire import ip, udp, vnet
from tunfwd.wire.packets import Protocol

PORT = 8303
OWN, ALL = bytes((10, 77, 0, 1)), bytes((255, 255, 255, 255))
QUESTION, ANSWER = bytes(15), bytes(100)  # bytes of DDNet's
PACE = 0.25  # s between broadcasts, each from a port of its own, as games do


class Wire:
    """A TUN device whose other end is this program."""

    mtu = 1500
    offload = Offload(0)
    name = "tunfwd0"
    statistics = Statistics()

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, frame: list[Any]) -> bool:
        self.written.append(b"".join(frame))
        return True


class Side:
    """A daemon, and the time that it has taken."""

    def __init__(self, seed: int) -> None:
        self.wire = Wire()
        self.daemon = Daemon(
            rules=(Rule(Action.ACCEPT),), seed=seed, device=self.wire, clock=trio.current_time
        )
        self.daemon.tox.on_said = lambda: None
        self.seconds = 0.0

    def work(self, action: Callable[[], object]) -> None:
        began = time.process_time()
        action()
        self.daemon.settle()
        self.daemon.engine.iterated()
        self.daemon.engine.round()
        self.seconds += time.process_time() - began

    def frame(self, source: tuple[bytes, int], destination: tuple[bytes, int], payload: bytes) -> None:
        path = Path(source[0], destination[0], 1500)
        [frame] = path.datagrams(source[1], destination[1], [payload], 1)
        self.daemon.stack.receive([b"".join(frame)], trio.current_time())


def carry(asker: Side, answerers: list[Side], there: list[Peer], back: list[Peer]) -> None:
    """Hand over what is said, until nobody says more."""
    while True:
        quiet = True
        for number, side in enumerate(answerers):
            ways = (asker, side, back[number], number), (side, asker, there[number], 0)
            for source, target, peer, mine in ways:
                said = [entry for entry in source.daemon.tox.said if entry[1] == mine]
                for entry in said:
                    source.daemon.tox.said.remove(entry)
                    engine = target.daemon.engine
                    take = engine.lossless if entry[0] else engine.lossy
                    target.work(lambda take=take, peer=peer, data=entry[2]: take(peer, data))  # type: ignore[misc]
                    quiet = False
        if quiet:
            return


def answer(side: Side) -> int:
    """Be the game that is asked."""
    asked, side.wire.written = side.wire.written, []
    for frame in asked:
        packet = ip.parse(frame, vnet.LENGTH)
        datagram = udp.parse(frame, packet.payload, packet.end)
        here = packet.destination, datagram.destination_port
        side.work(partial(side.frame, here, (packet.source, datagram.source_port), ANSWER))
    return len(asked)


async def measure(contacts: int, broadcasts: int) -> None:
    asker, answerers = Side(0), [Side(number + 1) for number in range(contacts)]
    there = [asker.daemon.befriend(f"answerer{number}") for number in range(contacts)]
    back = [side.daemon.befriend("asker") for side in answerers]
    for side, peer in zip(answerers, back, strict=True):
        offers: Any = side.daemon.offers
        offers.offer(peer, Protocol.UDP, PORT, "game", None, "peer")
        side.work(lambda side=side, peer=peer: side.daemon.scheduler.touch(peer))  # type: ignore[misc]
    for _ in range(20):
        carry(asker, answerers, there, back)
        await trio.sleep(0.05)
    for side in (asker, *answerers):
        side.seconds = 0.0
    answers = 0
    for number in range(broadcasts):
        asker.wire.written.clear()
        asker.work(lambda number=number: asker.frame((OWN, 40000 + number), (ALL, PORT), QUESTION))  # type: ignore[misc]
        for _ in range(4):
            carry(asker, answerers, there, back)
            for side in answerers:
                answer(side)
        answers += len(asker.wire.written)
        await trio.sleep(PACE)
    copies = contacts * broadcasts
    print(f"{contacts} contacts, {broadcasts} broadcasts: {answers} of {copies} answered")
    share = f"{asker.seconds / broadcasts:.1%} of a core at one broadcast a second"
    print(f"who asks:    {1000 * asker.seconds / copies:.2f} ms for each contact, {share}")
    taken = sum(side.seconds for side in answerers)
    print(f"who answers: {1000 * taken / copies:.2f} ms")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:3]]
    contacts, broadcasts = given + [30, 30][len(given) :]
    trio.run(measure, contacts, broadcasts)
