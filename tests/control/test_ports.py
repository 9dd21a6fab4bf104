"""Several ports at once, as people write them, and what they get wrong."""

import pytest

from tunfwd.common.notation import PortSpec
from tunfwd.common.ports import MAX_PORTS, PortRange, each_once, joined, read_ports, text_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8080/tcp", PortRange(8080, 8080, "tcp")),
        ("27015-27030/UDP", PortRange(27015, 27030, "udp")),
        ("80", PortRange(80, 80, "tcp", explicit=False)),
        ("7-7/udp", PortRange(7, 7, "udp")),
        ("65280-65535/tcp", PortRange(65280, 65535, "tcp")),
    ],
)
def test_ranges(text: str, found: PortRange) -> None:
    assert read_ports(text) == found
    assert len(list(found)) == len(found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("27030-27015/udp", "the range is backward; write 27015-27030/udp"),
        ("30-20", "the range is backward; write 20-30"),
        ("1-65535/tcp", "is 65535 ports: 256 at most at once"),
        ("1-257/tcp", "is 257 ports: 256 at most"),
        ("0-5/tcp", "0 is not a port"),
        ("5-65536/tcp", "65536 is not a port"),
        ("5-/tcp", "'' is not a port"),
        ("-5/tcp", "'' is not a port"),
        ("1-2-3/tcp", "'2-3' is not a port"),
        ("1-2/sctp", "the protocol is tcp or udp, as in 1-2/udp"),
        ("1..2/tcp", "is not a port"),
        ("9" * 5000 + "-1/tcp", "is not a port"),
        *((text, "is not a port") for text in ("", "/tcp", "8 0", "²", "٣", "0x50", "65536", "-1")),
        *((text, "the protocol is tcp or udp") for text in ("80/", "80/sctp", "80/tcp/udp")),
    ],
)
def test_what_is_no_range(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_ports(text)


def test_several_ranges_have_each_port_once() -> None:
    ranges = [read_ports(text) for text in ("27015/tcp", "27015-27017/udp", "27019/udp")]
    assert each_once(ranges) == [
        PortSpec(27015, "tcp"),
        PortSpec(27015, "udp"),
        PortSpec(27016, "udp"),
        PortSpec(27017, "udp"),
        PortSpec(27019, "udp"),
    ]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("27015-27030/udp", "27020/udp"), "27020/udp is named twice: by 27015-27030/udp and by 27020/udp"),
        (("80/tcp", "80"), "80/tcp is named twice"),
        (("1-200/tcp", "1-57/udp"), "257 ports are too many at once: 256 at most"),
    ],
)
def test_ranges_that_do_not_go_together(texts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        each_once([read_ports(text) for text in texts])


def test_ports_are_written_as_they_are_read() -> None:
    assert text_of([27030, 27015, 27016, 27017, 27016]) == "27015-27017,27030"
    assert joined(range(1, MAX_PORTS + 1)) == [(1, MAX_PORTS)]
    assert text_of([]) == ""
