"""What is said of services elsewhere that offers lead to, when a person says so and by doctor."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tunfwd.daemon.commands import targets

from .living import Living, until

NOWHERE = "no-such-host.invalid"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses alone resolve: no question leaves this machine."""

    async def resolve(host: str, *arguments: Any, **more: Any) -> Any:
        if host == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return socket.getaddrinfo(host, *arguments, **more)

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which a service takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def offered(daemon: Living, port: str, target: str) -> Any:
    result = await daemon.call("offer.add", to=["bob"], ports=[port], target=target)
    return result["offers"][0]["trouble"]


async def test_who_offers_a_service_elsewhere_is_told_that_it_is_not_there(
    alice: Living, bob: Living, taken: int, free: int
) -> None:
    assert await offered(alice, "80/tcp", f"127.0.0.1:{taken}") is None
    assert await offered(alice, "81/tcp", f"127.0.0.1:{free}") == "nothing listens"
    assert await offered(alice, "82/tcp", f"{NOWHERE}:80") == f"there is no such host as {NOWHERE}"
    assert await offered(alice, "83/udp", f"{NOWHERE}:80") == f"there is no such host as {NOWHERE}"
    assert await offered(alice, "84/udp", f"127.0.0.1:{free}") == "nothing listens"
    assert len((await alice.call("offer.list"))["offers"]) == 5  # it is a word, no refusal


async def test_so_is_who_changes_one_or_shares_by_ticket(alice: Living, bob: Living, free: int) -> None:
    await alice.call("offer.add", to=["bob"], ports=["80/tcp"], name="web")
    [changed] = (await alice.call("offer.change", id="web", target=f"127.0.0.1:{free}"))["offers"]
    assert changed["trouble"] == "nothing listens"
    shared = await alice.call("share", ports=["90/tcp"], target=f"127.0.0.1:{free}")
    assert [one["trouble"] for one in shared["invite"]["offers"]] == ["nothing listens"]


async def test_so_is_who_allows_a_request(alice: Living, bob: Living, free: int) -> None:
    await bob.call("request", contact="alice", ports=["22/tcp"])
    await until(lambda: next(iter(alice.datapath.peers)).session.mappings)
    allowed = await alice.call("offer.accept", offer="22", target=f"127.0.0.1:{free}", direction="connection")
    assert allowed["mapping"]["trouble"] == "nothing listens"


async def test_doctor_tries_what_is_accepted(alice: Living, bob: Living, taken: int, free: int) -> None:
    await offered(alice, "80/tcp", f"127.0.0.1:{taken}")
    await offered(alice, "81/tcp", f"127.0.0.1:{free}")
    for port in ("80", "81"):
        await until(lambda: len(next(iter(bob.datapath.peers)).session.mappings) == 2)
        await bob.call("offer.accept", offer=port)
    await until(lambda: all(one.accepted for one in next(iter(alice.datapath.peers)).session.mappings))
    checks = (await alice.call("doctor"))["checks"]
    told = [check["detail"] for check in checks if check["name"] == "service"]
    assert told == [f"81/tcp, for bob: 127.0.0.1:{free}: nothing listens"]


async def test_a_place_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, alice: Living, bob: Living
) -> None:
    async def connect(target: object) -> socket.socket:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(targets, "connect_stream", connect)
    monkeypatch.setattr(targets, "PATIENCE", 0.05)
    with trio.fail_after(30):
        assert await offered(alice, "80/tcp", "127.0.0.1:80") == "no answer within 0.05 s"
