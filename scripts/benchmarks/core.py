"""What everything above the carrier can do: two daemons' cores in one process, packets handed over in memory.

Each has a real TUN device in a network namespace of its own, with real applications behind it; only Tox is
left out. Both cores share one CPU, so each alone could do about twice as much.
"""

import json
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from pyroute2 import netns

from netns.topology import Host, Topology
from scripts.benchmarks.ending import tidily
from tunfwd.daemon.contacts.offers import Offers, Policy
from tunfwd.daemon.datapath.datapath import Datapath, Machine
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, Session, Settings
from tunfwd.loop import NEVER, Loop
from tunfwd.services.poller import Poller
from tunfwd.tun import network
from tunfwd.tun.device import Device
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Feature, Protocol

QUEUE = 4096  # packets that the carrier holds, one way
BATCH = 256  # packets handed over before the other side gets its turn
APP = str(Path(__file__).with_name("app.py"))
TIME_LIMIT = 300.0  # s for the whole measurement
OWN = IPv4Interface("10.77.0.1/16"), IPv6Interface("fd74:756e:6677::1/48")
PEER = IPv4Interface("10.77.0.2/16"), IPv6Interface("fd74:756e:6677::2/48")


class MemoryContact:
    """A contact at the other end of a queue in memory."""

    kind = "friend"
    carrier = FRIEND
    key = bytes(32)
    nickname = "peer"
    connection = 2

    def __init__(self) -> None:
        self.queue: deque[tuple[bool, bytes]] = deque()

    def send_lossless(self, packet: bytes) -> bool:
        return self._send(True, packet)

    def send_lossy(self, packet: bytes) -> bool:
        return self._send(False, packet)

    def _send(self, lossless: bool, packet: bytes) -> bool:
        if len(self.queue) >= QUEUE:
            return False
        self.queue.append((lossless, packet))
        return True


class Carry:
    """Hands over what the other core sent, as toxcore's iteration would: in a pass of the loop."""

    def __init__(self, source: MemoryContact, core: "Core") -> None:
        self._queue = source.queue
        self._core = core

    @property
    def due(self) -> float:
        """At once, where something waits."""
        return 0.0 if self._queue else NEVER

    def work(self) -> None:
        """Hand over a batch."""
        queue, engine, peer = self._queue, self._core.engine, self._core.peer
        if queue:
            for _ in range(min(BATCH, len(queue))):
                lossless, packet = queue.popleft()
                (engine.lossless if lossless else engine.lossy)(peer, packet)
            engine.iterated()


class Core:
    """A daemon without Tox, and without the privileges it gave up."""

    def __init__(self, host: Host, contact: MemoryContact, poller: Poller, features: Feature) -> None:
        contact_like: Any = contact
        nobody: Any = SimpleNamespace(at=lambda _protocol, _port: [])  # undecided: the service sees the peer
        self.device = _in_namespace(host, _open_device)
        self.offers = Offers(Content(), Policy((Rule(Action.ACCEPT),), ()), lambda: None)
        machine = Machine(self.device, OWN, interface=0, loopback=1, listeners=nobody, poller=poller)
        datapath = Datapath(machine, Content(), lambda: None, self.offers, connect_timeout=10.0)
        self.scheduler, self.engine = datapath.scheduler, datapath.engine
        session = Session(
            FRIEND,
            epoch=random.getrandbits(64),
            random=random.SystemRandom(),
            settings=Settings(features),
        )
        self.peer = Peer(contact_like, session, "peer", "peer", PEER[0].ip, PEER[1].ip)
        self.engine.add(self.peer)


def _open_device() -> Device:
    device = Device.open("tunfwd0")
    network.configure(device.name, *OWN)
    return device


def _in_namespace(host: Host, action: Callable[[], Device]) -> Device:
    netns.pushns(host.namespace)
    try:
        return action()
    finally:
        netns.popns()


async def _measure(
    loop: Loop, client: Host, server: Host, port: int, seconds: float, features: Feature
) -> dict[str, float]:
    poller = Poller(loop=loop)
    to_server, to_client = MemoryContact(), MemoryContact()
    using, serving = Core(client, to_server, poller, features), Core(server, to_client, poller, features)
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            for core in (using, serving):
                await nursery.start(core.engine.run)
                core.engine.online(core.peer)
            await nursery.start(loop.attend, Carry(to_client, using))
            await nursery.start(loop.attend, Carry(to_server, serving))
            serving.offers.offer(serving.peer, Protocol.TCP, port, "bench", None, "auto")
            serving.scheduler.touch(serving.peer)
            await trio.sleep(0.2)
            measured: dict[str, float] = {}
            for what in (["delays"], ["rates", str(seconds)]):
                arguments = [what[0], PEER[0].ip.compressed, str(port), *what[1:]]
                command = client.command([sys.executable, APP, *arguments])
                result = await trio.run_process(command, capture_stdout=True)
                measured |= json.loads(result.stdout)
            nursery.cancel_scope.cancel()
    for core in (using, serving):
        core.device.close()
    return measured


def measure(seconds: float = 5.0, port: int = 9000, *, link: bool = True) -> dict[str, float]:
    """Return what `app.measure` does, through two cores and an in-memory carrier."""
    with Topology(["client", "server"]) as net:
        serving = net["server"].start([sys.executable, APP, "server", str(port)], stdout=subprocess.PIPE)
        try:
            assert serving.stdout is not None
            serving.stdout.readline()
            features = FEATURES if link else CARRIER_FEATURES
            loop = Loop()
            return loop.host(partial(_measure, loop, net["client"], net["server"], port, seconds, features))
        finally:
            serving.kill()
            serving.wait()


if __name__ == "__main__":
    with tidily():
        print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0), indent=1))
