"""What is taken for in use, and for missing, on a simulated kernel: what each of its answers leads to."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from types import SimpleNamespace
from typing import Any

import pytest

from tunfwd.daemon.commands.doctor import Capture, Health
from tunfwd.daemon.process.confinement import Confinement
from tunfwd.tun import network, upkeep
from tunfwd.tun.upkeep import Layout, Restored

from .simulated_kernel import GUARD_PROTOCOL, Kernel, installed

OURS, OTHER = 7, 3
RANGE, RANGE6 = IPv4Network("10.77.0.0/16"), IPv6Network("fd74:756e:6677::/48")
OWN, OWN6 = "10.77.0.1/16", "fd74:756e:6677::1/48"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """With the device as it is to be."""
    kernel = installed(monkeypatch)
    monkeypatch.setattr(socket, "if_indextoname", name_of(kernel))
    kernel.have(OURS, "tunfwd0", OWN, OWN6)
    upkeep.set_guards(LAYOUT)
    return kernel


def name_of(kernel: Kernel) -> Any:
    def name(index: int) -> str:
        if index not in kernel.links:
            raise OSError(errno.ENXIO, "No such device or address")
        return str(kernel.links[index]["ifname"])

    return name


LAYOUT = Layout(OURS, "tunfwd0", IPv4Interface(OWN), IPv6Interface(OWN6))


# Which range is used


def test_a_range_that_nobody_uses_is_taken(kernel: Kernel) -> None:
    """Our own device's does not count, and default routes neither, in halves or whole."""
    for destination in ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"):
        kernel.route("add", dst=destination, oif=OTHER)
    assert network.choose_range(RANGE, "tunfwd0") == network.Range(RANGE, None)


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        (["10.77.3.0/24"], "10.78.0.0/16"),
        (["10.77.3.0/24", "10.78.0.0/15"], "10.80.0.0/16"),
        (["10.77.0.0/16", "10.128.0.0/9", "10.78.0.0/15", "10.80.0.0/12", "10.96.0.0/11"], "10.0.0.0/16"),
        (["10.0.0.0/8"], "172.16.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/12"], "100.64.0.0/16"),
    ],
)
def test_the_next_free_range_is_taken(kernel: Kernel, taken: list[str], chosen: str) -> None:
    kernel.have(OTHER, "eth0", *taken)
    found = network.choose_range(RANGE, "tunfwd0")
    assert found.network == IPv4Network(chosen)
    assert str(found.conflict) == f"{taken[0]} on eth0"


def test_the_next_free_prefix_is_taken(kernel: Kernel) -> None:
    kernel.have(OTHER, "eth0", "fd74:756e:6677:1::/64")
    assert network.choose_range(RANGE6, "tunfwd0").network == IPv6Network("fd74:756e:6678::/48")


def test_no_range_is_left(kernel: Kernel) -> None:
    kernel.have(OTHER, "eth0", "10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "198.18.0.0/15")
    with pytest.raises(network.NetworkError, match="no other of that size is free"):
        network.choose_range(RANGE, "tunfwd0")


def test_a_large_range_is_looked_for_where_there_is_room(kernel: Kernel) -> None:
    kernel.have(OTHER, "eth0", "10.0.0.0/8")
    chosen = network.choose_range(IPv4Network("10.0.0.0/11"), "tunfwd0").network
    assert chosen == IPv4Network("100.64.0.0/11")  # 172.16.0.0/12 is too small for one


def test_routes_by_several_ways_count(kernel: Kernel) -> None:
    kernel.have(OTHER, "eth0")
    kernel.route("add", dst="10.77.0.0/16")
    kernel.routes[-1]["multipath"] = [{"oif": OTHER}]
    assert str(network.choose_range(RANGE, "tunfwd0").conflict) == "10.77.0.0/16 on eth0"


# Setting it up


def test_the_device_is_configured(kernel: Kernel) -> None:
    kernel.have(9, "tunfwd1", up=False)
    assert network.configure("tunfwd1", LAYOUT.ipv4, LAYOUT.ipv6) is None
    assert [one["local"] for one in kernel.addresses if one["index"] == 9] == [
        "10.77.0.1",
        "fd74:756e:6677::1",
    ]
    assert kernel.links[9]["flags"] == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "IPv6 is switched off (sysctl disable_ipv6)"),
        (errno.EAFNOSUPPORT, "this kernel has no IPv6"),
        (errno.EINVAL, "the interface's MTU is below the 1280 bytes that IPv6 needs"),
    ],
)
def test_ipv6_that_cannot_be_had(kernel: Kernel, code: int, reason: str) -> None:
    kernel.refused["IPv6 address"] = code
    assert network.configure("tunfwd0", LAYOUT.ipv4, LAYOUT.ipv6) == reason


@pytest.mark.parametrize("what", ["address", "IPv6 address", "link"])
def test_what_must_not_fail(kernel: Kernel, what: str) -> None:
    kernel.refused[what] = errno.EPERM
    with pytest.raises(network.NetworkError, match="tunfwd0 cannot be configured"):
        network.configure("tunfwd0", LAYOUT.ipv4, LAYOUT.ipv6)
    with pytest.raises(network.NetworkError, match="there is no interface tunfwd7"):
        network.configure("tunfwd7", LAYOUT.ipv4, LAYOUT.ipv6)


