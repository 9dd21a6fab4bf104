"""What a person declined, or has left, of what contacts offer: remembered until they change their mind.

Declining, leaving and withdrawing are three things. Who declines an offer is not asked again, not after a
restart of either side, either. Who leaves what was accepted keeps the offer, and is asked before a rule
accepts it again. What its contact withdraws is gone. Used by offers.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunfwd.common.notation import Protocol as ProtocolName
from tunfwd.control.api import Direction as DirectionName
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import ContactId, Content, Refused
from tunfwd.forwarding.flow import Mapping, Origin, offer_key
from tunfwd.wire.packets import Direction, Protocol


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was declined or left, of a contact that is known."""

    peer: Peer
    refused: Refused
    protocol: Protocol
    direction: Direction

    @property
    def id(self) -> str:
        """How a person names it, as while it was on offer."""
        return self.peer.offer_id(
            Origin.REMOTE, self.direction, self.protocol, self.refused.port, self.refused.name
        )


class Refusals:
    """The refusals, kept in step with the state directory."""

    def __init__(self, content: Content, save: Callable[[], None]) -> None:
        self._content = content
        self._save = save
        self._last_ids: dict[Refused, int] = {}  # of the Offers that were declined in this run

    def of(self, peer: Peer, mapping: Mapping) -> Refused | None:
        """Return what a person said of an offer, if that was no."""
        key = mapping.key
        return next(
            (one for one in self._content.refused if one.contact == peer.id and _key(one) == key), None
        )

    def all(self, peer: Peer) -> Iterator[Refusal]:
        """Yield what was refused of a contact, and is not on offer now."""
        theirs = {mapping.key for mapping in peer.session.mappings if mapping.origin is Origin.REMOTE}
        for one in self._content.refused:
            if one.contact == peer.id and _key(one) not in theirs:
                yield Refusal(peer, one, Protocol[one.protocol.upper()], Direction[one.direction.upper()])

    def add(self, peer: Peer, mapping: Mapping, *, left: bool) -> None:
        """Remember that a person has said no, or no more."""
        self.remove(peer, mapping)
        direction: DirectionName = "server" if mapping.direction is Direction.SERVER else "connection"
        protocol: ProtocolName = "tcp" if mapping.protocol is Protocol.TCP else "udp"
        refused = Refused(peer.id, direction, protocol, mapping.port, mapping.name, left)
        self._content.refused.append(refused)
        if not left:
            self.declined(refused, mapping)
        self._save()

    def declined(self, refused: Refused, mapping: Mapping) -> None:
        """Note by which msg_id the contact offered it last: accepting that is how to change one's mind."""
        self._last_ids[refused] = mapping.msg_id

    def last_id(self, refused: Refused) -> int | None:
        """Return that msg_id, if it was offered in this run."""
        return self._last_ids.get(refused)

    def remove(self, peer: Peer, mapping: Mapping) -> None:
        """A person has said yes, or something else."""
        if (refused := self.of(peer, mapping)) is not None:
            self.discard(refused)

    def discard(self, refused: Refused) -> None:
        """Forget one."""
        self._content.refused.remove(refused)
        self._last_ids.pop(refused, None)
        self._save()

    def forget(self, contact: ContactId) -> None:
        """Forget all of a contact; of a whole group, those of its members."""
        for one in list(self._content.refused):
            if one.contact == contact or (contact.endswith("/") and one.contact.startswith(contact)):
                self.discard(one)


def _key(one: Refused) -> tuple[Direction, Protocol, int, str]:
    return offer_key(Direction[one.direction.upper()], Protocol[one.protocol.upper()], one.port, one.name)
