"""Real nodes on loopback, connected once for the whole run: two friends need ten seconds to find each other.

A client that is not running costs nothing and forgets nothing for a few seconds, so each test runs those it
needs, in its own trio loop.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tunfwd.tox.binding.library import choose
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import Contact, Friend, FriendRequest, Group, Invitation, Member, Room
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Node, Settings

BINDING = os.environ.get("TUNFWD_TEST_BINDING", "builtin")
"""Which one is tested: scripts/test runs these tests on pytox, too, where it is importable."""
choose("pytox" if BINDING == "pytox" else "builtin")  # before another libtoxcore is loaded


class Recorder(Handler):
    """Notes every event, and lets a test wait for a state of things."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.round = trio.Event()
        self.each_round: Callable[[], None] | None = None

    def contact_online(self, contact: Contact) -> None:
        self.events.append(("online", contact))

    def contact_offline(self, contact: Contact) -> None:
        self.events.append(("offline", contact))

    def contact_renamed(self, contact: Contact) -> None:
        self.events.append(("renamed", contact))

    def contact_removed(self, contact: Contact) -> None:
        self.events.append(("removed", contact))

    def lossless(self, contact: Contact, data: bytes) -> None:
        self.events.append(("lossless", contact, data))

    def lossy(self, contact: Contact, data: bytes) -> None:
        self.events.append(("lossy", contact, data))

    def public(self, member: Member, data: bytes) -> None:
        self.events.append(("public", member, data))

    def friend_request(self, request: FriendRequest) -> bool:
        self.events.append(("request", request))
        return False

    def invitation(self, invitation: Invitation) -> None:
        self.events.append(("invitation", invitation))

    def room_changed(self, room: Room) -> None:
        if isinstance(room, Group):
            self.events.append(("group", room, room.state))

    def iterated(self) -> None:
        if self.each_round is not None:
            self.each_round()
        self.round.set()
        self.round = trio.Event()

    def of(self, kind: str) -> list[tuple[object, ...]]:
        return [event for event in self.events if event[0] == kind]

    async def until(self, condition: Callable[[], object], seconds: float = 240) -> None:
        with trio.fail_after(seconds):
            while not condition():
                await self.round.wait()


async def until_heard(send: Callable[[], object], recorder: Recorder, heard: Callable[[], object]) -> None:
    """Send a lossy packet until it is heard: a busy machine loses some."""
    with trio.fail_after(60):
        while not heard():
            send()
            with trio.move_on_after(2):
                await recorder.until(heard)


class Person(Client):
    """A client with a recorder, off every network but loopback."""

    def __init__(self, folder: Path, name: str, hub: Client | None = None, **settings: object) -> None:
        self.seen = Recorder()
        bootstrap = (Node("127.0.0.1", hub.udp_port or 0, hub.dht_key),) if hub else ()
        defaults = {"ipv6": False, "local_discovery": False, "bootstrap": bootstrap, "name": name}
        defaults["library"] = BINDING
        settings = defaults | settings
        super().__init__(Settings(savedata=folder / f"{name}.tox", **settings), self.seen)  # type: ignore[arg-type]

    def restart(self) -> None:
        """End, and begin anew from what is on disk."""
        self.close()
        super().__init__(self.settings, self.seen)

    def friend(self, other: Client) -> Friend:
        friend = self.friends.get(other.public_key)
        assert friend is not None
        return friend


@contextlib.asynccontextmanager
async def running(*people: Client) -> AsyncIterator[trio.Nursery]:
    """Run clients for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        for person in people:
            nursery.start_soon(person.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def befriend(one: Person, other: Person) -> None:
    """Make friends of two running clients, and wait until they are connected."""
    one.friends.add_key(other.public_key)
    other.friends.add_key(one.public_key)
    await one.seen.until(lambda: one.friend(other).online)
    await other.seen.until(lambda: other.friend(one).online)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tunfwd-tox-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def people(folder: Path) -> Iterator[tuple[Person, Person, Person]]:
    """alice, bob and carol; alice is the friend of both others, who do not know each other."""
    with contextlib.ExitStack() as stack:
        alice = stack.enter_context(Person(folder, "alice"))
        bob = stack.enter_context(Person(folder, "bob", alice))
        carol = stack.enter_context(Person(folder, "carol", alice))

        async def connect() -> None:
            async with running(alice, bob, carol), trio.open_nursery() as nursery:
                nursery.start_soon(befriend, alice, bob)
                nursery.start_soon(befriend, alice, carol)

        trio.run(connect)
        yield alice, bob, carol


@pytest.fixture
def pair(people: tuple[Person, Person, Person]) -> tuple[Person, Person]:
    """alice and bob, with nothing in their records."""
    alice, bob, _ = people
    alice.seen.events.clear()
    bob.seen.events.clear()
    return alice, bob
