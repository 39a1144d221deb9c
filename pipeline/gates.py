"""May this be shipped? Each limit of the budget against what was measured, and what could not be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from pipeline.intervals import Figure, Interval, Pairs, churn, paired_drop, pairs_of, repeated

if TYPE_CHECKING:
    import numpy as np

    from pipeline.recipe import Budget

__all__ = [
    "Figure",
    "Gate",
    "Interval",
    "Measures",
    "SliceResult",
    "churn",
    "judge",
    "overall",
    "paired_drop",
    "repeated",
    "slice_verdicts",
]

GateVerdict = Literal["pass", "fail", "inconclusive", "deferred"]
Verdict = Literal["pass", "fail", "inconclusive"]
SliceVerdict = Literal["ok", "harmed", "unresolved"]

ALPHA = 0.05
MB = 1_000_000
# A test set larger than this is not something anyone will collect for one slice.
MOST_SAMPLES = 10_000_000
UNITS = {
    "accuracy_drop": "points",
    "worst_slice_drop": "points",
    "latency_ratio": "×",
    "faster_than_float": "×",
    "size_ratio": "×",
    "size_mb": "MB",
    "latency_p50_ms": "ms",
    "latency_p99_ms": "ms",
    "peak_memory_mb": "MB",
}


@dataclass(frozen=True)
class SliceResult:
    """One slice of the test samples, in points.

    lower95: the lower bound at the slice's Holm level; upper95: the uncorrected upper bound.
    samples_needed: of an unresolved slice, how many would settle it if the shares stayed as observed; None where
        it is settled or no number would do.
    """

    name: str
    samples: int
    drop_points: float
    lower95: float
    upper95: float
    verdict: SliceVerdict
    samples_needed: int | None = None


@dataclass(frozen=True)
class Measures:
    """What is known of an artifact; None is what could not be measured here. MB are 1,000,000 bytes.

    latency_ratio: baseline / artifact, above 1 is faster. float_ratio: the same of the artifact's own network in float,
    where that is not the baseline. samples: of the test set, all of them scored.
    """

    precision: str
    size_bytes: int
    baseline_size_bytes: int | None = None
    drop: Interval | None = None
    samples: int | None = None
    slices: Sequence[SliceResult] | None = None
    latency_ratio: Figure | None = None
    float_ratio: Figure | None = None
    latency_p50_ms: Figure | None = None
    latency_p99_ms: Figure | None = None
    peak_memory_mb: Figure | None = None


@dataclass(frozen=True)
class Gate:
    """One limit, judged. `bound` is the 95% bound that was held against the limit, in the limit's unit.

    nearest: of a gate that did not pass, the limit that would have been met, or why it is not known.
    """

    name: str
    limit: float
    measured: float | None
    bound: float | None
    verdict: GateVerdict
    nearest: str = ""


def slice_verdicts(
    teacher_scores: "np.ndarray",
    artifact_scores: "np.ndarray",
    masks: "Mapping[str, np.ndarray]",
    limit_points: float | None,
) -> list[SliceResult]:
    """Which slices lost more than the limit, proven (`harmed`), which did not (`ok`), which cannot be told.

    Scores: [samples], 0 or 1; masks: slice -> [samples] booleans. With no limit, harm is any drop above zero.
    The chance of calling any slice harmed that is not stays at 5% over all of them: Holm's step-down (Holm 1979,
    Scandinavian Journal of Statistics 6:65-70), and the level at which it stops is that of every slice after it.
    """
    limit = (limit_points or 0.0) / 100
    pairs = {name: pairs_of(teacher_scores[mask], artifact_scores[mask]) for name, mask in masks.items()}
    levels: dict[str, float] = {}
    level, stopped = ALPHA, False
    chances = {name: 1 - NormalDist().cdf(p.z(limit)) if p.samples else 1.0 for name, p in pairs.items()}
    for rank, name in enumerate(sorted(pairs, key=lambda name: chances[name])):
        level = level if stopped else ALPHA / (len(pairs) - rank)
        levels[name] = level
        stopped = stopped or chances[name] > level
    return [_slice(name, pairs[name], levels[name], limit) for name in masks]


def _slice(name: str, pairs: Pairs, level: float, limit: float) -> SliceResult:
    verdict = _slice_verdict(pairs, level, limit)
    return SliceResult(
        name=name,
        samples=int(pairs.samples),
        drop_points=100 * pairs.drop,
        lower95=100 * pairs.lower(level),
        upper95=100 * pairs.upper(),
        verdict=verdict,
        samples_needed=_samples_needed(pairs, level, limit) if verdict == "unresolved" else None,
    )


def _slice_verdict(pairs: Pairs, level: float, limit: float) -> SliceVerdict:
    """By the test whose rejection the bounds stand for: the lower bound exceeds the limit, or the upper does not."""
    z = pairs.z(limit)
    if z > NormalDist().inv_cdf(1 - level):
        return "harmed"
    return "ok" if z <= NormalDist().inv_cdf(ALPHA) else "unresolved"


def _samples_needed(pairs: Pairs, level: float, limit: float) -> int | None:
    losses, gains = (pairs.losses / pairs.samples, pairs.gains / pairs.samples) if pairs.samples else (0.0, 0.0)

    def settled(samples: int) -> bool:
        return _slice_verdict(Pairs(losses * samples, gains * samples, samples), level, limit) != "unresolved"

    low, high = int(pairs.samples), max(1, int(pairs.samples))
    while not settled(high):
        low, high = high, high * 2
        if high > MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def judge(budget: "Budget", measures: Measures, *, on_device: bool) -> list[Gate]:
    """One gate for each limit that the budget sets, and `faster_than_float` for every artifact that is not fp32.

    on_device: the build machine is the device that the profile describes, so milliseconds and peak memory measured
    here are the device's; elsewhere they are deferred to it. Ratios are judged wherever the artifact ran.
    """
    m = measures
    gates: list[Gate] = []
    if budget.accuracy_drop is not None:
        gates.append(_accuracy(budget.accuracy_drop, m))
    if budget.worst_slice_drop is not None:
        gates.append(_worst_slice(budget.worst_slice_drop, m))
    if m.precision != "fp32":
        gates.append(_at_least("faster_than_float", 1.0, m.float_ratio or m.latency_ratio))
    if budget.latency_ratio is not None:
        gates.append(_at_least("latency_ratio", budget.latency_ratio, m.latency_ratio))
    if budget.size_ratio is not None:
        ratio = m.baseline_size_bytes / m.size_bytes if m.baseline_size_bytes else None
        gates.append(_at_least("size_ratio", budget.size_ratio, None if ratio is None else Figure(ratio, ratio, ratio)))
    if budget.size_mb is not None:
        size = m.size_bytes / MB
        gates.append(_at_most("size_mb", budget.size_mb, Figure(size, size, size)))
    for name, limit, figure in (
        ("latency_p50_ms", budget.latency_p50_ms, m.latency_p50_ms),
        ("latency_p99_ms", budget.latency_p99_ms, m.latency_p99_ms),
        ("peak_memory_mb", budget.peak_memory_mb, m.peak_memory_mb),
    ):
        if limit is not None:
            gates.append(_at_most(name, limit, figure if on_device else None))
    return gates


def overall(gates: Sequence[Gate]) -> Verdict:
    """Over the gates that could be judged: the worst of them. Deferred ones are the device's to judge."""
    verdicts = {gate.verdict for gate in gates}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def _accuracy(limit: float, m: Measures) -> Gate:
    """Passes on proof of no harm: the upper bound of the drop is within the limit."""
    if m.drop is None:
        return _deferred("accuracy_drop", limit)
    value, bound = m.drop.value_points, m.drop.upper95
    if bound <= limit:
        return Gate("accuracy_drop", limit, value, bound, "pass")
    nearest = f"accuracy_drop: {_round(bound, ROUND_CEILING)} would be met"
    if value > limit:
        return Gate("accuracy_drop", limit, value, bound, "fail", nearest)
    nearest += f"; all {m.samples or 'the'} test samples were used: more of them could settle it"
    return Gate("accuracy_drop", limit, value, bound, "inconclusive", nearest)


