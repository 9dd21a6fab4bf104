"""A mapping: one port of one contact, from the first Offer to the last Kill, and what runs over it."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tunfwd.forwarding.states import MAPPING, MappingEvent, MappingState, Role
from tunfwd.wire.packets import Direction, Protocol

if TYPE_CHECKING:
    from tunfwd.forwarding.flow import Flow


class Origin(Enum):
    """Who offered."""

    LOCAL = "local"
    REMOTE = "remote"


def offer_key(
    direction: Direction, protocol: Protocol, port: int, name: str
) -> tuple[Direction, Protocol, int, str]:
    """Return what two Offers of the same thing have in common: the port, or where that is any, the name."""
    return (direction, protocol, port, "" if port else name)


@dataclass(eq=False, slots=True)
class Mapping:
    """One offered port. `Negotiation` changes it; everybody else reads.

    `msg_id` is that of the latest Offer: a mapping outlives it when the contact comes back, and with
    plain peers each flow uses one up. Counts are in bytes of payload, `tx` towards the contact.
    """

    origin: Origin
    direction: Direction
    protocol: Protocol
    port: int
    name: str
    msg_id: int = 0
    state: MappingState = MappingState.WAITING
    many: bool = False
    """Whether each flow is a connection offer of its own (feature MANY), or the flow is the mapping's."""
    public_id: int | None = None
    """The msg_id of the Offer that went to the whole group, while it is this mapping's."""
    taken: bool = False
    """Whether it was accepted: a remote one by us, for good; ours by the contact, in this run of it."""
    flows: set["Flow"] = field(default_factory=set)
    held: deque["Flow"] = field(default_factory=deque)
    """Local connections that wait for an offer, or for Ack-Acc."""
    spare: deque[int] = field(default_factory=deque)
    """A plain server's offers that no connection has used yet."""
    parked: "Flow | None" = None
    """The one flow of a plain mapping that is open before, or between, local users of it."""
    failures: int = 0
    """How often in a row a plain mapping's flow has come to nothing."""
    rx_bytes: int = 0
    tx_bytes: int = 0
    drops: int = 0

    @property
    def role(self) -> Role:
        """Which end of it is here."""
        ours = self.origin is Origin.LOCAL
        serving = ours if self.direction is Direction.SERVER else not ours
        return Role.SERVING if serving else Role.USING

    @property
    def key(self) -> tuple[Direction, Protocol, int, str]:
        """What makes an Offer the same one as before, under another msg_id."""
        return offer_key(self.direction, self.protocol, self.port, self.name)

    def handle(self, event: MappingEvent) -> bool:
        """Change state by the table; False where the table has nothing for it."""
        state = MAPPING.get((self.state, event))
        if state is None:
            return False
        self.state = state
        return True
