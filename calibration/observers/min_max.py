"""The smallest and the largest value: nothing is clipped, and one outlier widens every step."""

import numpy as np

from calibration.observers import Range, extremes
from calibration.quantization import QuantizationScheme


class MinMax:
    """See Observer."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self._low: np.ndarray | None = None
        self._high: np.ndarray | None = None

    def observe(self, values: np.ndarray) -> None:
        if values.size == 0:
            return
        low, high = extremes(values, self.axis)
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def range(self, scheme: QuantizationScheme) -> Range:
        del scheme  # the same for every one
        return self.seen()

    def seen(self) -> Range:
        """The smallest and the largest value. Raises ValueError where nothing was observed."""
        if self._low is None or self._high is None:
            raise ValueError("nothing was observed")
        return self._low, self._high
