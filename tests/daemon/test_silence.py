"""What is said of a contact that toxcore has not given up yet, or whose connections wait for it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tunfwd.daemon import peers
from tunfwd.daemon.datapath import pings

from .living import Living, until
from .test_offer_commands import connected, running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "ASK", 0.02)
    monkeypatch.setattr(peers, "SILENT", 0.3)


def status_of(one: dict[str, Any]) -> Any:
    return one["contacts"][0]["silent_seconds"]


@pytest.mark.interpreted
async def test_a_contact_that_is_dead_is_silent_before_it_is_offline(
    impatient: None, alice: Living, bob: Living
) -> None:
    await running(alice, bob)
    peer = alice.datapath.peers.find("bob")
    for _ in range(20):  # at rest, it is asked, and answers
        await trio.sleep(0.02)
    assert status_of(await alice.call("status")) is None
    node: Any = bob.client._tox
    node.hear = node._tell = lambda *_: None  # nothing reaches it any more, nor comes of it
    await until(lambda: peer.silence(trio.current_time()) is not None)
    contact = (await alice.call("status"))["contacts"][0]
    assert (contact["link"], contact["silent_seconds"]) == ("direct", 0)
    assert (await alice.call("ports"))["ports"][0]["silent_seconds"] == 0


async def test_nobody_is_asked_who_is_not_relied_on(impatient: None, alice: Living, bob: Living) -> None:
    peer = alice.datapath.peers.find("bob")
    peer.heard = -1000.0
    assert peer.silence(trio.current_time()) is None


async def test_an_interruption_says_how_long_connections_wait(alice: Living, bob: Living) -> None:
    await connected(alice, await running(alice, bob))
    peer = alice.datapath.peers.find("bob")
    alice.contacts.contact_offline(peer.contact)
    [port] = (await alice.call("ports"))["ports"]
    assert port["interrupted_seconds"] == 0
    assert 55 <= port["kept_seconds"] <= 60
    contact = (await alice.call("status"))["contacts"][0]
    assert 55 <= contact["kept_seconds"] <= 60
