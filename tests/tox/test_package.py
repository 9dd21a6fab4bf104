"""What the distribution says of the library that it has."""

import gzip
from pathlib import Path

import pytest

from tunfwd.tox import package, version
from tunfwd.tox.package import Package, of_loaded
from tunfwd.tox.version import ADVISORY, Report

FILE = "/usr/lib/x86_64-linux-gnu/libtoxcore.so.2.20.0"
STATUS = """Package: libtoxav
Status: install ok installed
Version: 9.9

Package: libtoxcore2
Status: install ok installed
Depends: libc6 (>= 2.34)
Version: 0.2.20-1+deb13u1
Description: Distributed
 Version: no
"""


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose process has loaded the package's library."""
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "libtoxcore2:amd64.list").write_text(f"/.\n/usr\n{FILE}\n")
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "maps").write_text(f"7f00-7f10 r-xp 00000000 fe:00 1234   {FILE}\n7f10 rw-p 0 0 0 [heap]\n")
    monkeypatch.setattr(package, "DPKG", tmp_path)
    monkeypatch.setattr(package, "DOCUMENTS", tmp_path)
    monkeypatch.setattr(package, "MAPS", tmp_path / "maps")
    return tmp_path


def test_the_package_of_the_library_that_is_loaded(debian: Path) -> None:
    assert of_loaded("libtoxcore.so.2") == Package("libtoxcore2", "0.2.20-1+deb13u1", None)
    assert of_loaded("libother.so") is None
    (debian / "maps").write_text(f"7f00-7f10 r-xp 0 fe:00 1 /opt/tox/lib/{FILE.rpartition('/')[2]}\n")
    assert of_loaded("libtoxcore.so.2") is None  # built by hand


def test_the_library_that_came_with_the_program(debian: Path) -> None:
    beside = "/usr/lib/tunfwd/lib/libtoxcore.so.2.20.0"
    (debian / "info" / "tunfwd.list").write_text(f"/.\n{beside}\n")
    (debian / "status").write_text(f"{STATUS}\nPackage: tunfwd\nVersion: 0.1.0-1\n")
    (debian / "maps").write_text(f"7f00-7f10 r-xp 0 fe:00 1 {beside}\n")
    (debian / "tunfwd").mkdir()
    with gzip.open(debian / "tunfwd" / "changelog.gz", "wt") as text:
        text.write(f"doctor names {ADVISORY}")
    found = of_loaded("libtoxcore.so.2")
    assert found == Package("tunfwd", "0.1.0-1", None)
    [warning] = Report((0, 2, 20), (), found).warnings
    assert "came with the package tunfwd 0.1.0-1" in warning


def test_its_changelog_says_what_is_mended(debian: Path) -> None:
    (debian / "libtoxcore2").mkdir()
    with gzip.open(debian / "libtoxcore2" / "changelog.Debian.gz", "wt") as text:
        text.write(f"libtoxcore (0.2.20-1+deb13u1) trixie-security\n  * Fix {ADVISORY}\n")
    mended = Report((0, 2, 20), (), of_loaded("libtoxcore.so.2"))
    assert mended.warnings == ()
    assert mended.full_text == "0.2.20 (package libtoxcore2 0.2.20-1+deb13u1)"


@pytest.mark.parametrize("changelog", [None, "  * New upstream release\n"])
def test_one_that_is_not_mended_says_the_package_and_the_way_out(changelog: str | None) -> None:
    [warning] = Report((0, 2, 20), (), Package("libtoxcore2", "0.2.20-1", changelog)).warnings
    assert "libtoxcore2 0.2.20-1" in warning
    assert "apt install --only-upgrade libtoxcore2" in warning


def test_another_distribution_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(package, "DPKG", tmp_path / "none")
    assert of_loaded("libc.so.6") is None
    version.inspect()
