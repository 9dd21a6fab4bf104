"""Which libtoxcore is there, whether it will do, and what to say when it will not.

Used at start, where it refuses, and by `tunfwd doctor` and `tunfwd version`, where it reports.
"""

from dataclasses import dataclass
from typing import Any, Final

from tunfwd.tox.binding.errors import ToxcoreUnusable
from tunfwd.tox.binding.opening import load

Version = tuple[int, int, int]

GROUPS_SINCE: Final[Version] = (0, 2, 19)
FIXED_SINCE: Final[Version] = (0, 2, 23)
ADVISORY: Final = "GHSA-42vg-9mg3-399f"

_NEEDED: Final = {
    "custom packets": ("tox_friend_send_lossless_packet", "tox_friend_send_lossy_packet"),
    "groups": ("tox_group_new", "tox_group_join", "tox_group_send_custom_private_packet"),
    "encrypted identities": ("tox_pass_key_derive_with_salt", "tox_is_data_encrypted"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    version: Version
    missing: tuple[str, ...]
    """Of "custom packets", "groups", "encrypted identities"."""

    @property
    def text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What someone who runs this version should know."""
        if self.version >= FIXED_SINCE:
            return ()
        fixed = ".".join(map(str, FIXED_SINCE))
        return (
            f"libtoxcore {self.text} has a known critical hole, {ADVISORY}, that {fixed} fixes. "
            "Your distribution may have mended it in an update of the same version: "
            "`apt changelog libtoxcore2` says so, `apt install --only-upgrade libtoxcore2` brings it.",
        )


def inspect(lib: Any = None) -> Report:
    """Look at the library. Raises ToxcoreUnusable when it cannot be loaded."""
    lib = lib or load()
    version = (lib.tox_version_major(), lib.tox_version_minor(), lib.tox_version_patch())
    lacking = (what for what, names in _NEEDED.items() if not all(hasattr(lib, name) for name in names))
    missing = tuple(lacking)
    if version < GROUPS_SINCE and "groups" not in missing:
        missing += ("groups",)
    return Report(version, missing)


def require(report: Report, groups: bool) -> None:
    """Raise ToxcoreUnusable, saying what is missing, unless the library will do; `groups`: with groups."""
    missing = [what for what in report.missing if groups or what != "groups"]
    if missing:
        least = ".".join(map(str, GROUPS_SINCE))
        hint = "" if missing != ["groups"] else " To run without groups, set groups = false in [tox]."
        raise ToxcoreUnusable(
            f"libtoxcore {report.text} lacks {', '.join(missing)}: {least} or newer is needed.{hint}"
        )
