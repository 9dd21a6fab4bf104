"""UDP on its way out: bounded queues, and runs of equal datagrams joined for the kernel to cut apart.

Each virtual address has a queue of its own, so that a contact that sends too much loses datagrams of its own.
"""

from collections import deque
from typing import Final

from tunfwd.netstack.path import Path
from tunfwd.netstack.types import Endpoint, Frame
from tunfwd.wire import ip, udp

MAX_QUEUED: Final = 1024  # datagrams of one virtual address; the oldest gives way
MAX_PATHS: Final = 256  # that are remembered
MAX_PAYLOAD_V4 = ip.MAX_PACKET - ip.HEADER_LENGTH_V4 - udp.HEADER_LENGTH  # bytes
MAX_PAYLOAD_V6 = ip.MAX_PACKET - udp.HEADER_LENGTH


class _Queued:
    __slots__ = ("destination", "payload", "source")

    def __init__(self, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        self.source = source
        self.destination = destination
        self.payload = payload


class DatagramQueue:
    """Datagrams that were sent since frames were last asked for."""

    __slots__ = ("_identification", "_mtu", "_paths", "_queues", "_segmentation", "dropped")

    def __init__(self, mtu: int, segmentation: bool, identification: int) -> None:
        self._mtu = mtu
        self._segmentation = segmentation
        self._identification = identification
        self._queues: dict[bytes, deque[_Queued]] = {}
        self._paths: dict[tuple[bytes, bytes], Path] = {}
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def append(self, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        """Queue a datagram."""
        queue = self._queues.get(source.address)
        if queue is None:
            queue = self._queues[source.address] = deque()
        elif len(queue) >= MAX_QUEUED:
            queue.popleft()
            self.dropped += 1
        queue.append(_Queued(source, destination, payload))

    def frames(self) -> list[Frame]:
        """Return everything that is queued."""
        frames: list[Frame] = []
        if self._queues:
            queues, self._queues = self._queues, {}
            for queue in queues.values():
                self._build(queue, frames)
        return frames

    def _build(self, queue: deque[_Queued], frames: list[Frame]) -> None:
        while queue:
            first = queue.popleft()
            source, destination, payload = first.source, first.destination, first.payload
            path = self._path(source.address, destination.address)
            payloads = [payload]
            if self._segmentation and path.network_length + udp.HEADER_LENGTH + len(payload) <= self._mtu:
                _join(payloads, source, destination, queue)
            frames += path.datagrams(source.port, destination.port, payloads, self.next_identification())

    def _path(self, source: bytes, destination: bytes) -> Path:
        path = self._paths.get((source, destination))
        if path is None:
            if len(self._paths) >= MAX_PATHS:
                self._paths.clear()
            path = self._paths[source, destination] = Path(source, destination, self._mtu)
        return path

    def next_identification(self) -> int:
        """Return a number for a packet that is, or may come to be, in fragments."""
        self._identification = (self._identification + 1) & 0xFFFFFFFF
        return self._identification


def _join(payloads: list[bytes], source: Endpoint, destination: Endpoint, queue: deque[_Queued]) -> None:
    """Append the datagrams that follow with the same endpoints and size; the last may be shorter."""
    size, total = len(payloads[0]), len(payloads[0])
    while queue and size and len(payloads) < udp.MAX_SEGMENTS:
        following = queue[0]
        length = len(following.payload)
        if (
            following.source != source
            or following.destination != destination
            or not 0 < length <= size
            or total + length > MAX_PAYLOAD_V4 - ip.HEADER_LENGTH_V6
        ):
            return
        payloads.append(queue.popleft().payload)
        total += length
        if length < size:
            return
