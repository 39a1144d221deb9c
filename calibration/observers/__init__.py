"""What watches a tensor while calibration samples pass, and says the range that its integers are to cover.

One method a file. Memory is the same for ten samples and a million; the order and the batching of the samples do not
change the range (a moving average's excepted, by its nature).
"""

from typing import Protocol

import numpy as np

from calibration.quantization import QuantizationScheme

Range = tuple[np.ndarray, np.ndarray]


class Observer(Protocol):
    """Made with `axis`: of the channels that get a range each, or None for one range of the whole tensor."""

    def observe(self, values: np.ndarray) -> None:
        """Takes in a float array of any shape that has `axis`. Raises ValueError where it has NaN or infinity."""
        ...

    def range(self, scheme: QuantizationScheme) -> Range:
        """(low, high), each [channels] float64 within what was seen. Raises ValueError where nothing was."""
        ...


def by_channel(values: np.ndarray, axis: int | None) -> np.ndarray:
    """[channels, values of each] float64; one channel without an axis. Raises ValueError at NaN or infinity."""
    rows = _rows(values, axis)
    _require_finite(rows)
    return rows.astype(np.float64)


def extremes(values: np.ndarray, axis: int | None) -> Range:
    """The smallest and the largest value of each channel, without a copy of all. Raises as by_channel does."""
    rows = _rows(values, axis)
    low, high = rows.min(axis=1), rows.max(axis=1)
    # NaN where any value is.
    _require_finite(low)
    _require_finite(high)
    return low.astype(np.float64), high.astype(np.float64)


def _rows(values: np.ndarray, axis: int | None) -> np.ndarray:
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _require_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinity")
