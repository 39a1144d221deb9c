"""An exponential moving average of each batch's smallest and largest value (Jacob et al. 2018, section 3.1)."""

import numpy as np

from calibration.observers import Range, extremes
from calibration.quantization import QuantizationScheme


class MovingAverage:
    """See Observer. momentum: the weight of what was seen before; the first batch starts the average."""

    def __init__(self, axis: int | None = None, momentum: float = 0.9) -> None:
        self.axis = axis
        self.momentum = momentum
        self._ends: np.ndarray | None = None

    def observe(self, values: np.ndarray) -> None:
        if values.size == 0:
            return
        ends = np.stack(extremes(values, self.axis))
        self._ends = ends if self._ends is None else self.momentum * self._ends + (1 - self.momentum) * ends

    def range(self, scheme: QuantizationScheme) -> Range:
        del scheme  # the same for every one
        if self._ends is None:
            raise ValueError("nothing was observed")
        return self._ends[0], self._ends[1]
