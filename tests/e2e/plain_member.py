"""A member of a group that speaks v0.1 of the specification and nothing else, byte by byte, over toxcore.

Like plain_peer.py, with many to talk to instead of one, by their nicknames, and packets to all of them.
"""

from __future__ import annotations

import queue
import struct
import time
from collections.abc import Callable
from pathlib import Path

import trio

from netns.topology import Host
from tunfwd.tox.contacts import Contact, Group, Member, RoomState

from .hosts import TIME, eventually, until_heard
from .plain_peer import HELLO, OFFER, Packet, ToxNode

LOSSLESS, LOSSY = b"\xa7\xa7", b"\xa7\xc8"


def packet(kind: int, msg_id: int, body: bytes = b"") -> bytes:
    return LOSSLESS + struct.pack("<BI", kind, msg_id) + body


def offer_packet(msg_id: int, protocol: int, direction: int, port: int, name: str = "") -> bytes:
    words = name.encode()
    return packet(OFFER, msg_id, struct.pack("<BBHB", protocol, direction, port, len(words)) + words)


class PlainMember(ToxNode):
    """Joins a public group; its methods wait no longer than `TIME` where nothing else is said."""

    def __init__(self, host: Host, savedata: Path, bootstrap: str) -> None:
        super().__init__(host, savedata, bootstrap)
        self._early: list[tuple[str, Packet]] = []
        self._packets: queue.Queue[tuple[str, Packet]] = queue.Queue()
        self._iterated = trio.Event()
        self.datagrams: queue.Queue[tuple[str, int, bytes]] = queue.Queue()
        self.heard: list[tuple[str, bytes]] = []
        """All lossless packets, whole; public ones too."""

    # --- the group ------------------------------------------------------------------------------------------

    def join(self, chat_id: str, nickname: str, password: str = "") -> None:
        def join() -> Group:
            self._client.name = nickname
            return self._client.groups.join(bytes.fromhex(chat_id), password)

        self.group: Group = self._call(join)

    def wait_joined(self, *members: str, timeout: float = 60.0) -> None:
        def all_here() -> bool:
            here = {member.nickname for member in list(self.group.by_peer.values())}
            return self.group.state is RoomState.JOINED and here >= set(members)

        eventually(all_here, f"{members} are in the group", timeout)

    def rename(self, nickname: bytes) -> None:
        self._call(lambda: self._client._tox.group_self_set_name(self.group.number, nickname))

    def leave(self) -> None:
        self._call(lambda: self._client.groups.leave(self.group))

    @property
    def key(self) -> str:
        key: bytes = self._call(lambda: self.group.self_key)
        return key.hex().upper()

    def member(self, name: str) -> Member:
        return next(member for member in list(self.group.by_peer.values()) if member.nickname == name)

    # --- events ---------------------------------------------------------------------------------------------

    def lossless(self, contact: Contact, data: bytes) -> None:
        assert data[:2] == LOSSLESS
        self.heard.append((contact.nickname, data))
        if data[2] != HELLO:  # v0.1 knows it not, and ignores it
            (msg_id,) = struct.unpack_from("<I", data, 3)
            self._packets.put((contact.nickname, Packet(data[2], msg_id, data[7:])))

    def public(self, member: Member, data: bytes) -> None:
        self.lossless(member, data)

    def lossy(self, contact: Contact, data: bytes) -> None:
        if data[:2] == LOSSY:
            self.datagrams.put((contact.nickname, *struct.unpack_from("<I", data, 2), data[6:]))

    def iterated(self) -> None:
        self._iterated.set()
        self._iterated = trio.Event()

    # --- packets --------------------------------------------------------------------------------------------

    def send(self, to: str, *packets: bytes) -> None:
        """Lossless ones, to one member; waits where toxcore's queue is full."""
        trio.from_thread.run(self._send_all, self.member(to).send_lossless, packets, trio_token=self._token)

    def send_public(self, *packets: bytes) -> None:
        trio.from_thread.run(self._send_all, self.group.send_lossless, packets, trio_token=self._token)

    async def _send_all(self, send: Callable[[bytes], bool], packets: tuple[bytes, ...]) -> None:
        with trio.fail_after(60):
            for one in packets:
                while not send(one):
                    await self._iterated.wait()

    def send_datagram(self, to: str, msg_id: int, data: bytes) -> None:
        self.send_lossy(to, LOSSY + struct.pack("<I", msg_id) + data)

    def expect_datagram(self, send: Callable[[], object], of: str, msg_id: int, data: bytes) -> None:
        """Have it sent until it comes."""
        until_heard(send, lambda seconds: self.datagrams.get(timeout=seconds), (of, msg_id, data))

    def send_lossy(self, to: str, data: bytes) -> None:
        self._call(lambda: self.member(to).send_lossy(data))

    def expect(self, of: str, kind: int, msg_id: int) -> Packet:
        """The next packet of that member, kind and id; others are kept for later."""
        return self._expect(of, lambda found: (found.type, found.msg_id) == (kind, msg_id))

    def expect_offer(self, of: str, name: str) -> Packet:
        return self._expect(of, lambda found: found.type == OFFER and found.offered[3] == name)

    def _expect(self, of: str, wanted: Callable[[Packet], bool]) -> Packet:
        deadline = time.monotonic() + TIME
        while True:
            for name, found in self._early:
                if name == of and wanted(found):
                    self._early.remove((name, found))
                    return found
            try:
                self._early.append(self._packets.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"not from {of}, but {self._early[:20]}") from None
