"""Who has an address and who is remembered, when strangers come and go and there is not room for all."""

from __future__ import annotations

import gc
import logging
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
import trio
import trio.testing

from tunfwd.common.errors import UserError
from tunfwd.daemon.commands.rooms import _member_entry
from tunfwd.daemon.contacts.greetings import MAX_PARTED
from tunfwd.daemon.contacts.offers import MAX_BY_RULE
from tunfwd.daemon.contacts.residents import MAX_AWAY
from tunfwd.daemon.peers import NO_ADDRESS, Peer
from tunfwd.daemon.storage.state import Content, StandingOffer, _encode, contact_id
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import CARRIER_FEATURES
from tunfwd.tox.binding.enums import Tox_Group_Exit_Type
from tunfwd.tox.contacts import Group
from tunfwd.wire.packets import Direction, Hello, Offer, Protocol

from .simulated import Daemon, SimulatedGroup, key_of

SMALL = IPv4Network("10.99.0.0/28")  # room for 12, of which we have two: among friends, and in one group
ROOM = 10


def lan(daemon: Daemon) -> Group:
    return daemon.groups.create("lan", public=True)


def pass_by(daemon: Daemon, group: Group, number: int) -> None:
    """A stranger comes, says Hello, and goes."""
    daemon.join(group, number, f"stranger {number}")
    daemon.greet(group, number)
    daemon.exit(group, number)


def offers(daemon: Daemon, group: Group, number: int, port: int = 80) -> None:
    daemon.hear(
        group,
        number,
        Hello(CARRIER_FEATURES, number + 1),
        Offer(number + 1, Protocol.TCP, Direction.SERVER, port, "web"),
    )


async def test_a_crowd_in_a_small_range_ends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon(network=SMALL)
    bob = daemon.befriend("bob")
    group = lan(daemon)
    daemon.rooms.offer(group, Protocol.UDP, 27015, "game", None, "auto")
    for number in range(5 * ROOM):
        pass_by(daemon, group, number)
    await trio.sleep(600)
    daemon.settle()
    assert [peer.name for peer in daemon.peers] == ["bob"]
    assert daemon.content.addresses == {bob.id: bob.address}
    assert not group.members


@pytest.mark.heavy
async def test_a_new_key_each_second_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    group = lan(daemon)
    daemon.rooms.offer(group, Protocol.UDP, 27015, "game", None, "auto")
    pass_by(daemon, group, 9999)
    before = len(_encode(daemon.content))
    for number in range(2 * MAX_PARTED):
        pass_by(daemon, group, number)
        await trio.sleep(1)
    assert len(_encode(daemon.content)) == before
    assert len(list(daemon.peers)) <= 2 * MAX_AWAY
    assert len(group.members) <= 2 * MAX_AWAY
    assert len(daemon.contacts.greetings._parted) <= MAX_PARTED
    assert len(daemon.book) <= 2 * MAX_AWAY
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, Peer) and one.via == "group:lan"]
    assert len([peer for peer in alive if peer.contact.group is group]) <= 2 * MAX_AWAY  # type: ignore[attr-defined]


async def test_what_a_rule_gives_to_strangers_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon(rules=(Rule(Action.ACCEPT, "group:*/*"),))
    group = lan(daemon)
    daemon.join(group, 9999, "host")
    daemon.offers.offer(daemon.peers.find("host"), Protocol.TCP, 22, "ssh", None, "auto")
    daemon.exit(group, 9999)
    for number in range(4 * MAX_AWAY):
        daemon.join(group, number, f"stranger {number}")
        offers(daemon, group, number)
        daemon.exit(group, number)
        await trio.sleep(1)
    await trio.sleep(10)
    daemon.settle()
    latest = {f"stranger {number}" for number in range(3 * MAX_AWAY, 4 * MAX_AWAY)}
    assert {peer.name for peer in daemon.peers} == latest | {"host"}
    assert len(daemon.content.mappings) == MAX_AWAY
    assert len(daemon.content.addresses) == MAX_AWAY + 1


async def test_one_member_cannot_fill_the_state_by_a_rule() -> None:
    daemon = Daemon(rules=(Rule(Action.ACCEPT, "group:*/*"),))
    group = lan(daemon)
    for number in range(5):
        daemon.join(group, number, f"stranger {number}")
        for port in range(1, 100):
            daemon.hear(
                group,
                number,
                Hello(CARRIER_FEATURES, number + 1),
                Offer(1000 * number + port, Protocol.TCP, Direction.SERVER, port, f"{port}"),
            )
    assert len(daemon.content.mappings) == MAX_BY_RULE


