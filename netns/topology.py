"""Hosts joined by a switch, each a network namespace of its own.

    with Topology(["alice", "bob"]) as net:
        net["bob"].start(["python3", "-m", "http.server", "80"])
        print(net["alice"].run(["curl", "-s", f"http://{net['bob'].address}/"]).stdout)

Each host has a loopback and one interface, `eth0`. They meet at a bridge in one more namespace, or, when the
link between them is to be worse than perfect, at the emulator (emulator.py). The machine's own namespace is
not touched, and from within a host nothing but the other hosts can be reached.

Namespaces are named tunfwd-LABEL-HOST. A topology that belongs to a process carries its pid in the label, so
that the next one to be made can sweep away what a killed process left; one with a label given by a person
stays until it is taken down.
"""

import dataclasses
import ipaddress
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyroute2 import IPRoute, config, netns

from netns.control import ask
from netns.emulator import INTERFACE
from netns.link import Conditions

PREFIX = "tunfwd-"
SWITCH = "switch"  # the namespace of the bridge; no host may be called so
SUBNET = ipaddress.IPv4Network("192.168.77.0/24")
RUN_DIR = Path("/run/tunfwd-netns")  # a folder for each topology
PROJECT = Path(__file__).resolve().parent.parent

NAME = re.compile(r"[a-z0-9]{1,24}")
OWNED_LABEL = re.compile(r"p(\d+)x(\d+)")  # pid and a number within that process

STOP_TIME = 3.0  # s that processes are given to end before they are killed
START_TIME = 10.0  # s for the emulator to come up

# pyroute2 forks to open a socket in a namespace, and ends that child with SIGTERM. Should this process
# handle SIGTERM by unwinding, so would the child, and take away the half-made topology: it gets the default.
config.disable_mp_signal = True

_numbers = count(1)
_own_labels: set[str] = set()


