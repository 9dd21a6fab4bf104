"""Asking nodes whether they are there: toxcore's own answers, and those of others."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.tox.conftest import Person, running
from tunfwd.tox import probing
from tunfwd.tox.binding import sodium
from tunfwd.tox.probing import Answer, Outcome
from tunfwd.tox.settings import NetworkNode

HERE = "127.0.0.1"


def at(udp: int | None, *tcp: int, key: bytes = bytes(31) + b"\7") -> NetworkNode:
    return NetworkNode(key, (HERE,), udp, tcp, "bootstrap")


async def outcome_of(node: NetworkNode, *, udp: bool = True) -> Outcome:
    [outcome] = await probing.ask({node: [HERE]}, udp=udp)
    return outcome


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def datagrams(*answers: bytes) -> AsyncIterator[int]:
    """Answers each question with all of `answers`."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as own:
        await own.bind((HERE, 0))

        async def serve() -> None:
            while True:
                _, peer = await own.recvfrom(2048)
                for answer in answers:
                    await own.sendto(answer, peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield own.getsockname()[1]
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def streams(answer: bytes, *, hang_up: bool) -> AsyncIterator[int]:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        if hang_up:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host=HERE)
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def test_a_node_is_answered_only_by_who_has_its_key(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        relay_port = taken.getsockname()[1]

    async def main() -> None:
        with Person(tmp_path, "node", tcp_relay_port=relay_port) as node:
            assert node.udp_port is not None
            async with running(node):
                right = await outcome_of(at(node.udp_port, relay_port, key=node.dht_key))
                wrong = await outcome_of(at(node.udp_port, relay_port))
        assert (right.udp, right.relay, right.answers) == ("answers", "answers", True)
        assert right.told == "answers"
        assert (wrong.udp, wrong.relay, wrong.answers) == ("no answer", "wrong key", False)
        assert "another key" in wrong.told

    trio.run(main)


async def test_nobody(free_port: int) -> None:
    outcome = await outcome_of(at(free_port, free_port))
    assert (outcome.udp, outcome.tcp) == ("refused", {free_port: "refused"})
    assert outcome.told == f"refused over UDP, refused over TCP ({free_port})"
    assert (await outcome_of(at(free_port), udp=False)).told == "was not asked"


async def test_a_bootstrap_daemon_of_another_key() -> None:
    async with datagrams(b"\xf0\0\0\0\1hello") as port:
        assert (await outcome_of(at(port))).udp == "wrong key"


async def test_without_libsodium_the_information_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sodium, "is_usable", lambda: False)
    async with datagrams(b"\xf0\0\0\0\1hello") as port, streams(b"", hang_up=False) as tcp_port:
        outcome = await outcome_of(at(port, tcp_port))
    assert (outcome.udp, outcome.relay) == ("answers", "answers")


@pytest.mark.parametrize("junk", [b"", b"\0", b"\1", b"\1" + bytes(81), b"\1" + bytes(30), bytes(2000)])
async def test_junk_is_no_answer(junk: bytes) -> None:
    async with datagrams(junk, junk) as port:
        assert (await outcome_of(at(port))).udp == "no answer"


@pytest.mark.parametrize(
    ("said", "hang_up", "answer"),
    [
        (b"", False, "no answer"),
        (b"", True, "wrong key"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "wrong key"),
        (bytes(96), False, "wrong key"),
        (bytes(500), True, "wrong key"),
    ],
)
async def test_what_is_no_relay(said: bytes, hang_up: bool, answer: Answer) -> None:
    async with streams(said, hang_up=hang_up) as port:
        assert (await outcome_of(at(None, port))).relay == answer


async def test_the_best_of_several_ports_counts(free_port: int) -> None:
    async with streams(b"", hang_up=True) as port:
        outcome = await outcome_of(at(None, free_port, port))
    assert outcome.tcp == {free_port: "refused", port: "wrong key"}
    assert outcome.relay == "wrong key"


async def test_no_way_there() -> None:
    node = NetworkNode(bytes(32), ("2001:db8::1",), 33445, (443,), "bundled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_socket", _broken)
        [outcome] = await probing.ask({node: ["2001:db8::1"]}, udp=True)
    assert (outcome.udp, outcome.relay) == ("unreachable", "unreachable")


def _broken(address: str, kind: int) -> trio.socket.SocketType:
    raise OSError(101, "Network is unreachable")
