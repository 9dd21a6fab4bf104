"""A private group by invitation, and a conference: ben and cat know ann, and not each other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netns.node import Node, befriend, wait_online
from netns.topology import Topology
from tunfwd.common.errors import UserError
from tunfwd.control import api

from .conftest import CONFIG, ask
from .hosts import UdpEcho, eventually, folder_of_daemons
from .lan import group, kill, member, offer, ports_of, use_udp, wait_gone, wait_running, wait_together
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(600)]

PORT = 7100
RULE = {"contact": "ann", "ports": "7000-7999", "action": "accept"}

Three = tuple[Node, Node, Node]


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    with (
        folder_of_daemons() as folder,
        Topology(["ann", "ben", "cat", "hub"]) as net,
        ToxNode(net["hub"], folder / "hub.tox") as hub,
    ):
        nodes = []
        for name in ("ann", "ben", "cat"):
            (folder / name).mkdir()
            tox = {"nickname": name, "bootstrap": [hub.bootstrap]}
            nodes.append(Node(net[name], folder / name, {"tox": tox, "rule": [RULE], **CONFIG}))
        ann, ben, cat = nodes
        with ann, ben, cat:
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(befriend, other, ann) for other in (ben, cat)]:
                    done.result()
            yield ann, ben, cat
            for node in nodes:
                assert "Traceback" not in node.log, node.log


def conference(node: Node) -> dict[str, object]:
    [line] = ask(node, api.CONFERENCE_LIST)["groups"]
    return dict(line)


def seen_in(node: Node) -> dict[str, dict[str, object]]:
    return {line["name"]: dict(line) for line in ask(node, api.CONFERENCE_PEERS, group="table")["peers"]}


def test_conference(three: Three) -> None:
    """ben and cat reach ann, their friend, and are told how they would reach each other."""
    ann, ben, cat = three
    ask(ann, api.CONFERENCE_CREATE, name="table")
    offer(ann, "udp", PORT, to="conference:table", name="dice")  # to nobody yet
    for node in (ben, cat):
        ask(ann, api.CONFERENCE_INVITE, group="table", friend=node.name)
        eventually(lambda node=node: ask(node, api.CONFERENCE_LIST)["groups"], "the invitation is there")  # type: ignore[misc]
        line = conference(node)
        assert (line["state"], line["inviter"]) == ("invited", "ann")
        assert not ports_of(node, "ann")
        ask(node, api.CONFERENCE_JOIN, group="ann")
        wait_running(node, "ann", "dice")
    for node, other in ((ben, cat), (cat, ben)):
        eventually(lambda node=node: len(seen_in(node)) == 2, f"{node.name} sees both")  # type: ignore[misc]
        stranger = seen_in(node)[other.name]
        assert stranger["reachable"] is False
        assert stranger["address"] is None
        assert "tunfwd friend add" in str(stranger["advice"])
        assert seen_in(node)["ann"]["address"] == node.contact("ann")["address"]
        assert "not reachable" in node.cli("conference", "peers", "table").stdout
    assert {name: line["address"] for name, line in seen_in(ann).items()} == {
        name: ann.contact(name)["address"] for name in ("ben", "cat")
    }
    with UdpEcho(ann.host, PORT) as service:
        for node in (ben, cat):
            use_udp(node, node.contact("ann")["address"], PORT)
            assert service.peers[-1][0] == ann.contact(node.name)["address"]
    with pytest.raises(UserError, match="is already offered"):
        offer(ann, "udp", PORT, to="conference:table", name="dice")


def test_conference_goes_on_after_a_restart(three: Three) -> None:
    """The offer, too: it stands with the conference."""
    ann, ben, cat = three
    ann.stop()
    ann.start()
    wait_online(ann, ben)
    wait_online(ann, cat)
    for node in (ben, cat):
        wait_running(node, "ann", "dice")
    assert [line["contact"] for line in ask(ann, api.OFFER_LIST)["offers"] if line["name"] == "dice"].count(
        "conference:table"
    ) == 1
    ask(ben, api.CONFERENCE_LEAVE, group="table")
    assert not ask(ben, api.CONFERENCE_LIST)["groups"]
    eventually(lambda: set(seen_in(ann)) == {"cat"}, "ann sees ben gone")
    wait_gone(ben, "ann", "dice")
    assert "dice" in ports_of(cat, "ann")
    kill(ann, "dice", "conference:table")
    wait_gone(cat, "ann", "dice")
    for node in (ann, cat):
        ask(node, api.CONFERENCE_LEAVE, group="table")


def test_private_group_by_invitation(three: Three) -> None:
    """The same person is a friend and a member: two contacts, two addresses, two offers."""
    ann, ben, cat = three
    created = ask(ann, api.GROUP_CREATE, name="club")["group"]
    assert created["public"] is False
    with pytest.raises(UserError) as caught:
        ask(ann, api.GROUP_INVITE, group="club", friend="nobody")
    assert caught.value.code == "not_found"
    for node in (ben, cat):
        ask(ann, api.GROUP_INVITE, group="club", friend=node.name)
        eventually(lambda node=node: ask(node, api.GROUP_LIST)["groups"], "the invitation is there")  # type: ignore[misc]
        assert group(node, "club")["state"] == "invited"
        assert group(node, "club")["inviter"] == "ann"
        assert node.cli("group", "join", "club").stdout.startswith("joining club")
        wait_together([ann, node], "club")
    wait_together([ann, ben, cat], "club")
    for node in (ben, cat):
        friend, as_member = node.contact("ann")["address"], member(node, "ann", "club")["address"]
        assert friend != as_member
        assert ask(node, api.PING, name="ann")["contact"] == "ann"
        assert ask(node, api.PING, name="group:club/ann")["contact"] == "group:club/ann"
        vias = {line["via"] for line in ask(node, api.STATUS)["contacts"] if line["name"] == "ann"}
        assert vias == {"friend", "group:club"}

    offer(ann, "udp", PORT, to="group:club", name="darts")
    offer(ann, "udp", PORT, to="ben", name="darts")
    wait_running(ben, "ann", "darts")  # by the rule for ann: it is not for a member of that name
    line = eventually(
        lambda: next(
            (o for o in ask(ben, api.OFFER_LIST)["offers"] if o["contact"] == "group:club/ann"), None
        ),
        "the group's offer is there",
    )
    assert line is not None
    assert line["state"] == "pending"
    ask(ben, api.OFFER_ACCEPT, offer="darts", contact="group:club/ann")
    wait_running(ben, "group:club/ann", "darts")
    with UdpEcho(ann.host, PORT) as service:
        use_udp(ben, ben.contact("ann")["address"], PORT)
        use_udp(ben, member(ben, "ann", "club")["address"], PORT)
        assert list(dict.fromkeys(peer for peer, _ in service.peers)) == [
            ann.contact("ben")["address"],
            member(ann, "ben", "club")["address"],
        ]


def test_invitation_declined(three: Three, tmp_path: Path) -> None:
    ann, ben, _ = three
    ask(ann, api.GROUP_CREATE, name="bores")
    ask(ann, api.GROUP_INVITE, group="bores", friend="ben")
    eventually(lambda: len(ask(ben, api.GROUP_LIST)["groups"]) == 2, "the invitation is there")
    ask(ben, api.GROUP_LEAVE, group="bores")
    assert [line["name"] for line in ask(ben, api.GROUP_LIST)["groups"]] == ["club"]
