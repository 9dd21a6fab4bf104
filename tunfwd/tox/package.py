"""The distribution's package of a library: its version, and what its changelog names as mended.

A distribution mends a hole in the version that it has, so that the number of the library alone says little.
Debian's files are read, while they may be; elsewhere nothing is known.
"""

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DPKG: Final = Path("/var/lib/dpkg")
DOCUMENTS: Final = Path("/usr/share/doc")
MAX_CHANGELOG: Final = 1 << 20  # bytes
MAPS: Final = Path("/proc/self/maps")
OURS: Final = "tunfwd"
"""The package that has a libtoxcore beside the program; its changelog is the program's."""


@dataclass(frozen=True, slots=True)
class Package:
    """One that is installed."""

    name: str
    version: str
    changelog: str | None
    """None: it is not on this machine."""


def of_loaded(library: str) -> Package | None:
    """Return the package whose file this process has loaded as, say, "libtoxcore.so.2"."""
    try:
        found = re.search(rf"(/\S*/{re.escape(library)}\S*)$", MAPS.read_text(), flags=re.M)
        return None if found is None else _of_file(found[1])
    except (OSError, ValueError):  # not this distribution, or not readable
        return None


def _of_file(file: str) -> Package | None:
    for listing in (*DPKG.glob("info/libtox*.list"), *DPKG.glob(f"info/{OURS}.list")):
        if file in listing.read_text().splitlines():
            name = listing.stem.partition(":")[0]
            for entry in (DPKG / "status").read_text(errors="replace").split("\n\n"):
                fields = dict(line.partition(": ")[::2] for line in entry.splitlines())
                if fields.get("Package") == name:
                    known = None if name == OURS else _changelog(name)
                    return Package(name, fields.get("Version", ""), known)
    return None


def _changelog(name: str) -> str | None:
    for file in ("changelog.Debian.gz", "changelog.gz"):
        try:
            with gzip.open(DOCUMENTS / name / file, "rt", errors="replace") as text:
                return text.read(MAX_CHANGELOG)
        except (OSError, EOFError):
            continue
    return None
