"""What friends are told beside offers: our key in the DHT, and the tickets of theirs that we have.

Each is told once in an online period, as soon as the contact has said that it understands it.
"""

from collections import Counter, deque
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.forwarding.clock import Clock
from tunfwd.forwarding.events import ClaimAnswered, ClaimArrived, Event, NodeArrived
from tunfwd.forwarding.handshake import Handshake
from tunfwd.forwarding.transport import Transport
from tunfwd.wire.packets import Claim, Claimed, Feature, Node

NODES: Final = (16, 2.0)  # DHT keys, and s for each further one
CLAIMS: Final = (64, 2.0)  # Claims and answers to them, and s for each further one


class Announcements:
    """Those to and from one contact."""

    def __init__(
        self,
        clock: Clock,
        handshake: Handshake,
        transport: Transport,
        events: deque[Event],
        counters: Counter[str],
        node_key: bytes,
    ) -> None:
        self._clock = clock
        self._handshake = handshake
        self._transport = transport
        self._events = events
        self._counters = counters
        self._node_key = node_key
        self._node_sent = False  # in this online period
        self._claims: dict[bytes, bool] = {}  # tokens of the contact's tickets; sent in this online period
        self._nodes_taken = Budget(*NODES)
        self._claims_taken = Budget(*CLAIMS)

    @property
    def are_due(self) -> bool:
        """Whether there is something to tell, should the contact understand it."""
        return bool(self._node_key or self._claims)

    def new_period(self) -> None:
        """Have all of it told again."""
        self._node_sent = False
        self._claims = dict.fromkeys(self._claims, False)

    def send(self) -> None:
        """Tell what was not told yet and is understood."""
        features = self._handshake.features
        if Feature.NODE in features and not self._node_sent:
            self._node_sent = True
            self._transport.send(Node(self._node_key))
        if Feature.TICKET in features:
            for token in [token for token, sent in self._claims.items() if not sent]:
                self._claims[token] = True
                self._transport.send(Claim(token))

    def claim(self, token: bytes) -> None:
        """Tell of a ticket in each online period, from the next `send` on."""
        self._claims[token] = False

    def forget_claim(self, token: bytes) -> None:
        """Tell of a ticket no more."""
        self._claims.pop(token, None)

    def receive(self, packet: Node | Claim | Claimed) -> None:
        """Take in what the contact tells."""
        kind = "node" if isinstance(packet, Node) else "claim"
        feature, budget = (
            (Feature.NODE, self._nodes_taken)
            if isinstance(packet, Node)
            else (Feature.TICKET, self._claims_taken)
        )
        if feature not in self._handshake.features:
            self._counters[f"{kind}_unexpected"] += 1
        elif not budget.spend(self._clock.now):
            self._counters[f"{kind}_over_rate"] += 1
        elif isinstance(packet, Node):
            self._events.append(NodeArrived(packet.key))
        elif isinstance(packet, Claim):
            self._events.append(ClaimArrived(packet.token))
        elif packet.token in self._claims:
            self._events.append(ClaimAnswered(packet.token, packet.valid))
        else:
            self._counters["claim_unexpected"] += 1
