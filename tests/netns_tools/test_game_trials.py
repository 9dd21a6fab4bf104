"""Profiles of games, tried with the games: servers, and clients where they run without a screen."""

import subprocess
import sys

import pytest

from netns.topology import PROJECT

from .test_demo import left_behind

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

GAMES = ("bzflag", "freeciv", "openttd")  # what scripts/setup installs


@pytest.mark.timeout(320)
def test_servers_are_found_by_their_own_search_and_clients_play() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "netns.game_trials", *GAMES],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as trials:
        output, _ = trials.communicate(timeout=310)
    assert trials.returncode == 0, output
    rows = {line.split()[0]: line for line in output.splitlines() if line.startswith(GAMES)}
    found = {name: line for name, line in rows.items() if " 10.77." in line}
    assert found.keys() == {*GAMES}, output
    assert "bzadmin joined" in found["bzflag"]
    assert "openttd joined" in found["openttd"]
    assert left_behind(trials.pid) == []
