"""The state directory: power cuts, full disks, and what two friends have after them."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from netns.node import Node
from netns.topology import Topology
from tunfwd.control import api

from .conftest import ask, wait_online_again
from .hosts import TIME, folder_of_daemons
from .test_daemon import fails

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

SOMEBODY = "2B" * 32 + "00000000" + "0000"  # an address; its checksum is zero, as is that of any doubled byte


@pytest.fixture
def node(net: Topology) -> Iterator[Node]:
    """Of eve, not started."""
    with folder_of_daemons() as folder:
        node = Node(net["eve"], folder, {"tox": {"local_discovery": False}})  # it is to find nobody
        yield node
        node.kill()
        assert "Traceback" not in node.log, node.log[-4000:]


@pytest.fixture
def small_disk(node: Node) -> Iterator[Path]:
    """A file system of 256 KiB, with the state directory of the node; it can be filled and emptied."""
    state = node.folder / "state"
    state.mkdir(mode=0o700)
    options = f"size=256k,mode=0700,uid={pwd.getpwnam('tunfwd').pw_uid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", state], check=True, timeout=10)
    yield state
    node.kill()
    subprocess.run(["umount", state], check=True, timeout=10)


def fill(state: Path) -> Path:
    """Leave not a byte; another user's quota would do the same."""
    junk = state / "junk"
    with junk.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    return junk


def test_a_full_disk_is_told_and_nothing_ends(node: Node, small_disk: Path) -> None:
    node.start()
    before = node.identity()["address"]
    junk = fill(small_disk)
    result = node.cli("friend", "add", SOMEBODY, "--name", "bob", check=False)
    assert result.returncode == 1
    assert result.stdout.startswith("the request to bob waits: not connected yet")
    assert "is lost when the daemon ends" in result.stderr
    assert "identity.tox cannot be saved: No space left on device" in result.stderr
    assert "state.json cannot be written: No space left on device" in result.stderr
    assert "No space left" in node.cli("offer", "80/tcp", "--to", "bob", check=False).stderr
    assert node.cli("kill", "80/tcp", check=False).returncode == 1
    assert node.cli("offer", "81/tcp", "--to", "bob", check=False).returncode == 1
    assert "No space left" in node.cli("status").stderr
    doctor = node.cli("doctor", check=False)
    assert doctor.returncode == 1
    assert "ERROR" in doctor.stdout
    assert "No space left" in doctor.stdout
    assert [offer["port"] for offer in ask(node, api.OFFER_LIST)["offers"]] == [81]

    junk.unlink()
    assert "No space left" not in node.cli("status").stderr
    assert node.cli("offer", "82/tcp", "--to", "bob").returncode == 0
    node.kill()
    node.start()
    assert node.identity()["address"] == before
    assert {offer["port"] for offer in ask(node, api.OFFER_LIST)["offers"]} == {81, 82}


def test_a_start_on_a_full_disk(node: Node, small_disk: Path) -> None:
    node.start()
    before = node.identity()["address"]
    node.cli("friend", "add", SOMEBODY, "--name", "bob")
    node.stop()
    fill(small_disk)
    node.start()
    assert node.identity()["address"] == before
    assert [friend["name"] for friend in ask(node, api.FRIEND_LIST)["friends"]] == ["bob"]
    assert "No space left" in node.cli("status").stderr


@pytest.mark.parametrize("damage", ["empty", "zeros", "missing"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_power_cut_costs_at_most_the_last_change(node: Node, damage: str, encrypted: bool) -> None:
    if encrypted:
        (node.folder / "passphrase").write_text("correct horse\n")
        node.configure({"tox": {"passphrase_file": str(node.folder / "passphrase")}})
    node.start()
    before = node.identity()["address"]
    node.cli("friend", "add", SOMEBODY, "--name", "bob")
    node.cli("offer", "80/tcp", "--to", "bob")
    node.stop()
    for name in ("identity.tox", "state.json"):
        path = node.folder / "state" / name
        size = path.stat().st_size
        path.unlink()
        if damage != "missing":
            path.write_bytes(bytes(size if damage == "zeros" else 0))
    node.start()
    assert node.identity()["address"] == before
    assert [friend["name"] for friend in ask(node, api.FRIEND_LIST)["friends"]] == ["bob"]
    assert node.log.count("restored as saved at") == 2
    node.stop()
    node.start()
    assert node.log.count("restored as saved at") == 2


def test_an_identity_that_is_lost_is_an_error_with_a_way_out(node: Node) -> None:
    node.start()
    node.cli("friend", "add", SOMEBODY, "--name", "bob")
    node.stop()
    state = node.folder / "state"
    files = state / "identity.tox", state / "identity.tox.previous"
    whole = files[0].read_bytes()
    for file in files:
        file.write_bytes(b"")
    result = fails(node)
    assert result.returncode == 7
    assert "is empty, and identity.tox.previous is empty; restore it from a backup" in result.stderr
    for file in files:
        file.unlink()
    result = fails(node)
    assert result.returncode == 7
    assert "identity.tox is missing, but state.json beside it knows of 1 contacts" in result.stderr
    assert not any(file.exists() for file in files)
    files[0].write_bytes(whole)
    node.start()


def test_ports_are_where_they_were_after_a_restart(alice: Node, bob: Node) -> None:
    """An offer accepted at a port of its own, and a request for a port that is mapped there already."""
    try:
        bob.cli("offer", "7080/tcp", "--to", "alice", "--name", "restored")
        alice.wait_for(lambda: alice.offer("restored"), TIME, "the offer is there")
        alice.cli("accept", "restored", "--port", "7000")
        refused = alice.cli("request", "7000/tcp", "--from", "bob", check=False)
        assert refused.returncode == 2
        assert "port 7000/tcp" in refused.stderr
        alice.cli("request", "7000/tcp", "--from", "bob", "--port", "7001")
        places = {port["port"] for port in ask(alice, api.PORTS)["ports"]}
        alice.stop()
        alice.start()
        assert {port["port"] for port in ask(alice, api.PORTS)["ports"]} == places >= {7000, 7001}
    finally:
        wait_online_again(alice, bob)
        bob.cli("kill", "restored", check=False)
        alice.cli("kill", "7000/tcp", check=False)
        alice.wait_for(lambda: not ask(alice, api.OFFER_LIST)["offers"], TIME, "nothing is left at alice's")
        bob.wait_for(lambda: not ask(bob, api.OFFER_LIST)["offers"], TIME, "nothing is left at bob's")
