"""What the configuration declares: [[friend]], [[group]], [[offer]]. The daemon is made to be as they say.

At start and at each reload, what is missing is made, and what a former file had and this one has not is
undone; friends and groups that a person here brought in stay theirs. Offers of the file are not in the state:
they stand for as long as the file has them. What an entry contradicts (a name that somebody else has, a port
that is offered already) is left as it is, and said. A command undoes nothing of it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tunfwd.common.errors import UserError
from tunfwd.common.names import folded
from tunfwd.config.document import Config
from tunfwd.config.entries import ALL, DeclaredGroup, FriendTable, OfferTable
from tunfwd.daemon.commands.names import require_new_name
from tunfwd.daemon.contacts.offers import Place, protocol_named, service, service_text
from tunfwd.daemon.contacts.rooms import RoomOffer, room_id
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import ContactId, contact_id, group_id
from tunfwd.daemon.wiring import Daemon
from tunfwd.faults import survives
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.policy import means
from tunfwd.forwarding.states import MappingState
from tunfwd.services.target import Target
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.contacts import Group, Room, RoomState
from tunfwd.wire.packets import Direction, Protocol

Recipient = Peer | Room

MAX_PROBLEMS: Final = 20  # that are told one by one

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Made:
    """An offer of the file's that stands."""

    table: OfferTable
    offer: Mapping | RoomOffer


