"""BBR version 3 (draft-ietf-ccwg-bbr, the text of August 2026): the default controller.

Models the path by the most it delivers and the least it delays, sends at that rate and keeps about that
much in flight. One file, because it is one algorithm: functions carry the draft's names in lower case and
stand in its order: what happens on an Ack, the states, the model, the control parameters.

Two things differ. One is the point of using BBR here: **loss without a queue is not congestion**. The
draft slows down for 2 % of loss while probing, and for any loss at all between probes, which costs a radio
link with 1 % of random loss half of its speed. Here a loss counts that way only while round trips show a
queue (QUEUE_GAIN, QUEUE_FLOOR). Where they show none, it takes loss so heavy that the buffer must be too
short to show (SHALLOW_LOSS). And losses do not lower the short-term bounds in Drain and ProbeBW_DOWN, where
the queue is that of our own probe and on its way out.

The other: **somebody with little to say is not to wait behind a queue of ours**, while he shares the link
(Path.shared_at). The draft lets a probe fill up to 2.25 of what the path holds; and a rate taken for a few
percent too much, as it is where round trips vary by a millisecond, fills twice of it in between. Then, here,
a probe has a quarter more in flight than before it, a queue that shows in two rounds is drained
(SHARED_DRAIN_GAIN), and bursts are of one packet.
"""

from enum import Enum, StrEnum
from typing import Final

from tunfwd.common.values import Random
from tunfwd.link.congestion import INITIAL_PACKETS, Path, Sample, SendSnapshot

INFINITE: Final = float("inf")
STARTUP_PACING_GAIN: Final = 2.77
DRAIN_PACING_GAIN: Final = 0.5
DEFAULT_CWND_GAIN: Final = 2.0
PROBE_RTT_CWND_GAIN: Final = 0.5
PACING_MARGIN: Final = 0.99
LOSS_THRESHOLD: Final = 0.02  # of what was in flight, in a round trip with a queue
BETA: Final = 0.7
HEADROOM: Final = 0.15
MIN_PIPE_PACKETS: Final = 4
EXTRA_ACKED_ROUNDS: Final = 10
STARTUP_LOSSES: Final = 6  # packets
FULL_BW_GROWTH: Final = 1.25
FULL_BW_ROUNDS: Final = 3
MIN_RTT_WINDOW: Final = 10.0  # s
PROBE_RTT_INTERVAL: Final = 5.0  # s
PROBE_RTT_TIME: Final = 0.2  # s
QUANTUM_TIME: Final = 0.001  # s
MAX_QUANTUM: Final = 65536  # bytes
QUEUE_GAIN: Final = 1.25  # ours: a round trip this much above the least shows a queue …
QUEUE_FLOOR: Final = 0.004  # s, ours: … and by this much, which an event loop's own delays stay under
SHARED_TIME: Final = 3.0  # s, ours: the longest between two probes, so that a word between them is enough
SHARED_DRAIN_GAIN: Final = 0.75  # ours
# ours: loss that counts without a queue; a 25 % probe against a tiny buffer loses 20 %
SHALLOW_LOSS: Final = 0.08


class State(StrEnum):
    """States of the machine in section 5.1 of the draft."""

    STARTUP = "startup"
    DRAIN = "drain"
    DOWN = "probe down"
    CRUISE = "cruise"
    REFILL = "refill"
    UP = "probe up"
    PROBE_RTT = "probe rtt"


class AckPhase(Enum):
    """What the Acks coming in tell about the last probe."""

    INIT = 0
    REFILLING = 1
    STARTING = 2
    FEEDBACK = 3
    STOPPING = 4


PACING_GAIN: Final = {
    State.STARTUP: STARTUP_PACING_GAIN,
    State.DRAIN: DRAIN_PACING_GAIN,
    State.DOWN: 0.90,
    State.CRUISE: 1.0,
    State.REFILL: 1.0,
    State.UP: 1.25,
    State.PROBE_RTT: 1.0,
}
CWND_GAIN: Final = dict.fromkeys(State, DEFAULT_CWND_GAIN) | {
    State.UP: 2.25,
    State.PROBE_RTT: PROBE_RTT_CWND_GAIN,
}
PROBE_BW: Final = frozenset((State.DOWN, State.CRUISE, State.REFILL, State.UP))
PROBING: Final = frozenset((State.REFILL, State.UP))
DRAINABLE: Final = frozenset((State.DOWN, State.CRUISE))
ADAPTING: Final = frozenset((State.CRUISE, State.PROBE_RTT))  # ours: the draft has DRAIN and DOWN too


