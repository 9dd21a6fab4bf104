"""What the daemons cost: read from /proc."""

from __future__ import annotations

from pathlib import Path

from netns.node import Node


def _process(node: Node) -> Path:
    assert node.daemon is not None
    return Path(f"/proc/{node.daemon.pid}")


def resident(node: Node) -> int:
    """Bytes of memory in use."""
    [line] = [
        line for line in (_process(node) / "status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) * 1024


def descriptors(node: Node) -> int:
    return len(list((_process(node) / "fd").iterdir()))
