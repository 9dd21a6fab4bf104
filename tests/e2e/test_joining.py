"""How a daemon gets into a Tox network of our own making, and that it sends nothing to any other."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netns.networks import Internet, Site, Udp
from netns.node import Node
from netns.topology import Host, Topology

from .hosts import TcpService, connect, eventually, folder_of_daemons, read_exactly

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

OURS = "{ 10.0.0.0/8, 127.0.0.0/8, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 255.255.255.255 }"
OURS6 = "{ ::1, fc00::/7, fe80::/10, ff00::/8 }"
STRANGER = "203.0.113.7"  # RFC 5737: nobody's
PROXY_PORT = 1080


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
    told = json.loads(host.run(["nft", "-j", "list", "counter", "inet", "test", "away"]).stdout)
    [counter] = [item["counter"] for item in told["nftables"] if "counter" in item]
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
        node.wait_for(lambda: "for 10 s: no node to join at is known" in node.log, 60, "it is said")
        assert counted(ann) == 0
        node.stop()

        stranger = list_of(tmp_path / "nodes.json", listed(STRANGER, "AB" * 32, 443))
        node.environment["TUNFWD_PUBLIC_NODES"] = str(stranger)
        node.start()
        eventually(lambda: counted(ann), "what is sent to a node elsewhere is counted", 60)


SITES = {
    "open": Site(),
    "refused": Site(udp=Udp.REFUSED),
    "dropped": Site(udp=Udp.DROPPED),
    "https": Site(udp=Udp.DROPPED, tcp=(443,)),
    "rdp": Site(udp=Udp.DROPPED, tcp=(3389,)),
    "late": Site(),
    "proxied": Site(udp=Udp.DROPPED, tcp=(PROXY_PORT,)),
    "gate": Site(),
}
GIVE_UP = 100.0  # s; 5 to 20 are usual


def socks5(gate: Host) -> Callable[[socket.socket], None]:
    """A proxy that connects from `gate` to addresses, and hangs up on all else (RFC 1928)."""

    def serve(client: socket.socket) -> None:
        if client.recv(3, socket.MSG_WAITALL) != b"\x05\x01\x00":
            return
        client.sendall(b"\x05\x00")
        if client.recv(4, socket.MSG_WAITALL) != b"\x05\x01\x00\x01":
            return
        address = socket.inet_ntoa(read_exactly(client, 4))
        (port,) = struct.unpack(">H", read_exactly(client, 2))
        client.settimeout(None)
        with connect(gate, address, port) as far:
            far.settimeout(None)
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=pump, args=(far, client), daemon=True)
            back.start()
            pump(client, far)
            back.join()

    return serve


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def names_of(host: Host) -> Iterator[Path]:
    """The host's own /etc/hosts, and a resolver that nobody is at."""
    folder = Path("/etc/netns", host.namespace)
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        yield folder / "hosts"
    finally:
        shutil.rmtree(folder)
        with suppress(OSError):  # others may have theirs there
            folder.parent.rmdir()


@dataclass
class Joined:
    """A daemon at a site, and how long it took to get into the network."""

    node: Node
    start: float
    seconds: float | None = None
    """At the most: those that start later are waited for."""


@pytest.fixture(scope="module")
def joined() -> Iterator[dict[str, Joined]]:
    """A daemon at each site, started all at once; what each sends to elsewhere is counted."""
    with ExitStack() as stack:
        net = stack.enter_context(Internet(SITES))
        folder = stack.enter_context(folder_of_daemons())
        listed = list_of(folder / "nodes.json", *net.document()["nodes"])
        gate = net["gate"]
        stack.enter_context(TcpService(gate, PROXY_PORT, socks5(gate)))
        named = net.nodes[0].bootstrap.replace(str(net.nodes[0].host.address), "node.test")
        configs: dict[str, dict[str, Any]] = {
            "late": {"public_nodes": False, "bootstrap": [named]},
            "proxied": {"udp": False, "proxy": f"socks5://{gate.address}:{PROXY_PORT}", "bootstrap": [named]},
        }
        nodes = {}
        for name in SITES.keys() - {"gate"}:
            (folder / name).mkdir()
            hosts = stack.enter_context(names_of(net[name]))
            only = f"ip daddr != {gate.address} counter name away drop" if name == "proxied" else COUNT[0]
            stack.enter_context(firewall(net[name], 'oifname "lo" accept', only, COUNT[1]))
            node = Node(
                net[name], folder / name, {"tox": {"local_discovery": False, **configs.get(name, {})}}
            )
            if name != "late":
                node.environment["TUNFWD_PUBLIC_NODES"] = str(listed)
            else:
                del node.environment["TUNFWD_PUBLIC_NODES"]  # as its configuration says
            nodes[name] = Joined(node, time.monotonic())
            stack.enter_context(node)
            if name == "late":
                late_hosts = hosts
        late = nodes["late"].node
        late.wait_for(lambda: "node.test:33445 does not resolve" in late.log, 60, "the name does not resolve")
        late_hosts.write_text(f"{net.nodes[0].host.address} node.test\n")
        waiting = dict(nodes)
        while waiting:
            for name, one in list(waiting.items()):
                if "connected to the Tox network" in one.node.log:
                    one.seconds = time.monotonic() - one.start
                if one.seconds or time.monotonic() - one.start > GIVE_UP:
                    del waiting[name]
            time.sleep(0.1)
        yield nodes
        for one in nodes.values():
            assert "Traceback" not in one.node.log, one.node.log[-4000:]


