"""Two people who know nothing of each other, over real Tox: one shares, one joins, and it works.

Only who shares knows a node of the network; the other has it from the ticket.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from netns.node import Node

from .hosts import TcpService, UdpEcho, connect, datagram_socket, echo, eventually, exchange
from .people import daemons

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(400)]

JOIN_TIME = 100  # s; 10 to 15 are usual, beside other tests more


@dataclass(frozen=True)
class People:
    """Hosts on one wire, each with a daemon."""

    ann: Node
    ben: Node
    cat: Node


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    with daemons(lambda name, node: {"bootstrap": [node.bootstrap]} if name == "ben" else {}) as (nodes, *_):
        yield People(*nodes)


def share(node: Node, *what: str) -> dict[str, Any]:
    invite: dict[str, Any] = node.json("share", *what)["invite"]
    return invite


def join(node: Node, ticket: str, *more: str, timeout: int = JOIN_TIME) -> dict[str, Any]:
    answer = node.cli("join", ticket, "--timeout", str(timeout), "--json", *more, timeout=timeout + 20)
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def answer(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")


def test_share_join_curl(people: People) -> None:
    ben, ann = people.ben, people.ann
    with TcpService(ben.host, 8080, answer):
        invite = share(ben, "8080/tcp", "--name", "web")
        assert invite["ticket"].startswith("tunfwd:")
        result = join(ann, invite["ticket"], "--name", "ben")
        [mapping] = result["mappings"]
        assert (result["contact"]["name"], mapping["state"], mapping["port"]) == ("ben", "running", 8080)
        page = ann.host.run(["curl", "-sS", "--max-time", "30", f"http://{mapping['address']}:8080/"])
        assert page.stdout == "hello"
    [listed] = ben.json("invites")["invites"]
    assert listed["state"] == "spent"
    assert [one["public_key"] for one in listed["joined"]] == [ann.identity()["public_key"]]
    assert ann.json("join", invite["ticket"])["mappings"][0]["state"] == "running"  # once more


def test_a_game_for_who_is_a_friend_already(people: People) -> None:
    ben, ann = people.ben, people.ann
    invite = share(ben, "27015/tcp", "27020-27030/udp", "--name", "game")
    assert len(invite["offers"]) == 12
    result = join(ann, invite["ticket"])
    assert {mapping["state"] for mapping in result["mappings"]} == {"running"}
    address = result["contact"]["address"]
    with TcpService(ben.host, 27015, echo), connect(ann.host, address, 27015) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    with UdpEcho(ben.host, 27025), datagram_socket(ann.host, address, 27025) as asker:
        exchange(asker, b"ping")
    table = ann.cli("ports").stdout
    assert f"{address}:27015 " in table
    assert f"{address}:27020-27030 " in table


def test_who_shares_is_killed_meanwhile(people: People) -> None:
    ben, cat = people.ben, people.cat
    invite = share(ben, "8081/tcp", "--name", "late")
    late = cat.cli("join", invite["ticket"], "--timeout", "0", check=False)
    assert late.returncode == 124
    assert "It goes on in the background" in late.stderr
    ben.kill()
    cat.stop()
    cat.start()
    ben.start()
    eventually(
        lambda: (cat.port("late") or {}).get("state") == "running", "what was joined is there", JOIN_TIME
    )
    spent = people.ann.cli("join", share(ben, "8082/tcp")["ticket"][:-4], check=False)
    assert spent.returncode == 2
    assert spent.stderr.count("\n") == 1


def test_a_public_group(people: People) -> None:
    people.ben.cli("group", "create", "open", "--public")
    invite = people.ben.json("group", "share", "open")["invite"]
    result = join(people.ann, invite["ticket"])
    assert (result["contact"], result["mappings"], result["group"]["state"]) == (None, [], "online")


def test_a_private_group(people: People) -> None:
    people.ben.cli("group", "create", "closed")
    invite = people.ben.json("group", "share", "closed")["invite"]
    result = join(people.cat, invite["ticket"], "--name", "ours")
    assert (result["group"]["name"], result["group"]["state"]) == ("ours", "online")
    peers = people.cat.json("group", "peers", "ours")["peers"]
    assert len(peers) == 1
