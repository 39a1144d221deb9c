"""The laws of Holm's correction and of the gates."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.gates import Figure, Gate, Interval, Measures, SliceResult, judge, overall, slice_verdicts
from pipeline.intervals import Pairs, pairs_of
from pipeline.recipe import Budget


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Scores of teacher and artifact, and masks that divide the samples."""
    samples = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    slices = draw(st.integers(1, 8))
    owner = rng.integers(0, slices, samples)
    teacher = (rng.random(samples) < draw(st.floats(0, 1))).astype(float)
    artifact = np.where(rng.random(samples) < draw(st.floats(0, 1)), 0.0, teacher)
    return teacher, artifact, {str(i): owner == i for i in range(slices)}


@given(scored(), st.floats(0, 20))
def test_holm_is_never_less_strict_than_uncorrected(
    drawn: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], limit: float
):
    teacher, artifact, masks = drawn
    results = slice_verdicts(teacher, artifact, masks, limit)
    assert [r.name for r in results] == list(masks)
    for r in results:
        alone = pairs_of(teacher[masks[r.name]], artifact[masks[r.name]])
        assert r.samples == alone.samples
        assert r.lower95 <= 100 * alone.lower() + 1e-6
        assert r.upper95 == pytest.approx(100 * alone.upper(), abs=1e-6)
        assert (r.verdict == "harmed") == (r.lower95 > limit)
        assert r.verdict != "ok" or r.upper95 <= limit
        assert r.verdict == "unresolved" or r.samples_needed is None


@given(scored(), st.floats(0, 20), st.floats(0, 20))
def test_a_wider_limit_harms_no_more_slices(
    drawn: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], a: float, b: float
):
    tight, wide = ({r.name for r in slice_verdicts(*drawn, limit) if r.verdict == "harmed"} for limit in sorted((a, b)))
    assert wide <= tight


@given(scored(), st.floats(0.5, 20))
def test_samples_needed_would_settle_it(drawn: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], limit: float):
    teacher, artifact, masks = drawn
    for r in slice_verdicts(teacher, artifact, masks, limit):
        if r.samples_needed is None or not r.samples:
            continue
        assert r.samples_needed > r.samples
        p = pairs_of(teacher[masks[r.name]], artifact[masks[r.name]])
        times = r.samples_needed / r.samples
        more = Pairs(times * p.losses, times * p.gains, r.samples_needed)
        assert 100 * more.upper() <= limit + 1e-6 or 100 * more.lower() >= limit - 1e-6


