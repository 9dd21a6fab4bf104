"""The game night: a real game server, offered to a group and played on by all in it."""

import os
import signal
import subprocess
import sys

import pytest

from netns.topology import PROJECT

from .test_demo import left_behind

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

GAME_NIGHT = [sys.executable, "-m", "netns.game_night", "3", "--delay", "0"]


@pytest.mark.timeout(650)
def test_everybody_finds_the_server_through_all_of_it_and_nothing_is_left() -> None:
    with subprocess.Popen(
        GAME_NIGHT, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as night:
        output, _ = night.communicate(timeout=610)
    assert night.returncode == 0, output
    rows = [line.split() for line in output.splitlines() if "LAN party" in line]
    found, again, returned, beside_a_flood = rows[:2], rows[2:4], rows[4:5], rows[5:]
    assert [row[0] for row in found] == [row[0] for row in again] == ["player1", "player2"]
    assert [row[0] for row in returned] == [row[0] for row in beside_a_flood] == ["player1"]
    assert len({row[1] for row in rows}) == 1  # the address follows the host's key, on every machine
    assert "All of it worked" in output
    assert left_behind(night.pid) == []


@pytest.mark.parametrize(
    "after", ["player2$ tunfwd daemon", "host$ tunfwd game host", "player2$ tunfwd group join"]
)
def test_interrupted_it_leaves_nothing(after: str) -> None:
    with subprocess.Popen(
        GAME_NIGHT,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as night:
        assert night.stdout is not None
        assert any(line.startswith(after) for line in night.stdout)
        os.killpg(night.pid, signal.SIGINT)  # as a terminal does
        rest, _ = night.communicate(timeout=60)
    assert night.returncode == 130, rest
    assert rest.endswith("game-night: interrupted\n")
    assert left_behind(night.pid) == []
