"""Whom a service sees: decided once, by who listens where, and by nothing that others can do."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
import trio

from tunfwd.common.values import Reason
from tunfwd.daemon.datapath.connections import hand_over
from tunfwd.daemon.datapath.services import FRESH, WATCH, Unreachable, Way
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import KnownService, StandingOffer
from tunfwd.forwarding.session import CARRIER_FEATURES
from tunfwd.netstack import events
from tunfwd.services.target import Target
from tunfwd.tun.listeners import Listener
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Accept, Direction, Hello, Offer, Protocol, Reset, decode, encode

from .simulated import LO, TUN, Daemon

OWNER, STRANGER, ROOT = 71000, 71001, 0  # two without names
PORT = 8080
HERE = Target(None, PORT)
PEER4, PEER6 = Way("peer", ip_address("10.77.0.1")), Way("peer", ip_address("fd74:756e:6677::1"))
HOST4, HOST6 = Way("host", ip_address("127.0.0.1")), Way("host", ip_address("::1"))


class Machine:
    """A daemon that offers PORT, and the sockets around it."""

    def __init__(self, protocol: Protocol = Protocol.TCP, known: KnownService | None = None) -> None:
        self.daemon = Daemon()
        self.protocol = protocol
        name = "tcp" if protocol is Protocol.TCP else "udp"
        self.daemon.content.offers.append(StandingOffer("nobody", name, PORT))  # type: ignore[arg-type]
        if known is not None:
            self.daemon.content.services.append(known)
        self._inode = 100

    def listen(self, address: str, uid: int = OWNER, **more: object) -> Listener:
        self._inode += 1
        made = Listener(ip_address(address), uid, self._inode, **more)  # type: ignore[arg-type]
        self.daemon.listeners.table.setdefault((self.protocol, PORT), []).append(made)
        return made

    def close(self, *listeners: Listener) -> None:
        for listener in listeners:
            self.daemon.listeners.table[self.protocol, PORT].remove(listener)

    async def way(self) -> Way | str:
        """How a contact reaches the service now, or why not."""
        await trio.sleep(2 * FRESH)
        try:
            way = self.daemon.services.way_to(HERE, "auto", self.protocol, ())
        except Unreachable as unreachable:
            return str(unreachable)
        assert isinstance(way, Way)
        return way


both = pytest.mark.parametrize("protocol", list(Protocol), ids=lambda protocol: protocol.name)


@pytest.mark.parametrize(
    ("address", "more", "expected"),
    [
        ("0.0.0.0", {}, PEER4),
        ("::", {}, PEER4),
        ("::", {"v6only": True}, PEER6),
        ("10.77.0.1", {}, PEER4),
        ("fd74:756e:6677::1", {}, PEER6),
        ("0.0.0.0", {"interface": TUN}, PEER4),
        ("127.0.0.1", {}, HOST4),
        ("::1", {}, HOST6),
        ("0.0.0.0", {"interface": LO}, HOST4),
    ],
)
@both
async def test_where_it_listens_decides(
    autojump_clock: object, protocol: Protocol, address: str, more: dict[str, Any], expected: Way
) -> None:
    machine = Machine(protocol)
    machine.listen(address, **more)
    assert await machine.way() == expected
    [known] = machine.daemon.content.services
    assert (known.port, known.owner, known.source) == (PORT, OWNER, expected.source)


async def test_elsewhere_takes_a_target(autojump_clock: object) -> None:
    machine = Machine()
    machine.listen("192.0.2.5")
    machine.listen("0.0.0.0", interface=LO + TUN)
    assert await machine.way() == "listens on 0.0.0.0, 192.0.2.5 only: offer it with --target"
    assert machine.daemon.content.services == []


@both
async def test_a_strangers_socket_never_stands_in_for_the_service(
    autojump_clock: object, protocol: Protocol
) -> None:
    """Whichever address it takes, and whether the service runs, is gone for a while, or restarts."""
    for own in ("127.0.0.1", "0.0.0.0", "::1"):
        machine = Machine(protocol)
        service = machine.listen(own)
        decided = await machine.way()
        for strange in ("10.77.0.1", "127.0.0.1", "::1", "fd74:756e:6677::1", "0.0.0.0", "::"):
            stranger = machine.listen(strange, STRANGER)
            assert await machine.way() == decided or "user 71001 listens in place of" in str(
                await machine.way()
            )
            machine.close(service)
            assert "user 71001 listens in place of user 71000" in str(await machine.way())
            service = machine.listen(own)
            machine.close(stranger)
            assert await machine.way() == decided
        [known] = machine.daemon.content.services
        assert known.owner == OWNER


async def test_a_strangers_nearer_socket_is_not_gone_around(autojump_clock: object) -> None:
    """With SO_REUSEADDR any user may take datagrams for one address from under a service on all of them."""
    machine = Machine(Protocol.UDP)
    machine.listen("0.0.0.0")
    assert await machine.way() == PEER4
    machine.listen("10.77.0.1", STRANGER)
    assert "user 71001 listens in place of user 71000" in str(await machine.way())


async def test_what_sees_contacts_never_sees_loopback(autojump_clock: object) -> None:
    machine = Machine()
    service = machine.listen("0.0.0.0")
    assert await machine.way() == PEER4
    machine.close(service)
    assert await machine.way() == "nothing listens"
    narrow = machine.listen("127.0.0.1")  # as for a moment while it starts
    assert "listens on loopback only now" in str(await machine.way())
    machine.listen("::")
    assert await machine.way() == PEER4
    machine.close(narrow)
    assert await machine.way() == PEER4


async def test_what_sees_loopback_is_decided_again_only_when_it_is_gone(autojump_clock: object) -> None:
    machine = Machine()
    service = machine.listen("127.0.0.1")
    assert await machine.way() == HOST4
    other = machine.listen("10.77.0.1")  # of the same owner, but another service
    assert await machine.way() == HOST4
    machine.close(service, other)
    again = machine.listen("127.0.0.1")
    assert await machine.way() == HOST4
    machine.close(again)
    machine.listen("0.0.0.0")
    assert await machine.way() == PEER4


async def test_the_decision_outlives_the_daemon(autojump_clock: object) -> None:
    machine = Machine(known=KnownService("tcp", PORT, OWNER, "peer"))
    machine.listen("0.0.0.0", STRANGER)
    assert "in place of user 71000" in str(await machine.way())
    machine = Machine(known=KnownService("tcp", PORT, OWNER, "peer"))
    machine.listen("127.0.0.1")
    assert "listens on loopback only now" in str(await machine.way())


async def test_of_several_users_root_is_meant_and_else_nobody(autojump_clock: object) -> None:
    machine = Machine()
    machine.listen("10.77.0.1", STRANGER)
    service = machine.listen("127.0.0.1")
    assert await machine.way() == "user 71000 and user 71001 both listen: --source says which is meant"
    machine.close(service)
    machine.listen("127.0.0.1", ROOT)
    assert await machine.way() == HOST4


async def test_a_person_has_it_decided_anew_and_a_contact_never(autojump_clock: object) -> None:
    machine = Machine()
    service = machine.listen("0.0.0.0")
    assert await machine.way() == PEER4
    machine.close(service)
    service = machine.listen("127.0.0.1")
    stranger = machine.listen("10.77.0.1", STRANGER)
    machine.daemon.services.decide_anew(Protocol.TCP, PORT)
    assert await machine.way() == HOST4  # the owner goes first
    machine.close(service)
    machine.daemon.services.decide_anew(Protocol.TCP, PORT)
    assert await machine.way() == PEER4
    assert machine.daemon.content.services == [KnownService("tcp", PORT, STRANGER, "peer")]
    machine.close(stranger)


async def test_a_service_is_decided_as_it_appears_and_forgotten_with_its_offer(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    machine = Machine()
    await nursery.start(machine.daemon.services.run)
    await trio.sleep(WATCH)
    machine.listen("127.0.0.1")
    await trio.sleep(2 * WATCH)
    machine.listen("10.77.0.1", STRANGER)
    assert await machine.way() == HOST4
    machine.daemon.content.offers.clear()
    await trio.sleep(2 * WATCH)
    assert machine.daemon.content.services == []


async def test_the_kernel_is_asked_once_for_all_services_that_are_missing(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    machine = Machine()
    contact = machine.daemon.content.offers[0].contact
    offers = [StandingOffer(contact, "tcp", port) for port in range(20_000, 21_000)]
    machine.daemon.content.offers += offers
    await nursery.start(machine.daemon.services.run)
    await trio.sleep(10.5 * WATCH)
    assert machine.daemon.listeners.questions <= 11
    machine.listen("127.0.0.1")
    await trio.sleep(WATCH)
    assert [known.port for known in machine.daemon.content.services] == [PORT]


async def test_a_flood_of_connections_asks_the_kernel_once(autojump_clock: object) -> None:
    machine = Machine()
    machine.listen("0.0.0.0")
    await machine.way()
    for _ in range(1000):
        machine.daemon.services.look(Protocol.TCP, PORT)
    assert machine.daemon.listeners.questions <= 2


# --- connections --------------------------------------------------------------------------------------------


def wanted(machine: Machine) -> Peer:
    """A contact has accepted PORT, and connects."""
    daemon = machine.daemon
    peer = daemon.befriend("bob")
    mapping = daemon.offers.offer(peer, machine.protocol, PORT, "", None, "auto")
    heard(daemon, peer, Hello(CARRIER_FEATURES, 1))
    heard(daemon, peer, Accept(mapping.msg_id))
    daemon.forget_traffic()
    heard(daemon, peer, Offer(77, machine.protocol, Direction.CONNECTION, PORT, ""))
    return peer


def heard(daemon: Daemon, peer: Peer, packet: Hello | Accept | Offer) -> None:
    daemon.contacts.lossless(peer.contact, encode(FRIEND, packet))
    daemon.settle()


def answers(daemon: Daemon) -> list[object]:
    return [decode(FRIEND, packet) for _, packet in daemon.tox.to_friends]


@pytest.mark.parametrize("failure", list(Reason))
async def test_what_refuses_or_does_not_answer_is_not_tried_from_loopback(
    autojump_clock: object, failure: Reason
) -> None:
    """A full accept queue, a firewall's reject or drop, a null route: the contact hears of it."""
    machine = Machine()
    machine.listen("0.0.0.0")
    wanted(machine)
    daemon = machine.daemon
    [connection] = daemon.connections
    own = daemon.contacts.own.among_friends.address
    assert own is not None
    assert connection.remote.address == own.packed
    hand_over(events.ConnectFailed(connection, failure))  # a socket would take the poller
    daemon.settle()
    assert [type(answer) for answer in answers(daemon)] == [Reset]


