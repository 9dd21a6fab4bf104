"""Invitations into groups and conferences, without a network: one friend's do not crowd out another's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tox.conftest import Person
from tunfwd.tox.binding.enums import Tox_Conference_Type
from tunfwd.tox.contacts import UDP, Friend
from tunfwd.tox.groups import INVITATION_DELAY
from tunfwd.tox.rooms import MAX_INVITATIONS


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Person]:
    with Person(tmp_path, "alone", udp=False) as person:
        yield person


def friend_of(person: Person, number: int) -> Friend:
    friend = person.friends.add_key(number.to_bytes(32, "big"))
    friend.connection = UDP
    return friend


def id_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_groups(alone: Person) -> None:
    quiet, noisy = friend_of(alone, 1), friend_of(alone, 2)
    alone.groups.on_invite(quiet, id_of(0), b"lan")
    for number in range(1, 3 * MAX_INVITATIONS):
        alone.groups.on_invite(noisy, id_of(number), b"spam")
    alone.groups.tell_invitations(time.monotonic() + 2 * INVITATION_DELAY)
    for number in range(3 * MAX_INVITATIONS, 4 * MAX_INVITATIONS):
        alone.groups.on_invite(noisy, id_of(number), b"spam")
    alone.groups.tell_invitations(time.monotonic() + 2 * INVITATION_DELAY)
    held = alone.groups.invitations
    assert [invitation.name for invitation in held if invitation.friend is quiet] == ["lan"]
    assert len(held) == MAX_INVITATIONS + 1
    assert held[-1].id == id_of(4 * MAX_INVITATIONS - 1)
    assert alone.groups.dropped_invitations == 3 * MAX_INVITATIONS - 1


def test_conferences(alone: Person) -> None:
    quiet, noisy = friend_of(alone, 1), friend_of(alone, 2)
    text = Tox_Conference_Type.TOX_CONFERENCE_TYPE_TEXT
    alone.conferences.on_invite(quiet, text, bytes(3) + id_of(0))
    for number in range(1, 3 * MAX_INVITATIONS):
        alone.conferences.on_invite(noisy, text, bytes(3) + id_of(number))
    held = alone.conferences.invitations
    assert [invitation.id for invitation in held if invitation.friend is quiet] == [id_of(0)]
    assert len(held) == MAX_INVITATIONS + 1
