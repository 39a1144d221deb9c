"""What the inputs of each sample look like, in few numbers: enough to tell one way of preprocessing from another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Of one input, [samples, channels] float64 each; a tensor without a channel axis has the one channel.

    mean, spread (standard deviation), low, high: of the values of a channel.
    roughness: mean difference between neighbours, down and across; zero where the input is no image.
    """

    mean: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    roughness: np.ndarray

    def __len__(self) -> int:
        return len(self.mean)


def describe(
    blocks: Iterable[Mapping[str, np.ndarray]], axes: Mapping[str, int | None]
) -> dict[str, tuple[str, Statistics]]:
    """Input -> (dtype, statistics of its samples), in one pass over blocks of samples.

    axes: input -> its channel axis; None, or left out, for none. NaN and infinity make a mean that is not finite.
    """
    parts: dict[str, list[np.ndarray]] = {}
    dtypes: dict[str, str] = {}
    for block in blocks:
        for name, array in block.items():
            dtypes[name] = array.dtype.name
            parts.setdefault(name, []).append(_of(array, axes.get(name)))
    return {name: (dtypes[name], Statistics(*np.concatenate(found, axis=1))) for name, found in parts.items()}


def _of(array: np.ndarray, axis: int | None) -> np.ndarray:
    """[5, samples, channels]: the fields of Statistics, in their order."""
    moved = array.reshape(len(array), 1, -1) if axis is None else np.moveaxis(array, axis, 1)
    values = moved.astype(np.float64)
    flat = values.reshape(*values.shape[:2], -1)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        roughness = np.zeros(flat.shape[:2])
        if values.ndim == 4:
            across = [np.abs(np.diff(values, axis=axis)) for axis in (2, 3) if values.shape[axis] > 1]
            roughness = sum((part.mean(axis=(2, 3)) for part in across), roughness)
        mean, spread = flat.mean(axis=2), flat.std(axis=2)
        return np.stack([mean, spread, flat.min(axis=2), flat.max(axis=2), roughness])
