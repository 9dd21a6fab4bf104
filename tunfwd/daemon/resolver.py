"""Answers questions about names: what is asked in a DNS message goes in, the answer comes out.

It knows the names of the virtual network (names.py), forwards nothing, and knows of nothing else: outside of
its zones there is no such name. Fed by datapath/nameserver.py. No I/O but for the names of services, once.
"""

import socket
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from typing import Protocol as Interface

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rdataclass import IN
from dns.rdatatype import AAAA, ANY, NS, PTR, SOA, SRV, A

from tunfwd.daemon.names import Host, label_of
from tunfwd.wire.packets import Protocol

PAYLOAD: Final = 1232  # bytes of UDP that we offer, and send at most (DNS flag day 2020)
LEAST_PAYLOAD: Final = 512  # RFC 1035 4.2.1
TTL: Final = 10  # s; a contact is renamed at any time
HEADER: Final = 12  # bytes; RFC 1035 4.1.1
MAX_MESSAGE: Final = 65535

dns.rdata.load_all_types()  # type: ignore[no-untyped-call]  # now: later on this process may not read the library's files

Network = IPv4Network | IPv6Network


class Known(Interface):
    """What is known of names: Names, or another's view of them."""

    domain: str

    def find(self, name: str) -> Host | None:
        """Return who has a name."""

    def at(self, address: IPv4Address | IPv6Address) -> Host | None:
        """Return who has an address."""

    def exists(self, name: str) -> bool:
        """Whether a name, or one below it, is there."""


