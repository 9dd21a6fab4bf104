"""What is told about a daemon at work: events, and metrics as Prometheus collects them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

from netns.node import TUNFWD, Node

from .conftest import METRICS, Forwards, wait_online_again
from .hosts import TIME, TcpService, connect, echo, eventually, read_exactly
from .qlog_schema import validate

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

PROMETHEUS = "127.0.0.1:9090"
CONFIG = f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs: [{{job_name: tunfwd, static_configs: [{{targets: ["{METRICS}"]}}]}}]
"""


def fetch(node: Node, url: str) -> str:
    """What a web server of this host answers; "" where it does not."""
    return node.host.run(["curl", "-s", "--max-time", "20", url], check=False).stdout


@contextmanager
def prometheus(node: Node, folder: Path) -> Iterator[None]:
    """A real one beside a daemon."""
    (folder / "prometheus.yml").write_text(CONFIG)
    with (folder / "prometheus.log").open("wb") as log:
        process = node.host.start(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={PROMETHEUS}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def series(node: Node, query: str) -> list[dict[str, Any]]:
    """What Prometheus has for a query."""
    text = fetch(node, f"http://{PROMETHEUS}/api/v1/query?query={quote(query)}")
    found: list[dict[str, Any]] = json.loads(text)["data"]["result"] if text.startswith("{") else []
    return found


def test_prometheus_collects_what_went_through(alice: Node, forward: Forwards, tmp_path: Path) -> None:
    port = forward()
    payload = 100_000 * b"x"
    with (
        TcpService(port.serving.host, port.port, echo),
        connect(alice.host, port.address, port.port) as client,
    ):
        client.sendall(payload)
        assert read_exactly(client, len(payload)) == payload
    with prometheus(alice, tmp_path):
        received = f'tunfwd_port_receive_bytes_total{{contact="bob",port="{port.port}"}}'
        [sample] = eventually(lambda: series(alice, received), "Prometheus has the bytes", 60)
        assert int(sample["value"][1]) == len(payload)
        assert sample["metric"]["side"] == "theirs"
        query = 'tunfwd_contact_rtt_seconds{contact="bob"}'
        [rtt] = eventually(lambda: series(alice, query), "and the round trip")
        assert 0 < float(rtt["value"][1]) < 10
        eventually(lambda: series(alice, "up == 1 and tunfwd_network_up == 1 or up == 1"), "all is up")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fetch(alice, f"http://{METRICS}/metrics"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert fetch(alice, f"http://{METRICS}/").startswith("the metrics are at")
    assert "tunfwd_build_info" in alice.cli("metrics").stdout


def test_events_are_followed_over_a_restart(alice: Node, bob: Node, new_port: int) -> None:
    """By a program that reads lines, from when it is there: the contact goes, comes again, offers."""
    follower: subprocess.Popen[str] = alice.host.start(
        [TUNFWD, "events", "--follow", "--json", "--kind", "online", "--kind", "offline", "--kind", "offer"],
        env=os.environ | alice.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with follower:
        try:
            assert follower.stdout is not None
            assert is_there(follower, bob, new_port + 10_000)
            bob.stop()
            bob.start()
            wait_online_again(alice, bob)
            bob.cli("offer", f"{new_port}/tcp", "--to", "alice", "--name", "news")
            told: list[dict[str, Any]] = []
            while not told or told[-1].get("name") != "news":
                told.append(json.loads(follower.stdout.readline()))
        finally:
            follower.kill()
            bob.cli("kill", "news", check=False)
    told = [one for one in told if one.get("name") != "early"]
    assert [one["event"] for one in told] == ["offline", "online", "offer"]
    assert {one["contact"] for one in told} == {"bob"}
    assert (told[2]["port"], told[2]["name"]) == (new_port, "news")


def is_there(follower: subprocess.Popen[str], bob: Node, port: int) -> bool:
    """Have bob offer something until the program tells of it."""
    assert follower.stdout is not None
    heard = Thread(target=follower.stdout.readline, daemon=True)
    heard.start()
    deadline = time.monotonic() + TIME
    while heard.is_alive() and time.monotonic() < deadline:
        bob.cli("offer", f"{port}/tcp", "--to", "alice", "--name", "early")
        heard.join(1)
        bob.cli("kill", "early")
    return not heard.is_alive()


def test_a_trace_is_as_qlog_has_it(alice: Node, forward: Forwards, tmp_path: Path) -> None:
    """Of a transfer each way: every record is what the published schema allows, and nothing is missing."""
    port, file = forward(), tmp_path / "trace.sqlog"
    payload = 500_000 * b"payload "
    tracing: subprocess.Popen[str] = alice.host.start(
        [TUNFWD, "trace", "bob", "--output", str(file)],
        env=os.environ | alice.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with tracing:
        assert tracing.stderr is not None
        assert tracing.stderr.readline().startswith("Tracing bob into ")
        with (
            TcpService(port.serving.host, port.port, echo),
            connect(alice.host, port.address, port.port) as client,
        ):
            sender = Thread(target=client.sendall, args=[payload])
            sender.start()
            assert read_exactly(client, len(payload)) == payload
            sender.join()
        tracing.send_signal(signal.SIGINT)
        tracing.stderr.read()
    assert tracing.returncode == 0
    text = file.read_bytes()
    assert b"payload " not in text
    events = validate(text)
    assert events[-1]["data"] == {"reason": "stopped", "dropped": 0}
    for name, of_streams in (("sent", len(payload)), ("received", len(payload))):
        frames = [
            frame
            for event in events
            if event["name"] == f"transport:packet_{name}"
            for frame in event["data"]["frames"]
            if frame["frame_type"] == "stream" and frame["stream_id"]
        ]
        assert sum(frame["length"] for frame in frames) >= of_streams
        assert max(frame["offset"] + frame["length"] for frame in frames) == of_streams
    measured = {key for event in events if "metrics" in event["name"] for key in event["data"]}
    assert {"smoothed_rtt", "min_rtt", "congestion_window", "bytes_in_flight", "pacing_rate"} <= measured
