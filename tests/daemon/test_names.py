"""What contacts are called in DNS: valid, unique, stable, and nobody's to take by calling himself so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.daemon.names import MAX_LABEL, Names, OwnName, label_of

from .simulated import Daemon, SimulatedGroup, key_of
from .test_naming import join_foreign


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("bob", "bob"),
        ("Bob Smith!", "bob-smith"),
        ("O'Neil", "oneil"),
        ("Bücher", "xn--bcher-kva"),
        ("xn--bcher-kva", "xn-bcher-kva"),  # only another script looks like that
        ("مرحبا", "xn--mgbbop3h"),
        ("ＡＢＣ", "abc"),
        ("🎮 gamer", "gamer"),
        ("🎮", ""),
        ("..", ""),
        ("_tcp", "tcp"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert label_of(name) == label


@given(st.text(max_size=200))
def test_any_name_gives_a_valid_label(name: str) -> None:
    label = label_of(name)
    assert len(label) <= MAX_LABEL
    assert label == label.lower()
    assert not label or label.encode().replace(b"-", b"").isalnum()
    assert not label.startswith("-")
    assert not label.endswith("-")
    assert label_of(label) == label or label.startswith("xn--")


async def test_friends_members_and_addresses() -> None:
    daemon = Daemon()
    bob = daemon.befriend("bob")
    group = join_foreign(daemon, "LAN party")
    player = daemon.join(group, 1, "player 1")
    names = daemon.names
    found = names.find("BOB.tunfwd.internal.")
    assert found is not None
    assert (found.name, found.peer) == ("bob.tunfwd.internal", bob)
    assert found.addresses == (bob.address, bob.address6)
    member = names.find("player-1.lan-party.tunfwd.internal")
    assert member is not None
    assert member.peer is player
    assert player.address is not None
    assert names.at(player.address) == names.at(str(player.address6)) == member
    assert names.of(player) == member.name
    assert names.find("bob") is None
    assert names.find("bob.example") is None
    assert names.covers("x.tunfwd.internal")
    assert not names.covers("xtunfwd.internal")
    assert names.exists("lan-party.tunfwd.internal")
    assert not names.exists("nobody.tunfwd.internal")


async def test_a_rename_changes_the_name() -> None:
    daemon = Daemon()
    bob = daemon.befriend("bob")
    daemon.contacts.rename(bob, "robert")
    assert daemon.names.find("bob.tunfwd.internal") is None
    assert daemon.names.of(bob) == "robert.tunfwd.internal"
    group = join_foreign(daemon, "lan")
    player = daemon.join(group, 1, "player")
    daemon.contacts.rename_room(group, "club")
    assert daemon.names.of(player) == "player.club.tunfwd.internal"


async def test_nobody_takes_the_name_of_one_that_a_person_named() -> None:
    daemon = Daemon()
    stranger = daemon.befriend("bob!", given=False)
    assert daemon.names.of(stranger) == "bob.tunfwd.internal"
    bob = daemon.befriend("Bob")
    assert daemon.names.of(bob) == "bob.tunfwd.internal"
    assert daemon.names.of(stranger) == f"bob-{stranger.key[:4].lower()}.tunfwd.internal"


async def test_who_had_a_name_first_keeps_it() -> None:
    daemon = Daemon()
    group = join_foreign(daemon, "lan")
    first = daemon.join(group, 1, "Player!")
    assert daemon.names.of(first) == "player.lan.tunfwd.internal"
    second = daemon.join(group, 2, "player")  # who fits better, but came later
    assert daemon.names.of(first) == "player.lan.tunfwd.internal"
    assert daemon.names.of(second) == f"player-{second.key[:4].lower()}.lan.tunfwd.internal"
    daemon.join(group, 3, "self")
    own = OwnName(group.id, "player", None, first.address6)
    names = Names(daemon.peers, own=lambda: [own])
    mine = names.find("self.lan.tunfwd.internal")
    assert mine is not None
    assert mine.peer is None


async def test_names_without_a_letter_are_keys() -> None:
    daemon = Daemon()
    silent = daemon.befriend("🎮", given=False)
    assert daemon.names.of(silent) == f"{silent.key[:8].lower()}.tunfwd.internal"


async def test_groups_of_one_label() -> None:
    daemon = Daemon(
        known=[SimulatedGroup(key_of("a"), "LAN party"), SimulatedGroup(key_of("b"), "lan-party")]
    )
    players = [daemon.join(group, 1, "player") for group in daemon.groups]
    called = sorted(str(daemon.names.of(player)) for player in players)
    assert len(set(called)) == 2
    assert "player.lan-party.tunfwd.internal" in called


async def test_other_scripts_are_found_as_typed() -> None:
    daemon = Daemon()
    friend = daemon.befriend("Jürgen")
    assert daemon.names.of(friend) == "xn--jrgen-kva.tunfwd.internal"
    for typed in ("jürgen.tunfwd.internal", "JÜRGEN.Tunfwd.Internal.", "xn--jrgen-kva.tunfwd.internal"):
        found = daemon.names.find(typed)
        assert found is not None
        assert found.peer is friend
    assert daemon.names.find("x" * 5000) is None
