"""Nothing here ever sends to the public nodes of the Tox network: no test, netns/, scripts/ or fuzzing.

A node made from `Settings` knows the nodes that it is given and no others. Daemons join at public nodes
unless told not to: whatever starts one gives it an environment from one of three places, which say so. That
a daemon then sends nothing is counted by the kernel, in tests/e2e/test_joining.py.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from netns.node import Node
from netns.topology import PROJECT, Host
from tests.cli import conftest as cli
from tunfwd.config.document import load
from tunfwd.tox.nodes import bundled
from tunfwd.tox.settings import Settings

SOURCES = {
    str(source.relative_to(PROJECT)): source.read_text()
    for part in ("netns", "scripts", "tests")
    for source in (PROJECT / part).rglob("*.py")
    if source != Path(__file__)
}
TURNS_THEM_ON = re.compile(r"""TUNFWD_PUBLIC_NODES["']?\]?\s*[:=]+\s*["']1""")  # the file cannot


def test_a_host_of_netns_knows_none(tmp_path: Path) -> None:
    node = Node(Host("h", "none", IPv4Interface("192.168.77.1/24")), tmp_path)
    assert node.environment["TUNFWD_PUBLIC_NODES"] == "0"
    assert load(environ=node.environment).tox.public_nodes is False


def test_what_tests_start_themselves_knows_none() -> None:
    assert os.environ["TUNFWD_PUBLIC_NODES"] == "0"
    assert load().tox.public_nodes is False


def test_commands_that_tests_run_know_none() -> None:
    [assigned] = re.findall(r'"TUNFWD_PUBLIC_NODES": "(.*)"', Path(cli.__file__).read_text())
    assert assigned == "0"


def test_a_node_knows_those_that_it_is_given(tmp_path: Path) -> None:
    assert Settings(tmp_path / "tox").network_nodes == ()


def test_whatever_starts_a_daemon_gives_it_such_an_environment() -> None:
    starting = {
        name: text
        for name, text in SOURCES.items()
        if re.search(r"""\[[^\[\]]*["']daemon["'],?\s*\]|\.command\(["']daemon["']""", text)
    }
    assert "netns/node.py" in starting
    for name, text in starting.items():
        assert re.search(r"environment|node\.start\(\)", text), name


def test_no_source_turns_them_on() -> None:
    assert not [name for name, text in SOURCES.items() if TURNS_THEM_ON.search(text)]


def test_no_source_names_one() -> None:
    known = {address for node in bundled() for address in (node.ipv4, node.ipv6) if address}
    for name, text in SOURCES.items():
        assert not {said for said in _strings(text) if any(address in said for address in known)}, name


def _strings(text: str) -> Iterator[str]:
    for part in ast.walk(ast.parse(text)):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def test_their_addresses_are_none_of_our_hosts() -> None:
    """The kernel's counter would miss them otherwise."""
    numeric = [node.ipv4 for node in bundled() if node.ipv4 and node.ipv4[0].isdigit()]
    assert numeric
    assert all(IPv4Address(address).is_global for address in numeric)