@pytest.mark.parametrize("name", sorted(SITES.keys() - {"gate"}))
def test_gets_in_through_whatever_passes(joined: dict[str, Joined], name: str) -> None:
    one = joined[name]
    assert one.seconds, f"not in the network after {GIVE_UP:g} s: {one.node.log[-3000:]}"
    assert one.node.json("status")["network"] == "online"
    assert counted(one.node.host) == 0
    relays = one.node.wait_for(lambda: relays_of(one.node), 60, "a relay is connected")
    assert relays


def relays_of(node: Node) -> int:
    return sum(entry["relay"] for entry in node.json("nodes")["nodes"])


def told(node: Node) -> str:
    return node.cli("doctor", check=False).stdout


def test_doctor_where_all_passes(joined: dict[str, Joined]) -> None:
    assert "nodes: UDP: 6 of 8 nodes answer, TCP: 6 of 8" in told(joined["open"].node)


@pytest.mark.parametrize("name", ["refused", "dropped"])
def test_doctor_where_udp_does_not_pass(joined: dict[str, Joined], name: str) -> None:
    assert "UDP: 0 of 8 nodes answer, TCP: 6 of 8: UDP is blocked here: relays are used" in told(
        joined[name].node
    )


def test_doctor_where_one_port_passes(joined: dict[str, Joined]) -> None:
    assert "UDP: 0 of 8 nodes answer, TCP: 3 of 8: UDP is blocked here" in told(joined["https"].node)


def test_through_a_proxy_alone(joined: dict[str, Joined]) -> None:
    node = joined["proxied"].node
    assert "relays are connected through the proxy" in told(node)
    [named] = [entry for entry in node.json("nodes")["nodes"] if entry["origin"] == "bootstrap"]
    assert "not resolved where a proxy is in use" in named["error"]
    refused = node.cli("nodes", "update", check=False)
    assert refused.returncode == 6
    assert counted(node.host) == 0


def test_nodes_that_are_tested(joined: dict[str, Joined]) -> None:
    entries = joined["open"].node.json("nodes", "--test")["nodes"]
    assert len(entries) == 8
    assert sorted(entry["udp"] for entry in entries) == ["answers"] * 6 + ["no answer", "refused"]


def test_nodes_are_added_to_a_daemon_that_knows_none(joined: dict[str, Joined], tmp_path: Path) -> None:
    """By hand, as somebody whose list is too old would."""
    open_one = joined["open"].node
    entries = open_one.json("nodes")["nodes"]
    alive = [
        {**listed(entry["hosts"][0], entry["public_key"], *entry["tcp_ports"]), "maintainer": "by hand"}
        for entry in entries
    ]
    open_one.stop()
    try:
        stranger = list_of(tmp_path / "strangers.json", listed(STRANGER, "AB" * 32, 443))
        (tmp_path / "fresh").mkdir()
        fresh = Node(open_one.host, tmp_path / "fresh", {"tox": {"local_discovery": False}})
        fresh.environment["TUNFWD_PUBLIC_NODES"] = str(stranger)
        with fresh:
            fresh.wait_for(lambda: "for 10 s: 1 node asked, none answers" in fresh.log, 60, "it is said")
            assert fresh.cli("doctor", check=False).returncode == 1
            assert fresh.cli("status").stderr.startswith("Not connected to the Tox network for ")
            mine = list_of(tmp_path / "mine.json", *alive)
            assert "8 new, 8 added in all" in fresh.cli("nodes", "update", str(mine)).stdout
            fresh.wait_for(lambda: fresh.json("status")["network"] == "online", GIVE_UP, "it is in")
            bad = list_of(tmp_path / "bad.json", {"ipv4": "x"})
            assert fresh.cli("nodes", "update", str(bad), check=False).returncode == 1
            assert len(fresh.json("nodes")["nodes"]) == 9
            fresh.stop()
            fresh.start()
            assert len(fresh.json("nodes")["nodes"]) == 9
    finally:
        open_one.start()
