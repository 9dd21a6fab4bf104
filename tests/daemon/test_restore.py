"""What stands with a contact comes back at the next start, at the same ports; what cannot is put aside."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import UserError
from tunfwd.daemon.contacts.offers import protocol_named
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import AcceptedMapping, Content, StandingOffer, StandingRequest, contact_id
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.session import CARRIER_FEATURES
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.carriers import FRIEND
from tunfwd.wire.packets import Direction, Hello, Offer, Protocol, encode

from .simulated import Daemon, key_of

BOB = contact_id(key_of("bob"))


def ports(peer: Peer) -> dict[tuple[str, int], tuple[str, int, str]]:
    return {
        (protocol.name, place): (mapping.direction.name, mapping.port, mapping.name)
        for (protocol, place), mapping in peer.ports.items()
    }


def offered(daemon: Daemon, bob: Peer, protocol: Protocol, port: int, name: str) -> Mapping:
    """Bob offers a port; it is what waits for a person now."""
    msg_id = len(bob.session.mappings) + 1
    daemon.contacts.lossless(
        bob.contact, encode(FRIEND, Offer(msg_id, protocol, Direction.SERVER, port, name))
    )
    daemon.settle()
    return next(m for m in bob.session.mappings if m.msg_id == msg_id)


def start(content: Content) -> tuple[Daemon, Peer]:
    daemon = Daemon(content)
    bob = daemon.befriend("bob")
    daemon.contacts.lossless(bob.contact, encode(FRIEND, Hello(CARRIER_FEATURES, 7)))
    daemon.settle()
    return daemon, bob


async def test_a_request_for_a_port_in_use_is_refused_and_the_next_start_is_as_before() -> None:
    daemon, bob = start(Content())
    daemon.offers.accept(bob, offered(daemon, bob, Protocol.TCP, 8080, "web"), 80, None)
    with pytest.raises(UserError, match="port 80/tcp of bob is in use; choose another"):
        daemon.offers.request(bob, Protocol.TCP, 80, "", None)
    assert [mapping.name for mapping in bob.session.mappings] == ["web"]
    daemon.offers.request(bob, Protocol.TCP, 80, "", 81)
    _, again = start(deepcopy(daemon.content))
    assert ports(again) == ports(bob)
    assert {place for _, place in ports(again)} == {80, 81}


@pytest.mark.parametrize("swap", [False, True])
async def test_a_state_with_two_at_one_port_starts(swap: bool) -> None:
    """As an earlier version wrote it: whatever has a port of its own keeps it."""
    accepted = AcceptedMapping(BOB, "server", "tcp", 8080, "web", 80)
    request = StandingRequest(BOB, "tcp", 80)
    content = Content(mappings=[accepted], requests=[request])
    if swap:
        content = Content(
            mappings=[AcceptedMapping(BOB, "server", "tcp", 80)],
            requests=[StandingRequest(BOB, "tcp", 8080, local_port=80)],
        )
    _, bob = start(content)
    found = ports(bob)
    assert found["TCP", 80][1] == 8080
    assert found["TCP", 49152][1] == 80
    assert not content.aside
    _, again = start(deepcopy(content))
    assert ports(again) == found


async def test_what_cannot_stand_is_put_aside_and_the_rest_runs(caplog: pytest.LogCaptureFixture) -> None:
    twice = StandingOffer(BOB, "tcp", 22, "first"), StandingOffer(BOB, "tcp", 22, "second")
    content = Content(
        offers=[*twice, StandingOffer(BOB, "tcp", 23)],
        requests=[StandingRequest(BOB, "udp", 53, local_port=5353)],
        mappings=[
            AcceptedMapping(BOB, "server", "udp", 5000, "clash", 5353),
            AcceptedMapping(BOB, "server", "udp", 5001, "fine"),
        ],
    )
    daemon, bob = start(content)
    assert {mapping.port for mapping in bob.session.mappings} == {22, 23, 53, 5001}
    assert [offer.name for offer in content.offers] == ["first", ""]
    assert [mapping.name for mapping in content.mappings] == ["fine"]
    assert [
        aside.entry.count(name) for aside, name in zip(content.aside, ("second", "clash"), strict=True)
    ] == [1, 1]
    assert "5353/udp of bob is in use" in content.aside[1].reason
    assert 'put aside: 5000/udp "clash" with bob: port 5353/udp of bob is in use' in caplog.text
    assert daemon.saved


async def test_an_acceptance_that_comes_too_late_leaves_nothing_behind() -> None:
    daemon, bob = start(Content())
    web = offered(daemon, bob, Protocol.TCP, 80, "web")
    daemon.offers.accept(bob, web, None, None)
    before, saved = ports(bob), deepcopy(daemon.content)
    with pytest.raises(UserError, match="nothing to accept"):
        daemon.offers.accept(bob, web, 81, None)
    assert ports(bob) == before
    assert daemon.content == saved


TARGETS = st.none() | st.sampled_from(["127.0.0.1:1", "[::1]:2"])
PORTS = st.sampled_from([1, 80, 81, 49152, 65535])
PROTOCOLS = st.sampled_from(["tcp", "udp"])
NAMES = st.sampled_from(["", "web", "\u202e", "x" * 255])
CONTENTS = st.builds(
    Content,
    offers=st.lists(st.builds(StandingOffer, st.just(BOB), PROTOCOLS, PORTS, NAMES, TARGETS)),
    mappings=st.lists(
        st.builds(
            AcceptedMapping,
            st.just(BOB),
            st.sampled_from(["server", "connection"]),
            PROTOCOLS,
            st.just(0) | PORTS,
            NAMES,
            st.none() | PORTS,
            TARGETS,
        ),
    ),
    requests=st.lists(st.builds(StandingRequest, st.just(BOB), PROTOCOLS, PORTS, NAMES, st.none() | PORTS)),
)


@settings(max_examples=60, deadline=None)
@given(CONTENTS)
def test_any_state_starts_and_the_second_start_is_as_the_first(content: Content) -> None:
    async def run() -> None:
        entries = len(content.offers) + len(content.mappings) + len(content.requests)
        _, bob = start(content)
        standing = [*content.offers, *content.mappings, *content.requests]
        assert len(standing) + len(content.aside) == entries
        assert len(bob.session.mappings) == len(standing)
        aside = list(content.aside)
        _, again = start(deepcopy(content))
        assert ports(again) == ports(bob)
        assert content.aside == aside

    trio.run(run)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "request", "accept", "end"]), PROTOCOLS, PORTS, NAMES, st.none() | PORTS
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_commands_were_given_the_next_start_is_as_before(
    steps: list[tuple[str, str, int, str, int | None]],
) -> None:
    async def run() -> None:
        daemon, bob = start(Content())
        for verb, word, port, name, place in steps:
            protocol = protocol_named(word)  # type: ignore[arg-type]
            with suppress(UserError):
                match verb:
                    case "offer":
                        daemon.offers.offer(bob, protocol, port, name, None, "auto")
                    case "request":
                        daemon.offers.request(bob, protocol, port, name, place)
                    case "accept":
                        mapping = offered(daemon, bob, protocol, port, name)
                        if mapping.state is MappingState.PENDING:
                            daemon.offers.accept(bob, mapping, place, None)
                    case "end" if bob.session.mappings:
                        mappings = list(bob.session.mappings)
                        daemon.offers.end(bob, mappings[port % len(mappings)])
            daemon.scheduler.touch(bob)  # and what follows is not known to come after the round
        daemon.settle()
        content = deepcopy(daemon.content)
        _, again = start(content)
        assert not content.aside
        assert ports(again) == ports(bob)
        assert content == daemon.content

    trio.run(run)
