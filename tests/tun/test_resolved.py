"""What systemd-resolved is told over the system's bus, and what becomes of a bus that is wrong."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jeepney import HeaderFields, Message, new_error, new_method_return

from tunfwd.tun import resolved

SERVERS = (ip_address("10.77.0.53"), ip_address("fd74:756e:6677::53"))


class Bus:
    """The system's, with resolved on it or not."""

    closed = False

    def __init__(self, there: bool = True, refuse: str | None = None) -> None:
        self.there, self.refuse = there, refuse
        self.calls: list[tuple[str, Any]] = []

    def close(self) -> None:
        self.closed = True

    def send_and_get_reply(self, message: Message, timeout: float) -> Message:
        assert 0 < timeout <= 5
        message.serialise(1)  # what is sent fits what is said of it
        method = message.header.fields[HeaderFields.member]
        message.header.serial = 1
        if method == self.refuse:
            return new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("not you",))
        if method == "NameHasOwner":
            return new_method_return(message, "b", (self.there,))
        self.calls.append((method, message.body))
        return new_method_return(message)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus()
    monkeypatch.setenv(resolved.BUS_VARIABLE, "unix:path=/nowhere")
    monkeypatch.setattr(resolved, "open_dbus_connection", lambda name: bus)
    return bus


def test_it_is_told_what_to_ask_and_no_more(bus: Bus) -> None:
    joined = resolved.join()
    assert joined is not None
    assert not bus.closed
    resolved.tell(joined, 7, SERVERS, ["tunfwd.internal", "77.10.in-addr.arpa"])
    assert bus.closed
    assert bus.calls == [
        ("SetLinkDNS", (7, [(socket.AF_INET, SERVERS[0].packed), (socket.AF_INET6, SERVERS[1].packed)])),
        ("SetLinkDomains", (7, [("tunfwd.internal", True), ("77.10.in-addr.arpa", True)])),
        ("SetLinkDefaultRoute", (7, False)),
    ]


def test_without_it_nothing_is_said(bus: Bus) -> None:
    bus.there = False
    assert resolved.join() is None
    assert bus.calls == []
    assert bus.closed


def test_a_refusal_is_told(bus: Bus) -> None:
    bus.refuse = "SetLinkDomains"
    joined = resolved.join()
    assert joined is not None
    with pytest.raises(resolved.NotTold, match=r"AccessDenied: not you"):
        resolved.tell(joined, 7, SERVERS, ["tunfwd.internal"])
    assert bus.closed
    bus.refuse = "NameHasOwner"
    with pytest.raises(resolved.NotTold):
        resolved.join()


def test_interfaces_of_another_network_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"/proc/1/ns/net": 1, "/proc/self/ns/net": 2}
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_ino=numbers[path]))
    assert not resolved.is_ours()
    numbers["/proc/self/ns/net"] = 1
    assert resolved.is_ours()

    def refuse(path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "stat", refuse)
    assert not resolved.is_ours()


def test_no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(resolved.BUS_VARIABLE, raising=False)
    monkeypatch.setattr(resolved, "BUS", str(tmp_path / "bus"))
    assert resolved.join() is None
    monkeypatch.setenv(resolved.BUS_VARIABLE, f"unix:path={tmp_path}/bus")
    with pytest.raises(resolved.NotTold):
        resolved.join()
