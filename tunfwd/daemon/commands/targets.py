"""Whether the services that offers lead to elsewhere are there: tried when a person says so, and by doctor.

What listens on this machine is looked up in the kernel's table; what is elsewhere can only be tried, by a
connection that is closed at once. It is a word to a person, never a refusal: the service may come later.
"""

import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

import trio

from tunfwd.common.values import Reason
from tunfwd.control import api
from tunfwd.daemon.contacts.offers import protocol_named
from tunfwd.daemon.datapath.services import LocalServices
from tunfwd.services.target import (
    ConnectFailed,
    Target,
    connect_stream,
    failure_of,
    most_telling,
    resolve_datagram,
)
from tunfwd.wire.packets import Protocol

PATIENCE: Final = 2.0  # s; a command waits for it
MOST: Final = 32  # tried at once

WORDS: Final = {
    Reason.REFUSED: "nothing listens",
    Reason.UNREACHABLE: "out of reach from here",
    Reason.TIMED_OUT: "no answer",
}

Place = tuple[Target, Protocol]


class Targets:
    """What can be said of them."""

    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def tell(
        self,
        target: Target | None,
        entries: Sequence[api.OfferEntry] | Sequence[api.MappingEntry] | Sequence[api.InviteOffer],
    ) -> None:
        """Have entries of what was just opened say where nobody is at `target`; None: it is here."""
        if target is None:
            return
        troubles = await self.troubles((target, protocol_named(entry["protocol"])) for entry in entries)
        for entry in entries:
            trouble = troubles.get((target, protocol_named(entry["protocol"])))
            entry["trouble"] = entry.get("trouble") or trouble

    async def troubles(self, places: Iterable[Place]) -> dict[Place, str]:
        """Try each, side by side, and return what is wrong with those that are not there."""
        found: dict[Place, str] = {}

        async def look(target: Target, protocol: Protocol) -> None:
            if (trouble := await self._trouble(target, protocol)) is not None:
                found[target, protocol] = trouble

        async with trio.open_nursery() as nursery:
            for place in list(dict.fromkeys(places))[:MOST]:
                nursery.start_soon(look, *place)
        return found

    async def _trouble(self, target: Target, protocol: Protocol) -> str | None:
        with trio.move_on_after(PATIENCE):
            try:
                addresses = await resolve_datagram(target)
            except ConnectFailed:
                return f"there is no such host as {target.host}"
            if protocol is Protocol.UDP:
                return self._datagram_trouble(target, [address for _, address in addresses])
            try:
                (await connect_stream(target)).close()
            except ConnectFailed as failed:
                return WORDS[failed.failure]
            return None
        return f"no answer within {PATIENCE:g} s"

    def _datagram_trouble(self, target: Target, addresses: Iterable[tuple[object, ...]]) -> str | None:
        """Say what can be told without sending anything."""
        failures = []
        for host, *_ in addresses:
            address = ip_address(str(host).partition("%")[0])
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            try:
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect((str(host), target.port))
            except OSError as error:
                failures.append(failure_of(error))
                continue
            return "nothing listens" if self._services.is_missing(address, target.port) else None
        return WORDS[most_telling(failures)] if failures else None
