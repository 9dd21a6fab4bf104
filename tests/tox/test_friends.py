"""The list of friends and of requests, without a network."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tox.conftest import Person, running
from tunfwd.tox.binding.errors import FriendAddBadChecksum, FriendAddOwnKey
from tunfwd.tox.friends import MAX_REQUESTS, REQUEST_LIFE, NoSuchRequest, parse_address
from tunfwd.tox.identity import IdentityError
from tunfwd.tox.settings import NetworkNode, Node, Settings


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Person]:
    with Person(tmp_path, "alone", udp=False) as person:
        yield person


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_fifty_requests_at_once_all_wait(alone: Person) -> None:
    for number in range(50):
        alone.friends.on_request(key(number), b"\x1b]0;owned\x07 number %d" % number)
    assert [request.key for request in alone.friends.requests] == [key(n) for n in range(50)]
    assert alone.friends.requests[3].message == "]0;owned number 3"
    assert len(alone.seen.of("request")) == 50
    alone.friends.on_request(key(99), b"x" * 1016)
    assert len(alone.friends.requests[-1].message) == 256

    alone.friends.reject(key(3))
    with pytest.raises(NoSuchRequest):
        alone.friends.reject(key(3))


def test_requests_are_bounded_and_who_keeps_asking_stays(alone: Person) -> None:
    for number in range(MAX_REQUESTS):
        alone.friends.on_request(key(number), b"first")
    alone.friends.on_request(key(0), b"again")
    for number in range(MAX_REQUESTS, MAX_REQUESTS + 8):
        alone.friends.on_request(key(number), b"")
    held = {request.key: request.message for request in alone.friends.requests}
    assert len(held) == MAX_REQUESTS
    assert held[key(0)] == "first"
    assert not held.keys() & {key(number) for number in range(1, 9)}
    assert alone.friends.dropped_requests == 8
    assert len(alone.seen.of("request")) == MAX_REQUESTS + 8
    alone.friends.on_request(key(1), b"first")  # it comes again, and is told again
    assert alone.friends.requests[-1].key == key(1)


def test_what_a_rule_decides_takes_no_place(alone: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {key(number) for number in range(1000, 1050)}
    monkeypatch.setattr(alone.seen, "friend_request", lambda request: request.key in wanted)
    for number in range(MAX_REQUESTS):
        alone.friends.on_request(key(number), b"")
    for one in wanted:
        alone.friends.on_request(one, b"")
    assert [request.key for request in alone.friends.requests] == [key(n) for n in range(MAX_REQUESTS)]


def test_requests_expire(alone: Person) -> None:
    now = time.monotonic()
    alone.friends.on_request(key(1), b"")
    alone.friends.on_request(key(2), b"")
    alone.friends.expire_requests(now + REQUEST_LIFE / 2)
    assert len(alone.friends.requests) == 2
    alone.friends.expire_requests(now + REQUEST_LIFE + 60)
    assert not alone.friends.requests
    assert not len(alone.friends)
    assert not alone._tox.friend_list


def test_friends_survive_a_restart(tmp_path: Path) -> None:
    with Person(tmp_path, "one", udp=False) as one, Person(tmp_path, "two", udp=False) as two:
        one.friends.on_request(two.public_key, b"")
        accepted = one.friends.accept(two.public_key)
        assert not one.friends.requests
        address = one.address
        one.restart()
        assert one.address == address
        assert [friend.key for friend in one.friends] == [two.public_key]
        again = one.friends.get(two.public_key)
        assert again is not None
        assert again is not accepted
        assert not again.online
        one.friends.remove(again)
        one.restart()
        assert len(one.friends) == 0


def test_address_is_checked(alone: Person) -> None:
    address = parse_address(f" tox:{alone.address.lower()} ")
    with pytest.raises(FriendAddOwnKey):
        alone.friends.add(address)
    with pytest.raises(FriendAddBadChecksum):
        alone.friends.add(address[:-1] + bytes([address[-1] ^ 1]))
    for wrong in ("", "hello", alone.address[:-2], alone.address + "00", "z" * 76):
        with pytest.raises(ValueError, match="76 hexadecimal digits"):
            parse_address(wrong)


def test_change_that_cannot_be_saved_is_noted_and_tried_again(
    alone: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = alone.settings.savedata.parent
    other = Person(folder, "other", udp=False)
    with monkeypatch.context() as patch:
        patch.setattr(alone._identity, "path", folder / "alone.tox" / "below a file")
        alone.friends.on_request(other.public_key, b"hello")
        friend = alone.friends.accept(other.public_key)
        assert friend in list(alone.friends)  # in effect all the same
        assert alone.unsaved is not None
        assert "cannot be saved" in alone.unsaved
        assert alone._dirty.is_set()
        assert not alone.save()
    assert len(caplog.records) == 1
    assert alone.save()
    assert alone.unsaved is None
    alone.restart()
    assert alone.friends.get(other.public_key) is not None


def test_a_full_disk_keeps_a_known_identity_from_nothing_and_a_new_one_from_beginning(
    alone: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    key = alone.public_key
    monkeypatch.setattr(os, "fsync", full)
    alone.restart()
    assert alone.public_key == key
    assert alone.unsaved is not None
    with pytest.raises(IdentityError, match="cannot be saved: No space left on device"):
        Person(tmp_path, "new", udp=False)
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "x" * 5000])
async def test_a_node_with_a_name_that_no_resolver_takes_ends_nothing(
    alone: Person, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    alone.joining.add([NetworkNode.of(Node(host, 33445, bytes(32)), "bootstrap")])
    async with running(alone):
        await alone.seen.until(lambda: f"node {host}" in caplog.text)
    assert not alone.joining.records.pop().addresses


def test_encrypted_client(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("open sesame\n")
    with Person(tmp_path, "secret", udp=False, passphrase_file=tmp_path / "passphrase") as person:
        key = person.public_key
        person.restart()
        assert person.public_key == key
        settings: Settings = person.settings
    with pytest.raises(IdentityError, match="set passphrase_file"):
        Person(settings.savedata.parent, "secret", udp=False)