class Bbr:
    """The controller; sizes in bytes, times in seconds, rates in bytes a second."""

    def __init__(self, path: Path, random: Random, now: float) -> None:
        self.path = path
        self._random = random
        self._initial_cwnd = INITIAL_PACKETS * path.packet_size
        self._min_pipe = MIN_PIPE_PACKETS * path.packet_size
        self.cwnd = self._initial_cwnd
        self.quantum = self._initial_cwnd
        self.pacing_rate = (
            STARTUP_PACING_GAIN * self._initial_cwnd / 0.001
        )  # until there is a round trip to go by
        self.state = State.STARTUP
        # The path's rate
        self.bw = 0.0
        self.max_bw = 0.0
        self._bw_filter = [0.0, 0.0]  # the previous and the current ProbeBW cycle
        self._bw_short = INFINITE
        self._bw_latest = 0.0
        self._full_bw = 0.0
        self._full_bw_count = 0
        self._full_bw_now = False
        self.full_bw_reached = False
        # The path's delay
        self.min_rtt = INFINITE
        self._min_rtt_time = now
        self._probe_rtt_min = INFINITE
        self._probe_rtt_time = now
        self._probe_rtt_expired = False
        self._probe_rtt_done: float | None = None
        self._probe_rtt_round_done = False
        self._round_rtt = INFINITE  # the least of this round trip …
        self._last_round_rtt = INFINITE  # … and of the one before
        # What may be in flight
        self._inflight_long = INFINITE
        self._inflight_short = INFINITE
        self._inflight_latest = 0
        self._prior_cwnd = 0
        # Rounds, counted in packets
        self._round_count = 0
        self._round_start = False
        self._next_round = 0
        self._loss_round = 0
        self._loss_round_start = False
        self._lost_in_round = 0
        self._losses_in_round = 0
        self._loss_in_round = False
        # Aggregation of Acks
        self._extra_acked = 0
        self._extra_start = now
        self._extra_delivered = 0
        self._extra_filter: list[tuple[int, int]] = []  # (round, bytes), rounds rising, bytes falling
        # Probing for more
        self._ack_phase = AckPhase.INIT
        self._probe_sample = False
        self._up_rtt = INFINITE  # ours: the round trip when the probe began; INFINITE: nobody waits
        self._probe_up_rounds = 0
        self._probe_up_acked = 0
        self._acked_per_increase = INFINITE
        self._rounds_since_probe = 0
        self._probe_wait = 0.0
        self._cycle_start = now
        self._probe_too_high = False
        self._probe_precautionary = False
        self._drain_round = 0
        self._idle_restart = False
        # To undo what a loss did that was none
        self._undo: tuple[State | None, float, float, float] = (None, INFINITE, INFINITE, INFINITE)
        self._was_in_recovery = False

    # -- what happens ------------------------------------------------------------------------------------

    def on_send(self, now: float) -> None:
        """Restart from idle (5.4.1)."""
        if self.path.in_flight == 0 and self.path.app_limited:
            self._idle_restart = True
            self._extra_start = now
            if self.state in PROBE_BW:
                self._set_pacing_rate(1.0)
            elif self.state is State.PROBE_RTT:
                self._check_probe_rtt_done(now)

    def on_ack(self, sample: Sample, now: float) -> None:
        """Update the model, the state, then the window and the rate (5.2.3)."""
        if self._was_in_recovery and not self.path.in_recovery:
            self.cwnd = max(self.cwnd, self._prior_cwnd)
        self._was_in_recovery = self.path.in_recovery
        self._update_latest_delivery(sample)
        self._update_congestion(sample)
        self._update_aggregation(sample, now)
        self._check_full_bw(sample)
        self._check_startup_loss()
        if self.state is State.STARTUP and self.full_bw_reached:
            self._enter(State.DRAIN)
            self._drain_round = self._round_count
        if self.state is State.DRAIN and (
            self.path.in_flight <= self._inflight(1.0) or self._round_count > self._drain_round + 3
        ):
            self._start_down(now)
        self._update_probe_cycle(sample, now)
        self._update_min_rtt(sample, now)
        self._check_probe_rtt(sample, now)
        if self._loss_round_start:
            self._bw_latest = sample.rate
            self._inflight_latest = sample.delivered
        self.bw = min(self.max_bw, self._bw_short)
        shared = now - self.path.shared_at < SHARED_TIME
        gain = PACING_GAIN[self.state]
        if shared and self.state in DRAINABLE and self._is_queued():
            gain = SHARED_DRAIN_GAIN
        self._set_pacing_rate(gain)
        packets = 1 if shared else 2
        self.quantum = int(
            min(max(self.pacing_rate * QUANTUM_TIME, packets * self.path.packet_size), MAX_QUANTUM)
        )
        self._set_cwnd(sample)

    def on_packet_lost(self, size: int, in_flight: int, snapshot: SendSnapshot, now: float) -> None:
        """See whether this loss says that a probe went too high (5.5.10.2)."""
        if not self._loss_in_round:
            self._loss_round = self.path.delivered
            self._save_cwnd()
            self._undo = (None, self._bw_short, self._inflight_short, self._inflight_long)
            self._lost_in_round = self._losses_in_round = 0
        self._loss_in_round = True
        self._lost_in_round += size
        self._losses_in_round += 1
        if not self._probe_sample:
            return
        lost = self.path.lost - snapshot.lost
        if self._is_congestion(lost, in_flight):
            before = in_flight - size
            prefix = (LOSS_THRESHOLD * before - (lost - size)) / (1 - LOSS_THRESHOLD)
            self._on_inflight_too_high(int(before + prefix), snapshot.app_limited, now)

    def on_persistent_congestion(self, now: float) -> None:
        """Start again, as after a retransmission timeout (5.6.4.4)."""
        self._save_cwnd()
        self.cwnd = max(self.path.in_flight + self.path.packet_size, self._min_pipe)

    def on_spurious_loss(self, now: float) -> None:
        """Put back what the episode changed (5.5.11.2)."""
        state, bw_short, inflight_short, inflight_long = self._undo
        self.cwnd = max(self.cwnd, self._prior_cwnd)
        self._loss_in_round = False
        self._reset_full_bw()
        self._bw_short = max(self._bw_short, bw_short)
        self._inflight_short = max(self._inflight_short, inflight_short)
        self._inflight_long = max(self._inflight_long, inflight_long)
        if self.state is not State.PROBE_RTT and self.state is not state:
            if state is State.STARTUP:
                self.full_bw_reached = False
                self._enter(State.STARTUP)
            elif state is State.UP:
                self._start_refill()
        self._undo = (None, *self._undo[1:])

    # -- the states --------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self.state = state

    def _reset_full_bw(self) -> None:
        self._full_bw = 0.0
        self._full_bw_count = 0
        self._full_bw_now = False

    def _check_full_bw(self, sample: Sample) -> None:
        if self._full_bw_now or not self._round_start or sample.app_limited:
            return
        if sample.rate >= self._full_bw * FULL_BW_GROWTH:
            self._reset_full_bw()
            self._full_bw = sample.rate
            return
        self._full_bw_count += 1
        self._full_bw_now = self._full_bw_count >= FULL_BW_ROUNDS
        if self._full_bw_now:
            self.full_bw_reached = True

    def _check_startup_loss(self) -> None:
        if (
            self.state is State.STARTUP
            and self._loss_round_start
            and self._losses_in_round >= STARTUP_LOSSES
            and self._is_congestion(self._lost_in_round, self._inflight_latest + self._lost_in_round)
        ):
            self._undo = (State.STARTUP, *self._undo[1:])
            self.full_bw_reached = True
            self._inflight_long = max(self._bdp(1.0), self._inflight_latest)

    def _start_down(self, now: float) -> None:
        self._loss_in_round = False
        self._bw_latest = 0.0
        self._inflight_latest = 0
        self._acked_per_increase = INFINITE
        self._rounds_since_probe = self._random.getrandbits(1)
        self._probe_wait = 2 + self._random.getrandbits(16) / 65536
        self._cycle_start = now
        self._ack_phase = AckPhase.STOPPING
        self._start_round()
        self._enter(State.DOWN)

    def _start_refill(self) -> None:
        self._bw_short = self._inflight_short = INFINITE
        self._probe_up_rounds = 0
        self._probe_up_acked = 0
        self._probe_precautionary = False
        self._ack_phase = AckPhase.REFILLING
        self._start_round()
        self._enter(State.REFILL)

    def _start_up(self, sample: Sample, now: float) -> None:
        self._probe_sample = True
        shared = now - self.path.shared_at < SHARED_TIME
        self._up_rtt = (self.path.smoothed_rtt or INFINITE) if shared else INFINITE
        self._ack_phase = AckPhase.STARTING
        self._start_round()
        self._reset_full_bw()
        self._full_bw = sample.rate
        self._enter(State.UP)
        self._raise_slope()

    def _update_probe_cycle(self, sample: Sample, now: float) -> None:
        if not self.full_bw_reached or self._adapt_long_term(sample):
            return
        if self.state is State.DOWN or self.state is State.CRUISE:
            target = min(self._bdp(1.0), self.cwnd) / self.path.packet_size
            if now > self._cycle_start + self._probe_wait or self._rounds_since_probe >= min(target, 63):
                self._start_refill()
            elif self.state is State.DOWN and self.path.in_flight <= min(
                self._with_headroom(), self._quantized(self.max_bw * self.min_rtt)
            ):
                self._enter(State.CRUISE)
        elif self.state is State.REFILL:
            if self._round_start:
                self._start_up(sample, now)
        elif self.state is State.UP and self._is_time_to_go_down(sample):
            self._probe_too_high = False
            self._start_down(now)

    def _is_time_to_go_down(self, sample: Sample) -> bool:
        if self._probe_too_high and self.path.in_flight >= self._inflight_long:
            self._probe_precautionary = True
            return True
        if self.path.cwnd_limited and self.cwnd >= self._inflight_long:
            self._reset_full_bw()
            self._full_bw = sample.rate
            return False
        return self._full_bw_now

    def _raise_slope(self) -> None:
        growth = 1 << self._probe_up_rounds
        self._probe_up_rounds = min(self._probe_up_rounds + 1, 30)
        self._acked_per_increase = max(self.cwnd / growth, self.path.packet_size)

    def _probe_upward(self, sample: Sample) -> None:
        if not self.path.cwnd_limited or self.cwnd < self._inflight_long:
            return
        self._probe_up_acked += sample.acked
        if self._probe_up_acked >= self._acked_per_increase:
            steps = int(self._probe_up_acked / self._acked_per_increase)
            self._probe_up_acked -= int(steps * self._acked_per_increase)
            self._inflight_long += steps * self.path.packet_size
        if self._round_start:
            self._raise_slope()

    def _adapt_long_term(self, sample: Sample) -> bool:
        """Whether it decided on a state."""
        if self._ack_phase is AckPhase.STARTING and self._round_start:
            self._ack_phase = AckPhase.FEEDBACK
        if self._ack_phase is AckPhase.STOPPING and self._round_start:
            self._probe_sample = False
            self._ack_phase = AckPhase.INIT
            if self.state in PROBE_BW and not sample.app_limited:
                self._bw_filter = [self._bw_filter[1], 0.0]
            if self.state in PROBE_BW and self._probe_precautionary and not self._probe_too_high:
                self._start_refill()
                return True
        if self._inflight_long != INFINITE and not self._is_congestion(sample.lost, sample.sent_in_flight):
            self._inflight_long = max(self._inflight_long, sample.sent_in_flight)
            if self.state is State.UP:
                self._probe_upward(sample)
        return False

    def _check_probe_rtt(self, sample: Sample, now: float) -> None:
        if self.state is not State.PROBE_RTT and self._probe_rtt_expired and not self._idle_restart:
            self._save_cwnd()
            limited = sample.app_limited or self.path.app_limited > 0  # then the cycle tells little
            if self.state in PROBING and self._bw_filter[1] > 0 and not limited:
                # ours: a cycle that is longer than the interval ends here, or the rate of old stays for good
                self._bw_filter = [self._bw_filter[1], 0.0]
            self._enter(State.PROBE_RTT)
            self._probe_rtt_done = None
            self._ack_phase = AckPhase.STOPPING
            self._start_round()
        if self.state is State.PROBE_RTT:
            self.path.mark_app_limited()
            if self._probe_rtt_done is None:
                if self.path.in_flight <= self._probe_rtt_cwnd():
                    self._probe_rtt_done = now + PROBE_RTT_TIME
                    self._probe_rtt_round_done = False
                    self._start_round()
            else:
                self._probe_rtt_round_done |= self._round_start
                if self._probe_rtt_round_done:
                    self._check_probe_rtt_done(now)
        if sample.delivered > 0:
            self._idle_restart = False

    def _check_probe_rtt_done(self, now: float) -> None:
        if self._probe_rtt_done is None or now <= self._probe_rtt_done:
            return
        self._probe_rtt_time = now
        self.cwnd = max(self.cwnd, self._prior_cwnd)
        self._bw_short = self._inflight_short = INFINITE
        if self.full_bw_reached:
            self._start_down(now)
            self._enter(State.CRUISE)
        else:
            self._enter(State.STARTUP)

    # -- the model ---------------------------------------------------------------------------------------

    def _start_round(self) -> None:
        self._next_round = self.path.delivered

    def _update_latest_delivery(self, sample: Sample) -> None:
        self._loss_round_start = False
        self._bw_latest = max(self._bw_latest, sample.rate)
        self._inflight_latest = max(self._inflight_latest, sample.delivered)
        if sample.prior_delivered >= self._loss_round:
            self._loss_round = self.path.delivered
            self._loss_round_start = True

    def _update_congestion(self, sample: Sample) -> None:
        self._round_start = sample.prior_delivered >= self._next_round
        if self._round_start:
            self._start_round()
            self._round_count += 1
            self._rounds_since_probe += 1
            self._last_round_rtt, self._round_rtt = self._round_rtt, INFINITE
        if sample.rtt >= 0:
            self._round_rtt = min(self._round_rtt, sample.rtt)
        if sample.rate > 0 and (sample.rate >= self.max_bw or not sample.app_limited):
            self._bw_filter[1] = max(self._bw_filter[1], sample.rate)
        self.max_bw = max(self._bw_filter)
        if not self._loss_round_start:
            return
        if (
            self.state in ADAPTING
            and self._loss_in_round
            and self._is_congestion(self._lost_in_round, self._inflight_latest + self._lost_in_round, 0.0)
        ):
            if self._bw_short == INFINITE:
                self._bw_short = self.max_bw
            if self._inflight_short == INFINITE:
                self._inflight_short = float(self.cwnd)
            self._bw_short = max(self._bw_latest, BETA * self._bw_short)
            self._inflight_short = max(self._inflight_latest, BETA * self._inflight_short)
        self._loss_in_round = False

    def _is_congestion(self, lost: int, in_flight: int, threshold: float = LOSS_THRESHOLD) -> bool:
        """Whether this much lost, of this much in flight, is the path's queue running over (see the head)."""
        if self._is_queued():
            return lost > threshold * in_flight
        return lost > max(SHALLOW_LOSS * in_flight, STARTUP_LOSSES * self.path.packet_size)

    def _is_queued(self) -> bool:
        least = min(self._round_rtt, self._last_round_rtt)
        return least > max(QUEUE_GAIN * self.min_rtt, self.min_rtt + QUEUE_FLOOR)

    def _on_inflight_too_high(self, in_flight: int, app_limited: bool, now: float) -> None:
        self._probe_too_high = True
        self._probe_sample = False
        if not app_limited:
            self._inflight_long = max(in_flight, min(self._bdp(1.0), self.cwnd) * BETA)
        if self.state is State.UP:
            self._undo = (State.UP, *self._undo[1:])
            self._start_down(now)

    def _update_aggregation(self, sample: Sample, now: float) -> None:
        expected = self.bw * (now - self._extra_start)
        if self._extra_delivered <= expected:
            self._extra_delivered = 0
            self._extra_start = now
            expected = 0.0
        self._extra_delivered += sample.acked
        extra = min(int(self._extra_delivered - expected), self.cwnd)
        oldest = self._round_count - (EXTRA_ACKED_ROUNDS if self.full_bw_reached else 1)
        recent = self._extra_filter
        while recent and recent[-1][1] <= extra:
            recent.pop()
        recent.append((self._round_count, extra))
        while recent[0][0] <= oldest:
            recent.pop(0)
        self._extra_acked = recent[0][1]

    def _update_min_rtt(self, sample: Sample, now: float) -> None:
        self._probe_rtt_expired = now > self._probe_rtt_time + PROBE_RTT_INTERVAL
        if sample.rtt >= 0 and (sample.rtt < self._probe_rtt_min or self._probe_rtt_expired):
            self._probe_rtt_min = sample.rtt
            if self._probe_rtt_expired or now - self.path.shared_at >= SHARED_TIME:
                self._probe_rtt_time = now  # ours: a queue that is being drained puts off no ProbeRTT
        if self._probe_rtt_min < self.min_rtt or now > self._min_rtt_time + MIN_RTT_WINDOW:
            self.min_rtt = self._probe_rtt_min
            self._min_rtt_time = self._probe_rtt_time

    # -- what follows from it ----------------------------------------------------------------------------

    def _set_pacing_rate(self, gain: float) -> None:
        rate = gain * self.bw * PACING_MARGIN
        if rate > 0 and (self.full_bw_reached or rate > self.pacing_rate or self._round_count <= 1):
            self.pacing_rate = rate

    def _bdp(self, gain: float) -> float:
        if self.min_rtt == INFINITE:
            return self._initial_cwnd
        return gain * self.bw * self.min_rtt

    def _quantized(self, size: float) -> float:
        size = max(size, self.quantum, self._min_pipe)
        return size + 2 * self.path.packet_size if self.state is State.UP else size

    def _inflight(self, gain: float) -> float:
        return self._quantized(self._bdp(gain))

    def _with_headroom(self) -> float:
        if self._inflight_long == INFINITE:
            return INFINITE
        headroom = max(self.path.packet_size, HEADROOM * self._inflight_long)
        return max(self._inflight_long - headroom, self._min_pipe)

    def _probe_rtt_cwnd(self) -> float:
        return max(self._bdp(PROBE_RTT_CWND_GAIN), self._min_pipe)

    def _save_cwnd(self) -> None:
        if not self.path.in_recovery and self.state is not State.PROBE_RTT:
            self._prior_cwnd = self.cwnd
        else:
            self._prior_cwnd = max(self._prior_cwnd, self.cwnd)

    def _set_cwnd(self, sample: Sample) -> None:
        most = self._quantized(self._bdp(CWND_GAIN[self.state]) + self._extra_acked)
        if self.state is State.UP and self._up_rtt != INFINITE:
            most = min(most, self._quantized(PACING_GAIN[State.UP] * self.bw * self._up_rtt))
        cwnd = float(self.cwnd)
        if self.full_bw_reached:
            cwnd = min(cwnd + sample.acked, most)
        elif cwnd < most or self.path.delivered < self._initial_cwnd:
            cwnd += sample.acked
        cwnd = max(cwnd, self._min_pipe)
        limit = INFINITE
        if self.state is State.PROBE_RTT:
            cwnd = min(cwnd, self._probe_rtt_cwnd())
            limit = self._with_headroom()
        elif self.state is State.CRUISE:
            limit = self._with_headroom()
        elif self.state in PROBE_BW:
            limit = self._inflight_long
        self.cwnd = int(min(cwnd, max(min(limit, self._inflight_short), self._min_pipe)))
        if self._round_start:
            self.path.cwnd_limited = self.path.in_flight + self.path.packet_size > self.cwnd
