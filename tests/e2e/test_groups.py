"""A Tox group of four real daemons, with a plain and hostile fifth: offers, members that come and go, kicks."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from netns.node import Node
from tunfwd.control import api
from tunfwd.control.errors import ControlError

from .conftest import ask
from .hosts import TcpService, UdpEcho, bytes_of, connect, datagram_socket, echo, eventually, read_exactly
from .lan import (
    GROUP,
    TCP_PORT,
    Lan,
    group,
    kill,
    member,
    offer,
    ports_of,
    use_tcp,
    use_udp,
    wait_gone,
    wait_running,
    wait_together,
)

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

_ports = count(7100)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with Lan(tmp_path_factory.mktemp("lan")) as lan:
        yield lan


@pytest.fixture
def lan(shared: Lan) -> Iterator[Lan]:
    """All are there, and no daemon meets anything that it does not expect."""
    shared.wait_up()
    said = {name: len(node.log) for name, node in shared.nodes.items()}
    yield shared
    for name, node in shared.nodes.items():
        new = node.log[said[name] :]
        assert "Traceback" not in new, f"{name}: {new[-4000:]}"
        assert node.daemon is None or node.daemon.poll() is None, f"{name} ended: {new[-4000:]}"


def four(lan: Lan) -> tuple[Node, Node, Node, Node]:
    ann, ben, cat, dan = lan.nodes.values()
    return ann, ben, cat, dan


def test_everyone_reaches_everyone(lan: Lan) -> None:
    """Offered before anybody else was there: each who came got it, and each is seen at an address of its own."""
    lan.everyone_reaches_everyone()


def test_what_commands_show(lan: Lan) -> None:
    ann, ben, *_ = four(lan)
    for name in (f"group:{GROUP}/ben", "ben"):
        answer = ask(ann, api.PING, name=name)
        assert answer["contact"] == f"group:{GROUP}/ben"
        assert answer["path"] == "direct"
        assert 0 < answer["seconds"] < 1
    line = ann.contact("ben")
    assert (line["kind"], line["via"], line["link"]) == ("group", f"group:{GROUP}", "direct")
    assert line["address"] == member(ann, "ben")["address"]
    assert ann.host.run(["ping", "-n", "-c", "1", "-W", "2", line["address"]]).returncode == 0
    assert group(ann) | {"id": ""} == {
        "name": GROUP,
        "id": "",
        "kind": "group",
        "state": "online",
        "public": True,
        "members": 3,
        "reason": None,
        "inviter": None,
    }


def test_offer_to_all_and_kill(lan: Lan) -> None:
    ann, *others = four(lan)
    port = next(_ports)
    for name in ("first", "again"):
        identifier = offer(ann, "tcp", port, name=name)
        with pytest.raises(ControlError, match="stands already"):
            offer(ann, "tcp", port, name=name)
        for node in others:
            wait_running(node, f"group:{GROUP}/ann", name)
        assert {ports_of(node, f"group:{GROUP}/ann")[name]["id"] for node in others} == {identifier}
        with TcpService(ann.host, port, echo):
            with connect(others[0].host, member(others[0], "ann")["address"], port) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                kill(ann, name)
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        for node in others:
            wait_gone(node, f"group:{GROUP}/ann", name)
        assert not [line for line in ask(ann, api.OFFER_LIST)["offers"] if line["port"] == port]


def test_one_member_ends_its_own_mapping_only(lan: Lan) -> None:
    ann, ben, cat, dan = four(lan)
    port = next(_ports)
    offer(ann, "udp", port, name="ours")
    for node in (ben, cat, dan):
        wait_running(node, f"group:{GROUP}/ann", "ours")
    kill(ben, "ours")
    wait_gone(ben, f"group:{GROUP}/ann", "ours")
    with UdpEcho(ann.host, port):
        for node in (cat, dan):
            use_udp(node, member(node, "ann")["address"], port)
    states = {line["contact"]: line["state"] for line in ask(ann, api.OFFER_LIST)["offers"] if line["port"] == port}
    assert states == {
        f"group:{GROUP}": "offered",
        f"group:{GROUP}/ben": "declined",
        f"group:{GROUP}/cat": "running",
        f"group:{GROUP}/dan": "running",
    }
    kill(ann, "ours")
    for node in (cat, dan):
        wait_gone(node, f"group:{GROUP}/ann", "ours")


def test_offer_to_one_member(lan: Lan) -> None:
    ann, ben, cat, dan = four(lan)
    port = next(_ports)
    offer(ann, "tcp", port, to=f"group:{GROUP}/ben", name="for ben")
    wait_running(ben, f"group:{GROUP}/ann", "for ben")
    with TcpService(ann.host, port, echo):
        use_tcp(ben, member(ben, "ann")["address"], port)
    for node in (cat, dan):
        assert not [line for line in ask(node, api.OFFER_LIST)["offers"] if line["port"] == port]
        with pytest.raises(ConnectionRefusedError):
            connect(node.host, member(node, "ann")["address"], port)
    kill(ann, "for ben")
    wait_gone(ben, f"group:{GROUP}/ann", "for ben")


def test_request_of_a_member(lan: Lan) -> None:
    """Left to the member's person: no rule of theirs says yes to this port."""
    ann, ben, *_ = four(lan)
    ask(ann, api.REQUEST, protocol="tcp", port=6500, contact=f"group:{GROUP}/ben")
    pending = eventually(
        lambda: [o for o in ask(ben, api.OFFER_LIST)["offers"] if o["port"] == 6500], "ben is asked"
    )
    assert pending[0]["direction"] == "connection"
    ask(ben, api.OFFER_ACCEPT, offer="6500", contact=f"group:{GROUP}/ann")
    with TcpService(ben.host, 6500, echo) as service:
        eventually(lambda: _open(ann, member(ann, "ben")["address"], 6500), "ben's port is open")
        assert service.peers[-1] == member(ben, "ann")["address"]
    kill(ann, "6500")


