"""What holds for nodes of the real toxcore holds for those of the simulated one: the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from .conftest import Person, befriend, running
from .simulated_toxcore import Network, installed
from .test_net_friends import (  # noqa: F401  run with the nodes of this module
    test_friend_goes_and_comes_back,
    test_misuse_is_an_exception_not_a_loss,
    test_packets_of_both_kinds_in_both_directions,
    test_request_is_held_accepted_and_removed,
    test_what_a_handler_raises_is_logged_and_the_round_goes_on,
)
from .test_net_groups import (  # noqa: F401
    test_acceptance_that_cannot_be_sent,
    test_conference,
    test_group_of_three,
    test_public_group_by_its_chat_id,
)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return installed(monkeypatch)


@pytest.fixture
def people(network: Network, tmp_path: Path) -> Iterator[tuple[Person, Person, Person]]:
    """alice, bob and carol; alice is the friend of both others, who do not know each other."""
    with ExitStack() as stack:
        alice, bob, carol = [
            stack.enter_context(Person(tmp_path, name)) for name in ("alice", "bob", "carol")
        ]

        async def connect() -> None:
            async with running(alice, bob, carol):
                await befriend(alice, bob)
                await befriend(alice, carol)

        trio.run(connect)
        yield alice, bob, carol
