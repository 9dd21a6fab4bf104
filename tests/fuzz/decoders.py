"""Bytes that anybody may send: what a decoder takes has to survive the way back, the rest is Malformed."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from zlib import crc32

from tunfwd.common.errors import Malformed
from tunfwd.common.text import clean
from tunfwd.netstack.types import Endpoint
from tunfwd.services.socks import (
    Fragment,
    Handshake,
    NotSocks,
    Refused,
    Request,
    enclose,
    open_datagram,
)
from tunfwd.wire import frames, icmp, ip, packets, tcp, ticket, udp, vnet
from tunfwd.wire.carriers import FRIEND, GROUP, MAX_PACKET


def packet(data: bytes) -> None:
    """One packet of the specification, over any carrier."""
    for carrier in (FRIEND, GROUP):
        for body in (data, carrier.lossless + data):
            try:
                value = packets.decode(carrier, body)
            except Malformed as error:
                assert error.kind.isidentifier()  # noqa: PT017
            else:
                assert packets.decode(carrier, packets.encode(carrier, value)) == value
        for body in (data, carrier.lossy + data):
            try:
                datagram = packets.decode_datagram(carrier, body)
            except Malformed:
                continue
            assert packets.datagram_header(carrier, datagram.msg_id) + datagram.payload == body
        for body in (data, carrier.extension + data):
            try:
                extension = packets.decode_extension(carrier, body)
            except Malformed:
                continue
            assert packets.encode_extension(carrier, extension) == body


def link_frames(data: bytes) -> None:
    """The frames of a link packet."""
    try:
        found = frames.decode_frames(data, 0)
    except Malformed:
        return
    written = b""
    for frame in found:
        if isinstance(frame, frames.Ack):
            assert len(frame.ranges) <= frames.MAX_RANGES
            edges = [edge for low, high in frame.ranges for edge in (high, low)]
            assert edges == sorted(edges)
            assert edges[-1] < 1 << 31
        else:
            written += frames.encode_frame(frame)
            assert data.find(frames.encode_frame(frame)) >= 0
    if not any(isinstance(frame, frames.Ack) for frame in found):
        assert written == data


def ip_packet(data: bytes) -> None:
    """A frame of the TUN device: IP, and what is in it."""
    try:
        found = ip.parse(data, vnet.LENGTH)
        header = vnet.parse(data)
    except Malformed:
        return
    assert header.flags < 256 > header.gso_type
    assert vnet.LENGTH == found.start < found.payload <= found.end <= len(data)
    assert len(found.source) == len(found.destination) == (4 if found.version == 4 else 16)
    for parse in (_tcp, _udp, _icmp):
        try:
            parse(data, found)
        except Malformed:
            continue


def _tcp(data: bytes, found: ip.Packet) -> None:
    segment = tcp.parse(data, found.payload, found.end)
    assert len(segment.options) + len(segment.payload) + 20 == found.end - found.payload
    options = tcp.parse_options(segment.options)
    assert options.window_scale is None or 0 <= options.window_scale <= tcp.MAX_WINDOW_SCALE


def _udp(data: bytes, found: ip.Packet) -> None:
    datagram = udp.parse(data, found.payload, found.end)
    assert len(datagram.payload) <= found.end - found.payload - 8


def _icmp(data: bytes, found: ip.Packet) -> None:
    match icmp.parse(data, found):
        case icmp.Report(quote=quote):
            icmp.parse_quote(quote)
        case icmp.Echo() as echo:
            reply = icmp.build_echo_reply(found.destination, found.source, echo)
            assert len(reply) == found.end - found.payload


def headers(data: bytes) -> None:
    """The same parsers on bytes without a checksum that has to be right first."""
    for version, size in ((4, 4), (6, 16)):
        addresses = bytes(size), bytes(size)
        found = ip.Packet(version, *addresses, 0, 0, 0, len(data), True, None)
        for parse in (_tcp, _udp, _icmp):
            try:
                parse(data, found)
            except Malformed:
                continue


def tickets(data: bytes) -> None:
    """A ticket, as text, and as what stands before its checksum; and a friend request's message."""
    checked = data + crc32(data).to_bytes(4, "little")
    for written in (
        data.decode("latin-1"),
        ticket.SCHEME + data.decode("latin-1"),
        ticket.SCHEME + urlsafe_b64encode(checked).decode().rstrip("="),
    ):
        try:
            found = ticket.decode(written)
        except Malformed as error:
            assert error.kind.isidentifier()  # noqa: PT017
            continue
        assert ticket.decode(ticket.encode(found)) == found
        assert sum(one.last - one.first + 1 for one in found.ports) <= ticket.MAX_PORTS
    token, text = ticket.read_message(ticket.MESSAGE + data.decode("latin-1"))
    if token is not None:
        assert len(token) == packets.TOKEN
        assert ticket.read_message(ticket.write_message(token, text))[0] == token


def text(data: bytes) -> None:
    """A name or message that a contact chose."""
    for limit in (1, 64, 256):
        shown = clean(data.decode(errors="surrogateescape"), limit)
        assert len(shown) <= limit
        assert shown.isprintable()
        assert clean(shown, limit) == shown
        shown.encode()


MOST = MAX_PACKET + 64  # bytes of an input that say something


def socks(data: bytes) -> None:
    """However it is cut, what a SOCKS client begins with means the same, and nothing else is raised."""
    whole, pieces = _socks([data]), _socks([data[i : i + 1] for i in range(len(data))])
    assert whole == pieces, (whole, pieces)
    try:
        enclosed = open_datagram(data)
    except (NotSocks, Fragment):
        return
    if not isinstance(enclosed.host, str):
        again = enclose(Endpoint(enclosed.host.packed, enclosed.port), enclosed.payload)
        assert again[3:] == data[3:]


def _socks(pieces: list[bytes]) -> tuple[bytes, Request | None, bytes]:
    """What is answered, wanted and left over."""
    handshake, said, left = Handshake(), b"", list(pieces)
    try:
        while left:
            more, request = handshake.receive(left.pop(0))
            said += more
            if request is not None:
                return said, request, handshake.rest + b"".join(left)
    except NotSocks:
        return b"", None, b""
    except Refused as refused:
        return said + refused.answer, None, b""
    return said, None, b""
