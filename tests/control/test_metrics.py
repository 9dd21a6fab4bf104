"""The metrics' text, and the web server that gives it to Prometheus, whoever asks and however."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tunfwd.control import api, http
from tunfwd.control.metrics import CONTENT_TYPE, exposition

PROJECT = Path(__file__).parents[2]

STATUS: Any = {
    "network": "online",
    "contacts": [
        {
            "name": "bob",
            "public_key": "AB" * 32,
            "kind": "friend",
            "via": "friend",
            "link": "direct",
            "ports": 2,
            "connections": 3,
            "path": "direct",
            "path_seconds": 60.0,
            "rtt": 0.0123,
            "loss": 0.01,
            "window": 14_200,
        },
        {
            "name": 'a "quoted" \\ name\n',
            "public_key": "CD" * 32,
            "kind": "group",
            "via": "group:lan",
            "link": "offline",
            "ports": 0,
            "connections": 0,
            "path": None,
            "path_seconds": None,
            "rtt": None,
            "loss": None,
            "window": None,
        },
    ],
    "drops": {"malformed": 7, "faults": 0},
    "load": {"flows": 3, "connections": 4, "timers": 5},
}
PORTS: Any = {
    "ports": [
        {
            "id": "0a0b0c0d",
            "contact": "bob",
            "protocol": "tcp",
            "port": 8080,
            "name": "web",
            "state": "running",
            "connections": 3,
            "rx_bytes": 123,
            "tx_bytes": 45,
            "drops": 0,
            "target": None,
        }
    ]
}
VERSION: Any = {"version": "1.2.3", "toxcore": "0.2.20", "compiled": True}


@pytest.fixture(scope="module")
def text() -> str:
    return exposition(STATUS, PORTS, VERSION).decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    """By name, and by the labels as JSON."""
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(text: str, metric: str, /, **labels: str) -> float | None:
    return samples(text).get((metric, json.dumps(labels, sort_keys=True)))


def test_what_is_told(text: str) -> None:
    bob = {"contact": "bob", "kind": "friend"}
    away = {"contact": 'group:lan/a "quoted" \\ name\n', "kind": "group"}
    port = {"contact": "bob", "protocol": "tcp", "port": "8080", "name": "web", "side": "theirs"}
    assert figure(text, "tunfwd_network_up") == 1
    assert figure(text, "tunfwd_build_info", version="1.2.3", toxcore="0.2.20", compiled="true") == 1
    assert figure(text, "tunfwd_contact_up", **bob) == 1
    assert figure(text, "tunfwd_contact_up", **away) == 0
    assert figure(text, "tunfwd_contact_rtt_seconds", **bob) == 0.0123
    assert figure(text, "tunfwd_contact_rtt_seconds", **away) is None
    assert figure(text, "tunfwd_contact_window_bytes", **bob) == 14_200
    assert figure(text, "tunfwd_port_receive_bytes_total", **port) == 123
    assert figure(text, "tunfwd_drops_total", reason="malformed") == 7


def test_names_go_by_the_conventions(text: str) -> None:
    units = {"seconds", "bytes", "ratio", "info", "up", "direct", "ports", "connections", "flows", "timers"}
    for family in text_string_to_metric_families(text):
        assert re.fullmatch("tunfwd_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert family.name.rpartition("_")[2] in units


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(text: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_page_names_every_metric_and_no_other(text: str) -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(tunfwd_[a-z_]+)`", page)) == names(text)


def test_the_dashboard_asks_for_what_there_is(text: str) -> None:
    dashboard = json.loads((PROJECT / "docs" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"tunfwd_[a-z_]+", target["expr"])
    }
    assert asked
    assert asked <= names(text)


# The server.


async def page() -> bytes:
    return b"tunfwd_network_up 1\n"


@asynccontextmanager
async def serving(page: http.Page = page) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(http.serve, listeners, page, CONTENT_TYPE, host="metrics.lan"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def answer(port: int, request: bytes) -> bytes:
    """All that is said to a request, until the server closes the connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        await stream.send_eof()
        with trio.fail_after(60):
            return b"".join([data async for data in stream])


async def status(port: int, request: bytes) -> int:
    return int((await answer(port, request)).split()[1])


def get(path: str = "/metrics", host: str = "127.0.0.1:9177", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_the_page() -> None:
    async with serving() as port:
        told = await answer(port, get())
        assert told.startswith(b"HTTP/1.1 200 ")
        assert f"content-type: {CONTENT_TYPE}".encode() in told
        assert told.endswith(b"\r\n\r\ntunfwd_network_up 1\n")
        assert (await answer(port, get(method="HEAD"))).endswith(b"\r\n\r\n")


async def test_one_connection_asks_often() -> None:
    async with serving() as port:
        assert (await answer(port, 3 * get())).count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/"), 404),
        (get("/metrics?x=1"), 200),
        (get(method="POST"), 405),
        (get(host="evil.example"), 421),
        (get(host="evil.example:9177"), 421),
        (get(host="localhost:9177"), 200),
        (get(host="METRICS.lan"), 200),
        (get(host="[::1]:9177"), 200),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 421),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + 20_000 * b"x" + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
    ],
)
async def test_who_may_ask_what(request_: bytes, expected: int) -> None:
    async with serving() as port:
        assert await status(port, request_) == expected
        assert await status(port, get()) == 200  # and others are served


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_end_it(garbage: bytes) -> None:
    async def scenario() -> None:
        async with serving() as port:
            await answer(port, garbage)
            assert await status(port, get()) == 200

    trio.run(scenario)


async def test_a_silent_client_is_hung_up_on(autojump_clock: object) -> None:
    async with serving() as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            assert await stream.receive_some() == b""
    assert trio.current_time() >= http.REQUEST_TIME


async def test_there_is_room_for_so_many_and_again_when_they_have_left() -> None:
    async with serving() as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(http.MAX_CONNECTIONS)]
        for stream in streams:  # each is being served
            await stream.send_all(get())
            assert await stream.receive_some(1 << 16)
        with trio.fail_after(60):
            assert await answer(port, b"") == b""
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(60):
            while not await answer(port, get()):  # noqa: ASYNC110  until the server knows
                await trio.sleep(0.01)


async def test_a_fault_of_ours_is_that_clients_loss() -> None:
    pages = [RuntimeError("a mistake of ours")]

    async def failing() -> bytes:
        if pages:
            raise pages.pop()
        return b"fine\n"

    async with serving(failing) as port:
        assert await answer(port, get()) == b""
        assert await status(port, get()) == 200


def test_a_status_of_an_older_daemon_will_do() -> None:
    """Keys that are not required may be missing."""
    older: Any = {"network": "offline", "contacts": [], "drops": {}}
    empty: api.MappingsResult = {"ports": []}
    assert figure(exposition(older, empty, VERSION).decode(), "tunfwd_network_up") == 0
