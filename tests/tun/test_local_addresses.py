"""Which addresses are this machine's, as they come and go."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
import trio
import trio.testing

from tunfwd.tun.local_addresses import REFRESH, LocalAddresses

from .namespace import ip

pytestmark = pytest.mark.netns


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def local(namespace: None, clock: Clock) -> Iterator[LocalAddresses]:
    ip("link", "add", "other0", "type", "veth")
    ip("link", "set", "other0", "up")
    ip("addr", "add", "192.168.1.2/24", "dev", "other0")
    ip("addr", "add", "10.9.9.1", "peer", "10.9.9.2", "dev", "other0")
    ip("addr", "add", "fd00:1::2/64", "dev", "other0", "nodad")
    with LocalAddresses(clock) as addresses:
        yield addresses


def packed(address: str) -> bytes:
    return ip_address(address).packed


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.168.1.2", "10.9.9.1", "fd00:1::2"])
def test_all_that_interfaces_have(local: LocalAddresses, address: str) -> None:
    assert packed(address) in local


@pytest.mark.parametrize("address", ["192.168.1.7", "10.9.9.2", "fd00:1::7", "192.168.1.255"])
def test_nobody_elses(local: LocalAddresses, address: str) -> None:
    assert packed(address) not in local


def test_a_new_one_is_found_by_asking_again_but_not_too_often(local: LocalAddresses, clock: Clock) -> None:
    assert packed("192.168.1.3") not in local
    ip("addr", "add", "192.168.1.3/24", "dev", "other0")
    assert packed("192.168.1.3") not in local  # asked a moment ago
    clock.now += REFRESH
    assert packed("192.168.1.3") in local


def test_one_that_is_gone_is_forgotten_with_the_next_question(local: LocalAddresses, clock: Clock) -> None:
    ip("addr", "del", "192.168.1.2/24", "dev", "other0")
    clock.now += REFRESH
    assert packed("192.168.1.7") not in local  # asks
    assert packed("192.168.1.2") not in local


async def test_one_that_comes_or_goes_is_heard_of(local: LocalAddresses, nursery: trio.Nursery) -> None:
    """Without a question: the clock stands still."""
    nursery.start_soon(local.follow)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(60):
        ip("addr", "add", "192.168.1.3/24", "dev", "other0")
        while packed("192.168.1.3") not in local:  # noqa: ASYNC110  nothing tells but the kernel
            await trio.sleep(0.01)
        ip("addr", "del", "192.168.1.2/24", "dev", "other0")
        while packed("192.168.1.2") in local:  # noqa: ASYNC110
            await trio.sleep(0.01)
