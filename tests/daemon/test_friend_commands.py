"""What the control socket does about friends, between whole daemons."""

from __future__ import annotations

from pathlib import Path

import trio

from tunfwd.daemon.contacts.tracker import AutoAccept

from ..tox.conftest import Person, running
from ..tox.simulated_toxcore import Network
from .living import Living, befriend, until


def names(listed: list[dict[str, object]], state: str) -> list[object]:
    return [one["name"] for one in listed if one["state"] == state]


async def test_a_friend_is_asked_for_and_accepted(alice: Living, network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        asked = (await alice.call("friend.add", address=bob.address.lower(), name="bobby"))["friend"]
        assert (asked["name"], asked["state"]) == ("bobby", "offline")
        await until(lambda: bob.client.friends.requests)
        [request] = (await bob.call("friend.list"))["friends"]
        key = alice.client.public_key.hex().upper()
        assert (request["state"], request["public_key"], request["address"]) == ("pending", key, None)
        assert request["message"] == "tunfwd of alice"
        accepted = (await bob.call("friend.accept", key=key[:6].lower()))["friend"]
        await alice.knows("bobby")
        await bob.knows("alice")  # by nickname
        assert asked["address"].startswith("10.77.")
        assert accepted["address6"].startswith("fd74:756e:6677:")
        assert names((await alice.call("friend.list"))["friends"], "online") == ["bobby"]
        [contact] = (await alice.call("status"))["contacts"]
        assert (contact["kind"], contact["via"], contact["link"]) == ("friend", "friend", "direct")


async def test_a_request_is_rejected_without_a_word(alice: Living, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "eve") as eve:
        await eve.call("friend.add", address=alice.address, message="it is me")
        await until(lambda: alice.client.friends.requests)
        key = eve.client.public_key.hex().upper()
        assert (await alice.call("friend.reject", key=key))["friend"]["message"] == "it is me"
        assert (await alice.call("friend.list"))["friends"] == []
        code, message = await alice.refusal("friend.accept", key=key[:8])
        assert code == "not_found"
        assert "asks to be a friend" in message
        assert names((await eve.call("friend.list"))["friends"], "offline") != []


async def test_addresses_that_cannot_be_asked(alice: Living, bob: Living, network: Network) -> None:
    mistyped = bob.address[:-1] + ("0" if bob.address[-1] != "0" else "1")
    unknown = "00" * 36 + "0000"
    assert await alice.refusal("friend.add", address=alice.address) == ("usage", "this is our own address")
    code, message = await alice.refusal("friend.add", address=bob.address)
    assert (code, "friend already" in message) == ("failed", True)
    assert (await alice.refusal("friend.add", address=mistyped))[0] == "usage"
    alice.refuse("TOX_ERR_FRIEND_ADD MALLOC")
    code, message = await alice.refusal("friend.add", address=unknown)
    assert (code, message) == ("failed", "toxcore: TOX_ERR_FRIEND_ADD_MALLOC")


async def test_no_name_is_given_twice(alice: Living, bob: Living, carol: Living, tmp_path: Path) -> None:
    """Nor one that others are meant by: rules and people go by names."""
    code, message = await alice.refusal("friend.rename", name="carol", to="BOB")
    assert (code, message) == ("failed", "there is a contact named 'BOB' already; choose another name")
    key = bob.client.public_key.hex()
    code, message = await alice.refusal("friend.rename", name="carol", to=key[:4])
    assert (code, "how another's public key begins" in message) == ("failed", True)
    async with Living.running(tmp_path, "eve") as eve:
        await eve.call("friend.add", address=alice.address)
        await until(lambda: alice.client.friends.requests)
        waiting = eve.client.public_key.hex()
        assert (await alice.refusal("friend.accept", key=waiting[:8], name="bob"))[0] == "failed"
        assert (await alice.refusal("friend.rename", name="carol", to=waiting[:4]))[0] == "failed"
        assert alice.client.friends.requests  # still
        assert (await alice.call("friend.accept", key=waiting[:8], name="eve"))["friend"]["name"] == "eve"


async def test_a_friend_is_called_by_another_name(alice: Living, bob: Living) -> None:
    renamed = (await alice.call("friend.rename", name="bob", to="robert"))["friend"]
    assert renamed["name"] == "robert"
    assert (await alice.refusal("ping", name="bob"))[0] == "not_found"
    assert (await alice.call("ping", name="robert"))["contact"] == "robert"
    bob.client.name = "bobby"
    await trio.sleep(0.05)
    assert (await alice.call("ping", name="robert"))["contact"] == "robert"


async def test_friendship_ends_with_all_that_stood(alice: Living, bob: Living) -> None:
    await alice.call("offer.add", protocol="tcp", port=80, to=["bob"])
    assert (await alice.call("friend.remove", name="bob"))["friend"]["name"] == "bob"
    assert (await alice.call("friend.list"))["friends"] == []
    assert (await alice.call("offer.list"))["offers"] == []
    await bob.knows("alice", "offline")
    assert (await alice.refusal("friend.remove", name="bob"))[0] == "not_found"


async def test_friends_and_names_outlive_the_daemon(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        async with Living.running(tmp_path, "alice") as alice:
            await befriend(alice, bob)
            before = (await alice.call("friend.list"))["friends"]
        await bob.knows("alice", "offline")
        async with Living.running(tmp_path, "alice") as alice:
            await alice.knows("bob")
            await bob.knows("alice")
            assert (await alice.call("friend.list"))["friends"] == before


async def test_whom_a_rule_accepts(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        accept = AutoAccept(friends=frozenset({bob.client.public_key}), groups=frozenset())
        async with Living.running(tmp_path, "alice", accept=accept) as alice:
            await bob.call("friend.add", address=alice.address)
            await alice.knows("bob")


async def test_an_unknown_method_and_parameters_that_do_not_fit(alice: Living) -> None:
    assert (await alice.refusal("friend.hug"))[0] == "usage"
    assert (await alice.refusal("friend.add", address="not one"))[0] == "usage"
    assert (await alice.refusal("friend.add", address=alice.address, nickname="x"))[0] == "usage"


async def test_a_friend_whose_program_is_another(alice: Living, tmp_path: Path) -> None:
    """It is online, and says nothing that we understand."""
    with Person(tmp_path, "paul") as paul:
        async with running(paul):
            await alice.call("friend.add", address=paul.address, name="paul")
            paul.friends.add_key(alice.client.public_key)
            await alice.knows("paul")
            code, message = await alice.refusal("ping", name="paul", timeout=0.05)
            assert (code, "has not said that it answers pings" in message) == ("timeout", True)
            [contact] = (await alice.call("status"))["contacts"]
            assert (contact["extended"], contact["features"]) == (False, [])
