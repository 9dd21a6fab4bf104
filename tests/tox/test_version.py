"""What is said of a library that lacks something."""

from pathlib import Path

import pytest

from tunfwd.tox import version
from tunfwd.tox.binding import cdef, instance, opening, options
from tunfwd.tox.binding.errors import ToxcoreUnusable, ToxError
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Settings
from tunfwd.tox.version import Report


def test_library_here_will_do() -> None:
    report = version.inspect()
    assert report.version >= cdef.GROUPS_SINCE
    assert not report.missing
    version.require(report, groups=True)


def test_old_library_is_refused_unless_without_groups() -> None:
    report = Report((0, 2, 18), ("groups",))
    with pytest.raises(ToxcoreUnusable, match=r"0\.2\.18 lacks groups: 0\.2\.19 .* groups = false"):
        version.require(report, groups=True)
    version.require(report, groups=False)
    with pytest.raises(ToxcoreUnusable, match="lacks custom packets"):
        version.require(Report((0, 1, 0), ("custom packets", "groups")), groups=False)


@pytest.mark.parametrize(
    ("known", "warned"), [((0, 2, 20), True), ((0, 2, 22), True), ((0, 2, 23), False), ((0, 3, 0), False)]
)
def test_known_hole_is_warned_of(known: version.Version, warned: bool) -> None:
    warnings = Report(known, ()).warnings
    assert bool(warnings) is warned
    assert all(version.ADVISORY in warning for warning in warnings)


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdef, "SONAME", "libtoxcore.so.none")
    opening.load.cache_clear()
    try:
        with pytest.raises(ToxcoreUnusable, match=r"libtoxcore\.so\.none .* libtoxcore2"):
            version.inspect()
    finally:
        opening.load.cache_clear()


class Old:
    """A libtoxcore before 0.2.19: our binding, with nothing of groups there."""

    def __init__(self) -> None:
        self._lib = opening.load()

    def __getattr__(self, name: str) -> object:
        if "group" in name:
            raise AttributeError(name)
        return getattr(self._lib, name)


def test_without_groups_everything_else_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Old()
    for module in (opening, instance, options):
        monkeypatch.setattr(module, "load", lambda: old)
    monkeypatch.setattr(version, "inspect", lambda: Report((0, 2, 18), ("groups",)))
    settings = Settings(savedata=tmp_path / "a.tox", groups=False, udp=False, local_discovery=False)
    with Client(settings, Handler()) as client:
        assert len(client.groups) == 0
        with pytest.raises(ToxError, match="no groups"):
            client.groups.create("lan")
        with pytest.raises(ToxError, match="no groups"):
            client.groups.join(bytes(32))
        assert len(client.address) == 76
