"""Which samples of a pool reach all over the ranges of a graph's activations."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.dataset import choose_balanced
from targets.onnx_ranges import activations

if TYPE_CHECKING:
    import onnx

    from calibration.dataset import CalibrationSet

# Between the smallest and the largest low (and high) end that a tensor has on any sample of the pool.
BINS = 16


def narrowed(model: "onnx.ModelProto | None", pool: "CalibrationSet", folder: Path) -> "CalibrationSet":
    """Of a pool the samples that are to set ranges, stored in an empty folder; a set that is no pool as it is.

    model: None takes as many by the seed alone.
    """
    if not 0 < pool.wanted < len(pool):
        return pool
    chosen = (
        choose_balanced(pool.labels, pool.wanted, pool.seed)
        if model is None
        else choose_covering(model, pool, pool.wanted, pool.seed)
    )
    return pool.take(chosen, folder)


def choose_covering(model: "onnx.ModelProto", pool: "CalibrationSet", samples: int, seed: int) -> np.ndarray:
    """Indices, sorted, of `samples` samples of the pool, with as equal a share of each class as the pool allows.

    They are chosen greedily, so that together the lowest and the highest value of every tensor fall into as many bins
    of their ranges as can be, and by the seed once a further sample would add no bin. The pool is run once, in the
    memory of one sample.
    """
    return cover(extremes(model, pool), pool.labels, samples, seed)


def extremes(model: "onnx.ModelProto", pool: "CalibrationSet") -> np.ndarray:
    """[samples, ends] float64: the lowest and the highest value of each activation on each sample.

    A tensor that has NaN or infinity on any sample is left out: whoever observes its range refuses it by name.
    """
    seen = activations(model, pool, 1)
    rows = [[end for a in values.values() if a.size for end in (a.min(), a.max())] for values in seen]
    ends = np.array(rows, np.float64)
    return ends[:, np.isfinite(ends).all(axis=0)]


def cover(ends: np.ndarray, labels: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Indices, sorted, of [pool, ends] numbers, as choose_covering takes them."""
    rng = np.random.default_rng(seed)
    low, high = ends.min(axis=0), ends.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    bins = np.minimum((ends - low) / width * BINS, BINS - 1).astype(np.int64) + np.arange(ends.shape[1]) * BINS
    quota = np.bincount(labels[choose_balanced(labels, samples, seed)], minlength=int(labels.max()) + 1)
    covered = np.zeros(ends.shape[1] * BINS, bool)
    taken = np.zeros(len(ends), bool)
    tie = rng.permutation(len(ends)) / len(ends)
    while True:
        free = ~taken & (quota > 0)[labels]
        gain = np.where(free, (~covered[bins]).sum(axis=1) + tie, 0.0)
        best = int(np.argmax(gain))
        if gain[best] < 1:
            break
        taken[best] = True
        covered[bins[best]] = True
        quota[labels[best]] -= 1
    for label in np.flatnonzero(quota):
        rest = np.flatnonzero(~taken & (labels == label))
        taken[rng.permutation(rest)[: quota[label]]] = True
    return np.flatnonzero(taken)