# Keeping it


def test_nothing_is_missing(kernel: Kernel) -> None:
    assert upkeep.inspect(LAYOUT) == []
    with kernel as netlink:
        assert upkeep.restore(netlink, LAYOUT) == Restored((), ())


def test_what_others_took_away_is_put_back(kernel: Kernel) -> None:
    kernel.links[OURS]["flags"] = 0
    kernel.addresses.clear()
    kernel.routes.clear()
    problems = upkeep.inspect(LAYOUT)
    assert problems[:3] == [
        "the link is down",
        "10.77.0.1/16 is missing",
        "the route to 10.77.0.0/16 is missing",
    ]
    restored = upkeep.restore(kernel, LAYOUT)
    assert restored.done == (
        "the link, up",
        "10.77.0.1/16",
        "the route to 10.77.0.0/16",
        "the unreachable route behind 10.77.0.0/16",
        "fd74:756e:6677::1/48",
        "the route to fd74:756e:6677::/48",
        "the unreachable route behind fd74:756e:6677::/48",
    )
    assert upkeep.inspect(LAYOUT) == []


def test_what_cannot_be_put_back_is_told_with_its_reason(kernel: Kernel) -> None:
    kernel.routes = [route for route in kernel.routes if route["oif"] is None]
    kernel.refused["route"] = errno.ENETDOWN
    restored = upkeep.restore(kernel, LAYOUT)
    assert restored.done == ()
    assert restored.failed[0] == "the route to 10.77.0.0/16 (Network is down)"
    kernel.refused["route"] = errno.EEXIST  # meanwhile somebody else has done it
    assert upkeep.restore(kernel, LAYOUT) == Restored((), ())


def test_guards_of_earlier_daemons_go_but_not_another_s(kernel: Kernel) -> None:
    kernel.have(OTHER, "tunfwd1", "10.79.0.1/16")
    for dst in ("10.78.0.0/16", "10.79.0.0/16"):
        kernel.route("add", dst=dst, type="unreachable", proto=GUARD_PROTOCOL)
    upkeep.set_guards(LAYOUT)
    guarded = {route["dst"] for route in kernel.routes if route["proto"] == GUARD_PROTOCOL}
    assert guarded == {"10.77.0.0", "10.79.0.0", "fd74:756e:6677::"}


def test_doctor_finds_who_else_wants_the_range(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_rp_filter", lambda name: 1)
    kernel.have(OTHER, "vpn0", "10.77.0.0/24")
    kernel.have(4, "eth0", "fd74:756e:6677::/64")
    assert upkeep.inspect(LAYOUT) == [
        "a rule or table leads 10.77.0.0/16 to vpn0 instead,"
        " and rp_filter = 1 drops what comes from contacts",
        "10.77.0.0/16 overlaps 10.77.0.0/24 on vpn0",
        "a rule or table leads fd74:756e:6677::/48 to eth0 instead",
        "fd74:756e:6677::/48 overlaps fd74:756e:6677::/64 on eth0",
    ]


def test_doctor_without_ipv6_and_without_the_device(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_has_ipv6", lambda name: False)
    assert upkeep.inspect(LAYOUT) == ["it has no IPv6 (sysctl disable_ipv6)"]
    del kernel.links[OURS]
    assert upkeep.inspect(LAYOUT) == ["there is no interface tunfwd0 in this network namespace"]


def test_health_tells_of_the_device_and_its_keeper(kernel: Kernel) -> None:
    keeper: Any = SimpleNamespace(alive=True, sources=())

    def checks(unguarded: str | None = None, capture: Capture | None = None) -> dict[str, tuple[str, str]]:
        health = Health(LAYOUT, keeper, Confinement(4, True), unguarded, capture or Capture())
        assert health.captures == (capture is not None and capture.trouble is None)
        return {check["name"]: (check["level"], check["detail"]) for check in health.checks()}

    fine = checks()
    assert fine["device"] == ("ok", "tunfwd0 is up, with 10.77.0.0/16 and fd74:756e:6677::/48")
    assert fine["neighbours"] == ("ok", "what neighbours send in the name of contacts is dropped")
    assert fine["confinement"][1].endswith("confined by seccomp and Landlock 4")
    assert "keeper" not in fine
    assert "capture" not in fine  # which nobody has asked for
    assert checks(capture=Capture(True))["capture"][0] == "ok"
    refused = checks(capture=Capture(True, "takes nf_tables"))["capture"]
    assert refused == ("warning", "[lan] capture: takes nf_tables")
    keeper.alive = False
    kernel.links[OURS]["flags"] = 0
    wrong = checks("this kernel has no nf_tables")
    assert wrong["device"] == ("error", "tunfwd0: the link is down")
    assert (wrong["keeper"][0], wrong["neighbours"][0]) == ("error", "warning")
    assert wrong["neighbours"][1].endswith("this kernel has no nf_tables")
