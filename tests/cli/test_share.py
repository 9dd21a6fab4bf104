"""`share`, `join`, `invites` and their like: what is asked, shown, waited for, and exited with."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tunfwd.cli import share as module
from tunfwd.common.errors import EXIT_CODES, UserError

from .samples import ADDRESS, CONTACT, IDENTITY, KEY, MAPPING
from .test_commands import FRIEND, GROUP

Run = Callable[..., Any]  # conftest.tunfwd
TICKET = "tunfwd:AQE2ABEiM0RVZneImaq7zN3u_wEjRWeJq83v_ty6mHZUMhABAgMEAgagoaKjpKWmp6ipqqusra6vAgUAkB-QHx4sJ8g"
OFFER = {"protocol": "tcp", "port": 8080, "name": "web", "target": "localhost:8080", "sees": "peer"}
JOINED = {"name": "alice", "public_key": KEY, "at": 0}


def invite(**more: object) -> dict[str, object]:
    return {
        "id": "1a2b3c4d",
        "uses": 1,
        "expires": int(time.time()) + 86400,
        "offers": [OFFER],
        "name": "web",
        "group": None,
        "state": "open",
        "joined": [],
    } | more


def reached(stage: str = "reachable", **more: object) -> dict[str, object]:
    return {
        "contact": CONTACT,
        "mappings": [MAPPING],
        "group": None,
        "stage": stage,
        "missing": None if stage == "reachable" else "alice is not there",
    } | more


def test_share(daemon: Any, tunfwd: Run) -> None:
    made = invite(ticket=TICKET)
    daemon.answers["share"] = {"invite": made, "network": "offline"}
    result = tunfwd("share", "8080/tcp", "--name", "web", "--uses", "3", "--for", "90m")
    assert result.out == f"On the other machine: tunfwd join {TICKET}\n"
    assert "Valid for 1d, for one person; `tunfwd invites revoke 1a2b3c4d` ends it." in result.err
    assert "Not connected to the Tox network yet" in result.err
    assert daemon.calls == [
        (
            "share",
            {"ports": ["8080/tcp"], "name": "web", "uses": 3, "seconds": 5400.0, "source": "auto"},
        )
    ]
    shown = json.loads(tunfwd("share", "8080/tcp", "--json").out)
    assert shown["schema"] == 1
    assert shown["invite"] == made
    assert {"id", "ticket", "uses", "expires", "offers"} <= shown["invite"].keys()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("8080/sctp",), "the protocol is tcp or udp"),
        (("80/tcp", "70-90/tcp"), "80/tcp is named twice"),
        (("8080/tcp", "--for", "yesterday"), "'yesterday' is not a time such as 24h, 90m or 7d"),
        (("8080/tcp", "--for", "9999d"), "a ticket lasts 1s to 366d"),
        (("8080/tcp", "--for", "0s"), "a ticket lasts 1s to 366d"),
        (("8080/tcp", "--for", "٣h"), "is not a time"),
        (("8080/tcp", "--uses", "0"), "0 is not in the range"),
        ((), "missing argument"),
    ],
)
def test_what_cannot_be_shared_is_one_line(tunfwd: Run, arguments: tuple[str, ...], reason: str) -> None:
    result = tunfwd("share", *arguments)
    assert result.code == EXIT_CODES["usage"]
    assert reason in result.err
    assert result.err.count("\n") == 1


def test_a_terminal_is_shown_a_code_and_told_who_joins(
    daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SHARED", 0.0)
    daemon.answers["share"] = {"invite": invite(ticket=TICKET), "network": "online"}
    looks = iter([invite(), invite(state="spent", joined=[JOINED]), invite(state="spent", joined=[JOINED])])
    contacts = iter([[], [CONTACT | {"link": "offline"}], [CONTACT]])
    daemon.answers["invite.list"] = lambda _: {"invites": [next(looks)]}
    daemon.answers["status"] = lambda _: {"network": "online", "contacts": next(contacts), "drops": {}}
    result = tunfwd("share", "8080/tcp", terminal=True)
    assert result.code == 0
    assert result.out.count("█") > 100  # a QR code
    assert result.out.endswith("alice has joined, at 10.77.3.9\n")


def test_ctrl_c_leaves_the_share_standing(daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["share"] = {"invite": invite(ticket=TICKET)}
    daemon.answers["invite.list"] = {"invites": [invite()]}
    daemon.answers["status"] = {"network": "online", "contacts": [], "drops": {}}

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    result = tunfwd("share", "8080/tcp", "--wait")
    assert result.code == 0
    assert "What is shared stays so" in result.err
    assert [method for method, _ in daemon.calls] == ["share", "invite.list", "status"]


def test_an_invite_that_ends_meanwhile_ends_the_wait(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["share"] = {"invite": invite(ticket=TICKET)}
    daemon.answers["invite.list"] = {"invites": []}
    daemon.answers["status"] = {"network": "online", "contacts": [], "drops": {}}
    result = tunfwd("share", "8080/tcp", "--wait")
    assert (result.code, result.err.splitlines()[-1]) == (0, "The invite has ended.")


def test_join(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["join"] = reached("asked")
    stages = iter(["connected", "offered", "reachable"])
    daemon.answers["join.status"] = lambda _: reached(next(stages))
    result = tunfwd("join", TICKET, "--name", "alice")
    assert (result.code, result.err) == (0, "")
    assert result.out == "web, 8080/tcp of alice is at 10.77.3.9:8080\n"
    assert daemon.calls[0] == ("join", {"ticket": TICKET, "name": "alice"})
    assert [method for method, _ in daemon.calls] == ["join", *["join.status"] * 3]
    daemon.answers["join"] = reached()
    shown = json.loads(tunfwd("join", TICKET[:40], TICKET[40:], "--json").out)  # broken into two lines
    assert (shown["schema"], shown["contact"], shown["mappings"]) == (1, CONTACT, [MAPPING])
    assert daemon.calls[-1] == ("join", {"ticket": TICKET})


def test_progress_on_a_terminal(daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["join"] = reached("asked")
    stages = iter(["asked", "connected", "connected", "offered", "reachable"])
    daemon.answers["join.status"] = lambda _: reached(next(stages))
    told: list[str] = []
    monkeypatch.setattr(module, "note", told.append)
    monkeypatch.setattr(module, "_watched", lambda: True)
    assert tunfwd("join", TICKET).code == 0
    assert told == ["asked: waiting for them", "connected", "offered", "reachable"]


def test_join_goes_on_without_the_command(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["join"] = daemon.answers["join.status"] = reached("asked")
    result = tunfwd("join", TICKET, "--timeout", "0.3")
    assert result.code == EXIT_CODES["timeout"] == 124
    assert result.out == ""
    assert "not within 0.3 s: alice is not there. It goes on in the background" in result.err
    result = tunfwd("join", TICKET, "--timeout", "0", "--json")
    assert result.code == 124
    assert json.loads(result.out)["stage"] == "asked"


def test_a_ticket_that_is_refused(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["join"] = reached("asked")
    daemon.answers["join.status"] = UserError("denied", "alice does not take this ticket: it is spent")
    result = tunfwd("join", TICKET)
    assert (result.code, result.out) == (EXIT_CODES["denied"], "")
    assert result.err == "tunfwd: alice does not take this ticket: it is spent\n"


def test_a_group_is_joined_and_shared(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["join"] = reached(contact=None, mappings=[], group=GROUP)
    assert tunfwd("join", TICKET).out == "in lan; see: tunfwd group peers lan\n"
    daemon.answers["group.share"] = {
        "invite": invite(id=None, uses=None, expires=None, offers=[], group="lan", ticket=TICKET)
    }
    result = tunfwd("group", "share", "lan", "--no-password")
    assert result.out == f"On the other machine: tunfwd join {TICKET}\n"
    assert "lets anybody in" in result.err
    assert daemon.calls[-1] == (
        "group.share",
        {"group": "lan", "uses": 1, "seconds": 86400.0, "with_password": False},
    )


def test_invites(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["invite.list"] = {
        "invites": [
            invite(),
            invite(id="2", state="spent", offers=[], group="lan", name="", joined=[JOINED]),
        ]
    }
    lines = tunfwd("invites").out.splitlines()
    assert lines[1].split() == ["1a2b3c4d", "8080/tcp", "web", "0/1", "1d", "open", "-"]
    assert lines[2].split() == ["2", "group:lan", "-", "1/1", "-", "spent", "alice"]
    assert len(json.loads(tunfwd("invites", "--json").out)["invites"]) == 2
    daemon.answers["invite.revoke"] = {"invite": invite()}
    revoked = tunfwd("invites", "revoke", "1a2b")
    assert revoked.out == "invite 1a2b3c4d has ended: its ticket lets in nobody any more\n"
    assert daemon.calls[-1] == ("invite.revoke", {"id": "1a2b"})
    daemon.answers["invite.list"] = {"invites": []}
    assert "tunfwd share" in tunfwd("invites").err


def test_id_as_a_code(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["id"] = IDENTITY
    result = tunfwd("id", "--qr")
    assert ADDRESS in result.out
    assert result.out.count("█") > 100


def test_a_new_nospam_says_first_what_it_costs(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["id"] = IDENTITY
    daemon.answers["id.new_address"] = {"address": ADDRESS, "revoked": 2}
    result = tunfwd("id", "--new-nospam")
    assert result.code == 0
    first, second = result.err.splitlines()
    assert "can no longer ask to be a friend" in first
    assert second == "2 invites have ended with the old address."
    assert [method for method, _ in daemon.calls] == ["id.new_address", "id"]


def test_blocking(daemon: Any, tunfwd: Run) -> None:
    one = {"public_key": KEY, "name": "eve"}
    for verb in ("block", "unblock", "blocked"):
        daemon.answers[f"friend.{verb}"] = {"blocked": [one]}
    assert tunfwd("friend", "block", "eve").out == "eve is blocked\n"
    assert tunfwd("friend", "unblock", KEY[:8]).out == "eve may ask again\n"
    assert tunfwd("friend", "blocked").out.splitlines()[1].split() == ["eve", KEY]
    assert json.loads(tunfwd("friend", "blocked", "--json").out)["blocked"] == [one]
    assert daemon.calls[:2] == [("friend.block", {"who": "eve"}), ("friend.unblock", {"who": KEY[:8]})]
    daemon.answers["friend.list"] = {"friends": [FRIEND]}
