"""One contact's link as qlog has it: packets sent, received and lost, and what recovery measures.

Fed by tap.py with packets as the carrier has them, and with the link after each turn. A record is text as
soon as it is made, and holds no payload: nothing of a packet is kept. Where records go, `Sink` decides.

The format is JSON-SEQ of draft-ietf-quic-qlog-main-schema-05, which is the last that qvis reads, with the
events of draft-ietf-quic-qlog-quic-events-05; what QUIC has no event for is in the namespace `tunfwd`.
"""

import json
import math
from contextlib import suppress
from typing import Final
from typing import Protocol as Interface

from tunfwd.common.errors import Malformed
from tunfwd.link import Bbr, Link
from tunfwd.link.congestion import Path
from tunfwd.wire.carriers import Carrier
from tunfwd.wire.frames import (
    HEADER,
    HEADER_SIZE,
    Ack,
    Close,
    Datagram,
    Fragment,
    Frame,
    MaxData,
    MaxStreamData,
    Ping,
    ResetStream,
    StopSending,
    Stream,
    decode_frames,
    expand_number,
)
from tunfwd.wire.packets import ExtensionType, Type

QLOG_VERSION: Final = "0.3"
FRAGMENT_TYPE: Final = 0x0A  # LINK.md; QUIC has none
LAST_RECORD: Final = 512  # bytes kept free for the record that says why a trace ends
CLOSE_CODES: Final = {0: "no_error", 1: "protocol_violation"}

Data = dict[str, object]

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Sink(Interface):
    """Takes records, the header first. Never waits."""

    def __call__(self, record: bytes, *, must: bool = False) -> bool:
        """Take a record; False: there is no room, and it is lost. First and last are taken in any case."""
        ...


