from ipaddress import IPv4Interface, IPv4Network, IPv6Interface

import pytest

from tunfwd.tun import network
from tunfwd.tun.device import Device

from .conftest import OWN4, OWN6
from .namespace import ip, sysctl

pytestmark = pytest.mark.netns

PREFERRED = IPv4Network("10.77.0.0/16")


def neighbour(address: str, name: str = "other0", up: bool = True) -> None:
    ip("link", "add", name, "type", "veth")
    ip("addr", "add", address, "dev", name)
    if up:
        ip("link", "set", name, "up")


# Configuring


def test_the_device_has_its_addresses_and_routes(device: Device) -> None:
    assert "inet 10.77.0.1/16 scope global tunfwd0" in ip("address", "show", device.name)
    assert "inet6 fd12:3456:789a::1/48 scope global" in ip("address", "show", device.name)
    assert "fe80" not in ip("address", "show", device.name)
    assert "qlen 10000" in ip("link", "show", device.name)
    assert "10.77.0.0/16 dev tunfwd0" in ip("route")
    assert "10.77.3.9 dev tunfwd0 src 10.77.0.1" in ip("route", "get", "10.77.3.9")
    assert "dev tunfwd0" in ip("-6", "route", "get", "fd12:3456:789a::77")


@pytest.mark.parametrize("how", ["all", "default"])
def test_ipv6_switched_off(namespace: None, how: str) -> None:
    sysctl(f"net.ipv6.conf.{how}.disable_ipv6", "1")
    device = Device.open("tunfwd0")
    assert network.configure(device.name, OWN4, OWN6) == "IPv6 is switched off (sysctl disable_ipv6)"
    assert "10.77.3.9 dev tunfwd0" in ip("route", "get", "10.77.3.9")
    device.close()


def test_an_mtu_too_small_for_ipv6(namespace: None) -> None:
    device = Device.open("tunfwd0", mtu=1000)
    reason = network.configure(device.name, OWN4, OWN6)
    assert reason is not None
    assert "1280" in reason
    assert "mtu 1000" in ip("link", "show", device.name)
    device.close()


def test_no_such_interface(namespace: None) -> None:
    with pytest.raises(network.NetworkError, match="tunfwd7"):
        network.configure("tunfwd7", OWN4, OWN6)


def test_an_address_that_cannot_be_set(namespace: None) -> None:
    device = Device.open("tunfwd0")
    network.configure(device.name, OWN4, OWN6)
    with pytest.raises(network.NetworkError, match="tunfwd0"):
        network.configure(device.name, OWN4, OWN6)  # it has them already
    device.close()


# Choosing a range


def test_a_free_range_is_taken(device: Device) -> None:
    assert network.choose_range(PREFERRED, device.name) == network.Range(PREFERRED, None)


@pytest.mark.parametrize(
    "address", ["10.77.0.5/16", "10.77.200.5/24", "10.77.255.255/32", "10.76.0.1/15", "10.77.0.1/16"]
)
@pytest.mark.parametrize("up", [True, False])
def test_an_address_elsewhere_moves_the_range(namespace: None, address: str, up: bool) -> None:
    neighbour(address, up=up)
    chosen = network.choose_range(PREFERRED, "tunfwd0")
    assert chosen.network == IPv4Network("10.78.0.0/16")
    assert chosen.conflict == network.Use(IPv4Interface(address).network, "other0")
    assert str(chosen.conflict).endswith(" on other0")


def test_the_far_end_of_a_link_moves_the_range(namespace: None) -> None:
    neighbour("192.168.1.1", up=False)
    ip("addr", "add", "192.168.1.3", "peer", "10.77.1.1/32", "dev", "other0")
    assert network.choose_range(PREFERRED, "tunfwd0").network == IPv4Network("10.78.0.0/16")


@pytest.mark.parametrize("table", ["main", "52"])
@pytest.mark.parametrize(
    "via", [("dev", "other0"), ("nexthop", "via", "192.168.1.2", "nexthop", "via", "192.168.1.3")]
)
def test_a_route_elsewhere_moves_the_range(namespace: None, table: str, via: tuple[str, ...]) -> None:
    neighbour("192.168.1.1/24")
    ip("route", "add", "10.77.4.0/22", "table", table, *via)
    chosen = network.choose_range(PREFERRED, "tunfwd0")
    assert chosen.network == IPv4Network("10.78.0.0/16")
    assert chosen.conflict == network.Use(IPv4Network("10.77.4.0/22"), "other0")


def test_default_routes_and_blackholes_do_not_count(namespace: None) -> None:
    neighbour("192.168.1.1/24")
    for destination in ("default", "0.0.0.0/1", "128.0.0.0/1"):
        ip("route", "add", destination, "via", "192.168.1.2")
    ip("route", "add", "blackhole", "10.0.0.0/8")
    assert network.choose_range(PREFERRED, "tunfwd0").conflict is None


def test_several_ranges_are_taken(namespace: None) -> None:
    neighbour("192.168.1.1/24")
    for second in (77, 78, 79, 81):
        ip("route", "add", f"10.{second}.9.0/24", "dev", "other0")
    assert network.choose_range(PREFERRED, "tunfwd0").network == IPv4Network("10.80.0.0/16")


def test_the_search_goes_round(namespace: None) -> None:
    neighbour("192.168.1.1/24")
    ip("route", "add", "10.64.0.0/10", "dev", "other0")
    ip("route", "add", "10.128.0.0/9", "dev", "other0")
    assert network.choose_range(PREFERRED, "tunfwd0").network == IPv4Network("10.0.0.0/16")


def test_all_of_10_8_is_routed(namespace: None) -> None:
    neighbour("10.1.2.3/8")
    assert network.choose_range(PREFERRED, "tunfwd0").network == IPv4Network("172.16.0.0/16")
    ip("route", "add", "172.16.0.0/12", "dev", "other0")
    assert network.choose_range(PREFERRED, "tunfwd0").network == IPv4Network("100.64.0.0/16")


def test_nothing_is_free(namespace: None) -> None:
    neighbour("192.168.1.1/24")
    for space in network.PRIVATE:
        ip("route", "add", str(space), "dev", "other0")
    with pytest.raises(network.NetworkError, match=r"10\.77\.0\.0/16 overlaps 10\.0\.0\.0/8 on other0"):
        network.choose_range(PREFERRED, "tunfwd0")


@pytest.mark.parametrize(
    ("preferred", "chosen"),
    [("10.77.0.0/20", "10.78.0.0/20"), ("10.64.0.0/12", "10.80.0.0/12"), ("192.168.50.0/24", "10.0.0.0/24")],
)
def test_the_other_range_has_the_same_size(namespace: None, preferred: str, chosen: str) -> None:
    neighbour(f"{IPv4Network(preferred)[5]}/28")
    assert network.choose_range(IPv4Network(preferred), "tunfwd0").network == IPv4Network(chosen)


def test_a_second_device_finds_a_range_of_its_own(device: Device) -> None:
    second = Device.open("tunfwd0")
    chosen = network.choose_range(PREFERRED, second.name)
    assert chosen == network.Range(IPv4Network("10.78.0.0/16"), network.Use(PREFERRED, "tunfwd0"))
    own = IPv4Interface((chosen.network[1], chosen.network.prefixlen))
    assert network.configure(second.name, own, IPv6Interface("fd77::1/48")) is None
    assert "10.78.3.9 dev tunfwd1 src 10.78.0.1" in ip("route", "get", "10.78.3.9")
    second.close()