class TopologyError(Exception):
    """The topology asked for cannot be made, or is not there; the message is meant for a person."""


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace, in which commands run."""

    name: str
    namespace: str
    interface: ipaddress.IPv4Interface

    @property
    def address(self) -> ipaddress.IPv4Address:
        """Where the other hosts reach this one."""
        return self.interface.ip

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as a command that runs inside; the process keeps its pid."""
        return ["ip", "netns", "exec", self.namespace, *map(str, argv)]

    def run(
        self, argv: Sequence[str | Path], *, timeout: float = 60.0, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, output captured as text; `timeout` in seconds. Raises as subprocess.run does."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
        result: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(argv), timeout=timeout, check=check, **options
        )
        return result

    def start(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start in the background. It is ended with the topology at the latest."""
        process = subprocess.Popen(self.command(argv), **{"stdin": subprocess.DEVNULL, **options})
        inodes = {Path("/run/netns", self.namespace).stat().st_ino}
        while process.poll() is None and not _is_in(inodes, Path(f"/proc/{process.pid}")):
            time.sleep(0.001)  # until `ip` has entered the namespace: before, destroy() would not find it
        return process


class Topology:
    """Named hosts on one subnet, made on entry and gone on exit together with all that runs in them.

    With `conditions` the hosts are joined by the emulator, otherwise by a bridge. With a `label` the topology
    outlives this process, until destroy(label).
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        conditions: Conditions | None = None,
        seed: int = 0,
        subnet: ipaddress.IPv4Network = SUBNET,
        label: str | None = None,
    ) -> None:
        for name in hosts:
            if not NAME.fullmatch(name) or name == SWITCH:
                raise TopologyError(f"not a name for a host: {name!r} (lower-case letters and digits)")
        if label is not None and (not NAME.fullmatch(label) or OWNED_LABEL.fullmatch(label)):
            raise TopologyError(f"not a label to use: {label!r} (lower-case letters and digits)")
        if len(set(hosts)) < len(hosts) or not 1 <= len(hosts) <= subnet.num_addresses - 2:
            raise TopologyError(f"hosts need different names, and {subnet} must have room for them")
        self.label = label or f"p{os.getpid()}x{next(_numbers)}"
        self.kept = label is not None
        self.conditions = conditions
        self.seed = seed
        self.hosts = [
            Host(
                name,
                namespace(self.label, name),
                ipaddress.IPv4Interface((subnet.network_address + number, subnet.prefixlen)),
            )
            for number, name in enumerate(hosts, start=1)
        ]
        self._emulator: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """For the files of what runs in the hosts: only root lists it, and it goes away with them."""
        return folder(self.label)

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def create(self) -> None:
        """Make it all, or nothing. Raises TopologyError."""
        sweep()
        if self.label in labels():
            raise TopologyError(f"there is one of that name already: {self.label}")
        _own_labels.add(self.label)
        try:
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            for host in self.hosts:
                netns.create(host.namespace)
            self._join()
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """End all that runs in the hosts, and take them away."""
        destroy(self.label)
        if self._emulator is not None:
            if self._emulator.stdin is not None:
                self._emulator.stdin.close()  # without its owner it ends
            try:
                self._emulator.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                self._emulator.kill()
                self._emulator.wait()
            self._emulator = None
        _own_labels.discard(self.label)

    def _join(self) -> None:
        """Give the hosts their interfaces."""
        if self.conditions is None:
            self._join_by_bridge()
        else:
            self._join_by_emulator(self.conditions)
        for number, host in enumerate(self.hosts, start=1):
            _configure(host, mac=f"02:00:00:00:00:{number:02x}")

    def _join_by_bridge(self) -> None:
        switch = namespace(self.label, SWITCH)
        netns.create(switch)
        with IPRoute(netns=switch) as ip:
            ip.link("add", ifname="bridge", kind="bridge")
            [bridge] = ip.link_lookup(ifname="bridge")
            ip.link("set", index=bridge, state="up")
            for number, host in enumerate(self.hosts, start=1):
                port = f"port{number}"
                ip.link(
                    "add", ifname=port, kind="veth", peer={"ifname": INTERFACE, "net_ns_fd": host.namespace}
                )
                [index] = ip.link_lookup(ifname=port)
                ip.link("set", index=index, master=bridge, state="up")

    def _join_by_emulator(self, conditions: Conditions) -> None:
        settings = {
            "control": str(control_path(self.label)),
            "hosts": {host.name: host.namespace for host in self.hosts},
            "conditions": dataclasses.asdict(conditions),
            "seed": self.seed,
            "keep": self.kept,
        }
        self._emulator = subprocess.Popen(
            [sys.executable, "-m", "netns.emulator", json.dumps(settings)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL if self.kept else subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the owner first
        )
        assert self._emulator.stdout is not None
        with self._emulator.stdout as output:
            readable, _, _ = select.select([output], [], [], START_TIME)
            if not readable or output.readline() != b"ready\n":
                raise TopologyError("the link emulator did not start")
        if self.kept:  # it has put itself into the background
            self._emulator.wait(STOP_TIME)
            self._emulator = None


def _configure(host: Host, *, mac: str) -> None:
    with IPRoute(netns=host.namespace) as ip:
        [loopback] = ip.link_lookup(ifname="lo")
        ip.link("set", index=loopback, state="up")
        [interface] = ip.link_lookup(ifname=INTERFACE)
        ip.link("set", index=interface, address=mac)
        ip.addr("add", index=interface, address=str(host.address), prefixlen=host.interface.network.prefixlen)
        ip.link("set", index=interface, state="up")


# --- what is there, and taking it away ----------------------------------------------------------------------


def namespace(label: str, host: str) -> str:
    """The name of a host's network namespace, as `ip netns` shows it."""
    return f"{PREFIX}{label}-{host}"


def folder(label: str) -> Path:
    """Where a topology keeps what it needs while it is there."""
    return RUN_DIR / label


def control_path(label: str) -> Path:
    """The control socket of the label's emulator; absent where a bridge joins the hosts."""
    return folder(label) / "link.sock"


def namespaces() -> Iterator[tuple[str, str, str]]:
    """Label, host and name of every namespace that was made here; the switch is one of the hosts."""
    for name in sorted(netns.listnetns()):
        label, dash, host = name.removeprefix(PREFIX).partition("-")
        if name.startswith(PREFIX) and dash and NAME.fullmatch(label) and NAME.fullmatch(host):
            yield label, host, name


def labels() -> set[str]:
    """Of all topologies on this machine, or what is left of them."""
    folders = {entry.name for entry in RUN_DIR.iterdir()} if RUN_DIR.is_dir() else set()
    return {label for label, _, _ in namespaces()} | {name for name in folders if NAME.fullmatch(name)}


def sweep() -> None:
    """Take away what processes left that were killed before they could."""
    for label in labels():
        owned = OWNED_LABEL.fullmatch(label)
        if owned and label not in _own_labels and not _owner_lives(int(owned[1])):
            destroy(label)


def _owner_lives(pid: int) -> bool:
    # A label with our own pid that this process does not know is from one that had the pid before.
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def destroy(label: str) -> None:
    """Take a topology away, whoever made it, and end what runs in it. Nothing happens if it is not there."""
    ours = [name for its_label, _, name in namespaces() if its_label == label]
    _end_processes(ours)
    with suppress(OSError):
        ask(control_path(label), {"quit": True})
    shutil.rmtree(folder(label), ignore_errors=True)
    for name in ours:
        with suppress(FileNotFoundError):  # somebody else sweeps too
            netns.remove(name)


def _end_processes(names: Iterable[str]) -> None:
    """SIGTERM, some time, SIGKILL: to all processes in these namespaces, but never to ourselves."""
    inodes = set()
    for name in names:
        with suppress(OSError):
            inodes.add(Path("/run/netns", name).stat().st_ino)
    deadline = time.monotonic() + STOP_TIME
    told: set[int] = set()
    while pids := _processes_in(inodes):
        late = time.monotonic() > deadline
        for pid in pids if late else pids - told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told |= pids
        if time.monotonic() > deadline + STOP_TIME:
            return  # not even SIGKILL helps: stuck in the kernel, or a zombie whose parent does not wait
        time.sleep(0.02)


def _processes_in(inodes: set[int]) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir() if inodes else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _is_in(inodes, entry):
            found.add(int(entry.name))
    return found


def _is_in(inodes: Collection[int], process: Path) -> bool:
    try:
        return (process / "ns/net").stat().st_ino in inodes
    except OSError:
        return False  # it ended while we looked; a zombie has no namespace
