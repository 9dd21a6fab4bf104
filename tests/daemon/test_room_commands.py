"""What the control socket does about groups and conferences, between whole daemons."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio

from tunfwd.daemon.contacts.tracker import AutoAccept
from tunfwd.forwarding.flow import Mapping
from tunfwd.tox.contacts import UDP, Invitation
from tunfwd.tox.rooms import RoomList

from ..tox.simulated_toxcore import Network
from .living import PATIENCE, Living, befriend, until


def mappings(daemon: Living) -> list[Mapping]:
    """All that stands between a daemon and its contacts."""
    return [mapping for peer in daemon.datapath.peers for mapping in peer.session.mappings]


def free(daemon: Living) -> bool:
    return not mappings(daemon)


def invitations(daemon: Living, kind: str) -> list[Invitation]:
    known: RoomList[Any] = getattr(daemon.client, f"{kind}s")
    return known.invitations


KINDS = pytest.mark.parametrize("kind", ["group", "conference"])


async def listed(
    daemon: Living, kind: str, name: str, state: str = "online", members: int | None = None
) -> Any:
    """Return a room, once it is so."""
    with trio.fail_after(PATIENCE):
        while True:
            for one in (await daemon.call(f"{kind}.list"))["groups"]:
                if (one["name"], one["state"]) == (name, state) and members in (None, one["members"]):
                    return dict(one)
            await trio.sleep(0.002)


async def gather(kind: str, host: Living, *guests: Living, name: str = "lan") -> None:
    """Have the host create a room, and the guests accept the invitation."""
    await host.call(f"{kind}.create", name=name)
    for number, guest in enumerate(guests, 1):
        await host.call(f"{kind}.invite", group=name, friend=guest.name)
        await until(partial(invitations, guest, kind))
        [invitation] = [
            one for one in (await guest.call(f"{kind}.list"))["groups"] if one["state"] == "invited"
        ]
        assert invitation["inviter"] == host.name
        await guest.call(f"{kind}.join", group=host.name)
        await listed(guest, kind, name, members=number)
    for daemon in (host, *guests):
        await listed(daemon, kind, name, members=len(guests))


@KINDS
async def test_friends_are_invited(alice: Living, bob: Living, carol: Living, kind: str) -> None:
    await gather(kind, alice, bob, carol)
    peers = (await bob.call(f"{kind}.peers", group="lan"))["peers"]
    assert sorted(one["name"] for one in peers) == ["alice", "carol"]
    reachable = {one["name"]: one["reachable"] for one in peers}
    assert reachable == {"alice": True, "carol": kind == "group"}  # bob and carol are no friends
    [carol_there] = [one for one in peers if one["name"] == "carol"]
    assert (carol_there["advice"] is None) == (kind == "group")
    assert (carol_there["address"] is None) == (kind == "conference")
    rooms = (await carol.call("status"))["groups"]
    assert [(one["kind"], one["name"], one["members"]) for one in rooms] == [(kind, "lan", 2)]


@KINDS
async def test_what_is_offered_to_a_room_is_offered_to_all_in_it(
    alice: Living, bob: Living, carol: Living, kind: str
) -> None:
    await gather(kind, alice, bob)
    alice.serve(27015)
    service: dict[str, Any] = {"protocol": "tcp", "port": 27015, "to": [f"{kind}:lan"], "name": "cs"}
    [made] = (await alice.call("offer.add", **service))["offers"]
    assert (made["contact"], made["state"]) == (f"{kind}:lan", "offered")
    await alice.call(f"{kind}.invite", group="lan", friend="carol")  # who comes later is offered it, too
    await until(partial(invitations, carol, kind))
    await carol.call(f"{kind}.join", group="alice")
    for guest in (bob, carol):
        await until(partial(mappings, guest))
        offers = (await guest.call("offer.list"))["offers"]
        assert [(one["name"], one["state"]) for one in offers] == [("cs", "pending")]
        mapping = (await guest.call("offer.accept", offer="cs"))["mapping"]
        assert mapping["contact"] == ("group:lan/alice" if kind == "group" else "alice")
        program = guest.kernel.connect(ip_address(mapping["address"]).packed, 27015)
        await until(partial(program.said.count, "Connected"))
    to_all, *parts = (await alice.call("offer.list"))["offers"]
    assert (to_all["members"], to_all["taken"]) == (2, 2)
    assert [one["room_offer"] for one in parts] == [to_all["id"]] * 2
    code, message = await alice.refusal("offer.add", **service)
    assert (code, "27015/tcp" in message) == ("failed", True)
    [killed] = (await alice.call("kill", id="cs"))["killed"]
    assert killed["contact"] == f"{kind}:lan"
    for guest in (bob, carol):
        await until(partial(free, guest))


async def test_a_banned_member_stays_out_with_what_was_agreed(
    alice: Living, bob: Living, carol: Living
) -> None:
    """By its key, which it keeps: a kicked one is back in a moment, with its acceptance."""
    await gather("group", alice, bob, carol)
    alice.serve(80)
    await alice.call("offer.add", protocol="tcp", port=80, to=["group:lan"], name="web")
    await until(partial(mappings, bob))
    await bob.call("offer.accept", offer="web")
    [group] = alice.client.groups
    [member] = [one for one in group.members.values() if one.nickname == "bob"]
    roles = [(await one.call("group.peers", group="lan"))["self"]["role"] for one in (alice, bob)]
    assert roles == ["founder", "user"]
    banned = (await alice.call("group.ban", group="lan", member="bob"))["banned"]
    assert [(one["name"], one["public_key"]) for one in banned] == [("bob", member.key.hex().upper())]
    assert [one["name"] for one in (await alice.call("group.peers", group="lan"))["peers"]] == ["carol"]
    alice.client.groups.remember(group, member.key, "bob")
    member.connection = UDP
    alice.contacts.contact_online(member)  # it is back, with the key that it had
    alice.contacts.iterated()
    assert [one["name"] for one in (await alice.call("group.peers", group="lan"))["peers"]] == ["carol"]
    assert (await alice.call("group.banned", group="lan"))["banned"] == banned
    assert await alice.refusal("group.unban", group="lan", member="carol") == (
        "not_found",
        "'carol' is not banned; see `tunfwd group banned`",
    )
    await alice.call("group.unban", group="lan", member="bob")
    assert (await alice.call("group.banned", group="lan"))["banned"] == []


@KINDS
async def test_an_invitation_is_declined(alice: Living, bob: Living, kind: str) -> None:
    await alice.call(f"{kind}.create", name="lan")
    await alice.call(f"{kind}.invite", group="lan", friend="bob")
    await until(partial(invitations, bob, kind))
    assert (await bob.call(f"{kind}.leave", group="alice"))["group"]["state"] == "invited"
    assert (await bob.call(f"{kind}.list"))["groups"] == []
    code, message = await bob.refusal(f"{kind}.join", group="alice")
    assert (code, message.startswith("no invitation 'alice'")) == ("not_found", True)


@KINDS
async def test_who_cannot_be_invited(alice: Living, bob: Living, kind: str) -> None:
    await alice.call(f"{kind}.create", name="lan")
    code, message = await alice.refusal(f"{kind}.invite", group="wan", friend="bob")
    assert (code, message) == ("not_found", f"no {kind} 'wan'; `tunfwd {kind} list` lists them")
    assert (await alice.refusal(f"{kind}.invite", group="lan", friend="eve"))[0] == "not_found"
    alice.refuse(f"TOX_ERR_{kind.upper()}_INVITE{'_FRIEND' * (kind == 'group')} FAIL_SEND")
    code, message = await alice.refusal(f"{kind}.invite", group="lan", friend="bob")
    assert (code, message.startswith("bob cannot be invited: TOX_ERR_")) == ("failed", True)


async def test_members_are_not_invited_and_friends_only_while_they_are_there(
    alice: Living, network: Network, tmp_path: Path
) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        await befriend(alice, bob)
        await gather("group", alice, bob)
        code, message = await bob.refusal("group.invite", group="lan", friend="group:lan/alice")
        assert (code, "only friends can be invited" in message) == ("usage", True)
    await alice.knows("bob", "offline")
    assert await alice.refusal("group.invite", group="lan", friend="bob") == ("offline", "bob is offline")


@KINDS
async def test_what_toxcore_cannot_create(alice: Living, kind: str) -> None:
    alice.refuse(f"TOX_ERR_{kind.upper()}_NEW INIT")
    code, message = await alice.refusal(f"{kind}.create", name="lan")
    assert (code, message.endswith(f": TOX_ERR_{kind.upper()}_NEW_INIT")) == ("failed", True)
    assert (await alice.call(f"{kind}.list"))["groups"] == []


@KINDS
async def test_two_rooms_of_one_name(alice: Living, kind: str) -> None:
    """The second gets a suffix; a name that a person gave is not given again."""
    first = (await alice.call(f"{kind}.create", name="lan"))["group"]
    second = (await alice.call(f"{kind}.create", name="lan"))["group"]
    assert (first["name"], second["name"]) == ("lan", f"lan-{second['id'][:4].lower()}")
    found = (await alice.call(f"{kind}.peers", group=second["id"][:8]))["group"]
    assert found["id"] == second["id"]


async def test_a_group_is_called_by_another_name(alice: Living, bob: Living) -> None:
    await gather("group", alice, bob)
    assert (await bob.call("group.rename", group="lan", to="party"))["group"]["name"] == "party"
    contacts = (await bob.call("status"))["contacts"]
    assert [one["via"] for one in contacts if one["kind"] == "group"] == ["group:party"]
    await bob.call("group.create", name="own")
    code, message = await bob.refusal("group.rename", group="own", to="PARTY")
    assert (code, "group:party" in message) == ("failed", True)


async def test_a_public_group_is_joined_by_its_id(alice: Living, bob: Living) -> None:
    made = (await alice.call("group.create", name="open", public=True, password="sesame"))["group"]
    assert made["public"]
    assert (await bob.refusal("group.join", group="open"))[0] == "not_found"
    assert (await alice.refusal("group.join", group=made["id"])) == ("failed", "we are in group:open already")
    await bob.call("group.join", group=made["id"], password="wrong")
    lost = await listed(bob, "group", "open", "lost")
    assert lost["reason"] == "wrong password"
    await bob.call("group.join", group="open", password="sesame", name="house")
    await listed(bob, "group", "house", members=1)
    code, _ = await bob.refusal("group.join", group="house")
    assert code == "failed"
    await bob.call("group.create", name="mine")
    assert (await bob.refusal("group.join", group="AB" * 32, name="mine"))[0] == "failed"
    bob.refuse("TOX_ERR_GROUP_JOIN CORE")
    code, message = await bob.refusal("group.join", group="AB" * 32)
    assert (code, message.endswith(": TOX_ERR_GROUP_JOIN_CORE")) == ("failed", True)


async def test_a_founder_kicks(alice: Living, bob: Living, carol: Living) -> None:
    """Whoever is kicked may come back, as who they were where something stands between them and us."""
    await gather("group", alice, bob, carol)
    await alice.call("offer.add", protocol="tcp", port=80, to=["group:lan/bob"], name="web")
    await until(lambda: mappings(bob))
    await bob.call("offer.accept", offer="web")
    await until(lambda: any(mapping.accepted for mapping in mappings(alice)))
    code, message = await carol.refusal("group.kick", group="lan", member="bob")
    assert (code, "TOX_ERR_GROUP_KICK_PEER_PERMISSIONS" in message) == ("denied", True)
    before = await virtual_addresses(alice)
    await alice.call("group.kick", group="lan", member="carol")
    await listed(alice, "group", "lan", members=1)
    await alice.call("group.kick", group="lan", member="bob")
    assert (await listed(bob, "group", "lan", "lost"))["reason"] == "kicked by alice"
    code, message = await alice.refusal("group.kick", group="lan", member="bob")
    assert (code, message) == ("offline", "group:lan/bob is not there")
    await bob.call("group.join", group="lan")
    await listed(bob, "group", "lan", members=1)
    await listed(alice, "group", "lan", members=1)
    assert (await virtual_addresses(alice))["bob"] == before["bob"]


async def virtual_addresses(daemon: Living) -> dict[str, str]:
    """Where a daemon has the members of a group."""
    return {one["name"]: one["address"] for one in (await daemon.call("group.peers", group="lan"))["peers"]}


@KINDS
async def test_leaving_takes_what_was_offered_there(alice: Living, bob: Living, kind: str) -> None:
    await gather(kind, alice, bob)
    alice.serve(80)
    await alice.call("offer.add", protocol="tcp", port=80, to=[f"{kind}:lan"], name="web")
    await until(lambda: mappings(bob))
    await alice.call(f"{kind}.leave", group="lan")
    await until(lambda: not alice.rooms.offers)
    assert (await alice.call(f"{kind}.list"))["groups"] == []
    await until(lambda: not mappings(bob))
    await listed(bob, kind, "lan", members=0)


@KINDS
async def test_a_room_is_known_again_after_a_restart(network: Network, tmp_path: Path, kind: str) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        async with Living.running(tmp_path, "bob") as bob:
            await befriend(alice, bob)
            await gather(kind, alice, bob)
            await alice.call("offer.add", protocol="udp", port=53, to=[f"{kind}:lan"], name="names")
        await listed(alice, kind, "lan", members=0)
        async with Living.running(tmp_path, "bob") as bob:
            await listed(bob, kind, "lan", members=1)
            await until(lambda: mappings(bob))


@KINDS
async def test_invitations_of_some_are_accepted_by_rule(network: Network, tmp_path: Path, kind: str) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        accept = AutoAccept(friends=frozenset(), groups=frozenset({bob.client.public_key}))
        async with Living.running(tmp_path, "alice", accept=accept) as alice:
            await befriend(alice, bob)
            await bob.call(f"{kind}.create", name="lan")
            await bob.call(f"{kind}.invite", group="lan", friend="alice")
            await listed(alice, kind, "lan", members=1)


async def test_an_invitation_that_several_rooms_answer_to(alice: Living, bob: Living) -> None:
    for name in ("one", "two"):
        await alice.call("group.create", name=name)
        await alice.call("group.invite", group=name, friend="bob")
    await until(lambda: len(bob.client.groups.invitations) == 2)
    code, message = await bob.refusal("group.join", group="alice")
    assert (code, message) == ("ambiguous", "'alice' may be any of 2 invitations; give an id")
    joined = (await bob.call("group.join", group="two"))["group"]
    assert joined["name"] == "two"
    left = [one["id"] for one in (await bob.call("group.list"))["groups"] if one["state"] == "invited"]
    assert (await bob.call("group.leave", group=left[0][:8]))["group"]["name"] == "one"