async def test_a_full_range_is_said_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon(network=SMALL)
    group = lan(daemon)
    with caplog.at_level(logging.WARNING):
        peers = [daemon.join(group, number, f"player {number}") for number in range(ROOM + 3)]
    assert [peer.address is None for peer in peers] == [False] * ROOM + [True] * 3
    assert len([record for record in caplog.records if "is full" in record.message]) == 1
    assert daemon.peers.at(peers[-1].address6.packed) is peers[-1]
    entry = _member_entry(peers[-1])
    assert (entry["address"], entry["advice"]) == (None, NO_ADDRESS)
    assert daemon.contacts.residents.without == 3


async def test_who_waits_has_an_address_when_there_is_room() -> None:
    daemon = Daemon(network=SMALL)
    group = lan(daemon)
    peers = [daemon.join(group, number, f"player {number}") for number in range(ROOM + 2)]
    goodbye = Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT
    daemon.groups.on_peer_exit(group.number, 4, goodbye)
    daemon.settle()
    assert peers[ROOM].address == peers[4].address
    assert daemon.peers.at(peers[ROOM].address.packed) is peers[ROOM]  # type: ignore[union-attr]
    assert peers[ROOM + 1].address is None
    assert peers[4] not in list(daemon.peers)


async def test_friends_and_what_a_person_decided_go_before_strangers() -> None:
    daemon = Daemon(network=SMALL)
    group = lan(daemon)
    peers = [daemon.join(group, number, f"player {number}") for number in range(ROOM + 1)]
    last = peers[-1]
    assert last.address is None
    daemon.offers.offer(last, Protocol.TCP, 22, "ssh", None, "auto")
    assert last.address is not None
    friends = [daemon.befriend(f"friend {number}") for number in range(ROOM - 1)]
    assert all(friend.address is not None for friend in friends)
    assert last.address is not None
    daemon.exit(group, ROOM)
    assert daemon.befriend("another friend").address is not None  # who is away gives way to a friend
    assert last.address is None
    assert daemon.befriend("one too many").address is None  # friends do not give way
    assert len({peer.address for peer in daemon.peers if peer.address is not None}) == ROOM


