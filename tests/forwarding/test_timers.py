"""Deadlines, against a model that is a plain dictionary."""

import weakref

from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.timers import SLACK, Timers

owners = st.integers(0, 5)
times = st.integers(0, 50)
actions = st.one_of(
    st.tuples(st.just("set"), owners, times),
    st.tuples(st.just("cancel"), owners, st.just(0)),
    st.tuples(st.just("expire"), st.just(0), times),
)


@given(st.lists(actions, max_size=60))
def test_as_a_dictionary_would(script: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, float] = {}
    for action, owner, time in script:
        match action:
            case "set":
                timers.set(owner, time)
                model[owner] = time
            case "cancel":
                timers.cancel(owner)
                model.pop(owner, None)
            case "expire":
                expired = timers.expire(time)
                assert sorted(expired) == sorted(o for o, due in model.items() if due <= time)
                assert [model[o] for o in expired] == sorted(model[o] for o in expired)
                for o in expired:
                    del model[o]
        earliest, told = min(model.values(), default=None), timers.next()
        assert (told is None) == (earliest is None)
        assert told is None or earliest is None or told <= earliest


@given(st.lists(actions, max_size=60))
def test_who_asks_when_to_expire_is_in_time_and_comes_to_an_end(script: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    for action, owner, time in script:
        match action:
            case "set":
                timers.set(owner, time)
            case "cancel":
                timers.cancel(owner)
    calls, expired = 0, []
    left = dict(timers._deadlines)
    while (due := timers.next()) is not None:
        calls += 1
        expired += [(due, owner) for owner in timers.expire(due)]
    assert expired == sorted(((left[owner], owner) for _, owner in expired), key=lambda entry: entry[0])
    assert {owner for _, owner in expired} == left.keys()
    assert calls <= 2 * len(script)


def test_owners_that_come_and_go_leave_little_behind() -> None:
    timers: Timers[int] = Timers()
    timers.set(-1, 1e9)
    for i in range(10_000):
        timers.set(i, 1000.0 + i)
        timers.cancel(i)
    assert len(timers._heap) <= SLACK + 5
    assert timers.next() == 1e9


def test_a_deadline_moved_again_and_again_stays_one() -> None:
    timers: Timers[str] = Timers()
    for i in range(10_000):
        timers.set("later", float(i))
    assert timers.next() == 0.0
    assert timers.expire(0.0) == []  # it has moved: seen when it comes up, and not with each move
    assert timers.next() == 9999.0
    for i in range(10_000):
        timers.set("earlier", float(-i))
    assert timers.next() == -9999.0
    assert len(timers._heap) <= SLACK + 5
    assert timers.expire(0.0) == ["earlier"]
    assert timers.expire(1e9) == ["later"]
    assert timers.next() is None


class Owner:
    """What a weak reference can be made to."""


def test_an_owner_without_a_deadline_is_not_held() -> None:
    timers: Timers[Owner] = Timers()
    standing, owner = Owner(), Owner()
    timers.set(standing, 1e9)
    timers.set(owner, 30.0)
    timers.set(owner, 20.0)  # supersedes
    timers.cancel(owner)
    gone = weakref.ref(owner)
    del owner
    assert gone() is None
    assert timers.expire(1e9) == [standing]
