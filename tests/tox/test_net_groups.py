"""Groups and conferences of real nodes: members come, go and come back; packets to one and to all."""

from __future__ import annotations

import pytest
import trio

from tests.tox.conftest import Person, running, until_heard
from tunfwd.tox.binding.errors import GroupInviteAcceptFailSend, GroupJoinBadChatId
from tunfwd.tox.contacts import Conference, Contact, ContactOffline, Group, Member, RoomState
from tunfwd.tox.rooms import NoSuchInvitation

pytestmark = [pytest.mark.toxnet, pytest.mark.patient, pytest.mark.timeout(600)]


def member(person: Person, group: Group, other: Group) -> Member | None:
    return next((one for one in group.members.values() if one.key == other.self_key), None)


async def meet(one: Person, group: Group, other: Person, others: Group) -> tuple[Member, Member]:
    """Wait until two see each other in a group."""

    def both() -> bool:
        here, there = member(one, group, others), member(other, others, group)
        return bool(here and here.online and there and there.online)

    with trio.fail_after(120):
        while not both():  # noqa: ASYNC110 both sides' rounds count
            await trio.sleep(0.05)
    here, there = member(one, group, others), member(other, others, group)
    assert here is not None
    assert there is not None
    return here, there


async def all_online(alice: Person, *others: Person) -> None:
    """Wait until the friends are back, whom earlier tests may have left alone for long."""
    for other in others:
        await alice.seen.until(lambda other=other: alice.friend(other).online, 200)  # type: ignore[misc]
        await other.seen.until(lambda other=other: other.friend(alice).online, 200)  # type: ignore[misc]


async def test_group_of_three(people: tuple[Person, Person, Person]) -> None:
    alice, bob, carol = people
    for person in people:
        person.seen.events.clear()
    async with running(alice, bob, carol):
        await all_online(alice, bob, carol)
        group = alice.groups.create("LAN\x1b party")
        assert group.state is RoomState.JOINED
        assert group.name == "LAN party"
        assert not group.public
        alice.groups.invite(group, alice.friend(bob))
        await bob.seen.until(lambda: bob.groups.invitations)
        invitation = bob.groups.invitations[0]
        assert invitation.id == group.id
        assert invitation.name == "LAN party"
        assert invitation.friend is bob.friend(alice)

        bobs = bob.groups.accept(group.id)
        assert not bob.groups.invitations
        with pytest.raises(NoSuchInvitation):
            bob.groups.accept(group.id)
        to_bob, to_alice = await meet(alice, group, bob, bobs)
        alice.groups.invite(group, alice.friend(carol))  # both at once would take toxcore 20 s
        await carol.seen.until(lambda: carol.groups.invitations)
        carols = carol.groups.accept(group.id)
        await meet(alice, group, carol, carols)
        carol_of_bob, _ = await meet(bob, bobs, carol, carols)  # not friends of each other
        assert bobs.state is RoomState.JOINED
        assert bobs.name == "LAN party"
        assert to_bob.nickname == "bob"
        assert to_bob.kind == "group"
        friend: Contact = alice.friend(bob)
        assert to_bob is not friend

        for packet in (b"\xa7\xa7" + b"a" * 498, b"\xa7\xa7" + b"b" * 1371, b"\xa7\xa7end"):
            assert to_bob.send_lossless(packet)
        await bob.seen.until(lambda: ("lossless", to_alice, b"\xa7\xa7end") in bob.seen.events)
        got = [event[2] for event in bob.seen.of("lossless")]
        assert got == [b"\xa7\xa7" + b"a" * 498, b"\xa7\xa7" + b"b" * 1371, b"\xa7\xa7end"]

        for packet in (b"\xa7\xc8" + b"c" * 1371, b"\xa7\xc9d"):
            await until_heard(
                lambda packet=packet: to_bob.send_lossy(packet),  # type: ignore[misc]
                bob.seen,
                lambda packet=packet: ("lossy", to_alice, packet) in bob.seen.events,  # type: ignore[misc]
            )
        assert not carol.seen.of("lossless")

        assert group.send_lossless(b"\xa7\xa7to all")
        await bob.seen.until(lambda: ("public", to_alice, b"\xa7\xa7to all") in bob.seen.events)
        await carol.seen.until(lambda: carol.seen.of("public"))
        assert not alice.seen.of("public")

        # bob's program ends, and starts again from what is on disk
        key = to_bob.key
    bob.restart()
    async with running(alice, bob, carol):
        await alice.seen.until(lambda: not to_bob.online)
        with pytest.raises(ContactOffline):
            to_bob.send_lossless(b"\xa7\xa7gone")
        assert [known.id for known in bob.groups] == [group.id]
        found = bob.groups.get(group.id)
        assert found is not None
        bobs = found
        again, _ = await meet(alice, group, bob, bobs)
        assert again is to_bob
        assert again.key == key == bobs.self_key
        assert [event for event in alice.seen.events if event[1] is again and event[0] != "renamed"] == [
            ("online", again),
            ("offline", again),
            ("online", again),
        ]
        assert again.send_lossless(b"\xa7\xa7welcome back")
        await bob.seen.until(lambda: bob.seen.of("lossless"))
        await meet(bob, bobs, carol, carols)
        assert carol_of_bob.key in bobs.members

        alice.groups.kick(again)
        await bob.seen.until(lambda: bobs.state is RoomState.LOST)
        assert bobs.reason == "kicked by alice"
        assert not any(one.online for one in bobs.members.values())
        await alice.seen.until(lambda: not again.online)

        assert bob.groups.join(group.id) is bobs  # as who we were
        await meet(alice, group, bob, bobs)
        assert member(alice, group, bobs) is again

        carol.groups.leave(carols)
        assert len(carol.groups) == 0
        await alice.seen.until(lambda: [one.nickname for one in group.by_peer.values()] == ["bob"])


