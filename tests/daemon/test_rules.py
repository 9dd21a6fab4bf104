import pytest

from tunfwd.common.notation import Target
from tunfwd.config.document import parse
from tunfwd.config.rules import Expose, exposure, unusable
from tunfwd.forwarding.policy import Action, Party, decide
from tunfwd.wire.packets import Direction, Protocol

KEY = "AB" * 32
RULES = tuple(
    table.rule
    for table in parse(
        f"""
[[rule]]
contact = "mallory"
action = "deny"
[[rule]]
contact = "{KEY.lower()}"
action = "accept"
protocol = "tcp"
[[rule]]
contact = "group:lan/*"
action = "accept"
protocol = "udp"
ports = [27015, "27020-27030"]
direction = "server"
""",
        "rules",
    ).rule
)


BOB = Party(KEY, "bob")
ROB = Party("CD" * 32, "rob")
MALLORY = Party("EE" * 32, "mallory")
MEMBER = Party("EF" * 32, group="12" * 32, group_name="lan")
OTHER = Party("EF" * 32, group="12" * 32, group_name="lan2")


@pytest.mark.parametrize(
    ("party", "protocol", "port", "direction", "action"),
    [
        (MALLORY, Protocol.TCP, 80, Direction.SERVER, Action.DENY),
        (BOB, Protocol.TCP, 80, Direction.CONNECTION, Action.ACCEPT),
        (BOB, Protocol.UDP, 80, Direction.CONNECTION, Action.ASK),
        (MEMBER, Protocol.UDP, 27015, Direction.SERVER, Action.ACCEPT),
        (MEMBER, Protocol.UDP, 27030, Direction.SERVER, Action.ACCEPT),
        (MEMBER, Protocol.UDP, 27031, Direction.SERVER, Action.ASK),
        (MEMBER, Protocol.UDP, 27015, Direction.CONNECTION, Action.ASK),
        (OTHER, Protocol.UDP, 27015, Direction.SERVER, Action.ASK),
    ],
)
def test_written_rules_decide(
    party: Party, protocol: Protocol, port: int, direction: Direction, action: Action
) -> None:
    assert decide(RULES, party, protocol, port, direction).action is action


def test_exposures() -> None:
    web = Expose("tcp", 80, Target("10.0.0.1", 8080), "group:lan/*")
    ssh = Expose("tcp", 22)
    exposed = (web, ssh)
    assert exposure(exposed, MEMBER, Protocol.TCP, 80) is web
    assert exposure(exposed, BOB, Protocol.TCP, 80) is None
    assert exposure(exposed, ROB, Protocol.TCP, 22) is ssh
    assert exposure(exposed, ROB, Protocol.UDP, 22) is None
    assert exposure((), ROB, Protocol.TCP, 22) is None


def test_a_pattern_is_composed() -> None:
    [table] = parse('[[rule]]\ncontact = "Zoe\u0308"\naction = "accept"\n', "rules").rule
    assert table.contact == "Zoë"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("group:lan/bob", 'write their public key, or "group:lan/*"'),
        ("group:lan/b*", "members choose their own names"),
        ("group:lan", 'write "group:lan/*"'),
        ("1B67BDAE*", "at least 16 digits"),
        ("1B67BDAE", "write all of it"),
        ("group:lan/*", None),
        (f"group:lan/{KEY}", None),
        (f"{KEY[:16]}*", None),
        (KEY, None),
        ("bob", None),
        ("*", None),
    ],
)
def test_patterns_that_mean_nobody(pattern: str, reason: str | None) -> None:
    found = unusable(pattern)
    assert found is None if reason is None else reason in (found or "")
