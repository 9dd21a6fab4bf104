"""The Debian package: what is in it, what dpkg is told, and that it runs from where it is unpacked.

It is built as scripts/build-deb does, with packages of pip's and apt's: who cannot reach those skips this.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from scripts import build_deb, man_pages
from tunfwd import __version__
from tunfwd.cli.unit import UNIT

pytestmark = [pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(900)]

SYSTEM_PYTHON = Path("/usr/bin/python3")


def said(*command: str | Path, **environment: str) -> str:
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=env).stdout


def reached(*command: str | Path, folder: Path) -> bool:
    return subprocess.run(command, capture_output=True, timeout=300, check=False, cwd=folder).returncode == 0


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deb")
    if not reached(*build_deb.PIP, "download", "--no-deps", "h11", folder=folder):
        pytest.skip("pip reaches no packages")
    if not reached("apt-get", "download", "libtoxcore2", folder=folder):
        pytest.skip("apt reaches no packages")
    (toxcore,) = folder.glob("libtoxcore2_*.deb")
    if not build_deb._reaches(version := field(toxcore, "Version"), build_deb.TOXCORE):
        pytest.skip(f"apt has no libtoxcore with groups, but {version}")
    return build_deb.build(folder, f"{__version__}-7")


@pytest.fixture(scope="module")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    said("dpkg-deb", "--raw-extract", package, folder)
    return folder


def field(package: Path, name: str) -> str:
    return said("dpkg-deb", "--field", package, name).strip()


def test_what_dpkg_is_told(package: Path) -> None:
    assert package.name == f"tunfwd_{__version__}-7_amd64.deb"
    assert field(package, "Package") == "tunfwd"
    assert field(package, "Version") == f"{__version__}-7"
    assert field(package, "Architecture") == "amd64"
    assert re.fullmatch(r".+ <.+@.+>", field(package, "Maintainer"))
    assert int(field(package, "Installed-Size")) > 1000
    depends = field(package, "Depends").split(", ")
    assert depends[:3] == ["python3 (>= 3.11)", "python3 (<< 3.15)", "adduser"]
    assert {one.split()[0] for one in depends} == {
        *("python3", "adduser", "libc6", "libopus0", "libseccomp2", "libsodium23")
    }
    assert field(package, "Recommends") == "libtoxcore2 (>= 0.2.19)"


def test_what_is_in_it(package: Path, tree: Path) -> None:
    inside = {line.split()[5] for line in said("dpkg-deb", "--contents", package).splitlines()}
    assert {
        "./usr/bin/tunfwd",
        "./usr/lib/systemd/system/tunfwd.service",
        "./usr/lib/tunfwd/lib/libtoxcore.so.2",
        "./usr/share/bash-completion/completions/tunfwd",
        "./usr/share/zsh/vendor-completions/_tunfwd",
        "./usr/share/fish/vendor_completions.d/tunfwd.fish",
        "./usr/share/doc/tunfwd/copyright",
        "./usr/share/doc/tunfwd/changelog.gz",
    } <= inside
    for python in build_deb.PYTHONS:
        folder = f"./usr/lib/tunfwd/lib/python{python}/site-packages/"
        tag = f"cpython-{python.replace('.', '')}-x86_64-linux-gnu.so"
        assert {f"{folder}_cffi_backend.{tag}", f"{folder}pytun.{tag}", f"{folder}shared.pth"} <= inside
    assert "./usr/lib/tunfwd/shared/tunfwd/cli/entry.py" in inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith(("./etc", "./var"))]
    owners = {line.split()[1] for line in said("dpkg-deb", "--contents", package).splitlines()}
    assert owners == {"root/root"}
    modes = {line.split()[0] for line in said("dpkg-deb", "--contents", package).splitlines()}
    assert modes <= {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    assert (tree / "usr/lib/systemd/system/tunfwd.service").read_text() == UNIT.format(
        program="/usr/bin/tunfwd"
    )


def test_who_builds_it_is_named_with_or_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEBFULLNAME", "Ann Other")
    monkeypatch.setenv("DEBEMAIL", "ann@example.org")
    assert build_deb.maintainer() == "Ann Other <ann@example.org>"
    monkeypatch.delenv("DEBFULLNAME")
    monkeypatch.delenv("DEBEMAIL")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert re.fullmatch(r"\S+ <\S+@\S+>", build_deb.maintainer())
    assert build_deb._last_change() == (build_deb.PROJECT / "CHANGELOG.md").stat().st_mtime


def test_every_command_has_a_man_page(tree: Path) -> None:
    wanted = {context.command_path.replace(" ", "-") for context in man_pages.commands()}
    assert {file.name for file in (tree / "usr/share/man/man1").iterdir()} == {
        f"{one}.1.gz" for one in wanted
    }


def test_what_root_runs_is_sound(tree: Path) -> None:
    for script in ("postinst", "prerm", "postrm"):
        assert os.access(tree / "DEBIAN" / script, os.X_OK)
        said("sh", "-n", tree / "DEBIAN" / script)
    said("bash", "-n", tree / "usr/share/bash-completion/completions/tunfwd")


def test_every_package_inside_has_its_licence_named(tree: Path) -> None:
    text = (tree / "usr/share/doc/tunfwd/copyright").read_text()
    for name in ("trio", "cffi", "pyroute2", "python-pytun", "libtoxcore", "libvpx"):
        assert re.search(rf"^  {name}\b.*: \w+", text, flags=re.M), name
    assert "see there" not in text


def test_sums_are_of_what_is_there(tree: Path) -> None:
    subprocess.run(("md5sum", "--check", "--quiet", "DEBIAN/md5sums"), cwd=tree, timeout=60, check=True)


@pytest.fixture
def program(tree: Path) -> tuple[Path, Path]:
    """The interpreter of the unpacked environment, and its launcher."""
    version = said(SYSTEM_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    if version not in build_deb.PYTHONS:
        pytest.skip(f"the system's python3 is {version}")
    python = tree / "usr/bin/python3"
    if not python.exists():
        python.symlink_to(SYSTEM_PYTHON)  # the environment's leads there, by a relative link
    return tree / "usr/lib/tunfwd/bin/python3", tree / "usr/bin/tunfwd"


def test_it_runs_from_where_it_is_unpacked(tree: Path, program: tuple[Path, Path]) -> None:
    assert f"tunfwd {__version__}" in said(program[0], "-I", *program[1:], "version")
    code = "import tunfwd, trio, pytun, cffi, sys; print(sys.prefix, tunfwd.__file__, pytun.__file__)"
    for place in said(program[0], "-I", "-c", code).split():
        assert Path(place).is_relative_to(tree / "usr/lib/tunfwd")


def test_the_libtoxcore_inside_does_without_the_systems(tree: Path, program: tuple[Path, Path]) -> None:
    code = (
        "from tunfwd.tox.binding import cdef; cdef.SONAME, own = 'libtoxcore.so.none', cdef.SONAME\n"
        "import pathlib, sys; beside = pathlib.Path(sys.prefix, 'lib')\n"
        "(beside / cdef.SONAME).symlink_to(own)\n"
        "from tunfwd.tox import version; print(version.inspect())\n"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'toxcore' in line or 'vpx' in line})"
    )
    found, maps = said(program[0], "-I", "-c", code).splitlines()
    assert "missing=()" in found
    assert {Path(place).parent for place in maps.split()} == {tree / "usr/lib/tunfwd/lib"}
