"""The parts of the link, each by itself."""

import itertools
import random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.link.acks import ACK_AFTER, MAX_ACK_DELAY, Acknowledger
from tunfwd.link.congestion import Path, Sample, SendSnapshot
from tunfwd.link.cubic import Cubic
from tunfwd.link.datagrams import MAX_DATAGRAM, QUEUE_AGE, QUEUE_BYTES, DatagramQueue, Reassembly
from tunfwd.link.errors import PeerViolation
from tunfwd.link.newreno import NewReno
from tunfwd.link.pacing import SLACK, Pacer
from tunfwd.link.ranges import RangeSet
from tunfwd.link.receive import ReceiveStream
from tunfwd.link.rtt import INITIAL_RTT, RttEstimator
from tunfwd.link.send import SendStream
from tunfwd.wire.frames import Ack, Datagram, Fragment, decode_frames

SMALL = st.integers(0, 60)


class TestRanges:
    @given(st.lists(st.tuples(st.sampled_from(["add", "remove", "pop"]), SMALL, SMALL)))
    def test_behaves_as_a_set(self, steps: list[tuple[str, int, int]]) -> None:
        ranges, model = RangeSet(), set()
        for step, start, stop in steps:
            if step == "add":
                ranges.add(start, stop)
                model |= set(range(start, stop))
            elif step == "remove":
                ranges.remove(start, stop)
                model -= set(range(start, stop))
            else:
                ranges.pop_below(start)
                model -= set(range(start))
            pairs = list(zip(ranges.starts, ranges.stops, strict=True))
            assert {n for a, b in pairs for n in range(a, b)} == model
            assert all(a < b for a, b in pairs)
            assert all(b < c for (_, b), (c, _) in itertools.pairwise(pairs))
            assert [n for n in range(61) if n in ranges] == sorted(model)
            gaps = ranges.missing(5, 40)
            assert {n for a, b in gaps for n in range(a, b)} == set(range(5, 40)) - model


class TestRoundTrip:
    def test_first_sample_counts_whole(self) -> None:
        rtt = RttEstimator()
        assert rtt.smoothed == INITIAL_RTT
        rtt.update(0.03, 0.0)
        assert (rtt.smoothed, rtt.variation, rtt.least, rtt.latest) == (0.03, 0.015, 0.03, 0.03)

    def test_ack_delay_is_taken_off_but_not_below_the_least(self) -> None:
        rtt = RttEstimator()
        rtt.update(0.03, 0.0)
        rtt.update(0.038, 0.008)
        assert rtt.smoothed == pytest.approx(0.03)
        rtt.update(0.031, 0.008)
        assert rtt.smoothed > 0.03

    def test_probe_timeout(self) -> None:
        rtt = RttEstimator()
        rtt.update(0.04, 0.0)
        assert rtt.probe_timeout(0.002) == pytest.approx(0.04 + 4 * 0.02 + 0.002)


class TestAcknowledger:
    def test_waits_for_company_then_answers(self) -> None:
        acks = Acknowledger()
        for number in range(ACK_AFTER - 1):
            acks.record(number, True, 5.0)
        assert acks.due_at == 5.0 + MAX_ACK_DELAY
        acks.record(ACK_AFTER - 1, True, 5.001)
        assert acks.due_at == 5.001
        frame, largest = acks.take(100, 5.001)
        assert largest == ACK_AFTER - 1
        assert decode_frames(frame, 0) == [Ack(largest, 0.0, ((largest, 0),))]
        assert acks.due_at is None

    def test_disorder_is_told_at_once(self) -> None:
        acks = Acknowledger()
        acks.record(0, True, 1.0)
        acks.record(2, True, 1.0)
        assert acks.due_at == 1.0

    def test_an_ack_asks_for_none(self) -> None:
        acks = Acknowledger()
        acks.record(0, False, 1.0)
        assert acks.due_at is None
        assert acks.pending == 0

    @given(st.lists(st.integers(0, 2000), max_size=400))
    def test_nothing_is_taken_twice(self, numbers: list[int]) -> None:
        acks = Acknowledger()
        seen = set()
        for number in numbers:
            if acks.is_duplicate(number):
                assert number in seen or len(acks.received) == 64 or number < 1900
            else:
                assert number not in seen
                acks.record(number, True, 0.0)
                seen.add(number)
            assert len(acks.received) <= 64
        assert all(acks.is_duplicate(number) for number in seen)

    def test_forgets_what_the_peer_knows(self) -> None:
        acks = Acknowledger()
        for number in range(0, 20, 2):
            acks.record(number, True, 0.0)
        acks.acked(9, 9, False)
        assert acks.received.starts == [10, 12, 14, 16, 18]
        assert acks.is_duplicate(3)
        acks.acked(1000, 1000, False)
        assert acks.received.starts == [18]


