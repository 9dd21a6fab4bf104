"""Which libtoxcore is there, whether it will do, and what to say when it will not.

Used at start, where it refuses, and by `tunfwd doctor` and `tunfwd version`, where it reports.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from tunfwd.tox.binding.cdef import GROUPS_SINCE, SONAME
from tunfwd.tox.binding.errors import ToxcoreUnusable
from tunfwd.tox.binding.opening import load
from tunfwd.tox.package import OURS, Package, of_loaded

Version = tuple[int, int, int]

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
    package: Package | None = None
    """The distribution's, if it is known."""

    @property
    def text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    @property
    def full_text(self) -> str:
        """The same, with the package's."""
        package = self.package
        return f"{self.text} (package {package.name} {package.version})" if package else self.text

    @property
    def warnings(self) -> tuple[str, ...]:
        """What someone who runs this version should know."""
        if self.version >= FIXED_SINCE or self._is_mended:
            return ()
        fixed = ".".join(map(str, FIXED_SINCE))
        return (
            f"libtoxcore {self.text} has a known critical hole, {ADVISORY}, that {fixed} fixes. "
            f"{self._way_out}",
        )

    @property
    def _is_mended(self) -> bool:
        """Whether the distribution has, in a package of an older version."""
        return self.package is not None and ADVISORY in (self.package.changelog or "")

    @property
    def _way_out(self) -> str:
        upgrade = "`apt update && apt install --only-upgrade libtoxcore2`"
        if self.package is None:
            return (
                "Your distribution may have mended it in an update of the same version: `apt changelog "
                f"libtoxcore2` says so, {upgrade} brings it."
            )
        if self.package.name == OURS:
            return (
                f"It came with the package tunfwd {self.package.version}: a newer one may bring a newer "
                "library; on Debian 13 `apt install libtoxcore2` does, and that is used."
            )
        what = f"The package here, {self.package.name} {self.package.version},"
        if self.package.changelog is None:
            return f"{what} has no changelog here that would say more: {upgrade} brings the newest."
        return f"{what} does not mend it, as its changelog does not name that: {upgrade} brings the newest."


def inspect(lib: Any = None) -> Report:
    """Look at the library. Raises ToxcoreUnusable when it cannot be loaded."""
    lib = lib or load()
    version = (lib.tox_version_major(), lib.tox_version_minor(), lib.tox_version_patch())
    lacking = (what for what, names in _NEEDED.items() if not all(hasattr(lib, name) for name in names))
    missing = tuple(lacking)
    if version < GROUPS_SINCE and "groups" not in missing:
        missing += ("groups",)
    return Report(version, missing, _package())


@cache
def _package() -> Package | None:
    """Looked for once, early: the daemon may not read everything later."""
    return of_loaded(SONAME)


def require(report: Report, groups: bool) -> None:
    """Raise ToxcoreUnusable, saying what is missing, unless the library will do; `groups`: with groups."""
    missing = [what for what in report.missing if groups or what != "groups"]
    if missing:
        least = ".".join(map(str, GROUPS_SINCE))
        hint = "" if missing != ["groups"] else " To run without groups, set groups = false in [tox]."
        raise ToxcoreUnusable(
            f"libtoxcore {report.text} lacks {', '.join(missing)}: {least} or newer is needed.{hint}"
        )
