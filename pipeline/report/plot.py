"""Accuracy against latency as a scatter plot: where each mark, tick and label goes. Drawn by template.html.j2."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["teacher", "candidate", "artifact"]

FONT_PX = 12.0
# Wider than any sans-serif draws mixed text on average, so that a label's box is never wider than its estimate.
CHARACTER_PX = 0.6 * FONT_PX
RADIUS_PX = 6.0
# Points that lost more than this against the best one would flatten the rest: they are drawn at the lower edge.
TALLEST_POINTS = 8.0


@dataclass(frozen=True)
class Point:
    """One model. latency_ms at the median, accuracy in percent; bounds where they are known, else None."""

    name: str
    kind: Kind
    latency_ms: float
    accuracy: float
    latency_bounds_ms: tuple[float, float] | None = None
    accuracy_low: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: "Box") -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Mark:
    """A point on the page; bars are the ends of its error bars in pixels; `below` says that it lies under the axis."""

    point: Point
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: float | None
    below: bool


@dataclass(frozen=True)
class Label:
    """Text that starts at (x, y), or `ends` there, y its middle.

    leader: a line (x1, y1, x2, y2) from its mark, where that is apart.
    """

    text: str
    kind: Kind
    x: float
    y: float
    ends: bool
    leader: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Plot:
    """Everything in pixels; ticks are (position, label)."""

    width: float
    height: float
    frame: Box
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]


def layout(points: Sequence[Point], width: float, height: float) -> Plot:
    """Places the points on a plot of the given size in pixels. There must be at least one."""
    frame = Box(58, 14, width - 14, height - 46)
    x_scale, x_ticks = _x_axis(points, frame)
    y_scale, y_ticks, lowest = _y_axis(points, frame)
    marks = tuple(_mark(p, x_scale, y_scale, lowest, frame) for p in points)
    return Plot(width, height, frame, x_ticks, y_ticks, marks, tuple(_labels(marks, frame)))


def _x_axis(points: Sequence[Point], frame: Box) -> tuple[Callable[[float], float], tuple[tuple[float, str], ...]]:
    """Logarithmic: what counts is how many times faster."""
    reached = [v for p in points for v in (p.latency_ms, *(p.latency_bounds_ms or ()))]
    low, high = math.log10(min(reached)), math.log10(max(reached))
    pad = max(0.08 * (high - low), 0.1)
    low, high = low - pad, high + pad

    def scale(value: float) -> float:
        return frame.left + (math.log10(value) - low) / (high - low) * (frame.right - frame.left)

    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        values = [s * 10.0**e for e in range(math.floor(low) - 1, math.ceil(high) + 1) for s in steps]
        ticks = [(scale(v), f"{v:g}") for v in values if low <= math.log10(v) <= high]
        if len(ticks) >= 3:
            break
    return scale, tuple(_apart(ticks))


def _apart(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leaves out every second tick until no two labels touch."""
    while any(b[0] - a[0] < CHARACTER_PX * (len(a[1]) + len(b[1])) / 2 + 8 for a, b in pairwise(ticks)):
        ticks = ticks[::2]
    return ticks


def _y_axis(
    points: Sequence[Point], frame: Box
) -> tuple[Callable[[float], float], tuple[tuple[float, str], ...], float]:
    """Linear, not from zero; its lower end is given too."""
    best = max(p.accuracy for p in points)
    near = [v for p in points for v in (p.accuracy, p.accuracy_low) if v is not None and v >= best - TALLEST_POINTS]
    span = max(best - min(near), 0.5)
    low, high = min(near) - 0.14 * span, best + 0.14 * span
    # A row of its own for what lies below the axis.
    if any(p.accuracy < low for p in points):
        low -= 0.14 * span

    def scale(value: float) -> float:
        return frame.bottom - (value - low) / (high - low) * (frame.bottom - frame.top)

    step = next(s * 10.0**e for e in range(-2, 3) for s in (1, 2, 5) if (high - low) / (s * 10.0**e) <= 6)
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step)
    ticks = [(scale(i * step), f"{i * step:.{digits}f}") for i in range(first, math.floor(high / step) + 1)]
    return scale, tuple(ticks), low


