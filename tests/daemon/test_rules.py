import pytest

from tunfwd.control.notation import Target
from tunfwd.daemon.config import parse
from tunfwd.daemon.rules import Expose, exposure
from tunfwd.forwarding.policy import Action, decide
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


@pytest.mark.parametrize(
    ("names", "protocol", "port", "direction", "action"),
    [
        (("mallory",), Protocol.TCP, 80, Direction.SERVER, Action.DENY),
        (("bob", KEY), Protocol.TCP, 80, Direction.CONNECTION, Action.ACCEPT),
        (("bob", KEY), Protocol.UDP, 80, Direction.CONNECTION, Action.ASK),
        (("group:lan/bob",), Protocol.UDP, 27015, Direction.SERVER, Action.ACCEPT),
        (("group:lan/bob",), Protocol.UDP, 27030, Direction.SERVER, Action.ACCEPT),
        (("group:lan/bob",), Protocol.UDP, 27031, Direction.SERVER, Action.ASK),
        (("group:lan/bob",), Protocol.UDP, 27015, Direction.CONNECTION, Action.ASK),
        (("group:lan2/bob",), Protocol.UDP, 27015, Direction.SERVER, Action.ASK),
    ],
)
def test_written_rules_decide(
    names: tuple[str, ...], protocol: Protocol, port: int, direction: Direction, action: Action
) -> None:
    assert decide(RULES, names, protocol, port, direction).action is action


def test_exposures() -> None:
    web = Expose("tcp", 80, Target("10.0.0.1", 8080), "group:lan/*")
    ssh = Expose("tcp", 22)
    exposed = (web, ssh)
    assert exposure(exposed, ("group:lan/bob",), Protocol.TCP, 80) is web
    assert exposure(exposed, ("bob", KEY), Protocol.TCP, 80) is None
    assert exposure(exposed, ("bob",), Protocol.TCP, 22) is ssh
    assert exposure(exposed, ("bob",), Protocol.UDP, 22) is None
    assert exposure((), ("bob",), Protocol.TCP, 22) is None
