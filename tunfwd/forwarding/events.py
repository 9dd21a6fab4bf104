"""What a session tells its owner, in the order it happened."""

from dataclasses import dataclass

from tunfwd.common.values import Reason
from tunfwd.forwarding.flow import Flow, Mapping


@dataclass(frozen=True, slots=True)
class OfferArrived:
    """The contact offers something: a person or a rule decides, with `Session.accept` or `Session.end`."""

    mapping: Mapping


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """A mapping has a new state."""

    mapping: Mapping


@dataclass(frozen=True, slots=True)
class ServiceWanted:
    """Connect `flow` to the service behind its mapping; answer with `service_up` or `service_failed`."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class Opened:
    """The contact's service is connected: the local connection may be answered."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class Failed:
    """The contact's service could not be connected, and why."""

    flow: Flow
    reason: Reason


@dataclass(init=False, slots=True)
class Readable:
    """`flow.read` has something, or `flow.at_end` is true."""

    flow: Flow

    def __init__(self, flow: Flow) -> None:
        self.flow = flow


@dataclass(frozen=True, slots=True)
class Writable:
    """`flow.write` has room again."""

    flow: Flow


@dataclass(init=False, slots=True)
class DatagramArrived:
    """A datagram of a UDP flow."""

    flow: Flow
    payload: bytes

    def __init__(self, flow: Flow, payload: bytes) -> None:
        self.flow = flow
        self.payload = payload


@dataclass(frozen=True, slots=True)
class FlowEnded:
    """Forget the flow. `reason` is None where it ended in order, and says why it was reset otherwise."""

    flow: Flow
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class PongArrived:
    """The contact has answered a ping."""

    token: int


@dataclass(frozen=True, slots=True)
class HelloArrived:
    """The contact speaks our extensions."""


@dataclass(frozen=True, slots=True)
class NodeArrived:
    """The contact's key as a node of the DHT."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ClaimArrived:
    """The contact has a ticket of ours, with this token, or guesses; answer with `answer_claim`."""

    token: bytes


@dataclass(frozen=True, slots=True)
class ClaimAnswered:
    """The contact knows the ticket of its that we have, and lets us in, or does not."""

    token: bytes
    valid: bool


Event = (
    OfferArrived
    | MappingChanged
    | ServiceWanted
    | Opened
    | Failed
    | Readable
    | Writable
    | DatagramArrived
    | FlowEnded
    | PongArrived
    | HelloArrived
    | NodeArrived
    | ClaimArrived
    | ClaimAnswered
)