class Trace:
    """What is written about one contact, from when it begins until it is over."""

    def __init__(
        self,
        carrier: Carrier,
        sink: Sink,
        now: float,
        *,
        title: str,
        wall: float,
        first: bool,
        limit: int,
    ) -> None:
        """`wall` is the time of day at `now`, in s since 1970; `limit` is of the whole trace, in bytes.

        `first` tells the two ends apart, which qlog calls client and server: one of them has it true.
        """
        self.over: str | None = None
        """Why there is nothing more; None while there is."""
        self.packets_sent = self.packets_received = self.packets_lost = 0
        self.dropped = 0
        """Records that the sink had no room for."""
        self._carrier = carrier
        self._link_prefix = carrier.extension + bytes((ExtensionType.LINK,))
        self._sink = sink
        self._began = now
        self._left = limit
        self._untold = 0  # of the dropped
        self._link: Link | None = None
        self._links = 0
        self._path: Path | None = None
        self._lost = 0  # bytes on that path
        self._told: dict[str, object] = {}
        self._next_sent = self._next_received = 0
        self._in_flight: dict[int, int] = {}  # packets that want an Ack, by number: their size
        header: Data = {
            "qlog_format": "JSON-SEQ",
            "qlog_version": QLOG_VERSION,
            "title": "tunfwd",
            "trace": {
                "title": title,
                "vantage_point": {"type": "client" if first else "server"},
                "common_fields": {
                    "time_format": "relative",
                    "reference_time": round(wall * 1e3, 3),
                    "protocol_type": ["TUNFWD"],
                },
            },
        }
        self._header = _record(header)  # until there is something to follow it

    # -- what leaves and arrives

    def sent(self, packet: bytes, now: float, *, lossless: bool = False) -> None:
        """Take in a packet that has left."""
        if lossless or self._link is None or not packet.startswith(self._link_prefix):
            self._tell(now, "tunfwd:packet_sent", self._other(packet, lossless=lossless))
            return
        number = expand_number(self._number(packet), self._next_sent)
        self._next_sent = number + 1
        self.packets_sent += 1
        frames = decode_frames(packet, len(self._link_prefix) + HEADER_SIZE)
        if any(type(frame) is not Ack and type(frame) is not Close for frame in frames):
            self._in_flight[number] = len(packet)
        self._tell(now, "transport:packet_sent", _packet(packet, number, frames, self._next_received))

    def received(self, packet: bytes, now: float, *, lossless: bool = False) -> None:
        """Take in a packet that the session is about to be given."""
        if lossless or not packet.startswith(self._link_prefix):
            self._tell(now, "tunfwd:packet_received", self._other(packet, lossless=lossless))
            return
        start = len(self._link_prefix)
        try:
            frames = decode_frames(packet, start + HEADER_SIZE)
        except Malformed:  # too short a packet is one without frames
            self._drop(packet, now, "invalid")
            return
        if self._link is None or HEADER.unpack_from(packet, start)[0] != self._link.receive_tag:
            self._drop(packet, now, "connection_unknown")
            return
        number = expand_number(self._number(packet), self._next_received)
        self._next_received = max(self._next_received, number + 1)
        self.packets_received += 1
        for frame in frames:
            if type(frame) is Ack:
                self._acknowledged(frame)
        self._tell(now, "transport:packet_received", _packet(packet, number, frames, self._next_sent))

    def state(self, state: str, now: float) -> None:
        """Take in how the contact is reached from now on."""
        self._tell(now, "tunfwd:contact_state_updated", {"new": state})

    def _number(self, packet: bytes) -> int:
        number: int = HEADER.unpack_from(packet, len(self._link_prefix))[1]
        return number

    def _drop(self, packet: bytes, now: float, trigger: str) -> None:
        data: Data = {
            "header": {"packet_type": "unknown"},
            "raw": {"length": len(packet)},
            "trigger": trigger,
        }
        self._tell(now, "transport:packet_dropped", data)

    def _other(self, packet: bytes, *, lossless: bool) -> Data:
        """Describe a packet outside of a link."""
        carrier, kind = self._carrier, "unknown"
        prefix, kinds = (carrier.lossless, Type) if lossless else (carrier.extension, ExtensionType)
        if packet.startswith(prefix) and len(packet) > len(prefix):
            with suppress(ValueError):  # one that we do not know
                kind = kinds(packet[len(prefix)]).name.lower()
        elif not lossless and packet.startswith(carrier.lossy):
            kind = "data"
        return {"type": kind, "lossless": lossless, "raw": {"length": len(packet)}}

    def _acknowledged(self, ack: Ack) -> None:
        in_flight = self._in_flight
        largest = expand_number(ack.largest, self._next_sent)
        for low, high in ((largest - far, largest - near) for far, near in ack.ranges):
            if high - low < len(in_flight):
                for number in range(low, high + 1):
                    in_flight.pop(number, None)
            else:
                for number in [number for number in in_flight if low <= number <= high]:
                    del in_flight[number]

    # -- the link, as a turn has left it

    def begin(self, link: Link | None, now: float) -> None:
        """Look whether there is another link than before; to be called before packets of it."""
        if link is self._link:
            return
        if self._link is not None:
            self._tell(now, "tunfwd:link_ended", {"in_flight": len(self._in_flight)})
        self._link = link
        self._in_flight.clear()
        self._told.clear()
        if link is None:
            return
        self._links += 1
        # a link that goes on while the trace begins has numbers that we have not seen
        self._next_sent = link.statistics.packets_sent
        self._next_received = link.statistics.packets_received
        self._path = link.recovery.path
        self._lost = self._path.lost
        self._tell(now, "tunfwd:link_started", {"tag": f"{link.receive_tag:08x}"})

    def look(self, link: Link | None, now: float) -> None:
        """Tell what has become of the link in a turn: losses, and what is measured."""
        self.begin(link, now)
        if link is None:
            return
        path = link.recovery.path
        if path is not self._path:
            self._path, self._lost = path, 0
            self._tell(now, "tunfwd:path_restarted", {"in_flight": len(self._in_flight)})
            self._in_flight.clear()
            self._told.clear()
        elif path.lost != self._lost:
            self._lost = path.lost
            self._find_lost(link, now)
        self._measure(link, now)

    def _find_lost(self, link: Link, now: float) -> None:
        still = {record.number for record in link.recovery.sent}
        lost = [number for number in self._in_flight if number not in still]
        self.packets_lost += len(lost)
        for number in lost:
            del self._in_flight[number]
            self._tell(now, "recovery:packet_lost", {"header": _header(number)})

    def _measure(self, link: Link, now: float) -> None:
        recovery = link.recovery
        rtt, controller = recovery.rtt, recovery.controller
        values: dict[str, object] = {
            "congestion_window": controller.cwnd,
            "bytes_in_flight": recovery.path.in_flight,
        }
        if math.isfinite(controller.pacing_rate):
            values["pacing_rate"] = int(8 * controller.pacing_rate)
        if rtt.measured:
            values["min_rtt"] = _ms(rtt.least)
            values["smoothed_rtt"] = _ms(rtt.smoothed)
            values["latest_rtt"] = _ms(rtt.latest)
            values["rtt_variance"] = _ms(rtt.variation)
        told = self._told
        changed = {key: value for key, value in values.items() if told.get(key) != value}
        if changed:
            told.update(changed)
            self._tell(now, "recovery:metrics_updated", changed)
        if isinstance(controller, Bbr):
            state = controller.state.value.replace(" ", "_")
            if (old := told.get("state")) != state:
                told["state"] = state
                before: Data = {} if old is None else {"old": old}
                self._tell(now, "recovery:congestion_state_updated", before | {"new": state})

    # -- where it goes

    def end(self, reason: str, now: float) -> None:
        """Write why there is nothing more, where there was something."""
        if self.over is not None:
            return
        self.over = reason
        if not self._header:
            data: Data = {"reason": reason, "dropped": self.dropped}
            self._sink(self._event(now, "tunfwd:trace_ended", data), must=True)

    def _tell(self, now: float, name: str, data: Data) -> None:
        if self.over is None:
            self._put(now, self._event(now, name, data))

    def _event(self, now: float, name: str, data: Data) -> bytes:
        time = _ms(now - self._began)
        return _record({"time": time, "name": name, "group_id": f"link {self._links}", "data": data})

    def _put(self, now: float, record: bytes) -> None:
        if self._header:
            self._left -= len(self._header)
            self._sink(self._header, must=True)
            self._header = b""
        if self._untold:
            notice = self._event(now, "tunfwd:records_dropped", {"count": self._untold})
            if self._sink(notice):
                self._untold = 0
                self._left -= len(notice)
        if self._left < len(record) + LAST_RECORD:
            self.end("size_limit", now)
        elif not self._untold and self._sink(record):
            self._left -= len(record)
        else:
            self._untold += 1
            self.dropped += 1


