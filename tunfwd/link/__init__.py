"""Reliable streams, ordered control messages and datagrams over lossy packets, without I/O.

`Link` is the whole surface. The transport follows RFC 9000 (streams, credit, acknowledgement) and RFC 9002
(loss recovery), without what Tox already does: no handshake, no encryption, no addresses. The bytes are in
tunfwd/wire/LINK.md.

    link.py       the surface; takes packets apart;  packing.py: puts them together
    streams.py    all streams: table, credit, turns;  send.py, receive.py: one half each
    datagrams.py  what is sent once
    acks.py       which packets arrived here
    recovery.py   which packets arrived there, which are lost;  rtt.py, ranges.py
    congestion.py what a controller is;  bbr.py, cubic.py, newreno.py;  pacing.py
"""

from tunfwd.link.bbr import Bbr
from tunfwd.link.cubic import Cubic
from tunfwd.link.events import (
    ControlReceived,
    DatagramReceived,
    Event,
    LinkClosed,
    StreamClosed,
    StreamEnded,
    StreamReadable,
    StreamReset,
    StreamStopped,
    StreamWritable,
)
from tunfwd.link.link import MAX_PACKET, REASON_DONE, REASON_VIOLATION, Link, Statistics
from tunfwd.link.newreno import NewReno

__all__ = [
    "MAX_PACKET",
    "REASON_DONE",
    "REASON_VIOLATION",
    "Bbr",
    "ControlReceived",
    "Cubic",
    "DatagramReceived",
    "Event",
    "Link",
    "LinkClosed",
    "NewReno",
    "Statistics",
    "StreamClosed",
    "StreamEnded",
    "StreamReadable",
    "StreamReset",
    "StreamStopped",
    "StreamWritable",
]
