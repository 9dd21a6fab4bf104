import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface

import pytest

from tunfwd.tun import network
from tunfwd.tun.device import Device
from tunfwd.tun.keeper import Keeper, keep
from tunfwd.tun.upkeep import Layout, set_guards

from .namespace import ip, network_namespace

TIME = 30.0  # s at most
OWN4 = IPv4Interface("10.77.0.1/16")
OWN6 = IPv6Interface("fd12:3456:789a::1/48")


@pytest.fixture
def namespace() -> Iterator[None]:
    with network_namespace():
        yield


@pytest.fixture
def device(namespace: None) -> Iterator[Device]:
    """A device that is up, with addresses, which the kernel takes for its own: IPv6's a moment later."""
    device = Device.open("tunfwd0")
    assert network.configure(device.name, OWN4, OWN6) is None
    deadline = time.monotonic() + TIME
    while "local" not in ip("-6", "route", "get", str(OWN6.ip)):
        assert time.monotonic() < deadline
    yield device
    device.close()


@pytest.fixture
def layout(device: Device) -> Layout:
    """What the device is to have, with its guards."""
    layout = Layout.of(device.name, OWN4, OWN6)
    set_guards(layout)
    return layout


@pytest.fixture
def keeper(layout: Layout) -> Iterator[Keeper]:
    """The process that keeps it so."""
    keeper = keep(layout, lambda: None)
    yield keeper
    keeper.close()
    os.waitpid(keeper.pid, 0)
