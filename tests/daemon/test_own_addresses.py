"""This machine has the addresses by which contacts know it, and is spoken to, and speaks, by them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import trio

from tunfwd.daemon.storage.addresses import AddressBook
from tunfwd.daemon.storage.state import Content, contact_id
from tunfwd.netstack.types import Endpoint
from tunfwd.tun.sources import Source
from tunfwd.wire.packets import Protocol

from .joined import Joined
from .simulated import RANGE, RANGE6, Daemon, key_of
from .test_naming import join_foreign, taken_in


def book() -> AddressBook:
    return AddressBook(RANGE, RANGE6, {})


async def test_it_is_where_others_look_for_it() -> None:
    daemon = Daemon()
    us = contact_id(key_of("us"))
    own = daemon.contacts.own.among_friends
    assert own.addresses == (book().assign(us), book().address6(us))
    assert daemon.befriend("bob").known_as == own.addresses
    group = join_foreign(daemon, "lan")
    daemon.settle()
    in_group = daemon.contacts.own.in_group(group)
    assert in_group is not None
    assert in_group.address == book().assign(contact_id(group.self_key, group.id))
    assert daemon.join(group, 1, "player").known_as == in_group.addresses


async def test_no_contact_has_one_of_ours_but_who_had_it_before() -> None:
    ours = book().assign(contact_id(key_of("us")))
    content = Content(addresses={"AB" * 32: ours})
    daemon = Daemon(content)
    assert daemon.contacts.own.among_friends.address not in (None, ours)
    daemon = Daemon()
    clash = next(name for name in map(str, range(1 << 20)) if book().assign(contact_id(key_of(name))) == ours)
    assert daemon.befriend(clash).address == ours + 1


async def test_who_is_spoken_to_from_which() -> None:
    """Friends from theirs; members whose ports are reached, and no others, from the group's."""
    daemon = Daemon()
    told: list[tuple[Source, ...]] = []
    daemon.datapath._speak_from = told.append
    group = join_foreign(daemon, "lan")
    daemon.contacts.rename_room(group, "lan")
    own, in_group = daemon.contacts.own.among_friends, daemon.contacts.own.in_group(group)
    assert in_group is not None
    expected = {Source(RANGE, own.addresses[0]), Source(RANGE6, own.addresses[1])}
    expected |= {Source(ip_network(address), address) for address in in_group.addresses}
    assert set(told[-1]) == expected
    assert not taken_in(daemon, group, 1, "stranger")
    peer = daemon.peers.find("group:lan/stranger")
    assert set(told[-1]) == expected
    [mapping] = peer.session.mappings
    daemon.offers.accept(peer, mapping, None, None)
    daemon.settle()
    addresses = (peer.address, peer.address6)
    pairs = zip(addresses, in_group.addresses, strict=True)
    assert set(told[-1]) - expected == {Source(ip_network(str(there)), here) for there, here in pairs}
    daemon.offers.end(peer, mapping)
    daemon.settle()
    assert set(told[-1]) == expected
    daemon.groups.leave(group)
    daemon.settle()
    assert {source.address for source in told[-1]} == set(own.addresses)


async def test_a_service_is_reached_where_the_contact_knows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It answers from there, or from another address of ours, as the kernel chooses; from no foreign one."""
    async with Joined.running() as joined:
        using, serving = joined.using.kernel, joined.serving.kernel
        await joined.offer(Protocol.UDP, 53)
        using.send(5000, joined.address, 53, b"question")
        await trio.sleep(0.5)
        [event] = serving.datagrams
        own = joined.serving.daemon.contacts.own.among_friends
        assert own.address is not None
        assert event.destination.address == own.address.packed
        for source, counts in ((own.address.packed, 1), (bytes((10, 77, 0, 1)), 2), (b"\x0a\x00\x00\x01", 2)):
            serving.stack.send_datagram(Endpoint(source, 53), event.source, b"answer")
            serving.wake()
            await trio.sleep(0.5)
            assert len(using.datagrams) == counts


async def test_an_address_that_the_machine_lacks_is_not_used() -> None:
    """As without the process that gives the device its addresses: the device's own is left."""
    daemon = Daemon()
    daemon.services._present = set()
    own = daemon.contacts.own.among_friends
    assert [way.address for way, _ in daemon.services._ways(own.addresses)][:2] == [
        ip_address("10.77.0.1"),
        ip_address("fd74:756e:6677::1"),
    ]
    daemon.services._present = {own.addresses[0].packed}
    assert daemon.services._ways(own.addresses)[0][0].address == own.address
