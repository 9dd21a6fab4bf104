"""From the Tox client to the engine: contacts become peers, packets find their session.

The client's `Handler`: what toxcore says about friends and groups arrives here, in its own iteration.
"""

import logging
from collections.abc import Callable

from tunfwd.control.api import Link
from tunfwd.control.errors import ControlError
from tunfwd.daemon.addresses import AddressBook, NoAddressLeft
from tunfwd.daemon.engine import Engine
from tunfwd.daemon.peers import Peer, Peers, id_of
from tunfwd.daemon.portfolio import Portfolio
from tunfwd.daemon.state import Content
from tunfwd.forwarding.session import Session
from tunfwd.forwarding.session import Settings as SessionSettings
from tunfwd.forwarding.transport import Random
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Contact
from tunfwd.tox.enums import Tox_Connection
from tunfwd.tox.errors import ToxError
from tunfwd.tox.friends import FriendRequest
from tunfwd.tox.handler import Handler

log = logging.getLogger(__name__)


class Contacts(Handler):
    """Keeps the peers in step with the Tox client's contacts."""

    def __init__(
        self,
        engine: Engine,
        peers: Peers,
        portfolio: Portfolio,
        book: AddressBook,
        content: Content,
        save: Callable[[], None],
        *,
        settings: SessionSettings,
        random: Random,
        auto_accept: frozenset[bytes],
    ) -> None:
        self._engine = engine
        self._peers = peers
        self._portfolio = portfolio
        self._book = book
        self._content = content
        self._save = save
        self._settings = settings
        self._random = random
        self._epoch = random.getrandbits(64)  # of this run of the daemon
        self._auto_accept = auto_accept
        self._accept_soon: list[bytes] = []
        self._client: Client | None = None

    def attach(self, client: Client) -> None:
        """Make peers of the contacts that the client knows from earlier runs."""
        self._client = client
        for friend in client.friends:
            self.added(friend)

    # Contacts come to be, and cease.

    def added(self, contact: Contact, name: str | None = None) -> Peer:
        """Make a peer of a contact, under the name that a person gave it, then or now.

        Raises ControlError where no virtual address is left.
        """
        if peer := self._peers.of(contact):
            return peer
        peer_id = id_of(contact)
        try:
            address = self._book.assign(peer_id)
        except NoAddressLeft as full:
            raise ControlError("failed", str(full)) from None
        session = Session(contact.carrier, epoch=self._epoch, random=self._random, settings=self._settings)
        peer = Peer(contact, session, peer_id, "", address, self._book.address6(peer_id))
        if name is not None:
            self._content.names[peer_id] = name
        self._name(peer)
        self._save()
        self._engine.add(peer)
        self._portfolio.restore(peer)
        return peer

    def _name(self, peer: Peer) -> None:
        wanted = self._content.names.get(peer.id) or peer.contact.nickname
        peer.name = self._peers.unique_name(wanted, peer.id, among=peer.via)

    def contact_removed(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._portfolio.forget_peer(peer)
            self._engine.remove(peer)
            self._book.release(peer.id)
            self._content.names.pop(peer.id, None)
            self._save()

    def contact_renamed(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._name(peer)

    # Contacts come and go.

    def contact_online(self, contact: Contact) -> None:
        """See Handler."""
        peer = self.added(contact)
        log.info("%s is online (%s)", peer.label, link_of(peer))
        self._engine.online(peer)

    def contact_offline(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            log.info("%s is offline", peer.label)
            self._engine.offline(peer)

    def contact_connection(self, contact: Contact) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            log.info("%s is reached by another path: %s", peer.label, link_of(peer))

    def friend_request(self, request: FriendRequest) -> None:
        """See Handler."""
        key = request.key.hex().upper()
        if request.key in self._auto_accept:
            self._accept_soon.append(request.key)
        else:
            log.info("%s asks to be a friend: %r; `tunfwd friend accept %s`", key, request.message, key[:8])

    # Packets.

    def lossless(self, contact: Contact, data: bytes) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._engine.lossless(peer, data)

    def lossy(self, contact: Contact, data: bytes) -> None:
        """See Handler."""
        if peer := self._peers.of(contact):
            self._engine.lossy(peer, data)

    def iterated(self) -> None:
        """See Handler."""
        for key in self._accept_soon:
            self._accept_by_rule(key)
        self._accept_soon.clear()
        self._engine.iterated()

    def _accept_by_rule(self, key: bytes) -> None:
        assert self._client is not None
        try:
            peer = self.added(self._client.friends.accept(key))
        except (ControlError, ToxError, LookupError) as error:
            log.warning("%s is on the list of friends to accept, but: %s", key.hex().upper(), error)
        else:
            log.info("%s is a friend now, by rule", peer.label)


def link_of(peer: Peer) -> Link:
    """How a contact is reached."""
    match peer.contact.connection:
        case Tox_Connection.TOX_CONNECTION_UDP:
            return "direct"
        case Tox_Connection.TOX_CONNECTION_TCP:
            return "relay"
    return "offline"