class TestPacing:
    def test_a_quantum_and_then_its_time(self) -> None:
        pacer = Pacer()
        assert pacer.allowance(1e6, 2000, 10.0) == 2000 + SLACK * 1e6
        pacer.next_time = 10.0
        assert pacer.allowance(1e6, 2000, 10.0) == 2000
        pacer.sent(2000, 1e6)
        assert pacer.next_time == pytest.approx(10.002)
        assert pacer.allowance(1e6, 2000, 10.001) == 0
        assert pacer.allowance(1e6, 2000, 10.0025) == pytest.approx(2500, abs=1)


class Deaf:
    def sendable(self, stream: SendStream) -> None:
        pass

    def progressed(self, stream: SendStream, freed: int) -> None:
        pass


class TestSendStream:
    @given(st.data())
    def test_every_byte_is_sent_until_acknowledged(self, data: st.DataObject) -> None:
        rng = random.Random(data.draw(st.integers(0, 1 << 32)))
        content = rng.randbytes(200_000)
        stream = SendStream(1, 10**9, Deaf())
        delivered = bytearray(len(content))
        arrived = RangeSet()
        flying: list[tuple[int, int, bool]] = []
        written = 0
        for _ in range(10_000):
            choice = rng.randrange(4)
            if choice == 0 and written < len(content):
                piece = content[written : written + rng.choice((1, 1000, 70_000))]
                stream.write(piece)
                written += len(piece)
                if written == len(content):
                    stream.finish()
            elif choice == 1 and flying:
                stream.lost(*flying.pop(rng.randrange(len(flying))))
            elif choice == 2 and flying:
                start, stop, fin = flying.pop(rng.randrange(len(flying)))
                stream.acked(start, stop, fin)
                arrived.add(start, stop)
            elif stream.has_pending(10**9):
                start, stop, fin = stream.take(rng.choice((1, 1348, 20_000)), 10**9)
                delivered[start:stop] = stream.data(start, stop)
                assert fin == (stop == len(content) == written)
                flying.append((start, stop, fin))
            if stream.done:
                break
        while not stream.done:
            if written < len(content):
                stream.write(content[written:])
                written = len(content)
                stream.finish()
            while stream.has_pending(10**9):
                flying.append(stream.take(20_000, 10**9))
                delivered[flying[-1][0] : flying[-1][1]] = stream.data(*flying[-1][:2])
            for item in flying:
                stream.acked(*item)
            flying.clear()
        assert delivered == content
        assert stream.unacked == 0
        assert not stream._blocks

    def test_credit_is_kept(self) -> None:
        stream = SendStream(1, 100, Deaf())
        stream.write(bytes(300))
        assert stream.take(1000, 70) == (0, 70, False)
        assert stream.take(1000, 70) == (70, 100, False)
        assert not stream.has_pending(1000)
        stream.lost(10, 20, False)
        assert stream.take(1000, 0) == (10, 20, False)  # what was sent before is free


class TestReceiveStream:
    @given(st.data())
    def test_pieces_in_any_order(self, data: st.DataObject) -> None:
        rng = random.Random(data.draw(st.integers(0, 1 << 32)))
        content = rng.randbytes(rng.randrange(1, 5000))
        stream = ReceiveStream(1, len(content))
        read = b""
        used = 0
        while len(read) < len(content) or stream.final_size is None:
            start = rng.randrange(len(content))
            stop = min(start + rng.randrange(1, 1400), len(content))
            if rng.random() < 0.3:
                start = stream.received
                stop = min(start + 700, len(content))
            used += stream.on_data(start, content[start:stop], stop == len(content))
            if rng.random() < 0.5:
                read += stream.read(rng.randrange(3000))
        assert read == content
        assert used == stream.highest == len(content)
        assert stream.done
        assert stream.pieces_waiting == 0

    def test_reset_gives_back_what_is_unused(self) -> None:
        stream = ReceiveStream(1, 1000)
        assert stream.on_data(100, b"x" * 50, False) == 150
        assert stream.on_reset(400, 7) == 250
        assert stream.done
        with pytest.raises(PeerViolation):
            ReceiveStream(1, 1000).on_reset(1001, 7)


Kind = TypeVar("Kind")


def only(kind: type[Kind], data: bytes) -> list[Kind]:
    """Decode frames that are all of one kind."""
    frames = decode_frames(data, 0)
    kept: list[Kind] = [frame for frame in frames if isinstance(frame, kind)]
    assert kept == frames
    return kept


def taken(queue: DatagramQueue, kind: type[Kind]) -> Kind:
    data = queue.take(1363)
    assert data is not None
    (frame,) = only(kind, data)
    return frame


