"""What has changed from one reading of the configuration to the next, and which of it waits for a restart.

Pure: the daemon's commands/reload.py acts on it. A key that nobody named here as live takes a restart, so
that a new key is never said to be in effect where it is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from tunfwd.config.document import Config

LIVE: Final = frozenset(
    {"[tox] bootstrap", "[tox] relays", "[tox] public_nodes", "[tox] nickname"}
    | {"[log] level", "[log] qlog", "[friends] auto_accept", "[groups] auto_accept", "[[rule]]", "[[expose]]"}
    | {"[[friend]]", "[[group]]", "[[offer]]"}
)
"""What takes effect in the running daemon."""

# Where a field of Config is not the file's table of that name.
_WRITTEN: Final = {
    "state": "the state directory",
    "socket": "[control] socket",
    "group": "[control] group",
    "user": "[daemon] user",
    "log_level": "[log] level",
    "qlog": "[log] qlog",
    "auto_accept_friends": "[friends] auto_accept",
    "auto_accept_groups": "[groups] auto_accept",
    "rules": "[[rule]]",
    "exposed": "[[expose]]",
    "hooks": "[[hook]]",
    "declared_friends": "[[friend]]",
    "declared_groups": "[[group]]",
    "declared_offers": "[[offer]]",
}
_UNTOLD: Final = frozenset({"file", "place"})


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys as the file has them, in its order."""

    live: tuple[str, ...]
    restart: tuple[str, ...]
    """What takes effect when the daemon is started again."""


def compare(old: Config, new: Config) -> Changes:
    """Return what the newer configuration changes."""
    changed = list(_changed(old, new))
    return Changes(
        tuple(key for key in changed if key in LIVE), tuple(key for key in changed if key not in LIVE)
    )


def _changed(old: Config, new: Config) -> Iterator[str]:
    for field in fields(Config):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or field.name in _UNTOLD:
            continue
        if is_dataclass(before) and type(before) is type(after):
            yield from (f"[{field.name}] {key}" for key in _differing(before, after))
        else:
            yield _WRITTEN.get(field.name, f"[{field.name}]")


def _differing(before: Any, after: Any) -> Iterator[str]:
    return (f.name for f in fields(before) if getattr(before, f.name) != getattr(after, f.name))
