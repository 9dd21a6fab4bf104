"""Sets of integers kept as ascending, disjoint, half-open ranges.

Serves packet numbers received (acks.py) and bytes acknowledged or lost (send.py). The usual change is at
the upper end, and that costs the same however many ranges there are.
"""

from bisect import bisect_left, bisect_right


class RangeSet:
    """Ranges [start, stop); adjacent ones are one."""

    __slots__ = ("starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def __len__(self) -> int:
        return len(self.starts)

    def __bool__(self) -> bool:
        return bool(self.starts)

    def __contains__(self, value: int) -> bool:
        index = bisect_right(self.starts, value) - 1
        return index >= 0 and value < self.stops[index]

    def add(self, start: int, stop: int) -> None:
        """Put [start, stop) into the set."""
        if start >= stop:
            return
        starts, stops = self.starts, self.stops
        if not starts or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
            return
        first = bisect_left(stops, start)  # the first range that reaches `start`
        last = bisect_right(starts, stop)  # the first range that begins beyond `stop`
        if first == last:
            starts.insert(first, start)
            stops.insert(first, stop)
            return
        starts[first:last] = [min(start, starts[first])]
        stops[first:last] = [max(stop, stops[last - 1])]

    def remove(self, start: int, stop: int) -> None:
        """Take [start, stop) out of the set."""
        starts, stops = self.starts, self.stops
        first = bisect_right(stops, start)  # the first range that goes beyond `start`
        last = bisect_left(starts, stop)  # the first range that begins at or beyond `stop`
        if start >= stop or first >= last:
            return
        left, right = starts[first], stops[last - 1]
        new_starts: list[int] = []
        new_stops: list[int] = []
        if left < start:
            new_starts.append(left)
            new_stops.append(start)
        if right > stop:
            new_starts.append(stop)
            new_stops.append(right)
        starts[first:last] = new_starts
        stops[first:last] = new_stops

    def pop_below(self, limit: int) -> None:
        """Forget everything below `limit`."""
        if self.starts and self.starts[0] < limit:
            self.remove(self.starts[0], limit)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of [start, stop) that are not in the set."""
        gaps: list[tuple[int, int]] = []
        starts, stops = self.starts, self.stops
        index = bisect_right(stops, start)
        while start < stop:
            if index >= len(starts) or starts[index] >= stop:
                gaps.append((start, stop))
                break
            if starts[index] > start:
                gaps.append((start, starts[index]))
            start = stops[index]
            index += 1
        return gaps
