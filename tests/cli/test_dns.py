"""`tunfwd dns`: what each resolver is told, and what is written where."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunfwd.cli import dns
from tunfwd.cli.dns import Facts

from .conftest import Result

Run = Callable[..., Result]

IDENTITY: dict[str, Any] = {
    "interface": "tunfwd0",
    "domain": "tunfwd.internal",
    "dns": ["10.77.0.53", "fd74:756e:6677::53"],
}
FACTS = Facts("tunfwd0", "tunfwd.internal", "10.77.0.53", "fd74:756e:6677::53")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folders as of a machine that has dnsmasq alone."""
    monkeypatch.setattr(dns, "_facts", lambda session: FACTS)
    (tmp_path / "dnsmasq").mkdir()
    here = tuple(replace(program, folder=str(tmp_path / program.name)) for program in dns.PROGRAMS)
    monkeypatch.setattr(dns, "PROGRAMS", here)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name == "dnsmasq" else None)
    return tmp_path


def test_it_is_written_shown_and_taken_away(programs: Path, tunfwd: Run) -> None:
    assert "not installed" in tunfwd("dns", "status").out
    assert tunfwd("dns", "install").code == 0
    file = programs / "dnsmasq" / "tunfwd.conf"
    lines = ["server=/tunfwd.internal/10.77.0.53", "server=/77.10.in-addr.arpa/10.77.0.53"]
    assert file.read_text().splitlines() == lines
    assert file.stat().st_mode & 0o777 == 0o644
    [known] = [
        one for one in json.loads(tunfwd("dns", "status", "--json").out)["resolvers"] if one["installed"]
    ]
    assert (known["resolver"], known["current"], known["file"]) == ("dnsmasq", True, str(file))
    file.write_text("server=/tunfwd.internal/10.78.0.53\n")
    assert "out of date" in tunfwd("dns", "status").out
    assert tunfwd("dns", "remove").code == 0
    assert not file.exists()


def test_it_is_only_printed(programs: Path, tunfwd: Run) -> None:
    assert (
        'name: "tunfwd.internal"\n  stub-addr: 10.77.0.53\n'
        in tunfwd("dns", "install", "--for", "unbound", "--print").out
    )
    assert (
        "resolvectl dns tunfwd0 10.77.0.53\n" in tunfwd("dns", "install", "--for", "resolved", "--print").out
    )
    assert not list(programs.glob("*/tunfwd.conf"))


def test_resolved_is_told_by_its_own_program(
    programs: Path, tunfwd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []

    def tell(command: list[str], **_: object) -> Any:
        said.append(command)
        return SimpleNamespace(
            returncode=int(command[1] == "default-route"), stderr="no such link", stdout=""
        )

    monkeypatch.setattr(subprocess, "run", tell)
    failed = tunfwd("dns", "install", "--for", "resolved")
    assert (failed.code, "no such link" in failed.err) == (1, True)
    assert said[:2] == [
        ["resolvectl", "dns", "tunfwd0", "10.77.0.53"],
        ["resolvectl", "domain", "tunfwd0", "~tunfwd.internal", "~77.10.in-addr.arpa"],
    ]


def test_no_resolver_that_is_known(programs: Path, tunfwd: Run) -> None:
    (programs / "dnsmasq").rmdir()
    nothing = tunfwd("dns", "install")
    assert (nothing.code, "docs/names.md" in nothing.err) == (5, True)
