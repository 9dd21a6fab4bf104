"""A host with systemd-resolved and a system bus, whose processes see a PID 1 of their own.

resolved is unpacked by scripts/setup, not installed: installed it would take this machine's resolv.conf over.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns.topology import PROJECT, Host

from .hosts import eventually

CLONE_NEWPID = 0x20000000  # linux/sched.h
UNPACKED = PROJECT / ".programs" / "systemd-resolved"
STUB = "127.0.0.53"
USER = "systemd-resolve"
TIME = 20.0  # s to start

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
SETTINGS = "[Resolve]\nDNS=\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nDNSStubListener=yes\n"
SYSTEM = r"""set -e
conf=$(realpath -m /etc/resolv.conf)
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd /run/etc "$(dirname "$conf")"
[ -e "$conf" ] || : >"$conf"
mount --bind "$FOLDER/resolv.conf" "$conf"
mount --bind "$FOLDER/passwd" /etc/passwd
cp "$FOLDER/resolved.conf" /run/etc/
mkdir -p /etc/systemd
mount --bind /run/etc /etc/systemd
mount -t tmpfs tmpfs /usr/local/sbin
printf '#!/bin/sh\nexport LD_LIBRARY_PATH="%s"\nexec "%s" --no-pager "$@"\n' \
    "$LD_LIBRARY_PATH" "$RESOLVECTL" >/usr/local/sbin/resolvectl
chmod 755 /usr/local/sbin/resolvectl
dbus-daemon --config-file="$FOLDER/bus.conf" --nofork --nopidfile --nosyslog &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
while :; do "$RESOLVED" || true; sleep 0.2; done
"""


def program(name: str) -> Path:
    """What scripts/setup has unpacked."""
    found = next(
        (path for path in UNPACKED.rglob(name) if "share" not in path.parts and path.is_file()), None
    )
    assert found is not None, f"no {name}: scripts/setup --test"
    return found


def environment() -> dict[str, str]:
    """With the libraries that came along."""
    return os.environ | {"LD_LIBRARY_PATH": f"{program('libsystemd-shared-*.so').parent}"}


@dataclass(frozen=True, slots=True)
class Machine(Host):
    """A host whose processes have the mounts, and the numbers, that this process has."""

    first: int

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as a command that runs inside; its process is a child of the one that is started."""
        return ["nsenter", f"--target={self.first}", "--mount", "--net", "--pid", "--", *map(str, argv)]

    def start(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start in the background; the process is the one that is signalled, not one beside it."""
        command = ["nsenter", f"--target={self.first}", "--mount", "--net", "--", *map(str, argv)]

        def start() -> subprocess.Popen[Any]:
            numbers = os.open(f"/proc/{self.first}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:  # for the children of this thread, which ends
                assert ctypes.CDLL(None).setns(numbers, CLONE_NEWPID) == 0
            finally:
                os.close(numbers)
            return subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, **options})

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(start).result()

    def number(self, name: str) -> int:
        """Of the process of this name, as it sees itself."""
        return int(self.run(["pidof", "-s", name]).stdout)


@contextmanager
def machine(host: Host, folder: Path) -> Iterator[Machine]:
    """The host as such a machine, with resolved at work."""
    shutil.copy("/etc/passwd", folder / "passwd")
    if f"\n{USER}:" not in (folder / "passwd").read_text():
        with (folder / "passwd").open("a") as users:
            users.write(f"{USER}:x:987:65534::/:/usr/sbin/nologin\n")
    (folder / "resolv.conf").write_text(f"nameserver {STUB}\n")
    (folder / "resolved.conf").write_text(SETTINGS)
    (folder / "bus.conf").write_text(BUS)
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    own += ["env", f"FOLDER={folder}", f"RESOLVED={program('systemd-resolved')}"]
    own += [f"RESOLVECTL={program('resolvectl')}", "sh", "-c", SYSTEM]
    with (folder / "system.log").open("wb") as log:
        outer = host.start(own, env=environment(), stdout=log, stderr=log)
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        first = eventually(lambda: children.read_text().split(), "it has a first process", TIME)[0]
        inside = Machine(host.name, host.namespace, host.interface, int(first))

        def answers() -> bool:
            assert outer.poll() is None, (folder / "system.log").read_text()
            return resolvectl(inside, "status").returncode == 0

        eventually(answers, "resolved answers", TIME)
        yield inside
    finally:
        outer.kill()
        outer.wait()


def resolvectl(inside: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it there."""
    return inside.run(["/usr/local/sbin/resolvectl", *arguments], check=False, timeout=30)
