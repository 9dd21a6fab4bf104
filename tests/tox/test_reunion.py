"""Friends find each other again after a restart, by the DHT keys that they told each other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import call, patch

import pytest
import trio

from tests.tox.conftest import Person, befriend, running
from tunfwd.tox.binding import sodium
from tunfwd.tox.reunion import CLOSE_PORTS, FIRST_PORT, HELD, LAST_PORT, Reunion, announcement

BACK = 30.0  # s; what a person is promised
FRIEND, KEY, SECRET = b"f" * 32, b"k" * 32, b"s" * 32


def run(savedata: Path, secret: bytes = SECRET, port: int = FIRST_PORT) -> Reunion:
    """A run that has made an instance whose third draw is the DHT key's secret."""
    reunion = Reunion(savedata)
    reunion.made([b"1" * 32, b"2" * 32, secret], sodium.public_key(secret), port)
    reunion.save()
    return reunion


def key_kept(savedata: Path) -> bool:
    """Whether the next run goes on with the key of the last one."""
    with patch.object(sodium, "secrets_drawn") as drawing, Reunion(savedata).making():
        return bool(drawing.call_args == call({2: SECRET}))


def test_an_orderly_end_keeps_the_key_and_the_port(tmp_path: Path) -> None:
    savedata = tmp_path / "identity.tox"
    assert Reunion(savedata).first_port == 0
    reunion = run(savedata, port=FIRST_PORT + 3)
    reunion.meet()
    reunion.end()
    assert Reunion(savedata).first_port == FIRST_PORT + 3
    assert key_kept(savedata)


@pytest.mark.parametrize(
    ("last", "first"),
    [
        (FIRST_PORT, FIRST_PORT + 1),
        (FIRST_PORT + CLOSE_PORTS, FIRST_PORT),  # neighbours are looked for at these first
        (LAST_PORT, FIRST_PORT),
        (1234, 0),  # the person's choice
    ],
)
def test_a_crash_beside_friends_that_hold_the_connection_keeps_neither(
    tmp_path: Path, last: int, first: int
) -> None:
    savedata = tmp_path / "identity.tox"
    run(savedata, port=last).meet()
    assert Reunion(savedata).first_port == first
    assert not key_kept(savedata)


def test_a_crash_that_nobody_holds_a_connection_from_keeps_both(tmp_path: Path) -> None:
    savedata = tmp_path / "identity.tox"
    run(savedata)  # and met nobody
    assert key_kept(savedata)
    run(savedata, port=FIRST_PORT + 3).meet()
    file = tmp_path / "identity.reunion.json"
    met = file.stat().st_mtime - HELD - 1
    os.utime(file, (met, met))
    assert key_kept(savedata)
    assert Reunion(savedata).first_port == FIRST_PORT + 3
    run(savedata, port=FIRST_PORT + 3)  # crashes again: it met nobody either
    assert key_kept(savedata)


def test_where_the_secret_is_not_found_nothing_counts_as_a_crash(tmp_path: Path) -> None:
    savedata = tmp_path / "identity.tox"
    run(savedata)  # and no end, but after it a library that has its random numbers from elsewhere
    reunion = Reunion(savedata)
    reunion.made([], KEY, FIRST_PORT)
    reunion.meet()
    reunion.end()
    assert Reunion(savedata).first_port == FIRST_PORT
    assert not key_kept(savedata)


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    run(tmp_path / "identity.tox")
    assert (tmp_path / "identity.reunion.json").stat().st_mode & 0o777 == 0o600


def test_there_is_something_to_save_when_a_friend_says_another_key(tmp_path: Path) -> None:
    reunion = run(tmp_path / "identity.tox")
    for key, news in ((KEY, True), (KEY, False), (b"l" * 32, True)):
        reunion.remember(FRIEND, key)
        assert reunion.changed.is_set() == news
        reunion.save()
        assert not reunion.changed.is_set()


