"""What `tunfwd run` says before anything is changed; tests/e2e/test_rootless.py runs programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("no-such-program", 127, "tunfwd: the program 'no-such-program' is not found\n"),
        ("/", 126, "tunfwd: the program '/' cannot be executed\n"),
        ("true", 3, "tunfwd: no daemon runs"),
    ],
)
def test_what_cannot_be_run(tunfwd: Callable[..., Any], program: str, code: int, message: str) -> None:
    result = tunfwd("run", "--", program, "--json", "-x")
    assert result.code == code
    assert result.err.startswith(message)
