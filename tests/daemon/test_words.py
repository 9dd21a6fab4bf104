"""What the daemon makes of names that are not quite right, and what it says waits for a person."""

from __future__ import annotations

import signal

import pytest
import trio

from tunfwd.common.errors import UserError

from .living import PATIENCE, Living
from .test_offer_commands import offered


async def test_all_are_the_friends(alice: Living, bob: Living, carol: Living) -> None:
    result = await alice.call("offer.add", protocol="tcp", port=80, to=["all", "bob"], name="web")
    assert sorted(offer["contact"] for offer in result["offers"]) == ["bob", "carol"]
    await offered(bob, "web")
    await offered(carol, "web")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("bobb", "did you mean bob?"),
        ("BOB2", "did you mean bob?"),
        ("lan-party", "did you mean group:lan-party?"),
        ("lanparty", "did you mean group:lan-party?"),
        ("zzz", "`tunfwd status` lists them"),
    ],
)
async def test_who_is_meant(alice: Living, bob: Living, said: str, meant: str) -> None:
    await alice.call("group.create", name="LAN-party")
    with pytest.raises(UserError) as wrong:
        await alice.call("offer.add", protocol="tcp", port=80, to=[said])
    assert wrong.value.code == "not_found"
    assert meant.casefold() in wrong.value.message.casefold()
    assert not (await alice.call("offer.list"))["offers"]


async def test_what_waits_for_a_person_is_counted(alice: Living, bob: Living) -> None:
    nothing = {"friend_requests": 0, "offers": 0, "invitations": 0}
    assert (await alice.call("status"))["waiting"] == nothing
    for port in (80, 81):
        await bob.call("offer.add", protocol="tcp", port=port, to=["alice"], name="web")
        await bob.call("offer.add", protocol="tcp", port=port + 2, to=["alice"])
    await offered(alice, "")
    await offered(alice, "web")
    with trio.fail_after(PATIENCE):
        while (await alice.call("status"))["waiting"]["offers"] != 3:  # noqa: ASYNC110  they come one by one
            await trio.sleep(0.002)
    assert (await bob.call("status"))["waiting"] == nothing
    await alice.call("offer.accept", offer="web")
    assert (await alice.call("status"))["waiting"]["offers"] == 2


async def test_stopping_is_a_sigterm(alice: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    await alice.call("stop")
    assert raised == [signal.SIGTERM]


async def test_doctor_says_which_friends_are_there(alice: Living, bob: Living, carol: Living) -> None:
    [friends] = [one for one in (await alice.call("doctor"))["checks"] if one["name"] == "friends"]
    assert (friends["level"], friends["detail"]) == ("ok", "2 of 2 are there")
