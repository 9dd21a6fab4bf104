"""The services of this machine that contacts reach: whose each is, and whom it sees. Decided once.

A service trusts what it sees: a ban is for a contact's virtual address, and 127.0.0.1 may need no password.
So neither a contact nor another user of this machine may change it. With `--source auto` the kernel's table
of listening sockets decides, when the offer is made or else when the service appears; how an attempt to
connect went never does.

- A service that takes what comes to our virtual address sees the contact's own ("peer"); one that listens on
  loopback only sees loopback ("host"). It is reached at the address by which the contact knows us, so that it
  can tell the contact where it is; where it does not listen there, at the device's own.
- The decision is kept, with the service's owner. A socket of another user is never taken for the service.
- "peer" stays "peer". "host" is looked at again when the socket it was decided for is gone, among sockets of
  the same owner: a service that was restarted to listen everywhere sees contacts from then on.
- A person who offers the port again has it decided anew.
"""

import logging
import pwd
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from typing import Protocol as Interface

import trio

from tunfwd.common.values import Reason
from tunfwd.control.api import Sees, Source
from tunfwd.daemon.storage.state import Content, KnownService
from tunfwd.loop import current_time
from tunfwd.services.target import Target
from tunfwd.tun.listeners import Address, Listener
from tunfwd.wire.packets import Protocol

LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
FRESH: Final = 0.05  # s that a service found is good for; a flood of connections asks the kernel once
WATCH: Final = 2.0  # s between looks whether a service has appeared
ROOT: Final = 0
NOBODY: Final = 65534
FIRST_PERSON: Final = 1000  # Debian policy 9.2.2: users below are the system's

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """How a service is reached."""

    source: Sees
    """Whom it sees: the contact's virtual address, or this machine."""
    address: Address
    """The service's own, as it is reached."""
    everywhere: bool = field(default=True, compare=False)
    """Whether it has all of our addresses, and may answer from any of them."""


class Unreachable(Exception):
    """The service cannot be reached; the message says why, and is for people."""

    def __init__(self, message: str, reason: Reason = Reason.REFUSED) -> None:
        super().__init__(message)
        self.reason = reason


class Table(Interface):
    """The kernel's table of listening sockets."""

    def ports(self, protocol: Protocol) -> set[int]:
        """Return all ports that anybody listens at."""

    def at(self, protocol: Protocol, port: int) -> list[Listener]:
        """Return all that listen at a port."""

    def users_of(self, port: int) -> set[int]:
        """Return whose UDP sockets have a port, listening or not."""


Found = tuple[Way, Listener]
KnownAs = tuple[Address, ...] | None
"""The addresses by which a contact knows us; None: whichever contact."""