class Resolver:
    """The authority for the domain, and for the names of virtual addresses."""

    def __init__(
        self, names: Known, networks: tuple[Network, ...], own: tuple[IPv4Address | IPv6Address, ...]
    ):
        """`networks` are the virtual ones; `own` is where the resolver is."""
        self._names = names
        self._networks = networks
        self._own = own
        self._apex = dns.name.from_text(names.domain)
        self._zones = (self._apex, *map(reverse_zone, networks))
        self.malformed = 0

    def answer(self, data: bytes, *, stream: bool) -> bytes | None:
        """Return the answer to a message, None where there is none; by UDP no longer than the asker takes."""
        try:
            query = dns.message.from_wire(data, ignore_trailing=True)
        except Exception:  # of bytes from anybody, in somebody else's parser: whatever it is, they are wrong
            self.malformed += 1
            return _format_error(data)
        if query.flags & dns.flags.QR:
            return None
        try:
            response = dns.message.make_response(query, our_payload=PAYLOAD)
        except dns.exception.DNSException:
            return _format_error(data)
        self._fill(query, response)
        limit = MAX_MESSAGE if stream else min(max(query.payload, LEAST_PAYLOAD), PAYLOAD)
        return _encoded(response, limit)

    def _fill(self, query: dns.message.Message, response: dns.message.Message) -> None:
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        elif query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
        elif query.question[0].rdclass not in (IN, dns.rdataclass.ANY):
            response.set_rcode(dns.rcode.REFUSED)
        else:
            self._look_up(query.question[0].name, query.question[0].rdtype, response)

    def _look_up(self, name: dns.name.Name, kind: int, response: dns.message.Message) -> None:
        zone = next((zone for zone in self._zones if name.is_subdomain(zone)), None)
        if zone is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        response.flags |= dns.flags.AA
        found = list(self._records(name, zone))
        for rrset in found:
            if kind in (rrset.rdtype, ANY):
                response.answer.append(rrset)
            if rrset.rdtype == kind == SRV:
                self._add_targets(rrset, response)
        if not response.answer:
            if not found and not self._has_below(name, zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(self._authority(zone))

    def _records(self, name: dns.name.Name, zone: dns.name.Name) -> Iterator[dns.rrset.RRset]:
        """Find all that is known of a name."""
        if name == zone:
            yield self._authority(zone)
            yield _rrset(name, NS, self._apex.to_text())
        if name == self._apex:
            yield from _addresses(name, self._own)
        elif zone == self._apex:
            if (host := self._names.find(_text(name))) is not None:
                yield from _addresses(name, host.addresses)
            elif targets := list(self._services(name)):
                yield _rrset(name, SRV, *targets)
        elif (owner := self._owner(name)) is not None:
            yield _rrset(name, PTR, f"{owner}.")

    def _owner(self, name: dns.name.Name) -> str | None:
        """Return what is at the address that a reverse name is of."""
        try:
            address = ip_address(dns.reversename.to_address(name))
        except (dns.exception.DNSException, ValueError):
            return None
        if address in self._own:
            return self._names.domain
        host = self._names.at(address)
        return None if host is None else host.name

    def _services(self, name: dns.name.Name) -> Iterator[str]:
        """Find the accepted ports that a name such as _ssh._tcp.bob.tunfwd.internal means."""
        labels = name.labels
        if len(labels) < 3 or labels[1].lower() not in (b"_tcp", b"_udp") or labels[0][:1] != b"_":
            return
        host = self._names.find(_text(dns.name.Name(labels[2:])))
        if host is None or host.peer is None:
            return
        wanted = labels[0][1:].decode("ascii", "replace").lower()
        protocol = labels[1][1:].decode().lower()
        for (spoken, port), mapping in sorted(host.peer.ports.items(), key=lambda item: item[0][1]):
            if spoken is Protocol[protocol.upper()] and (
                wanted == label_of(mapping.name) or wanted == _service_at(mapping.port, protocol)
            ):
                yield f"0 0 {port} {host.name}."

    def _add_targets(self, rrset: dns.rrset.RRset, response: dns.message.Message) -> None:
        for target in {record.target for record in rrset}:
            host: Host | None = self._names.find(_text(target))
            if host is not None:
                response.additional += _addresses(target, host.addresses)

    def _has_below(self, name: dns.name.Name, zone: dns.name.Name) -> bool:
        """Whether a name without records has others below it: a group's has, and _tcp of a contact."""
        if zone != self._apex:
            return len(name) < _full_length(zone)
        if name.labels[0].lower() in (b"_tcp", b"_udp"):
            return self._names.find(_text(name.parent())) is not None
        return self._names.exists(_text(name))

    def _authority(self, zone: dns.name.Name) -> dns.rrset.RRset:
        apex = self._apex.to_text()
        return _rrset(zone, SOA, f"{apex} nobody.{apex} 1 3600 600 86400 {TTL}")


def _rrset(name: dns.name.Name, kind: dns.rdatatype.RdataType, *texts: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, TTL, IN, kind, *texts)


def _addresses(
    name: dns.name.Name, addresses: tuple[IPv4Address | IPv6Address, ...]
) -> list[dns.rrset.RRset]:
    return [_rrset(name, A if one.version == 4 else AAAA, str(one)) for one in addresses]


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def reverse_zone(network: Network) -> dns.name.Name:
    """Return the smallest name under which all addresses of a network are asked for."""
    whole = dns.reversename.from_address(str(network.network_address))
    bits = 8 if network.version == 4 else 4
    return dns.name.Name(whole.labels[(network.max_prefixlen - network.prefixlen + bits - 1) // bits :])


def _full_length(zone: dns.name.Name) -> int:
    """Return how many labels the reverse name of an address has."""
    return 7 if zone.is_subdomain(dns.reversename.ipv4_reverse_domain) else 35


@lru_cache(1024)
def _service_at(port: int, protocol: str) -> str | None:
    try:
        return socket.getservbyport(port, protocol)
    except OSError:
        return None


def _format_error(data: bytes) -> bytes | None:
    """Return the answer to what cannot be read, to whoever seems to ask."""
    if len(data) < HEADER or data[2] & 0x80:
        return None
    flags = dns.flags.QR | (data[2] & 0x79) << 8 | dns.rcode.FORMERR
    return data[:2] + flags.to_bytes(2, "big") + bytes(8)


def _encoded(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.flags |= dns.flags.TC
        response.answer, response.authority, response.additional = [], [], []
        return response.to_wire(max_size=limit)
