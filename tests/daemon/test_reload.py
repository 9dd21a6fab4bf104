"""The configuration read again by a daemon that runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tunfwd.config.changes import LIVE, compare
from tunfwd.config.document import load
from tunfwd.config.remarks import public_range
from tunfwd.daemon.commands.reload import Reloading
from tunfwd.daemon.process.logs import Log

from ..tox.simulated_toxcore import Network, installed
from .living import Living, befriend, until

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return installed(monkeypatch)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


class File:
    """A configuration that a daemon is told to read again."""

    def __init__(self, directory: Path, daemon: Living) -> None:
        self.path = directory / "config.toml"
        self.daemon = daemon
        self.read = partial(load, self.path, environ={}, euid=0)
        self.write("")
        self.reloading = Reloading(
            self.read(), self.read, daemon, daemon.state, daemon.nodes, daemon.name, daemon.saver.save
        )
        self.reloading.register(daemon.commands)

    def write(self, text: str) -> None:
        self.path.write_text(f"[tox]\npublic_nodes = false\n{text}")

    async def reload(self, text: str) -> Any:
        self.write(text)
        return await self.daemon.call("reload")

    async def refusal(self, text: str) -> tuple[str, str]:
        self.write(text)
        return await self.daemon.refusal("reload")


async def test_new_rules_hold_from_then_on_and_for_what_waits(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob, Living.running(tmp_path, "alice") as alice:
        await befriend(bob, alice)
        file = File(tmp_path, alice)
        await bob.call("offer.add", to=["alice"], ports=["8080/tcp"], name="web")
        await until(lambda: next(iter(alice.datapath.peers)).session.mappings)
        assert (await alice.call("offer.list"))["offers"][0]["state"] == "pending"
        rule = '[[rule]]\ncontact = "bob"\naction = "accept"\n'
        assert await file.reload(rule) == {
            "file": str(file.path),
            "changed": ["[[rule]]"],
            "restart": [],
            "problems": [],
        }
        await until(lambda: next(iter(bob.datapath.peers)).session.mappings[0].accepted)
        assert [port["name"] for port in (await alice.call("ports"))["ports"]] == ["web"]

        # without the rule it stays accepted; the next one is asked about again
        assert (await file.reload(""))["changed"] == ["[[rule]]"]
        await bob.call("offer.add", to=["alice"], ports=["8081/tcp"], name="other")
        await until(lambda: len(next(iter(alice.datapath.peers)).session.mappings) == 2)
        states = {offer["name"]: offer["state"] for offer in (await alice.call("offer.list"))["offers"]}
        assert states == {"web": "running", "other": "pending"}


async def test_a_wrong_file_changes_nothing_and_says_its_line(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)
        await file.reload('[[rule]]\ncontact = "*"\naction = "deny"\n')
        before = alice.offers.policy
        for text, line in (
            ('[[rule]]\ncontact = "*"\naction = "allow"\n', "line 5: [[rule]] action must be one of"),
            ("[tix]\n", "line 3: [tix] is not known"),
            ("= 1\n", "line 3: invalid statement"),
        ):
            code, message = await file.refusal(text)
            assert code == "configuration"
            assert message.startswith(f"{file.path}, {line}")
            assert alice.offers.policy is before
        file.path.unlink()
        code, message = await alice.refusal("reload")
        assert (code, message) == ("configuration", f"{file.path}: there is no such file")


async def test_what_takes_a_restart_is_named_until_it_is_restarted(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)
        text = 'udp_port = 33500\nnickname = "ally"\n[network]\nmtu = 1400\n[daemon]\nuser = "x"\n'
        for changed in (["[tox] nickname"], []):
            result = await file.reload(text)
            assert result["changed"] == changed
            assert result["restart"] == ["[daemon] user", "[tox] udp_port", "[network] mtu"]
        assert alice.client.name == "ally"
        result = await file.reload("")
        assert (result["restart"], alice.client.name) == ([], "alice")


async def test_nodes_come_and_go(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)

        async def hosts() -> list[str]:
            return [host for node in (await alice.call("nodes"))["nodes"] for host in node["hosts"]]

        result = await file.reload(f'bootstrap = ["10.0.0.1:33445:{KEY}", "10.0.0.2:33445:{KEY}"]\n')
        assert result["changed"] == ["[tox] bootstrap"]
        assert sorted(await hosts()) == ["10.0.0.1", "10.0.0.2"]
        kept = next(r for r in alice.client.joining.records if r.node.hosts == ("10.0.0.2",))
        await file.reload(f'bootstrap = ["10.0.0.2:33445:{KEY}", "10.0.0.3:33445:{KEY}"]\n')
        assert sorted(await hosts()) == ["10.0.0.2", "10.0.0.3"]
        assert kept in alice.client.joining.records
        file.path.write_text(f'[tox]\nnickname = "x"\npublic_nodes = "{tmp_path}/none"\n')
        code, message = await alice.refusal("reload")
        assert (code, message.startswith("[tox] public_nodes: ")) == ("configuration", True)
        assert alice.client.name == "alice"
        assert sorted(await hosts()) == ["10.0.0.2", "10.0.0.3"]


async def test_the_log_says_more_or_less(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)
        with Log("INFO") as writer:
            for level in ("debug", "error"):
                await file.reload(f'[log]\nlevel = "{level}"\n')
                assert writer.level == getattr(logging, level.upper())
                assert logging.getLogger().level <= logging.INFO  # as events are told at any level


async def test_who_is_accepted_by_rule(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob, Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)
        key = bob.client.public_key.hex()
        assert (await file.reload(f'[friends]\nauto_accept = ["{key}"]\n'))["changed"] == [
            "[friends] auto_accept"
        ]
        await bob.call("friend.add", address=alice.address, name="alice")
        await alice.knows("bob")


def test_every_key_that_is_live_is_one_that_the_file_has(tmp_path: Path) -> None:
    """Each is changed by itself, and told by that name."""
    file = tmp_path / "config.toml"
    texts = {
        "[tox] bootstrap": f'[tox]\nbootstrap = ["10.0.0.1:33445:{KEY}"]\n',
        "[tox] relays": f'[tox]\nrelays = ["10.0.0.1:33445:{KEY}"]\n',
        "[tox] public_nodes": "[tox]\npublic_nodes = false\n",
        "[tox] nickname": '[tox]\nnickname = "x"\n',
        "[log] level": '[log]\nlevel = "error"\n',
        "[log] qlog": '[log]\nqlog = "/tmp/traces"\n',
        "[friends] auto_accept": f'[friends]\nauto_accept = ["{KEY}"]\n',
        "[groups] auto_accept": f'[groups]\nauto_accept = ["{KEY}"]\n',
        "[[rule]]": '[[rule]]\ncontact = "x"\naction = "deny"\n',
        "[[expose]]": '[[expose]]\nprotocol = "tcp"\nport = 22\n',
        "[[friend]]": f'[[friend]]\nname = "x"\nkey = "{KEY}"\n',
        "[[group]]": '[[group]]\nname = "x"\ncreate = "public"\n',
        "[[offer]]": '[[offer]]\nports = "80/tcp"\nto = "all"\n',
    }
    assert texts.keys() == LIVE
    file.write_text("")
    before = load(file, environ={}, euid=0)
    for key, text in texts.items():
        file.write_text(text)
        assert compare(before, load(file, environ={}, euid=0)).live == (key,)


async def test_doctor_looks_at_the_file_that_the_daemon_goes_by(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "alice") as alice:
        file = File(tmp_path, alice)
        [check] = await file.reloading.checks()
        assert (check["level"], check["detail"]) == ("ok", str(file.path))
        file.write('[log]\nlevel = "debug"\n[network]\nmtu = 1400\n')
        [check] = await file.reloading.checks()
        assert (check["level"], check["ok"]) == ("warning", True)
        assert "[log] level, [network] mtu changed since it was read: tunfwd reload" in check["detail"]
        file.write("[log]\nnmae = 1\n")
        [check] = await file.reloading.checks()
        assert (check["level"], check["ok"]) == ("error", False)
        assert "[log] nmae is not known" in check["detail"]


async def test_rules_for_nobody_and_a_public_range_are_remarked_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Living.running(tmp_path, "bob") as bob, Living.running(tmp_path, "alice") as alice:
        await befriend(bob, alice)
        await alice.call("group.create", name="lan")
        file = File(tmp_path, alice)
        accept = 'action = "accept"\n'
        known = "".join(
            f'[[rule]]\ncontact = "{whom}"\n{accept}'
            for whom in ("bob", "b*", "*", bob.client.public_key.hex(), "group:lan/*", f"group:lan/{KEY}")
        )
        await file.reload(known)
        assert "means nobody" not in caplog.text
        await file.reload(
            f'{known}[[rule]]\ncontact = "bobb"\n{accept}[[expose]]\nprotocol = "tcp"\nport = 22\n'
            f'contact = "{KEY}"\n[[rule]]\ncontact = "group:LAN/*"\n{accept}'
        )
        told = [record.message for record in caplog.records if "means nobody" in record.message]
        assert told == [
            'the rule for "bobb" means nobody now: no friend has that name or key',
            'the rule for "group:LAN/*" means nobody now: there is no such group here',
            f'the rule for "{KEY.upper()}" means nobody now: no friend has that name or key',
        ]
        checks = await file.reloading.checks()
        assert [check["detail"] for check in checks if "means nobody" in check["detail"]] == told
        await file.reload('[network]\nrange = "11.0.0.0/16"\n')
        assert "11.0.0.0/16 is of public addresses" in caplog.text


@pytest.mark.parametrize(
    ("network", "public"),
    [
        ("10.77.0.0/16", False),
        ("100.64.0.0/16", False),
        ("192.168.0.0/16", False),
        ("198.18.0.0/16", False),
        ("172.0.0.0/8", True),
        ("8.8.0.0/16", True),
    ],
)
def test_public_ranges_are_told_from_others(network: str, public: bool) -> None:
    assert bool(list(public_range(IPv4Network(network)))) == public


async def test_traces_are_switched_on_and_off(tmp_path: Path) -> None:
    async with Living.running(tmp_path, "bob") as bob, Living.running(tmp_path, "alice") as alice:
        await befriend(bob, alice)
        file = File(tmp_path, alice)
        folder = tmp_path / "traces"
        result = await file.reload(f'[log]\nqlog = "{folder}"\n')
        assert (result["changed"], result["problems"]) == (["[log] qlog"], [])
        await bob.call("offer.add", to=["alice"], ports=["8080/tcp"])
        await until(lambda: list(folder.iterdir()))
        (tmp_path / "no-folder").write_text("")
        result = await file.reload(f'[log]\nqlog = "{tmp_path}/no-folder"\n')
        assert result["problems"] == [
            f"[log] qlog: {tmp_path}/no-folder: File exists; the daemon writes below its state directory"
        ]
        (trace,) = folder.iterdir()
        assert '"reason":"stopped"' in trace.read_text()
        assert (await file.reload(""))["changed"] == ["[log] qlog"]
