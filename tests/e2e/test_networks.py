"""First contact in networks of all kinds: direct where it can be, through a relay where it must."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from netns.first_contact import CASES, PROMISED, Outcome, meet

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(600)]

AT_ONCE = 3  # networks; what takes time is toxcore's timers
PATIENCE = 3 * PROMISED  # s: other tests run beside these

Outcomes = dict[str, Future[Outcome]]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(meet, case) for name, case in CASES.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CASES)
def test_two_who_know_an_address_come_together(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[name].result()
    assert outcome.online is not None, outcome.log
    assert outcome.online < PATIENCE, outcome.log
    assert (outcome.direct is not None) == CASES[name].direct, outcome.log
    assert "Traceback" not in outcome.log, outcome.log