class Declared:
    """The entries in force, and what was made of them."""

    def __init__(self, daemon: Daemon, save: Callable[[], None]) -> None:
        self._contacts = daemon.contacts
        self._client = daemon.client
        self._rooms = daemon.rooms
        self._offers = daemon.offers
        self._datapath = daemon.datapath
        self._content = daemon.content
        self._save = save
        self._place = Path()
        self._names: dict[ContactId, str] = {}
        """What the file calls the friends and groups that are there because of it, or are named by it."""
        self._tables: tuple[OfferTable, ...] = ()
        self._made: dict[tuple[Recipient, Place], _Made] = {}
        self._problems: list[str] = []
        self._passwords: dict[bytes, str] = {}
        self._busy = False
        self._contacts.named = self._named
        self._contacts.held = self._held_contact
        self._offers.held = self._held_mapping
        self._rooms.held = self._held_offer

    def apply(self, config: Config) -> list[str]:
        """Make it so. Returns what could not be, a sentence each."""
        self._place = config.place
        self._problems = []
        self._busy = True
        try:
            self._apply_friends(config.declared_friends)
            self._apply_groups(config.declared_groups)
        finally:
            self._busy = False
        self._tables = config.declared_offers
        self._apply_offers()
        for problem in self._problems[:MAX_PROBLEMS]:
            log.warning("%s", problem)
        self._save()
        return list(self._problems)

    def _problem(self, entry: str, reason: str) -> None:
        self._problems.append(f"{self._place}, {entry}: {reason}")

    # -- friends

    def _apply_friends(self, tables: tuple[FriendTable, ...]) -> None:
        wanted = {contact_id(table.public_key): table for table in tables}
        for known in [entry for entry in self._content.declared if "/" not in entry]:
            if known not in wanted:
                self._drop_friend(known)
        self._names = {known: table.name for known, table in wanted.items()}
        for known, table in wanted.items():
            if table.public_key == self._client.public_key:
                continue  # one file for several machines names this one, too
            try:
                self._be_friends(known, table)
            except UserError as wrong:
                self._problem(f"[[friend]] {table.name}", wrong.message)
            except ToxError as error:
                self._problem(f"[[friend]] {table.name}", f"toxcore: {error}")

    def _drop_friend(self, known: ContactId) -> None:
        self._content.declared.remove(known)
        friend = self._client.friends.get(bytes.fromhex(known))
        if friend is not None:
            log.info(
                "%s is in %s no longer, and no friend any more", self._content.names.get(known), self._place
            )
            self._client.friends.remove(friend)

    def _be_friends(self, known: ContactId, table: FriendTable) -> None:
        if known in self._content.blocked:
            raise UserError("denied", f"is blocked; `tunfwd friend unblock {table.name}` ends that")
        friends = self._client.friends
        friend = friends.get(table.public_key)
        require_new_name(self._datapath.peers, friends.requests, table.name, known)
        if friend is None:
            if table.address is None:
                friend = friends.add_key(table.public_key)
            else:
                message = table.message or f"tunfwd of {self._client.name}"
                friend = friends.add(bytes.fromhex(table.address), message)
            self._content.declared.append(known)
        peer = self._contacts.added(friend, table.name)
        if peer.party.name != table.name:
            self._contacts.rename(peer, table.name)

    # -- groups

    def _apply_groups(self, tables: tuple[DeclaredGroup, ...]) -> None:
        wanted = {group_id(table.chat_id) for table in tables if table.chat_id is not None}
        created = {folded(table.name) for table in tables if table.chat_id is None}
        for known in [entry for entry in self._content.declared if entry.endswith("/")]:
            group = self._client.groups.get(bytes.fromhex(known[:-1]))
            if known not in wanted and not (group is not None and folded(self._rooms.name(group)) in created):
                self._drop_group(known, group)
        for table in tables:
            try:
                group = self._be_in(table)
            except UserError as wrong:
                self._problem(f"[[group]] {table.name}", wrong.message)
            except ToxError as error:
                self._problem(f"[[group]] {table.name}", f"cannot be joined: {error}")
            else:
                self._names[room_id(group)] = table.name

    def _drop_group(self, known: ContactId, group: Group | None) -> None:
        self._content.declared.remove(known)
        if group is None:
            return
        name = self._rooms.name(group)
        if group.founded:
            log.warning("%s is in %s no longer; `tunfwd group leave %s` leaves it", name, self._place, name)
        else:
            log.info("%s is in %s no longer, and left", name, self._place)
            self._client.groups.leave(group)

    def _be_in(self, table: DeclaredGroup) -> Group:
        group = self._founded(table) if table.chat_id is None else self._client.groups.get(table.chat_id)
        if group is not None and self._rooms.name(group) == table.name:
            pass
        else:
            self._rooms.require_free(table.name, "group", group)
        if table.chat_id is not None:
            group = self._joined(table.chat_id, group, table.password)
        elif group is None:
            group = self._client.groups.create(
                table.name, public=table.create == "public", password=table.password
            )
            self._content.declared.append(room_id(group))
        if self._rooms.name(group) != table.name or not self._rooms.is_named(group):
            self._contacts.rename_room(group, table.name)
        return group

    def _founded(self, table: DeclaredGroup) -> Group | None:
        ours = (group for group in self._client.groups if group.founded)
        return next((group for group in ours if self._rooms.name(group) == table.name), None)

    def _joined(self, chat_id: bytes, group: Group | None, password: str) -> Group:
        """Join where we are not in, and again where we were refused or the password is another one now."""
        other = self._passwords.get(chat_id, password) != password
        self._passwords[chat_id] = password
        if group is not None and other and group.state is not RoomState.JOINED:
            self._client.groups.leave(group)
            group = None
        if group is None or group.state is RoomState.LOST:
            group = self._client.groups.join(chat_id, password)
            if room_id(group) not in self._content.declared:
                self._content.declared.append(room_id(group))
        return group

    # -- offers

    def _apply_offers(self) -> None:
        wanted: dict[tuple[Recipient, Place], OfferTable] = {}
        meant: set[tuple[int, str]] = set()
        for recipient in (*self._datapath.peers, *self._rooms):
            for number, text, table in self._for(recipient):
                meant.add((number, text))
                for spec in table.specs:
                    place = (protocol_named(spec.protocol), spec.port)
                    wanted.setdefault((recipient, place), table)
        for at in [at for at, made in self._made.items() if wanted.get(at) != made.table]:
            self._withdraw(at)
        for at, table in wanted.items():
            self._stand(at, table)
        for number, table in enumerate(self._tables):
            for text in table.to:
                if text != ALL and (number, text) not in meant and text not in self._names.values():
                    self._problem(f"[[offer]] {table.label}", f"nobody here is called {text!r} so far")

    def _for(self, recipient: Recipient) -> Iterator[tuple[int, str, OfferTable]]:
        """Find the entries that go to a contact or a room, and by which word of theirs."""
        for number, table in enumerate(self._tables):
            for text in table.to:
                if self._means(text, recipient):
                    yield number, text, table

    def _means(self, text: str, recipient: Recipient) -> bool:
        if isinstance(recipient, Peer):
            if text == ALL:
                return recipient.contact.kind == "friend"
            whole_room = text.startswith(("group:", "conference:")) and "/" not in text
            return not whole_room and bool(text.strip("*")) and means(text, recipient.party)
        kind, _, name = text.partition(":")
        called = (self._rooms.name(recipient), recipient.id.hex().upper())
        return (
            kind == recipient.kind
            and name in called
            and (self._rooms.is_named(recipient) or name == called[1])
        )

    def _withdraw(self, at: tuple[Recipient, Place]) -> None:
        recipient, _ = at
        offer = self._made.pop(at).offer
        if isinstance(offer, RoomOffer):
            if offer in self._rooms.offers:
                self._rooms.kill(offer)
        elif isinstance(recipient, Peer) and offer.state is not MappingState.ENDED:
            self._offers.end(recipient, offer)
            self._datapath.scheduler.touch(recipient)

    def _stand(self, at: tuple[Recipient, Place], table: OfferTable) -> None:
        recipient, (protocol, port) = at
        if at in self._made:
            if self._still_stands(self._made[at].offer):
                return
            del self._made[at]
        target = service(table.target)
        arguments = (protocol, port, table.name, target, table.source)
        try:
            offer = self._adopted(recipient, protocol, port, table, target)
            if offer is None and isinstance(recipient, Peer):
                offer = self._offers.offer(recipient, *arguments, keep=False)
                self._datapath.scheduler.touch(recipient)
            elif offer is None and not isinstance(recipient, Peer):
                offer = self._rooms.offer(recipient, *arguments, keep=False)
        except UserError as wrong:
            self._problem(f"[[offer]] {port}/{protocol.name.lower()}", wrong.message)
            return
        assert offer is not None
        self._made[at] = _Made(table, offer)
        if target is None and table.source == "auto":
            self._datapath.services.decide_anew(protocol, port)

    def _still_stands(self, offer: Mapping | RoomOffer) -> bool:
        if isinstance(offer, RoomOffer):
            return offer in self._rooms.offers
        return offer.state is not MappingState.ENDED

    def _adopted(
        self, recipient: Recipient, protocol: Protocol, port: int, table: OfferTable, target: Target | None
    ) -> Mapping | RoomOffer | None:
        """Take over the same offer, made by a command. Raises UserError where that is another one."""
        if isinstance(recipient, Peer):
            mapping = recipient.session.offered(protocol, port, Direction.SERVER)
            if mapping is None:
                return None
            details = recipient.details_of(mapping)
            same = (mapping.name, details.target, details.source) == (table.name, target, table.source)
            if not same or self._rooms.origin_of(mapping) is not None:
                raise _other(recipient.label, port, mapping.name)
            self._offers.adopt(recipient, mapping)
            return mapping
        for offer in self._rooms.offers:
            standing = offer.standing
            if (standing.contact, offer.protocol, standing.port) == (room_id(recipient), protocol, port):
                written = (standing.name, standing.target, standing.source)
                if written != (table.name, service_text(target), table.source):
                    raise _other(self._rooms.label(recipient), port, standing.name)
                self._rooms.adopt(offer)
                return offer
        return None

    # -- what happens meanwhile

    def _named(self, recipient: Recipient) -> None:
        """Somebody is new, or has another name: the offers that mean it follow."""
        if self._busy or not self._tables:
            return
        survives("offers of the configuration", self._follow, recipient)

    def _follow(self, recipient: Recipient) -> None:
        tables = {
            (protocol_named(spec.protocol), spec.port): table
            for _, _, table in reversed(list(self._for(recipient)))
            for spec in table.specs
        }
        self._problems = []
        for at in [at for at in self._made if at[0] is recipient and at[1] not in tables]:
            self._withdraw(at)
        for place, table in tables.items():
            self._stand((recipient, place), table)
        for problem in self._problems:
            log.warning("%s", problem)

    def _held_contact(self, known: ContactId) -> str | None:
        if known not in self._names:
            return None
        kind = "group" if known.endswith("/") else "friend"
        return self._told(f"{self._names[known]} is a [[{kind}]]")

    def _held_mapping(self, mapping: Mapping) -> str | None:
        room = self._rooms.origin_of(mapping)
        if not any(made.offer in (mapping, room) for made in self._made.values()):
            return None
        return self._told(f"{mapping.port}/{mapping.protocol.name.lower()} is an [[offer]]")

    def _held_offer(self, offer: RoomOffer) -> str | None:
        if not any(made.offer is offer for made in self._made.values()):
            return None
        return self._told(f"{offer.standing.port}/{offer.standing.protocol} is an [[offer]]")

    def _told(self, what: str) -> str:
        return f"{what} of {self._place}: change it there, then `tunfwd reload`"


def _other(label: str, port: int, name: str) -> UserError:
    called = f" as {name}" if name else ""
    return UserError("failed", f"{port} is offered to {label} otherwise already{called}; kill that first")
