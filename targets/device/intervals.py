"""Percentiles of latencies and how sure they are.

Intervals come from the percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over blocks instead of single calls
(Kuensch 1989): neighbouring calls share the machine's state, so only blocks are near to independent. Blocks of two
runners that were timed side by side are drawn together: a slow spell of the machine then cancels out of their ratio.
Of few blocks the percentiles would lie too close: they are taken as far out as Student's t is wider than the normal
distribution (Hesterberg 2015, What teachers should know about the bootstrap, section 5.2).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 2000
# More blocks than this add work and no certainty: neighbours are merged, which also weakens what they have in common.
MAX_GROUPS = 100
# Order statistics kept of a pooled sample; a quantile is then off by at most this share of the ranks.
MAX_STEPS = 4096
CHUNK = 100


def percentiles(latencies: np.ndarray) -> dict[str, float]:
    """{p50, p90, p99} of all calls together, in the unit of `latencies`, and n, their number."""
    p50, p90, p99 = (float(v) for v in np.percentile(latencies, (50, 90, 99)))
    return {"p50": p50, "p90": p90, "p99": p99, "n": int(latencies.size)}


def bootstrap(samples: Sequence[np.ndarray], quantile: float, seed: int = 0) -> list[np.ndarray]:
    """The quantile of each sample in each of RESAMPLES draws of blocks, the same blocks for every sample.

    samples: [blocks, calls] each, with the same number of blocks. Returns one [RESAMPLES] array a sample.
    Raises ValueError where there are fewer than two blocks, or their number differs.
    """
    blocks = len(samples[0])
    if blocks < 2 or any(len(sample) != blocks for sample in samples):
        raise ValueError(f"need the same number of blocks, two at least, not {[len(s) for s in samples]}")
    groups = groups_of(blocks)
    group = np.arange(blocks) * groups // blocks
    draws = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return [_quantiles(sample, group, draws, quantile) for sample in samples]


def groups_of(blocks: int) -> int:
    """How many are drawn: each block by itself, or neighbours together."""
    return min(blocks, MAX_GROUPS)


def _quantiles(sample: np.ndarray, group: np.ndarray, draws: np.ndarray, quantile: float) -> np.ndarray:
    """The quantile (smallest value with at least that share at or below it) of the blocks each row of `draws` takes."""
    pooled = np.sort(sample, axis=None)
    ranks = np.linspace(0, pooled.size - 1, min(pooled.size, MAX_STEPS)).round().astype(np.int64)
    values = np.unique(pooled[ranks])
    step = np.searchsorted(values, sample)
    cells = draws.shape[1] * len(values)
    counts = np.bincount((group[:, None] * len(values) + step).ravel(), minlength=cells).reshape(draws.shape[1], -1)
    # einsum, for the library behind "@" starts threads and wants 32 MB for each, on a device that may have neither.
    weights, counts = draws.astype(np.float32), counts.astype(np.float32)
    result = np.empty(len(draws))
    for start in range(0, len(draws), CHUNK):
        below = np.cumsum(np.einsum("ij,jk->ik", weights[start : start + CHUNK], counts), axis=1)
        # The tolerance keeps a rank that is whole in exact arithmetic from being missed by a rounding error.
        reached = below >= quantile * below[:, -1:] * (1 - 1e-6)
        result[start : start + CHUNK] = values[reached.argmax(axis=1)]
    return result


def expanded_percentiles(blocks: int, alpha: float) -> tuple[float, float]:
    """Which percentiles (0 to 1) of the bootstrap's draws bound 1 - 2 * alpha: the further out, the fewer blocks."""
    z, free = -NormalDist().inv_cdf(alpha), blocks - 1
    # Student's t by its expansion in 1 / degrees of freedom (Abramowitz and Stegun 26.7.5): within 0.1% from 7 on.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    low = NormalDist().cdf(-t * (blocks / free) ** 0.5)
    return low, 1 - low


def ratio_interval(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, float]:
    """{value, low95, high95}: p50(a) / p50(b) and its two-sided 95% interval, paired by block.

    a, b: [blocks, calls], block i of both timed side by side. Above 1, b is the faster. low95 <= value <= high95.
    """
    value = float(np.median(a) / np.median(b))
    over, under = bootstrap((a, b), 0.5, seed)
    low, high = (float(v) for v in np.quantile(over / under, expanded_percentiles(groups_of(len(a)), 0.025)))
    return {"value": value, "low95": min(low, value), "high95": max(high, value)}


def bounds95(latencies: np.ndarray, quantile: float, seed: int = 0) -> tuple[float, float]:
    """One-sided 95% bounds (lower, upper) of a quantile. latencies: [blocks, calls]. The quantile lies between them."""
    value = float(np.quantile(latencies, quantile))
    (resampled,) = bootstrap((latencies,), quantile, seed)
    low, high = (float(v) for v in np.quantile(resampled, expanded_percentiles(groups_of(len(latencies)), 0.05)))
    return min(low, value), max(high, value)