def _mark(
    point: Point, x_scale: Callable[[float], float], y_scale: Callable[[float], float], lowest: float, frame: Box
) -> Mark:
    below = point.accuracy < lowest
    bounds = point.latency_bounds_ms
    y_bar = None if below or point.accuracy_low is None else y_scale(max(point.accuracy_low, lowest))
    return Mark(
        point=point,
        x=x_scale(point.latency_ms),
        y=frame.bottom - 1.5 * RADIUS_PX if below else y_scale(point.accuracy),
        x_bar=(x_scale(bounds[0]), x_scale(bounds[1])) if bounds else None,
        y_bar=y_bar,
        below=below,
    )


def _taken(mark: Mark) -> Iterator[Box]:
    """What a mark and its error bars cover."""
    r = RADIUS_PX + 2
    yield Box(mark.x - r, mark.y - r, mark.x + r, mark.y + r)
    if mark.x_bar:
        yield Box(mark.x_bar[0] - 2, mark.y - 4, mark.x_bar[1] + 2, mark.y + 4)
    if mark.y_bar is not None:
        yield Box(mark.x - 4, min(mark.y, mark.y_bar) - 2, mark.x + 4, max(mark.y, mark.y_bar) + 2)


def _labels(marks: Sequence[Mark], frame: Box) -> Iterator[Label]:
    """Names beside their marks, clear of marks, bars and each other; one that has no room is left to the table."""
    taken = [box for mark in marks for box in _taken(mark)]
    order: tuple[Kind, ...] = ("artifact", "teacher", "candidate")
    for mark in sorted(marks, key=lambda m: order.index(m.point.kind)):
        text = _text(mark)
        for box in _places(mark, CHARACTER_PX * len(text), frame):
            leader = _leader(mark, box)
            line = list(_along(leader)) if leader else []
            own = set(_taken(mark))
            if any(box.overlaps(t) for t in taken) or any(p.overlaps(t) for p in line for t in taken if t not in own):
                continue
            taken += [box, *line]
            ends = box.right < mark.x
            middle = (box.top + box.bottom) / 2
            yield Label(text, mark.point.kind, box.right if ends else box.left, middle, ends, leader)
            break


def _text(mark: Mark) -> str:
    name = mark.point.name if len(mark.point.name) <= 26 else mark.point.name[:25] + "…"
    return f"{name} (below)" if mark.below else name


def _places(mark: Mark, width: float, frame: Box) -> Iterator[Box]:
    """Where a label could go, nearest first: right, left, above, below, then rings around the mark."""
    half = FONT_PX * 0.7
    gap = RADIUS_PX + 4

    def at(left: float, middle: float) -> Box:
        return Box(left, middle - half, left + width, middle + half)

    places = [at(mark.x + gap, mark.y), at(mark.x - gap - width, mark.y)]
    for ring in range(0, 200, 9):
        reach = gap + half + ring
        for turn in range(0, 360, 15):
            dx, dy = math.cos(math.radians(turn)), -math.sin(math.radians(turn))
            left = mark.x + dx * reach - width / 2 + dx * width / 2
            places.append(at(left, mark.y + dy * reach))
    room = Box(frame.left + 4, frame.top, frame.right, frame.bottom)
    return (box for box in places if box.inside(room))


def _leader(mark: Mark, box: Box) -> tuple[float, float, float, float] | None:
    x = min(max(mark.x, box.left), box.right)
    y = min(max(mark.y, box.top), box.bottom)
    distance = math.hypot(x - mark.x, y - mark.y)
    if distance < RADIUS_PX + 12:
        return None
    start = RADIUS_PX / distance
    return (mark.x + (x - mark.x) * start, mark.y + (y - mark.y) * start, x, y)


def _along(line: tuple[float, float, float, float]) -> Iterator[Box]:
    """A line as small boxes, its far end left out: the label stands there."""
    x1, y1, x2, y2 = line
    steps = max(2, int(math.hypot(x2 - x1, y2 - y1) / 4))
    for i in range(1, steps - 1):
        x, y = x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps
        yield Box(x - 1, y - 1, x + 1, y + 1)
