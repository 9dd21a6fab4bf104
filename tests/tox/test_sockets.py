"""toxcore's UDP socket is found among others, whatever the family, and a relay's clients with it."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.tox.conftest import Person
from tunfwd.tox.settings import Proxy, Settings
from tunfwd.tox.sockets import (
    Activity,
    SettingUnusable,
    descriptors,
    is_routable,
    port_trouble,
    resolve,
)


@pytest.mark.parametrize("ipv6", [False, True])
def test_each_of_several_instances_finds_its_own(tmp_path: Path, ipv6: bool) -> None:
    with Person(tmp_path, "one", ipv6=ipv6) as one, Person(tmp_path, "two", ipv6=ipv6) as two:
        for person in (one, two):
            assert person._activity.udp is not None
            with socket.socket(fileno=os.dup(person._activity.udp)) as found:
                assert found.getsockname()[1] == person.udp_port
        assert one._activity.udp != two._activity.udp


def test_becomes_readable_when_a_datagram_comes(tmp_path: Path) -> None:
    with Person(tmp_path, "one") as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert not select.select([one._activity], [], [], 0)[0]
        sender.sendto(b"hello", ("127.0.0.1", one.udp_port or 0))
        assert select.select([one._activity], [], [], 1)[0]


def test_a_service_at_the_same_port_is_not_mistaken() -> None:
    before = descriptors()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        port = service.getsockname()[1]
        activity = Activity(descriptors() - before, port, None)
        assert activity.udp is None
        activity.close()


def test_without_udp_there_is_none(tmp_path: Path) -> None:
    with Person(tmp_path, "one", udp=False) as one:
        assert one.udp_port is None
        assert one._activity.udp is None


def test_half_a_packet_of_a_relays_client_is_noticed_once(tmp_path: Path) -> None:
    port = 32000 + os.getpid() % 900
    with Person(tmp_path, "relay", tcp_relay_port=port) as relay:
        activity = relay._activity

        def quiet() -> bool:
            for _ in range(50):
                relay._tox.iterate()
                activity.refresh()
                if not select.select([activity], [], [], 0.02)[0]:
                    return True
                activity.seen()
            return False

        with socket.create_connection(("127.0.0.1", port)) as client:
            assert select.select([activity], [], [], 1)[0]
            assert quiet()  # it is its own relay's client, too, which takes some rounds
            client.send(b"\x00")
            assert select.select([activity], [], [], 1)[0]
            assert quiet()


def test_closed_descriptors_are_not_listed() -> None:
    listed = descriptors()
    assert listed == descriptors()
    assert all(os.path.lexists(f"/proc/self/fd/{fd}") for fd in listed)


def test_looking_around_leaves_nothing_open(tmp_path: Path) -> None:
    """A relay looks again and again, and among what it looks at are files, pipes and pollers."""
    (tmp_path / "file").touch()
    ends = os.pipe()
    with (tmp_path / "file").open(), select.epoll():
        activity = Activity(descriptors(), udp_port=None, relay_port=1)
        before = descriptors()
        for _ in range(3):
            activity.refresh()
        assert descriptors() == before
        activity.close()
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("relay", [False, True])
def test_a_port_that_is_taken_is_named(tmp_path: Path, relay: bool) -> None:
    with socket.socket(type=socket.SOCK_STREAM if relay else socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        if relay:
            other.listen()
        port = other.getsockname()[1]
        key = "tcp_relay_port" if relay else "udp_port"
        with pytest.raises(SettingUnusable, match=rf"\[tox\] {key} = {port}: in use by another program"):
            Person(tmp_path, "late", **{key: port})


def test_ports_that_take_a_privilege(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "bind", refuse)
        trouble = str(port_trouble(Settings(tmp_path, udp_port=80)))
    assert (
        trouble == "[tox] udp_port = 80: not permitted: a port below 1024 takes root, or CAP_NET_BIND_SERVICE"
    )


def test_no_port_of_toxcores_own_is_free(tmp_path: Path) -> None:
    assert "UDP ports 33445 to 33545 are all in use" in str(port_trouble(Settings(tmp_path)))


def test_a_proxy_that_does_not_resolve_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingUnusable, match=r"\[tox\] proxy: socks5://a\.\.b:9 does not"):
        Person(tmp_path, "hidden", udp=False, proxy=Proxy("socks5", "a..b", 9))


async def test_addresses_of_a_name_come_ipv4_first() -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
            return [(0, 0, 0, "", (address, 0)) for address in ("2001:db8::1", "192.0.2.1", "192.0.2.1")]

        async def getnameinfo(self, *_: Any) -> Any:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Resolver())
    assert await resolve("node.example") == ["192.0.2.1", "2001:db8::1"]


def test_what_can_be_sent_to() -> None:
    assert is_routable("127.0.0.1", ipv6=True, proxied=False)
    assert not is_routable("::1", ipv6=False, proxied=False)
    assert is_routable("203.0.113.1", ipv6=False, proxied=True)
    assert not is_routable("255.255.255.255", ipv6=True, proxied=False)
