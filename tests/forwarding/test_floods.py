"""What a contact that sends all it can gets out of a session: answers, events and state have bounds."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tests.forwarding.pair import Side
from tests.forwarding.raw_link import RawLink
from tunfwd.common.budget import Budget
from tunfwd.forwarding.announcements import CLAIMS, NODES
from tunfwd.forwarding.events import OfferArrived, ServiceWanted
from tunfwd.forwarding.flow_table import MAX_FLOWS, MAX_UNHEARD, REFUSALS
from tunfwd.forwarding.handshake import EPOCHS
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS
from tunfwd.forwarding.negotiation import OFFERS
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES, PONGS, Session, Settings
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.frames import Stream
from tunfwd.wire.packets import (
    Accept,
    AckAcc,
    Claim,
    Claimed,
    Direction,
    Feature,
    Hello,
    Kill,
    Lossless,
    Node,
    Offer,
    Ping,
    Protocol,
    encode,
    encode_extension,
)

pytestmark = pytest.mark.heavy

PACKETS = 20_000
SECONDS = 10.0
TCP, SERVER, CONNECTION = Protocol.TCP, Direction.SERVER, Direction.CONNECTION


class Flooded:
    """A session, and what came out of it."""

    def __init__(self, features: Feature = CARRIER_FEATURES) -> None:
        settings = Settings(features | CARRIER_FEATURES, node_key=bytes(32), tickets=True)
        self.session = Session(FRIEND, epoch=1, random=Random(1), settings=settings)
        self.session.online(0.0)
        self.now = 0.0
        self.answers = self.events = 0
        self.hear(Hello(features, 7))
        self.drain()
        self.answers = self.events = 0

    def hear(self, packet: Lossless | bytes) -> None:
        self.session.receive_lossless(
            packet if isinstance(packet, bytes) else encode(FRIEND, packet), self.now
        )

    def drain(self) -> None:
        while (event := self.session.next_event()) is not None:
            self.events += 1
            if isinstance(event, OfferArrived) and event.mapping.state is MappingState.PENDING:
                self.session.accept(event.mapping, self.now)
            elif isinstance(event, ServiceWanted):
                event.flow.service_up(self.now)
        while self.session.next_packet() is not None:
            self.answers += 1
        self.answers += len(self.session.lossy_to_send(self.now))

    def flood(self, send: Callable[[int], None]) -> None:
        """Send for some seconds, evenly."""
        for number in range(PACKETS):
            self.now = number * SECONDS / PACKETS
            send(number)
            self.drain()


def most(budget: tuple[float, float]) -> float:
    return budget[0] + SECONDS / budget[1] + 1


def test_pings() -> None:
    flooded = Flooded()
    packet = encode_extension(FRIEND, Ping(1))
    flooded.flood(lambda _: flooded.session.receive_lossy(packet, flooded.now))
    assert flooded.answers <= most(PONGS)
    assert flooded.session.counters["ping_over_rate"] == PACKETS - flooded.answers
    flooded.now += 1.0
    flooded.answers = 0
    flooded.session.receive_lossy(packet, flooded.now)
    flooded.drain()
    assert flooded.answers == 1


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc9",
        b"\xc9\xee",
        b"\xc9\x00",
        b"\xc8",
        b"\xc8\x01\x02\x03\x04",
        b"\xc8" + bytes(1300),
        b"\xc9\x02" + bytes(1300),
    ],
)
def test_lossy_junk(packet: bytes) -> None:
    flooded = Flooded()
    flooded.flood(lambda _: flooded.session.receive_lossy(packet, flooded.now))
    assert flooded.answers == flooded.events == 0
    assert sum(flooded.session.counters.values()) == PACKETS
    assert len(flooded.session.counters) == 1


@pytest.mark.parametrize(
    "packet", [b"\xa7", b"\xa7\xee", b"\xa7\x00" + bytes(5), b"\xa7\x0f", b"\xa7\x04" + bytes(100)]
)
def test_lossless_junk(packet: bytes) -> None:
    flooded = Flooded()
    flooded.flood(lambda _: flooded.hear(packet))
    assert flooded.answers == flooded.events == 0
    assert sum(flooded.session.counters.values()) == PACKETS
    assert len(flooded.session.counters) == 1


@pytest.mark.parametrize("features", [CARRIER_FEATURES, FEATURES])
def test_hellos_with_new_epochs(features: Feature) -> None:
    """Each would end a link and all that runs over it."""
    flooded = Flooded(features)
    flooded.flood(lambda number: flooded.hear(Hello(features, 1000 + number)))
    assert flooded.answers <= 2 * most(EPOCHS)
    assert flooded.events <= most(EPOCHS)
    assert flooded.session.counters["hello_over_rate"] >= PACKETS - most(EPOCHS)
    flooded.now += EPOCHS[1]
    flooded.hear(Hello(features, 5))
    assert flooded.session._handshake._peer_epoch == 5


def test_claims_to_tickets() -> None:
    flooded = Flooded(FEATURES | Feature.TICKET)
    flooded.flood(lambda number: flooded.hear(Claim(number.to_bytes(16, "little"))))
    assert 0 < flooded.events <= most(CLAIMS)
    assert flooded.answers == 0


def test_answers_to_claims_that_were_not_made() -> None:
    flooded = Flooded(FEATURES | Feature.TICKET)
    flooded.flood(lambda number: flooded.hear(Claimed(number.to_bytes(16, "little"), True)))
    assert flooded.events == flooded.answers == 0


def test_dht_keys() -> None:
    flooded = Flooded(FEATURES | Feature.NODE)
    assert Feature.NODE in flooded.session.features
    flooded.flood(lambda number: flooded.hear(Node(number.to_bytes(32, "little"))))
    assert 0 < flooded.events <= most(NODES)
    assert flooded.answers == 0


def test_offers_and_kills() -> None:
    """Each Offer taken, as by a rule, and killed."""
    flooded = Flooded()

    def send(number: int) -> None:
        flooded.hear(Offer(2 + number, TCP, SERVER, 80, "web"))
        flooded.hear(Kill(2 + number))

    flooded.flood(send)
    assert flooded.answers <= most(OFFERS) + most(REFUSALS)
    assert flooded.events <= 4 * most(OFFERS)
    assert len(flooded.session.mappings) <= 1
    flooded.now += 1.0
    flooded.hear(Offer(1, TCP, SERVER, 80, "web"))
    assert [mapping.msg_id for mapping in flooded.session.mappings] == [1]


def test_offers_of_ever_new_names() -> None:
    flooded = Flooded()
    flooded.flood(lambda number: flooded.hear(Offer(2 + number, TCP, SERVER, 80, f"{number}")))
    assert len(flooded.session.mappings) <= MAX_MAPPINGS
    assert flooded.events <= 4 * most(OFFERS)
    assert flooded.answers <= most(OFFERS) + most(REFUSALS)


@pytest.mark.parametrize("packet", [Accept, AckAcc])
def test_answers_to_nothing(packet: type[Accept | AckAcc]) -> None:
    flooded = Flooded()
    flooded.flood(lambda number: flooded.hear(packet(1 + number)))
    assert flooded.answers <= most(REFUSALS)
    assert flooded.events == 0


def test_connections_to_what_is_not_offered() -> None:
    flooded = Flooded()
    flooded.flood(lambda number: flooded.hear(Offer(2 + number, TCP, CONNECTION, 80, "")))
    assert flooded.answers <= most(REFUSALS)
    assert flooded.events == 0


def test_connections_beyond_all_bounds() -> None:
    """Through a mapping that runs: as many as are served at once, and no answer to each of the rest."""
    flooded = Flooded()
    flooded.session.offer(TCP, 80, "web", 0.0)
    mapping = flooded.session.mappings[0]
    flooded.hear(Accept(mapping.msg_id))
    flooded.drain()
    flooded.answers = flooded.events = 0
    flooded.flood(lambda number: flooded.hear(Offer(2 + number, TCP, CONNECTION, 80, "")))
    assert len(mapping.flows) == MAX_FLOWS
    assert flooded.answers <= MAX_FLOWS + most(REFUSALS)


def test_a_restart_with_all_the_mappings_there_may_be() -> None:
    """What an honest contact says at once is not over any rate."""
    flooded = Flooded()
    for again in range(3):
        flooded.now = again * 10.0
        for number in range(MAX_MAPPINGS):
            flooded.hear(Offer(1 + number + again * MAX_MAPPINGS, TCP, SERVER, 1 + number, ""))
            flooded.drain()
    assert len(flooded.session.mappings) == MAX_MAPPINGS
    assert not flooded.session.counters


def test_a_budget() -> None:
    budget = Budget(3, 2.0)
    assert [budget.spend(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.ready_at() == pytest.approx(2.0, abs=0.01)
    assert not budget.spend(1.9)
    assert budget.spend(2.0)
    assert not budget.spend(2.0)
    assert not budget.is_full(7.9)
    assert budget.is_full(8.0)


@pytest.mark.parametrize("features", [CARRIER_FEATURES, FEATURES], ids=["carrier", "link"])
def test_who_hears_no_answers_is_given_no_more_of_them(features: Feature) -> None:
    """Nothing is accepted, and the contact provokes what it never takes, for an hour."""
    side = Side(features=features)
    peer = RawLink(side, features)
    peer.greet()
    transport = peer.session._negotiation._transport
    for number in range(1, 20_000):
        peer.now += 0.2
        peer.session.handle_timeout(peer.now)
        if features is FEATURES:
            peer.control(Accept(number))
            peer.session.lossy_to_send(peer.now)
        else:
            peer.lossless(Accept(number))
    assert 0 < transport.control_waiting <= MAX_UNHEARD + 100
    assert peer.session.counters["refusal_unheard"] > 15_000
    side.session.restore_acceptance(SERVER, TCP, 80, "web")  # who was accepted is answered
    before = transport.control_waiting
    if features is FEATURES:
        peer.control(Accept(30_000))
    else:
        peer.lossless(Accept(30_000))
    assert transport.control_waiting > before


def test_the_end_of_the_last_mapping_takes_the_credit_along() -> None:
    peer = RawLink(Side(features=FEATURES), FEATURES)
    peer.greet()
    peer.session.offer(TCP, 80, "web", peer.now)
    (offer,) = [packet for packet in peer.hear() if isinstance(packet, Offer)]
    peer.control(Accept(offer.msg_id), Offer(9, TCP, CONNECTION, 80, ""))
    peer.hear()
    for id_ in range(100, 200):
        peer.say(Stream(id_, 0, bytes(1000), False))
    epoch = peer.session.epoch
    assert len(peer.session._carriage.linked.link._streams) == 101  # type: ignore[union-attr]
    peer.control(Kill(offer.msg_id))
    peer.side.drain(peer.now)
    assert peer.session.epoch == epoch + 1
    assert peer.session.counters["link_violation"] == 1
    assert peer.session._carriage.linked is None
