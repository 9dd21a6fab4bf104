"""`tunfwd events`: what is listed, and what is followed over the daemon's end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import Daemon, Result

Run = Callable[..., Result]

ONLINE = {
    "seq": 7,
    "time": "2026-01-31T12:00:00.000Z",
    "event": "online",
    "text": "bob is online (direct)",
    "contact": "bob",
    "public_key": "AB" * 32,
    "link": "direct",
}


def answer(*events: dict[str, Any], lost: int = 0) -> dict[str, Any]:
    return {"events": list(events), "next": "0a0b0c0d.7.0", "lost": lost}


def test_the_list(tunfwd: Run, daemon: Daemon) -> None:
    daemon.answers["events"] = answer(ONLINE, lost=12)
    result = tunfwd("events", "--kind", "online", "--kind", "offline")
    assert daemon.calls == [("events", {"kinds": ["online", "offline"]})]
    assert result.out.endswith(" online: bob is online (direct)\n")
    assert result.err == "12 events are no longer kept\n"


def test_the_list_as_json(tunfwd: Run, daemon: Daemon) -> None:
    daemon.answers["events"] = answer(ONLINE)
    assert json.loads(tunfwd("events", "--json").out) == {"schema": 1, **answer(ONLINE)}


def test_nothing_yet(tunfwd: Run, daemon: Daemon) -> None:
    daemon.answers["events"] = answer()
    assert tunfwd("events") == Result(0, "", "Nothing has happened yet.\n")


def test_a_kind_that_there_is_not(tunfwd: Run) -> None:
    assert tunfwd("events", "--kind", "sneeze").code == 2


@pytest.fixture
def following(daemon: Daemon, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`tunfwd events --follow --json`, of a daemon that loses some, and fails once."""
    answers: list[Any] = [
        answer(ONLINE),
        answer(ONLINE | {"seq": 9}, lost=1),
        None,
        answer(ONLINE | {"seq": 1}),
    ]

    def told(params: dict[str, object]) -> dict[str, Any]:
        if not answers:
            time.sleep(0.1)
            return answer()
        following = answers.pop(0)
        if following is None:
            raise RuntimeError("the daemon has trouble")
        return dict(following)

    daemon.answers["events"] = told
    with subprocess.Popen(
        [sys.executable, "-m", "tunfwd.cli", "events", "--follow", "--json"],
        env=environment | {"PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_following(following: subprocess.Popen[str], daemon: Daemon) -> None:
    """One object a line, flushed; the reader learns what it has lost; a daemon that fails is asked again."""
    assert following.stdout is not None
    assert following.stderr is not None
    told = [json.loads(following.stdout.readline()) for _ in range(4)]
    assert told == [
        {"schema": 1, **ONLINE},
        {"schema": 1, "lost": 1},
        {"schema": 1, **ONLINE, "seq": 9},
        {"schema": 1, **ONLINE, "seq": 1},
    ]
    assert daemon.calls[0] == ("events", {"new": True, "kinds": []})
    assert daemon.calls[1][1]["after"] == "0a0b0c0d.7.0"
    assert "waiting for it" in following.stderr.readline()
