"""scripts/setup on machines that lack something: one clear line, and nothing half done.

The machines are this one with the thing in question hidden from view in a mount namespace. What it does on a
bare Debian is tried by scripts/fresh-machine.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from netns.topology import PROJECT

pytestmark = pytest.mark.netns

SETUP = PROJECT / "scripts/setup"
INSTANT = 5.0  # s
HIDE_APT = "mount --bind /bin/false /usr/bin/apt-get"
HIDE_TOXCORE = (
    'for f in $(ldconfig -p | grep -o "/.*libtoxcore.*"); do mount --bind /dev/null "$(readlink -f $f)"; done'
)


def setup(
    hide: str = "", *, wrapper: tuple[str, ...] = (), script: Path = SETUP
) -> subprocess.CompletedProcess[str]:
    prelude = f'set -e; {hide or ":"}; exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", prelude, "sh", *wrapper, script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why it cannot go on."""
    assert result.returncode == 1, result.stdout
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("setup: cannot go on: ")
    return line.removeprefix("setup: cannot go on: ")


def test_nothing_to_do_is_instant_and_silent() -> None:
    subprocess.run([SETUP], check=True, timeout=60, capture_output=True)
    times: list[float] = []
    while not times or (min(times) > INSTANT and len(times) < 5):  # a busy machine may take longer for one
        before = time.monotonic()
        result = setup()
        if "waiting for another set-up" not in result.stdout:  # else its time is not this one's
            assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
            times.append(time.monotonic() - before)
    assert min(times) < INSTANT


def test_not_root() -> None:
    with tempfile.TemporaryDirectory() as folder:  # where others may look, unlike in this clone perhaps
        clone = Path(folder)
        clone.chmod(0o755)
        (clone / "scripts").mkdir(mode=0o755)
        for name in ("scripts/setup", "pyproject.toml"):
            shutil.copy(PROJECT / name, clone / name)
        result = setup(wrapper=("setpriv", "--reuid=65534", "--clear-groups"), script=clone / "scripts/setup")
    assert complaint(result).startswith("not root")


def test_no_tun_device() -> None:
    result = setup("mount -t tmpfs tmpfs /dev/net")
    assert complaint(result).startswith("no /dev/net/tun")


def test_no_network_namespaces() -> None:
    result = setup(wrapper=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))
    assert complaint(result).startswith("no network namespaces")


def test_no_toxcore_and_no_way_to_get_it() -> None:
    result = setup(f"{HIDE_TOXCORE}; {HIDE_APT}")
    assert "libtoxcore" in complaint(result)


def test_unknown_option() -> None:
    result = subprocess.run([SETUP, "--nonsense"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "scripts/setup --undo" in result.stderr
