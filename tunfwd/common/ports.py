"""Several ports at once, as people write them: "27015/tcp 27020-27030/udp".

What one command names is bounded and has each port once, so that it can be done as a whole or not at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, cast

from tunfwd.common.notation import PROTOCOLS, PortSpec, Protocol, read_port
from tunfwd.common.schema import Parse

MAX_PORTS: Final = 256  # at once, in all ranges


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports as typed, both ends included: "27020-27030/udp", or one port, "8080/tcp"."""

    first: int
    last: int
    protocol: Protocol
    explicit: bool = True  # False: the protocol was left out, and tcp was taken

    def __str__(self) -> str:
        return f"{_span(self.first, self.last)}/{self.protocol}"

    def __iter__(self) -> Iterator[PortSpec]:
        for port in range(self.first, self.last + 1):
            yield PortSpec(port, self.protocol, self.explicit)

    def __len__(self) -> int:
        return self.last - self.first + 1


def read_ports(text: str) -> PortRange:
    """Read "27020-27030/udp", "8080/tcp", or "8080" for tcp."""
    numbers, slash, protocol = text.partition("/")
    first_text, dash, last_text = numbers.partition("-")
    first = read_port(first_text)
    last = read_port(last_text) if dash else first
    if slash and protocol.lower() not in PROTOCOLS:
        raise ValueError(f"{text!r}: the protocol is tcp or udp, as in {_span(first, last)}/udp")
    if first > last:
        forward = f"{last}-{first}{text[len(numbers) :]}"
        raise ValueError(f"{text!r}: the range is backward; write {forward}")
    if last - first >= MAX_PORTS:
        raise ValueError(f"{text!r} is {last - first + 1} ports: {MAX_PORTS} at most at once")
    return PortRange(first, last, cast(Protocol, protocol.lower() or "tcp"), explicit=bool(slash))


def each_once(ranges: Sequence[PortRange]) -> list[PortSpec]:
    """Return all ports of some ranges. Raises ValueError where two overlap, or there are too many."""
    named: dict[tuple[int, Protocol], PortRange] = {}
    for one in ranges:
        for spec in one:
            if other := named.get((spec.port, spec.protocol)):
                raise ValueError(f"{spec} is named twice: by {other} and by {one}")
            named[spec.port, spec.protocol] = one
    if len(named) > MAX_PORTS:
        raise ValueError(f"{len(named)} ports are too many at once: {MAX_PORTS} at most")
    return [PortSpec(port, protocol, one.explicit) for (port, protocol), one in named.items()]


def joined(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Return ports as ranges, in order; ports that follow one another are one."""
    ranges: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1] = ranges[-1][0], port
        else:
            ranges.append((port, port))
    return ranges


def text_of(ports: Iterable[int]) -> str:
    """Return ports as people write them: "27015,27020-27030"."""
    return ",".join(_span(first, last) for first, last in joined(ports))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


Ports = Annotated[PortRange, Parse(str, read_ports)]
