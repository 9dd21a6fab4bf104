"""One command each: who shares, who joins, and what comes between them."""

import logging
from typing import Any

import pytest
import trio

from tunfwd.common.errors import UserError
from tunfwd.control.tickets import read_ticket
from tunfwd.daemon.contacts.invites import ALL_GUESSES, KEY_GUESSES, MAX_INVITES
from tunfwd.daemon.contacts.joins import ASK_AGAIN, KEPT
from tunfwd.daemon.storage.state import _decode, _encode
from tunfwd.forwarding.states import MappingState
from tunfwd.tox.contacts import NONE
from tunfwd.wire.ticket import write_message

from .meeting import STEP, Meeting, Person
from .simulated import Daemon, key_of
from .test_naming import commands_of

GAME = ["27015/tcp", "27015-27030/udp"]
PLACES = [("tcp", 27015), *(("udp", port) for port in range(27015, 27031))]


async def share(person: Person, *ports: str, **more: object) -> str:
    answer = await person("share", ports=list(ports or GAME), name="game", **more)
    return str(answer["invite"]["ticket"])


async def reached(person: Person, ticket: str, within: float = 60.0) -> Any:
    """Wait until what a ticket names is reachable."""
    with trio.fail_after(within):
        while True:
            status = await person("join.status", ticket=ticket)
            if status["stage"] == "reachable":
                return status
            await trio.sleep(0.5)


def reload(person: Person) -> None:
    """Its state goes through the file."""
    person.content = _decode(_encode(person.content))


async def test_one_command_each(autojump_clock: object) -> None:
    async with Meeting.of("bob", "alice") as (_, [bob, alice]):
        made = await bob("share", ports=GAME, name="game")
        invite = made["invite"]
        assert invite["uses"] == 1
        assert [(o["protocol"], o["port"], o["name"]) for o in invite["offers"]] == [
            (protocol, port, "game") for protocol, port in PLACES
        ]
        answer = await alice("join", ticket=invite["ticket"])
        assert answer["stage"] == "asked"
        assert answer["contact"]["name"] == "bob"  # as the ticket says
        assert [(m["protocol"], m["port"]) for m in answer["mappings"]] == PLACES
        status = await reached(alice, invite["ticket"])
        assert {mapping["state"] for mapping in status["mappings"]} == {"running"}
        assert status["mappings"] == (await alice("ports"))["ports"]
        assert status["contact"]["link"] == "direct"
        [entry] = (await bob("invite.list"))["invites"]
        assert entry["state"] == "spent"
        assert [joined["public_key"] for joined in entry["joined"]] == [alice.tox.key.hex().upper()]
        assert "ticket" not in entry
        await trio.sleep(2 * KEPT)
        assert not alice.content.joins  # nothing is left to wait for
        assert not bob.daemon.client.friends.requests
        token = read_ticket(invite["ticket"]).inviter.token  # type: ignore[union-attr]
        for person in (bob, alice):
            assert token.hex() not in _encode(person.content).decode()


async def test_exactly_what_the_ticket_names_is_accepted(autojump_clock: object) -> None:
    async with Meeting.of("bob", "alice") as (_, [bob, alice]):
        ticket = await share(bob, "8080/tcp")
        await alice("join", ticket=ticket)
        await reached(alice, ticket)
        await bob("offer.add", to=[alice.tox.key.hex()], ports=["8080/udp", "8081/tcp"], name="game")
        await bob("request", contact=alice.tox.key.hex(), ports=["22/tcp"], name="game")
        await trio.sleep(5)
        offers = (await alice("offer.list"))["offers"]
        assert {(o["protocol"], o["port"]): o["state"] for o in offers} == {
            ("tcp", 8080): "running",
            ("udp", 8080): "pending",
            ("tcp", 8081): "pending",
            ("tcp", 22): "pending",
        }
        assert alice.accepted == [("tcp", 8080)]
        assert not bob.accepted


@pytest.mark.parametrize("moment", [0.0, 0.1, 2.0, 5.2, 6.0])
@pytest.mark.parametrize("who", ["bob", "alice", "both"])
async def test_it_goes_on_after_a_restart_at_any_moment(
    autojump_clock: object, who: str, moment: float
) -> None:
    async with Meeting.of("bob", "alice") as (_, [bob, alice]):
        ticket = await share(bob)
        if moment != 6.0:
            await alice("join", ticket=ticket)
        await trio.sleep(moment)
        stopped = {"bob": [bob], "alice": [alice], "both": [bob, alice]}[who]
        for person in stopped:
            person.stop()
            reload(person)
        if moment == 6.0 and alice.is_up:
            await alice("join", ticket=ticket)
        await trio.sleep(20)
        for person in stopped:
            await person.start()
        if moment == 6.0 and alice in stopped:
            await alice("join", ticket=ticket)
        await reached(alice, ticket, ASK_AGAIN + 60)
        await trio.sleep(2 * KEPT)
        assert not alice.content.joins
        assert len(bob.content.offers) == len(PLACES)


