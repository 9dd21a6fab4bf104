"""The command line of the hosts, as a person uses it."""

import os
import subprocess
from collections.abc import Iterator

import click
import pytest

from netns.lab import host_names, quantity
from netns.topology import PROJECT, destroy, labels

LABEL = f"pytestlab{os.getpid()}"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("TIME", "25ms", 0.025),
        ("TIME", "1.5s", 1.5),
        ("TIME", "80us", 80e-6),
        ("TIME", "0", 0.0),
        ("RATE", "100mbit", 100e6),
        ("RATE", "0.5Gbit", 500e6),
        ("SHARE", "1%", 0.01),
        ("SHARE", ".25", 0.25),
    ],
)
def test_quantities_are_read_as_si(kind: str, text: str, value: float) -> None:
    assert quantity(kind)(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("TIME", "25"),
        ("TIME", "ms"),
        ("TIME", "-1s"),
        ("TIME", "1e3s"),
        ("RATE", "10ms"),
        ("SHARE", "1ms"),
        ("TIME", ""),
    ],
)
def test_other_quantities_are_refused(kind: str, text: str) -> None:
    with pytest.raises(click.BadParameter):
        quantity(kind)(text)


def test_hosts_are_counted_or_named() -> None:
    assert host_names("3") == ["h1", "h2", "h3"]
    assert host_names("alice,bob") == ["alice", "bob"]


def lab(*arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROJECT / "netns/lab", *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def kept() -> Iterator[tuple[str, str]]:
    destroy(LABEL)
    yield "--label", LABEL
    destroy(LABEL)


@pytest.mark.netns
def test_hosts_stay_from_up_to_down(kept: tuple[str, str]) -> None:
    up = lab("up", "alice,bob", *kept)
    assert (up.returncode, up.stdout) == (0, "alice\t192.168.77.1/24\nbob\t192.168.77.2/24\n")
    ping = lab("run", *kept, "alice", "ping", "-c", "1", "192.168.77.2")
    assert ping.returncode == 0
    assert "1 received" in ping.stdout
    assert f"{LABEL}\tbob\ttunfwd-{LABEL}-bob" in lab("show").stdout.splitlines()
    assert lab("run", *kept, "alice", "sh", "-c", "exit 7").returncode == 7
    assert "no such host: carol" in lab("run", *kept, "carol", "true").stderr
    assert "no link" in lab("link", *kept, "--delay", "1ms").stderr
    assert lab("up", "2", *kept).returncode == 1
    assert lab("down", *kept).returncode == 0
    assert LABEL not in labels()


@pytest.mark.netns
def test_link_is_changed_while_it_runs(kept: tuple[str, str]) -> None:
    assert lab("up", "2", "--delay", "1ms", *kept).returncode == 0
    first, second = lab("link", *kept, "h1", "--delay", "30ms", "--loss", "1%").stdout.splitlines()
    assert first.startswith("h1\tdelay=0.03 ")
    assert " loss=0.01 " in first
    assert second.startswith("h2\tdelay=0.001 ")
    assert "up=False" in lab("link", *kept, "h2", "--cut").stdout.splitlines()[1]
    assert lab("run", *kept, "h1", "ping", "-c", "1", "-W", "1", "192.168.77.2").returncode == 1
    assert "no such host: h3" in lab("link", *kept, "h3", "--cut").stderr
    refused = lab("link", *kept, "--loss", "150%")
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        "netns/lab: loss is a probability, from 0 to 100 %",
    )


@pytest.mark.netns
def test_each_host_runs_the_command() -> None:
    result = lab("each", "3", "--", "sh", "-c", "echo $LAB_HOST $LAB_ADDRESS; echo $LAB_HOSTS >&2; exit 4")
    everybody = "h1=192.168.77.1 h2=192.168.77.2 h3=192.168.77.3"
    expected = [f"h{n}: h{n} 192.168.77.{n}" for n in (1, 2, 3)] + [f"h{n}: {everybody}" for n in (1, 2, 3)]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
    assert result.returncode == 4


@pytest.mark.netns
def test_each_stops_after_its_timeout() -> None:
    command = [str(PROJECT / "netns/lab"), "each", "2", "--timeout", "500ms", "sleep", "60"]
    with subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as each:
        assert each.wait(100) == 124
    assert not [label for label in labels() if label.startswith(f"p{each.pid}x")]
