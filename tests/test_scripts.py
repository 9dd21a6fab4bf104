"""Scripts for the shell are what it can read: nothing else here runs all of them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELL = [
    path
    for folder in ("scripts", "netns", ".ci")
    for path in sorted((ROOT / folder).iterdir())
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))
]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_the_shell_can_read_it(path: Path) -> None:
    run = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_there_are_such_scripts() -> None:
    assert {"bench", "setup", "test", "run"} <= {path.name for path in SHELL}
