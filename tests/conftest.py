"""What holds for all tests.

hypothesis has no deadline, as a loaded machine is slow for its own reasons. No daemon that a test starts
knows a public node: nothing is ever sent to them. Coverage is measured but of tests marked `heavy`.
"""

import os
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tunfwd import faults

settings.register_profile("tunfwd", deadline=None)
settings.load_profile("tunfwd")

os.environ["TUNFWD_PUBLIC_NODES"] = "0"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Pause measuring, where anybody measures."""
    coverage = sys.modules.get("coverage") if item.get_closest_marker("heavy") else None
    measuring = coverage.Coverage.current() if coverage else None
    if measuring is None:
        return (yield)
    measuring.stop()
    try:
        return (yield)
    finally:
        measuring.start()


@pytest.fixture(autouse=True)
def faults_of_its_own() -> Iterator[None]:
    """A fault that one test provokes is not counted in the next."""
    yield
    faults.tally.count = 0
    faults.tally.told.clear()
