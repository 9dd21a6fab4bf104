"""Two stacks over a network that loses, repeats, delays and reorders, on a virtual clock.

Either stack takes the other's virtual hosts for programs behind the kernel. Super-segments go over whole, or
cut into packets as a network card would. Whatever happens, what is read is what was written.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from itertools import count

import pytest

from tunfwd.netstack import Connection, Endpoint, HostState, Stack
from tunfwd.netstack.events import (
    Aborted,
    Closed,
    Connected,
    ConnectFailed,
    Datagram,
    Eof,
    Event,
    Incoming,
    Readable,
    Writable,
)
from tunfwd.netstack.send_buffer import WRITABLE

from .lab import cut, flatten

LEFT = (IPv4Interface("10.77.0.1/16"), IPv6Interface("fd77::1/64"))
RIGHT = (IPv4Interface("10.88.0.1/16"), IPv6Interface("fd88::1/64"))
ADDRESSES = {
    "IPv4": (ip_address("10.77.3.9").packed, ip_address("10.88.3.9").packed),
    "IPv6": (ip_address("fd77::9").packed, ip_address("fd88::9").packed),
}


@dataclass
class Weather:
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """How many packets take up to ten times as long as the others."""
    delay: float = 0.001
    packets: bool = False
    """Whether super-segments are cut."""


@dataclass
class Side:
    """One stack and its owner, who writes `to_write` and reads at most `appetite` bytes a millisecond."""

    stack: Stack = field(repr=False)
    to_write: bytes = field(repr=False)
    appetite: int = 1 << 30
    connection: Connection | None = None
    written: int = 0
    read: bytearray = field(default_factory=bytearray, repr=False)
    ends: list[str] = field(default_factory=list)
    hungry: bool = False

    def handle(self, event: Event) -> None:
        match event:
            case Incoming(connection):
                connection.accept()
                self.connection = connection
                self.fill()
            case Connected() | Writable():
                self.fill()
            case Readable():
                self.hungry = True
            case Eof() | Closed() | Aborted() | ConnectFailed():
                self.ends.append(type(event).__name__)
            case Datagram():
                raise AssertionError

    def fill(self) -> None:
        assert self.connection is not None
        while self.written < len(self.to_write):
            part = self.to_write[self.written : self.written + 100_000]
            accepted = self.connection.write(part)
            self.written += accepted
            if accepted < len(part):
                return
        self.connection.shutdown()

    def eat(self) -> None:
        if self.connection is not None and self.hungry:
            part = self.connection.read(self.appetite)
            self.read += part
            self.hungry = len(part) == self.appetite


class World:
    def __init__(self, left: Side, right: Side, weather: Weather, seed: int) -> None:
        self.sides = (left, right)
        self.weather = weather
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.frames_sent = 0
        self._serial = count()
        self._underway: list[tuple[float, int, int, bytes]] = []

    def run(self, limit: float) -> None:
        """Until both ends are over, or `limit` seconds have passed."""
        deadline = self.now + limit
        while self.now < deadline:
            for index, side in enumerate(self.sides):
                while (event := side.stack.next_event()) is not None:
                    side.handle(event)
                side.eat()
                for frame in side.stack.packets_to_send(self.now):
                    self._send(1 - index, flatten(frame))
            if all(side.ends and side.ends[-1] != "Eof" for side in self.sides):
                return
            self._advance()
        raise AssertionError(f"not over: {self.sides}")

    def _send(self, to: int, frame: bytes) -> None:
        weather, chance = self.weather, self.chance
        for packet in cut(frame) if weather.packets else (frame,):
            self.frames_sent += 1
            for _ in range(1 + (chance.random() < weather.duplication)):
                if chance.random() < weather.loss:
                    continue
                delay = weather.delay * (chance.uniform(1, 10) if chance.random() < weather.reordering else 1)
                heapq.heappush(self._underway, (self.now + delay, next(self._serial), to, packet))

    def _advance(self) -> None:
        timeouts = [timeout for side in self.sides if (timeout := side.stack.next_timeout()) is not None]
        if any(side.hungry for side in self.sides):
            timeouts.append(self.now + 0.001)
        if self._underway:
            timeouts.append(self._underway[0][0])
        assert timeouts, f"nothing will ever happen: {self.sides}"
        self.now = max(self.now, min(timeouts))
        arrived: tuple[list[bytes], list[bytes]] = ([], [])
        while self._underway and self._underway[0][0] <= self.now:
            _, _, to, packet = heapq.heappop(self._underway)
            arrived[to].append(packet)
        for side, frames in zip(self.sides, arrived, strict=True):
            side.stack.handle_timeout(self.now)
            side.stack.receive(frames, self.now)


def world(
    weather: Weather, seed: int, *, family: str = "IPv4", size: int = 400_000, appetite: int = 1 << 30
) -> World:
    source = random.Random(seed)
    left, right = (
        Side(
            Stack(own, lambda _: HostState.ONLINE, random.Random(seed)),
            source.randbytes(source.randrange(size)),
            appetite,
        )
        for own in (LEFT, RIGHT)
    )
    made = World(left, right, weather, seed)
    here, there = ADDRESSES[family]
    left.connection = left.stack.connect(Endpoint(here, 0), Endpoint(there, 80), made.now)
    return made


def check(made: World) -> None:
    left, right = made.sides
    assert left.ends == right.ends == ["Eof", "Closed"]
    assert right.read == left.to_write
    assert left.read == right.to_write
    for side in made.sides:
        assert side.stack.statistics().malformed == 0
        assert side.stack.statistics().bad_checksum == 0


CLEAR = Weather()
WEATHERS = {
    "clear": CLEAR,
    "packets": Weather(packets=True),
    "loss": Weather(loss=0.1),
    "packets lost": Weather(loss=0.02, packets=True),
    "reordered": Weather(reordering=0.3, packets=True),
    "repeated": Weather(duplication=0.3, reordering=0.1),
    "terrible": Weather(loss=0.2, duplication=0.2, reordering=0.3),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS.keys())
def test_both_streams_arrive_whole(weather: Weather, family: str, seed: int) -> None:
    made = world(weather, seed, family=family)
    made.run(600)
    check(made)


@pytest.mark.parametrize("seed", range(3))
def test_slow_readers_hold_back_the_writers(seed: int) -> None:
    made = world(Weather(loss=0.02), seed, size=6_000_000, appetite=20_000)
    made.run(600)
    check(made)


@pytest.mark.heavy
def test_stalled_readers_bound_what_is_under_way() -> None:
    made = world(CLEAR, 1, size=1)
    left, right = made.sides
    left.to_write = right.to_write = bytes(5_000_000)
    for side in made.sides:
        side.eat = lambda: None  # type: ignore[method-assign]
        side.appetite = 0
    with pytest.raises(AssertionError):
        made.run(60)
    for side in made.sides:
        assert side.connection is not None
        assert (1 << 20) - 256 < len(side.connection._receive) <= 1 << 20  # windows come in 256 bytes
        # What the reader holds and what the writer holds, less what is too little to be Writable for.
        assert (2 << 20) - WRITABLE < side.written <= 2 << 20
        del side.eat
        side.appetite = 1 << 30
    made.run(100)
    check(made)


def test_a_clear_network_needs_no_retransmission() -> None:
    """A megabyte is 16 super-segments; more than that again would be waste."""
    made = world(CLEAR, 2, size=1)
    made.sides[0].to_write = bytes(10_000_000)
    made.run(60)
    check(made)
    assert made.frames_sent < 10_000_000 / 65_000 * 2.5
    assert made.now < 1000.5


def test_a_network_that_goes_dark_ends_the_connection() -> None:
    made = world(CLEAR, 3, size=1)
    left, right = made.sides
    left.to_write = right.to_write = bytes(50_000_000)
    with pytest.raises(AssertionError):
        made.run(0.02)
    made.weather = Weather(loss=1.0)
    made.run(200)
    assert left.ends == right.ends == ["Aborted"]
    assert left.stack.next_timeout() is None


def test_a_network_that_is_dark_for_ten_seconds_does_not() -> None:
    made = world(CLEAR, 3, size=1)
    left, right = made.sides
    left.to_write, right.to_write = (
        random.Random(4).randbytes(4_000_000),
        random.Random(5).randbytes(4_000_000),
    )
    with pytest.raises(AssertionError):
        made.run(0.005)
    made.weather = Weather(loss=1.0)
    with pytest.raises(AssertionError):
        made.run(10)
    made.weather = CLEAR
    made.run(60)
    check(made)


def test_both_open_at_once() -> None:
    made = world(CLEAR, 6)
    left, right = made.sides
    here, there = ADDRESSES["IPv4"]
    assert left.connection is not None
    left.connection.abort()
    left.connection = left.stack.connect(Endpoint(here, 5), Endpoint(there, 6), made.now)
    right.connection = right.stack.connect(Endpoint(there, 6), Endpoint(here, 5), made.now)
    made.run(60)
    check(made)
