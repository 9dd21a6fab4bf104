"""Two friends who are connected: packets, back-pressure, coming and going, requests."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.tox.conftest import Person, running, until_heard
from tunfwd.tox.binding.enums import Tox_Connection
from tunfwd.tox.binding.errors import FriendAddAlreadySent, FriendAddOwnKey, FriendCustomPacketInvalid
from tunfwd.tox.contacts import ContactOffline, FriendRequest
from tunfwd.tox.friends import REQUEST_LIFE, NoSuchRequest
from tunfwd.tox.settings import Node
from tunfwd.wire.ticket import write_message

pytestmark = [pytest.mark.toxnet, pytest.mark.patient, pytest.mark.timeout(600)]


async def test_packets_of_both_kinds_in_both_directions(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    to_bob, to_alice = alice.friend(bob), bob.friend(alice)
    async with running(alice, bob):
        assert to_bob.connection is Tox_Connection.TOX_CONNECTION_UDP
        sent = [b"\xa7" + bytes([n]) * size for n, size in enumerate((0, 1, 500, 1372))]
        for packet in sent:
            assert to_bob.send_lossless(packet)
        for packet in reversed(sent):
            assert to_alice.send_lossless(packet)
        await bob.seen.until(lambda: len(bob.seen.of("lossless")) == 4)
        await alice.seen.until(lambda: len(alice.seen.of("lossless")) == 4)
        assert bob.seen.of("lossless") == [("lossless", to_alice, packet) for packet in sent]
        assert alice.seen.of("lossless") == [("lossless", to_bob, packet) for packet in reversed(sent)]

        for sender, receiver, packet in ((to_bob, bob, b"\xc8" + b"x" * 1372), (to_alice, alice, b"\xc9y")):
            came = ("lossy", to_alice if receiver is bob else to_bob, packet)
            await until_heard(
                lambda sender=sender, packet=packet: sender.send_lossy(packet),  # type: ignore[misc]
                receiver.seen,
                lambda receiver=receiver, came=came: came in receiver.seen.events,  # type: ignore[misc]
            )


async def test_misuse_is_an_exception_not_a_loss(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    async with running(alice, bob):
        with pytest.raises(FriendCustomPacketInvalid):
            alice.friend(bob).send_lossless(b"\x01")
        with pytest.raises(FriendAddOwnKey):
            alice.friends.add(bytes.fromhex(alice.address))
        with pytest.raises(FriendAddAlreadySent):
            alice.friends.add_key(bob.public_key)


async def test_full_queue_pushes_back_and_everything_arrives_in_order(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    to_bob = alice.friend(bob)
    total, sent, refused = 600, 0, 0

    def fill() -> None:
        nonlocal sent, refused
        while sent < total:
            if not to_bob.send_lossless(b"\xa7" + sent.to_bytes(4, "big") + b"x" * 1000):
                refused += 1
                assert not to_bob.send_lossless(b"\xa7too early")
                return
            sent += 1

    async with running(alice, bob):
        alice.seen.each_round = fill
        await bob.seen.until(lambda: len(bob.seen.of("lossless")) >= total, 100)
        alice.seen.each_round = None
    assert refused > 0
    numbers = [int.from_bytes(event[2][1:5], "big") for event in bob.seen.of("lossless")]  # type: ignore[index]
    assert numbers == list(range(total))


async def test_round_trip_does_not_wait_for_the_interval(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    to_bob, to_alice = alice.friend(bob), bob.friend(alice)
    times = []

    def answer() -> None:
        if bob.seen.of("lossy"):
            bob.seen.events.clear()
            to_alice.send_lossy(b"\xc9o")

    bob.seen.each_round = answer
    async with running(alice, bob):
        for _ in range(50):
            alice.seen.events.clear()
            began = time.perf_counter()
            await until_heard(lambda: to_bob.send_lossy(b"\xc9p"), alice.seen, lambda: alice.seen.of("lossy"))
            times.append(time.perf_counter() - began)
    bob.seen.each_round = None
    # Two intervals of 50 ms, if nobody waited for the socket: one in twelve would be as quick as that.
    assert sorted(times)[15] < 0.02


async def test_idle_loop_rests(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1

    async with running(alice, bob):
        await trio.sleep(1.5)
        alice.seen.each_round = count
        await trio.sleep(2)
        alice.seen.each_round = None
    assert 8 < rounds < 160


async def test_wake_makes_a_round(pair: tuple[Person, Person]) -> None:
    alice, _ = pair
    async with running(alice):
        await trio.sleep(0.3)
        began, rounds = time.perf_counter(), 0
        while rounds < 100:
            round_over = alice.seen.round
            alice.wake()
            await round_over.wait()
            rounds += 1
    assert time.perf_counter() - began < 2.5  # 5 s at 50 ms each


async def test_what_a_handler_raises_is_logged_and_the_round_goes_on(
    pair: tuple[Person, Person], caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = pair

    class Bug(Exception):
        pass

    def fail(contact: object, data: bytes) -> None:
        raise Bug(data)

    async with running(bob), running(alice):
        alice.seen.lossy = fail  # type: ignore[method-assign]
        try:
            to_alice = bob.friend(alice)
            await until_heard(lambda: to_alice.send_lossy(b"\xc9boom"), alice.seen, lambda: caplog.records)
        finally:
            del alice.seen.lossy
        assert "boom" in caplog.text
        await until_heard(
            lambda: to_alice.send_lossy(b"\xc9again"),
            alice.seen,
            lambda: any(b"\xc9again" in event for event in alice.seen.events),
        )


async def test_friend_goes_and_comes_back(people: tuple[Person, ...], pair: tuple[Person, Person]) -> None:
    """With a third node about: two alone can take minutes, as each keeps what the other is found by."""
    alice, bob = pair
    to_bob = alice.friend(bob)
    async with running(alice, bob):
        assert to_bob.online
    bob.restart()
    async with running(*people):
        await alice.seen.until(lambda: ("offline", to_bob) in alice.seen.events)
        assert not to_bob.online
        with pytest.raises(ContactOffline):
            to_bob.send_lossless(b"\xa7")
        with pytest.raises(ContactOffline):
            to_bob.send_lossy(b"\xc8")
        assert [friend.key for friend in bob.friends] == [alice.public_key]
        await alice.seen.until(lambda: to_bob.online)
        await bob.seen.until(lambda: bob.friend(alice).online)
        assert bob.friend(alice).nickname == "alice"  # from disk

        bob.name = "bob\tthe  builder"
        await alice.seen.until(lambda: to_bob.nickname == "bob the builder")
        assert ("renamed", to_bob) in alice.seen.events
        bob.name = "bob"
        await alice.seen.until(lambda: to_bob.nickname == "bob")


async def test_request_is_held_accepted_and_removed(people: tuple[Person, ...], tmp_path: Path) -> None:
    alice = people[0]
    alice.seen.events.clear()
    with Person(tmp_path, "dave", alice) as dave:
        async with running(*people, dave):
            friend = dave.friends.add(bytes.fromhex(alice.address), "let me in\n\x1b[2J please")
            await alice.seen.until(lambda: alice.seen.of("request"))
            (request,) = alice.friends.requests
            assert request.key == dave.public_key
            assert request.message == "let me in [2J please"
            assert alice.friends.get(dave.public_key) is None
            with pytest.raises(NoSuchRequest):
                alice.friends.accept(alice.public_key)
            accepted = alice.friends.accept(dave.public_key)
            assert not alice.friends.requests
            await dave.seen.until(lambda: friend.online)
            await alice.seen.until(lambda: accepted.online)

            alice.friends.remove(accepted)
            assert alice.friends.get(dave.public_key) is None
            assert alice.seen.events[-2:] == [("offline", accepted), ("removed", accepted)]
            with pytest.raises(ContactOffline):
                accepted.send_lossy(b"\xc8")


async def test_a_request_that_expired_comes_again_while_they_ask(
    people: tuple[Person, ...], tmp_path: Path
) -> None:
    """toxcore keeps to itself what it has told of before, unless it was a friend meanwhile."""
    alice = people[0]
    alice.seen.events.clear()
    with Person(tmp_path, "dora", alice) as dora:
        async with running(*people, dora):
            dora.friends.add(bytes.fromhex(alice.address), "please")
            await alice.seen.until(lambda: alice.friends.requests)
            held = alice.friends._requests[dora.public_key]
            alice.friends._requests[dora.public_key] = replace(held, heard=held.heard - REQUEST_LIFE)
            alice.friends.expire_requests(time.monotonic())
            assert not alice.friends.requests
            await alice.seen.until(lambda: alice.friends.requests)  # after 5, 10, 20, ... s
            [request] = alice.friends.requests
            assert (request.key, request.message) == (dora.public_key, "please")
            alice.friends.reject(dora.public_key)


async def test_relay_alone_carries_packets(people: tuple[Person, ...], tmp_path: Path) -> None:
    """One node relays; the two friends have no UDP."""
    port = 23000 + os.getpid() % 5000  # below those that the kernel gives out
    with Person(tmp_path, "relay", people[0], tcp_relay_port=port) as relay:
        assert relay.tcp_relay_port == port
        settings = {
            "udp": False,
            "bootstrap": (Node("127.0.0.1", relay.udp_port or 0, relay.dht_key),),
            "relays": (Node("127.0.0.1", port, relay.dht_key),),
        }
        with (
            Person(tmp_path, "erin", None, **settings) as erin,
            Person(tmp_path, "finn", None, **settings) as finn,
        ):
            assert erin.udp_port is None
            erin.friends.add_key(finn.public_key)
            finn.friends.add_key(erin.public_key)
            async with running(*people, relay, erin, finn):
                await erin.seen.until(lambda: erin.friend(finn).online, 120)
                await finn.seen.until(lambda: finn.friend(erin).online)
                assert erin.friend(finn).connection is Tox_Connection.TOX_CONNECTION_TCP
                assert erin.friend(finn).send_lossless(b"\xa7over")
                await finn.seen.until(lambda: finn.seen.of("lossless"))
                to_erin = finn.friend(erin)
                await until_heard(
                    lambda: to_erin.send_lossy(b"\xc8back"), erin.seen, lambda: erin.seen.of("lossy")
                )


async def test_who_has_asked_may_ask_again_with_a_ticket(
    people: tuple[Person, Person, Person], folder: Path
) -> None:
    """toxcore tells of one request of a key alone; the next may come with a token, and is told of, too."""
    alice, *_ = people
    token = bytes(range(16))
    with Person(folder, "dora", alice) as dora:
        async with running(*people, dora):
            friend = dora.friends.add(bytes.fromhex(alice.address), "Hello")
            await alice.seen.until(lambda: any(r.key == dora.public_key for r in alice.friends.requests))
            alice.seen.events.clear()
            dora.friends.ask(friend, bytes.fromhex(alice.address), write_message(token, "with a ticket"))
            assert dora.friends.get(alice.public_key) is friend
            assert dora.friends.by_number(friend.number) is friend

            def told() -> list[FriendRequest]:  # others may ask meanwhile
                asked = [request for _, request in alice.seen.of("request")]
                return [r for r in asked if isinstance(r, FriendRequest) and r.key == dora.public_key]

            await alice.seen.until(told)
            [request] = told()
            assert (request.token, request.message) == (token, "with a ticket")
            [waiting] = [r for r in alice.friends.requests if r.key == dora.public_key]
            assert waiting.token == token
            alice.friends.accept(dora.public_key)
            await dora.seen.until(lambda: friend.online)  # the same contact as before
            dora.friends.remove(friend)
        alice.friends.remove(alice.friend(dora))


async def test_another_nospam_is_another_address(people: tuple[Person, Person, Person]) -> None:
    alice, bob, _ = people
    before, key = alice.address, alice.public_key
    async with running(*people):
        alice.change_address()
        assert alice.address != before
        assert alice.address[:64] == before[:64] == key.hex().upper()
        await trio.sleep(1)
        assert alice.friend(bob).online  # friends notice nothing
