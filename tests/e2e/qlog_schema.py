"""Holds a trace to the schema of qlog, as its drafts publish it (qlog.cddl)."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

CDDL = Path(__file__).with_name("qlog.cddl")
BODIES = {  # what the data of an event is, by its name
    "transport:packet_sent": "QUICPacketSent",
    "transport:packet_received": "QUICPacketReceived",
    "transport:packet_dropped": "QUICPacketDropped",
    "recovery:metrics_updated": "RecoveryMetricsUpdated",
    "recovery:congestion_state_updated": "RecoveryCongestionStateUpdated",
    "recovery:packet_lost": "RecoveryPacketLost",
}
FRAMES = {
    "stream": "StreamFrame",
    "ack": "AckFrame",
    "ping": "PingFrame",
    "reset_stream": "ResetStreamFrame",
    "stop_sending": "StopSendingFrame",
    "max_data": "MaxDataFrame",
    "max_stream_data": "MaxStreamDataFrame",
    "datagram": "DatagramFrame",
    "unknown": "UnknownFrame",
    "connection_close": "ConnectionCloseFrame",
}


@cache
def schema(rule: str) -> Any:
    """The checker of one rule. It takes CBOR, of which JSON is a part."""
    # the library takes this key for the type of the same name; in quotes it means the same (RFC 8610 3.5.1)
    text = CDDL.read_text().replace(" time: float64", ' "time": float64')
    return import_module("pycddl").Schema(f"root = {rule}\n{text}")


def check(rule: str, value: object) -> None:
    """Raises ValidationError, of pycddl, where it is none of that rule."""
    schema(rule).validate_cbor(import_module("cbor2").dumps(value))


def read(trace: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the events of a JSON text sequence (RFC 7464), without what is cut off."""
    assert trace.startswith(b"\x1e")
    texts = [text for text in trace.split(b"\x1e")[1:] if text.endswith(b"\n")]
    header, *events = map(json.loads, texts)
    return header, events


def validate(trace: bytes) -> list[dict[str, Any]]:
    """The events of a trace, all of which are as the schema has them, and in order."""
    header, events = read(trace)
    check("QlogFileSeq", header)
    for event in events:
        check("Event", event)
        if not event["name"].startswith("tunfwd:"):
            check(BODIES[event["name"]], event["data"])
            for frame in event["data"].get("frames", ()):
                check(FRAMES[frame["frame_type"]], frame)
    times = [event["time"] for event in events]
    assert times == sorted(times)
    return events
