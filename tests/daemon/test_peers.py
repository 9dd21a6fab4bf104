"""How contacts are named, found and addressed, friends and members of groups alike."""

from __future__ import annotations

import pytest

from tunfwd.common.errors import UserError
from tunfwd.daemon.peers import Peer
from tunfwd.netstack.types import HostState
from tunfwd.tox.contacts import Group

from .simulated import Daemon, key_of


def lan(daemon: Daemon) -> Group:
    return daemon.groups.create("lan", public=True)


def code_of(daemon: Daemon, text: str) -> str:
    with pytest.raises(UserError) as caught:
        daemon.peers.find(text)
    return caught.value.code


@pytest.mark.parametrize(
    ("nickname", "shown"),
    [
        ("bob", "bob"),
        (" b\to\nb ", "b o b"),
        ("\x1b[31mred", "_31mred"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a/b", "a_b"),
        ("group:x", "group_x"),
        ("..", "_."),
        ("all", "all_"),
        ("-x", "_x"),
        ("*", "_"),
        ("x" * 128, "x" * 63 + "…"),
        ("", None),
        ("\x01\u200b", None),
        ("beef", "~beef"),
        ("DEADBEEF" * 8, "~" + "DEADBEEF" * 8),
        ("bad", "bad"),  # shorter than the beginning of a key may be
    ],
)
async def test_nicknames_are_cleaned(nickname: str, shown: str | None) -> None:
    daemon = Daemon()
    peer = daemon.join(lan(daemon), 0, nickname, key_of("bob"))
    assert peer.name == (shown or peer.key[:8].lower())
    assert daemon.peers.find(peer.name) is peer
    assert daemon.peers.find(peer.label) is peer


async def test_a_key_may_be_its_owners_nickname() -> None:
    daemon = Daemon()
    key = key_of("bob")
    assert daemon.join(lan(daemon), 0, key.hex()[:12], key).name == key.hex()[:12]


async def test_equal_nicknames_in_a_group_are_told_apart() -> None:
    daemon = Daemon()
    group = lan(daemon)
    peers = [daemon.join(group, n, name, key_of(n)) for n, name in enumerate(["bob", "Bob", "bob", ""])]
    first, *others = (peer.name for peer in peers)
    assert first == "bob"
    assert others[:2] == [f"Bob-{peers[1].key[:4].lower()}", f"bob-{peers[2].key[:4].lower()}"]
    assert len({peer.name.casefold() for peer in peers}) == 4
    assert daemon.peers.find("group:lan/bob") is peers[0]
    assert daemon.peers.find(peers[2].label) is peers[2]


async def test_a_rename_takes_nobodys_name() -> None:
    daemon = Daemon()
    group = lan(daemon)
    bob, eve = daemon.join(group, 0, "bob"), daemon.join(group, 1, "eve")
    address = eve.address
    daemon.rename(group, 1, "bob")
    assert eve.name == f"bob-{eve.key[:4].lower()}"
    daemon.exit(group, 0)
    daemon.rename(group, 1, "eve")
    daemon.rename(group, 1, "bob")
    assert eve.name == f"bob-{eve.key[:4].lower()}"  # bob is away, not gone
    assert daemon.peers.find("bob") is bob
    assert eve.address == address


async def test_one_person_as_friend_and_member() -> None:
    daemon = Daemon()
    friend = daemon.befriend("bob")
    member = daemon.join(lan(daemon), 0, "bob", key_of("bob in lan"))
    other = daemon.join(daemon.groups.create("other"), 0, "bob", key_of("bob in other"))
    assert [peer.label for peer in (friend, member, other)] == ["bob", "group:lan/bob", "group:other/bob"]
    assert len({peer.address for peer in (friend, member, other)}) == 3
    assert len({peer.address6 for peer in (friend, member, other)}) == 3
    assert daemon.peers.find("bob") is friend
    assert daemon.peers.find("group:lan/bob") is member
    assert daemon.peers.find("GROUP:LAN/BOB") is member
    assert daemon.peers.find(other.key[:6]) is other


async def test_who_may_be_meant() -> None:
    daemon = Daemon()
    one, two = lan(daemon), daemon.groups.create("other")
    daemon.join(one, 0, "bob", key_of(1))
    daemon.join(two, 0, "bob", key_of(2))
    assert code_of(daemon, "bob") == "ambiguous"
    assert code_of(daemon, "carol") == "not_found"
    assert code_of(daemon, "") == "not_found"
    assert code_of(daemon, key_of(1).hex()[:3]) == "not_found"
    assert daemon.peers.find(key_of(1).hex()).contact.key == key_of(1)


def packed(peer: Peer) -> bytes:
    assert peer.address is not None
    return peer.address.packed


async def test_addresses_lead_to_their_owners() -> None:
    daemon = Daemon()
    group = lan(daemon)
    peers: list[Peer] = [daemon.join(group, n, f"player {n}") for n in range(3)]
    daemon.exit(group, 2)
    for peer in peers:
        assert daemon.peers.at(packed(peer)) is peer
        assert daemon.peers.at(peer.address6.packed) is peer
    known = [daemon.peers.host_state(packed(peer)) for peer in peers]
    assert known == [HostState.ONLINE, HostState.ONLINE, HostState.OFFLINE]
    assert daemon.peers.host_state(bytes((10, 77, 1, 2))) is HostState.UNKNOWN
    daemon.groups.leave(group)
    assert daemon.peers.host_state(packed(peers[0])) is HostState.UNKNOWN


async def test_an_address_follows_the_key() -> None:
    """In another run, on another machine, whoever comes first."""
    one, two = Daemon(), Daemon()
    groups = lan(one), lan(two)
    assert groups[0].id == groups[1].id
    names = [f"player {n}" for n in range(8)]
    there = {name: one.join(groups[0], n, name).address for n, name in enumerate(names)}
    back = {name: two.join(groups[1], n, name).address for n, name in enumerate(reversed(names))}
    assert there == back


@pytest.mark.parametrize("text", ["", " "])
async def test_nothing_is_nobody(text: str) -> None:
    daemon = Daemon()
    daemon.befriend("alice")
    assert code_of(daemon, text) == "not_found"
