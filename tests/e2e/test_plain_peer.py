"""With a friend whose program knows v0.1 alone: each msg_id is one flow, in both roles, both protocols."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import pytest

from netns.node import FRIEND_TIME, Node
from netns.topology import Topology
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS, MAX_PENDING

from .conftest import Forwards, ask
from .hosts import (
    TcpService,
    UdpEcho,
    bytes_of,
    connect,
    datagram_socket,
    echo,
    eventually,
    read_all,
    read_exactly,
    reset,
    until_heard,
)
from .plain_peer import (
    ACCEPT,
    ACK_ACC,
    CONNECTION,
    DATA,
    EXTENSION,
    HELLO,
    KILL,
    LOSSLESS,
    LOSSY,
    SERVER,
    TCP,
    UDP,
    Packet,
    PlainPeer,
    ToxNode,
)
from .processes import resident

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

MIB = 1 << 20
UNDISTURBED = 10.0  # s for an answer; milliseconds, where the machine has nothing else to do
_ids = count(0x5EED0001)


@pytest.fixture(scope="module")
def plain(both: tuple[Node, Node], net: Topology, folder: Path, network: ToxNode) -> Iterator[PlainPeer]:
    alice, _ = both
    with PlainPeer(net["eve"], folder / "eve.tox", network.bootstrap) as peer:
        peer.ask(alice.identity()["address"])
        alice.wait_for(lambda: alice.friend(peer.public_key), FRIEND_TIME, "eve asks to be a friend")
        ask(alice, api.FRIEND_ACCEPT, key=peer.public_key, name="eve")
        peer.wait_online(FRIEND_TIME)
        alice.wait_for(lambda: alice.is_online(peer.public_key), FRIEND_TIME, "eve is online")
        yield peer
        ask(alice, api.FRIEND_REMOVE, name="eve")


@pytest.fixture
def eve(pair: tuple[Node, Node], plain: PlainPeer) -> Iterator[PlainPeer]:
    alice, _ = pair
    plain.wait_online(FRIEND_TIME)
    plain.forget()
    yield plain
    for offer in ask(alice, api.OFFER_LIST)["offers"]:
        if offer["contact"] == "eve":
            with suppress(UserError):  # gone by itself meanwhile
                ask(alice, api.KILL, id=offer["name"] or offer["id"], contact="eve")


@pytest.fixture
def address(alice: Node, eve: PlainPeer) -> str:
    """eve's, at alice's."""
    return str(alice.contact("eve")["address"])


def offered_to_alice(alice: Node, eve: PlainPeer, protocol: int, port: int) -> tuple[int, str]:
    msg_id, name = next(_ids), f"plain{port}"
    eve.offer(msg_id, protocol, SERVER, port, name)
    eventually(lambda: alice.offer(name), "the offer is there")
    ask(alice, api.OFFER_ACCEPT, offer=name)
    return msg_id, name


def offered_to_eve(alice: Node, eve: PlainPeer, protocol: str, port: int) -> Packet:
    ask(alice, api.OFFER_ADD, protocol=protocol, port=port, to=["eve"], name=f"ours{port}")
    offer = eve.expect_offer(f"ours{port}")
    assert offer.offered == ({"tcp": TCP, "udp": UDP}[protocol], SERVER, port, f"ours{port}")
    return offer


# --- eve has the server -------------------------------------------------------------------------------------


def test_accept_goes_out_with_the_first_connection(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, name = offered_to_alice(alice, eve, TCP, new_port)
    eve.expect_silence(0.5)
    with ExitStack() as stack:
        client = stack.enter_context(connect_while(alice, eve, address, new_port, msg_id))
        client.sendall(b"GET")
        assert eve.expect_stream(msg_id, 3) == b"GET"
        eve.send_stream(msg_id, bytes_of(1, MIB))
        eve.send(KILL, msg_id)  # the end, after all data
        assert read_all(client) == bytes_of(1, MIB)

    # A second connection needs a new offer; the acceptance stands.
    second = next(_ids)
    eve.offer(second, TCP, SERVER, new_port, name)
    with connect_while(alice, eve, address, new_port, second) as client:
        eve.send_stream(second, b"again")
        assert read_exactly(client, 5) == b"again"
        client.sendall(bytes_of(2, MIB))
        assert eve.expect_stream(second, MIB) == bytes_of(2, MIB)
        client.close()
        eve.expect(KILL, second)


def connect_while(alice: Node, eve: PlainPeer, address: str, port: int, msg_id: int) -> socket.socket:
    """Connect; eve confirms only when asked, and the application hears of it only then."""
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, alice.host, address, port)
        eve.expect(ACCEPT, msg_id)
        time.sleep(0.2)
        assert not connecting.done()
        eve.send(ACK_ACC, msg_id)
        return connecting.result()


def test_kill_instead_of_a_confirmation_is_refused(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, _ = offered_to_alice(alice, eve, TCP, new_port)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, alice.host, address, new_port)
        eve.expect(ACCEPT, msg_id)
        eve.send(KILL, msg_id)
        with pytest.raises(ConnectionRefusedError):
            connecting.result()


def test_a_connection_waits_a_while_for_the_next_offer(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, name = offered_to_alice(alice, eve, TCP, new_port)
    with connect_while(alice, eve, address, new_port, msg_id):
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(connect, alice.host, address, new_port)
            time.sleep(0.5)
            second = next(_ids)
            eve.offer(second, TCP, SERVER, new_port, name)
            eve.expect(ACCEPT, second)
            eve.send(ACK_ACC, second)
            connecting.result().close()
        # And without one it is refused, in the end.
        with pytest.raises(ConnectionRefusedError):
            connect(alice.host, address, new_port)


def test_a_reset_of_the_application_is_a_kill(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, _ = offered_to_alice(alice, eve, TCP, new_port)
    client = connect_while(alice, eve, address, new_port, msg_id)
    reset(client)
    eve.expect(KILL, msg_id)


def test_a_half_close_still_brings_the_reply(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, _ = offered_to_alice(alice, eve, TCP, new_port)
    with connect_while(alice, eve, address, new_port, msg_id) as client:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert eve.expect_stream(msg_id, 7) == b"request"
        for number in range(5):
            eve.send_stream(msg_id, b"%d" % number)
            time.sleep(0.1)
        eve.send(KILL, msg_id)
        assert read_all(client) == b"01234"


def test_what_nobody_reads_ends_the_flow_at_16_mib(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    msg_id, _ = offered_to_alice(alice, eve, TCP, new_port)
    before = resident(alice)
    with connect_while(alice, eve, address, new_port, msg_id) as client:
        for number in range(30):
            eve.send_stream(msg_id, bytes_of(number, MIB))
            try:
                eve.expect(KILL, msg_id, timeout=0.01)
                break
            except AssertionError:
                continue
        else:
            eve.expect(KILL, msg_id)
        assert resident(alice) - before < 40 * MIB
        with pytest.raises(ConnectionResetError):  # what was lost does not look like an end
            read_all(client)


def test_udp_is_confirmed_at_once(alice: Node, eve: PlainPeer, address: str, new_port: int) -> None:
    msg_id, _ = offered_to_alice(alice, eve, UDP, new_port)
    eve.expect(ACCEPT, msg_id)
    eve.send(ACK_ACC, msg_id)
    with (
        datagram_socket(alice.host, address, new_port) as first,
        datagram_socket(alice.host, address, new_port) as second,
    ):
        eve.expect_datagram(lambda: first.send(b"from the first"), msg_id, b"from the first")
        hears(first, eve, msg_id, b"to the first")
        eve.expect_datagram(lambda: second.send(b"from the second"), msg_id, b"from the second")
        hears(second, eve, msg_id, b"to who spoke last")


def hears(client: socket.socket, eve: PlainPeer, msg_id: int, data: bytes) -> None:
    """Have eve send a datagram until a program has it."""

    def hear(seconds: float) -> bytes:
        client.settimeout(seconds)
        return client.recv(2000)

    until_heard(lambda: eve.send_datagram(msg_id, data), hear, data)


# --- alice has the server -----------------------------------------------------------------------------------


def test_the_service_is_connected_before_the_confirmation(
    alice: Node, eve: PlainPeer, address: str, new_port: int
) -> None:
    offer = offered_to_eve(alice, eve, "tcp", new_port)
    with TcpService(alice.host, new_port, echo) as service:
        eve.send(ACCEPT, offer.msg_id)
        eve.expect(ACK_ACC, offer.msg_id)
        eve.send_stream(offer.msg_id, bytes_of(3, MIB))
        assert eve.expect_stream(offer.msg_id, MIB) == bytes_of(3, MIB)
        eve.send(KILL, offer.msg_id)
        for _ in range(3):  # offered anew after each flow, under another id
            again = eve.expect_offer(f"ours{new_port}")
            assert again.msg_id != offer.msg_id
            offer = again
            eve.send(ACCEPT, offer.msg_id)
            eve.expect(ACK_ACC, offer.msg_id)
            eve.send_stream(offer.msg_id, b"hello")
            assert eve.expect_stream(offer.msg_id, 5) == b"hello"
            eve.send(KILL, offer.msg_id)
        assert set(service.peers) == {address}


def test_the_end_of_the_service_is_a_kill_after_all_data(alice: Node, eve: PlainPeer, new_port: int) -> None:
    offer = offered_to_eve(alice, eve, "tcp", new_port)
    with TcpService(alice.host, new_port, lambda service: service.sendall(bytes_of(4, MIB))):
        eve.send(ACCEPT, offer.msg_id)
        assert eve.expect_stream(offer.msg_id, MIB) == bytes_of(4, MIB)
        eve.expect(KILL, offer.msg_id)
        eve.expect_offer(f"ours{new_port}")


def test_a_refused_service_is_a_kill_and_offered_again(alice: Node, eve: PlainPeer, new_port: int) -> None:
    offer = offered_to_eve(alice, eve, "tcp", new_port)
    eve.send(ACCEPT, offer.msg_id)
    eve.expect(KILL, offer.msg_id)
    again = eve.expect_offer(f"ours{new_port}")
    with TcpService(alice.host, new_port, echo):
        eve.send(ACCEPT, again.msg_id)
        eve.expect(ACK_ACC, again.msg_id)


def test_a_kill_declines_and_is_not_asked_again(alice: Node, eve: PlainPeer, new_port: int) -> None:
    offer = offered_to_eve(alice, eve, "tcp", new_port)
    eve.send(KILL, offer.msg_id)
    eve.expect_silence(2)
    declined = alice.offer(f"ours{new_port}")
    assert declined is not None
    assert declined["state"] == "declined"


def test_our_kill_withdraws(alice: Node, eve: PlainPeer, new_port: int) -> None:
    offer = offered_to_eve(alice, eve, "tcp", new_port)
    alice.cli("kill", f"ours{new_port}")
    eve.expect(KILL, offer.msg_id)
    eve.send(ACCEPT, offer.msg_id)  # it crossed the Kill
    eve.expect(KILL, offer.msg_id)


def test_udp_service(alice: Node, eve: PlainPeer, address: str, new_port: int) -> None:
    offer = offered_to_eve(alice, eve, "udp", new_port)
    with UdpEcho(alice.host, new_port) as service:
        eve.send(ACCEPT, offer.msg_id)
        eve.expect(ACK_ACC, offer.msg_id)
        for size in (1, 100, 1368):
            data = bytes(size)
            eve.expect_datagram(lambda data=data: eve.send_datagram(offer.msg_id, data), offer.msg_id, data)  # type: ignore[misc]
        assert {peer for peer, _ in service.peers} == {address}


# --- connection offers --------------------------------------------------------------------------------------


def test_eve_asks_for_a_port(alice: Node, eve: PlainPeer, new_port: int) -> None:
    msg_id = next(_ids)
    eve.offer(msg_id, TCP, CONNECTION, 22, "shell please")
    asked = eventually(lambda: alice.offer("shell please"), "the request is there")
    assert asked is not None
    assert (asked["direction"], asked["state"]) == ("connection", "pending")
    eve.expect_silence(0.5)
    with TcpService(alice.host, new_port, echo, "127.0.0.1"):
        alice.cli("accept", "shell please", "--target", f"127.0.0.1:{new_port}")
        eve.expect(ACCEPT, msg_id)
        eve.send(ACK_ACC, msg_id)
        eve.send_stream(msg_id, b"ls")
        assert eve.expect_stream(msg_id, 2) == b"ls"
        eve.send(KILL, msg_id)


def test_eve_asks_and_is_denied(alice: Node, eve: PlainPeer) -> None:
    msg_id = next(_ids)
    eve.offer(msg_id, TCP, CONNECTION, 23, "no way")
    eventually(lambda: alice.offer("no way"), "the request is there")
    alice.cli("deny", "no way")
    eve.expect(KILL, msg_id)
    assert alice.offer("no way") is None


def test_we_ask_eve_for_a_port(alice: Node, eve: PlainPeer, address: str, new_port: int) -> None:
    alice.cli("request", f"{new_port}/tcp", "--from", "eve", "--name", "wanted")
    offer = eve.expect_offer("wanted")
    assert offer.offered == (TCP, CONNECTION, new_port, "wanted")
    eve.send(ACCEPT, offer.msg_id)
    eve.expect(ACK_ACC, offer.msg_id)
    with connect(alice.host, address, new_port) as client:
        client.sendall(b"question")
        assert eve.expect_stream(offer.msg_id, 8) == b"question"
        eve.send_stream(offer.msg_id, b"answer")
        eve.send(KILL, offer.msg_id)
        assert read_all(client) == b"answer"
    eve.expect_offer("wanted")


def test_we_ask_eve_for_a_udp_port(alice: Node, eve: PlainPeer, address: str, new_port: int) -> None:
    alice.cli("request", f"{new_port}/udp", "--from", "eve", "--name", "wanted datagrams")
    offer = eve.expect_offer("wanted datagrams")
    assert offer.offered[:3] == (UDP, CONNECTION, new_port)
    eve.send(ACCEPT, offer.msg_id)
    eve.expect(ACK_ACC, offer.msg_id)
    with datagram_socket(alice.host, address, new_port) as client:
        eve.expect_datagram(lambda: client.send(b"question"), offer.msg_id, b"question")
        hears(client, eve, offer.msg_id, b"answer")


# --- a hostile friend ---------------------------------------------------------------------------------------


def test_garbage_is_counted_and_hurts_nobody(alice: Node, eve: PlainPeer, forward: Forwards) -> None:
    """On every carrier, while another contact's connection goes on undisturbed."""
    port = forward()
    chance = random.Random(7)
    before = resident(alice)
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(port.using.host, port.address, port.port) as client,
    ):
        for _ in range(20):
            lossless = []
            for _ in range(100):
                body = chance.randbytes(chance.choice((0, 1, 4, 5, 6, 13, 300, 1371)))
                kind = chance.choice((chance.randrange(256), *range(5), HELLO, 0x10, 0x11, 0x12))
                lossless.append(LOSSLESS + bytes([kind]) + body if chance.random() < 0.9 else LOSSLESS)
            lossless += [bytes([prefix]) + chance.randbytes(20) for prefix in range(160, 192)]
            eve.send_raw(*lossless)
            for prefix in (LOSSY, EXTENSION, *(bytes([number]) for number in range(192, 255))):
                eve.send_lossy(prefix + chance.randbytes(chance.choice((0, 1, 4, 10, 1372))))
            client.sendall(b"undisturbed")
            start = time.monotonic()
            assert read_exactly(client, 11) == b"undisturbed"
            assert time.monotonic() - start < UNDISTURBED
    eventually(lambda: malformed(alice) > 100, "it is counted")
    assert resident(alice) - before < 16 * MIB


