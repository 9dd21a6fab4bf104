"""How many offers of one contact there is room for, and what becomes of the others.

Undecided ones are bounded; those beyond are counted, and come when there is room. What was accepted is one
mapping for each direction, protocol and port, whatever the contact calls it.
"""

import pytest

from tests.forwarding.pair import Pair, Side
from tunfwd.common.errors import Misuse
from tunfwd.forwarding.flow import Origin
from tunfwd.forwarding.mapping_table import MAX_PENDING
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.packets import Direction, Feature, Protocol

SERVER, CONNECTION = Direction.SERVER, Direction.CONNECTION
EXTENDED = pytest.mark.parametrize("features", [FEATURES, CARRIER_FEATURES], ids=["link", "carrier"])
PORTS = range(1, 151)


def offering(features: Feature) -> Pair:
    """`a` offers more than `b` has room for."""
    pair = Pair(Side(1, features=features), Side(2, features=features), delay=0.01)
    pair.b.auto_accept = False
    pair.connect()
    pair.b.session.ping(1, pair.now)  # both say Hello, as they have something to say
    pair.run(5)
    for port in PORTS:
        pair.a.session.offer(Protocol.TCP, port, f"p{port}", pair.now)
    pair.run(5)
    return pair


def pending(pair: Pair) -> list[int]:
    return [m.port for m in pair.b.session.mappings if m.state is MappingState.PENDING]


@EXTENDED
def test_offers_without_room_are_counted_and_come_when_others_are_decided_on(features: Feature) -> None:
    pair = offering(features)
    seen: set[int] = set()
    for _ in range(10):
        assert len(pending(pair)) <= MAX_PENDING
        assert len(pending(pair)) + pair.b.session.unseen_offers == len(PORTS) - len(seen)
        for mapping in [m for m in pair.b.session.mappings if m.state is MappingState.PENDING]:
            seen.add(mapping.port)
            if mapping.port % 2:
                pair.b.session.accept(mapping, pair.now)
            else:
                pair.b.session.end(mapping, pair.now)
        pair.run(10)
    assert seen == set(PORTS)
    assert pair.b.session.unseen_offers == 0
    states = {m.port: m.state for m in pair.a.session.mappings}
    assert all(states[p] is (MappingState.RUNNING if p % 2 else MappingState.DECLINED) for p in PORTS)


@EXTENDED
def test_what_runs_goes_on_while_the_others_are_asked_for(features: Feature) -> None:
    pair = offering(features)
    first, second = pair.b.session.mappings[:2]
    pair.b.session.accept(first, pair.now)
    pair.run(1)
    using, serving = pair.open(first)
    pair.b.session.end(second, pair.now)
    pair.run(10)
    assert using.is_open
    assert serving.is_open
    assert len(pending(pair)) == MAX_PENDING
    assert pair.b.session.unseen_offers == len(PORTS) - MAX_PENDING - 2


def test_a_contact_that_leaves_takes_its_count_along() -> None:
    pair = offering(FEATURES)
    pair.b.session.end(pair.b.session.mappings[0], pair.now)
    pair.disconnect()
    assert pair.b.session.unseen_offers == 0
    pair.run(1)
    pair.connect()
    pair.run(5)
    assert len(pending(pair)) == MAX_PENDING
    assert pair.b.session.unseen_offers > 0


@EXTENDED
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("protocol", Protocol)
def test_a_port_is_accepted_once_whatever_it_is_called(
    features: Feature, direction: Direction, protocol: Protocol
) -> None:
    """`a` restarts again and again, with another name for the same port."""
    pair = Pair(Side(1, features=features), Side(2, features=features), delay=0.01)
    pair.connect()
    for number in range(20):
        pair.a.session.offer(protocol, 80, f"name {number}", pair.now, direction=direction)
        pair.run(5)
        (mapping,) = pair.b.session.mappings
        assert mapping.state is MappingState.RUNNING
        assert mapping.name == "name 0"
        pair.disconnect()
        pair.a.forget_all()
        pair.a.session = pair.a.new_session()
        pair.connect()
    assert len(pair.b.session.mappings) == 1


def test_an_undecided_offer_is_called_what_it_was_called_last() -> None:
    pair = Pair(Side(1), Side(2))
    pair.b.auto_accept = False
    pair.connect()
    mapping = pair.a.session.offer(Protocol.TCP, 80, "old", pair.now)
    pair.run(1)
    mapping.name = "new"
    pair.a.session._negotiation.offer_all(again=True)
    pair.run(1)
    assert [m.name for m in pair.b.session.mappings] == ["new"]
    mapping = pair.b.mapping(origin=Origin.REMOTE)
    pair.b.session.accept(mapping, pair.now)
    with pytest.raises(Misuse, match="already accepted"):
        pair.b.session.restore_acceptance(SERVER, Protocol.TCP, 80, "another")
    pair.b.session.restore_acceptance(CONNECTION, Protocol.TCP, 80, "another")
    pair.b.session.restore_acceptance(SERVER, Protocol.UDP, 80, "another")


def test_offers_of_any_port_are_told_apart_by_name() -> None:
    pair = Pair(Side(1), Side(2))
    for name in ("one", "two"):
        pair.b.session.restore_acceptance(SERVER, Protocol.TCP, 0, name)
    assert len(pair.b.session.mappings) == 2


@EXTENDED
def test_ports_of_one_name_are_one_thing_to_decide_on(features: Feature) -> None:
    pair = Pair(Side(1, features=features), Side(2, features=features), delay=0.01)
    pair.b.auto_accept = False
    pair.connect()
    pair.b.session.ping(1, pair.now)
    pair.run(5)
    for number in range(MAX_PENDING + 3):
        for port in range(5):
            pair.a.session.offer(Protocol.UDP, 1000 + 10 * number + port, f"game {number}", pair.now)
    pair.run(5)
    mappings = pair.b.session.mappings
    assert len({mapping.name for mapping in mappings}) == MAX_PENDING
    assert len(mappings) == 5 * MAX_PENDING
    assert pair.b.session.unseen_offers == 3 * 5
    for mapping in mappings[:20]:
        pair.b.session.accept(mapping, pair.now)
    pair.run(10)
    assert pair.b.session.unseen_offers == 0
    assert len({m.name for m in mappings if m.state is MappingState.PENDING}) == MAX_PENDING - 1


@EXTENDED
def test_other_names_for_what_is_undecided_make_no_room(features: Feature) -> None:
    """A contact that offers many ports under one name, and then each under a name of its own."""
    pair = Pair(Side(1, features=features), Side(2, features=features), delay=0.01)
    pair.b.auto_accept = False
    pair.connect()
    pair.b.session.ping(1, pair.now)
    pair.run(5)
    made = [pair.a.session.offer(Protocol.UDP, port, "game", pair.now) for port in range(1000, 1100)]
    pair.run(5)
    assert len(pair.b.session.mappings) == 100
    for mapping in made:
        mapping.name = f"game {mapping.port}"
    pair.a.session._negotiation.offer_all(again=True)
    pair.run(5)
    assert len({mapping.name for mapping in pair.b.session.mappings}) <= MAX_PENDING
