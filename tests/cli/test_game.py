"""`tunfwd game`: what is offered and accepted, by ports and of the group alone; the profiles themselves."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tunfwd.cli.game_profiles import Game, games
from tunfwd.common.errors import EXIT_CODES
from tunfwd.daemon.datapath.fanout import DENIED

from .samples import MAPPING
from .test_commands import GROUP

Run = Callable[..., Any]  # conftest.tunfwd

THEIRS = {
    "contact": "group:lan/bob",
    "direction": "server",
    "protocol": "udp",
    "port": 8303,
    "name": "whatever",
    "origin": "remote",
    "state": "pending",
    "target": None,
}
OURS = THEIRS | {"id": "00000001", "contact": "group:lan", "origin": "local", "state": "offered"}


class Members:
    """What members offer, and what of it was accepted."""

    def __init__(self, daemon: Any, *offers: Mapping[str, object], after: int = 0) -> None:
        self.offers: list[dict[str, object]] = [
            {**THEIRS, "id": f"{number:08x}", **offer} for number, offer in enumerate(offers, 10)
        ]
        self.accepted: list[object] = []
        self._after = after
        self._daemon = daemon
        daemon.answers |= {
            "group.list": {"groups": [GROUP]},
            "offer.list": self._list,
            "offer.add": {"offers": [OURS]},
            "offer.accept": self._accept,
            "ports": self._ports,
        }

    def _list(self, _: object) -> dict[str, object]:
        asked = sum(method == "offer.list" for method, _ in self._daemon.calls)
        return {"offers": self.offers if asked > self._after else []}

    def _accept(self, params: dict[str, object]) -> dict[str, object]:
        self.accepted.append(params["offer"])
        [offer] = [one for one in self.offers if one["id"] == params["offer"]]
        offer["state"] = "running"
        return {"mapping": MAPPING}

    def _ports(self, _: object) -> dict[str, object]:
        running = [one for one in self.offers if one["state"] == "running"]
        return {"ports": [MAPPING | {k: one[k] for k in THEIRS if k in MAPPING} for one in running]}


def test_there_are_profiles() -> None:
    known = games()
    assert len(known) >= 10
    assert {
        "ddnet",
        "openttd",
        "luanti",
        "freeciv",
        "warzone2100",
        "minecraft-java",
        "mumble",
    } <= known.keys()


@pytest.mark.parametrize("name", games())
def test_each_profile_makes_sense(name: str) -> None:
    profile: Game = games()[name]
    assert profile.host_ports
    assert bool(profile.player_ports) == (profile.finds in ("announce", "both"))
    assert profile.tried
    assert not {spec.port for spec in profile.host_ports | profile.player_ports} & DENIED


def test_list(tunfwd: Run) -> None:
    result = tunfwd("game", "list")
    assert result.code == 0
    [line] = [line for line in result.out.splitlines() if line.startswith("luanti ")]
    assert "30000/udp" in line
    assert "by address" in line
    shown = json.loads(tunfwd("game", "list", "--json").out)
    assert shown["schema"] == 1
    assert {one["name"] for one in shown["games"]} == games().keys()


def test_host_offers_to_the_group(daemon: Any, tunfwd: Run) -> None:
    Members(daemon)
    result = tunfwd("game", "host", "ddnet", "--group", "lan")
    assert result.code == 0
    assert "to group:lan" in result.out
    [added] = [params for method, params in daemon.calls if method == "offer.add"]
    assert added == {"to": ["group:lan"], "ports": ["8303/udp"], "name": "ddnet", "source": "auto"}


@pytest.mark.parametrize("name", games())
def test_each_game_s_ports_are_offered(daemon: Any, tunfwd: Run, name: str) -> None:
    """However many they are."""
    Members(daemon)
    assert tunfwd("game", "host", name, "--group", "lan").code == 0
    [added] = [params for method, params in daemon.calls if method == "offer.add"]
    assert {*added["ports"]} == {f"{one.port}/{one.protocol}" for one in games()[name].host_ports}


def test_what_stands_is_not_offered_again(daemon: Any, tunfwd: Run) -> None:
    Members(daemon)
    daemon.answers["offer.list"] = {"offers": [OURS]}
    result = tunfwd("game", "host", "ddnet", "--group", "group:lan", "--json")
    shown = json.loads(result.out)
    assert (shown["schema"], shown["game"]["name"], shown["group"]) == (1, "ddnet", "lan")
    assert shown["offers"] == [OURS]
    assert "offer.add" not in [method for method, _ in daemon.calls]


def test_join_accepts_the_game_of_members_and_nothing_else(daemon: Any, tunfwd: Run) -> None:
    members = Members(
        daemon,
        {},
        {"contact": "group:lan/eve", "port": 22, "name": "ddnet"},
        {"contact": "group:other/eve"},
        {"contact": "alice"},
        {"protocol": "tcp"},
        {"direction": "connection"},
        {"state": "declined"},
    )
    result = tunfwd("game", "join", "ddnet", "--group", "lan")
    assert result.code == 0
    assert members.accepted == ["0000000a"]
    assert "ddnet, 8303/udp of group:lan/bob is at 10.77.3.9:8303" in result.out
    assert "[lan] capture" in result.err


def test_join_waits_for_somebody(daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunfwd.cli.games.LOOK", 0.01)
    members = Members(daemon, {}, after=3)
    assert tunfwd("game", "join", "ddnet", "--group", "lan").code == 0
    assert members.accepted == ["0000000a"]


def test_join_says_that_nobody_offers_it(daemon: Any, tunfwd: Run) -> None:
    Members(daemon)
    result = tunfwd("game", "join", "ddnet", "--group", "lan", "--timeout", "0")
    assert result.code == EXIT_CODES["timeout"]
    assert "nobody in lan offers ddnet yet" in result.err


def test_who_announces_accepts_the_ports_of_those_who_listen(daemon: Any, tunfwd: Run) -> None:
    listener = {"port": 4445}
    members = Members(daemon, listener)
    assert tunfwd("game", "host", "minecraft-java", "--group", "lan").code == 0
    assert members.accepted == ["0000000a"]
    server = {"port": 25565, "protocol": "tcp"}
    members = Members(daemon, server)
    assert tunfwd("game", "join", "minecraft-java", "--group", "lan").code == 0
    assert members.accepted == ["0000000a"]
    added = [params["ports"] for method, params in daemon.calls if method == "offer.add"]
    assert added == [["25565/tcp"], ["4445/udp"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ddnt", "--group", "lan"), "no game 'ddnt'; did you mean ddnet?"),
        (("quux", "--group", "lan"), "no game 'quux'; `tunfwd game list` has those that are known"),
        (("ddnet", "--group", "nowhere"), "no group 'nowhere'; `tunfwd group list` lists them"),
    ],
)
def test_what_does_not_exist(daemon: Any, tunfwd: Run, arguments: tuple[str, ...], message: str) -> None:
    Members(daemon)
    result = tunfwd("game", "host", *arguments)
    assert result.code == EXIT_CODES["not_found"]
    assert message in result.err
