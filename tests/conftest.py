"""What holds for all tests.

hypothesis has no deadline, as a loaded machine is slow for its own reasons. No daemon that a test starts
knows a public node: nothing is ever sent to them. Coverage is measured but of tests marked `heavy`.
"""

import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

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
