"""How a daemon gets into a Tox network of our own making, and that it sends nothing to any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netns.node import Node
from netns.topology import Host, Topology

from .hosts import eventually

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

OURS = "{ 10.0.0.0/8, 127.0.0.0/8, 192.168.0.0/16, 224.0.0.0/4, 255.255.255.255 }"
OURS6 = "{ ::1, fc00::/7, fe80::/10, ff00::/8 }"
STRANGER = "203.0.113.7"  # RFC 5737: nobody's


@contextmanager
def firewall(host: Host, *rules: str) -> Iterator[None]:
    """Have `rules` judge what leaves the host."""
    chain = "\n".join(["chain out {", "type filter hook output priority 0;", *rules, "}"])
    host.run(["nft", f"table inet test {{\ncounter away {{ }}\n{chain}\n}}"])
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "test"])


def counted(host: Host) -> int:
    """Packets that were on their way out of the network of the test."""
    listed = json.loads(host.run(["nft", "-j", "list", "counter", "inet", "test", "away"]).stdout)
    [counter] = [item["counter"] for item in listed["nftables"] if "counter" in item]
    return int(counter["packets"])


COUNT = (
    f"ip daddr != {OURS} counter name away drop",
    f"ip6 daddr != {OURS6} counter name away drop",
)


@pytest.fixture(scope="module")
def world() -> Iterator[Topology]:
    with Topology(["ann", "gateway"]) as net:  # so that packets to anywhere would leave it
        net["ann"].run(["ip", "route", "add", "default", "via", str(net["gateway"].address)])
        yield net


def list_of(path: Path, *nodes: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"nodes": nodes}))
    path.chmod(0o644)
    return path


def listed(address: str, key: str, *tcp_ports: int, port: int = 33445) -> dict[str, Any]:
    return {"ipv4": address, "port": port, "public_key": key, "tcp_ports": list(tcp_ports)}


def test_nothing_is_sent_to_public_nodes_unless_they_are_wanted(world: Topology, tmp_path: Path) -> None:
    ann = world["ann"]
    with firewall(ann, *COUNT), Node(ann, tmp_path) as node:
        node.wait_for(lambda: "for 10 s: no node to join at is known" in node.log, 30, "it is said")
        assert counted(ann) == 0
        node.stop()

        stranger = list_of(tmp_path / "nodes.json", listed(STRANGER, "AB" * 32, 443))
        node.environment["TUNFWD_PUBLIC_NODES"] = str(stranger)
        node.start()
        eventually(lambda: counted(ann), "what is sent to a node elsewhere is counted", 20)
