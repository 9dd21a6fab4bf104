"""A mistake of ours in one session: it begins anew and tells the contact, later each time."""

import pytest

from tests.forwarding.pair import Pair, Plain, Side, said
from tests.forwarding.test_machine import Sessions
from tunfwd.common.values import Reason
from tunfwd.forwarding.handshake import PAUSE, REPEAT
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.packets import Direction, Feature, Protocol, Type

ALL = pytest.mark.parametrize(
    "features", [FEATURES, CARRIER_FEATURES, Feature(0)], ids=["link", "carrier", "plain"]
)


def make(features: Feature) -> Pair:
    pair = Pair(Side(1, features=features), Side(2, features=features), delay=0.01)
    pair.connect()
    return pair


@ALL
@pytest.mark.parametrize("who", ["a", "b"])
def test_it_begins_anew_and_what_stood_runs_again(features: Feature, who: str) -> None:
    pair = make(features)
    mapping = pair.serve()
    pair.run(1)
    using, serving = pair.open(mapping)
    failing, ends = (pair.a, serving) if who == "a" else (pair.b, using)
    other = pair.other(failing)
    epoch = failing.session.epoch
    failing.fail(pair.now)
    assert failing.ended == {ends: Reason.LOST}
    assert failing.session.counters["failures"] == 1
    assert not failing.session.is_online
    pair.run(0.9)
    assert not failing.session.is_online
    pair.run(5)
    assert failing.session.is_online
    assert failing.session.epoch == epoch + 1
    assert list(other.ended) == [using if who == "a" else serving]
    (again,) = pair.b.session.mappings
    assert again is mapping
    using, serving = pair.open(mapping)
    using.write(b"hello")
    pair.run(1)
    assert pair.a.got[serving] == b"hello"


@ALL
def test_it_trusts_nothing_that_was_there(features: Feature) -> None:
    pair = make(features)
    mapping = pair.serve()
    pair.run(1)
    pair.open(mapping)
    session = pair.b.session
    session._negotiation._timers.set(mapping, pair.now)
    session._negotiation._timers._deadlines.clear()
    session._negotiation._ids.clear()
    session._negotiation._ids[1] = object()  # type: ignore[assignment]
    with pytest.raises(KeyError):
        session.handle_timeout(pair.now)
    pair.b.fail(pair.now)
    pair.run(5)
    assert mapping.state in (MappingState.RUNNING, MappingState.READY)
    pair.open(mapping)


def test_undecided_offers_are_gone_and_come_again() -> None:
    pair = make(FEATURES)
    pair.b.auto_accept = False
    pair.a.session.offer(Protocol.TCP, 80, "web", pair.now)
    pair.run(1)
    (undecided,) = pair.b.session.mappings
    pair.b.fail(pair.now)
    assert undecided.state is MappingState.ENDED
    pair.run(5)
    (again,) = pair.b.session.mappings
    assert again.state is MappingState.PENDING


def test_it_rests_the_longer_the_more_often_it_fails() -> None:
    pair = make(FEATURES)
    pauses = []
    for _ in range(9):
        pair.b.fail(pair.now)
        failed_at = pair.now
        while not pair.b.session.is_online:
            due = pair.b.session.next_timeout()
            assert due is not None
            pair.run(due - pair.now)
        pauses.append(round(pair.now - failed_at))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pair.run(PAUSE[1])
    pair.b.fail(pair.now)
    assert pair.b.session.next_timeout() == pair.now + PAUSE[0]


def test_while_it_rests_the_contact_may_come_and_go() -> None:
    pair = make(FEATURES)
    pair.serve()
    pair.b.fail(pair.now)
    pair.b.session.online(pair.now)
    assert not pair.b.session.is_online
    pair.b.session.offline(pair.now)
    assert pair.b.session.next_timeout() is None
    pair.b.session.online(pair.now)
    assert pair.b.session.is_online


