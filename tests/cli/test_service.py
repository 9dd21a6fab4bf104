"""`tunfwd service`, on a machine whose systemd is a list of what it was asked."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tunfwd.cli import main, service
from tunfwd.cli.unit import UNIT


class Machine:
    """With systemd, or without."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.fails: dict[str, str] = {}
        self.unit = root / "tunfwd.service"
        self.packaged = root / "packaged.service"
        self.configuration = root / "etc" / "config.toml"
        (root / "booted").mkdir()
        monkeypatch.setattr(service, "RUNNING", root / "booted")
        monkeypatch.setattr(service, "OWN_UNIT", self.unit)
        monkeypatch.setattr(service, "PACKAGED", (self.packaged,))
        monkeypatch.setattr(service, "_make_configuration", lambda file: self.asked.append(f"make {file}"))
        monkeypatch.setattr("tunfwd.cli.service.shutil.which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr("tunfwd.cli.service.subprocess.run", self.run)
        monkeypatch.setattr("tunfwd.cli.service.pwd.getpwnam", lambda name: pwd.getpwuid(0))
        monkeypatch.setattr("tunfwd.cli.service.grp.getgrnam", lambda name: None)
        monkeypatch.setattr(sys, "argv", ["/usr/bin/env"])
        monkeypatch.setattr(sys, "prefix", "/usr")

    def run(self, command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.asked.append(line)
        wrong = self.fails.get(line)
        answer = {"systemctl is-enabled tunfwd.service": "enabled\n"}.get(line, "active\n")
        return subprocess.CompletedProcess(command, 1 if wrong else 0, answer, wrong or "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_unit_names_only_groups_of_calls_that_debian_12_knows() -> None:
    known = {"@system-service", "@resources", "@privileged", "@chown"}  # @sandbox came with systemd 253
    assert set(re.findall(r"@[a-z-]+", UNIT)) <= known
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= set(UNIT.split())


def test_it_is_installed_and_removed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["service", "install"]) == 0
    assert machine.unit.read_text() == UNIT.format(program="/usr/bin/env")
    assert machine.asked == [
        "make /etc/tunfwd/config.toml",
        "systemctl daemon-reload",
        "systemctl enable tunfwd.service",
        "systemctl restart tunfwd.service",
    ]
    assert "usermod -aG tunfwd NAME" in capsys.readouterr().err
    assert main.run(["service", "status"]) == 0
    assert capsys.readouterr().out == f"{machine.unit}: starts at boot, active\n"
    assert main.run(["service", "remove"]) == 0
    assert not machine.unit.exists()
    assert "/var/lib/tunfwd (who you are) and /etc/tunfwd stay" in capsys.readouterr().out
    assert main.run(["service", "remove"]) == 5
    assert main.run(["service", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["service"]["unit"] is None


def test_a_package_s_unit_is_used_and_left(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.packaged.touch()
    assert main.run(["service", "install"]) == 0
    assert not machine.unit.exists()
    assert main.run(["service", "remove"]) == 1
    assert "belongs to a package" in capsys.readouterr().err


def test_without_systemd_it_says_so(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    service.RUNNING.rmdir()
    for command in ("install", "remove"):
        assert main.run(["service", command]) == 1
        assert capsys.readouterr().err.startswith("tunfwd: systemd does not run this machine: ")
    assert main.run(["service", "status"]) == 0
    assert capsys.readouterr().out == "systemd does not run this machine\n"
    assert machine.asked == []


def test_who_is_not_root_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.run(["service", "install"]) == 8
    assert "sudo tunfwd service" in capsys.readouterr().err
    assert machine.asked == []


@pytest.mark.parametrize("prefix", ["/root/.local/pipx/venvs/tunfwd", "/home/x/venv"])
def test_a_program_out_of_reach_is_no_service(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    assert main.run(["service", "install"]) == 1
    assert "pipx install --global tunfwd" in capsys.readouterr().err
    assert not machine.unit.exists()
    assert machine.asked == []


def test_what_systemd_says_is_passed_on(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.fails["systemctl restart tunfwd.service"] = "Job failed.\nSee more."
    assert main.run(["service", "install"]) == 1
    assert capsys.readouterr().err == "tunfwd: systemctl restart tunfwd.service: Job failed.\n"


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = "/usr/bin/systemd-analyze"
    if not Path(analyze).exists():
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "tunfwd.service"
    unit.write_text(UNIT.format(program="/usr/bin/env"))
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
