from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from targets.device.intervals import bootstrap, bounds95, expanded_percentiles, percentiles, ratio_interval

latencies = st.tuples(st.integers(2, 120), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(1e-3, 1e4))
)


def noisy(rng: np.random.Generator, p50_ms: float, spells: np.ndarray, calls: int) -> np.ndarray:
    """[blocks, calls]: a machine whose speed changes from block to block; jitter; a few calls ten times as slow."""
    jitter = rng.lognormal(0, 0.05, (len(spells), calls))
    stolen = np.where(rng.random((len(spells), calls)) < 0.02, 10.0, 1.0)
    return p50_ms * spells[:, None] * jitter * stolen


@settings(max_examples=40)
@given(latencies, st.integers(0, 5))
def test_the_interval_contains_the_value(a, seed):
    rng = np.random.default_rng(seed)
    b = a * rng.lognormal(0, 0.5, a.shape)
    ratio = ratio_interval(a, b, seed)
    assert ratio["low95"] <= ratio["value"] <= ratio["high95"]
    assert ratio["value"] == np.median(a) / np.median(b)
    for quantile in (0.5, 0.99):
        low, high = bounds95(a, quantile, seed)
        assert low <= np.quantile(a, quantile) <= high


@given(latencies)
def test_a_model_against_itself_is_exactly_one(a):
    assert ratio_interval(a, a) == {"value": 1.0, "low95": 1.0, "high95": 1.0}


@given(latencies, st.sampled_from([0.25, 2.0, 8.0]))
def test_a_ratio_without_noise_of_its_own_is_found_exactly(a, factor):
    assert ratio_interval(a * factor, a) == {"value": factor, "low95": factor, "high95": factor}


@settings(max_examples=40)
@given(latencies)
def test_bounds_scale_with_the_unit(a):
    assert bounds95(a * 1024, 0.5) == tuple(1024 * bound for bound in bounds95(a, 0.5))


@given(latencies)
def test_percentiles_are_ordered_and_count_every_call(a):
    figures = percentiles(a)
    assert a.min() <= figures["p50"] <= figures["p90"] <= figures["p99"] <= a.max()
    assert figures["n"] == a.size


def test_a_planted_factor_of_two_is_found_through_slow_spells():
    rng = np.random.default_rng(0)
    spells = np.where(rng.random(60) < 0.3, 1.8, 1.0)
    ratio = ratio_interval(noisy(rng, 2.0, spells, 20), noisy(rng, 1.0, spells, 20))
    assert ratio["low95"] <= 2.0 <= ratio["high95"]
    assert ratio["high95"] - ratio["low95"] < 0.2


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(80):
        spells = rng.lognormal(0, 0.2, 40)
        ratio = ratio_interval(noisy(rng, 3.0, spells, 10), noisy(rng, 1.0, spells, 10), seed=trial)
        covered += ratio["low95"] <= 3.0 <= ratio["high95"]
    assert covered >= 70


def test_it_does_so_too_where_few_loadings_each_have_something_to_themselves():
    rng, loadings = np.random.default_rng(4), 6
    trials, missed = 300, 0
    for trial in range(trials):
        one, other = (rng.lognormal(0, 0.01, (loadings, 1)) * rng.lognormal(0, 0.01, (loadings, 20)) for _ in range(2))
        ratio = ratio_interval(one, other, seed=trial)
        missed += not ratio["low95"] <= 1.0 <= ratio["high95"]
    # Three standard errors of a share around 5%.
    assert missed / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_blocks_of_one_loading_know_nothing_of_what_it_has_to_itself():
    """One loading of the same model is 1% slower than the other; over many loadings such differences even out."""
    rng = np.random.default_rng(5)
    one, other = rng.lognormal(0, 0.01, (2, 60, 10))
    one_loading = ratio_interval(1.01 * one, other)
    assert one_loading["low95"] > 1
    slow = rng.permutation(np.repeat([1.0, 1.01], 6))[:, None]
    many = ratio_interval(slow * one.reshape(12, -1), rng.permutation(slow) * other.reshape(12, -1))
    assert many["low95"] < 1 < many["high95"]


@pytest.mark.parametrize(("blocks", "t"), [(6, 2.57058), (8, 2.36462), (12, 2.20099), (100, 1.98422)])
def test_few_blocks_take_the_percentiles_as_far_out_as_students_t(blocks, t):
    low, high = expanded_percentiles(blocks, 0.025)
    assert low == pytest.approx(NormalDist().cdf(-t * (blocks / (blocks - 1)) ** 0.5), rel=0.02)
    assert high == 1 - low
    assert expanded_percentiles(10**6, 0.025)[0] == pytest.approx(0.025, rel=1e-3)


def test_blocks_that_resemble_each_other_inside_widen_the_interval():
    rng = np.random.default_rng(2)
    independent = rng.lognormal(0, 0.2, (40, 25))
    alike = np.repeat(rng.lognormal(0, 0.2, (40, 1)), 25, axis=1)
    (low, high), (wide_low, wide_high) = bounds95(independent, 0.5), bounds95(alike, 0.5)
    assert wide_high - wide_low > 2 * (high - low)


def test_a_large_sample_is_summarised_within_a_rank():
    sample = np.random.default_rng(3).lognormal(0, 0.3, (500, 100))
    (medians,) = bootstrap((sample,), 0.5)
    assert abs(np.median(medians) - np.median(sample)) < 0.01
    (tails,) = bootstrap((sample,), 0.99)
    assert np.quantile(sample, 0.985) < np.median(tails) < np.quantile(sample, 0.995)


@pytest.mark.parametrize("shapes", [((1, 5), (1, 5)), ((3, 5), (4, 5))])
def test_too_few_or_unpaired_blocks_are_refused(shapes):
    with pytest.raises(ValueError, match="blocks"):
        ratio_interval(np.ones(shapes[0]), np.ones(shapes[1]))
