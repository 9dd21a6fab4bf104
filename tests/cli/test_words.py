"""What people type who do not know the words yet, and what is shown to those who do."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tunfwd import __version__
from tunfwd.cli.main import COMMANDS, MEANT
from tunfwd.cli.output import table
from tunfwd.common.errors import UserError

Run = Callable[..., Any]

QUIET = {"offline_seconds": None, "ports": 0, "connections": 0, "tx_bytes": 0, "rx_bytes": 0}
CONTACT = QUIET | {"public_key": "", "address": "", "address6": "", "extended": False, "features": []}
CONTACTS = [
    CONTACT | {"name": "alice", "kind": "friend", "via": "friend", "link": "direct"},
    CONTACT | {"name": "bob", "kind": "group", "via": "group:lan", "link": "direct"},
]
FRIEND = {"name": "", "address": None, "address6": None}
FRIENDS = [
    FRIEND | {"public_key": "AB" * 32, "state": "pending", "message": "hi"},
    FRIEND | {"public_key": "CD" * 32, "state": "online", "message": None},
]
GROUP = {"name": "lan", "id": "", "kind": "group", "state": "online", "public": False, "members": 1}
GROUP |= {"reason": None, "inviter": None}


def test_version_as_an_option(tunfwd: Run) -> None:
    assert tunfwd("--version").out == f"tunfwd {__version__}\n"


@pytest.mark.parametrize("words", [(), ("offer",), ("group", "kick")])
def test_help_as_a_command(tunfwd: Run, words: tuple[str, ...]) -> None:
    assert tunfwd("help", *words) == tunfwd(*words, "--help")


def test_help_on_what_there_is_not(tunfwd: Run) -> None:
    assert "there is no command 'ofer'; did you mean 'offer'?" in tunfwd("help", "ofer").err
    assert "offer has no commands of its own" in tunfwd("help", "offer", "more").err


@pytest.mark.parametrize("word", MEANT)
def test_words_of_other_programs_are_understood(tunfwd: Run, word: str) -> None:
    assert MEANT[word] in COMMANDS
    assert word not in COMMANDS
    assert f"there is no command {word!r}; did you mean {MEANT[word]!r}?" in tunfwd(word).err


@pytest.mark.parametrize(("command", "option"), [("offer", "--to"), ("request", "--from")])
def test_a_contact_without_its_option(tunfwd: Run, command: str, option: str) -> None:
    result = tunfwd(command, "80", "alice")
    assert result.code == 2
    assert f"a contact is named with {option}: {option} alice" in result.err
    assert option not in tunfwd(command, "80", "8x", option, "alice").err


def test_stop(daemon: Any, tunfwd: Run) -> None:
    def stop(_: object) -> dict[str, int]:
        daemon.answers["version"] = UserError("no_daemon", "gone")
        return {"pid": 7}

    daemon.answers["stop"] = stop
    assert tunfwd("stop").out == "the daemon has ended\n"


def test_rename_is_for_friends_and_groups(daemon: Any, tunfwd: Run) -> None:
    daemon.answers |= {
        "friend.rename": {"friend": FRIENDS[1] | {"name": "al"}},
        "group.rename": {"group": GROUP | {"name": "party"}},
    }
    assert tunfwd("rename", "alice", "al").out == "alice is called al now\n"
    assert tunfwd("rename", "group:lan", "party").out == "group:lan is called group:party now\n"
    assert daemon.calls == [
        ("friend.rename", {"name": "alice", "to": "al"}),
        ("group.rename", {"group": "lan", "to": "party"}),
    ]


def test_what_waits_for_a_person_is_counted(daemon: Any, tunfwd: Run) -> None:
    status: dict[str, Any] = {"network": "online", "contacts": [], "drops": {"accept_unknown": 14}}
    status["waiting"] = {"friend_requests": 1, "offers": 2, "invitations": 0}
    daemon.answers["status"] = status
    told = tunfwd("status").err
    assert "Waiting for you: 1 friend request (tunfwd friend list), 2 offers (tunfwd offers)\n" in told
    assert "accept_unknown" not in told
    status["waiting"] = {"friend_requests": 0, "offers": 0, "invitations": 0}
    assert "Waiting" not in tunfwd("status").err


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("offer 80 --to ", ["alice", "group:lan/bob", "group:lan"]),
        ("offer 80 --to group:", ["group:lan/bob", "group:lan"]),
        ("accept x --from gr", ["group:lan/bob"]),
        ("group kick ", ["lan"]),
        ("group kick lan ", ["bob"]),
        ("rename group:l", ["group:lan/bob", "group:lan"]),
        ("friend reject ab", ["AB" * 32]),
        ("conference leave ", []),
    ],
)
def test_completion(daemon: Any, process: Run, words: str, completed: list[str]) -> None:
    daemon.answers |= {
        "status": {"network": "online", "contacts": CONTACTS, "drops": {}},
        "group.list": {"groups": [GROUP]},
        "conference.list": {"groups": []},
        "friend.list": {"friends": FRIENDS},
    }
    typed = f"tunfwd {words}"
    count = str(len(typed.split(" ")) - 1)
    result = process(_TUNFWD_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=count)
    assert [line.partition(",")[2] for line in result.out.split()] == completed


# Tables

HEADERS = ("ID", "PEER", "VIRTUAL", "NAME", "STATE", "CONNS", "DROPS")
LONG = "a name that somebody gave without a thought for the width of terminals"
ROWS = [
    ["8de8cbf4", "bob", "10.77.222.240:8080", "web", "running", "3", "0"],
    ["8cb65676", "group:lan-party/host", "10.77.228.191:8303", LONG, "running, no answer", "0", "0"],
]


def columns(text: str) -> int:
    """As a terminal counts them, where each of the characters here is two wide, or one."""
    return sum(2 if ord(character) > 0x1100 else 1 for character in text)


@pytest.mark.parametrize("room", [72, 80, 95, 120])
def test_a_table_fits_the_terminal(room: int) -> None:
    lines = list(table(HEADERS, ROWS, room))
    assert max(map(columns, lines)) <= room
    text = "".join(lines)
    assert "10.77.228.191:8303" in text  # to be copied: never broken
    assert "DROPS" not in text  # it says nothing in any row
    assert set(re.findall("thought|terminals|running", text)) == {"thought", "terminals", "running"}


def test_a_table_with_room_or_for_a_program_is_whole() -> None:
    lines = list(table(HEADERS, ROWS))
    assert len(lines) == 3
    assert LONG in lines[2]
    assert list(table(HEADERS, ROWS, 400)) == lines


@pytest.mark.parametrize("name", ["日本語のサーバー", "🎮🎲 game", "웹서버"])
@pytest.mark.parametrize("room", [None, 66])
def test_wide_characters_keep_the_columns(name: str, room: int | None) -> None:
    rows = [
        ["1", "bob", "10.77.0.1:80", name, "running", "1", "2"],
        ["2", "bob", "10.77.0.2:80", "x", "running", "3", "4"],
    ]
    lines = [line for line in table(HEADERS, rows, room) if "running" in line]
    assert len({columns(line[: line.index("running")]) for line in lines}) == 1


def test_what_cannot_be_wrapped_is_shown_all_the_same() -> None:
    assert "F" * 64 in list(table(("ID", "KEY"), [["1", "F" * 64]], 40))[1]