def malformed(node: Node) -> int:
    drops = ask(node, api.STATUS)["drops"]
    return sum(count for name, count in drops.items() if name.startswith("malformed"))


def test_ten_thousand_offers(alice: Node, eve: PlainPeer, forward: Forwards) -> None:
    """A few are held for a person; the rest are refused; nothing grows; the other contact does not notice."""
    port = forward()
    before = resident(alice)
    used = [next(_ids) for _ in range(10_000)]
    names = [bytes([7]) * 255, b"\x1b[2J\x1b]0;owned\x07", b"\xff\xfe", b"a\nb\r\tc", b"\xe2\x80\xae evil"]
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(port.using.host, port.address, port.port) as client,
    ):
        for start in range(0, 10_000, 1000):
            eve.send_raw(
                *(
                    eve.offer_packet(
                        used[number], number % 2, number // 2 % 2, number, names[number % len(names)]
                    )
                    for number in range(start, start + 1000)
                )
            )
            client.sendall(b"undisturbed")
            assert read_exactly(client, 11) == b"undisturbed"
        eventually(lambda: refused(alice) > 5000, "what has no room, or comes too fast, is counted")
        offers = undecided(alice)
        assert 0 < len(offers) <= MAX_MAPPINGS
        assert len({offer["name"] for offer in offers}) <= MAX_PENDING  # what a person reads
        for offer in offers:
            assert offer["name"].isprintable()
        shown = alice.cli("offers").stdout
        assert all(line.isprintable() for line in shown.splitlines())
        assert resident(alice) - before < 16 * MIB
        for sent in used:
            eve.send(KILL, sent)
        eventually(lambda: not undecided(alice), "all are withdrawn", 60)


