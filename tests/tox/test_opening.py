"""libtoxcore called by compiled code and by cffi alone: one library to whoever calls it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tunfwd.tox.binding.native import builder

# An old libtoxcore: it has a version, an instance that says one thing, and no groups.
OLD = """
#include <stdint.h>
#include <stddef.h>
int sodium_mlock(void *, size_t);
int sodium_munlock(void *, size_t);
typedef void said(void *, uint32_t, const uint8_t *, size_t, void *);
static said *callbacks[2];
static char nodes[2];
static int made;
uint32_t tox_version_major(void) { return 0; }
uint32_t tox_version_minor(void) { return 2; }
uint32_t tox_version_patch(void) { return 18; }
void *tox_new(const void *options, uint32_t *error) { *error = 0; return &nodes[made++]; }
void tox_kill(void *tox) { }
void tox_callback_friend_lossy_packet(void *tox, said *callback) {
    callbacks[(char *)tox - nodes] = callback;
}
void tox_callback_self_connection_status(void *tox, said *callback) { }
void tox_callback_friend_request(void *tox, said *callback) { }
void tox_callback_friend_name(void *tox, said *callback) { }
void tox_callback_friend_connection_status(void *tox, said *callback) { }
void tox_callback_friend_lossless_packet(void *tox, said *callback) { }
void tox_callback_conference_invite(void *tox, said *callback) { }
void tox_callback_conference_connected(void *tox, said *callback) { }
void tox_callback_conference_title(void *tox, said *callback) { }
void tox_callback_conference_peer_name(void *tox, said *callback) { }
void tox_callback_conference_peer_list_changed(void *tox, said *callback) { }
uint32_t tox_friend_send_lossy_packet(
    void *tox, uint32_t friend, const uint8_t *data, size_t size, uint32_t *error) {
    *error = size == 1 ? 4 : 0;
    return size != 1;
}
uint32_t tox_friend_send_lossless_packet(
    void *tox, uint32_t friend, const uint8_t *data, size_t size, uint32_t *error) {
    return 0;
}
void tox_iterate(void *tox, void *data) {
    uint8_t packet[] = "\\xc8hello";
    int locked = sodium_mlock(packet, sizeof(packet) - 1);
    callbacks[(char *)tox - nodes](tox, 7 + locked, packet, sizeof(packet) - 1, NULL);
    sodium_munlock(packet, sizeof(packet) - 1);
    callbacks[(char *)tox - nodes](tox, 8, packet, 3, NULL);
}
"""

SODIUM = """
#include <stddef.h>
int sodium_mlock(void *address, size_t size) { return 100; }
int sodium_munlock(void *address, size_t size) { return 0; }
"""

BEGIN = """
import json, sys
from tunfwd.tox import binding
if sys.argv[1]:
    binding.__path__.insert(0, sys.argv[1])
else:
    sys.modules["tunfwd.tox.binding._native"] = None
from tunfwd.tox.binding import cdef
cdef.SONAME = sys.argv[2]
from tunfwd.tox import version
"""

USE = """
from tunfwd.tox.binding import opening
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.binding.instance import Tox_Ptr

heard = []
class Node(Tox_Ptr):
    def __init__(self, who):
        self.who = who
        super().__init__()
    def handle_friend_lossy_packet(self, friend, data):
        heard.append((self.who, friend, data.hex()))
        if self.who == "c":
            raise KeyError(friend)

with Node("a") as a, Node("c") as b:
    a.iterate()
    a.friend_send_lossy_packet(1, b"two")
    try:
        a.friend_send_lossy_packet(1, b"1")
    except ToxError as error:
        refused = type(error).__name__
    try:
        b.iterate()
    except* KeyError as raised:
        failed = len(raised.exceptions)
