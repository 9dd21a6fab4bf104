"""What a person changes of offers that stand, and who is connected, between whole daemons."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ..tox.simulated_toxcore import Network
from .living import Living, befriend, until
from .test_offer_commands import connected, offered, running


async def refused(alice: Living, mapping: dict[str, Any]) -> None:
    program = alice.kernel.connect(ip_address(mapping["address"]).packed, mapping["port"])
    await until(lambda: "ConnectFailed" in program.said)


async def test_a_paused_offer_refuses_and_stays_accepted(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        async with Living.running(tmp_path, "bob") as bob:
            await befriend(alice, bob)
            mapping = await running(alice, bob)
            client = await connected(alice, mapping)
            [paused] = (await bob.call("offer.pause", id="web 8080"))["offers"]
            assert (paused["paused"], paused["state"]) == (True, "running")
            await until(lambda: client.over)
            await refused(alice, mapping)
        async with Living.running(tmp_path, "bob") as bob:
            bob.serve(8080)
            await offered(alice, "web 8080", "running")
            await refused(alice, mapping)
            [port] = (await bob.call("ports"))["ports"]
            assert (port["paused"], port["trouble"]) == (True, None)
            [resumed] = (await bob.call("offer.resume", id="web 8080"))["offers"]
            assert not resumed["paused"]
            await connected(alice, mapping)


async def test_what_leads_elsewhere_keeps_what_stands(alice: Living, bob: Living) -> None:
    client = await connected(alice, await running(alice, bob))
    changed = await bob.call("offer.change", id="web 8080", target="127.0.0.1:9", name="new web")
    [offer] = changed["offers"]
    assert (offer["target"], offer["name"], offer["sees"]) == ("127.0.0.1:9", "new web", "host")
    await offered(bob, "new web", "running")  # told by its new name, and accepted at once
    client.write(b"still here")
    server = bob.kernel.accepted.pop()
    await until(lambda: server.read == b"still here")
    [offer] = (await bob.call("offer.change", id="new web", here=True))["offers"]
    assert (offer["target"], offer["sees"]) == ("localhost:8080", "peer")
    code, message = await bob.refusal("offer.change", id="new web", target="127.0.0.1:9", source="peer")
    assert (code, "sees this machine" in message) == ("usage", True)


async def test_another_port_is_another_offer(alice: Living, bob: Living) -> None:
    await running(alice, bob)
    bob.serve(9090)
    [offer] = (await bob.call("offer.change", id="web 8080", port=9090))["offers"]
    assert (offer["port"], offer["name"], offer["target"]) == (9090, "web 8080", "localhost:9090")
    assert [one["port"] for one in (await bob.call("offer.list"))["offers"]] == [9090]
    assert (await offered(alice, "web 8080"))["port"] == 9090


async def test_what_is_not_ours_is_not_changed(alice: Living, bob: Living) -> None:
    await running(alice, bob)
    for method in ("offer.pause", "offer.resume", "offer.change"):
        code, message = await alice.refusal(method, id="web 8080")
        assert (code, message) == ("not_found", "no offer of ours 'web 8080'; see `tunfwd offers`")


async def test_a_rooms_offer_is_changed_for_all_in_it(alice: Living, bob: Living) -> None:
    await alice.call("group.create", name="lan")
    await alice.call("group.invite", group="lan", friend="bob")
    await until(lambda: bob.client.groups.invitations)
    await bob.call("group.join", group="alice")
    alice.serve(80)
    await alice.call("offer.add", protocol="tcp", port=80, to=["group:lan"], name="web")
    await offered(bob, "web")
    mapping = (await bob.call("offer.accept", offer="web"))["mapping"]
    await offered(bob, "web", "running")
    await connected(bob, mapping)
    assert (await alice.call("offer.pause", id="web"))["offers"][0]["contact"] == "group:lan"
    await refused(bob, mapping)
    await alice.call("offer.resume", id="web")
    await connected(bob, mapping)
    code, message = await alice.refusal("offer.pause", id="web", contact="group:lan/bob")
    assert (code, "a whole room" in message) == ("usage", True)


@pytest.mark.parametrize("method", ["offer.add", "share"])
async def test_a_service_elsewhere_cannot_see_the_peer(alice: Living, bob: Living, method: str) -> None:
    to = {"to": ["bob"]} if method == "offer.add" else {}
    code, message = await alice.refusal(method, ports=["80/tcp"], target="db:5432", source="peer", **to)
    assert code == "usage"
    assert "what is reached at db:5432 sees this machine" in message


async def test_who_is_connected(alice: Living, bob: Living, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tunfwd")
    mapping = await running(alice, bob)
    client = await connected(alice, mapping)
    server = bob.kernel.accepted.pop()
    client.write(b"hello")
    await until(lambda: server.read == b"hello")
    server.write(b"hello you")
    await until(lambda: client.read == b"hello you")
    [out] = (await alice.call("connections"))["connections"]
    assert (out["contact"], out["direction"], out["state"], out["name"]) == ("bob", "out", "open", "web 8080")
    assert out["target"] == f"{mapping['address']}:8080"
    assert out["source"].startswith("10.77.0.1:")
    assert (out["tx_bytes"], out["rx_bytes"], out["id"]) == (5, 9, mapping["id"])
    [into] = (await bob.call("connections"))["connections"]
    assert (into["contact"], into["direction"], into["target"]) == ("alice", "in", "localhost:8080")
    assert (into["tx_bytes"], into["rx_bytes"]) == (9, 5)
    await bob.call("kill", id="web 8080")
    await until(lambda: client.over)
    assert (await alice.call("connections"))["connections"] == []
    said = [record.getMessage() for record in caplog.records]
    assert "connected: alice to localhost:8080 (web 8080)" in said
    assert "connected: from here to 8080/tcp of bob (web 8080)" in said
    ends = [line for line in said if line.startswith("ended, ")]
    assert any(
        "alice to localhost:8080" in line and "9 bytes to the contact, 5 from it" in line for line in ends
    )
    assert any('accepted: 8080/tcp "web 8080" from bob' in line for line in said)
    assert any('withdrawn: 8080/tcp "web 8080", alice' in line for line in said)


async def test_a_connection_that_fails_is_said(
    alice: Living, bob: Living, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tunfwd")
    await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
    await offered(alice, "web")
    await refused(alice, (await alice.call("offer.accept", offer="web"))["mapping"])
    said = [record.getMessage() for record in caplog.records]
    assert "not connected: from here to 80/tcp of bob (web): refused" in said
    assert "not connected: alice to localhost:80 (web): refused" in said


async def test_a_friend_that_is_removed_hears_what_ends(alice: Living, bob: Living) -> None:
    """It is told as of anything that is withdrawn: it would wait for ever for who does not come back."""
    client = await connected(alice, await running(alice, bob))
    await alice.call("offer.add", protocol="tcp", port=81, to=["bob"], name="mine")
    await offered(bob, "mine")
    removed = await alice.call("friend.remove", name="bob")
    assert sorted(one["name"] for one in removed["ended"]) == ["mine", "web 8080"]
    await until(lambda: client.over)
    await until(lambda: [m.name for m in bob.datapath.peers.find("alice").session.mappings] == ["web 8080"])
    assert [(m.name, m.accepted) for m in bob.datapath.peers.find("alice").session.mappings] == [
        ("web 8080", False)
    ]


async def test_joining_again_with_the_right_password(alice: Living, bob: Living) -> None:
    """While nobody has said yet that the first was wrong, too."""
    group = (await alice.call("group.create", name="vault", public=False))["group"]["id"]
    await bob.call("group.join", group=group, name="vault")
    code, message = await bob.refusal("group.join", group=group)
    assert (code, message.startswith("we are joining group:vault: none of its members")) == ("failed", True)
    assert (await bob.call("group.join", group=group, password="right"))["group"]["state"] == "connecting"
    assert len((await bob.call("group.list"))["groups"]) == 1
    assert (await bob.call("group.list"))["groups"][0]["name"] == "vault"
