"""Keeps who floods us from filling toxcore's UDP socket: most of its packets are dropped in the kernel.

toxcore receives, and decrypts, all that is in its socket before it returns, whoever sent it. So a contact
that sends far more than is of any use meets a filter at the socket, which lets a share of its packets pass:
half as many after each judgement that finds it flooding, somewhat more after each other, until all pass
again. Who floods is for the handler to say, which knows what packets were good for.

The filter goes by the address that packets come from, which toxcore does not tell. While somebody floods, the
source of the next packet in the socket is looked at before each iteration; the first packet that toxcore then
hands out is of that contact, nearly always. A contact behind a relay has no address of its own here, and the
relay bounds what it passes on.
"""

import ctypes
import os
import socket
import struct
from collections import Counter
from collections.abc import Mapping, Set
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple, Protocol

from tunfwd.tox.contacts import Contact

SLOWER: Final = 0.5
FASTER: Final = 1.1
LEAST: Final = 1 / 1024  # of the packets
MAX_POLICED: Final = 16  # contacts at once
VOTES: Final = 8  # looks at a contact's source until it counts

SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27


class Source(NamedTuple):
    """Where packets come from."""

    address: bytes  # 4 or 16
    port: int


class Gate(Protocol):
    """What is done to the socket."""

    def next_source(self) -> Source | None:
        """Return where the next packet in the socket is from; None where that is not known."""

    def admit(self, shares: Mapping[Source, float]) -> None:
        """Let a share of the packets of these sources into the socket, and all of others."""


class Policing:
    """Decides which share of whose packets is received."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._shares: dict[Contact, float] = {}
        self._votes: dict[Contact, Counter[Source]] = {}
        self._next: Source | None = None

    def before_iteration(self) -> None:
        """Look where the next packet comes from, while somebody floods."""
        if self._shares:
            self._next = self._gate.next_source()

    def heard(self, first: "Contact") -> None:
        """Note whose packet was the first that the iteration handed out."""
        if self._next is not None and first in self._shares:
            self._votes[first][self._next] += 1
        self._next = None

    def judge(self, flooding: "Set[Contact]") -> None:
        """Let fewer packets pass of those who flood, and more of the others."""
        if not flooding and not self._shares:
            return
        for contact in flooding:
            if contact in self._shares:
                if self._source(contact) is not None:
                    self._shares[contact] = max(self._shares[contact] * SLOWER, LEAST)
            elif len(self._shares) < MAX_POLICED:
                self._shares[contact] = 1.0
                self._votes[contact] = Counter()
        for contact in [policed for policed in self._shares if policed not in flooding]:
            self._shares[contact] *= FASTER
            if self._shares[contact] >= 1.0:
                del self._shares[contact], self._votes[contact]
        found = ((self._source(contact), share) for contact, share in self._shares.items() if share < 1.0)
        self._gate.admit({source: share for source, share in found if source is not None})

    def _source(self, contact: "Contact") -> Source | None:
        """Return where a contact's packets come from, once that is certain enough."""
        votes = self._votes[contact]
        if votes.total() < VOTES:
            return None
        source, most = votes.most_common(1)[0]
        return source if 2 * most > votes.total() else None


class SocketGate:
    """toxcore's UDP socket, which stays toxcore's."""

    def __init__(self, descriptor: int | None) -> None:
        self._socket = None if descriptor is None else socket.socket(fileno=os.dup(descriptor))
        self._filtered = False

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def next_source(self) -> Source | None:
        """See Gate."""
        if self._socket is None:
            return None
        try:
            _, (host, port, *_) = self._socket.recvfrom(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # empty, or an error that toxcore is to see
            return None
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return Source(address.packed, port)

    def admit(self, shares: Mapping[Source, float]) -> None:
        """See Gate."""
        if self._socket is None:
            return
        if shares:
            code = filter_program(shares)
            held = ctypes.create_string_buffer(code, len(code))
            program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        elif self._filtered:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._filtered = bool(shares)


# Instructions of linux/filter.h.
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x54, 0x15, 0x35, 0x06
_IP_HEADER: Final = 0xFFF00000  # SKF_NET_OFF
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_ALL: Final = 0xFFFFFFFF


def filter_program(shares: Mapping[Source, float]) -> bytes:
    """Return the BPF program of a UDP socket that lets only these shares of the sources' packets pass."""
    code = []
    for source, share in shares.items():
        version, at = (0x40, 12) if len(source.address) == 4 else (0x60, 8)
        words = struct.unpack(f">{len(source.address) // 4}I", source.address)
        tests = [(_LOAD_BYTE, _IP_HEADER, version)]
        tests += [(_LOAD_WORD, _IP_HEADER + at + 4 * place, word) for place, word in enumerate(words)]
        tests.append((_LOAD_HALF, 0, source.port))  # a filter of a UDP socket begins at the UDP header
        rest = 2 * len(tests) + 1 + 4
        for load, where, value in tests:
            code.append(struct.pack("@HBBI", load, 0, 0, where))
            if load == _LOAD_BYTE:
                code.append(struct.pack("@HBBI", _AND, 0, 0, 0xF0))
                rest -= 1
            rest -= 2
            code.append(struct.pack("@HBBI", _IF_EQUAL, 0, rest, value))
        code.append(struct.pack("@HBBI", _LOAD_WORD, 0, 0, _RANDOM))
        code.append(struct.pack("@HBBI", _IF_AT_LEAST, 0, 1, min(int(share * _ALL), _ALL)))
        code.append(struct.pack("@HBBI", _RETURN, 0, 0, 0))
        code.append(struct.pack("@HBBI", _RETURN, 0, 0, _ALL))
    code.append(struct.pack("@HBBI", _RETURN, 0, 0, _ALL))
    return b"".join(code)