class LocalServices:
    """What listens at ports of this machine that are offered."""

    def __init__(
        self,
        table: Table,
        content: Content,
        save: Callable[[], None],
        own: tuple[Address, ...],
        *,
        interface: int,
        loopback: int,
        present: Container[bytes] | None = None,
        by_sockets: bool = False,
    ) -> None:
        """`own` are the device's addresses; then come the indices of the TUN device and of loopback.

        `present` says which addresses, packed, this machine has at the moment; None: all that we know of.
        `by_sockets`: contacts have addresses of loopback, and so what sees them is reached by loopback, too.
        """
        self._by_sockets = by_sockets
        self._table = table
        self._content = content
        self._save = save
        self._device = own
        self._interface = interface
        self._loopback = loopback
        self._present = present
        self._known_as: tuple[Address, ...] = ()
        self._sockets: dict[tuple[Protocol, int], int] = {}
        """By the inode: the socket that each service was when it was decided."""
        self._asked: dict[tuple[Protocol, int], dict[KnownAs, tuple[float, Way]]] = {}

    def set_own(self, addresses: Iterable[Address]) -> None:
        """Have these be all the addresses that contacts know us by."""
        self._known_as = tuple(addresses)

    def _ways(self, known_as: KnownAs) -> list[tuple[Way, int]]:
        """Return the ways to a service, for contacts that know us so, the best first."""
        wanted = () if self._by_sockets else self._known_as if known_as is None else known_as
        there = [one for one in wanted if self._present is None or one.packed in self._present]
        ways = [(Way("peer", address), self._interface) for address in dict.fromkeys((*there, *self._device))]
        return ways + [(Way("host", address), self._loopback) for address in LOOPBACK]

    def _to_everybody(self, known_as: KnownAs) -> Way:
        """Return how a service is reached that is not known, and that may see contacts."""
        return Way("peer", LOOPBACK[0]) if self._by_sockets else self._ways(known_as)[0][0]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Decide about services as they appear, until cancelled."""
        task_status.started()
        while True:
            offered = self.prune()
            self._look_for(offered - {_key(known) for known in self._content.services})
            await trio.sleep(WATCH)

    def _look_for(self, missing: set[tuple[Protocol, int]]) -> None:
        """Decide about those services that have appeared, by one question, however many are missing."""
        for protocol in {protocol for protocol, _ in missing}:
            for port in self._table.ports(protocol):
                if (protocol, port) in missing:
                    self.look(protocol, port)

    def way_to(
        self, target: Target, source: Source, protocol: Protocol, known_as: KnownAs = None
    ) -> Way | Target:
        """Return how a service is to be reached; a Target is for an ordinary socket. Raises Unreachable."""
        if target.host is not None or source == "host":
            return target
        if source == "peer":
            return self._to_everybody(known_as)
        found = self.look(protocol, target.port, known_as)
        if isinstance(found, Unreachable):
            raise found
        return found

    def is_decided(self, protocol: Protocol, port: int) -> bool:
        """Whether a service has been found at a port."""
        return self._known(protocol, port) is not None

    def look(self, protocol: Protocol, port: int, known_as: KnownAs = None) -> Way | Unreachable:
        """Return how the service at a port is to be reached, or why it cannot be."""
        now = current_time()
        asked = self._asked.get((protocol, port), {}).get(known_as)
        if asked is not None and now - asked[0] < FRESH:
            return asked[1]
        known = self._known(protocol, port)
        try:
            way = self._decide(protocol, port, known, known_as)
        except Unreachable as unreachable:
            return unreachable
        if known is not None:
            self._asked.setdefault((protocol, port), {})[known_as] = now, way
        return way

    def is_missing(self, address: Address, port: int) -> bool:
        """Whether nothing takes datagrams at an address that is this machine's own."""
        if not address.is_loopback and (self._present is None or address.packed not in self._present):
            return False
        listeners = self._table.at(Protocol.UDP, port)
        return not any(listener.takes(address, listener.interface) for listener in listeners)

    def may_answer(self, port: int, other: int) -> bool:
        """Whether what a UDP socket at another port says is taken for an answer of the service at `port`.

        It is the same user's, or root's; or a user's of the system, where root started the service.
        """
        users, others = self._table.users_of(port), self._table.users_of(other)
        if ROOT in users:
            return bool(others) and all(user < FIRST_PERSON or user == NOBODY for user in others)
        return bool(others) and others <= users | {ROOT}

    def decide_anew(self, protocol: Protocol, port: int) -> None:
        """A person offers the port: what was decided before does not bind, but its owner goes first."""
        known = self._known(protocol, port)
        if known is not None:
            self._content.services.remove(known)
            found = self._winners(self._table.at(protocol, port), None)
            if any(listener.uid == known.owner for _, listener in found):
                first = _first(found, known.owner)
                self._keep(protocol, port, first)
        self._asked.pop((protocol, port), None)

    def prune(self) -> set[tuple[Protocol, int]]:
        """Forget the services that are not offered any more; return those that are."""
        offered = _offered(self._content)
        kept = [known for known in self._content.services if _key(known) in offered]
        if len(kept) < len(self._content.services):
            self._content.services = kept
            self._save()
        for forgotten in self._sockets.keys() - offered:
            del self._sockets[forgotten]
        for forgotten in self._asked.keys() - offered:
            del self._asked[forgotten]
        return offered

    def _known(self, protocol: Protocol, port: int) -> KnownService | None:
        at_port = (known for known in self._content.services if known.port == port)
        return next((known for known in at_port if _key(known) == (protocol, port)), None)

    def _decide(self, protocol: Protocol, port: int, known: KnownService | None, known_as: KnownAs) -> Way:
        listeners = self._table.at(protocol, port)
        found = self._winners(listeners, known_as)
        if known is None:
            if not listeners:  # a rule of the firewall may lead elsewhere what comes from a contact
                return self._to_everybody(known_as)
            way, listener = _first(found, _owner(found, listeners))
            self._keep(protocol, port, (way, listener))
            log.info("%s at port %d sees %s", protocol.name, port, describe(way))
            return way
        if known.source == "peer":
            found = [(way, listener) for way, listener in found if way.source == "peer"]
        mine = [(way, listener) for way, listener in found if listener.uid == known.owner]
        if not mine:
            raise Unreachable(_gone(known, found, listeners))
        if known.source == "peer":
            return mine[0][0]
        socket = self._sockets.get((protocol, port))
        host = [(way, listener) for way, listener in mine if way.source == "host"]
        if host and any(listener.inode == socket for listener in listeners):
            return host[0][0]
        self._content.services.remove(known)
        self._keep(protocol, port, mine[0])
        return mine[0][0]

    def _keep(self, protocol: Protocol, port: int, found: Found) -> None:
        way, listener = found
        self._content.services.append(
            KnownService("tcp" if protocol is Protocol.TCP else "udp", port, listener.uid, way.source)
        )
        self._sockets[protocol, port] = listener.inode
        self._save()

    def _winners(self, listeners: Iterable[Listener], known_as: KnownAs) -> list[Found]:
        """Return who gets what comes each way: the kernel's choice. Ways that show the contact go first."""
        found = []
        for way, interface in self._ways(known_as):
            takers = [listener for listener in listeners if listener.takes(way.address, interface)]
            if takers:
                taker = max(takers, key=lambda taker: _rank(taker, way.address))
                found.append((replace(way, everywhere=taker.address.is_unspecified), taker))
        return self._by_loopback(found) if self._by_sockets else found

    def _by_loopback(self, found: list[Found]) -> list[Found]:
        """Have what takes everybody be reached at 127.0.0.1, from where UDP services answer then."""
        there = [listener for way, listener in found if way.address == LOOPBACK[0]]
        return [
            (Way("peer", LOOPBACK[0]) if way.source == "peer" else way, listener)
            for way, listener in found
            if way.source != "peer" or listener in there
        ]