async def test_acceptance_that_cannot_be_sent(people: tuple[Person, Person, Person]) -> None:
    alice, bob, _ = people
    async with running(alice, bob):
        await all_online(alice, bob)
        known = len(alice.groups)
        group = bob.groups.create("Second try")
        bob.groups.invite(group, bob.friend(alice))
        await alice.seen.until(lambda: alice.groups.invitations)
    bob.restart()
    async with running(alice, bob):
        await alice.seen.until(lambda: not alice.friend(bob).online)
        with pytest.raises(GroupInviteAcceptFailSend):
            alice.groups.accept(group.id)
        assert len(alice.groups) == known
        assert not alice.groups.invitations
        await alice.seen.until(lambda: alice.groups.invitations)
        alice.groups.decline(group.id)  # it names a key that bob had before he started anew


async def test_public_group_by_its_chat_id(people: tuple[Person, Person, Person]) -> None:
    alice, _, carol = people
    carol.seen.events.clear()
    async with running(alice, carol):
        group = alice.groups.create("open house", public=True, password="sesame")
        assert group.public
        with pytest.raises(GroupJoinBadChatId):
            alice.groups.join(group.id)
        wrong = carol.groups.join(group.id, "open up")
        await carol.seen.until(lambda: wrong.state is RoomState.LOST, 200)
        assert wrong.reason == "wrong password"
        right = carol.groups.join(group.id, "sesame")
        assert list(carol.groups) == [right]
        await meet(alice, group, carol, right)
        assert right.state is RoomState.JOINED
        assert right.name == "open house"
        carol.groups.leave(right)
        alice.groups.leave(group)
        with pytest.raises(ContactOffline):
            group.send_lossless(b"\xa7\xa7nobody")


async def test_conference(people: tuple[Person, Person, Person]) -> None:
    alice, bob, carol = people
    async with running(alice, bob, carol):
        await all_online(alice, bob, carol)
        conference = alice.conferences.create("Round\x07 table")
        assert conference.name == "Round table"
        assert not conference.members
        for guest in (bob, carol):
            alice.conferences.invite(conference, alice.friend(guest))
            await guest.seen.until(lambda guest=guest: guest.conferences.invitations)  # type: ignore[misc]
            assert guest.conferences.invitations[0].id == conference.id
            guest.conferences.accept(conference.id)
        bobs, carols = bob.conferences.get(conference.id), carol.conferences.get(conference.id)
        assert bobs is not None
        assert carols is not None

        def keys(of: Conference) -> set[bytes]:
            return {one.key for one in of.members if one.online}

        await alice.seen.until(lambda: keys(conference) == {bob.public_key, carol.public_key})
        await bob.seen.until(lambda: keys(bobs) == {alice.public_key, carol.public_key})
        await carol.seen.until(lambda: keys(carols) == {alice.public_key, bob.public_key})
        await bob.seen.until(lambda: {one.name for one in bobs.members} == {"alice", "carol"})
        assert bobs.name == "Round table"
        assert bob.friends.get(carol.public_key) is None  # known by key all the same

        carol.conferences.leave(carols)
        await bob.seen.until(lambda: keys(bobs) == {alice.public_key})
        bob.conferences.leave(bobs)
        alice.conferences.leave(conference)