def test_slices_of_equal_models_are_rarely_called_harmed():
    """Holm keeps the chance of any false alarm at 5% over all slices together."""
    rng = np.random.default_rng(3)
    masks = {str(i): np.arange(1000) // 100 == i for i in range(10)}
    alarms = 0
    for _ in range(200):
        teacher = (rng.random(1000) < 0.9).astype(float)
        artifact = (rng.random(1000) < 0.9).astype(float)
        alarms += any(r.verdict == "harmed" for r in slice_verdicts(teacher, artifact, masks, None))
    assert alarms / 200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_an_empty_slice_is_unresolved():
    teacher, artifact = np.ones(50), np.ones(50)
    (empty,) = slice_verdicts(teacher, artifact, {"none": np.zeros(50, dtype=bool)}, 2.0)
    assert (empty.verdict, empty.samples, empty.drop_points) == ("unresolved", 0, 0.0)
    assert empty.samples_needed == math.ceil(NormalDist().inv_cdf(0.95) ** 2 * 0.98 / 0.02)


EVERY = Budget(
    accuracy_drop=1.0,
    worst_slice_drop=3.0,
    latency_ratio=6.0,
    size_ratio=4.0,
    latency_p50_ms=2.0,
    latency_p99_ms=4.0,
    peak_memory_mb=50.0,
    size_mb=1.0,
)
GOOD: dict[str, Any] = {
    "precision": "int8",
    "size_bytes": 90_000,
    "baseline_size_bytes": 1_900_000,
    "drop": Interval(0.5, 0.1, 0.9),
    "samples": 2000,
    "slices": (SliceResult("a", 200, 0.5, -1.0, 2.0, "ok"),),
    "latency_ratio": Figure(8.0, 7.5, 8.5),
    "latency_p50_ms": Figure(1.0, 0.9, 1.1),
    "latency_p99_ms": Figure(2.0, 1.8, 2.5),
    "peak_memory_mb": Figure(20.0, 19.0, 22.0),
}


def gate(name: str, on_device: bool = True, **changed: Any) -> Gate:
    return next(g for g in judge(EVERY, Measures(**(GOOD | changed)), on_device=on_device) if g.name == name)


def test_every_limit_has_its_gate():
    gates = judge(EVERY, Measures(**GOOD), on_device=True)
    assert {g.name for g in gates} == {*EVERY.__dataclass_fields__, "faster_than_float"}
    assert {g.verdict for g in gates} == {"pass"}
    assert overall(gates) == "pass"
    assert judge(Budget(), Measures("fp32", 90_000), on_device=False) == []


@pytest.mark.parametrize(
    ("name", "changed", "verdict", "nearest"),
    [
        ("accuracy_drop", {"drop": Interval(1.2, 0.8, 1.601)}, "fail", "accuracy_drop: 1.61 would be met"),
        ("accuracy_drop", {"drop": Interval(0.9, 0.5, 1.3)}, "inconclusive", "all 2000 test samples were used"),
        ("accuracy_drop", {"drop": Interval(-0.5, -1.0, 0.0)}, "pass", ""),
        ("latency_ratio", {"latency_ratio": Figure(6.1, 5.913, 6.3)}, "inconclusive", "latency_ratio: 5.91 would"),
        ("latency_ratio", {"latency_ratio": Figure(5.0, 4.9, 5.1)}, "fail", "latency_ratio: 4.9 would be met"),
        ("faster_than_float", {"latency_ratio": Figure(0.7, 0.68, 0.72)}, "fail", "this limit is fixed"),
        ("faster_than_float", {"float_ratio": Figure(0.7, 0.68, 0.72)}, "fail", "this limit is fixed"),
        ("size_ratio", {"size_bytes": 950_000}, "fail", "size_ratio: 2 would be met"),
        ("size_mb", {"size_bytes": 1_234_567}, "fail", "size_mb: 1.24 would be met"),
        ("latency_p99_ms", {"latency_p99_ms": Figure(3.9, 3.7, 4.2)}, "inconclusive", "latency_p99_ms: 4.2 would"),
        ("latency_p50_ms", {"latency_p50_ms": Figure(2.5, 2.2, 2.6)}, "fail", "latency_p50_ms: 2.6 would be met"),
        ("peak_memory_mb", {"peak_memory_mb": Figure(60, 58, 61)}, "fail", "peak_memory_mb: 61 would be met"),
        (
            "worst_slice_drop",
            {"slices": (SliceResult("hats", 900, 7.0, 4.56, 9.0, "harmed"),)},
            "fail",
            "worst_slice_drop: 4.56 would be met; harmed: hats",
        ),
        ("worst_slice_drop", {"slices": (SliceResult("a", 9, 7.0, -2.0, 20.0, "unresolved"),)}, "pass", ""),
    ],
)
def test_gate(name: str, changed: dict[str, Any], verdict: str, nearest: str):
    judged = gate(name, **changed)
    assert judged.verdict == verdict
    assert nearest in judged.nearest
    assert bool(judged.nearest) == (verdict != "pass")


def test_absolute_limits_are_judged_on_the_device_only():
    for name in ("latency_p50_ms", "latency_p99_ms", "peak_memory_mb"):
        elsewhere = gate(name, on_device=False)
        assert (elsewhere.verdict, elsewhere.measured, elsewhere.bound) == ("deferred", None, None)
    for name in ("latency_ratio", "size_ratio", "size_mb", "accuracy_drop", "worst_slice_drop", "faster_than_float"):
        assert gate(name, on_device=False).verdict == "pass"


def test_what_was_not_executed_is_deferred():
    gates = judge(EVERY, Measures("int8", 90_000, 1_900_000), on_device=False)
    assert {g.name for g in gates if g.verdict != "deferred"} == {"size_ratio", "size_mb"}
    assert overall(gates) == "pass"


def test_overall_is_the_worst_that_was_judged():
    def verdict(*verdicts: Any) -> str:
        return overall([Gate("g", 1.0, None, None, v) for v in verdicts])

    assert verdict("pass", "inconclusive", "fail", "deferred") == "fail"
    assert verdict("pass", "inconclusive", "deferred") == "inconclusive"
    assert verdict("pass", "deferred") == "pass"


@settings(max_examples=300)
@given(st.floats(-20, 200), st.floats(0, 10), st.floats(0, 10), st.floats(0.01, 100))
@example(2.0, 0.14, 0.0, 2.0)  # 2.0 - 0.14 is a hair below 1.86, and times 100 it is 186
def test_the_nearest_limit_would_be_met(value: float, below: float, above: float, limit: float):
    """Following the advice of a gate that did not pass makes it pass."""
    drop = Interval(value, value - below, value + above)
    figure = Figure(abs(value), max(0.0, abs(value) - below), abs(value) + above)
    measures = Measures(**(GOOD | {"drop": drop, "latency_ratio": figure, "latency_p99_ms": figure}))
    for name in ("accuracy_drop", "latency_ratio", "latency_p99_ms"):
        (judged,) = (g for g in judge(Budget(**{name: limit}), measures, on_device=True) if g.name == name)
        if judged.verdict != "pass":
            nearest = float(judged.nearest.split(": ")[1].split(" ")[0])
            (again,) = (g for g in judge(Budget(**{name: nearest}), measures, on_device=True) if g.name == name)
            assert again.verdict == "pass"
