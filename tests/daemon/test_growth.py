"""What contacts and mappings cost is linear in their number: measured in lines executed, not in time."""

from collections.abc import Awaitable, Callable

import pytest

from scripts.benchmarks import growth

NUMBERS = (30, 60, 120)


def linear(steps: list[float]) -> bool:
    """Whether the second half of the way costs no more than twice the first, but for a little."""
    first, second, third = steps
    return third - second <= 2.1 * (second - first) + third / 50


def test_linear_is_told_from_what_is_not() -> None:
    assert linear([500 + 1000 * n for n in NUMBERS])
    assert linear([500.0 for n in NUMBERS])
    assert not linear([500 + 1000 * n + 10 * n**2 for n in NUMBERS])


@pytest.mark.parametrize("measure", [growth.of_contacts, growth.start, growth.of_mappings])
def test_contacts_and_mappings_cost_no_more_the_more_there_are(
    measure: Callable[[int], Awaitable[growth.Row]],
) -> None:
    check({count: growth.run(measure, count) for count in NUMBERS})


def test_a_configuration_costs_no_more_for_each_offer_the_more_there_are() -> None:
    check({count: growth.reload(count) for count in NUMBERS})


def check(rows: dict[int, growth.Row]) -> None:
    costs = [name for name, value in rows[NUMBERS[0]].items() if isinstance(value, tuple)]
    steps = {name: [row[name][1] * count for count, row in rows.items()] for name in costs}  # type: ignore[index]
    assert all(counts[-1] for counts in steps.values())
    assert {name: counts for name, counts in steps.items() if not linear(counts)} == {}
