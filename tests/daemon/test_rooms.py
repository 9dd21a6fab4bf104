"""Groups and conferences as the daemon keeps them: what an offer to many costs, and who has what."""

from __future__ import annotations

import sys
from collections import Counter
from ipaddress import IPv4Address
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.daemon.contacts.rooms import RoomOffer
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.handshake import next_epoch
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import CARRIER_FEATURES, Session
from tunfwd.forwarding.states import MappingState
from tunfwd.tox.binding.enums import Tox_Group_Join_Fail
from tunfwd.tox.contacts import Conference, Group, RoomState
from tunfwd.tox.groups import MAX_EARLY_PACKETS
from tunfwd.tox.rooms import MAX_INVITATIONS
from tunfwd.wire.carriers import FRIEND, GROUP
from tunfwd.wire.packets import Accept, AckAcc, Direction, Hello, Kill, Lossless, Offer, Protocol, decode

from .simulated import Daemon, SimulatedGroup, key_of
from .test_naming import commands_of

MANY = 100


def founded(daemon: Daemon, name: str = "lan") -> Group:
    return daemon.groups.create(name, public=True)


def with_members(count: int, *, greeted: bool, **options: object) -> tuple[Daemon, Group]:
    daemon = Daemon(**options)  # type: ignore[arg-type]
    group = founded(daemon)
    for number in range(count):
        daemon.join(group, number, f"player {number}")
        if greeted:
            daemon.greet(group, number)
    daemon.forget_traffic()
    return daemon, group


def offer(daemon: Daemon, room: Group | Conference, port: int = 27015) -> RoomOffer:
    made = daemon.rooms.offer(room, Protocol.UDP, port, "cs", None, "auto")
    daemon.settle()
    return made


def said(packets: list[bytes]) -> list[Lossless]:
    return [decode(GROUP, packet) for packet in packets]


def states(daemon: Daemon) -> Counter[MappingState]:
    return Counter(mapping.state for peer in daemon.peers for mapping in peer.session.mappings)


# --- what it costs ------------------------------------------------------------------------------------------


async def test_an_offer_to_all_is_one_packet() -> None:
    daemon, group = with_members(MANY, greeted=True)
    made = offer(daemon, group)
    assert said(daemon.tox.public) == [Offer(made.msg_id, Protocol.UDP, Direction.SERVER, 27015, "cs")]
    assert not daemon.tox.private
    assert states(daemon) == {MappingState.OFFERED: MANY}


async def test_a_first_offer_is_greeted_with_once_for_all() -> None:
    daemon, group = with_members(MANY, greeted=False)
    made = offer(daemon, group)
    hello, sent = said(daemon.tox.public)
    assert isinstance(hello, Hello)
    assert hello.epoch == daemon.contacts.greetings.hello.epoch
    assert isinstance(sent, Offer)
    assert sent.msg_id == made.msg_id
    assert not daemon.tox.private
    daemon.hear(group, 0, Hello(CARRIER_FEATURES, 1))  # an answer: we have said ours
    assert not daemon.tox.private
    offer(daemon, group, 27016)
    assert len(daemon.tox.public) == 3


