"""ann, ben and cat: hosts on one wire, each with a daemon, and a Tox node for them to meet by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from netns.node import Node
from netns.topology import Topology

from .hosts import folder_of_daemons
from .plain_peer import ToxNode

NAMES: Final = ("ann", "ben", "cat")


@contextmanager
def daemons(tox: Callable[[str, ToxNode], dict[str, Any]]) -> Iterator[tuple[list[Node], Topology, Path]]:
    """Run them, with what `tox` returns for each name in [tox]; yields their hosts and folder, too.

    At the end no daemon's log may have a traceback.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_daemons())
        net = stack.enter_context(Topology([*NAMES, "node"]))
        node = stack.enter_context(ToxNode(net["node"], folder / "node.tox"))
        nodes = []
        for name in NAMES:
            (folder / name).mkdir()
            settings = {"tox": {"local_discovery": False, **tox(name, node)}}
            nodes.append(stack.enter_context(Node(net[name], folder / name, settings)))
        yield nodes, net, folder
        for one in nodes:
            assert "Traceback" not in one.log, one.log[-4000:]
