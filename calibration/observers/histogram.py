"""How often each value occurs, on a grid that widens as larger values come."""

import numpy as np

from calibration.observers import Range, by_channel

BINS = 8192
HALF = BINS // 2
HALF_EXPONENT = HALF.bit_length() - 1
# Of the finest grid: below it lies the smallest number that float32 holds, so that every tensor of zeros starts there.
FINEST = -200


class Histogram:
    """Bin i of a channel counts the values from (i - HALF) w to (i + 1 - HALF) w, where w is a power of two.

    w is the smallest with which the largest magnitude fits. Where a larger value comes, pairs of bins are added up:
    their edges stay edges, so the counts are those of all values on the last grid, whatever the order and the batching.

    counts: [channels, BINS] int64. sums: [channels, BINS] float64, of the values in each bin.
    exponent: [channels], log2 of w. low, high: [channels] float64, exact.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.counts = np.zeros((0, BINS), np.int64)
        self.sums = np.zeros((0, BINS))
        self.exponent = np.zeros(0, np.int64)
        self.low = np.zeros(0)
        self.high = np.zeros(0)

    @property
    def width(self) -> np.ndarray:
        """Of a bin, [channels]."""
        return np.ldexp(1.0, self.exponent)

    def means(self, channel: int) -> tuple[np.ndarray, np.ndarray]:
        """(mean of the values in each bin that has any, how many they are), [filled bins] each.

        Values on a grid, such as pixels, are these means themselves, and the zeros of a ReLU are zero.
        """
        filled = np.flatnonzero(self.counts[channel])
        counts = self.counts[channel][filled]
        return self.sums[channel][filled] / counts, counts

    def observe(self, values: np.ndarray) -> None:
        """Takes in a float array. Raises ValueError at NaN or infinity."""
        if values.size == 0:
            return
        rows = by_channel(values, self.axis)
        if not len(self.counts):
            self.counts, self.sums = np.zeros((len(rows), BINS), np.int64), np.zeros((len(rows), BINS))
            self.exponent = np.full(len(rows), FINEST)
            self.low, self.high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
        self.low, self.high = np.minimum(self.low, rows.min(axis=1)), np.maximum(self.high, rows.max(axis=1))
        # frexp: |x| < 2^e; of zero e is 0, which FINEST stands in for.
        largest = np.abs(rows).max(axis=1)
        needed = np.where(largest > 0, np.frexp(largest)[1] - HALF_EXPONENT, FINEST)
        for channel in np.flatnonzero(needed > self.exponent):
            self._widen(int(channel), int(needed[channel] - self.exponent[channel]))
        # Times a power of two: exact, and many times as fast as ldexp.
        bins = np.floor(rows * np.ldexp(1.0, -self.exponent)[:, None]).astype(np.int64) + HALF
        bins += np.arange(len(rows))[:, None] * BINS
        self.counts += np.bincount(bins.ravel(), minlength=self.counts.size).reshape(self.counts.shape)
        self.sums += np.bincount(bins.ravel(), rows.ravel(), self.counts.size).reshape(self.counts.shape)

    def _widen(self, channel: int, doublings: int) -> None:
        moved = (np.arange(BINS) - HALF >> min(doublings, HALF_EXPONENT + 1)) + HALF
        merged = np.bincount(moved, weights=self.counts[channel], minlength=BINS)
        self.counts[channel] = merged.astype(np.int64)
        self.sums[channel] = np.bincount(moved, weights=self.sums[channel], minlength=BINS)
        self.exponent[channel] += doublings

    def seen(self) -> Range:
        """The smallest and the largest value. Raises ValueError where nothing was observed."""
        if not len(self.counts):
            raise ValueError("nothing was observed")
        return self.low, self.high


class HistogramObserver:
    """What the observers share that choose a range from a histogram: one histogram may serve several of them."""

    def __init__(self, axis: int | None = None, histogram: Histogram | None = None) -> None:
        self.histogram = histogram or Histogram(axis)

    def observe(self, values: np.ndarray) -> None:
        """Takes in a float array. Raises ValueError at NaN or infinity."""
        self.histogram.observe(values)