def refused(node: Node) -> int:
    """Offers without room, and before that those that come too fast."""
    drops = ask(node, api.STATUS)["drops"]
    return drops.get("offer_over_limit", 0) + drops.get("offer_over_rate", 0)


def undecided(alice: Node) -> list[api.OfferEntry]:
    """What eve offers; what was left once is listed too."""
    offers = ask(alice, api.OFFER_LIST)["offers"]
    return [offer for offer in offers if offer["contact"] == "eve" and offer["state"] == "pending"]


def test_ids_that_nobody_gave(alice: Node, eve: PlainPeer) -> None:
    """Accepts for offers never made are answered with Kill; data is dropped; 0 is no id to fear."""
    before = resident(alice)
    for msg_id in (0, 1, 0xFFFFFFFF):
        for kind in (ACCEPT, ACK_ACC):
            eve.send(kind, msg_id)
            eve.expect(KILL, msg_id)
        eve.send(KILL, msg_id)
        eve.send_datagram(msg_id, b"hello?")
    eve.expect_silence(0.3)
    data = LOSSLESS + struct.pack("<BI", DATA, 77) + bytes(1300)
    eve.send_raw(*[data] * 2000)
    alice.cli("status")
    eventually(lambda: ask(alice, api.STATUS)["drops"].get("data_unknown", 0) >= 2000, "it is counted")
    assert resident(alice) - before < 16 * MIB


def test_the_same_id_twice_is_refused(alice: Node, eve: PlainPeer, new_port: int) -> None:
    msg_id = next(_ids)
    eve.offer(msg_id, TCP, SERVER, new_port, "twice")
    eventually(lambda: alice.offer("twice"), "the offer is there")
    eve.offer(msg_id, TCP, SERVER, new_port + 1, "twice too")
    eve.expect(KILL, msg_id)
