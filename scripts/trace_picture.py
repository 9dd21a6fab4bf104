"""Draws docs/trace.svg: `python -m scripts.trace_picture [FILE]`.

Of a trace that there is, or of one of a slow link: two daemons in network namespaces, 10 Mbit/s with a queue
of 100 ms, a round trip of 40 ms, one packet in a thousand lost, and an upload through it. That needs root.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from netns.link import Conditions
from netns.node import TUNFWD
from scripts.benchmarks.whole import pair

PICTURE: Final = Path(__file__).resolve().parent.parent / "docs" / "trace.svg"
SLOW: Final = Conditions(delay=0.02, rate=10e6, queue=0.1, loss=0.001)
SECONDS: Final = 6.0
WIDTH, HEIGHT, LEFT, GAP = 720, 170, 60, 40  # of a panel

Points = list[tuple[float, float]]


@dataclass
class Curves:
    """What is drawn, against time in ms."""

    window: Points = field(default_factory=list)
    in_flight: Points = field(default_factory=list)
    latest: Points = field(default_factory=list)
    smoothed: Points = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    states: list[tuple[float, str]] = field(default_factory=list)


def record(file: Path) -> None:
    """Trace an upload over the slow link."""
    with pair(link=True, conditions=SLOW) as both:
        alice = both.alice
        tracing = alice.host.start(
            [TUNFWD, "trace", "bob", "--output", str(file)],
            env=os.environ | alice.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracing.stderr is not None
        tracing.stderr.readline()
        print(both.measure("friend-tcp", "upload", SECONDS))
        tracing.send_signal(signal.SIGINT)
        print(tracing.communicate(timeout=60)[1], end="")


def read(text: str) -> Curves:
    """Take from a trace what is drawn."""
    curves = Curves()
    series = {
        "congestion_window": (curves.window, 1e-3),
        "bytes_in_flight": (curves.in_flight, 1e-3),
        "latest_rtt": (curves.latest, 1.0),
        "smoothed_rtt": (curves.smoothed, 1.0),
    }
    for entry in text.split("\x1e")[2:]:
        event: dict[str, Any] = json.loads(entry)
        time, data = event["time"], event["data"]
        match event["name"]:
            case "recovery:metrics_updated":
                for key, (points, unit) in series.items():
                    if key in data:
                        points.append((time, data[key] * unit))
            case "recovery:packet_lost":
                curves.lost.append(time)
            case "recovery:congestion_state_updated":
                curves.states.append((time, data["new"].replace("_", " ")))
    return curves


class Panel:
    """One of the two diagrams, one above the other."""

    def __init__(self, top: float, end: float, highest: float, unit: str) -> None:
        self._top, self._end, self._highest = top, end, highest
        self.parts = [f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" class="frame"/>']
        for share in (0.0, 0.5, 1.0):
            y = self.y(share * highest)
            self.parts.append(
                f'<text x="{LEFT - 6}" y="{y + 4:.0f}" class="end">{share * highest:.0f} {unit}</text>'
            )

    def x(self, time: float) -> float:
        return LEFT + WIDTH * time / self._end

    def y(self, value: float) -> float:
        return self._top + HEIGHT * (1 - min(value / self._highest, 1.0))

    def steps(self, points: Points, look: str) -> None:
        """Draw a value that holds until the next."""
        path, before = [], None
        for time, value in points:
            x, y = f"{self.x(time):.1f}", f"{self.y(value):.1f}"
            if before is None:
                path.append(f"M{x} {y}")
            elif y != before:
                path.append(f"H{x}V{y}")
            before = y
        self.parts.append(f'<path d="{"".join(path)}" class="{look}"/>')

    def dots(self, points: Points, look: str) -> None:
        """Draw each value by itself."""
        places = {(round(self.x(time)), round(self.y(value))) for time, value in points}
        path = "".join(f"M{x} {y}h1" for x, y in sorted(places))
        self.parts.append(f'<path d="{path}" class="{look}"/>')


STYLE: Final = """
text { font: 12px sans-serif; fill: #333 } .end { text-anchor: end } .frame { fill: none; stroke: #bbb }
path { fill: none; stroke-width: 1.2 } .window { stroke: #8e44ad } .flight { stroke: #2a7ab9 }
.lost { stroke: #c0392b; stroke-width: 4 } .latest { stroke: #b9b9b9; stroke-width: 1.5 }
.smoothed { stroke: #d35400 }
.state { stroke: #ddd }
"""


def _title(y: int, *names: tuple[str, str]) -> str:
    spans = ", ".join(f'<tspan style="fill:{colour}">{name}</tspan>' for colour, name in names)
    return f'<text x="{LEFT}" y="{y}">{spans}</text>'


def picture(curves: Curves) -> str:
    """Return the SVG."""
    end = max(time for time, _ in curves.in_flight)
    first = Panel(30, end, 1.1 * max(value for _, value in curves.window), "kB")
    second = Panel(30 + HEIGHT + GAP, end, 1.1 * max(value for _, value in curves.latest), "ms")
    for time, state in curves.states:
        if state in ("startup", "drain", "probe rtt"):
            x = first.x(time)
            line = f'<path d="M{x:.1f} 30v{HEIGHT}" class="state"/>'
            first.parts.append(f'{line}<text x="{x + 2:.1f}" y="42">{state}</text>')
    first.steps(curves.window, "window")
    first.steps(curves.in_flight, "flight")
    first.dots([(time, 1.0) for time in curves.lost], "lost")
    second.dots(curves.latest, "latest")
    second.steps(curves.smoothed, "smoothed")
    titles = [
        _title(20, ("#8e44ad", "window"), ("#2a7ab9", "in flight"), ("#c0392b", "lost")),
        _title(20 + HEIGHT + GAP, ("#888", "round trips"), ("#d35400", "smoothed")),
    ]
    bottom = 30 + 2 * HEIGHT + GAP
    seconds = [
        f'<text x="{second.x(1000 * number):.1f}" y="{bottom + 16}" text-anchor="middle">{number} s</text>'
        for number in range(int(end / 1000) + 1)
    ]
    size = f'width="{LEFT + WIDTH + 20}" height="{bottom + 26}"'
    parts = [f"<style>{STYLE}</style>", '<rect width="100%" height="100%" fill="#fff"/>', *titles]
    body = "\n".join([*parts, *first.parts, *second.parts, *seconds])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def main() -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if sys.argv[1:] else Path(folder, "slow.sqlog")
        if not sys.argv[1:]:
            record(file)
        PICTURE.write_text(picture(read(file.read_text())))


if __name__ == "__main__":
    main()