def test_friends_are_remembered_and_forgotten(tmp_path: Path) -> None:
    savedata = tmp_path / "identity.tox"
    reunion = run(savedata)
    reunion.remember(FRIEND, KEY)
    reunion.remember(b"g" * 32, KEY)
    reunion.forget(b"g" * 32)
    reunion.forget(b"h" * 32)
    reunion.save()
    assert json.loads((tmp_path / "identity.reunion.json").read_text())["friends"] == {
        FRIEND.hex().upper(): KEY.hex().upper()
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"udp_port": 1, "draw": 0, "secret": "zz", "friends": {}}',
        b'{"udp_port": 1, "draw": 0, "secret": "00", "friends": {}}',
        b'{"udp_port": 1, "draw": 0, "secret": "", "friends": {"00": "00"}}',
        b'{"udp_port": 1, "draw": 0, "secret": "", "friends": []}',
        b'{"udp_port": null, "draw": 0, "secret": "", "friends": {}}',
        b'{"udp_port": 1e400, "draw": 0, "secret": "", "friends": {}}',
        b'{"udp_port": 1, "draw": 0, "secret": 7, "friends": {}}',
    ],
)
def test_a_file_of_no_use_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.reunion.json").write_bytes(content)
    reunion = Reunion(tmp_path / "identity.tox")
    assert reunion.first_port == 0
    reunion.introduce(FRIEND, SECRET)
    reunion.remember(FRIEND, KEY)
    reunion.save()
    assert json.loads((tmp_path / "identity.reunion.json").read_text())["friends"]


def test_a_directory_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    reunion = run(tmp_path / "gone" / "identity.tox")
    reunion.end()


def test_an_announcement_differs_each_time_and_has_the_layout_of_toxcore() -> None:
    own = sodium.public_key(SECRET)
    packets = {announcement(FRIEND, KEY, 1, own, SECRET, SECRET) for _ in range(2)}
    assert len(packets) == 2
    for packet in packets:
        assert packet[:65] == b"\x20" + own + KEY
        assert len(packet) == 1 + 32 + 32 + 24 + 16 + 1 + 32 + 24 + 16 + 1 + 8 + 32


def test_a_key_that_is_none_is_forgotten(tmp_path: Path) -> None:
    reunion = run(tmp_path / "identity.tox")
    reunion.remember(FRIEND, bytes(32))  # no point of the curve that a box can be sealed for
    reunion.introduce(FRIEND, SECRET)
    reunion.save()
    assert json.loads((tmp_path / "identity.reunion.json").read_text())["friends"] == {}


@pytest.mark.toxnet
async def test_what_a_friend_says_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunfwd.tox.client.CHECK_INTERVAL", 1000.0)
    with Person(tmp_path, "ann") as ann:
        friend = ann.friends.add_key(sodium.public_key(SECRET))
        async with running(ann):
            await ann.seen.round.wait()
            friend.remember_node(KEY)
            with trio.fail_after(BACK):
                await ann.seen.until(lambda: KEY.hex().upper() in (tmp_path / "ann.reunion.json").read_text())


@pytest.mark.toxnet
@pytest.mark.patient
@pytest.mark.timeout(600)
async def test_two_alone_are_back_after_each_restart_of_either(tmp_path: Path) -> None:
    with Person(tmp_path, "ann") as ann, Person(tmp_path, "ben", ann) as ben:
        async with running(ann, ben):
            await befriend(ann, ben)
        for turn in range(6):
            ann.friend(ben).remember_node(ben.dht_key)
            ben.friend(ann).remember_node(ann.dht_key)
            restarted, stays = (ann, ben) if turn % 2 else (ben, ann)
            key = restarted.dht_key
            restarted.restart()
            assert restarted.dht_key == key
            assert not restarted.friend(stays).online
            async with running(ann, ben):
                with trio.fail_after(BACK):
                    await restarted.seen.until(lambda one=restarted, other=stays: one.friend(other).online)  # type: ignore[misc]
                    await stays.seen.until(lambda one=restarted, other=stays: other.friend(one).online)  # type: ignore[misc]
