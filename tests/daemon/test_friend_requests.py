"""Who asks to be a friend: rules decide first, a person is told of the others."""

from __future__ import annotations

import logging

import pytest

from tunfwd.tox.contacts import FriendRequest

from .simulated import Daemon, key_of

FIFTY = frozenset(key_of(number) for number in range(50))


def ask(daemon: Daemon, key: bytes) -> bool:
    """Whether it is decided already."""
    return daemon.contacts.friend_request(FriendRequest(key, "hello"))


async def test_fifty_at_once_are_accepted_by_rule() -> None:
    daemon = Daemon(auto_accept=FIFTY)
    assert all([ask(daemon, key) for key in FIFTY])
    daemon.settle()
    assert {peer.contact.key for peer in daemon.peers} == FIFTY
    assert not daemon.friends.requests


async def test_a_person_is_told_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon(auto_accept=FIFTY)
    with caplog.at_level(logging.INFO):
        assert not ask(daemon, key_of("stranger"))
    assert "tunfwd friend list" in caplog.text
    daemon.settle()
    assert not list(daemon.peers)


async def test_what_a_rule_could_not_accept_waits_for_a_person() -> None:
    daemon = Daemon(auto_accept=FIFTY)
    daemon.friends.broken = True
    assert ask(daemon, key_of(3))
    daemon.settle()
    assert [request.key for request in daemon.friends.requests] == [key_of(3)]
