"""Two hosts alone, no other node: friends are back after each restart of either, in order or by kill -9."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from netns.node import Node, befriend, stop_all
from netns.topology import Topology

pytestmark = [pytest.mark.netns, pytest.mark.toxnet, pytest.mark.patient, pytest.mark.timeout(900)]

BACK = 30.0  # s


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Node, Node]]:
    with tempfile.TemporaryDirectory(prefix="tunfwd-") as folder, Topology(["ann", "ben"]) as net:
        nodes = []
        for name in ("ann", "ben"):
            (Path(folder) / name).mkdir()
            nodes.append(Node(net[name], Path(folder) / name))
        ann, ben = nodes
        try:
            ann.start()
            ben.start()
            befriend(ann, ben)
            yield ann, ben
        finally:
            stop_all(nodes)


def test_friends_who_share_nothing(two: tuple[Node, Node]) -> None:
    ann, ben = two
    for restarted in (ben, ann):
        for node in two:
            node.wait_for(partial(_greeted, node), BACK, "they have told each other where they are")
        restarted.kill()
        restarted.start()
        _wait_back(ann, ben)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_back_after_each_restart(two: tuple[Node, Node], how: str) -> None:
    ann, ben = two
    if ann.port("web") is None:
        ben.cli("offer", "8080/tcp", "--to", "ann", "--name", "web")
        ann.wait_for(lambda: ann.offer("web"), BACK, "the offer is there")
        ann.cli("accept", "web")
        ann.wait_for(lambda: _running(ann), BACK, "the mapping runs")
    for restarted in (ben, ann, ben, ann):
        getattr(restarted, how)()
        restarted.start()
        _wait_back(ann, ben)
        ann.wait_for(lambda: _running(ann), BACK, "the mapping runs again")


def _wait_back(ann: Node, ben: Node) -> None:
    deadline = time.monotonic() + BACK
    for node, far in ((ann, ben), (ben, ann)):
        key = far.identity()["public_key"]
        node.wait_for(partial(node.is_online, key), deadline - time.monotonic(), f"{far.name} is back")


def _greeted(node: Node) -> bool:
    contacts = node.json("status")["contacts"]
    return all("node" in contact["features"] for contact in contacts)


def _running(node: Node) -> dict[str, object] | None:
    port = node.port("web")
    return port if port is not None and port["state"] == "running" else None