async def test_who_shares_may_be_killed_between_the_friendship_and_the_offers(autojump_clock: object) -> None:
    """The friend is on Tox's disk, what it comes for not on ours: it claims its ticket."""
    async with Meeting.of("bob", "alice") as (_, [bob, alice]):
        ticket = await share(bob)
        before = _encode(bob.content)
        await alice("join", ticket=ticket)
        await trio.sleep(1)
        bob.stop()
        bob.content = _decode(before)
        assert alice.tox.key in bob.tox.keys.values()
        await bob.start()
        await reached(alice, ticket)


async def test_uses_and_whom_a_spent_ticket_lets_in(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann", "ben", "cat") as (_, [bob, ann, ben, cat]):
        ticket = await share(bob, uses=2)
        for person in (ann, ben):
            await person("join", ticket=ticket)
            await reached(person, ticket)
        await cat("join", ticket=ticket)
        await trio.sleep(30)
        status = await cat("join.status", ticket=ticket)
        assert status["stage"] == "asked"
        assert "spent or was revoked" in status["missing"]
        [request] = bob.daemon.client.friends.requests  # an ordinary one
        assert (request.key, request.message) == (cat.tox.key, "tunfwd of cat")
        await bob("friend.accept", key=cat.tox.key.hex())
        await trio.sleep(10)
        with pytest.raises(UserError, match="does not take this ticket") as refused:
            await cat("join.status", ticket=ticket)
        assert refused.value.code == "denied"
        assert not cat.accepted  # nothing is accepted ahead any more
        assert not cat.content.joins
        await ann("join", ticket=ticket)  # again, by whom it has let in
        await reached(ann, ticket)
        assert len((await bob("invite.list"))["invites"][0]["joined"]) == 2


async def test_an_expired_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann", "ben") as (meeting, [bob, ann, ben]):
        ticket = await share(bob, seconds=600)
        await ann("join", ticket=ticket)
        await reached(ann, ticket)
        meeting.late = 3 * 3600
        with pytest.raises(UserError, match="this ticket ended 3 h ago"):
            await ben("join", ticket=ticket)
        assert not ben.tox.keys
        await ann("join", ticket=ticket)  # has it all
        await reached(ann, ticket)
        ben.daemon.contacts.tickets.invites.clock = lambda: 0.0  # a clock that is wrong
        await ben("join", ticket=ticket)
        await trio.sleep(30)
        assert [request.key for request in bob.daemon.client.friends.requests] == [ben.tox.key]
        assert {port["state"] for port in (await ben("ports"))["ports"]} == {"waiting"}
        assert [one["state"] for one in (await bob("invite.list"))["invites"]] == ["spent"]


async def test_a_revoked_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob, "8080/tcp")
        [invite] = (await bob("invite.list"))["invites"]
        with pytest.raises(UserError, match="no invite"):
            await bob("invite.revoke", id="ffff")
        assert (await bob("invite.revoke", id=invite["id"][:5]))["invite"]["id"] == invite["id"]
        assert (await bob("invite.list"))["invites"] == []
        await ann("join", ticket=ticket)
        await trio.sleep(30)
        assert len(bob.daemon.client.friends.requests) == 1
        assert not bob.content.offers


