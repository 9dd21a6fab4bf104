"""What each command asks of the daemon, prints, and exits with."""

import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tunfwd import __version__, link
from tunfwd.cli import output, overview
from tunfwd.common.errors import EXIT_CODES, UserError

from .samples import ADDRESS, CONTACT, IDENTITY, KEY, MAPPING

Run = Callable[..., Any]  # conftest.tunfwd

WEB = ("8080/tcp", "--to", "alice")
OFFER = {
    "id": "1a2b3c4d",
    "contact": "alice",
    "direction": "server",
    "protocol": "tcp",
    "port": 8080,
    "name": "web",
    "origin": "remote",
    "state": "pending",
    "target": None,
}
FRIEND = {
    "public_key": KEY,
    "name": "alice",
    "state": "offline",
    "address": "10.77.3.9",
    "address6": "fd74:756e:6677::9",
    "message": None,
}
GROUP = {
    "name": "lan",
    "id": KEY,
    "kind": "group",
    "state": "online",
    "public": True,
    "members": 3,
    "reason": None,
    "inviter": None,
}
MEMBER = {
    "name": "bob",
    "public_key": KEY,
    "address": None,
    "address6": None,
    "link": "offline",
    "reachable": False,
    "advice": "tunfwd friend add ADDRESS",
}


def _rows(out: str) -> list[list[str]]:
    """A table's cells; columns are two spaces or more apart."""
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines()]


