"""Rules: the first that matches decides, and none means that a person is asked."""

import pytest

from tunfwd.forwarding.policy import ASK, Action, Rule, decide
from tunfwd.wire.packets import Direction, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP
SERVER, CONNECTION = Direction.SERVER, Direction.CONNECTION
ALICE = ("alice", "AB" * 32)
ALL = Rule(Action.ACCEPT)


def test_without_rules_everything_is_asked() -> None:
    assert decide((), ALICE, TCP, 80, SERVER) is ASK


def test_the_first_match_decides() -> None:
    deny = Rule(Action.DENY, ports=(range(22, 23),))
    assert decide((deny, ALL), ALICE, TCP, 22, SERVER) is deny
    assert decide((deny, ALL), ALICE, TCP, 80, SERVER) is ALL


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (ALL, True),
        (Rule(Action.ACCEPT, "alice"), True),
        (Rule(Action.ACCEPT, "AB" * 32), True),
        (Rule(Action.ACCEPT, "al*"), True),
        (Rule(Action.ACCEPT, "ALICE"), False),
        (Rule(Action.ACCEPT, "bob"), False),
        (Rule(Action.ACCEPT, protocol=TCP), True),
        (Rule(Action.ACCEPT, protocol=UDP), False),
        (Rule(Action.ACCEPT, ports=(range(1, 10), range(80, 81))), True),
        (Rule(Action.ACCEPT, ports=(range(81, 90),)), False),
        (Rule(Action.ACCEPT, ports=()), False),
        (Rule(Action.ACCEPT, direction=SERVER), True),
        (Rule(Action.ACCEPT, direction=CONNECTION), False),
    ],
)
def test_each_field_narrows(rule: Rule, matches: bool) -> None:
    assert rule.matches(ALICE, TCP, 80, SERVER) is matches
