"""Reassembly, sending and timers against the simplest models of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from tunfwd.netstack.byte_queue import ByteQueue
from tunfwd.netstack.receive_buffer import CAPACITY, MAX_RANGES, Arrival, ReceiveBuffer
from tunfwd.netstack.send_buffer import SendBuffer
from tunfwd.netstack.sequence import unwrap


@given(st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_unwrap_finds_the_nearest(near: int, distance: int) -> None:
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=5000), st.integers(0, 9000))))
def test_byte_queue(operations: list[bytes | int]) -> None:
    queue, model = ByteQueue(), b""
    for operation in operations:
        if isinstance(operation, bytes):
            queue.append(memoryview(operation))
            model += operation
        else:
            assert queue.take(operation) == model[:operation]
            model = model[operation:]
        assert len(queue) == len(model)


def test_byte_queue_does_not_keep_an_object_for_each_byte() -> None:
    queue = ByteQueue()
    for _ in range(200_000):
        queue.append(b"x")
    assert len(queue._chunks) <= 4


STREAM = bytes(random.Random(7).randbytes(20_000))


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 6000)), max_size=60),
    st.booleans(),
    st.integers(0, 2**33),
    st.randoms(use_true_random=False),
)
def test_any_order_and_overlap_gives_the_stream(
    pieces: list[tuple[int, int]], fin: bool, first: int, order: random.Random
) -> None:
    """What is read is always a prefix of the stream, and all of it once every piece has come."""
    buffer = ReceiveBuffer()
    buffer.begin(first, 8)
    cover = [(start, 1000) for start in range(0, len(STREAM), 1000)]
    order.shuffle(cover)
    read = b""
    for start, length in pieces + cover:
        end = min(start + length, len(STREAM))
        ends = fin and end == len(STREAM)
        if buffer.acceptable(first + start, first + end + ends):
            before = buffer.next
            arrival = buffer.insert(first + start, memoryview(STREAM)[start:end], ends)
            if buffer.next > before:
                assert arrival is Arrival.IN_ORDER
        if order.random() < 0.3:
            read += buffer.read(order.randrange(5000))
        assert read == STREAM[: len(read)]
        assert len(read) + len(buffer) == buffer.next - first - buffer.finished
        islands = buffer.sack_blocks()
        assert all(buffer.next < left < right for left, right in islands)
    read += buffer.read(1 << 20)
    assert read == STREAM
    assert buffer.finished == fin
    assert buffer.sack_blocks() == []


def test_islands_are_bounded() -> None:
    buffer = ReceiveBuffer()
    buffer.begin(0, 8)
    for start in range(1, 2 * MAX_RANGES + 100, 2):
        assert buffer.insert(start, memoryview(b"x"), False) is Arrival.OUT_OF_ORDER
    assert len(buffer._ranges) == MAX_RANGES
    for start in range(0, 2 * MAX_RANGES + 100):
        buffer.insert(start, memoryview(b"x"), False)
    assert buffer.read(10_000) == b"x" * (2 * MAX_RANGES + 100)


def test_the_window_never_takes_back_what_it_gave() -> None:
    buffer = ReceiveBuffer()
    buffer.begin(1000, 8)
    edge = buffer.edge
    source = random.Random(3)
    for _ in range(2000):
        buffer.advertise()
        assert buffer.edge >= edge
        edge = buffer.edge
        length = min(source.randrange(70_000), edge - buffer.next)
        if length:
            buffer.insert(buffer.next, memoryview(bytes(length)), False)
        assert len(buffer) <= CAPACITY
        buffer.read(source.randrange(70_000))


@dataclass
class Receiver:
    """What the peer of a SendBuffer has."""

    got: bytearray = field(default_factory=bytearray)
    fin: bool = False


@given(st.integers(0, 2**33), st.integers(1, 5000), st.integers(0, 2**32))
@example(0, 5000, 130)  # FIN resent with data that fills a window which has shrunk
def test_everything_written_is_sent_within_the_window_whatever_is_lost(
    first: int, mss: int, seed: int
) -> None:
    chance = random.Random(seed)
    buffer = SendBuffer(first, mss, 60_000)
    buffer.set_window(0, 0)
    data = bytes(chance.randbytes(60_000))
    written, receiver = 0, Receiver()
    for turn in range(3000):
        if written < len(data):
            written += buffer.write(data[written : written + chance.randrange(20_000)])
        elif not buffer.closing:
            buffer.closing = True
        for _ in range(8):
            piece = buffer.next_piece()
            if piece is None:
                break
            end = piece.sequence + len(piece.data) + piece.fin
            assert end <= buffer.edge
            assert piece.data == data[piece.sequence - first :][: len(piece.data)]
            if chance.random() < 0.3:
                continue
            at = piece.sequence - first
            if at <= len(receiver.got) < at + len(piece.data) or (piece.fin and at <= len(receiver.got)):
                receiver.got += bytes(piece.data)[len(receiver.got) - at :]
                receiver.fin |= piece.fin
        if chance.random() < 0.7:
            acknowledgment = first + len(receiver.got) + receiver.fin
            window = chance.choice([0, mss // 2, mss, 3 * mss, 40_000])
            if acknowledgment > buffer.una:
                buffer.update_window(turn, acknowledgment, window)
                buffer.acknowledge(acknowledgment)
            elif not buffer.update_window(turn, acknowledgment, window) and buffer.in_flight:
                buffer.duplicate()
        elif buffer.in_flight:
            buffer.retransmit()
        else:
            buffer.override()
        if buffer.fin_acknowledged:
            break
    assert receiver.got == data
    assert buffer.fin_acknowledged
