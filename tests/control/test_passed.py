"""Descriptors that come with a request to the control socket."""

# ruff: noqa: ASYNC110  what a server does is waited for

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trio

from tunfwd.control import passed, server
from tunfwd.control.api import Nothing
from tunfwd.control.client import Client
from tunfwd.control.glance import Method
from tunfwd.control.listener import listening
from tunfwd.control.server import serve

TAKE = Method("take", Nothing, dict[str, object])
LEAVE = Method("leave", Nothing, dict[str, object])

held: list[int] = []
"""What the handler has taken."""


async def handler(method: str, params: dict[str, object]) -> Mapping[str, object]:
    if method == "take":
        held[:] = passed.take()
        assert passed.take() == [], "they are taken once"
    return {"count": len(held), "user": passed.user()}


@pytest.fixture
async def path(nursery: trio.Nursery) -> AsyncIterator[Path]:
    held.clear()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "control.sock")
        with listening(place) as listener:
            await nursery.start(serve, listener, handler)
            yield place
            nursery.cancel_scope.cancel()


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def is_at_end(reading: int) -> bool:
    """Whether nobody holds the other end any more."""
    os.set_blocking(reading, False)
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


async def call(path: Path, method: Method[Nothing, dict[str, object]], *descriptors: int) -> None:
    def talk() -> None:
        with Client(path) as client:
            client._exchange(method.name, {}, 10.0, descriptors)

    await trio.to_thread.run_sync(talk)


async def test_a_method_knows_who_asks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> object:
        with Client(path) as client:
            return client.call(LEAVE, {})["user"]

    assert await trio.to_thread.run_sync(ask) == os.geteuid()
    monkeypatch.setattr(server, "credentials", lambda _: (4711, 4711))
    assert await trio.to_thread.run_sync(ask) == 4711


async def test_a_method_gets_them(path: Path, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    await call(path, TAKE, reading, writing)
    os.close(writing)
    mine_reading, mine_writing = held
    os.write(mine_writing, b"through")
    assert os.read(reading, 100) == b"through"
    assert not os.get_inheritable(mine_reading)
    os.close(mine_writing)
    assert is_at_end(reading)
    os.close(mine_reading)
    os.close(reading)


async def test_what_nobody_takes_is_closed(path: Path, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    await call(path, LEAVE, writing)
    os.close(writing)
    assert is_at_end(reading)
    os.close(reading)


async def test_no_more_are_held_than_a_request_may_bring(path: Path, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        for piece in (b"{", b'"id": 1,'):  # no request yet
            socket.send_fds(client, [piece], [writing] * passed.LIMIT)
            await trio.sleep(0.05)
        client.sendall(b'"method": "take", "params": {}}\n')
        with trio.fail_after(30):
            while not held:
                await trio.sleep(0.01)
    assert len(held) == passed.LIMIT
    for descriptor in (*held, writing):
        os.close(descriptor)
    assert is_at_end(reading)
    os.close(reading)


async def test_a_client_that_leaves_takes_them_along(path: Path, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        socket.send_fds(client, [b"{"], [writing])
        os.close(writing)
        await trio.sleep(0.05)
        assert not is_at_end(reading)
    with trio.fail_after(30):
        while not is_at_end(reading):
            await trio.sleep(0.01)
    os.close(reading)
