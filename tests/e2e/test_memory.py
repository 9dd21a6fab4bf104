"""What daemons hold after very many connections: of the whole process, as the kernel counts it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from .conftest import Forwards
from .processes import descriptors, resident
from .test_programs import running

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet]

CHURN = Path(__file__).with_name("churn.py")
COUNT = 40_000
MAY_GROW = 20 << 20  # bytes
SETTLE = 3.0  # s; TIME_WAIT is one
TOX_SOCKETS = 8  # descriptors; toxcore's connections to relays come and go


@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["auto", "host"])
def test_forty_thousand_connections_leave_nothing(forward: Forwards, source: str, tmp_path: Path) -> None:
    """Ended in order, with the answer, unread and by a reset, at both ends."""
    port = forward(source=source)
    nodes = port.using, port.serving
    client = [sys.executable, str(CHURN), "connect", port.address, str(port.port)]
    serve = [sys.executable, str(CHURN), "serve", str(port.port)]
    with running(port.serving.host, serve, f"-t sport = :{port.port}", tmp_path):
        memory = [resident(node) for node in nodes]
        used = [descriptors(node) for node in nodes]
        result = port.using.host.run([*client, str(COUNT)], timeout=800)
        assert json.loads(result.stdout) == dict.fromkeys("owur", COUNT // 4)
        time.sleep(SETTLE)
        grown = [resident(node) - before for node, before in zip(nodes, memory, strict=True)]
        print(f"grown by {[f'{growth / 1e6:.1f} MB' for growth in grown]}")
        assert max(grown) <= MAY_GROW
        assert all(
            descriptors(node) <= before + TOX_SOCKETS for node, before in zip(nodes, used, strict=True)
        )
        assert port.line["connections"] == 0
