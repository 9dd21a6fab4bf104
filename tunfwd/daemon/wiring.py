"""Puts a daemon together, between what it stands on and the Tox client: once, for its tests, too."""

from collections.abc import Callable
from dataclasses import dataclass

from tunfwd.daemon.contacts.changes import Changes
from tunfwd.daemon.contacts.offers import Offers, Policy
from tunfwd.daemon.contacts.tracker import AutoAccept, ContactTracker
from tunfwd.daemon.datapath.datapath import Datapath, Machine
from tunfwd.daemon.datapath.guests import Guests, NamesInside, Translation
from tunfwd.daemon.datapath.tap import Tap
from tunfwd.daemon.names import DEFAULT_DOMAIN, Names
from tunfwd.daemon.process.events import Events
from tunfwd.daemon.resolver import Resolver
from tunfwd.daemon.storage.addresses import AddressBook
from tunfwd.daemon.storage.state import Content
from tunfwd.forwarding.session import Settings as SessionSettings
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says about contacts and their sessions."""

    policy: Policy
    connect_timeout: float
    """Of services, in s."""
    session: SessionSettings
    auto_accept: AutoAccept
    domain: str | None = DEFAULT_DOMAIN
    """Of the names of contacts; None: nobody answers questions about them."""
    broadcast: bool = True
    """Whether broadcasts of this machine go to the contacts whose port they are for."""


class Daemon:
    """The parts of a daemon that move packets, and those that know who they are from."""

    def __init__(
        self,
        machine: Machine,
        content: Content,
        save: Callable[[], None],
        options: Options,
        start: Callable[[Handler], Client],
    ) -> None:
        """`save` writes `content`, soon, whenever it has changed; `start` makes the Tox client."""
        ipv4, ipv6 = machine.addresses
        self.content = content
        self.events = Events()
        self.offers = Offers(content, options.policy, save)
        self.datapath = Datapath(
            machine, content, save, self.offers, options.connect_timeout, broadcast=options.broadcast
        )
        self.tap = Tap(self.datapath.engine, self.datapath.peers)
        self.book = AddressBook(ipv4.network, ipv6.network, content.addresses)
        self.contacts = ContactTracker(
            self.datapath,
            self.offers,
            self.book,
            content,
            save,
            machine.random,
            options.session,
            options.auto_accept,
            start,
        )
        self.names = Names(self.datapath.peers, options.domain or DEFAULT_DOMAIN, self.contacts.own.names)
        self.datapath.peers.named = self.names.peer
        self.resolver: Resolver | None = None
        if options.domain is not None:
            places = (self.book.resolver, self.book.resolver6)
            self.resolver = Resolver(self.names, (ipv4.network, ipv6.network), places)
            self.datapath.nameserver.open(self.resolver.answer, *(place.packed for place in places))
        self.translate = translate = Translation(ipv4.network)
        self.guests = Guests(self.datapath, translate, machine.random)
        self.own6 = ipv6
        self.resolvers_inside = translate.of(self.book.resolver), self.book.resolver6
        self.resolver_inside: Resolver | None = None
        if options.domain is not None:
            inside = NamesInside(self.names, translate)
            self.resolver_inside = Resolver(inside, (translate.inside, ipv6.network), self.resolvers_inside)
        self.client = self.contacts.client
        self.rooms = self.contacts.rooms
        self.changes = Changes(content, self.rooms, self.datapath.scheduler, save)
