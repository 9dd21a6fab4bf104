"""What others do to the device, and what becomes of it: seen, put back by the keeper, guarded at the end."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from tunfwd.tun import network
from tunfwd.tun.device import Device
from tunfwd.tun.keeper import Keeper, keep
from tunfwd.tun.upkeep import GUARD_METRIC, Layout, inspect, set_guards

from .conftest import OWN4, OWN6
from .namespace import ip, sysctl

pytestmark = pytest.mark.netns

FLUSH = ("addr", "flush", "dev", "tunfwd0")
DAMAGE: list[list[tuple[str, ...]]] = [
    [("link", "set", "tunfwd0", "down")],
    [("link", "set", "tunfwd0", "down"), ("link", "set", "tunfwd0", "up")],
    [FLUSH],
    [("-6", *FLUSH)],
    [("-4", *FLUSH), ("link", "set", "tunfwd0", "down")],
    [("route", "del", "10.77.0.0/16", "dev", "tunfwd0")],
    [("-6", "route", "del", "fd12:3456:789a::/48", "dev", "tunfwd0")],
    [("route", "flush", "proto", "116"), ("-6", "route", "flush", "proto", "116")],
    [("link", "set", "tunfwd0", "down"), ("link", "set", "tunfwd0", "name", "other0")],
]


def soon(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition()
        time.sleep(0.01)


def report(keeper: Keeper) -> str:
    channel = keeper._channel
    readable, _, _ = select.select([channel], [], [], 60)
    assert readable
    return channel.recv(4096).decode()


# Seeing


def test_all_is_well(layout: Layout) -> None:
    assert inspect(layout) == []


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: "; ".join(" ".join(step) for step in damage))
def test_damage_is_seen(layout: Layout, damage: list[tuple[str, ...]]) -> None:
    for step in damage:
        ip(*step)
    assert inspect(layout)


def test_a_deleted_interface_is_seen(layout: Layout) -> None:
    ip("link", "del", "tunfwd0")
    assert inspect(layout) == ["there is no interface tunfwd0 in this network namespace"]


def test_a_rule_that_leads_elsewhere_is_seen(layout: Layout) -> None:
    """As those of VPNs do, whose tables come before the main one."""
    ip("link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
    ip("addr", "add", "192.0.2.1/24", "dev", "vpn0")
    ip("link", "set", "vpn0", "up")
    ip("link", "set", "vpn1", "up")
    ip("route", "add", "default", "dev", "vpn0", "table", "52")
    ip("rule", "add", "lookup", "52", "pref", "100")
    sysctl("net.ipv4.conf.tunfwd0.rp_filter", "1")
    [problem] = inspect(layout)
    assert problem.startswith("a rule or table leads 10.77.0.0/16 to vpn0 instead, and rp_filter = 1 drops")


@pytest.mark.parametrize(
    "taken", [("10.77.4.1/24", "10.77.0.0/16"), ("fd12:3456:789a:5::1/64", "fd12:3456:789a::/48")]
)
def test_a_range_that_another_has_taken_is_seen(layout: Layout, taken: tuple[str, str]) -> None:
    ip("link", "add", "other0", "type", "veth")
    ip("addr", "add", taken[0], "dev", "other0")
    assert any(f"{taken[1]} overlaps" in problem and "other0" in problem for problem in inspect(layout))


def test_ipv6_switched_off_is_said_once(namespace: None) -> None:
    sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    device = Device.open("tunfwd0")
    network.configure(device.name, OWN4, OWN6)
    layout = Layout.of(device.name, OWN4, OWN6)
    set_guards(layout)
    assert inspect(layout) == ["it has no IPv6 (sysctl disable_ipv6)"]
    device.close()


# Putting back


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: "; ".join(" ".join(step) for step in damage))
def test_damage_is_put_back(keeper: Keeper, layout: Layout, damage: list[tuple[str, ...]]) -> None:
    for step in damage:
        ip(*step)
    assert report(keeper).startswith("tunfwd0 was changed; put back: ")
    soon(lambda: not inspect(layout))
    assert inspect(layout) == []


def test_ipv6_comes_back_when_it_is_switched_on(namespace: None) -> None:
    sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    device = Device.open("tunfwd0")
    network.configure(device.name, OWN4, OWN6)
    layout = Layout.of(device.name, OWN4, OWN6)
    keeper = keep(layout, lambda: None)
    time.sleep(0.1)
    sysctl("net.ipv6.conf.tunfwd0.disable_ipv6", "0")
    soon(lambda: "fd12:3456:789a::1/48" in ip("addr", "show", "dev", "tunfwd0"))
    keeper.close()
    os.waitpid(keeper.pid, 0)
    device.close()


def test_who_takes_away_again_and_again_is_not_fought_in_a_loop(keeper: Keeper, layout: Layout) -> None:
    rounds, began = 0, time.monotonic()
    while time.monotonic() - began < 4 or (rounds < 2 and time.monotonic() - began < 60):
        if "10.77.0.1" in ip("addr", "show", "dev", "tunfwd0"):
            rounds += 1
            ip("-4", *FLUSH)
        time.sleep(0.01)
    assert 2 <= rounds <= 9


# The process


def test_it_ends_with_the_daemon_and_holds_nothing_of_it(layout: Layout, device: Device) -> None:
    keeper = keep(layout, lambda: None)
    soon(lambda: len(os.listdir(f"/proc/{keeper.pid}/fd")) < 12)
    held = {os.readlink(f"/proc/{keeper.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{keeper.pid}/fd")}
    assert "/dev/net/tun" not in held
    device.close()
    assert "tunfwd0" not in ip("link")
    keeper.close()
    soon(lambda: os.waitpid(keeper.pid, os.WNOHANG) != (0, 0))


def test_it_has_one_capability_and_heeds_no_signal_meant_for_the_daemon(keeper: Keeper) -> None:
    def capabilities() -> str:
        lines = Path(f"/proc/{keeper.pid}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith("CapEff"))

    soon(lambda: int(capabilities(), 16) == 1 << 12)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper.pid, number)
    ip("-4", *FLUSH)
    assert "put back" in report(keeper)


async def test_its_end_is_noticed(keeper: Keeper) -> None:
    os.kill(keeper.pid, signal.SIGKILL)
    assert await keeper.next_report() is None
    assert not keeper.alive


# The end


def test_without_the_device_the_ranges_are_unreachable(layout: Layout, device: Device) -> None:
    ip("link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    ip("addr", "add", "192.0.2.1/24", "dev", "wan0")
    ip("addr", "add", "2001:db8::1/64", "dev", "wan0", "nodad")
    for name in ("wan0", "wan1"):
        ip("link", "set", name, "up")
    ip("route", "add", "default", "via", "192.0.2.2")
    ip("-6", "route", "add", "default", "via", "2001:db8::2")
    assert "dev tunfwd0" in ip("route", "get", "10.77.3.9")
    device.close()
    for family, address in ((socket.AF_INET, "10.77.3.9"), (socket.AF_INET6, "fd12:3456:789a::9")):
        with (
            socket.socket(family, socket.SOCK_DGRAM) as application,
            pytest.raises(OSError, match=r"No route to host|Network is unreachable"),
        ):
            application.connect((address, 80))


def test_the_guards_are_no_use_of_the_range(layout: Layout, device: Device) -> None:
    device.close()
    assert network.choose_range(OWN4.network, "tunfwd0").conflict is None
    assert network.choose_range(OWN6.network, "tunfwd0").conflict is None


def test_old_guards_go_and_those_of_others_stay(layout: Layout, device: Device) -> None:
    for number in (81, 82):
        destination = f"10.{number}.0.0/16"
        ip("route", "add", "unreachable", destination, "metric", str(GUARD_METRIC), "proto", "116")
    ip("link", "add", "other0", "type", "veth")
    ip("link", "set", "other0", "up")
    ip("addr", "add", "10.82.0.1/16", "dev", "other0")  # a second daemon's
    ip("route", "add", "unreachable", "10.83.0.0/16")  # somebody's
    set_guards(layout)
    routes = ip("route")
    assert "10.81.0.0/16" not in routes
    assert "unreachable 10.82.0.0/16" in routes
    assert "unreachable 10.83.0.0/16" in routes
    assert "unreachable 10.77.0.0/16" in routes


# A second daemon


def test_a_second_device_finds_a_prefix_of_its_own(device: Device) -> None:
    second = Device.open("tunfwd0")
    chosen = network.choose_range(OWN6.network, second.name)
    assert chosen.network == IPv6Network("fd12:3456:789b::/48")
    assert chosen.conflict == network.Use(OWN6.network, "tunfwd0")
    second.close()


def test_the_last_prefix_is_followed_by_the_first(namespace: None) -> None:
    ip("link", "add", "other0", "type", "veth")
    ip("addr", "add", "fdff:ffff:ffff::1/64", "dev", "other0")
    chosen = network.choose_range(IPv6Network("fdff:ffff:ffff::/48"), "tunfwd0")
    assert chosen.network == IPv6Network("fd00::/48")
    assert network.choose_range(IPv4Network("10.77.0.0/16"), "tunfwd0").conflict is None