@ALL
def test_what_the_contact_says_meanwhile_it_says_again(features: Feature) -> None:
    """Even where neither has said anything before."""
    pair = Pair(Side(1, features=features), Side(2), delay=0.01)
    pair.connect()
    pair.a.fail(pair.now)
    mapping = pair.b.session.offer(Protocol.TCP, 80, "web", pair.now)
    pair.run(10)
    assert mapping.state is (MappingState.RUNNING if features else MappingState.OFFERED)
    assert len(pair.a.session.mappings) == 1


def test_offline_it_fails_in_silence() -> None:
    side = Side(1)
    side.fail(50.0)
    assert side.session.next_timeout() is None
    side.session.online(60.0)
    assert side.session.is_online


@ALL
@pytest.mark.parametrize("met", [True, False])
@pytest.mark.parametrize("who", ["a", "b"])
def test_who_was_offline_as_it_resumed_hears_of_it(features: Feature, who: str, met: bool) -> None:
    """Its own Hello of afterwards looks as if it were the answer to the one that it has missed."""
    pair = make(features)
    if met:
        pair.serve()
    failing = pair.a if who == "a" else pair.b
    other = pair.other(failing)
    failing.fail(pair.now)
    if not met:
        pair.a.session.offer(Protocol.TCP, 80, "web", pair.now)
    pair.run(0.5)
    pair.lose(other)
    pair.run(1)
    assert failing.session.is_online
    other.session.online(pair.now)
    pair.run(30)
    offered, taken = pair.a.mapping(), pair.b.mapping()
    if features:
        assert (offered.state, taken.state) == (MappingState.RUNNING, MappingState.RUNNING)
        pair.open(taken)
    else:
        assert (offered.state, taken.state) == (MappingState.OFFERED, MappingState.READY)


def test_a_hello_that_nobody_answers_is_repeated_a_few_times() -> None:
    plain = Plain()
    plain.side.fail(plain.now)
    hellos = []
    while (due := plain.session.next_timeout()) is not None:
        plain.wait(due - plain.now)
        while (packet := plain.session.next_packet()) is not None:
            assert packet[1] == Type.HELLO
            hellos.append(plain.now - 100 - PAUSE[0])
    assert hellos == [0, 3, 9, 21, 45, 93]
    assert REPEAT == (3, 48)


def test_hellos_that_are_long_under_way_do_not_answer_each_other_for_ever() -> None:
    """A round trip longer than the time until the first is repeated."""
    pair = Pair(Side(1), Side(2), delay=0.01)
    pair.connect()
    pair.serve()
    for path in pair.paths.values():
        path.lossless_lag = 2.0
    pair.lose(pair.a)
    pair.run(5)
    pair.trace.clear()
    pair.a.session.online(pair.now)
    pair.run(60)
    assert said(pair, "a")[Type.HELLO] == said(pair, "b")[Type.HELLO] == 2
    assert pair.a.mapping().state is pair.b.mapping().state is MappingState.RUNNING


@pytest.mark.parametrize(
    "features", [CARRIER_FEATURES, FEATURES, Feature.MANY], ids=["carrier", "link", "many"]
)
@pytest.mark.parametrize(
    "steps",
    [
        "bounce:a fail:a bounce:a bounce:a fail:a fail:a bounce:b",
        "fail:b fail:b bounce:a fail:b bounce:a bounce:a fail:b bounce:a bounce:b finish:a offer:a",
        "fail:a bounce:b",
        "fail:a fail:b bounce:b bounce:a",
    ],
)
def test_failures_amid_moments_of_absence(features: Feature, steps: str) -> None:
    walk = Sessions()
    walk.begin(0.0, 3, features, begun=True)
    for step in steps.split():
        what, _, name = step.partition(":")
        match what:
            case "fail":
                walk.fail(name)
            case "bounce":
                walk.bounce(name)
            case "finish":
                walk.finish(name, 0)
            case "offer":
                walk.offer(name, 81, Protocol.TCP, Direction.SERVER)
    walk.teardown()
