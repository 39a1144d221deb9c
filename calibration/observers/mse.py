"""The range whose integers stand for the values with the least squared error (Nagel et al. 2021, section 3.1)."""

import numpy as np

from calibration.observers import Range
from calibration.observers.histogram import HistogramObserver
from calibration.quantization import QuantizationScheme, parameters

# Shares of the whole range that are tried for each end.
SHARES = np.linspace(1.0, 0.1, 91)


class Mse(HistogramObserver):
    """See Observer."""

    def range(self, scheme: QuantizationScheme) -> Range:
        lowest, highest = self.histogram.seen()
        ends = [
            self._best(channel, low, high, scheme)
            for channel, (low, high) in enumerate(zip(lowest, highest, strict=True))
        ]
        low, high = np.array(ends).T
        return low, high

    def _best(self, channel: int, low: float, high: float, scheme: QuantizationScheme) -> tuple[float, float]:
        """Both ends together first, then each alone: an outlier is mostly at one."""
        values, counts = self.histogram.means(channel)
        low, high = min(low, 0.0), max(high, 0.0)

        def best(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
            errors = squared_errors(values, counts, lows, highs, scheme)
            first = int(np.argmin(errors))
            return float(lows[first]), float(highs[first])

        low, high = best(low * SHARES, high * SHARES)
        if scheme.symmetric or low == 0.0 or high == 0.0:
            return low, high
        low, high = best(low * SHARES, np.full(len(SHARES), high))
        return best(np.full(len(SHARES), low), high * SHARES)


def squared_errors(
    values: np.ndarray, counts: np.ndarray, lows: np.ndarray, highs: np.ndarray, scheme: QuantizationScheme
) -> np.ndarray:
    """[ranges] sums of (value - what its integer stands for)^2 over [values], each as often as it occurs."""
    how = parameters(lows, highs, scheme)
    scale, zero_point = how.scale.astype(np.float64)[:, None], how.zero_point[:, None]
    integers = np.clip(np.rint(values / scale) + zero_point, scheme.lowest, scheme.highest)
    return ((values - (integers - zero_point) * scale) ** 2 * counts).sum(axis=1)
