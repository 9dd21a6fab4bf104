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


def test_everybody_reaches_the_server_and_nothing_is_left() -> None:
    with subprocess.Popen(
        GAME_NIGHT, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as night:
        output, _ = night.communicate(timeout=110)
    assert night.returncode == 0, output
    rows = [line.split() for line in output.splitlines() if "LAN party" in line]
    assert [row[0] for row in rows] == ["player1", "player2"]
    assert len({row[1] for row in rows}) == 1  # the address follows the host's key, on every machine
    assert "All of it worked" in output
    assert left_behind(night.pid) == []


@pytest.mark.parametrize(
    "after", ["player2$ tunfwd daemon", "host$ tunfwd offer", "player2$ tunfwd group join"]
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
        rest, _ = night.communicate(timeout=30)
    assert night.returncode == 130, rest
    assert rest.endswith("game-night: interrupted\n")
    assert left_behind(night.pid) == []
