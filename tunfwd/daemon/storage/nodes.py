"""The nodes that a person added with `tunfwd nodes update`, in a file beside the daemon's state.

They stand beside the list that comes with the program, and in no place of it. A file that is of no use keeps
nothing from starting: it is said, and left as it is until the next update.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.files import write_whole
from tunfwd.tox import nodes
from tunfwd.tox.nodes import ListedNode, ListError
from tunfwd.tox.settings import NetworkNode

FILE: Final = "nodes.json"

log = logging.getLogger(__name__)


class NodeList:
    """The public nodes: those that came with the program, or stand in its place, and those added."""

    def __init__(self, directory: Path, own: Path | bool) -> None:
        """`own` is what the configuration has as public_nodes. Raises ConfigurationError."""
        self._path = directory / FILE
        self._own = own
        self.added = _read(self._path)
        """What was added, the newest first."""
        try:
            self.public: tuple[NetworkNode, ...] = nodes.public(self.added, own)
            """What we join at; nothing where the configuration says so."""
        except ListError as wrong:
            raise ConfigurationError(f"[tox] public_nodes: {wrong}") from None

    @property
    def is_used(self) -> bool:
        """Whether the configuration lets us join at public nodes."""
        return self._own is not False

    def add(self, newer: Sequence[ListedNode]) -> list[ListedNode]:
        """Add a list, and return the nodes of it that are new or have changed. Raises UserError."""
        known = {(node.public_key, node.ipv4, node.ipv6) for node in self.added}
        fresh = [node for node in newer if (node.public_key, node.ipv4, node.ipv6) not in known]
        merged = nodes.merge(newer, self.added)
        document = {"nodes": [node.document() for node in merged]}
        try:
            write_whole(self._path, json.dumps(document, indent=1).encode() + b"\n", keep=True)
        except OSError as failure:
            raise UserError("failed", f"{self._path} cannot be written: {failure.strerror}") from None
        self.added = merged
        return fresh


def _read(path: Path) -> tuple[ListedNode, ...]:
    if not path.exists():
        return ()
    try:
        return nodes.read_file(path)
    except ListError as wrong:
        log.warning("the nodes added before are not used: %s", wrong)
        return ()