def _rank(listener: Listener, address: Address) -> tuple[bool, bool, bool]:
    """Order listeners as the kernel does (inet_lookup_listener, udp4_lib_lookup): the nearest match last."""
    return (
        listener.address == address,
        listener.interface != 0,
        listener.address.version == address.version,
    )


def _owner(found: list[Found], listeners: list[Listener]) -> int:
    """Return whose the service is that is not known yet; raises Unreachable where that is in doubt."""
    owners = {listener.uid for _, listener in found}
    if not owners:
        places = ", ".join(sorted({str(listener.address) for listener in listeners}))
        raise Unreachable(f"listens on {places} only: offer it with --target")
    if len(owners) > 1 and ROOT not in owners:
        names = " and ".join(sorted(user(uid) for uid in owners))
        raise Unreachable(f"{names} both listen: --source says which is meant")
    return ROOT if ROOT in owners else owners.pop()


def _first(found: list[Found], owner: int) -> Found:
    return next((way, listener) for way, listener in found if listener.uid == owner)


def _gone(known: KnownService, found: list[Found], listeners: list[Listener]) -> str:
    """Say what is there instead of a known service."""
    mine = [listener for listener in listeners if listener.uid == known.owner]
    winners = [listener for _, listener in found]
    if others := {listener.uid for listener in winners or ([] if mine else listeners)}:
        names = " and ".join(sorted(map(user, others)))
        return f"{names} listens in place of {user(known.owner)}: offer it anew if that is right"
    if any(listener.takes(address, listener.interface) for listener in mine for address in LOOPBACK):
        return "listens on loopback only now, where it saw who connects: offer it anew"
    return "listens on other addresses now" if mine else "nothing listens"


def _key(known: KnownService) -> tuple[Protocol, int]:
    return Protocol[known.protocol.upper()], known.port


def _offered(content: Content) -> set[tuple[Protocol, int]]:
    """Return the ports of this machine that contacts may reach, now or later, with `--source auto`."""
    offers = {(o.protocol, o.port) for o in content.offers if o.target is None and o.source == "auto"}
    accepted = {
        (m.protocol, m.port) for m in content.mappings if m.direction == "connection" and m.target is None
    }
    return {(Protocol[protocol.upper()], port) for protocol, port in offers | accepted if port}


def describe(way: Way) -> str:
    """Say whom a service sees."""
    return "each contact's virtual address" if way.source == "peer" else f"{way.address}, not who connects"


def user(uid: int) -> str:
    """Return a user's name, or a number where there is none."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
