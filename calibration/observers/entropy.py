"""The range that loses the least information: smallest Kullback-Leibler divergence (Migacz, GTC 2017)."""

import numpy as np

from calibration.observers import Range
from calibration.observers.histogram import HALF, HistogramObserver
from calibration.quantization import QuantizationScheme

# Magnitudes are compared on a grid of at most so many bins, at thresholds from its first `levels` bins to all.
GRID = 2048
THRESHOLDS = 96
SMALLEST_SHARE = 1e-4


class Entropy(HistogramObserver):
    """See Observer. A threshold on the magnitude, at both ends: values beyond it count as the threshold's own."""

    def range(self, scheme: QuantizationScheme) -> Range:
        low, high = self.histogram.seen()
        # Of both signs a tensor has half of the integers for each magnitude.
        both = scheme.symmetric | (low < 0) & (high > 0)
        levels = np.where(both, (scheme.highest - scheme.lowest + 1) // 2, scheme.highest - scheme.lowest + 1)
        reach = np.maximum(-low, high)
        kept = np.array([self._threshold(channel, float(reach[channel]), int(n)) for channel, n in enumerate(levels)])
        return np.clip(low, -kept, kept), np.clip(high, -kept, kept)

    def _threshold(self, channel: int, reach: float, levels: int) -> float:
        counts, width = self.histogram.counts[channel], float(self.histogram.width[channel])
        magnitude = counts[HALF:] + counts[HALF - 1 :: -1]
        # Zeros are exact at any threshold; a ReLU's would outweigh all that the threshold is about.
        magnitude[0] = 0
        used = int(reach / width) + 1
        merged = -(-used // GRID)
        grid = magnitude[: -(-used // merged) * merged].reshape(-1, merged).sum(axis=1)
        if len(grid) <= levels:
            return reach
        return min(reach, float(least_lost(grid, levels) * merged * width))


def least_lost(counts: np.ndarray, levels: int) -> int:
    """How many of the bins to keep, at least `levels` and at most all."""
    tried = np.unique(np.linspace(levels, len(counts), THRESHOLDS).astype(int))
    return int(tried[int(np.argmin([divergence(counts, int(kept), levels) for kept in tried]))])


def divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    """KL divergence, in nats, of [bins] counts from what is left of them: `kept` bins merged into `levels` groups.

    What lies beyond is counted in the last bin of the original, as clipping does, and is missing from the merged.
    """
    original = counts[:kept].astype(np.float64)
    clipped = original.copy()
    clipped[-1] += counts[kept:].sum()
    present = clipped > 0
    group = np.arange(kept) * levels // kept
    sharing = np.bincount(group, present, levels)
    merged = np.where(present, (np.bincount(group, original, levels) / np.maximum(sharing, 1))[group], 0.0)
    if not merged.any():
        return float("inf")
    p = clipped[present] / clipped.sum()
    # A group may hold nothing but what was clipped into its last bin.
    q = np.maximum(merged[present] / merged.sum(), SMALLEST_SHARE)
    return float((p * np.log(p / (q / q.sum()))).sum())
