"""What doctor finds by itself: rules of the firewall, files of earlier runs, a range that is public."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunfwd.cli import firewall
from tunfwd.files import previous
from tunfwd.tox.identity import Identity
from tunfwd.tun import namespace, privileges
from tunfwd.tun.ruleset import Ruleset

from ..tun.test_ruleset import RULESETS
from .samples import IDENTITY, MAPPING

Run = Callable[..., Any]  # conftest.tunfwd
SAVEDATA = b"\0\0\0\0\x1f\x1b\xed\x15" + b"\0\0\0\0\xff\0\xce\x01"  # its last section alone


@pytest.fixture
def checks(tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str]]]:
    """Run doctor, and return what it says of one thing."""
    monkeypatch.setattr(privileges, "check", lambda: None)
    monkeypatch.setattr(namespace, "obstacle", lambda: None)

    def run(name: str, *options: str, **environment: str) -> list[tuple[str, str]]:
        shown = json.loads(tunfwd(*options, "doctor", "--json", **environment).out)
        return [(one["level"], one["detail"]) for one in shown["checks"] if one["name"] == name]

    return run


@pytest.fixture
def device(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A daemon whose contacts reach a service at 9000, one on loopback, and one that is elsewhere."""
    served = MAPPING | {"origin": "local", "target": "localhost:9000", "port": 9000, "sees": "peer"}
    local = served | {"target": "localhost:5000", "sees": "host"}
    elsewhere = served | {"target": "192.0.2.1:9000", "sees": "host"}
    daemon.answers["version"] = {"version": "9.9", "compiled": False, "toxcore": "0.2.23"}
    daemon.answers["doctor"] = {
        "checks": [{"name": "configuration", "ok": True, "level": "ok", "detail": ""}]
    }
    daemon.answers["id"] = IDENTITY | {"device_address": "10.77.0.1", "device_address6": "fd74:756e:6677::1"}
    daemon.answers["ports"] = {"ports": [MAPPING, served, local, elsewhere]}
    monkeypatch.setattr(firewall, "is_here", lambda interface: interface == "tunfwd0")
    monkeypatch.setattr(firewall, "unread_tables", lambda: "")
    return daemon


def rules(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(firewall, "read_rules", lambda: Ruleset(json.dumps(RULESETS[name]["json"])))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("open", []),
        (
            "policy",
            [
                "what contacts send to 9000/tcp of this machine is dropped: "
                "table inet filter, chain input, its policy"
            ],
        ),
        (
            "out",
            [
                "what programs here send to any contact's address is dropped: "
                "table inet filter, chain output, the rule with handle 2"
            ],
        ),
        (
            "device",
            [
                "what any contact's address answers is dropped: "
                "table ip filter, chain INPUT, the rule with handle 2",
                "what contacts send to 9000/tcp of this machine is dropped: "
                "table ip filter, chain INPUT, the rule with handle 2",
            ],
        ),
    ],
)
def test_what_the_firewall_drops_is_said_in_plain_lines(
    device: Any, checks: Any, monkeypatch: pytest.MonkeyPatch, name: str, told: list[str]
) -> None:
    rules(monkeypatch, name)
    found = checks("firewall")
    assert [detail for level, detail in found if level == "error"] == told
    assert bool(told) or [level for level, _ in found] == ["ok"]


def test_rules_that_cannot_be_read_are_no_fault(
    device: Any, checks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(firewall, "read_rules", lambda: "only root may read its rules")
    assert checks("firewall") == [("ok", "not looked at: only root may read its rules")]
    rules(monkeypatch, "open")
    monkeypatch.setattr(firewall, "unread_tables", lambda: "filter")
    assert checks("firewall")[0] == ("warning", "rules of iptables-legacy are not looked at: filter")
    monkeypatch.setattr(firewall, "is_here", lambda interface: False)
    assert checks("firewall") == []


@pytest.mark.parametrize(
    ("script", "said"), [("exit 1", "only root may read its rules"), ("echo nonsense", "cannot be read")]
)
def test_nft_that_refuses_or_says_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\n{script}\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = firewall.read_rules()
    assert isinstance(found, str)
    assert said in found


def test_files_of_earlier_runs_are_looked_at_where_no_daemon_runs(checks: Any, tmp_path: Path) -> None:
    def look() -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = checks("storage", TUNFWD_STATE_DIR=str(tmp_path))
        return found

    identity, state = tmp_path / "identity.tox", tmp_path / "state.json"
    assert look() == []  # nothing there yet
    for data in (SAVEDATA, SAVEDATA):
        Identity(identity).save(data)
    state.write_text('{"schema": 1}')
    assert look() == [("ok", str(tmp_path))]

    identity.write_bytes(SAVEDATA[:-2])
    state.write_text('{"schema": 1, "na')
    cut, broken = look()
    assert cut[0] == broken[0] == "error"
    assert cut[1].startswith("identity.tox is damaged")
    assert cut[1].endswith(": the next start goes back to identity.tox.previous")
    assert broken[1].startswith("state.json is damaged (")
    assert broken[1].endswith("): names and offers are lost")

    previous(identity).write_bytes(b"")
    assert "identity.tox.previous is empty: restore it from a backup" in look()[0][1]


def test_a_public_range_is_remarked_on(checks: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[network]\nrange = "11.0.0.0/16"\n')
    (_, file), (level, remark) = checks("configuration", "--config", str(config))
    assert (file, level) == (str(config), "warning")
    assert "11.0.0.0/16 is of public addresses" in remark


def test_what_stands_in_the_way_of_run_is_no_error(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks("run") == [("ok", "`tunfwd run` can give programs a network of their own")]
    monkeypatch.setattr(namespace, "obstacle", lambda: "chmod it")
    assert checks("run") == [("warning", "`tunfwd run` cannot work for you: chmod it")]
