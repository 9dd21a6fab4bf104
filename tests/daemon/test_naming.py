"""Rules go by what a person here chose, never by what a contact or a group's founder calls itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.main import dispatcher
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Content, contact_id, group_id
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.forwarding.session import CARRIER_FEATURES
from tunfwd.tox.contacts import Group, RoomState
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Direction, Hello, Offer, Protocol, encode

from .simulated import Daemon, SimulatedGroup, key_of

ALICE = (Rule(Action.ACCEPT, "alice"),)
LAN = (Rule(Action.ACCEPT, "group:lan/*"),)


def taken(daemon: Daemon, peer: Peer) -> bool:
    """Whether a rule takes what this contact offers."""
    daemon.engine.lossless(peer, encode(FRIEND, Hello(CARRIER_FEATURES, 1)))
    daemon.engine.lossless(peer, encode(FRIEND, Offer(7, Protocol.TCP, Direction.SERVER, 80, "web")))
    daemon.settle()
    return bool(peer.ports)


def join_foreign(daemon: Daemon, name: str, chat_id: bytes | None = None) -> Group:
    """A group that somebody else founded, and named."""
    number = len(daemon.tox.groups)
    known = SimulatedGroup(chat_id or key_of((name, number)), name, ours=False)
    daemon.tox.groups[number] = known
    daemon.groups.on_self_join(number)
    daemon.settle()
    group = daemon.groups.get(known.id)
    assert group is not None
    return group


def taken_in(daemon: Daemon, group: Group, number: int, name: str) -> bool:
    peer = daemon.join(group, number, name)
    daemon.hear(
        group,
        number,
        Hello(CARRIER_FEATURES, number + 1),
        Offer(7, Protocol.TCP, Direction.SERVER, 80, "web"),
    )
    return bool(peer.ports)


def set_nickname(daemon: Daemon, peer: Peer, nickname: str) -> None:
    peer.contact.nickname = nickname
    daemon.contacts.contact_renamed(peer.contact)


async def test_a_nickname_satisfies_no_rule_now_or_later() -> None:
    daemon = Daemon(rules=ALICE)
    mallory = daemon.befriend("alice", given=False)
    assert mallory.label == "alice"
    assert not taken(daemon, mallory)
    daemon = Daemon(rules=ALICE)
    mallory = daemon.befriend("mallory", given=False)
    set_nickname(daemon, mallory, "alice")
    assert mallory.label == "alice"
    assert not taken(daemon, mallory)


async def test_the_name_that_a_person_gave_does() -> None:
    daemon = Daemon(rules=ALICE)
    alice = daemon.befriend("someone", given=False)
    daemon.contacts.rename(alice, "alice")
    set_nickname(daemon, alice, "bob")
    assert alice.label == "alice"
    assert taken(daemon, alice)


async def test_after_a_restart_the_given_name_is_the_given_ones() -> None:
    """Whoever is loaded first: a nickname gives way to what a person chose."""
    daemon = Daemon(rules=ALICE)
    alice = daemon.befriend("alice")
    again = Daemon(daemon.content, rules=ALICE)
    mallory = again.befriend("Alice", given=False)
    assert mallory.label == f"Alice-{mallory.key[:4].lower()}"
    assert not taken(again, mallory)
    friend = again.befriend("alice", given=False)  # the same key as before
    assert friend.id == alice.id
    assert friend.label == "alice"
    assert taken(again, friend)


async def test_who_calls_himself_so_gives_way_when_a_person_chooses() -> None:
    daemon = Daemon(rules=ALICE)
    mallory = daemon.befriend("alice", given=False)
    alice = daemon.befriend("someone", given=False)
    daemon.contacts.rename(alice, "alice")
    assert daemon.peers.find("alice") is alice
    assert mallory.label == f"alice-{mallory.key[:4].lower()}"
    assert not taken(daemon, mallory)


@pytest.mark.parametrize(
    "nickname", ["group:lan/x", "group:lan", "*", "ALICE", "ａｌｉｃｅ", "alice\u200b", " alice "]
)
async def test_no_nickname_is_anything_else(nickname: str) -> None:
    rules = (*ALICE, *LAN)
    daemon = Daemon(rules=rules)
    daemon.befriend("alice")
    mallory = daemon.befriend(nickname, given=False)
    assert not taken(daemon, mallory)
    assert daemon.peers.find("alice") is not mallory
    assert not {*"/:*"} & {*mallory.label}


async def test_a_nickname_in_a_group_satisfies_no_rule() -> None:
    daemon = Daemon(rules=(Rule(Action.ACCEPT, "group:lan/alice"), *ALICE))
    group = daemon.groups.create("lan", public=True)
    assert not taken_in(daemon, group, 0, "alice")


async def test_a_group_is_known_by_its_chat_id_or_by_what_a_person_calls_it() -> None:
    daemon = Daemon(rules=LAN)
    assert taken_in(daemon, daemon.groups.create("lan", public=True), 0, "player")  # ours

    daemon = Daemon(rules=LAN)
    group = join_foreign(daemon, "lan")
    assert daemon.rooms.label(group) == "group:lan"
    assert not taken_in(daemon, group, 0, "player")
    daemon.contacts.rename_room(group, "lan")
    assert taken_in(daemon, group, 1, "another")
    again = Daemon(daemon.content, list(daemon.tox.groups.values()), LAN)
    assert taken_in(again, next(iter(again.groups)), 2, "third")

    chat_id = key_of("chat id")
    daemon = Daemon(rules=(Rule(Action.ACCEPT, f"group:{chat_id.hex()}/*"),))
    assert taken_in(daemon, join_foreign(daemon, "whatever", chat_id), 0, "player")


async def test_a_founder_does_not_take_the_name_that_a_person_gave() -> None:
    daemon = Daemon(rules=LAN)
    foreign = join_foreign(daemon, "lan")
    own = daemon.groups.create("lan", public=True)
    daemon.contacts.rename_room(own, "lan")
    assert daemon.rooms.find("group:lan", "group") is own
    assert daemon.rooms.label(foreign) == f"group:lan-{foreign.id.hex()[:4]}"
    assert not taken_in(daemon, foreign, 0, "player")
    with pytest.raises(UserError, match="choose another name"):
        daemon.contacts.rename_room(foreign, "LAN")
    join_foreign(daemon, "group:lan/../*")
    assert {daemon.rooms.name(room) for room in daemon.rooms} >= {"group_lan_..__"}


async def test_a_state_of_before_says_at_start_which_rules_stop(caplog: pytest.LogCaptureFixture) -> None:
    """Its room names do not say whose they are: only groups that we founded keep theirs."""
    foreign = SimulatedGroup(key_of("foreign"), "lan", ours=False)
    own = SimulatedGroup(key_of("own"), "party")
    content = Content(names={group_id(foreign.id): "lan", group_id(own.id): "party"})
    content.names[contact_id(key_of("alice"))] = "alice"
    rules = (*LAN, Rule(Action.ACCEPT, "group:party/*"), *ALICE, Rule(Action.ACCEPT, "group:lan/bob"))
    with caplog.at_level(logging.WARNING):
        daemon = Daemon(content, [foreign, own], rules)
    assert 'the rule for "group:lan/*" does not mean group:lan, whose founder named it' in caplog.text
    assert 'the rule for "group:lan/bob" means nobody' in caplog.text
    assert "party" not in caplog.text
    theirs, ours = daemon.groups
    for group in (theirs, ours):
        daemon.groups.on_self_join(group.number)
        assert group.state is RoomState.JOINED
    assert not taken_in(daemon, theirs, 0, "player")
    assert taken_in(daemon, ours, 0, "player")
    assert taken(daemon, daemon.befriend("alice", given=False))  # a person's: no others were kept


async def test_an_offer_of_one_who_took_a_rules_name_says_so(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon(rules=ALICE)
    mallory = daemon.befriend("alice", given=False)
    with caplog.at_level(logging.INFO):
        assert not taken(daemon, mallory)
    assert 'the rule for "alice" does not mean alice, which calls itself so' in caplog.text


async def saved() -> None:
    """All of it, each time."""


async def no_warnings() -> list[str]:
    return []


def commands_of(daemon: Daemon) -> Dispatcher:
    storage: Any = SimpleNamespace(save=saved, warnings=no_warnings)
    nothing: Any = None
    return dispatcher(daemon, storage, nothing, NodeCommands(daemon.client, nothing))


async def test_renaming_by_command() -> None:
    daemon = Daemon(rules=ALICE)
    bob, carol = daemon.befriend("bob", given=False), daemon.befriend("carol")
    call = commands_of(daemon)
    answer = await call(api.FRIEND_RENAME.name, {"name": "bob", "to": "alice"})
    assert answer["friend"]["name"] == "alice"  # type: ignore[index]
    assert taken(daemon, bob)
    for wrong in ("carol", "CAROL", "all", "..", "group:x", carol.key[:6], carol.key):
        with pytest.raises(UserError):
            await call(api.FRIEND_RENAME.name, {"name": "alice", "to": wrong})
    assert bob.label == "alice"
    await call(api.FRIEND_RENAME.name, {"name": "alice", "to": bob.key[:6].lower()})  # its own


async def test_groups_are_named_by_command() -> None:
    daemon = Daemon(rules=LAN)
    call = commands_of(daemon)
    await call(api.GROUP_CREATE.name, {"name": "lan", "public": True})
    second = await call(api.GROUP_CREATE.name, {"name": "LAN"})
    assert second["group"]["name"].startswith("LAN-")  # type: ignore[index]
    for wrong in ("a/b", "x:y", "all", "..", "-x"):
        with pytest.raises(UserError):
            await call(api.GROUP_CREATE.name, {"name": wrong})
    foreign = join_foreign(daemon, "theirs")
    with pytest.raises(UserError, match="choose another name"):
        await call(api.GROUP_RENAME.name, {"group": "theirs", "to": "lan"})
    answer = await call(api.GROUP_RENAME.name, {"group": "theirs", "to": "club"})
    assert answer["group"]["name"] == "club"  # type: ignore[index]
    assert group_id(foreign.id) in daemon.content.named_rooms
    daemon.groups.leave(foreign)
    assert group_id(foreign.id) not in daemon.content.named_rooms
