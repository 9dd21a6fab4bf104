"""Lists of nodes: the one that comes with the program, and whatever a person may find on the web."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.tox.nodes import (
    MAX_LIST,
    MAX_NODES,
    ListedNode,
    ListError,
    bundled,
    merge,
    public,
    read_file,
    read_list,
)

KEY = "0123456789ABCDEF" * 4


def entry(number: int = 1, **changes: Any) -> dict[str, Any]:
    plain = {
        "ipv4": f"192.0.2.{number % 250}",
        "ipv6": "-",
        "port": 33445,
        "tcp_ports": [33445, 443],
        "public_key": f"{number:064X}",
        "maintainer": "somebody",
        "location": "XX",
        "status_udp": True,
        "status_tcp": True,
        "version": "1000002018",
        "motd": "tox-bootstrapd",
        "last_ping": 1764000000,
    }
    return {name: value for name, value in (plain | changes).items() if value is not ...}


def document(*entries: dict[str, Any], **others: Any) -> bytes:
    whole = {"last_scan": 1764000000, "last_refresh": 1764000000, "nodes": list(entries), **others}
    return json.dumps(whole).encode()


def test_the_bundled_list_is_whole_and_dated() -> None:
    nodes = bundled()
    assert len(nodes) == 28
    assert len({node.public_key for node in nodes}) == 28
    assert all(node.seen >= "2026" for node in nodes)
    assert all(node.tcp_ports for node in nodes)
    assert any(443 in (node.tcp_ports or ()) for node in nodes)
    assert {node.origin for node in public((), own=True)} == {"bundled"}


def test_a_list_as_nodes_tox_chat_has_it() -> None:
    [node, other] = read_list(document(entry(), entry(2, ipv6="2001:db8::1", ipv4="NONE", tcp_ports=None)))
    assert (node.ipv4, node.ipv6, node.port, node.tcp_ports) == ("192.0.2.1", None, 33445, (33445, 443))
    assert node.public_key == bytes.fromhex(f"{1:064X}")
    assert (other.ipv4, other.ipv6, other.tcp_ports) == (None, "2001:db8::1", None)
    [named] = read_list(document(entry(ipv4="tox.example.org")))
    assert named.ipv4 == "tox.example.org"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON, or cut short"),
        (b"<html>404</html>", "is not JSON"),
        (document(entry(), entry(2))[:-40], "cut short"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[" * 5000, "nested too deeply"),
        (b"[]", "must be a table, not a list"),
        (b"{}", "'nodes' is missing"),
        (b'{"nodes": {}}', "nodes must be a list, not a table"),
        (document(), "names no node"),
        (b" " * (MAX_LIST + 1), "is longer than 512 KiB"),
        (document(*(entry(number) for number in range(MAX_NODES + 1))), "nodes has 101 entries; 100 is"),
        (document(entry(), extra=1), "extra is not known"),
        (document(entry(colour="red")), "nodes[0].colour is not known"),
        (document(entry(), entry(2, public_key=...)), "nodes[1] lacks 'public_key'"),
        (document(entry(port=...)), "nodes[0] lacks 'port'"),
        (document(entry(public_key=KEY[:-1])), "nodes[0].public_key"),
        (document(entry(public_key=KEY + "0" * 12)), "is not a public key: 64 hex digits"),
        (document(entry(public_key="G" * 64)), "is not a public key"),
        (document(entry(public_key=7)), "nodes[0].public_key must be a string"),
        (document(entry(port="33445")), "nodes[0].port must be a whole number"),
        (document(entry(port=70000)), "70000 is not a port"),
        (document(entry(port=True)), "nodes[0].port must be a whole number, not true or false"),
        (document(entry(tcp_ports=list(range(1, 10)))), "nodes[0].tcp_ports has more than 8 ports"),
        (document(entry(tcp_ports="443")), "nodes[0].tcp_ports must be a list"),
        (document(entry(tcp_ports=[443, 0])), "nodes[0].tcp_ports[1]"),
        (document(entry(ipv4="-")), "has neither 'ipv4' nor 'ipv6'"),
        (document(entry(ipv4="a b")), "nodes[0].ipv4 'a b' is not a host name or address"),
        (document(entry(ipv4="300.1.1.1")), "is not a host name or address"),
        (document(entry(ipv4="255.255.255.255")), "is not the address of a host"),
        (document(entry(ipv4="224.0.0.1")), "is not the address of a host"),
        (document(entry(ipv6="::")), "is not the address of a host"),
        (document(entry(ipv6="fe80::1%eth0")), "is not"),
        (document(entry(maintainer="x" * 1001)), "nodes[0].maintainer is longer than 1000 characters"),
        (document(entry(status_udp="yes")), "nodes[0].status_udp must be true or false"),
        (document(entry(last_ping=1e400)), "nodes[0].last_ping"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_list_that_is_not_one_is_refused_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(ListError) as error:
        read_list(data)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for text in (data, b'{"nodes": [' + data + b"]}"):
        with suppress(ListError):
            read_list(text)


def test_a_cut_list_is_refused_wherever_it_is_cut() -> None:
    data = document(entry(), entry(2))
    for size in range(len(data)):
        with pytest.raises(ListError):
            read_list(data[:size])


def nodes_of(*numbers: int, **changes: Any) -> tuple[ListedNode, ...]:
    return read_list(document(*(entry(number, **changes) for number in numbers)))


def test_lists_are_joined_the_newer_first() -> None:
    older, newer = nodes_of(1, 2), nodes_of(2, 3, port=443)
    merged = merge(newer, older)
    assert [(node.public_key[-1], node.port) for node in merged] == [(2, 443), (3, 443), (1, 33445)]
    many = merge(nodes_of(*range(150, 240)), nodes_of(*range(1, 90)))
    assert len(many) == MAX_NODES
    assert [node.public_key[-1] for node in many[:90]] == list(range(150, 240))


def test_what_is_kept_can_be_read_again() -> None:
    node = read_list(document(entry(maintainer="m" * 900)))[0]
    assert read_list(json.dumps({"nodes": [node.document()]}).encode())[0].public_key == node.public_key


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_text("[]"), "must be a table"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: None, "No such file"),
    ],
)
def test_a_file_that_is_of_no_use(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "nodes.json"
    write(path)
    with pytest.raises(ListError, match=str(path)) as error:
        read_file(path)
    assert said in str(error.value)


def test_a_list_of_ones_own_stands_in_the_place_of_the_bundled(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_bytes(document(entry(1)))
    added = nodes_of(2)
    assert [(str(node), node.origin) for node in public(added, own=path)] == [
        ("192.0.2.2:33445", "added"),
        ("192.0.2.1:33445", "bundled"),
    ]
    assert len(public(added, own=True)) == 29
    assert public(added, own=False) == ()


def test_an_added_node_that_is_bundled_too_is_there_once() -> None:
    first = bundled()[0]
    nodes = public([first], own=True)
    assert len(nodes) == 28
    assert [node.origin for node in nodes if node.key == first.public_key] == ["added"]
    assert nodes[0].tcp_ports == tuple(sorted(nodes[0].tcp_ports))
