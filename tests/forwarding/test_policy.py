"""Rules: the first that matches decides, and none means that a person is asked."""

import pytest

from tunfwd.forwarding.policy import ASK, Action, Party, Rule, decide, means
from tunfwd.wire.packets import Direction, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP
SERVER, CONNECTION = Direction.SERVER, Direction.CONNECTION
ALICE = Party("AB" * 32, "alice")
LAN = "CD" * 32
MEMBER = Party("AB" * 32, group=LAN, group_name="lan")
UNNAMED = Party("AB" * 32, group=LAN)
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


@pytest.mark.parametrize(
    ("pattern", "party", "meant"),
    [
        ("*", Party("AB" * 32), True),
        ("alice", Party("AB" * 32), False),
        ("al*", Party("AB" * 32), False),
        ("alice", MEMBER, False),
        ("ab" * 32, Party("AB" * 32), True),
        ("ABAB*", ALICE, False),
        ("A*", ALICE, False),
        ("AB" * 8 + "*", ALICE, True),
        ("AC" * 8 + "*", ALICE, False),
        ("AB" * 32, MEMBER, True),
        ("group:lan/*", MEMBER, True),
        ("group:la*/*", MEMBER, True),
        ("group:lan*", MEMBER, True),
        ("group:*", MEMBER, True),
        ("group:*/*", UNNAMED, True),
        ("group:lan/*", UNNAMED, False),
        ("group:*n/*", UNNAMED, False),
        (f"group:{LAN}/*", UNNAMED, True),
        (f"group:{LAN.lower()}/*", UNNAMED, True),
        (f"group:{LAN[:16]}*/*", UNNAMED, True),
        ("group:C*/*", UNNAMED, False),
        ("group:CDCD/*", UNNAMED, False),
        ("group:lan/bob", MEMBER, False),
        ("group:lan/A*", MEMBER, False),
        (f"group:lan/{'ab' * 32}", MEMBER, True),
        (f"group:lan/{'ac' * 32}", MEMBER, False),
        ("group:lan", MEMBER, False),
        ("group:lan/", MEMBER, False),
        ("group:lan/*", ALICE, False),
        ("group:*/*", ALICE, False),
        ("lan/*", MEMBER, False),
        ("*/*", MEMBER, False),
    ],
)
def test_whom_a_pattern_means(pattern: str, party: Party, meant: bool) -> None:
    assert means(pattern, party) is meant
