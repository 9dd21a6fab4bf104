from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface

import pytest

from tunfwd.tun import network
from tunfwd.tun.device import Device

from .namespace import network_namespace

OWN4 = IPv4Interface("10.77.0.1/16")
OWN6 = IPv6Interface("fd12:3456:789a::1/48")


@pytest.fixture
def namespace() -> Iterator[None]:
    with network_namespace():
        yield


@pytest.fixture
def device(namespace: None) -> Iterator[Device]:
    """A device that is up, with addresses."""
    device = Device.open("tunfwd0")
    assert network.configure(device.name, OWN4, OWN6) is None
    yield device
    device.close()