def test_id(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["id"] = IDENTITY
    result = tunfwd("id")
    assert result.code == 0
    assert f"Tox address      {ADDRESS}\n" in result.out
    assert "10.77.0.1  " not in result.err
    assert json.loads(tunfwd("id", "--json").out) == {"schema": 1, **IDENTITY}


def test_status(daemon: Any, tunfwd: Run) -> None:
    away = CONTACT | {"name": "bob", "link": "offline", "offline_seconds": 185.2, "address": "10.77.9.1"}
    lost = CONTACT | {"name": "group:lan/eve", "via": "group:lan", "link": "offline", "reason": "kicked"}
    daemon.answers["status"] = {
        "network": "online",
        "contacts": [CONTACT, away, lost],
        "drops": {"malformed": 3, "none": 0},
        "groups": [GROUP | {"state": "lost", "reason": "kicked by carol"}],
    }
    result = tunfwd("status")
    assert _rows(result.out) == [
        ["IP", "NAME", "VIA", "LINK", "PORTS", "CONNS", "TX", "RX"],
        ["10.77.3.9", "alice", "friend", "direct", "1", "2", "1.25 kB", "0 B"],
        ["10.77.9.1", "bob", "friend", "offline 3m", "1", "2", "1.25 kB", "0 B"],
        ["10.77.3.9", "group:lan/eve", "group:lan", "offline (kicked)", "1", "2", "1.25 kB", "0 B"],
    ]
    assert result.err == "group lan is lost: kicked by carol\n"
    shown = json.loads(tunfwd("status", "--json").out)
    assert shown["schema"] == 1
    assert shown["contacts"] == [CONTACT, away, lost]


def test_friend_commands(daemon: Any, tunfwd: Run) -> None:
    for verb in ("add", "accept", "reject", "remove"):
        daemon.answers[f"friend.{verb}"] = {"friend": FRIEND}
    assert tunfwd("friend", "add", f"tox:{ADDRESS.lower()}", "--name", "alice").out.startswith(
        "alice has been asked"
    )
    accepted = tunfwd("friend", "accept", KEY[:6], "--name", "alice")
    assert accepted.out == "alice is a friend now, at 10.77.3.9\n"
    assert tunfwd("friend", "reject", KEY[:6]).code == 0
    assert tunfwd("friend", "remove", "alice", "--json").code == 0
    assert daemon.calls == [
        ("friend.add", {"address": ADDRESS, "name": "alice"}),
        ("friend.accept", {"key": KEY[:6], "name": "alice"}),
        ("friend.reject", {"key": KEY[:6]}),
        ("friend.remove", {"name": "alice"}),
    ]


def test_friend_list(daemon: Any, tunfwd: Run) -> None:
    asking = FRIEND | {
        "state": "pending",
        "name": "",
        "address": None,
        "address6": None,
        "message": "hi\x1b[2J",
    }
    daemon.answers["friend.list"] = {"friends": [FRIEND, asking]}
    result = tunfwd("friend", "list")
    assert _rows(result.out)[1:] == [
        ["alice", "offline", "10.77.3.9", KEY, "-"],
        ["-", "pending", "-", KEY, "hi[2J"],
    ]
    assert json.loads(tunfwd("friend", "list", "--json").out)["friends"] == [FRIEND, asking]


def test_offer(daemon: Any, tunfwd: Run) -> None:
    ours = OFFER | {"origin": "local", "state": "offered"}
    daemon.answers["offer.add"] = {"offers": [ours, ours | {"contact": "group:lan", "state": "waiting"}]}
    result = tunfwd(
        *("offer", "8080/tcp", "--to", "alice", "--to", "group:lan", "--name", "web"),
        *("--target", "[::1]:80", "--source", "host"),
    )
    assert result.out == (
        "offered 8080/tcp as web (1a2b3c4d) to alice\n"
        "offered 8080/tcp as web (1a2b3c4d) to group:lan; it goes out once they are online\n"
    )
    assert daemon.calls == [
        (
            "offer.add",
            {
                "ports": ["8080/tcp"],
                "to": ["alice", "group:lan"],
                "name": "web",
                "target": "[::1]:80",
                "source": "host",
            },
        )
    ]


def test_who_opens_a_service_is_told_whom_it_sees(daemon: Any, tunfwd: Run) -> None:
    ours = OFFER | {"origin": "local", "target": "localhost:8080"}
    daemon.answers["offer.add"] = {"offers": [ours | {"sees": "host"}]}
    assert "localhost:8080 (tcp) sees this machine, not who connects" in tunfwd("offer", *WEB).err
    daemon.answers["offer.add"] = {"offers": [ours | {"sees": None, "trouble": "nothing listens"}]}
    assert tunfwd("offer", *WEB).err == "localhost:8080 (tcp): nothing listens\n"
    daemon.answers["offer.add"] = {"offers": [ours | {"sees": "peer", "trouble": None}]}
    assert tunfwd("offer", *WEB).err == ""
    daemon.answers["offer.accept"] = {
        "mapping": MAPPING | {"direction": "connection", "target": "localhost:22", "sees": "host"}
    }
    assert "localhost:22 (tcp) sees this machine, not who connects" in tunfwd("accept", "web").err


def test_a_port_without_protocol_is_tcp_and_said_to_be(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["offer.add"] = {"offers": []}
    result = tunfwd("offer", "8080", "--to", "alice")
    assert (result.code, result.err) == (0, "tunfwd: 8080 is taken as 8080/tcp\n")
    assert daemon.calls[0][1]["ports"] == ["8080/tcp"]


def test_offers(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["offer.list"] = {
        "offers": [
            OFFER,
            OFFER
            | {"origin": "local", "port": 0, "target": "h:1", "sees": "host", "trouble": "nothing listens"},
        ]
    }
    rows = _rows(tunfwd("offers").out)
    assert rows[1:] == [
        ["1a2b3c4d", "alice", "theirs", "8080/tcp", "web", "-", "-", "pending"],
        ["1a2b3c4d", "alice", "ours", "any/tcp", "web", "h:1", "host", "pending, nothing listens"],
    ]
    assert json.loads(tunfwd("offers", "--json").out)["offers"][0] == OFFER


def test_an_offer_to_a_group_is_one_line(daemon: Any, tunfwd: Run) -> None:
    to_all = OFFER | {"contact": "group:lan", "origin": "local", "state": "offered", "members": 3, "taken": 1}
    parts = [
        OFFER | {"id": f"{number:08x}", "contact": f"group:lan/{number}", "room_offer": OFFER["id"]}
        for number in range(3)
    ]
    lost = OFFER | {"id": "99999999", "contact": "group:lan/9", "room_offer": "of no offer here"}
    daemon.answers["offer.list"] = {"offers": [to_all, *parts, lost]}
    assert [(row[1], row[-1]) for row in _rows(tunfwd("offers").out)[1:]] == [
        ("group:lan", "offered, taken by 1 of 3"),
        ("group:lan/9", "pending"),
    ]
    assert len(json.loads(tunfwd("offers", "--json").out)["offers"]) == 5


GAME = [
    OFFER | {"id": f"{port:08x}", "port": port, "protocol": "udp", "name": "game"}
    for port in range(27015, 27031)
]


def test_ports_of_one_name_are_shown_as_one(daemon: Any, tunfwd: Run) -> None:
    tcp = OFFER | {"id": "2", "port": 27015, "name": "game"}
    daemon.answers["offer.list"] = {"offers": [*GAME, tcp, OFFER, GAME[0] | {"contact": "bob"}]}
    assert [row[3:] for row in _rows(tunfwd("offers").out)[1:]] == [
        ["27015-27030/udp 27015/tcp", "game", "-", "-", "pending"],
        ["8080/tcp", "web", "-", "-", "pending"],
        ["27015/udp", "game", "-", "-", "pending"],
    ]
    assert len(json.loads(tunfwd("offers", "--json").out)["offers"]) == 19
    ours = [
        offer | {"origin": "local", "state": "offered", "target": f"localhost:{offer['port']}"}
        for offer in GAME
    ]
    daemon.answers["offer.add"] = {"offers": [one | {"trouble": "nothing listens"} for one in ours]}
    offered = tunfwd("offer", "27015-27030/udp", "--to", "alice", "--name", "game")
    assert offered.out == "offered 27015-27030/udp as game (00006987 +15) to alice\n"
    assert offered.err == "localhost:27015 (udp) and 15 more: nothing listens\n"
    mappings = [MAPPING | offer | {"state": "running", "tx_bytes": 1, "connections": 1} for offer in GAME]
    mappings[3]["state"] = "waiting"
    daemon.answers["offer.accept"] = {"mapping": mappings[0], "mappings": mappings}
    assert tunfwd("accept", "game").out == "game, 27015-27030/udp of alice is at 10.77.3.9:27015-27030\n"
    daemon.answers["ports"] = {"ports": mappings}
    [row] = _rows(tunfwd("ports").out)[1:]
    assert row[0] == "00006987 +15"
    assert row[3] == "10.77.3.9:27015-27030"
    assert row[7:10] == ["15 running, 1 waiting", "16", "16 B"]
    daemon.answers["kill"] = {
        "killed": [{"id": offer["id"], "contact": "alice", "name": "game"} for offer in GAME]
    }
    assert tunfwd("kill", "game").out == "ended game (16 ports), alice\n"


@pytest.mark.parametrize("command", [("offer", "--to", "alice"), ("request", "--from", "alice")])
def test_ranges_that_make_no_sense_are_one_line(tunfwd: Run, command: tuple[str, ...]) -> None:
    verb, *rest = command
    for ports, reason in (
        (("27030-27015/udp",), "the range is backward; write 27015-27030/udp"),
        (("1-65535/udp",), "is 65535 ports: 256 at most at once"),
        (("80/tcp", "70-90/tcp"), "80/tcp is named twice: by 80/tcp and by 70-90/tcp"),
        (("1-200/tcp", "1-200/udp"), "400 ports are too many at once: 256 at most"),
    ):
        result = tunfwd(verb, *ports, *rest)
        assert result.code == EXIT_CODES["usage"]
        assert result.err.count("\n") == 1
        assert reason in result.err


def test_accept(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["offer.accept"] = {"mapping": MAPPING}
    result = tunfwd("accept", "web", "--from", "alice", "--port", "9090", "--target", "127.0.0.1:80")
    assert result.out == "web, 8080/tcp of alice is at 10.77.3.9:8080\n"
    assert daemon.calls == [
        ("offer.accept", {"offer": "web", "contact": "alice", "port": 9090, "target": "127.0.0.1:80"})
    ]  # with a target it can mean a request alone: nothing is to be asked
    daemon.answers["offer.accept"] = {
        "mapping": MAPPING | {"direction": "connection", "target": "127.0.0.1:22", "name": ""}
    }
    assert tunfwd("accept", "1a2b", "--yes").out == "alice may reach 127.0.0.1:22, as 8080/tcp\n"


REQUEST = OFFER | {"direction": "connection", "port": 22, "target": "localhost:22", "id": "5e6f7a8b"}


@pytest.mark.parametrize(("typed", "allowed"), [("y\n", True), ("n\n", False), (None, False)])
def test_accept_asks_before_it_opens_something_of_ours(
    daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch, typed: str | None, allowed: bool
) -> None:
    """On a terminal; elsewhere it says what to type."""

    def accept(params: dict[str, object]) -> dict[str, object]:
        if params.get("direction") == "server":
            raise UserError("denied", "bob asks to reach localhost:22 here: `tunfwd allow web --from bob`")
        return {"mapping": MAPPING | {"direction": "connection", "target": "localhost:22", "contact": "bob"}}

    daemon.answers["offer.accept"] = accept
    keyboard = io.StringIO(typed or "")
    monkeypatch.setattr(keyboard, "isatty", lambda: typed is not None)
    monkeypatch.setattr(sys, "stdin", keyboard)
    result = tunfwd("accept", "web")
    assert (result.out == "bob may reach localhost:22, as 8080/tcp (their name: web)\n") is allowed
    assert len(daemon.calls) == 1 + allowed
    if typed is None:
        assert result.code == EXIT_CODES["denied"]
        assert "`tunfwd allow web --from bob` lets them, and so does --yes" in result.err
    else:
        assert "bob asks to reach localhost:22 here. Allow it? [y/N]" in result.err


def test_allow(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["offer.accept"] = {
        "mapping": MAPPING | {"direction": "connection", "target": "localhost:22", "name": ""}
    }
    assert tunfwd("allow", "22/tcp", "--from", "alice").out == "alice may reach localhost:22, as 8080/tcp\n"
    assert daemon.calls == [
        ("offer.accept", {"offer": "22/tcp", "contact": "alice", "direction": "connection"})
    ]


def test_requests_stand_apart_from_offers(daemon: Any, tunfwd: Run) -> None:
    declined = OFFER | {"id": "99999999", "name": "game", "state": "declined"}
    daemon.answers["offer.list"] = {"offers": [OFFER, REQUEST], "refused": [declined]}
    heading, web, game, request = tunfwd("offers").out.splitlines()
    assert heading.startswith("ID")
    assert ("1a2b3c4d" in web, "99999999" in game, game.split()[-1]) == (True, True, "declined")
    assert request == (
        "alice asks to reach localhost:22 of this machine, as 22/tcp (their name: web): "
        "tunfwd allow 5e6f7a8b, or: tunfwd deny 5e6f7a8b"
    )


def test_pause_resume_change(daemon: Any, tunfwd: Run) -> None:
    ours = OFFER | {"origin": "local", "state": "running", "target": "localhost:8080"}
    for method in ("offer.pause", "offer.resume", "offer.change"):
        daemon.answers[method] = {"offers": [ours]}
    told = "8080/tcp as web (1a2b3c4d) to alice, from localhost:8080\n"
    assert tunfwd("pause", "web").out == f"paused: {told}"
    assert tunfwd("resume", "web", "--to", "alice").out == f"resumed: {told}"
    assert tunfwd("change", "web", "--target", "127.0.0.1:9", "--name", "w").out == f"changed: {told}"
    moved = tunfwd("change", "web", "--port", "90")
    assert moved.out == f"offered anew: {told}"
    assert "who had accepted it has to accept it again" in moved.err
    assert daemon.calls == [
        ("offer.pause", {"id": "web"}),
        ("offer.resume", {"id": "web", "contact": "alice"}),
        ("offer.change", {"id": "web", "target": "127.0.0.1:9", "name": "w", "here": False}),
        ("offer.change", {"id": "web", "port": 90, "here": False}),
    ]
    for wrong in ((), ("--here", "--target", "127.0.0.1:9")):
        assert tunfwd("change", "web", *wrong).code == EXIT_CODES["usage"]
    daemon.answers["ports"] = {"ports": [MAPPING | {"paused": True}]}
    assert "running, paused" in tunfwd("ports").out


def test_connections(daemon: Any, tunfwd: Run) -> None:
    one = {
        "contact": "alice",
        "direction": "in",
        "protocol": "tcp",
        "port": 22,
        "name": "ssh",
        "id": "1a2b3c4d",
        "source": "10.77.3.9",
        "target": "localhost:22",
        "state": "open",
        "seconds": 90,
        "tx_bytes": 1000,
        "rx_bytes": 2,
    }
    daemon.answers["connections"] = {"connections": [one]}
    heading, row = tunfwd("connections").out.splitlines()
    assert heading.split() == ["PEER", "DIR", "PROTO", "FROM", "TO", "NAME", "STATE", "SINCE", "TX", "RX"]
    assert row.split() == [
        "alice",
        "in",
        "tcp",
        "10.77.3.9",
        "localhost:22",
        "ssh",
        "open",
        "1m",
        "1.00",
        "kB",
        "2",
        "B",
    ]
    assert json.loads(tunfwd("connections", "--json").out) == {"schema": 1, "connections": [one]}
    daemon.answers["connections"] = {"connections": []}
    assert tunfwd("connections").err.startswith("No connections.")


@pytest.mark.parametrize("yes", [True, False])
def test_removing_a_friend_says_what_is_lost_and_asks(
    daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch, yes: bool
) -> None:
    daemon.answers["offer.list"] = {"offers": [OFFER]}
    ended = {"id": "1a2b3c4d", "contact": "alice", "name": "web"}
    daemon.answers["friend.remove"] = {"friend": FRIEND, "ended": [ended]}
    keyboard = io.StringIO("y\n")
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)
    result = tunfwd("friend", "remove", "alice", *(["--yes"] if yes else []))
    assert result.out == "alice is no longer a friend; ended with it: web\n"
    assert ("8080/tcp as web (1a2b3c4d), pending" in result.err) is not yes
    assert ("Remove alice? [y/N]" in result.err) is not yes


@pytest.mark.parametrize(
    ("word", "how", "said"),
    [
        ("leave", "left", "It stays on offer: tunfwd accept web"),
        ("kill", "left", "It stays on offer: tunfwd accept web"),
        ("kill", "declined", "It stays declined, until: tunfwd accept web"),
        ("kill", "withdrawn", ""),
    ],
)
def test_ends_say_what_they_were(daemon: Any, tunfwd: Run, word: str, how: str, said: str) -> None:
    daemon.answers[word] = {"killed": [{"id": "1a2b3c4d", "contact": "alice", "name": "web", "how": how}]}
    result = tunfwd(word, "web")
    assert (result.out, result.err.strip()) == (f"{how} web (1a2b3c4d), alice\n", said)


def test_deny_kill_request(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["offer.deny"] = {"offers": [OFFER]}
    daemon.answers["kill"] = {"killed": [{"id": "1a2b3c4d", "contact": "alice", "name": "web"}]}
    daemon.answers["request"] = {"offers": [OFFER | {"port": 22, "name": "", "state": "waiting"}]}
    assert tunfwd("deny", "web").out == "denied 8080/tcp as web (1a2b3c4d) of alice\n"
    assert tunfwd("kill", "1a", "--from", "alice").out == "ended web (1a2b3c4d), alice\n"
    asked = tunfwd("request", "22/tcp", "--from", "alice", "--port", "2222", "--name", "ssh")
    assert asked.out == "asked alice for 22/tcp (1a2b3c4d); it goes out once they are online\n"
    assert daemon.calls == [
        ("offer.deny", {"offer": "web"}),
        ("kill", {"id": "1a", "contact": "alice"}),
        ("request", {"ports": ["22/tcp"], "contact": "alice", "local_port": 2222, "name": "ssh"}),
    ]


def test_ports(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["ports"] = {"ports": [MAPPING]}
    rows = _rows(tunfwd("ports").out)
    assert rows == [
        ["ID", "PEER", "PROTO", "VIRTUAL", "TARGET", "SEES", "NAME", "STATE", "CONNS", "TX", "RX", "DROPS"],
        [
            "1a2b3c4d",
            "alice",
            "tcp",
            "10.77.3.9:8080",
            "-",
            "-",
            "web",
            "running",
            "2",
            "999 B",
            "123 MB",
            "0",
        ],
    ]
    assert json.loads(tunfwd("ports", "--json").out) == {"schema": 1, "ports": [MAPPING]}


def test_where_a_service_of_ours_is_reached(daemon: Any, tunfwd: Run) -> None:
    """Not at the contact's address."""
    ours = MAPPING | {"origin": "local", "target": "localhost:8080", "own_address": "10.77.8.8"}
    ours6 = ours | {"own_address": "fd74:756e:6677::8"}
    unknown = ours | {"own_address": None}
    daemon.answers["ports"] = {"ports": [entry | {"name": ""} for entry in (ours, ours6, unknown)]}
    assert [row[3] for row in _rows(tunfwd("ports").out)[1:]] == [
        "10.77.8.8:8080",
        "[fd74:756e:6677::8]:8080",
        "-",
    ]


@pytest.mark.parametrize(
    ("arguments", "method", "key", "advice"),
    [
        (("offers",), "offer.list", "offers", "tunfwd offer 8080/tcp --to NAME"),
        (("ports",), "ports", "ports", "tunfwd accept"),
        (("friend", "list"), "friend.list", "friends", "tunfwd friend add ADDRESS"),
        (("group", "list"), "group.list", "groups", "tunfwd group create NAME"),
        (("conference", "list"), "conference.list", "groups", "tunfwd conference create NAME"),
    ],
)
def test_an_empty_listing_says_what_to_do(
    daemon: Any, tunfwd: Run, arguments: tuple[str, ...], method: str, key: str, advice: str
) -> None:
    daemon.answers[method] = {key: []}
    result = tunfwd(*arguments)
    assert (result.code, result.out) == (0, "")
    assert advice in result.err
    assert json.loads(tunfwd(*arguments, "--json").out) == {"schema": 1, key: []}


def test_ping(daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "PING_INTERVAL", 0.0)
    times = iter([0.5, 0.00012, 0.0034])

    def answer(params: dict[str, object]) -> dict[str, object]:
        return {"contact": "alice", "seconds": next(times), "path": "relay"}

    daemon.answers["ping"] = answer
    assert tunfwd("ping", "alice", "--timeout", "2").out == "alice answered in 500 ms (relay)\n"
    assert daemon.calls == [("ping", {"name": "alice", "timeout": 2.0})]
    assert tunfwd("ping", "alice", "-c", "2").out == (
        "alice answered in 0.12 ms (relay)\n"
        "alice answered in 3.4 ms (relay)\n"
        "2 of 2 answered; minimum 0.12 ms, median 3.4 ms, maximum 3.4 ms\n"
    )


def test_ping_shows_what_the_link_measures(daemon: Any, tunfwd: Run) -> None:
    link = {"path_seconds": 200.0, "rtt": 0.00048, "loss": 0.0123, "window": 14_200}
    daemon.answers["ping"] = {"contact": "alice", "seconds": 0.0005, "path": "direct", **link}
    assert tunfwd("ping", "alice").out == (
        "alice answered in 0.50 ms (direct)\n"
        "link: direct for 3m, round trip 0.48 ms, lost 1.2%, window 14.2 kB\n"
    )
    shown = json.loads(tunfwd("ping", "alice", "--json").out)
    assert {key: shown[key] for key in link} == link


def test_ping_without_answer(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["ping"] = UserError("timeout", "alice did not answer")
    result = tunfwd("ping", "alice", "--timeout", "1")
    assert (result.code, result.out, result.err) == (124, "", "no answer from alice within 1 s\n")
    result = tunfwd("ping", "alice", "--json")
    assert result.code == 124
    assert json.loads(result.out) == {
        "schema": 1,
        "contact": "alice",
        "sent": 1,
        "received": 0,
        "seconds": None,
        "path": None,
        "path_seconds": None,
        "rtt": None,
        "loss": None,
        "window": None,
        "replies": [],
    }


def test_version(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["version"] = answer = {"version": "9.9", "compiled": False, "toxcore": "0.2.20"}
    compiled = not link.__file__.endswith(".py")
    here = f"tunfwd {__version__}, {'compiled' if compiled else 'uncompiled'}"
    assert tunfwd("version").out == f"{here}\ndaemon 9.9, uncompiled, libtoxcore 0.2.20\n"
    answer |= {"compiled": True, "binding": "api"}
    assert tunfwd("version").out == f"{here}\ndaemon 9.9, compiled, libtoxcore 0.2.20 by compiled calls\n"
    answer["binding"] = "another"
    assert tunfwd("version").out == f"{here}\ndaemon 9.9, compiled, libtoxcore 0.2.20\n"
    shown = {"schema": 1, "version": __version__, "compiled": compiled}
    assert json.loads(tunfwd("version", "--json").out) == shown | {"daemon": answer}
    alone = tunfwd("version", "--json", TUNFWD_SOCKET="/nowhere/x.sock")
    assert (alone.code, json.loads(alone.out)) == (0, shown | {"daemon": None})


def test_groups(daemon: Any, tunfwd: Run, tmp_path: Any) -> None:
    password = tmp_path / "password"
    password.write_text("sécret\nnot this\n")
    for method in ("group.create", "group.join", "group.invite", "group.leave"):
        daemon.answers[method] = {"group": GROUP}
    daemon.answers["group.list"] = {"groups": [GROUP, GROUP | {"state": "invited", "inviter": "eve"}]}
    daemon.answers["group.peers"] = {"group": GROUP, "peers": [MEMBER]}
    assert KEY in tunfwd("group", "create", "lan", "--public", "--password-file", str(password)).out
    assert tunfwd("group", "join", KEY, "--password-file", str(password)).out == "joined lan\n"
    assert tunfwd("group", "invite", "lan", "bob").out == "invited bob into lan\n"
    assert tunfwd("group", "leave", "lan").out == "left lan\n"
    listed = _rows(tunfwd("group", "list").out)
    assert listed[1:] == [["lan", "online", "3", "-", KEY], ["lan", "invited", "-", "eve", KEY]]
    members = _rows(tunfwd("group", "peers", "lan").out)
    assert members[1] == ["-", "bob", "not reachable", KEY, "tunfwd friend add ADDRESS"]
    own = {"name": "alice", "public_key": KEY, "address": None, "address6": "fd74::1", "role": "founder"}
    daemon.answers["group.peers"] = {"group": GROUP, "peers": [MEMBER], "self": own}
    assert _rows(tunfwd("group", "peers", "lan").out)[2] == [
        *("fd74::1", "alice", "-", KEY, "this machine, founder")
    ]
    assert daemon.calls[:4] == [
        ("group.create", {"name": "lan", "public": True, "password": "sécret"}),
        ("group.join", {"group": KEY, "password": "sécret"}),
        ("group.invite", {"group": "lan", "friend": "bob"}),
        ("group.leave", {"group": "lan"}),
    ]
    for wrong in (tmp_path / "none", tmp_path):
        result = tunfwd("group", "join", KEY, "--password-file", str(wrong))
        assert (result.code, result.err[:20]) == (2, "tunfwd: the password")


def test_conferences(daemon: Any, tunfwd: Run) -> None:
    entry = GROUP | {"kind": "conference", "state": "connecting"}
    for method in ("create", "join", "invite", "leave"):
        daemon.answers[f"conference.{method}"] = {"group": entry}
    daemon.answers["conference.peers"] = {"group": entry, "peers": []}
    assert tunfwd("conference", "create", "lan").out == "created lan\n"
    assert tunfwd("conference", "join", "lan").out == "joining lan; see: tunfwd conference list\n"
    assert tunfwd("conference", "invite", "lan", "bob").code == 0
    assert tunfwd("conference", "leave", "lan").code == 0
    assert "tunfwd conference invite lan NAME" in tunfwd("conference", "peers", "lan").err
    assert [method for method, _ in daemon.calls] == [
        f"conference.{verb}" for verb in ("create", "join", "invite", "leave", "peers")
    ]


@pytest.mark.parametrize("code", EXIT_CODES)
def test_every_failure_has_its_exit_code(daemon: Any, tunfwd: Run, code: Any) -> None:
    daemon.answers["status"] = UserError(code, "something\nis \x1b[31mwrong")
    result = tunfwd("status")
    assert (result.code, result.out) == (EXIT_CODES[code], "")
    assert result.err == "tunfwd: something is [31mwrong\n"


def test_a_change_that_could_not_be_saved_is_shown_and_fails(daemon: Any, tunfwd: Run) -> None:
    entry = {
        "id": "8de8cbf4",
        "contact": "bob",
        "direction": "server",
        "protocol": "tcp",
        "port": 8080,
        "name": "web",
        "origin": "local",
        "state": "offered",
        "target": None,
    }
    daemon.answers["offer.add"] = {"offers": [entry], "warning": "in effect, but not saved: No space left"}
    result = tunfwd("offer", "8080/tcp", "--to", "bob")
    assert result.code == 1
    assert result.out == "offered 8080/tcp as web (8de8cbf4) to bob\n"
    assert result.err == "tunfwd: in effect, but not saved: No space left\n"
    result = tunfwd("offer", "8080/tcp", "--to", "bob", "--json")
    assert result.code == 1
    assert json.loads(result.out)["warning"] == "in effect, but not saved: No space left"


def test_status_tells_what_is_wrong_with_the_daemon(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["status"] = {
        "network": "online",
        "contacts": [],
        "drops": {},
        "warnings": ["changes are not saved"],
    }
    result = tunfwd("status")
    assert result.code == 0
    assert "Warning: changes are not saved" in result.err


def test_status_says_what_became_of_broadcasts(daemon: Any, tunfwd: Run) -> None:
    entry = {"port": 8303, "contacts": 1, "broadcasts": 2, "copies": 2, "seconds": 3.0}
    drops = {"broadcasts_over_rate": 5, "broadcasts_denied": 1}
    daemon.answers["status"] = {"network": "online", "contacts": [], "drops": drops, "lan": [entry]}
    said = tunfwd("status").err
    assert "Broadcasts to 8303/udp went to 1 contact 3s ago (2 copies in all)\n" in said
    assert "5 broadcasts went to nobody: there were too many at once\n" in said
    assert "1 broadcast went to nobody: to a port that contacts are never asked at\n" in said


def test_a_status_that_has_more_to_tell(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["status"] = {"network": "offline", "contacts": [], "drops": {}}
    assert tunfwd("status").err.splitlines() == [
        "Not connected to the Tox network (yet). If it stays so: tunfwd doctor",
        "No contacts. Ask someone with: tunfwd friend add ADDRESS; who asks you: tunfwd friend list",
    ]
    lost = GROUP | {"kind": "conference", "state": "lost"}
    daemon.answers["status"] |= {"network": "online", "groups": [GROUP, lost]}
    assert tunfwd("status").err.splitlines()[0] == "conference lan is lost: no reason was given"


def test_renames(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["friend.rename"] = {"friend": FRIEND | {"name": "eve"}}
    daemon.answers["group.rename"] = {"group": GROUP | {"name": "party"}}
    assert tunfwd("friend", "rename", "alice", "eve").out == "alice is called eve now\n"
    assert tunfwd("group", "rename", "lan", "party").out == "lan is called party now\n"
    assert daemon.calls == [
        ("friend.rename", {"name": "alice", "to": "eve"}),
        ("group.rename", {"group": "lan", "to": "party"}),
    ]


def test_kick(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["group.kick"] = {"group": GROUP}
    assert tunfwd("group", "kick", "lan", "eve").out == "kicked eve from lan\n"
    assert daemon.calls == [("group.kick", {"group": "lan", "member": "eve"})]


@pytest.mark.parametrize("line", ["", "\n", "x" * 33, "\xe9" * 17])
def test_a_line_that_is_not_a_password(daemon: Any, tunfwd: Run, tmp_path: Any, line: str) -> None:
    file = tmp_path / "password"
    file.write_text(line)
    result = tunfwd("group", "create", "lan", "--password-file", str(file))
    assert (result.code, daemon.calls) == (2, [])
    assert result.err == f"tunfwd: the first line of {file} is not a password of 1 to 32 bytes\n"


def test_who_looks_at_a_listing_is_told_what_to_do_with_it(daemon: Any, tunfwd: Run) -> None:
    asking = FRIEND | {"state": "pending", "name": "", "address": None, "address6": None}
    daemon.answers["friend.list"] = {"friends": [FRIEND, asking]}
    daemon.answers["offer.list"] = {"offers": [OFFER], "unseen": {"alice": 3}}
    daemon.answers["group.list"] = {"groups": [GROUP | {"state": "invited", "inviter": "eve"}]}
    daemon.answers["conference.list"] = {"groups": [GROUP | {"kind": "conference"}]}
    for arguments, told in {
        ("friend", "list"): ["tunfwd friend accept KEY --name NAME"],
        ("offers",): ["tunfwd accept NAME|ID", "alice offers 3 more"],
        ("group", "list"): ["tunfwd group join NAME"],
        ("conference", "list"): [],
    }.items():
        lines = tunfwd(*arguments, terminal=True).err.splitlines()
        assert len(lines) == len(told)
        assert all(part in line for part, line in zip(told, lines, strict=True))
        assert tunfwd(*arguments).err == ""  # a program reads it


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_999, "10.0 kB"),
        (83_200_000, "83.2 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.00 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_have_three_digits(count: int, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(8.4, "8s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (86_400, "1d"), (9e5, "10d")]
)
def test_times_that_have_passed(seconds: float, shown: str) -> None:
    assert output.span(seconds) == shown


def test_reload_names_what_takes_a_restart(tunfwd: Run, daemon: Any) -> None:
    result = {"file": "/etc/t.toml", "changed": ["[[rule]]"], "restart": ["[tox] udp_port"], "problems": []}
    daemon.answers["reload"] = result
    done = tunfwd("reload")
    assert (done.code, done.out) == (0, "/etc/t.toml: [[rule]] changed\n")
    assert done.err == "[tox] udp_port has changed, and takes effect when the daemon is started again\n"
    daemon.answers["reload"] = result | {"file": None, "changed": [], "restart": [], "problems": ["a", "b"]}
    done = tunfwd("reload")
    assert (done.code, done.err) == (1, "tunfwd: a; b\n")
    assert done.out == "no configuration file; all is default: nothing that takes effect now changed\n"
