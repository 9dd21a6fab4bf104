"""ann, ben, cat and dan: four daemons in one Tox group, each with a service that it offers to the others."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from netns.node import Node
from netns.topology import Topology
from tunfwd.control import api

from .conftest import CONFIG, ask
from .hosts import (
    TIME,
    TcpService,
    UdpEcho,
    connect,
    datagram_socket,
    echo,
    eventually,
    exchange,
    read_exactly,
)
from .plain_peer import ToxNode

NAMES = ("ann", "ben", "cat", "dan")
GROUP = "lan"
TCP_PORT, UDP_PORT = 7001, 7002
MEET_TIME = (
    180.0  # s until all in a group see each other; 7 to 60 with four of them, and toxcore takes its time
)
RULE = {"contact": f"group:{GROUP}/*", "ports": "7000-7999", "action": "accept"}


def offer(node: Node, protocol: str, port: int, *, to: str = f"group:{GROUP}", name: str = "") -> str:
    """Its id."""
    [line] = ask(node, api.OFFER_ADD, protocol=protocol, port=port, to=[to], name=name)["offers"]
    return line["id"]


def kill(node: Node, what: str, contact: str | None = None) -> None:
    ask(node, api.KILL, id=what, contact=contact)


def group(node: Node, name: str = GROUP) -> dict[str, Any]:
    """The group's line of `tunfwd group list`."""
    groups = ask(node, api.GROUP_LIST)["groups"]
    return dict(next(line for line in groups if name in (line["name"], line["id"])))


def member(node: Node, name: str, of: str = GROUP) -> dict[str, Any]:
    """A member's line of `tunfwd group peers`."""
    peers = ask(node, api.GROUP_PEERS, group=of)["peers"]
    return dict(next(line for line in peers if line["name"] == name))


def ports_of(node: Node, contact: str) -> dict[str, dict[str, Any]]:
    """What a contact offers and we took, by name."""
    ports = ask(node, api.PORTS)["ports"]
    return {line["name"]: dict(line) for line in ports if line["contact"] == contact and not line["target"]}


def wait_running(node: Node, contact: str, *names: str, timeout: float = TIME) -> None:
    def all_run() -> bool:
        ports = ports_of(node, contact)
        return all(name in ports and ports[name]["state"] == "running" for name in names)

    eventually(all_run, f"{names} of {contact} run at {node.name}", timeout)


def wait_gone(node: Node, contact: str, name: str, timeout: float = TIME) -> None:
    eventually(lambda: name not in ports_of(node, contact), f"{name} is gone from {node.name}", timeout)


def wait_together(nodes: Sequence[Node], of: str = GROUP, timeout: float = MEET_TIME) -> None:
    """Until every one sees all the others in the group."""
    for node in nodes:
        others = {other.name for other in nodes if other is not node}

        def all_here(node: Node = node, others: set[str] = others) -> bool:
            if group_of := [line for line in ask(node, api.GROUP_LIST)["groups"] if line["name"] == of]:
                peers = ask(node, api.GROUP_PEERS, group=group_of[0]["id"])["peers"]
                return {peer["name"] for peer in peers if peer["link"] != "offline"} >= others
            return False

        eventually(all_here, f"{node.name} sees {others} in {of}", timeout)


def use_tcp(node: Node, address: str, port: int = TCP_PORT) -> None:
    with connect(node.host, address, port) as client:
        client.sendall(b"over the group")
        assert read_exactly(client, 14) == b"over the group"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def use_udp(node: Node, address: str, port: int = UDP_PORT) -> None:
    with datagram_socket(node.host, address, port) as client:
        for size in (1, 500, 1367):
            exchange(client, bytes(size))


class Lan:
    """The four, and what runs on their hosts; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.tcp: dict[str, TcpService] = {}
        self.udp: dict[str, UdpEcho] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.net = stack.enter_context(Topology([*NAMES, "eve"]))
            self.hub = stack.enter_context(ToxNode(self.net["eve"], self.folder / "hub.tox"))
            for name in NAMES:
                (self.folder / name).mkdir()
                tox = {"nickname": name, "bootstrap": [self.hub.bootstrap]}
                node = Node(self.net[name], self.folder / name, {"tox": tox, "rule": [RULE], **CONFIG})
                self.nodes[name] = stack.enter_context(node)
                self.tcp[name] = stack.enter_context(TcpService(node.host, TCP_PORT, echo))
                self.udp[name] = stack.enter_context(UdpEcho(node.host, UDP_PORT))
            founder, *others = self.nodes.values()
            self.chat_id = ask(founder, api.GROUP_CREATE, name=GROUP, public=True)["group"]["id"]
            for node in others:
                ask(node, api.GROUP_JOIN, group=self.chat_id, name=GROUP)
            for node in self.nodes.values():  # to nobody yet: who comes later gets it
                offer(node, "tcp", TCP_PORT, to=f"group:{self.chat_id[:8]}", name="echo")
                offer(node, "udp", UDP_PORT, to=f"group:{self.chat_id[:8]}", name="game")
            wait_together(list(self.nodes.values()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def all_but(self, *names: str) -> Iterable[Node]:
        return [node for name, node in self.nodes.items() if name not in names]

    def wait_up(self) -> None:
        """Everybody is there, and has everything."""
        for node in self.nodes.values():
            if node.daemon is None:
                node.start()
        wait_together(list(self.nodes.values()))
        for node in self.nodes.values():
            for other in self.all_but(node.name):
                wait_running(node, f"group:{GROUP}/{other.name}", "echo", "game")

    def everyone_reaches_everyone(self) -> None:
        for server in self.nodes.values():
            seen_tcp, seen_udp = self.tcp[server.name].peers, self.udp[server.name].peers
            for client in self.all_but(server.name):
                self.reach(client, server)
                expected = member(server, client.name)["address"]
                assert seen_tcp[-1] == expected
                assert seen_udp[-1][0] == expected

    def reach(self, client: Node, server: Node) -> None:
        address = member(client, server.name)["address"]
        use_tcp(client, address)
        use_udp(client, address)