def _record(content: Data) -> bytes:
    """Return an entry of a JSON text sequence (RFC 7464)."""
    return b"\x1e" + _encode(content).encode("utf-8", "replace") + b"\n"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _header(number: int) -> Data:
    return {"packet_type": "1RTT", "packet_number": number}


def _packet(packet: bytes, number: int, frames: list[Frame], expected: int) -> Data:
    """Describe a packet of the link; `expected` is the number that the other direction has next."""
    return {
        "header": _header(number),
        "raw": {"length": len(packet)},
        "frames": [_frame(frame, expected) for frame in frames],
    }


def _frame(frame: Frame, expected: int) -> Data:
    match frame:
        case Stream(id_, offset, data, fin):
            stream: Data = {"frame_type": "stream", "stream_id": id_, "offset": offset, "length": len(data)}
            return stream | {"fin": True} if fin else stream
        case Ack(truncated, delay, ranges):
            largest = expand_number(truncated, expected)
            acked = [[largest - far, largest - near] for far, near in reversed(ranges)]
            return {"frame_type": "ack", "ack_delay": _ms(delay), "acked_ranges": acked}
        case Ping():
            return {"frame_type": "ping"}
        case MaxStreamData(id_, limit):
            return {"frame_type": "max_stream_data", "stream_id": id_, "maximum": limit}
        case MaxData(limit):
            return {"frame_type": "max_data", "maximum": limit}
        case ResetStream(id_, reason, size):
            return {
                "frame_type": "reset_stream",
                "stream_id": id_,
                "error_code": reason,
                "final_size": size,
            }
        case StopSending(id_, reason):
            return {"frame_type": "stop_sending", "stream_id": id_, "error_code": reason}
        case Datagram(_, data):
            return {"frame_type": "datagram", "length": len(data)}
        case Fragment(data=data):
            raw = {"payload_length": len(data)}
            return {"frame_type": "unknown", "frame_type_value": FRAGMENT_TYPE, "raw": raw}
        case Close(reason):
            code = CLOSE_CODES.get(reason, reason)
            return {"frame_type": "connection_close", "error_space": "transport", "error_code": code}
