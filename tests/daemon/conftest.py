"""People whose daemons run in this process, friends of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..tox.simulated_toxcore import Network, installed
from .living import Living, befriend


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return installed(monkeypatch)


@pytest.fixture
async def alice(network: Network, tmp_path: Path) -> AsyncIterator[Living]:
    async with Living.running(tmp_path, "alice") as alice:
        yield alice


@pytest.fixture
async def bob(alice: Living, tmp_path: Path) -> AsyncIterator[Living]:
    """A friend of alice's."""
    async with Living.running(tmp_path, "bob") as bob:
        await befriend(alice, bob)
        yield bob


@pytest.fixture
async def carol(alice: Living, bob: Living, tmp_path: Path) -> AsyncIterator[Living]:
    """Another friend of alice's, whom bob does not know."""
    async with Living.running(tmp_path, "carol") as carol:
        await befriend(alice, carol)
        yield carol
