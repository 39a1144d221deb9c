"""Where a figure stands on a scale, in percent of the width that is drawn."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """An interval on a scale, in percent of its width: low end, mark, high end."""

    low: float
    mark: float
    high: float


@dataclass(frozen=True)
class Scale:
    """A linear scale from `low` to `high`, in the figures' unit; what is beyond its ends is drawn at them."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Percent of the width. The ends keep their distance from the edge, so that marks there are whole."""
        inside = min(max(value, self.low), self.high)
        return round(2 + 96 * (inside - self.low) / (self.high - self.low), 2)

    def bar(self, low: float, mark: float, high: float) -> Bar:
        """An interval and the mark in it."""
        return Bar(self.place(low), self.place(mark), self.place(high))


def around(middle: float, values: Iterable[float], reach: float) -> Scale:
    """A scale that has `middle` and the values on it, but nothing that is further than `reach` from the middle.

    A bound of few samples may reach far: it runs off the scale rather than squeeze the rest. reach: above zero.
    """
    reached = [middle, *values]
    low, high = max(min(reached), middle - reach), min(max(reached), middle + reach)
    return Scale(low, high) if low < high else Scale(middle - reach, middle + reach)
