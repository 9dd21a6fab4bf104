"""What a confined process can no longer do. Each case is a process of its own: there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunfwd.daemon.process.confinement import seccomp

CONFINE = """
import os, socket, subprocess, sys, threading
from pathlib import Path
import pyprctl
from tunfwd.daemon.process.confinement import confine
pyprctl.set_no_new_privs()
state = Path(sys.argv[1])
held = confine([state])
def attempt(what):
    try:
        what()
    except OSError as error:
        print(type(error).__name__)
    else:
        print("done")
"""


def confined(code: str, state: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CONFINE + code, str(state)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def has_landlock() -> bool:
    probe = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout) > 0


landlock = pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
filtered = pytest.mark.skipif(seccomp is None, reason="libseccomp is not installed")


def test_its_own_files_stay_its_own(tmp_path: Path) -> None:
    code = """
new = state / "new"
new.write_text("x"); os.replace(new, state / "kept"); (state / "kept").write_text("y")
made = socket.socket(socket.AF_UNIX); made.bind(str(state / "s")); os.unlink(state / "s")
os.mkdir(state / "d"); os.rmdir(state / "d")
print((state / "kept").read_text())
"""
    assert confined(code, tmp_path) == ["y"]


@landlock
def test_no_other_file_is_written_and_no_home_read(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "secret").write_text("x")
    code = """
attempt(lambda: open(state.parent / "secret"))
attempt(lambda: open(state.parent / "secret", "w"))
attempt(lambda: open(state.parent / "new", "w"))
attempt(lambda: os.listdir(state.parent))
attempt(lambda: os.rename(state.parent / "secret", state / "taken"))
attempt(lambda: os.symlink("/etc/passwd", state / "link"))
attempt(lambda: open("/etc/tunfwd-test", "w"))
attempt(lambda: open("/etc/passwd", "a"))
attempt(lambda: open("/etc/passwd"))
attempt(lambda: open("/dev/null", "w"))
"""
    output = confined(code, tmp_path / "state")
    assert output == [*["PermissionError"] * 8, "done", "done"]
    assert (tmp_path / "secret").read_text() == "x"


@filtered
def test_no_program_is_started_and_no_namespace_made(tmp_path: Path) -> None:
    code = """
attempt(lambda: subprocess.run(["/bin/true"]))
attempt(lambda: os.execv("/bin/true", ["true"]))
attempt(lambda: os._exit(0) if os.fork() == 0 else None)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), libc.ptrace(0, 0, 0, 0), libc.mount(b"x", b"/", b"tmpfs", 0, None))
"""
    assert confined(code, tmp_path) == [*["PermissionError"] * 3, "-1 -1 -1"]


@filtered
def test_sockets_of_few_kinds(tmp_path: Path) -> None:
    code = """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    attempt(lambda: socket.socket(family, socket.SOCK_STREAM).close())
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close())
attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))
attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET))  # AF_ALG
attempt(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
"""
    assert confined(code, tmp_path) == [*["done"] * 4, *["PermissionError"] * 3]


@filtered
def test_nothing_is_typed_into_the_terminal(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    code = f"""
import fcntl
attempt(lambda: fcntl.ioctl({terminal}, 0x5412, b"x"))
attempt(lambda: fcntl.ioctl({terminal}, 0x5413, bytes(8)))  # its size may be asked
"""
    done = subprocess.run(
        [sys.executable, "-c", CONFINE + code, str(tmp_path)],
        pass_fds=[terminal],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    os.close(master)
    os.close(terminal)
    assert done.stdout.splitlines() == ["PermissionError", "done"]


def test_threads_and_names_go_on(tmp_path: Path) -> None:
    code = """
found = []
def look_up():
    found.append(socket.getaddrinfo("localhost", 80))
thread = threading.Thread(target=look_up); thread.start(); thread.join()
print(bool(found), len(os.listdir("/proc/self/fd")) > 2, held)
"""
    assert confined(code, tmp_path)[0].startswith("True True ")
