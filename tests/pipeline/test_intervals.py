"""The laws of the bounds."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.intervals import Figure, Pairs, churn, paired_drop, pairs_of, repeated


@st.composite
def pairs(draw: st.DrawFn, most: int = 400) -> Pairs:
    samples = draw(st.integers(1, most))
    losses = draw(st.integers(0, samples))
    return Pairs(losses, draw(st.integers(0, samples - losses)), samples)


@given(pairs())
def test_bounds_enclose_the_drop(p: Pairs):
    assert p.lower() >= -1
    assert p.lower() - 1e-9 <= p.drop <= p.upper() + 1e-9
    assert p.upper() <= 1


@given(pairs())
def test_bounds_swap_with_the_models(p: Pairs):
    swapped = Pairs(p.gains, p.losses, p.samples)
    assert p.upper() == pytest.approx(-swapped.lower(), abs=1e-9)


@given(pairs(), st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_more_confidence_never_tightens(p: Pairs, a: float, b: float):
    assert p.upper(min(a, b)) >= p.upper(max(a, b)) - 1e-9
    assert p.lower(min(a, b)) <= p.lower(max(a, b)) + 1e-9


@given(pairs(), st.integers(2, 20))
def test_more_samples_of_the_same_kind_tighten(p: Pairs, times: int):
    more = Pairs(times * p.losses, times * p.gains, times * p.samples)
    assert p.lower() - 1e-9 <= more.lower()
    assert more.upper() <= p.upper() + 1e-9


@given(pairs())
def test_another_loss_never_lowers_a_bound(p: Pairs):
    assume(p.losses + p.gains < p.samples)
    worse = Pairs(p.losses + 1, p.gains, p.samples)
    assert worse.upper() >= p.upper() - 1e-9
    assert worse.lower() >= p.lower() - 1e-9


@given(pairs())
def test_a_bound_is_where_the_test_rejects(p: Pairs):
    z = NormalDist().inv_cdf(0.95)
    assume(p.losses + p.gains > 0)
    assume(p.lower() > -0.99)
    assume(p.upper() < 0.99)
    assert p.z(p.upper()) == pytest.approx(-z, abs=1e-6)
    assert p.z(p.lower()) == pytest.approx(z, abs=1e-6)


@given(st.integers(1, 100_000))
def test_no_discordant_pair_has_a_closed_form(samples: int):
    z2 = NormalDist().inv_cdf(0.95) ** 2
    assert Pairs(0, 0, samples).upper() == pytest.approx(z2 / (samples + z2), abs=1e-9)


@pytest.mark.parametrize(
    ("samples", "lost", "gained"),
    [(30, 0.05, 0.05), (100, 0.02, 0.05), (100, 0.1, 0.1), (500, 0.02, 0.01), (2000, 0.01, 0.005), (2000, 0.03, 0.03)],
)
def test_bounds_cover_the_truth(samples: int, lost: float, gained: float):
    """Each one-sided bound holds in at least 92% of the draws (see `paired_drop`), less the draws' own error."""
    draws = 2000
    rng = np.random.default_rng(0)
    counts, times = np.unique(
        rng.multinomial(samples, [lost, gained, 1 - lost - gained], draws), axis=0, return_counts=True
    )
    bounds = [(p.lower(), p.upper()) for p in (Pairs(float(b), float(c), samples) for b, c, _ in counts)]
    truth = lost - gained
    above = sum(int(n) for (_, upper), n in zip(bounds, times, strict=True) if truth <= upper)
    below = sum(int(n) for (lower, _), n in zip(bounds, times, strict=True) if truth >= lower)
    assert min(above, below) / draws > 0.92 - 3 * math.sqrt(0.92 * 0.08 / draws)


@given(pairs(60), st.floats(-0.9, 0.9))
def test_statistic_takes_the_likeliest_share(p: Pairs, drop: float):
    """The share of gains under the hypothesis, found by search, gives the statistic that the closed form gives."""

    def likelihood(gain: float) -> float:
        terms = ((p.losses, gain + drop), (p.gains, gain), (p.samples - p.losses - p.gains, 1 - drop - 2 * gain))
        return sum(n * math.log(max(share, 1e-300)) for n, share in terms if n)

    low, high = max(0.0, -drop), (1 - drop) / 2
    for _ in range(100):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if likelihood(left) < likelihood(right) else (low, right)
    variance = (2 * low + drop * (1 - drop)) / p.samples
    assume(variance > 1e-6)
    assert p.z(drop) == pytest.approx((p.drop - drop) / math.sqrt(variance), rel=1e-4, abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=300))
def test_paired_drop_is_in_points(answers: list[tuple[int, int]]):
    teacher, artifact = np.array(answers, dtype=float).T
    drop = paired_drop(teacher, artifact)
    assert drop.value_points == pytest.approx(100 * (teacher.mean() - artifact.mean()))
    assert drop.low95 - 1e-6 <= drop.value_points <= drop.upper95 + 1e-6


def test_scores_that_are_not_shares_are_refused():
    with pytest.raises(ValueError, match="artifact's scores"):
        pairs_of(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="paired"):
        pairs_of(np.array([0.0, 1.0]), np.array([1.0]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=200))
def test_churn_is_a_share_below_its_bound(answers: list[tuple[int, int]]):
    both = np.array(answers, dtype=np.int64).reshape(-1, 2)
    result = churn(both[:, 0], both[:, 1])
    assert 0 <= result.value <= result.upper95 <= 1
    assert result == churn(both[:, 1], both[:, 0])


def test_repeats_bound_their_median():
    assert repeated([5.0, 1.0, 3.0, 2.0, 4.0]) == Figure(3.0, 1.0, 5.0)
    with pytest.raises(ValueError, match="4 repeats"):
        repeated([1.0, 2.0, 3.0, 4.0])
