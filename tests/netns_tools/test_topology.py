"""Hosts in real network namespaces: that they meet, that nobody else does, and that nothing stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import netns

from netns.control import ask
from netns.link import Conditions
from netns.topology import PROJECT, Topology, TopologyError, control_path, destroy, labels, sweep

pytestmark = pytest.mark.netns

# A process that makes hosts, starts something in them and is killed without a chance to tidy up.
OWNER = """
import time
from netns.link import Conditions
from netns.topology import Topology
net = Topology(["a", "b"], conditions=Conditions(delay=0.001) if {emulated} else None)
net.create()
sleeper = net["a"].start(["sleep", "100"])
print(net.label, sleeper.pid, net._emulator.pid if net._emulator else sleeper.pid, flush=True)
time.sleep(100)
"""


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pings(net: Topology, source: str, target: str) -> bool:
    command = ["ping", "-q", "-c", "1", "-W", "2", str(net[target].address)]
    return net[source].run(command, check=False).returncode == 0


@pytest.mark.parametrize("conditions", [None, Conditions()], ids=["bridge", "emulator"])
def test_every_host_reaches_every_other(conditions: Conditions | None) -> None:
    with Topology(["a", "b", "c"], conditions=conditions) as net:
        pairs = [(one, other) for one in "abc" for other in "abc" if one != other]
        assert [pair for pair in pairs if not pings(net, *pair)] == []
    assert net.label not in labels()


def test_hosts_are_cut_off_from_the_machine() -> None:
    with Topology(["a", "b"]) as net:
        own = subprocess.run(
            ["ip", "route", "get", str(net["a"].address)], capture_output=True, text=True, check=False
        )
        assert "bridge" not in own.stdout
        assert "eth0 proto kernel" in net["a"].run(["ip", "route"]).stdout
        assert "default" not in net["a"].run(["ip", "route"]).stdout


def test_topologies_live_side_by_side() -> None:
    with Topology(["a", "b"]) as one, Topology(["a", "b"]) as other:
        assert pings(one, "a", "b")
        other.destroy()
        assert pings(one, "a", "b")


def test_process_keeps_its_pid_and_ends_with_the_topology() -> None:
    with Topology(["a"]) as net:
        process = net["a"].start(["sleep", "100"])
        assert until(lambda: Path(f"/proc/{process.pid}/cmdline").read_text() == "sleep\000100\0")
    assert process.wait(1) == -signal.SIGTERM


def test_process_just_started_ends_with_the_topology() -> None:
    with Topology(["a"]) as net:
        process = net["a"].start(["sleep", "100"])
    assert process.wait(1) == -signal.SIGTERM


def test_process_that_ignores_sigterm_is_killed() -> None:
    with Topology(["a"]) as net:
        script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
        process = net["a"].start(["sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
    assert process.wait(1) == -signal.SIGKILL


def test_everything_goes_when_the_body_fails() -> None:
    with pytest.raises(KeyboardInterrupt), Topology(["a", "b"], conditions=Conditions()) as net:
        raise KeyboardInterrupt
    assert net.label not in labels()
    assert not control_path(net.label).exists()


@pytest.mark.parametrize("emulated", [False, True], ids=["bridge", "emulator"])
def test_what_a_killed_owner_left_is_swept_away(emulated: bool) -> None:
    command = [sys.executable, "-c", OWNER.format(emulated=emulated)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        label, sleeper, emulator = owner.stdout.readline().split()
        sweep()
        assert label in labels(), "what a live process owns is left alone"
        owner.send_signal(signal.SIGKILL)
    sweep()
    assert label not in labels()
    assert not control_path(label).exists()
    assert until(lambda: not running(int(sleeper)) and not running(int(emulator)))


def test_namespaces_of_others_are_left_alone() -> None:
    others = ["other-p1x1-a", "tunfwd", f"xtunfwd-p{2**22 + 1}x1-a"]
    with ExitStack() as stack:
        for name in others:
            netns.create(name)
            stack.callback(netns.remove, name)
        sweep()
        destroy("p1x1")
        assert set(others) <= set(netns.listnetns())


def test_labelled_topology_stays_until_it_is_destroyed() -> None:
    with ExitStack() as stack:
        stack.callback(destroy, "pytest")
        Topology(["a", "b"], label="pytest", conditions=Conditions()).create()
        sweep()
        assert "pytest" in labels()
        with pytest.raises(TopologyError, match="pytest"):
            Topology(["a"], label="pytest").create()
        assert set(ask(control_path("pytest"), {})) == {"a", "b"}
    assert "pytest" not in labels()
    assert not control_path("pytest").exists()


@pytest.mark.parametrize("hosts", [[], ["a", "a"], ["switch"], ["A"], ["a-b"], ["x" * 25], ["a/b"]])
def test_impossible_hosts_are_refused(hosts: list[str]) -> None:
    with pytest.raises(TopologyError):
        Topology(hosts)


@pytest.mark.parametrize("label", ["p1x1", "", "a b", "../x"])
def test_impossible_labels_are_refused(label: str) -> None:
    with pytest.raises(TopologyError):
        Topology(["a"], label=label)


def test_failure_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netns.topology.INTERFACE", "a-name-that-is-too-long-for-linux")
    net = Topology(["a", "b"])
    with pytest.raises(Exception, match=r"."):
        net.create()
    assert net.label not in labels()
    assert os.listdir("/proc/self/fd")  # this process is where it was