print(json.dumps({
    "mode": opening.MODE, "heard": heard, "refused": refused, "failed": failed,
    "missing": version.inspect().missing,
    "kept": sum(map(len, opening._handlers.values())),
}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled module, and an old libtoxcore."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("native")
    builder().compile(tmpdir=str(folder))
    for name, source, needed in (("sodium", SODIUM, []), ("toxcore", OLD, [str(folder / "libsodium.so")])):
        made = ["-o", str(folder / f"lib{name}.so"), f"-Wl,-rpath,{folder}"]
        command = ["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-x", "none", *needed, *made]
        subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return folder


def used(
    library: Path | str, module: Path | str, code: str = USE, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BEGIN + code, str(module), str(library)]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.mark.parametrize("mode", ["api", "abi"])
def test_both_ways_are_one(built: Path, mode: str) -> None:
    result = used(built / "libtoxcore.so", built / "tunfwd/tox/binding" if mode == "api" else "")
    assert result.returncode == 0, result.stderr
    # Compiled, buffers are locked by asking nobody, and wiped; else by libsodium, here one that does neither.
    first, then = (7, "000000") if mode == "api" else (107, "c86865")
    said = [[first, "c868656c6c6f"], [8, then]]
    assert json.loads(result.stdout) == {
        "mode": mode,
        "heard": [[name, *one] for name in "ac" for one in said],
        "refused": "FriendCustomPacketInvalid",
        "failed": 2,
        "missing": ["groups", "encrypted identities"],
        "kept": 0,
    }


@pytest.mark.parametrize("mode", ["api", "abi"])
def test_no_library_is_said_alike(built: Path, mode: str) -> None:
    result = used("libtoxcore.so.none", built / "tunfwd/tox/binding" if mode == "api" else "")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "ToxcoreUnusable: libtoxcore.so.none cannot be loaded (" in last
    assert "Install libtoxcore 0.2.19 or newer" in last


@pytest.mark.toxnet
def test_toxcore_asks_the_compiled_module_to_lock_memory(built: Path) -> None:
    code = (
        "import sys; from tunfwd.tox import binding; binding.__path__.insert(0, sys.argv[1])\n"
        "from tunfwd.tox.binding.opening import MODE, load; assert MODE == 'api'; load()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(built / "tunfwd/tox/binding")],
        env=os.environ | {"LD_DEBUG": "bindings", "LD_BIND_NOW": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for name in ("sodium_mlock", "sodium_munlock"):
        bound = [line for line in result.stderr.splitlines() if "libtoxcore" in line and f"`{name}'" in line]
        assert bound
        assert all("/_native" in line.partition(" to ")[2] for line in bound)


@pytest.fixture(scope="module")
def versions(built: Path) -> Path:
    """A folder with a libtoxcore for each of its minor versions 18 and 19, in a folder `lib` of that name."""
    for patch in ("18", "19"):
        into = built / patch / "lib"
        into.mkdir(parents=True)
        source = OLD.replace("return 18;", f"return {patch};")
        options = ["-shared", "-fPIC", "-w", "-Wl,-soname,libtoxcore.so.2", f"-Wl,-rpath,{built}"]
        command = ["cc", *options, "-o", str(into / "libtoxcore.so.2"), "-x", "c", "-"]
        command += ["-x", "none", str(built / "libsodium.so")]
        subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return built


@pytest.mark.parametrize("mode", ["api", "abi"])
@pytest.mark.parametrize(
    ("system", "beside", "taken"),
    [("18", "19", "0.2.19"), ("19", "18", "0.2.19"), ("18", "", "0.2.18"), ("", "19", "0.2.19")],
)
def test_the_library_beside_the_program_is_for_a_system_without_groups(
    versions: Path, mode: str, system: str, beside: str, taken: str
) -> None:
    name = "libtoxcore.so.2" if system else "libtoxcore.so.none"
    if beside and not system:
        shutil.copy(versions / beside / "lib/libtoxcore.so.2", versions / beside / "lib" / name)
    result = used(
        name,
        versions / "tunfwd/tox/binding" if mode == "api" else "",
        f"sys.prefix = {str(versions / beside) if beside else '/none'!r}; print(version.inspect().text)",
        LD_LIBRARY_PATH=str(versions / system / "lib") if system else "",
    )
    assert result.stdout.strip() == taken, result.stderr
