"""What rules would do with packets: as nft writes them, and as the kernel does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.tun.ruleset import NoRules, Packet, Ruleset

RULESETS: dict[str, Any] = json.loads(Path(__file__).with_name("rulesets.json").read_text())
"""By name: rules as people write them, and what nft says of them."""

CONTACT, OWN = "10.77.0.2", "10.77.0.1"


def incoming(
    protocol: Literal["tcp", "udp"] = "tcp", port: int | None = 8080, *, interface: str = "tunfwd0"
) -> Packet:
    return Packet("input", interface, CONTACT, OWN, protocol, port)


OUT = Packet("output", "tunfwd0", OWN, CONTACT, "tcp")
ANSWER = Packet("input", "tunfwd0", CONTACT, OWN, "tcp", state="established")
SIX = Packet("input", "tunfwd0", "fd74:756e:6677::2", "fd74:756e:6677::1", "tcp", 8080)


@pytest.mark.parametrize(
    ("name", "packet", "where"),
    [
        ("open", incoming(), None),
        ("policy", incoming(port=9000), "its policy"),
        ("policy", incoming(port=8042), None),
        ("policy", incoming("udp", 22), "its policy"),
        ("policy", incoming(interface="lo"), None),
        ("policy", ANSWER, None),
        ("policy", OUT, None),
        ("policy", SIX, None),
        ("vmap", incoming(), None),
        ("vmap", incoming(port=8081), "its policy"),
        ("vmap", ANSWER, None),
        ("vmap", SIX, "its policy"),
        ("device", incoming(), "the rule with handle"),
        ("device", incoming(interface="eth0"), None),
        ("device", SIX, None),
        ("out", OUT, "the rule with handle"),
        ("out", incoming(), None),
        ("limit", incoming(), None),  # who knows
        ("sets", incoming(), "the rule with handle"),
        ("sets", incoming(port=80), None),
        ("sets", ANSWER, None),
        ("sets", incoming(port=None), None),
        ("other", SIX, "its policy"),
        ("other", incoming(), None),
        ("other", incoming(port=22), None),
        ("other", incoming("udp"), "the rule with handle"),
        ("ours", incoming(), None),
    ],
)
def test_where_a_packet_ends(name: str, packet: Packet, where: str | None) -> None:
    drops = [str(drop) for drop in Ruleset(json.dumps(RULESETS[name]["json"])).drops(packet)]
    assert len(drops) == (where is not None), drops
    assert all(where in drop for drop in drops if where is not None)


@pytest.mark.parametrize("text", ["", "[]", '{"nftables": 1}', '{"nftables": [{"rule": {"table": 1}}]}'])
def test_what_is_no_ruleset_is_said(text: str) -> None:
    with pytest.raises(NoRules):
        Ruleset(text)


NAMES = [
    "match",
    "vmap",
    "jump",
    "drop",
    "left",
    "right",
    "op",
    "meta",
    "key",
    "payload",
    "set",
    "prefix",
    "range",
    "elem",
    "data",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["10.0.0.0", "tcp", "@open", "accept", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_a_form_that_is_not_known_is_no_drop_and_no_crash(expressions: list[Any]) -> None:
    unknown = {"jump": {"target": "nowhere"}}
    rule = {"family": "inet", "table": "t", "chain": "c", "handle": 1, "expr": [*expressions, unknown]}
    chain = {
        "family": "inet",
        "table": "t",
        "name": "c",
        "hook": "input",
        "type": "filter",
        "policy": "accept",
    }
    rules = Ruleset(json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]}))
    assert all(drop.rule == 1 for drop in rules.drops(incoming()))


@pytest.mark.netns
@pytest.mark.parametrize("name", RULESETS)
def test_nft_writes_the_rules_so(name: str) -> None:
    command = ["unshare", "--net", "sh", "-c", "nft -f - && nft -j list ruleset"]
    done = subprocess.run(
        command, input=RULESETS[name]["text"], capture_output=True, text=True, timeout=60, check=True
    )
    found = [item for item in json.loads(done.stdout)["nftables"] if "metainfo" not in item]
    assert found == RULESETS[name]["json"]["nftables"]