def _worst_slice(limit: float, m: Measures) -> Gate:
    """Fails on proof of harm only: an unresolved slice does not block."""
    if m.slices is None:
        return _deferred("worst_slice_drop", limit)
    worst = max((s.drop_points for s in m.slices), default=None)
    bound = max((s.lower95 for s in m.slices), default=None)
    harmed = [s.name for s in m.slices if s.verdict == "harmed"]
    if bound is None or not harmed:
        return Gate("worst_slice_drop", limit, worst, bound, "pass")
    nearest = f"worst_slice_drop: {_round(bound, ROUND_CEILING)} would be met; harmed: {', '.join(harmed)}"
    return Gate("worst_slice_drop", limit, worst, bound, "fail", nearest)


def _at_least(name: str, limit: float, figure: Figure | None) -> Gate:
    if figure is None:
        return _deferred(name, limit)
    verdict: GateVerdict = "pass" if figure.low95 >= limit else "fail" if figure.high95 < limit else "inconclusive"
    nearest = "" if verdict == "pass" else f"{name}: {_round(figure.low95, ROUND_FLOOR)} would be met"
    if nearest and name == "faster_than_float":
        nearest = "this limit is fixed: build without the quantize stage, or for a runtime with faster int8 kernels"
    return Gate(name, limit, figure.value, figure.low95, verdict, nearest)


def _at_most(name: str, limit: float, figure: Figure | None) -> Gate:
    if figure is None:
        return _deferred(name, limit)
    verdict: GateVerdict = "pass" if figure.high95 <= limit else "fail" if figure.low95 > limit else "inconclusive"
    nearest = "" if verdict == "pass" else f"{name}: {_round(figure.high95, ROUND_CEILING)} would be met"
    return Gate(name, limit, figure.value, figure.high95, verdict, nearest)


def _deferred(name: str, limit: float) -> Gate:
    return Gate(name, limit, None, None, "deferred", "left to the device")


def _round(value: float, rounding: str) -> str:
    """Three significant digits, rounded to the side on which the limit still holds.

    In decimal, from the shortest text: a product with a power of ten can round to the other side.
    """
    exact = Decimal(repr(float(value)))
    if not exact:
        return "0"
    return f"{exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding).normalize():f}"