def _open(node: Node, address: str, port: int) -> bool:
    try:
        use_tcp(node, address, port)
    except OSError:
        return False
    return True


def test_refused_is_refused(lan: Lan) -> None:
    ann, ben, *_ = four(lan)
    port = next(_ports)
    offer(ann, "tcp", port, name="nothing here")
    wait_running(ben, f"group:{GROUP}/ann", "nothing here")
    with pytest.raises(ConnectionRefusedError):
        connect(ben.host, member(ben, "ann")["address"], port)
    kill(ann, "nothing here")


def test_many_connections_and_much_data(lan: Lan) -> None:
    ann, ben, *_ = four(lan)
    address, data = member(ann, "ben")["address"], bytes_of(1, 100_000)
    clients = [connect(ann.host, address, TCP_PORT) for _ in range(50)]
    for client in clients:
        client.sendall(data[:2000])
    for client in clients:
        assert read_exactly(client, 2000) == data[:2000]
    clients[0].sendall(data)
    assert read_exactly(clients[0], len(data)) == data
    for client in clients:
        client.close()
    eventually(lambda: not ports_of(ann, f"group:{GROUP}/ben")["echo"]["connections"], "all are closed")


@pytest.mark.parametrize("crash", [False, True])
def test_daemon_that_restarts(lan: Lan, crash: bool) -> None:
    """Its connections are reset, and all works again without a command, at the same addresses."""
    ann, ben, *_ = four(lan)
    before = {node.name: member(node, "ben")["address"] for node in lan.all_but("ben")}
    seen = {name: member(ben, name)["address"] for name in before}
    key = member(ann, "ben")["public_key"]
    with connect(ann.host, before["ann"], TCP_PORT) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        ben.kill() if crash else ben.stop()
        ben.start()
        client.settimeout(60)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    lan.wait_up()
    assert {node.name: member(node, "ben")["address"] for node in lan.all_but("ben")} == before
    assert {name: member(ben, name)["address"] for name in before} == seen
    assert member(ann, "ben")["public_key"] == key
    lan.everyone_reaches_everyone()


def test_member_that_leaves_and_comes_anew(lan: Lan) -> None:
    """Under another key, as somebody else for the others: it gets what stands."""
    ann, ben, cat, dan = four(lan)
    old = {node.name: member(node, "dan") for node in (ann, ben, cat)}
    ask(dan, api.GROUP_LEAVE, group=GROUP)
    assert not ask(dan, api.GROUP_LIST)["groups"]
    assert not ask(dan, api.STATUS)["contacts"]
    assert not ask(dan, api.PORTS)["ports"]
    for node in (ann, ben, cat):
        eventually(lambda node=node: member(node, "dan")["link"] == "offline", f"{node.name} sees dan gone")
    address = old["ann"]["address"]
    with pytest.raises(OSError) as caught:  # noqa: PT011
        connect(ann.host, address, TCP_PORT)
    assert caught.value.errno == errno.EHOSTUNREACH

    ask(dan, api.GROUP_JOIN, group=lan.chat_id)
    eventually(lambda: group(dan, lan.chat_id)["members"] == 3, "dan is in the group", 60)
    for node in (ann, ben, cat):
        wait_running(dan, f"group:{GROUP}/{node.name}", "echo", "game")
        lan.reach(dan, node)
    assert lan.tcp["ann"].peers[-1] != address
    offer(dan, "tcp", TCP_PORT, name="echo")
    offer(dan, "udp", 7002, name="game")
    print(ann.cli("status").stdout, ann.cli("offers").stdout)
