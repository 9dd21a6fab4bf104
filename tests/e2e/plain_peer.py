"""A friend that speaks v0.1 of the specification and nothing else, over real toxcore, byte by byte.

It shares toxcore's binding with the program, and none of its packets: what SPEC.md says is written out here
once more. It runs in a thread of its own that lives in the namespace of its host.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self, TypeVar

import trio

from netns.topology import Host
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Contact
from tunfwd.tox.friends import parse_address
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Settings, nodes

from .hosts import ASKED_AGAIN, TIME, enter, until_heard

T = TypeVar("T")

LOSSLESS, LOSSY, EXTENSION = b"\xa7", b"\xc8", b"\xc9"
OFFER, ACCEPT, ACK_ACC, KILL, DATA, HELLO = 0x00, 0x01, 0x02, 0x03, 0x04, 0x0F
TCP, UDP = 0, 1
SERVER, CONNECTION = 0, 1
_unknown = count(0x7A000001)  # ids that nobody gives
MAX_PAYLOAD = 1373 - 6  # bytes of stream in one lossless packet


@dataclass(frozen=True)
class Packet:
    type: int
    msg_id: int
    body: bytes = b""

    @property
    def offered(self) -> tuple[int, int, int, str]:
        """Protocol, direction, port and name of an Offer."""
        protocol, direction, port, size = struct.unpack_from("<BBHB", self.body)
        name = self.body[5:]
        assert len(name) == size
        return protocol, direction, port, name.decode()


class ToxNode(Handler):
    """A node of the Tox network in a thread of its own, as a context manager; used from the test's thread.

    Without friends it is what others bootstrap from: the key for that is new in every run of a node, so it
    takes one that outlives the daemons under test.
    """

    def __init__(
        self, host: Host, savedata: Path, bootstrap: str | None = None, *, tcp_relay_port: int = 0
    ) -> None:
        self._host = host
        known = nodes([bootstrap]) if bootstrap else ()
        self._settings = Settings(
            savedata=savedata,
            bootstrap=known,
            name="eve",
            local_discovery=False,
            tcp_relay_port=tcp_relay_port,
        )
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(TIME)
        assert self._failure is None, self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._scope.cancel)
        self._thread.join(TIME)
        assert not self._thread.is_alive()
        assert self._failure is None, self._failure

    def _run(self) -> None:
        enter(self._host)
        try:
            trio.run(self._main)
        except BaseException as failure:
            self._failure = failure
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope, Client(self._settings, self) as self._client:
            self.public_key = self._client.public_key.hex().upper()
            self.bootstrap = f"{self._host.address}:{self._client.udp_port}:{self._client.dht_key.hex()}"
            self._ready.set()
            await self._client.run()

    def _call(self, action: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(action, trio_token=self._token)


class PlainPeer(ToxNode):
    """The friend; its methods wait no longer than `TIME` where nothing else is said."""

    def __init__(self, host: Host, savedata: Path, bootstrap: str) -> None:
        super().__init__(host, savedata, bootstrap)
        self._packets: queue.Queue[Packet] = queue.Queue()
        self._early: list[Packet] = []
        self._online = threading.Event()
        self._iterated = trio.Event()
        self.datagrams: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def ask(self, address: str) -> None:
        self._call(lambda: self._client.friends.add(parse_address(address)))

    def wait_online(self, timeout: float) -> None:
        assert self._online.wait(timeout), "eve's friend is not online"

    # --- events ---------------------------------------------------------------------------------------------

    def contact_online(self, contact: Contact) -> None:
        self._contact = contact
        self._online.set()

    def contact_offline(self, contact: Contact) -> None:
        self._online.clear()

    def lossless(self, contact: Contact, data: bytes) -> None:
        assert data[:1] == LOSSLESS
        if data[1] != HELLO:  # v0.1 knows it not, and ignores it
            (msg_id,) = struct.unpack_from("<I", data, 2)
            self._packets.put(Packet(data[1], msg_id, data[6:]))

    def lossy(self, contact: Contact, data: bytes) -> None:
        if data[:1] == LOSSY:
            self.datagrams.put((*struct.unpack_from("<I", data, 1), data[5:]))

    def iterated(self) -> None:
        self._iterated.set()
        self._iterated = trio.Event()

    # --- packets --------------------------------------------------------------------------------------------

    def send_raw(self, *packets: bytes) -> None:
        """Lossless ones; waits where toxcore's queue is full."""
        trio.from_thread.run(self._send_all, packets, trio_token=self._token)

    async def _send_all(self, packets: tuple[bytes, ...]) -> None:
        with trio.fail_after(30):
            for packet in packets:
                while not self._contact.send_lossless(packet):
                    await self._iterated.wait()

    def send_lossy(self, packet: bytes) -> None:
        self._call(lambda: self._contact.send_lossy(packet))

    def send(self, kind: int, msg_id: int, body: bytes = b"") -> None:
        self.send_raw(LOSSLESS + struct.pack("<BI", kind, msg_id) + body)

    @staticmethod
    def offer_packet(msg_id: int, protocol: int, direction: int, port: int, name: bytes) -> bytes:
        head = struct.pack("<BIBBHB", OFFER, msg_id, protocol, direction, port, len(name))
        return LOSSLESS + head + name

    def offer(self, msg_id: int, protocol: int, direction: int, port: int, name: str = "") -> None:
        self.send_raw(self.offer_packet(msg_id, protocol, direction, port, name.encode()))

    def send_stream(self, msg_id: int, data: bytes) -> None:
        head = LOSSLESS + struct.pack("<BI", DATA, msg_id)
        pieces = (data[start : start + MAX_PAYLOAD] for start in range(0, len(data), MAX_PAYLOAD))
        self.send_raw(*(head + piece for piece in pieces))

    def send_datagram(self, msg_id: int, data: bytes) -> None:
        self.send_lossy(LOSSY + struct.pack("<I", msg_id) + data)

    def expect_datagram(self, send: Callable[[], object], msg_id: int, data: bytes) -> None:
        """Have it sent until it comes."""
        until_heard(send, lambda seconds: self.datagrams.get(timeout=seconds), (msg_id, data))

    def expect(self, kind: int, msg_id: int | None = None, timeout: float = TIME) -> Packet:
        """The next packet of that kind and id; others are kept for later."""
        deadline = time.monotonic() + timeout
        for packet in self._early:
            if packet.type == kind and msg_id in (None, packet.msg_id):
                self._early.remove(packet)
                return packet
        while True:
            try:
                packet = self._packets.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                message = f"no packet {kind} of {msg_id}, but {self._early[:20]}"
                raise AssertionError(message) from None
            if packet.type == kind and msg_id in (None, packet.msg_id):
                return packet
            self._early.append(packet)

    def expect_stream(self, msg_id: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self.expect(DATA, msg_id).body
        assert len(data) == size
        return bytes(data)

    def expect_offer(self, name: str) -> Packet:
        """The next Offer of that name."""
        while True:
            packet = self.expect(OFFER)
            if packet.offered[3] == name:
                return packet

    def expect_silence(self, seconds: float) -> None:
        time.sleep(seconds)
        assert self._packets.empty(), self._packets.get_nowait()

    def forget(self) -> None:
        """All that was sent so far, also what is on its way: it comes before the answer to a question."""
        deadline = time.monotonic() + TIME
        while not self._is_answered():
            assert time.monotonic() < deadline, "an Accept of nothing is not answered"
        self._early.clear()

    def _is_answered(self) -> bool:
        """Whether an Accept of what was never offered is, as it has to be, unless too many came before it."""
        msg_id = next(_unknown)
        self.send(ACCEPT, msg_id)
        try:
            self.expect(KILL, msg_id, ASKED_AGAIN)
        except AssertionError:
            return False
        return True