@both
async def test_a_service_that_is_not_its_owners_is_refused(
    autojump_clock: object, protocol: Protocol
) -> None:
    machine = Machine(protocol, KnownService(protocol.name.lower(), PORT, OWNER, "host"))  # type: ignore[arg-type]
    machine.listen("10.77.0.1", STRANGER)
    wanted(machine)
    assert answers(machine.daemon) == [Reset(77, Reason.REFUSED)]
    assert not machine.daemon.connections
    assert not machine.daemon.engine._inbound._datagrams


# --- what does not answer -----------------------------------------------------------------------------------


async def test_a_service_that_does_not_answer_is_told(autojump_clock: object) -> None:
    """As behind a firewall that drops what comes from the device: datagrams go in, and none comes back."""
    machine = Machine(Protocol.UDP)
    machine.listen("0.0.0.0")
    peer = wanted(machine)
    daemon = machine.daemon
    [relay] = daemon.engine._inbound._datagrams.values()
    [mapping] = peer.session.mappings
    answers = peer.details_of(mapping).answers
    for _ in range(30):
        relay.flow_datagram(b"anybody?")
    assert answers.trouble == "no answer to 30 datagrams"
    relay.received(b"yes")
    assert answers.trouble is None
    relay.give_up(Reason.REFUSED)
    assert answers.trouble == "refused 1 x"


async def test_connections_that_fail_are_told_until_one_does_not(autojump_clock: object) -> None:
    machine = Machine()
    machine.listen("0.0.0.0")
    peer = wanted(machine)
    daemon = machine.daemon
    [mapping] = peer.session.mappings
    for count in (1, 2):
        [connection] = daemon.connections
        hand_over(events.ConnectFailed(connection, Reason.TIMED_OUT))
        daemon.settle()
        assert peer.details_of(mapping).answers.trouble == f"timed out {count} x"
        heard(daemon, peer, Offer(77 + count, Protocol.TCP, Direction.CONNECTION, PORT, ""))
    [connection] = daemon.connections
    hand_over(events.Connected(connection))
    assert peer.details_of(mapping).answers.trouble is None