class TestDatagrams:
    def test_oldest_make_room(self) -> None:
        queue = DatagramQueue(1363)
        for n in range(QUEUE_BYTES // 1000 + 5):
            assert queue.put(1, n.to_bytes(4, "little") * 250, False)
        assert queue.dropped == 5
        assert taken(queue, Datagram).data[:4] == queue.dropped.to_bytes(4, "little")

    def test_too_old_to_send(self) -> None:
        queue = DatagramQueue(1363)
        queue.put(1, b"old", False)
        queue.expire(0.0)
        queue.put(1, b"new", False)
        queue.expire(QUEUE_AGE)
        queue.expire(QUEUE_AGE + 0.001)
        assert taken(queue, Datagram) == Datagram(1, b"new")
        assert queue.take(1363) is None

    def test_size_limits(self) -> None:
        queue = DatagramQueue(1363)
        assert not queue.put(1, bytes(1357), False)
        assert queue.put(1, bytes(1356), False)
        assert not queue.put(1, bytes(MAX_DATAGRAM + 1), True)

    @given(st.integers(1357, MAX_DATAGRAM), st.randoms())
    def test_split_and_put_together(self, size: int, rng: random.Random) -> None:
        queue, reassembly = DatagramQueue(1363), Reassembly()
        data = bytes(n & 0xFF for n in range(size))
        assert queue.put(9, data, True)
        pieces: list[Fragment] = []
        while len(queue):
            frame = queue.take(rng.choice((1363, 900, 300)))
            if frame is not None:
                pieces += only(Fragment, frame)
        rng.shuffle(pieces)
        wholes = [reassembly.add(piece) for piece in pieces + pieces[:1]]
        assert [whole for whole in wholes if whole is not None] == [data]

    def test_pieces_that_overlap_are_dropped(self) -> None:
        reassembly = Reassembly()
        assert reassembly.add(Fragment(1, 1, 10, 0, b"abcdef")) is None
        assert reassembly.add(Fragment(1, 1, 10, 2, b"abcdef")) is None
        assert reassembly.dropped == 1

    def test_a_size_that_changes_drops_all(self) -> None:
        reassembly = Reassembly()
        assert reassembly.add(Fragment(1, 1, 10, 0, b"abc")) is None
        assert reassembly.add(Fragment(1, 1, 11, 3, b"abc")) is None
        assert reassembly.dropped == 1


def ack(path: Path, controller: Cubic | NewReno, size: int, now: float, sent_time: float) -> None:
    sample = Sample()
    sample.acked, sample.sent_time = size, sent_time
    path.delivered += size
    controller.on_ack(sample, now)


class TestWindows:
    @pytest.mark.parametrize(("kind", "share"), [(NewReno, 0.5), (Cubic, 0.7)])
    def test_one_reduction_a_round_trip(self, kind: type[Cubic | NewReno], share: float) -> None:
        path = Path(1000, 0.0)
        controller = kind(path, random.Random(1), 0.0)
        path.cwnd_limited = True
        ack(path, controller, 10_000, 0.1, 0.05)
        assert controller.cwnd == 20_000
        lost = SendSnapshot(path, 0.1)
        for _ in range(3):
            controller.on_packet_lost(1000, 5000, lost, 0.2)
        assert controller.cwnd == 20_000 * share
        controller.on_packet_lost(1000, 5000, SendSnapshot(path, 0.3), 0.4)
        assert controller.cwnd == 20_000 * share * share

    @pytest.mark.parametrize("kind", [NewReno, Cubic])
    def test_a_loss_that_was_none_is_taken_back(self, kind: type[Cubic | NewReno]) -> None:
        path = Path(1000, 0.0)
        controller = kind(path, random.Random(1), 0.0)
        controller.on_packet_lost(1000, 5000, SendSnapshot(path, 0.1), 0.2)
        controller.on_spurious_loss(0.3)
        assert controller.cwnd == 10_000

    @pytest.mark.parametrize("kind", [NewReno, Cubic])
    def test_an_idle_application_does_not_grow_the_window(self, kind: type[Cubic | NewReno]) -> None:
        path = Path(1000, 0.0)
        controller = kind(path, random.Random(1), 0.0)
        ack(path, controller, 2000, 0.1, 0.05)
        assert controller.cwnd == 10_000

    def test_cubic_is_back_after_its_time(self) -> None:
        """RFC 9438 4.2: K = cbrt(W_max × (1 − β) / C) seconds to the window of the loss."""
        path = Path(1000, 0.0)
        path.smoothed_rtt = 0.1
        path.cwnd_limited = True
        controller = Cubic(path, random.Random(1), 0.0)
        controller.cwnd = 1_000_000
        controller.on_packet_lost(1000, 5000, SendSnapshot(path, 0.1), 0.2)
        now = 0.3
        while controller.cwnd < 990_000:
            path.cwnd_limited = True
            ack(path, controller, controller.cwnd, now, now - 0.05)
            now += 0.1
        assert (1000 * 0.3 / 0.4) ** (1 / 3) * 0.7 < now < (1000 * 0.3 / 0.4) ** (1 / 3) * 1.1
