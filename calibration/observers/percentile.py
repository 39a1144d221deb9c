"""Leaves out the rarest values at each end, which widen every step and are worth little."""

import numpy as np

from calibration.observers import Range
from calibration.observers.histogram import BINS, HALF, Histogram, HistogramObserver
from calibration.quantization import QuantizationScheme


class Percentile(HistogramObserver):
    """See Observer.

    percentile: the share of values, in percent, that lies below the high end, and above the low one. The ends are exact
    to the bin in which they fall, and never outside of what was seen.
    """

    def __init__(self, axis: int | None = None, percentile: float = 99.99, histogram: Histogram | None = None) -> None:
        super().__init__(axis, histogram)
        self.percentile = percentile

    def range(self, scheme: QuantizationScheme) -> Range:
        del scheme  # the same for every one
        lowest, highest = self.histogram.seen()
        counts, width = self.histogram.counts, self.histogram.width
        total = counts.sum(axis=1)
        # Rounded: the share of a number of values that it should divide evenly is a hair off.
        outside = np.round(total * (100.0 - self.percentile) / 100.0, 6)
        below = np.cumsum(counts, axis=1)
        above = total[:, None] - below
        first = np.argmax(below > outside[:, None], axis=1)
        last = BINS - 1 - np.argmax(above[:, ::-1] + counts[:, ::-1] > outside[:, None], axis=1)
        low, high = (first - HALF) * width, (last + 1 - HALF) * width
        return np.maximum(low, lowest), np.minimum(high, highest)
