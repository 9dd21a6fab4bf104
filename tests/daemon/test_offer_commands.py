"""What the control socket does about offers, between whole daemons, and what programs get of it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio

from tunfwd.forwarding.policy import Action, Rule
from tunfwd.wire.packets import Protocol

from ..tox.simulated_toxcore import Network
from .joined import Program
from .living import PATIENCE, Living, befriend, until


async def offered(to: Living, name: str, state: str = "pending") -> dict[str, Any]:
    """Return the offer of that name, once it has come to be in a state."""
    with trio.fail_after(PATIENCE):
        while True:
            for one in (await to.call("offer.list"))["offers"]:
                if (one["name"], one["state"]) == (name, state):
                    return dict(one)
            await trio.sleep(0.002)


async def running(alice: Living, bob: Living, port: int = 8080, **more: object) -> dict[str, Any]:
    """A service of bob's that alice has accepted; how alice sees it."""
    bob.serve(port)
    await bob.call("offer.add", protocol="tcp", port=port, to=["alice"], name=f"web {port}")
    await offered(alice, f"web {port}")
    mapping: dict[str, Any] = (await alice.call("offer.accept", offer=f"web {port}", **more))["mapping"]
    await offered(bob, f"web {port}", "running")
    return mapping


async def connected(alice: Living, mapping: dict[str, Any]) -> Program:
    address = ip_address(mapping["address"]).packed
    program = alice.kernel.connect(address, mapping["port"])
    await until(lambda: "Connected" in program.said)
    return program


async def test_what_is_offered_is_reached_where_it_was_accepted(alice: Living, bob: Living) -> None:
    mapping = await running(alice, bob, port=8080)
    assert (mapping["contact"], mapping["port"], mapping["direction"]) == ("bob", 8080, "server")
    client = await connected(alice, mapping)
    server = bob.kernel.accepted.pop()
    client.write(b"hello")
    await until(lambda: server.read == b"hello")
    server.write(b"hello yourself")
    await until(lambda: client.read == b"hello yourself")
    [port] = (await alice.call("ports"))["ports"]
    assert (port["connections"], port["tx_bytes"], port["rx_bytes"]) == (1, 5, 14)
    [port] = (await bob.call("ports"))["ports"]
    assert (port["connections"], port["tx_bytes"], port["rx_bytes"]) == (1, 14, 5)
    assert (port["sees"], port["target"]) == ("peer", "localhost:8080")
    status = await alice.call("status")
    assert (status["contacts"][0]["connections"], status["load"]["flows"]) == (1, 1)
    assert "link" in status["contacts"][0]["features"]


async def test_datagrams_are_answered(alice: Living, bob: Living) -> None:
    bob.serve(53, Protocol.UDP)
    await bob.call("offer.add", protocol="udp", port=53, to=["alice"], name="names")
    await offered(alice, "names")
    mapping = (await alice.call("offer.accept", offer="names", port=5353))["mapping"]
    assert (mapping["port"], mapping["state"]) == (5353, "accepted")
    await offered(bob, "names", "running")
    alice.kernel.send(4000, ip_address(mapping["address"]).packed, 5353, b"who is there?")
    await until(lambda: alice.kernel.datagrams)
    assert bytes(alice.kernel.datagrams[0].payload) == b"who is there?"


async def test_a_port_is_given_once(alice: Living, bob: Living) -> None:
    await running(alice, bob, port=8080)
    bob.serve(8081)
    await bob.call("offer.add", protocol="tcp", port=8081, to=["alice"], name="other")
    await offered(alice, "other")
    code, message = await alice.refusal("offer.accept", offer="other", port=8080)
    assert (code, message) == ("usage", "port 8080/tcp of bob is in use; choose another")
    assert (await alice.call("offer.accept", offer="other"))["mapping"]["port"] == 8081