async def test_tickets_that_are_no_use(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        for wrong, reason in (
            (ticket[:-5], "cut short or has a wrong character"),
            (ticket[:40] + ("A" if ticket[40] != "A" else "B") + ticket[41:], "its checksum does not fit"),
            (ticket[7:], "begins with tunfwd:"),
            ("", "begins with tunfwd:"),
            (ticket * 40, "too long"),
        ):
            with pytest.raises(UserError, match=reason) as refused:
                await ann("join", ticket=wrong)
            assert refused.value.code == "usage"
        with pytest.raises(UserError, match="a ticket of our own") as ours:
            await bob("join", ticket=ticket)
        assert ours.value.code == "usage"
        await ann("friend.block", who=bob.tox.key.hex())
        with pytest.raises(UserError, match="is blocked here") as blocked:
            await ann("join", ticket=ticket)
        assert blocked.value.code == "denied"
        assert not ann.tox.keys
        assert not ann.content.mappings


async def test_the_same_ticket_twice(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        first = await ann("join", ticket=ticket)
        again = await ann("join", ticket=ticket)
        assert [m["port"] for m in again["mappings"]] == [m["port"] for m in first["mappings"]]
        await reached(ann, ticket)
        await ann("join", ticket=ticket)
        await reached(ann, ticket)
        assert len(ann.content.mappings) == len(bob.content.offers) == len(PLACES)
        await ann("kill", id="game")  # and after all once more
        await trio.sleep(5)
        assert not ann.accepted
        await ann("join", ticket=ticket)
        await reached(ann, ticket)
        await bob("kill", id="game")
        await trio.sleep(5)
        await ann("join", ticket=ticket)
        await trio.sleep(20)
        status = await ann("join.status", ticket=ticket)
        assert status["stage"] == "connected"  # what was ended there stays so
        assert not bob.content.offers


async def test_friends_of_long_ago_just_get_the_offers(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        first = await share(bob, "80/tcp")
        await ann("join", ticket=first, name="bobby")
        await reached(ann, first)
        second = await share(bob, "443/tcp")
        answer = await ann("join", ticket=second)
        assert answer["contact"]["name"] == "bobby"
        await reached(ann, second)
        assert len(ann.tox.keys) == len(bob.tox.keys) == 1
        assert {(await bob("invite.list"))["invites"][n]["state"] for n in (0, 1)} == {"spent"}


@pytest.mark.parametrize("forgetful", ["who shares", "who joins"])
async def test_a_friendship_that_only_one_side_remembers(autojump_clock: object, forgetful: str) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        first = await share(bob, "80/tcp")
        await ann("join", ticket=first)
        await reached(ann, first)
        one, other = (bob, ann) if forgetful == "who shares" else (ann, bob)
        await one("friend.remove", name=other.tox.key.hex())
        other.daemon.client.friends.on_connection(next(iter(other.tox.keys)), NONE)
        second = await share(bob, "443/tcp")
        await ann("join", ticket=second)
        await reached(ann, second)


async def test_who_asked_before_comes_with_a_ticket(autojump_clock: object) -> None:
    """toxcore would not tell of a second request of the same key."""
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        await ann("friend.add", address=bob.tox.address.hex())
        await trio.sleep(10)
        assert [request.key for request in bob.daemon.client.friends.requests] == [ann.tox.key]
        ticket = await share(bob)
        await ann("join", ticket=ticket)
        await reached(ann, ticket)
        assert not bob.daemon.client.friends.requests


async def test_who_shares_was_away_for_hours(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (meeting, [bob, ann]):
        ticket = await share(bob)
        bob.stop()
        await ann("join", ticket=ticket)
        meeting.step = 10.0
        await trio.sleep(4 * 3600)
        meeting.step = STEP
        await bob.start()
        await reached(ann, ticket)


async def test_a_blocked_key_gets_nowhere_with_any_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        await ann("friend.add", address=bob.tox.address.hex())
        await trio.sleep(10)
        blocked = await bob("friend.block", who=ann.tox.key.hex()[:8])
        assert blocked["blocked"] == [{"public_key": ann.tox.key.hex().upper(), "name": ""}]
        assert not bob.daemon.client.friends.requests
        await ann("join", ticket=ticket)
        await trio.sleep(60)
        assert not bob.tox.keys
        assert not bob.daemon.client.friends.requests
        assert bob.daemon.contacts.tickets.blocked_requests > 0
        assert (await bob("invite.list"))["invites"][0]["state"] == "open"
        assert (await bob("friend.blocked"))["blocked"] == blocked["blocked"]
        bob.stop()
        reload(bob)
        await bob.start()
        with pytest.raises(UserError, match="is not blocked"):
            await bob("friend.unblock", who="ABCD")
        await bob("friend.unblock", who=ann.tox.key.hex()[:6])
        bob.tox.told.clear()  # as toxcore has it after a restart
        await reached(ann, ticket, ASK_AGAIN + 60)


async def test_blocking_a_friend_ends_the_friendship(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        await ann("join", ticket=ticket, name="bob")
        await reached(ann, ticket)
        assert (await ann("friend.block", who="bob"))["blocked"][0]["name"] == "bob"
        assert not ann.tox.keys
        assert not ann.content.mappings
        assert (await ann("friend.unblock", who="bob"))["blocked"][0]["name"] == "bob"


async def test_thousands_of_guesses(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    """None is let in, few are looked at, and who has a ticket comes in all the same."""
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        friends = bob.daemon.client.friends
        with caplog.at_level(logging.INFO):
            for number in range(3000):
                token = number.to_bytes(16, "big")
                friends.on_request(key_of(("guesser", number)), write_message(token, "let me in").encode())
            for number in range(3000):
                token = number.to_bytes(16, "little")
                friends.on_request(key_of("one guesser"), write_message(token, "let me in").encode())
        invites = bob.daemon.contacts.tickets.invites
        assert invites.wrong <= ALL_GUESSES[0]
        assert invites.wrong + invites.unread == 6000
        assert not bob.tox.keys
        assert not bob.content.offers
        assert write_message(bytes(16), "")[14:] not in caplog.text  # nobody reads tokens in a log
        await ann("join", ticket=ticket)
        await reached(ann, ticket)


async def test_one_key_guesses_a_few_times_and_no_more(autojump_clock: object) -> None:
    daemon = Daemon()
    invites = daemon.contacts.tickets.invites
    _, token = invites.create(uses=1, seconds=600, ports=["80/tcp"])
    now = trio.current_time()
    verdicts = [invites.judge("AB", number.to_bytes(16, "big"), now).verdict for number in range(20)]
    assert verdicts == ["unknown"] * KEY_GUESSES[0] + ["unread"] * (20 - KEY_GUESSES[0])
    assert invites.judge("AB", token, now).verdict == "unread"
    assert invites.judge("CD", token, now).verdict == "valid"
    assert invites.judge("AB", token, now + KEY_GUESSES[1]).verdict == "valid"


async def test_a_friend_that_guesses_gets_no_more_answers(autojump_clock: object) -> None:
    async with Meeting.of("bob", "eve") as (_, [bob, eve]):
        ticket = await share(bob, "80/tcp")
        await eve("join", ticket=ticket)
        await reached(eve, ticket)
        other = await share(bob, "22/tcp")
        peer = eve.peer(bob)
        assert peer is not None
        for number in range(2000):
            peer.session.claim(number.to_bytes(16, "big"), trio.current_time())
            eve.daemon.scheduler.touch(peer)
            await trio.sleep(0.01)
        assert len(bob.content.offers) == 1
        assert bob.daemon.contacts.tickets.invites.wrong <= 2 * KEY_GUESSES[0]
        assert [one["state"] for one in (await bob("invite.list"))["invites"]] == ["spent", "open"]
        assert other


async def test_how_many_invites_there_may_be(autojump_clock: object) -> None:
    async with Meeting.of("bob") as (meeting, [bob]):
        for _ in range(MAX_INVITES):
            await share(bob, "80/tcp", seconds=60)
        with pytest.raises(UserError, match="256 invites stand already"):
            await share(bob)
        meeting.late = 61
        await share(bob)  # those that have ended give way
        meeting.late = 9 * 86400
        assert (await bob("invite.list"))["invites"] == []


async def test_a_new_nospam_ends_what_has_the_old_address(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann", "ben") as (_, [bob, ann, ben]):
        first, second = await share(bob), await share(bob)
        await ann("join", ticket=first)
        await reached(ann, first)
        answer = await bob("id.new_address")
        assert answer["revoked"] == 1
        assert answer["address"] == bob.tox.address.hex().upper()
        await ben("join", ticket=second)
        await trio.sleep(30)
        assert not bob.daemon.client.friends.requests
        assert (await ann("join.status", ticket=first))["stage"] == "reachable"


async def test_a_private_group_by_a_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        group = bob.daemon.groups.create("lan", public=False)
        group.public = False  # the simulation has public ones only
        made = await bob("group.share", group="lan")
        assert made["invite"]["group"] == "lan"
        ticket = made["invite"]["ticket"]
        answer = await ann("join", ticket=ticket, name="party")
        assert answer["mappings"] == []
        status = await reached(ann, ticket)
        assert (status["group"]["name"], status["group"]["state"]) == ("party", "online")
        assert status["contact"]["public_key"] == bob.tox.key.hex().upper()
        assert not ann.content.joins
        assert [one["state"] for one in (await bob("invite.list"))["invites"]] == ["spent"]


async def test_another_group_than_the_tickets_is_not_entered(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        lan, other = bob.daemon.groups.create("lan"), bob.daemon.groups.create("other")
        lan.public = False
        ticket = (await bob("group.share", group="lan"))["invite"]["ticket"]
        await ann("join", ticket=ticket)
        await reached(ann, ticket)
        friend = bob.daemon.client.friends.get(ann.tox.key)
        bob.daemon.groups.invite(other, friend)
        await trio.sleep(20)
        assert [one["state"] for one in (await ann("group.list"))["groups"]] == ["online", "invited"]


@pytest.mark.parametrize("who", ["bob", "ann"])
async def test_a_private_group_after_a_restart(autojump_clock: object, who: str) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        group = bob.daemon.groups.create("lan")
        group.public = False
        ticket = (await bob("group.share", group="lan"))["invite"]["ticket"]
        await ann("join", ticket=ticket)
        await trio.sleep(0.2)
        person = {"bob": bob, "ann": ann}[who]
        person.stop()
        reload(person)
        await trio.sleep(3)
        await person.start()
        await reached(ann, ticket, ASK_AGAIN + 60)


async def test_a_public_group_by_a_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        bob.daemon.groups.create("lan", public=True)
        made = await bob("group.share", group="lan")
        assert (made["invite"]["id"], made["invite"]["uses"], made["invite"]["expires"]) == (None, None, None)
        assert (await bob("invite.list"))["invites"] == []
        answer = await ann("join", ticket=made["invite"]["ticket"])
        assert answer["contact"] is None
        assert (await reached(ann, made["invite"]["ticket"]))["group"]["state"] == "online"
        assert not ann.tox.keys  # nobody has become a friend
        assert (await ann("join", ticket=made["invite"]["ticket"]))["stage"] == "reachable"


async def test_the_password_of_a_public_group(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Meeting.of("bob", "ann", "ben") as (_, [bob, ann, ben]):
        group = bob.daemon.groups.create("lan", public=True)
        monkeypatch.setattr(bob.tox, "group_get_password", lambda number: b"kirsche")
        with_it = (await bob("group.share", group="lan"))["invite"]["ticket"]
        without = (await bob("group.share", group="lan", with_password=False))["invite"]["ticket"]
        await ann("join", ticket=with_it)
        assert ann.tox.group_secrets == {group.id: "kirsche"}
        with pytest.raises(UserError, match="--password-file"):
            await ben("join", ticket=without)
        await ben("join", ticket=without, password="kirsche")
        assert ben.tox.group_secrets == {group.id: "kirsche"}


async def test_what_cannot_be_shared(autojump_clock: object) -> None:
    daemon = Daemon()
    command = commands_of(daemon)
    daemon.client.address = "00" * 38
    wrong_ones: list[dict[str, object]] = [
        {"ports": []},
        {"ports": ["9-8/tcp"]},
        {"ports": ["1-9/tcp", "5/tcp"]},
        {"ports": ["1-65535/tcp"]},
        {"ports": [f"{port}/tcp" for port in range(1, 200, 2)]},
        {"ports": ["1/tcp"], "uses": 0},
        {"ports": ["1/tcp"], "seconds": 0},
        {"ports": ["1/tcp"], "seconds": 1e12},
        {"ports": ["1-2/tcp"], "target": "nas:80"},
    ]
    for params in wrong_ones:
        with pytest.raises(UserError) as wrong:
            await command("share", params)
        assert wrong.value.code == "usage"
    assert not daemon.content.invites


async def test_a_friend_that_is_removed_is_waited_for_no_longer(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        ticket = await share(bob)
        bob.stop()
        await ann("join", ticket=ticket)
        assert len(ann.content.joins) == 1
        await ann("friend.remove", name=bob.tox.key.hex())
        assert not ann.content.joins
        assert not ann.content.mappings
        status = await ann("join.status", ticket=ticket)
        assert status["missing"] == "who made the ticket is no friend any more"


async def test_what_was_offered_before_is_accepted_by_the_ticket(autojump_clock: object) -> None:
    async with Meeting.of("bob", "ann") as (_, [bob, ann]):
        first = await share(bob, "80/tcp")
        await ann("join", ticket=first)
        await reached(ann, first)
        await bob("offer.add", to=[ann.tox.key.hex()], ports=["443/tcp"])
        await trio.sleep(1)
        assert [m.state for m in ann.peer(bob).session.mappings][1] is MappingState.PENDING  # type: ignore[union-attr]
        second = await share(bob, "443/tcp")
        await ann("join", ticket=second)
        await reached(ann, second)
