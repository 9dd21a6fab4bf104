"""Two hosts alone, no other node: friends are back after each restart of either, in order or by kill -9."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
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
            ben.cli("offer", "8080/tcp", "--to", "ann", "--name", "web")
            ann.wait_for(lambda: ann.offer("web"), BACK, "the offer is there")
            ann.cli("accept", "web")
            yield ann, ben
        finally:
            stop_all(nodes)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_back_after_each_restart(two: tuple[Node, Node], how: str) -> None:
    ann, ben = two
    for restarted in (ben, ann, ben, ann):
        getattr(restarted, how)()
        restarted.start()
        deadline = time.monotonic() + BACK
        for node, far in ((ann, ben), (ben, ann)):
            key = far.identity()["public_key"]
            node.wait_for(
                lambda node=node, key=key: node.is_online(key),  # type: ignore[misc]
                deadline - time.monotonic(),
                f"{far.name} is back",
            )
        ann.wait_for(lambda: _running(ann), BACK, "the mapping runs again")


def _running(node: Node) -> dict[str, object] | None:
    port = node.port("web")
    return port if port is not None and port["state"] == "running" else None