async def test_what_is_withdrawn_is_gone(alice: Living, bob: Living) -> None:
    client = await connected(alice, await running(alice, bob))
    [killed] = (await bob.call("kill", id="8080/tcp"))["killed"]
    assert (killed["name"], killed["contact"], killed["how"]) == ("web 8080", "alice", "withdrawn")
    assert (await bob.call("offer.list"))["offers"] == []
    await until(lambda: client.over)
    assert "Aborted" in client.said
    await until(lambda: not alice.datapath.peers.find("bob").session.mappings)
    result = await alice.call("offer.list")
    assert (result["offers"], result["refused"], (await alice.call("ports"))["ports"]) == ([], [], [])
    code, message = await alice.refusal("kill", id="web")
    assert (code, message) == ("not_found", "no offer or mapping 'web'; see `tunfwd offers`")


@pytest.mark.parametrize("word", ["leave", "kill"])
async def test_what_is_left_stays_on_offer_whatever_rules_say(
    network: Network, tmp_path: Path, word: str
) -> None:
    """Who uses a service ends that, and takes it up again: nothing of it is for who offers it to do."""
    rules = (Rule(Action.ACCEPT),)
    async with Living.running(tmp_path, "bob") as bob:
        async with Living.running(tmp_path, "alice", rules) as alice:
            await befriend(alice, bob)
            bob.serve(80)
            await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
            before = await offered(alice, "web", "running")
            client = await connected(alice, (await alice.call("ports"))["ports"][0])
            [left] = (await alice.call(word, id="web"))["killed"]
            assert (left["id"], left["how"]) == (before["id"], "left")
            await until(lambda: client.over)
            assert (await alice.call("offer.list"))["refused"][0]["state"] == "left"
            again = await offered(alice, "web")  # by the offerer, as soon as it has heard
            assert (again["id"], again["left"]) == (before["id"], True)
        async with Living.running(tmp_path, "alice", rules) as alice:
            again = await offered(alice, "web")
            assert (again["id"], again["left"]) == (before["id"], True)
            await alice.call("offer.accept", offer=before["id"])
            assert not (await offered(alice, "web", "running"))["left"]
            await connected(alice, (await alice.call("ports"))["ports"][0])
        async with Living.running(tmp_path, "alice") as alice:
            await offered(alice, "web", "running")


async def test_what_is_declined_stays_so_until_the_person_changes_their_mind(
    network: Network, tmp_path: Path
) -> None:
    async with Living.running(tmp_path, "bob") as bob:
        async with Living.running(tmp_path, "alice") as alice:
            await befriend(alice, bob)
            await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
            before = await offered(alice, "web")
            await alice.call("offer.deny", offer="web")
            await offered(bob, "web", "declined")
        async with Living.running(tmp_path, "alice", (Rule(Action.ACCEPT),)) as alice:
            await offered(bob, "web", "declined")  # offered again to the new run, and declined
            result = await alice.call("offer.list")
            assert result["offers"] == []
            [declined] = result["refused"]
            assert (declined["id"], declined["state"]) == (before["id"], "declined")
            await alice.call("offer.accept", offer="web")
            assert (await alice.call("offer.list"))["refused"] == []
            await offered(alice, "web", "running")
            assert (await offered(bob, "web", "running"))["id"] == before["id"]