async def test_the_longest_away_gives_way_first(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon(network=SMALL)
    group = lan(daemon)
    peers = [daemon.join(group, number, f"player {number}") for number in range(ROOM)]
    for number in (5, 2, 8):
        daemon.exit(group, number)
        await trio.sleep(1)
    for number, expected in ((100, 5), (101, 2)):
        address = peers[expected].address
        assert daemon.join(group, number, f"player {number}").address == address
    assert peers[8].address is not None
    back = daemon.join(group, 200, "player 5")  # the one that left longest ago returns
    assert back is peers[5]
    assert back.address is not None
    assert peers[8].address is None


async def test_a_state_file_full_of_strangers_starts() -> None:
    """As an earlier version left it: an address for each key that ever came."""
    group = SimulatedGroup(key_of("group"), "lan")
    content = Content()
    bob = contact_id(key_of("bob"))
    kept = contact_id(key_of("kept"), group.id)
    for number, host in enumerate(SMALL.hosts()):
        stranger = contact_id(key_of(number), group.id)
        content.addresses[stranger] = IPv4Address(host)
        content.names[stranger] = f"stranger {number}"
    content.addresses[kept] = IPv4Address("10.99.0.14")
    content.names[kept] = "kept"
    content.offers.append(StandingOffer(kept, "tcp", 22))
    daemon = Daemon(content, [group], network=SMALL)
    friend = daemon.befriend("bob")
    assert friend.address is not None
    assert set(content.addresses) == {bob, kept}
    assert {peer.name for peer in daemon.peers} == {"bob", "kept"}


async def test_an_absence_within_the_outage_keeps_all_of_it(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon()
    group = lan(daemon)
    peer = daemon.join(group, 0, "player 0")
    daemon.exit(group, 0)
    await trio.sleep(daemon.contacts._settings.outage)
    daemon.settle()
    assert daemon.join(group, 7, "player 0") is peer


async def test_after_many_partings_we_are_new_to_all() -> None:
    """Whom we have forgotten may still have our link; nobody may take us for the one that had it."""
    daemon = Daemon()
    group = lan(daemon)
    epochs = {daemon.join(group, 0, "player 0").session.epoch}
    goodbye = Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT
    daemon.groups.on_peer_exit(group.number, 0, goodbye)
    daemon.settle()
    for number in range(1, MAX_PARTED + 1):
        daemon.join(group, number, f"player {number}")
        daemon.groups.on_peer_exit(group.number, number, goodbye)
        daemon.settle()
    back = daemon.join(group, 0, "player 0")
    assert back.session.epoch not in epochs
    assert back.session.epoch == daemon.contacts.greetings.hello.epoch


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """In any order of coming, going and dealing: addresses stay unique, and the worthier have them."""
    random = Random(seed)
    daemon = Daemon(network=SMALL, rules=(Rule(Action.ACCEPT, "group:*/*", ports=(range(1, 3),)),))
    group = lan(daemon)
    daemon.rooms.offer(group, Protocol.UDP, 27015, "game", None, "auto")
    here: dict[int, str] = {}
    residents = daemon.contacts.residents
    for step in range(400):
        match random.choice(["join", "join", "leave", "quit", "offer", "promise", "kill", "friend", "wait"]):
            case "join":
                name = f"player {random.randrange(40)}"
                if name not in here.values():
                    here[step] = name
                    daemon.join(group, step, name)
            case "leave" if here:
                daemon.exit(group, number := random.choice(list(here)))
                del here[number]
            case "quit" if here:
                number = random.choice(list(here))
                del here[number]
                goodbye = Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT
                daemon.groups.on_peer_exit(group.number, number, goodbye)
                daemon.settle()
            case "offer" if here:
                number = random.choice(list(here))
                daemon.hear(
                    group,
                    number,
                    Hello(CARRIER_FEATURES, number + 1),
                    Offer(step + 1, Protocol.TCP, Direction.SERVER, random.randrange(1, 4), "web"),
                )
            case "promise":
                peer = random.choice([*daemon.peers] or [None])
                if peer is not None:
                    with suppress(UserError):
                        daemon.offers.offer(peer, Protocol.TCP, random.randrange(1, 3), "", None, "auto")
            case "kill":
                peer = random.choice([*daemon.peers] or [None])
                if peer is not None and peer.session.mappings:
                    daemon.offers.end(peer, random.choice(peer.session.mappings))
                    daemon.settle()
            case "friend":
                if random.random() < 0.1:
                    daemon.befriend(f"friend {step}")
            case "wait":
                await trio.sleep(random.choice([0.1, 6, 100]))
                daemon.settle()
        housed = [peer for peer in daemon.peers if peer.address is not None]
        taken = {peer.address for peer in housed} | {
            own.address for own in daemon.contacts.own if own.address
        }
        assert len(taken) == len(housed) + sum(own.address is not None for own in daemon.contacts.own)
        assert len(taken) == len(daemon.book)
        assert all(daemon.peers.at(peer.address.packed) is peer for peer in housed if peer.address)
        assert {peer.id for peer in daemon.peers} >= set(daemon.content.addresses)
    await trio.sleep(100)
    daemon.settle()
    without = [residents.worth(peer) for peer in daemon.peers if peer.address is None]
    assert len(without) == residents.without
    assert not without or max(without) <= min(residents.worth(p) for p in daemon.peers if p.address)
    known = residents.agreed()
    again = Daemon(daemon.content, list(daemon.tox.groups.values()), network=SMALL)
    assert {peer.id for peer in again.peers} <= set(known)


@pytest.mark.parametrize("by_person", [False, True])
async def test_who_leaves_for_good_leaves_no_ghost(by_person: bool) -> None:
    """Its key is deleted there: nobody with it comes back, and whoever is called so next is not another."""
    daemon = Daemon(rules=() if by_person else (Rule(Action.ACCEPT),))
    group = lan(daemon)
    member = daemon.join(group, 0, "host")
    offers(daemon, group, 0)
    if by_person:
        [mapping] = member.session.mappings
        daemon.offers.accept(member, mapping, None, None)
    assert daemon.content.mappings
    goodbye = Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT
    daemon.groups.on_peer_exit(group.number, 0, goodbye, b"left")
    daemon.settle()
    assert list(daemon.peers) == []
    assert not daemon.content.mappings
    assert not daemon.content.addresses
    assert daemon.join(group, 1, "host", key_of("another")).name == "host"


async def test_whose_program_ends_without_a_word_is_remembered() -> None:
    daemon = Daemon(rules=(Rule(Action.ACCEPT),))
    group = lan(daemon)
    member = daemon.join(group, 0, "host")
    offers(daemon, group, 0)
    daemon.groups.on_peer_exit(group.number, 0, Tox_Group_Exit_Type.TOX_GROUP_EXIT_TYPE_QUIT)
    daemon.settle()
    assert list(daemon.peers) == [member]
    assert daemon.join(group, 1, "host", member.contact.key) is member
