"""The model of the path, where the simulated network does not tell one cause from another."""

import random

import pytest

from tunfwd.link.bbr import Bbr, State
from tunfwd.link.congestion import Path, Sample

BEFORE, NOW = 100e6, 12e6  # bytes/s


@pytest.mark.parametrize("by", [None, "sample", "path"])
def test_a_rate_is_forgotten_only_for_one_that_the_path_has_shown(by: str | None) -> None:
    """Where ProbeRTT cuts a probe off: of a sender that has little to send, the cycle tells nothing.

    Forgotten, it cost datagrams at a steady 12 MB/s: ProbeRTT lets half of what the model holds be in flight.
    """
    path = Path(1373, 0.0)
    controller = Bbr(path, random.Random(1), 0.0)
    controller.state = State.UP
    controller._bw_filter = [BEFORE, NOW]
    controller._probe_rtt_expired = True
    sample = Sample()
    sample.app_limited = by == "sample"
    path.app_limited = 5 if by == "path" else 0
    controller._check_probe_rtt(sample, 10.0)
    assert controller.state is State.PROBE_RTT
    assert max(controller._bw_filter) == (NOW if by is None else BEFORE)