async def test_a_change_of_mind_waits_for_who_is_away(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        async with Living.running(tmp_path, "bob") as bob:
            await befriend(alice, bob)
            await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
            await offered(alice, "web")
            await alice.call("offer.deny", offer="web")
            await offered(bob, "web", "declined")
        await alice.knows("bob", "offline")
        assert (await alice.call("offer.accept", offer="web"))["mapping"]["state"] == "waiting"
        async with Living.running(tmp_path, "bob") as bob:
            await offered(alice, "web", "running")


async def test_who_accepts_does_not_allow(alice: Living, bob: Living) -> None:
    """What a contact calls its request is its choice: that is not to open something of ours."""
    await bob.call("request", protocol="tcp", port=22, contact="alice", name="web")
    await offered(alice, "web")
    code, message = await alice.refusal("offer.accept", offer="web", direction="server")
    assert code == "denied"
    assert message == "bob asks to reach localhost:22 here: `tunfwd allow web --from bob`"
    await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
    await until(lambda: len(alice.datapath.peers.find("bob").session.mappings) == 2)
    taken = (await alice.call("offer.accept", offer="web", direction="server"))["mapping"]
    assert (taken["port"], taken["direction"]) == (80, "server")
    allowed = (await alice.call("offer.accept", offer="22/tcp", direction="connection"))["mapping"]
    assert (allowed["target"], allowed["direction"]) == ("localhost:22", "connection")
    [killed] = (await alice.call("kill", id="22/tcp"))["killed"]
    assert killed["how"] == "declined"  # not asked again
    await offered(bob, "web", "declined")


async def test_who_offers_is_told_that_it_is_denied(alice: Living, bob: Living) -> None:
    await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
    entry = await offered(alice, "web")
    [denied] = (await alice.call("offer.deny", offer=entry["id"][:6]))["offers"]
    assert (denied["state"], denied["id"]) == ("denied", entry["id"])
    await offered(bob, "web", "declined")
    code, message = await alice.refusal("offer.deny", offer="web")
    assert (code, message) == ("not_found", "no offer 'web'; `tunfwd offers` lists them")
    code, message = await bob.refusal("leave", id="web")
    assert (code, message.endswith("`tunfwd kill web`")) == ("failed", True)


async def test_only_what_is_pending_is_decided_on(alice: Living, bob: Living) -> None:
    await running(alice, bob)
    code, message = await alice.refusal("offer.accept", offer="8080")
    assert (code, message.startswith("nothing to accept: ")) == ("failed", True)
    code, message = await alice.refusal("offer.deny", offer="8080")
    assert message.endswith("`tunfwd leave 8080` ends it")


async def test_names_that_several_offers_have(alice: Living, bob: Living, carol: Living) -> None:
    for daemon in (bob, carol):
        await daemon.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
    await until(lambda: len([m for p in alice.datapath.peers for m in p.session.mappings]) == 2)
    for method in ("offer.accept", "offer.deny"):
        code, message = await alice.refusal(method, offer="web")
        assert (code, "(bob)" in message, "(carol)" in message) == ("ambiguous", True, True)
    assert (await alice.refusal("kill", id="web"))[0] == "ambiguous"  # they are others'
    accepted = (await alice.call("offer.accept", offer="web", contact="carol"))["mapping"]
    assert accepted["contact"] == "carol"
    assert (await alice.call("kill", id="web", contact="bob"))["killed"][0]["contact"] == "bob"


async def test_our_own_offer_to_several_is_killed_for_all(alice: Living, bob: Living, carol: Living) -> None:
    made = (await alice.call("offer.add", protocol="tcp", port=80, to=["bob", "carol"], name="web"))["offers"]
    assert [one["contact"] for one in made] == ["bob", "carol"]
    await offered(bob, "web")
    await offered(carol, "web")
    await alice.call("offer.add", protocol="tcp", port=81, to=["bob"], name="web")
    assert (await alice.refusal("kill", id="web"))[0] == "ambiguous"  # two services
    killed = (await alice.call("kill", id="80"))["killed"]
    assert sorted(one["contact"] for one in killed) == ["bob", "carol"]
    await until(lambda: not carol.datapath.peers.find("alice").session.mappings)


async def test_nothing_is_offered_where_one_of_several_is_nobody(alice: Living, bob: Living) -> None:
    code, _ = await alice.refusal("offer.add", protocol="tcp", port=80, to=["bob", "nobody"])
    assert (code, (await alice.call("offer.list"))["offers"]) == ("not_found", [])
    await alice.call("offer.add", protocol="tcp", port=80, to=["bob"])
    assert (await alice.refusal("offer.add", protocol="tcp", port=80, to=["bob"]))[0] == "failed"


async def test_a_port_is_asked_for_and_led_somewhere(alice: Living, bob: Living) -> None:
    asked = await alice.call("request", protocol="tcp", port=22, contact="bob", local_port=2222, name="ssh")
    assert asked["offers"][0]["direction"] == "connection"
    await offered(bob, "ssh")
    code, message = await bob.refusal("offer.accept", offer="ssh", port=1)
    assert (code, message) == ("usage", "--port is for what a contact offers to us")
    led = (await bob.call("offer.accept", offer="ssh", target="127.0.0.1:8022"))["mapping"]
    assert (led["target"], led["sees"], led["direction"]) == ("127.0.0.1:8022", "host", "connection")
    await offered(alice, "ssh", "running")
    [port] = (await alice.call("ports"))["ports"]
    assert (port["port"], port["contact"]) == (2222, "bob")
    await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
    await offered(alice, "web")
    code, message = await alice.refusal("offer.accept", offer="web", target="127.0.0.1:1")
    assert (code, message) == ("usage", "--target is for what a contact asks to reach here")


async def test_a_service_that_is_not_there_is_trouble(alice: Living, bob: Living) -> None:
    """For whoever offers it, at once; for whoever uses it, once it was tried."""
    offer = (await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web"))["offers"][0]
    assert (offer["sees"], offer["trouble"]) == (None, "nothing listens")
    await offered(alice, "web")
    mapping = (await alice.call("offer.accept", offer="web"))["mapping"]
    await offered(bob, "web", "running")
    program = alice.kernel.connect(ip_address(mapping["address"]).packed, 80)
    await until(lambda: "ConnectFailed" in program.said)
    [port] = (await alice.call("ports"))["ports"]
    assert "refused 1 x" in port["trouble"]
    checks = (await alice.call("doctor"))["checks"]
    [service] = [check for check in checks if check["name"] == "service"]
    assert (service["level"], "of bob: refused 1 x" in service["detail"]) == ("warning", True)
    [service] = [check for check in (await bob.call("doctor"))["checks"] if check["name"] == "service"]
    assert "for alice: nothing listens" in service["detail"]


async def test_what_a_rule_accepts_needs_nobody(network: Network, tmp_path: Path) -> None:
    rules = (Rule(Action.ACCEPT),)
    async with Living.running(tmp_path, "alice", rules) as alice, Living.running(tmp_path, "bob") as bob:
        await befriend(alice, bob)
        bob.serve(80)
        await bob.call("offer.add", protocol="tcp", port=80, to=["alice"], name="web")
        await offered(alice, "web", "running")


async def test_what_stands_outlives_both_daemons(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice, Living.running(tmp_path, "bob") as bob:
        await befriend(alice, bob)
        before = await running(alice, bob, port=8080)
    async with Living.running(tmp_path, "alice") as alice, Living.running(tmp_path, "bob") as bob:
        bob.serve(8080)
        after = await offered(alice, "web 8080", "running")
        assert after["contact"] == "bob"
        [mapping] = (await alice.call("ports"))["ports"]
        assert (mapping["address"], mapping["port"]) == (before["address"], 8080)
        await connected(alice, mapping)


async def test_an_offer_waits_for_who_is_away(network: Network, tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        async with Living.running(tmp_path, "bob") as bob:
            await befriend(alice, bob)
        await alice.knows("bob", "offline")
        offer = (await alice.call("offer.add", protocol="tcp", port=80, to=["bob"], name="web"))["offers"][0]
        assert offer["state"] == "waiting"
        assert (await alice.refusal("ping", name="bob")) == ("offline", "bob is offline")
        async with Living.running(tmp_path, "bob") as bob:
            await offered(bob, "web")