async def test_killing_it_is_one_packet() -> None:
    daemon, group = with_members(MANY, greeted=True)
    made = offer(daemon, group)
    for number in range(MANY // 2):
        daemon.hear(group, number, Accept(made.msg_id))
    assert states(daemon) == {MappingState.OFFERED: MANY // 2, MappingState.RUNNING: MANY // 2}
    daemon.forget_traffic()
    daemon.rooms.kill(made)
    daemon.settle()
    assert said(daemon.tox.public) == [Kill(made.msg_id)]
    assert not daemon.tox.private
    assert not states(daemon)
    assert not daemon.content.offers


@pytest.mark.interpreted
async def test_a_group_at_rest_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """No member is looked at in a round of toxcore's, and none has a timer: as with friends."""
    daemon, group = with_members(MANY, greeted=True)
    made = offer(daemon, group)
    for number in range(MANY):
        daemon.hear(group, number, Accept(made.msg_id))
    daemon.forget_traffic()
    await trio.sleep(60)
    looked: list[object] = []
    daemon.engine._serve_peer = lambda peer, until: looked.append(peer)  # type: ignore[method-assign]
    for _ in range(1000):
        daemon.contacts.iterated()
    assert not looked
    assert not daemon.tox.calls
    assert daemon.engine._next_deadline() == float("inf")
    daemon.groups.check_connections()  # every 5 s; of a friend, toxcore tells by itself
    assert daemon.tox.calls == {"connection_status": MANY}


@pytest.mark.interpreted
async def test_packets_of_one_member_concern_that_member_alone() -> None:
    daemon, group = with_members(MANY, greeted=True)
    made = offer(daemon, group)
    looked: list[object] = []
    serve = daemon.engine._serve_peer

    def look(peer: Peer, until: float) -> None:
        looked.append(peer)
        serve(peer, until)

    daemon.engine._serve_peer = look  # type: ignore[method-assign]
    daemon.hear(group, 7, Accept(made.msg_id))
    assert {peer.name for peer in looked} == {"player 7"}  # type: ignore[attr-defined]
    assert [number for number, _ in daemon.tox.private] == [7]


async def test_four_times_the_members_take_four_times_the_work() -> None:
    """In function calls, which do not depend on what else the machine does."""

    def calls(count: int) -> int:
        counted = 0

        def count_call(_frame: object, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            daemon, group = with_members(count, greeted=True)
            made = offer(daemon, group)
            for number in range(count):
                daemon.hear(group, number, Accept(made.msg_id))
            daemon.rooms.kill(made)
            daemon.settle()
        finally:
            sys.setprofile(None)
        return counted

    calls(10)
    assert calls(4 * MANY) < 5 * calls(MANY)


# --- who has what -------------------------------------------------------------------------------------------


async def test_who_comes_later_gets_it_privately() -> None:
    daemon, group = with_members(1, greeted=True)
    made = offer(daemon, group)
    daemon.join(group, 1, "late")
    hello, sent = said([packet for number, packet in daemon.tox.private if number == 1])
    assert isinstance(hello, Hello)
    assert isinstance(sent, Offer)
    assert sent.msg_id != made.msg_id
    daemon.hear(group, 1, Hello(CARRIER_FEATURES, 2), Accept(sent.msg_id))
    assert states(daemon) == {MappingState.OFFERED: 1, MappingState.RUNNING: 1}
    daemon.rooms.kill(made)
    daemon.settle()
    assert Kill(sent.msg_id) in said([packet for _, packet in daemon.tox.private])
    assert not states(daemon)


async def test_who_returns_under_another_number_gets_it_again() -> None:
    daemon, group = with_members(2, greeted=True)
    made = offer(daemon, group)
    daemon.hear(group, 0, Accept(made.msg_id))
    address = daemon.peers.find("player 0").address
    daemon.exit(group, 0)
    assert states(daemon) == {MappingState.WAITING: 1, MappingState.OFFERED: 1}
    daemon.hear_public(group, 0, Kill(made.msg_id))  # of the number that it had: nobody's
    assert daemon.groups.unannounced_dropped == 1
    daemon.forget_traffic()
    peer = daemon.join(group, 5, "player 0")
    assert peer is daemon.peers.find("player 0")
    assert peer.address == address
    daemon.hear(group, 5, Hello(CARRIER_FEATURES, 1))
    [sent] = [
        packet for packet in said([data for _, data in daemon.tox.private]) if isinstance(packet, Offer)
    ]
    daemon.hear(group, 5, Accept(sent.msg_id))
    assert states(daemon) == {MappingState.RUNNING: 1, MappingState.OFFERED: 1}


async def test_an_offer_while_nobody_is_there() -> None:
    daemon, group = with_members(0, greeted=False)
    made = offer(daemon, group)
    daemon.join(group, 0, "first")
    assert Offer in map(type, said([data for _, data in daemon.tox.private]))
    with pytest.raises(UserError, match="is already offered"):
        offer(daemon, group)
    daemon.rooms.kill(made)
    daemon.settle()
    offer(daemon, group)
    assert len(daemon.content.offers) == 1
    assert states(daemon) == {MappingState.OFFERED: 1}


async def test_a_kill_of_one_member_is_not_a_kill_of_anothers() -> None:
    daemon, group = with_members(3, greeted=True)
    made = offer(daemon, group)
    for number in range(3):
        daemon.hear(group, number, Accept(made.msg_id))
    daemon.hear_public(group, 0, Kill(made.msg_id))  # leaves for itself, and may come again
    assert states(daemon) == {MappingState.WAITING: 1, MappingState.RUNNING: 2}
    assert daemon.peers.find("player 0").session.mappings[0].state is MappingState.WAITING


async def test_an_accept_of_what_was_offered_to_another() -> None:
    daemon, group = with_members(2, greeted=True)
    private = daemon.offers.offer(daemon.peers.find("player 0"), Protocol.TCP, 22, "ssh", None, "auto")
    daemon.settle()
    other = daemon.peers.find("player 1")
    daemon.hear(group, 1, Accept(private.msg_id))
    assert private.state is MappingState.OFFERED
    assert other.session.counters["accept_unknown"] == 1
    assert (1, Kill(private.msg_id)) in [(number, decode(GROUP, data)) for number, data in daemon.tox.private]


async def test_one_id_of_two_members_is_two_mappings() -> None:
    rules = (Rule(Action.ACCEPT, "group:lan/*"),)
    daemon, group = with_members(2, greeted=True, rules=rules)
    same = Offer(0x11223344, Protocol.TCP, Direction.SERVER, 80, "web")
    daemon.hear_public(group, 0, same)
    daemon.hear_public(group, 1, same)
    for number in range(2):
        daemon.hear(group, number, AckAcc(same.msg_id))
    assert states(daemon) == {MappingState.RUNNING: 2}
    daemon.hear_public(group, 0, Kill(same.msg_id))
    assert states(daemon) == {MappingState.RUNNING: 1}
    assert daemon.peers.find("player 1").session.mappings


async def test_only_offers_hellos_and_kills_may_be_public() -> None:
    daemon, group = with_members(1, greeted=True)
    made = offer(daemon, group)
    daemon.hear_public(group, 0, Accept(made.msg_id))
    daemon.groups.on_public(group.number, 0, b"\xa7\x03" + bytes(4))  # a friend's bytes
    assert daemon.peers.find("player 0").session.counters == {
        "public_unexpected": 1,
        "malformed_prefix": 1,
    }
    daemon.groups.on_private(group.number, 0, b"\xa7\x01" + bytes(4))
    assert daemon.peers.find("player 0").session.counters["malformed_prefix"] == 2
    friend = Session(FRIEND, epoch=1, random=Random(1))
    friend.online(0.0)
    friend.receive_lossless(b"\xa7\xa7\x01" + bytes(4), 0.0)
    friend.receive_lossy(b"\xa7\xc8" + bytes(4), 0.0)
    assert friend.counters == {"malformed_type": 1, "malformed_prefix": 1}


async def test_a_ping_waits_for_the_members_hello(autojump_clock: trio.testing.MockClock) -> None:
    daemon, group = with_members(1, greeted=False)
    answers: list[float | None] = []

    async def ping() -> None:
        answers.append(await daemon.pings.ping(daemon.peers.find("player 0")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        await trio.testing.wait_all_tasks_blocked()
        daemon.greet(group, 0)
        await trio.testing.wait_all_tasks_blocked()
        daemon.settle()
        token = daemon.tox.private[-1][1][3:]
        await trio.sleep(0.02)
        daemon.groups.on_private(group.number, 0, b"\xa7\xc9\x01" + token)
        daemon.settle()
    assert answers == [pytest.approx(0.02)]


# --- names --------------------------------------------------------------------------------------------------


async def test_two_groups_of_one_name() -> None:
    daemon = Daemon()
    one, two = founded(daemon), founded(daemon)
    assert daemon.rooms.label(one) == "group:lan"
    assert daemon.rooms.label(two) == f"group:lan-{two.id.hex()[:4]}"
    assert daemon.rooms.find("lan", "group") is one
    assert daemon.rooms.find(daemon.rooms.label(two), "group") is two
    assert daemon.rooms.find(two.id.hex()[:6], "group") is two
    with pytest.raises(UserError) as caught:
        daemon.rooms.find("lan-party", "group")
    assert caught.value.code == "not_found"
    daemon.groups.leave(one)
    assert daemon.rooms.name(two) == f"lan-{two.id.hex()[:4]}"  # a rule may say so


@pytest.mark.parametrize(
    ("own", "shown"), [("a/b", "a_b"), ("group:x", "group_x"), ("a\x1b[31m\nb", "a_31m b"), ("", None)]
)
async def test_a_name_that_does_not_do(own: str, shown: str | None) -> None:
    daemon = Daemon()
    group = founded(daemon, own)
    assert daemon.rooms.name(group) == (shown or group.id.hex()[:8])


async def test_a_name_counts_once_we_are_in() -> None:
    """Until then it is what an inviter says."""
    daemon = Daemon(known=[SimulatedGroup(key_of("chat"), "")])
    [group] = daemon.groups
    assert daemon.rooms.name(group) == group.id.hex()[:8]
    group.name = "claimed"
    assert daemon.rooms.name(group) == "claimed"
    daemon.tox.groups[0].name = "lan"
    daemon.groups.on_self_join(0)
    assert daemon.rooms.name(group) == "lan"


# --- restarts, and the end ----------------------------------------------------------------------------------


def restarted(daemon: Daemon, rules: tuple[Rule, ...] = ()) -> tuple[Daemon, Group]:
    known = [SimulatedGroup(group.id, group.name) for group in daemon.tox.groups.values()]
    again = Daemon(daemon.content, known, rules, seed=2)
    return again, next(iter(again.groups))


async def test_what_stands_after_a_restart() -> None:
    rules = (Rule(Action.ACCEPT, "group:lan/*"),)
    daemon, group = with_members(3, greeted=True, rules=rules)
    offer(daemon, group)
    daemon.hear(group, 0, Offer(1, Protocol.TCP, Direction.SERVER, 80, "web"))
    before = {peer.label: peer.address for peer in daemon.peers}
    taken = daemon.peers.find("player 0").session.mappings[-1]

    again, group = restarted(daemon)
    known = {peer.label: peer.address for peer in again.peers}  # away; the others are met anew
    assert known == {"group:lan/player 0": before["group:lan/player 0"]}
    assert {peer.session.is_online for peer in again.peers} == {False}
    assert group.state is RoomState.JOINING
    again.groups.on_self_join(group.number)
    peer = again.join(group, 9, "player 0")
    assert peer.address == before["group:lan/player 0"]
    hello, sent = said([data for _, data in again.tox.private])
    assert (type(hello), type(sent)) == (Hello, Offer)
    again.hear(group, 9, Hello(CARRIER_FEATURES, 1), Offer(2, Protocol.TCP, Direction.SERVER, 80, "web"))
    assert Accept(2) in said([data for _, data in again.tox.private])  # no rule says so: it was taken before
    assert peer.ports[Protocol.TCP, 80].name == taken.name


async def test_a_name_is_not_for_others_while_its_owner_is_away() -> None:
    daemon, group = with_members(1, greeted=True)
    peer = daemon.peers.find("player 0")
    daemon.offers.offer(peer, Protocol.TCP, 22, "ssh", None, "auto")
    owner = peer.key
    again, group = restarted(daemon)
    again.groups.on_self_join(group.number)
    other = again.join(group, 1, "player 0", key_of("an impostor"))
    assert other.name == f"player 0-{key_of('an impostor').hex()[:4]}"
    assert again.peers.find("player 0").key == owner


async def test_leaving_forgets_all_of_it() -> None:
    rules = (Rule(Action.ACCEPT, "group:lan/*"),)
    daemon, group = with_members(3, greeted=True, rules=rules)
    other = founded(daemon, "other")
    daemon.join(other, 0, "player 0")
    friend = daemon.befriend("player 0")
    offer(daemon, group)
    daemon.hear(group, 0, Offer(1, Protocol.TCP, Direction.SERVER, 80, "web"))
    daemon.groups.leave(group)
    assert {peer.label for peer in daemon.peers} == {"group:other/player 0", "player 0"}
    content = daemon.content
    assert not content.offers
    assert not content.mappings
    assert set(content.addresses) == {friend.id}
    assert set(content.addresses.values()) == {friend.address}
    assert not [known for known in content.names if known.startswith(group.id.hex().upper())]
    assert friend.address != daemon.peers.find("group:other/player 0").address


async def test_being_refused_after_a_restart_forgets_nothing() -> None:
    rules = (Rule(Action.ACCEPT, "group:lan/*"),)
    daemon, group = with_members(1, greeted=True, rules=rules)
    offer(daemon, group)
    daemon.hear(group, 0, Offer(1, Protocol.TCP, Direction.SERVER, 80, "web"))
    kept = list(daemon.content.mappings), list(daemon.content.offers), dict(daemon.content.addresses)
    again, group = restarted(daemon)
    again.groups.on_join_fail(group.number, Tox_Group_Join_Fail.TOX_GROUP_JOIN_FAIL_PEER_LIMIT)
    assert group.state is RoomState.LOST
    assert again.rooms.label(group) == "group:lan"
    assert (list(again.content.mappings), list(again.content.offers), dict(again.content.addresses)) == kept
    again.groups.leave(group)
    assert not again.content.mappings
    assert not again.content.offers
    assert not again.content.addresses


# --- conferences --------------------------------------------------------------------------------------------


def meet(daemon: Daemon, conference: Conference, *names: str) -> None:
    daemon.tox.conference_peers[conference.number] = [(key_of(name), name) for name in names]
    daemon.conferences.on_changed(conference.number)
    daemon.settle()


async def test_an_offer_to_a_conference_goes_to_friends_who_are_in_it() -> None:
    daemon = Daemon()
    conference = daemon.conferences.create("table")
    bob, carol = daemon.befriend("bob"), daemon.befriend("carol")
    made = offer(daemon, conference)
    assert not states(daemon)
    meet(daemon, conference, "bob", "mallory")
    assert [mapping.port for mapping in bob.session.mappings] == [27015]
    assert not carol.session.mappings
    meet(daemon, conference, "bob", "carol", "mallory")
    assert states(daemon) == {MappingState.OFFERED: 2}
    mallory = daemon.befriend("mallory")  # who was there all the time
    assert states(daemon) == {MappingState.OFFERED: 3}
    meet(daemon, conference, "mallory")
    assert not bob.session.mappings
    assert states(daemon) == {MappingState.OFFERED: 1}
    daemon.rooms.kill(made)
    assert not mallory.session.mappings


async def test_a_port_that_a_friend_has_already_is_not_offered_twice() -> None:
    daemon = Daemon()
    conference = daemon.conferences.create("table")
    bob = daemon.befriend("bob")
    daemon.offers.offer(bob, Protocol.UDP, 27015, "cs", None, "auto")
    made = offer(daemon, conference)
    meet(daemon, conference, "bob")
    assert len(bob.session.mappings) == 1
    daemon.rooms.kill(made)
    assert len(bob.session.mappings) == 1


async def test_leaving_a_conference_ends_what_was_offered_to_it() -> None:
    daemon = Daemon()
    conference = daemon.conferences.create("table")
    bob = daemon.befriend("bob")
    meet(daemon, conference, "bob")
    offer(daemon, conference)
    assert bob.session.mappings
    daemon.conferences.leave(conference)
    assert not bob.session.mappings
    assert not daemon.content.offers
    assert bob.address in daemon.content.addresses.values()
    assert isinstance(bob.address, IPv4Address)


async def test_a_contact_that_was_removed_and_comes_back_gets_another_epoch() -> None:
    """It may still have the link of before, which we know nothing of."""
    daemon, _ = with_members(1, greeted=True)
    peer = daemon.befriend("player 7")
    before = peer.session.epoch
    assert before == daemon.contacts.greetings.hello.epoch
    daemon.contacts.contact_removed(peer.contact)
    again = daemon.befriend("player 7")
    assert again is not peer
    assert again.session.epoch == next_epoch(before)
    assert daemon.befriend("player 8").session.epoch == before


async def test_what_is_said_before_the_announcement_is_kept() -> None:
    """toxcore hands over a member's packets before it announces it; they are that member's alone."""
    daemon, group = with_members(1, greeted=False)
    members = daemon.tox.groups[group.number].peers
    members[7] = (key_of("early"), "early")
    daemon.hear(group, 7, Hello(CARRIER_FEATURES, 5), Offer(9, Protocol.UDP, Direction.SERVER, 8303, "game"))
    assert daemon.groups.unannounced_dropped == 0
    peer = daemon.join(group, 7, "early")
    assert peer.session.features == CARRIER_FEATURES
    assert [mapping.name for mapping in peer.session.mappings] == ["game"]

    members[8] = (key_of("gone"), "gone")
    daemon.hear(group, 8, Hello(CARRIER_FEATURES, 6))
    other = daemon.join(group, 8, "another")  # the number was given anew
    assert not other.session.features


async def test_what_is_dropped_of_rooms_is_shown() -> None:
    daemon, group = with_members(0, greeted=True)
    daemon.tox.groups[group.number].peers[9] = (key_of("early"), "early")
    for _ in range(MAX_EARLY_PACKETS + 2):  # of who is not announced, and says too much
        daemon.groups.on_private(group.number, 9, b"\xa7")
    alice = daemon.befriend("alice")
    for number in range(MAX_INVITATIONS + 3):
        daemon.groups.on_invite(alice.contact, key_of(number), b"lan")  # type: ignore[arg-type]
    status: Any = await commands_of(daemon)(api.STATUS.name, {})
    assert status["drops"] == {"invitations": 3, "unannounced": 2}
