"""Bounds of what was measured: each `low95` and `upper95`/`high95` is a one-sided 95% confidence bound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# The largest of n repeats is above the median of what is measured with probability 1 - 0.5**n: 97% for five.
REPEATS = 5


@dataclass(frozen=True)
class Interval:
    """A drop in percentage points (above zero: the artifact is worse) and its one-sided 95% bounds."""

    value_points: float
    low95: float
    upper95: float


@dataclass(frozen=True)
class Figure:
    """A measured figure and its one-sided 95% bounds, all in the unit that the name of whoever holds it says."""

    value: float
    low95: float
    high95: float


@dataclass(frozen=True)
class Upper:
    """A measured figure and its one-sided upper 95% bound."""

    value: float
    upper95: float


@dataclass(frozen=True)
class Pairs:
    """The same samples scored twice: `losses` only the first had right, `gains` only the second, out of `samples`.

    The counts are floats so that a larger sample with the same shares can be asked about.
    """

    losses: float
    gains: float
    samples: float

    @property
    def drop(self) -> float:
        """Difference of the two shares, -1 to 1."""
        return (self.losses - self.gains) / self.samples if self.samples else 0.0

    def z(self, drop: float) -> float:
        """Tango's score statistic of the hypothesis that the true difference is `drop` (-1 < drop < 1).

        Standard normal under the hypothesis; falls as `drop` rises. It needs no discordant pair: with none, the upper
        bound is z^2 / (n + z^2). Source: Tango 1998, Equivalence test and confidence interval for the difference in
        proportions for the paired-sample design, Statistics in Medicine 17:891-908.
        """
        n, gap = self.samples, self.losses - self.gains
        b = (2 * n - gap) * drop - self.losses - self.gains
        root = math.sqrt(max(0.0, b * b + 8 * n * self.gains * drop * (1 - drop)))
        # The share of gains that is likeliest under it, in the form that does not subtract two nearly equal numbers.
        positive = 2 * self.gains * drop * (1 - drop) / (root + b) if root + b else 0.0
        share = (root - b) / (4 * n) if b < 0 else positive
        variance = n * (2 * max(share, 0.0, -drop) + drop * (1 - drop))
        distance = gap - n * drop
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    def lower(self, alpha: float = 0.05) -> float:
        """One-sided lower bound of the difference at confidence 1 - alpha; -1 where there is no sample."""
        return self._bound(NormalDist().inv_cdf(1 - alpha), otherwise=-1.0)

    def upper(self, alpha: float = 0.05) -> float:
        """One-sided upper bound of the difference at confidence 1 - alpha; 1 where there is no sample."""
        return self._bound(NormalDist().inv_cdf(alpha), otherwise=1.0)

    def _bound(self, z: float, otherwise: float) -> float:
        if not self.samples:
            return otherwise
        low, high = -1.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.z(middle) > z else (low, middle)
        return (low + high) / 2


def pairs_of(teacher_scores: "np.ndarray", artifact_scores: "np.ndarray") -> Pairs:
    """Counts the discordant pairs. Both: [samples], each 0 or 1. Raises ValueError for anything else."""
    if teacher_scores.shape != artifact_scores.shape or teacher_scores.ndim != 1:
        raise ValueError(f"scores must be paired, one a sample: {teacher_scores.shape} and {artifact_scores.shape}")
    for name, scores in (("teacher", teacher_scores), ("artifact", artifact_scores)):
        if not ((scores == 0) | (scores == 1)).all():
            raise ValueError(f"the {name}'s scores must each be 0 or 1: a paired test of shares judges them")
    losses = int(((teacher_scores == 1) & (artifact_scores == 0)).sum())
    gains = int(((teacher_scores == 0) & (artifact_scores == 1)).sum())
    return Pairs(losses, gains, len(teacher_scores))


def paired_drop(teacher_scores: "np.ndarray", artifact_scores: "np.ndarray") -> Interval:
    """How much the artifact's metric is below the teacher's, in points, with Tango's score bounds (see `Pairs.z`).

    Both: [samples], 0 or 1, of the same samples in the same order. Simulated over small samples, few and no
    discordant pairs, each bound holds in 92 to 100% of the cases, and in 94 to 96% from 1,000 samples and ten
    discordant pairs on. Raises ValueError.
    """
    pairs = pairs_of(teacher_scores, artifact_scores)
    return Interval(100 * pairs.drop, 100 * pairs.lower(), 100 * pairs.upper())


def churn(teacher_pred: "np.ndarray", artifact_pred: "np.ndarray") -> Upper:
    """The share (0 to 1) of samples that the artifact answers otherwise than the teacher, right or wrong.

    Both: [samples] class numbers. The bound is Wilson's score bound (Wilson 1927, JASA 22:209-212). Raises ValueError
    where they are not paired.
    """
    if teacher_pred.shape != artifact_pred.shape or teacher_pred.ndim != 1:
        raise ValueError(f"predictions must be paired, one a sample: {teacher_pred.shape} and {artifact_pred.shape}")
    n = len(teacher_pred)
    if n == 0:
        return Upper(0.0, 1.0)
    share = int((teacher_pred != artifact_pred).sum()) / n
    z = NormalDist().inv_cdf(0.95)
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Upper(share, min(1.0, max(share, (centre + spread) / (1 + z * z / n))))


def repeated(values: Sequence[float]) -> Figure:
    """The median of independent repeats (peak memory of fresh processes), bounded by the smallest and the largest.

    Needs no assumption of how they are spread (the sign test's bound). Raises ValueError for fewer than five, whose
    range would not reach 95% confidence.
    """
    if len(values) < REPEATS:
        raise ValueError(f"{len(values)} repeats do not bound a median with 95% confidence: {REPEATS} do")
    return Figure(median(values), min(values), max(values))
