"""A friend that speaks the link by hand and breaks its rules, over real toxcore: the daemon goes on."""

from __future__ import annotations

import queue
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns.node import FRIEND_TIME, Node
from netns.topology import Host, Topology
from tunfwd.control import api
from tunfwd.link.ranges import RangeSet
from tunfwd.tox.contacts import Contact
from tunfwd.wire.frames import (
    HEADER,
    Frame,
    ResetStream,
    StopSending,
    Stream,
    decode_frames,
    encode_ack,
    encode_frame,
    link_tag,
)

from .conftest import ask
from .hosts import TIME, eventually, until_heard
from .plain_peer import ACCEPT, HELLO, LOSSLESS, PlainPeer, ToxNode
from .processes import resident

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

LINK = b"\xc9\x02"
FEATURE_LINK = 0x02


class LinkPeer(PlainPeer):
    """Says Hello with the bit LINK alone, and packets of frames that a test writes."""

    def __init__(self, host: Host, savedata: Path, bootstrap: str) -> None:
        super().__init__(host, savedata, bootstrap)
        self.epoch = random.getrandbits(64)
        self.their_epochs: queue.Queue[int] = queue.Queue()
        self.heard: queue.Queue[Frame] = queue.Queue()
        self._seen = RangeSet()
        self._number = 0

    def lossless(self, contact: Contact, data: bytes) -> None:
        if data[:1] == LOSSLESS and data[1] == HELLO:
            self.their_epochs.put(struct.unpack_from("<Q", data, 7)[0])
        super().lossless(contact, data)

    def lossy(self, contact: Contact, data: bytes) -> None:
        if data.startswith(LINK):
            number = HEADER.unpack_from(data, len(LINK))[1]
            self._seen.add(number, number + 1)
            for frame in decode_frames(data, len(LINK) + HEADER.size):
                self.heard.put(frame)

    def greet(self, theirs: int) -> None:
        self.theirs = theirs
        self._number = 0
        self._seen = RangeSet()
        self.send_raw(LOSSLESS + struct.pack("<BBIQ", HELLO, 1, FEATURE_LINK, self.epoch))

    def say(self, *frames: Frame | bytes) -> None:
        body = b"".join(f if isinstance(f, bytes) else encode_frame(f) for f in frames)
        header = HEADER.pack(link_tag(self.epoch, self.theirs), self._number)
        self._number += 1
        self.send_lossy(LINK + header + body)

    def acknowledge(self) -> bytes:
        return encode_ack(self._seen.starts, self._seen.stops, 0.0, 1000)


@pytest.fixture
def mallory(pair: tuple[Node, Node], net: Topology, tmp_path: Path, network: ToxNode) -> Iterator[LinkPeer]:
    alice, _ = pair
    with LinkPeer(net["eve"], tmp_path / "mallory.tox", network.bootstrap) as peer:
        peer.ask(alice.identity()["address"])
        alice.wait_for(lambda: alice.friend(peer.public_key), FRIEND_TIME, "mallory asks to be a friend")
        ask(alice, api.FRIEND_ACCEPT, key=peer.public_key, name="mallory")
        peer.wait_online(FRIEND_TIME)
        alice.wait_for(lambda: alice.is_online(peer.public_key), FRIEND_TIME, "mallory is online")
        yield peer
        ask(alice, api.FRIEND_REMOVE, name="mallory")


def drops(node: Node) -> dict[str, int]:
    counts: dict[str, int] = ask(node, api.STATUS)["drops"]
    return counts


def test_three_packets_that_use_up_the_stream_of_an_offer(
    alice: Node, mallory: LinkPeer, new_port: int
) -> None:
    """The id is the flow's before the flow is: what the contact does to it is the contact's loss."""
    ask(alice, api.OFFER_ADD, protocol="tcp", port=new_port, to=["mallory"], name="bait")
    offer = mallory.expect_offer("bait")
    mallory.greet(mallory.their_epochs.get(timeout=TIME))
    frames = ResetStream(offer.msg_id, 0, 0), StopSending(offer.msg_id, 0)
    until_heard(lambda: mallory.say(*frames), lambda seconds: mallory.heard.get(timeout=seconds), frames[0])
    accept = LOSSLESS + struct.pack("<BI", ACCEPT, offer.msg_id)

    def is_counted() -> bool:
        mallory.say(mallory.acknowledge())
        mallory.say(Stream(0, 0, struct.pack("<H", len(accept)) + accept, False))
        time.sleep(0.1)
        return drops(alice).get("stream_used_up") == 1

    eventually(is_counted, "the loss is counted")
    assert "faults" not in drops(alice)
    assert alice.contact("mallory")["link"] == "direct"


def test_a_thousand_streams_that_nobody_asked_for(alice: Node, mallory: LinkPeer, new_port: int) -> None:
    ask(alice, api.OFFER_ADD, protocol="tcp", port=new_port, to=["mallory"], name="bait2")
    mallory.expect_offer("bait2")
    mallory.greet(mallory.their_epochs.get(timeout=TIME))
    before = resident(alice)
    for offset in range(0, 65_536 - 1300, 1300):
        for stream in range(1, 1001, 4):
            mallory.say(Stream(stream, offset, bytes(1300), False))
    ask(alice, api.STATUS)
    assert resident(alice) - before < 4 << 20
    assert alice.contact("mallory")["link"] == "direct"
