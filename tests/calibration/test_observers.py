"""Each observer against the same rule applied to all values at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.observers.entropy import Entropy, least_lost
from calibration.observers.histogram import BINS, HALF, Histogram
from calibration.observers.min_max import MinMax
from calibration.observers.moving_average import MovingAverage
from calibration.observers.mse import Mse, squared_errors
from calibration.observers.percentile import Percentile
from calibration.quantization import QuantizationScheme, dequantize, parameters, quantize

ALL = [MinMax, MovingAverage, Percentile, Mse, Entropy]
UNSIGNED, SYMMETRIC = QuantizationScheme(), QuantizationScheme(signed=True, symmetric=True)
batches = st.lists(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    min_size=1,
    max_size=6,
)


def samples(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=20_000)
    match kind:
        case "normal":
            values = normal
        case "relu":
            values = np.maximum(normal, 0)
        case "outlier":
            values = np.append(normal, 40.0)
        case "shifted":
            values = normal * 0.1 + 3
        case "gelu":
            values = np.where(normal > 0, normal, normal * 0.03)
        case _:
            values = rng.standard_t(2, 20_000)
    return values.astype(np.float32)


KINDS = ["normal", "relu", "outlier", "shifted", "gelu", "heavy"]


def watched(observer, values: np.ndarray, parts: int = 7):
    for part in np.array_split(values, parts):
        observer.observe(part)
    return observer


@given(batches, st.randoms())
def test_a_histogram_is_that_of_all_values_in_any_order(parts, random):
    histogram = Histogram()
    shuffled = list(parts)
    random.shuffle(shuffled)
    for part in shuffled:
        histogram.observe(part)
    values = np.concatenate(parts).astype(np.float64)
    edges = (np.arange(BINS + 1) - HALF) * histogram.width[0]
    offline = np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=BINS)
    assert (histogram.counts[0] == offline).all()
    assert (histogram.low[0], histogram.high[0]) == (values.min(), values.max())
    largest = np.abs(values).max()
    assert largest == 0 or largest < HALF * histogram.width[0] <= 2 * largest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_a_percentile_is_that_of_all_values_to_one_bin(kind, percentile):
    values = samples(kind, 0)
    observer = watched(Percentile(percentile=percentile), values)
    low, high = observer.range(UNSIGNED)
    width = observer.histogram.width[0]
    ordered, outside = np.sort(values), round(len(values) * (100 - percentile) / 100)
    assert abs(low[0] - ordered[outside]) <= width
    assert abs(high[0] - ordered[-1 - outside]) <= width
    assert values.min() <= low[0] <= high[0] <= values.max()


@pytest.mark.parametrize("scheme", [UNSIGNED, SYMMETRIC], ids=["u8", "s8"])
@pytest.mark.parametrize("kind", KINDS)
def test_mse_loses_as_little_as_a_search_over_all_values(kind, scheme):
    values = samples(kind, 1)
    observer = watched(Mse(), values)

    def loss(low: float, high: float) -> float:
        how = parameters(np.array([low]), np.array([high]), scheme)
        return float(((dequantize(quantize(values, how), how) - values.astype(np.float64)) ** 2).mean())

    (low,), (high,) = observer.range(scheme)
    lowest, highest = min(values.min(), 0.0), max(values.max(), 0.0)
    tried = np.linspace(0.1, 1, 91)
    best = min(loss(lowest * share, highest * share) for share in tried)
    assert loss(low, high) <= best * 1.02
    assert loss(low, high) <= loss(lowest, highest) * 1.02


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_that_of_all_values(kind):
    values = samples(kind, 2)
    (low,), (high,) = watched(Entropy(), values).range(UNSIGNED)
    whole = watched(Entropy(), values, parts=1)
    assert whole.range(UNSIGNED) == (np.array([low]), np.array([high]))
    if kind == "outlier":
        assert high < 10
    # The bin that holds zero says nothing about a threshold.
    width, reach = 2 * whole.histogram.width[0], np.abs(values).max()
    kept = np.abs(values[(values >= whole.histogram.width[0]) | (values < -whole.histogram.width[0])])
    grid = np.histogram(kept, np.arange(int(reach / width) + 2) * width)[0]
    offline = min(reach, least_lost(grid, 256 if values.min() >= 0 else 128) * width)
    assert abs(max(-low, high) - offline) <= width


def test_a_moving_average_follows_the_batches():
    observer = MovingAverage(momentum=0.5)
    for high in (2.0, 4.0, 4.0):
        observer.observe(np.array([-1.0, high], np.float32))
    assert observer.range(UNSIGNED) == (-1.0, 3.5)


@pytest.mark.parametrize("kind", ALL)
def test_each_channel_has_the_range_it_would_have_alone(kind):
    rng = np.random.default_rng(3)
    values = (rng.normal(size=(50, 4, 6)) * np.array([1, 10, 1e-3, 0])[:, None]).astype(np.float32)
    together = kind(axis=1)
    alone = [kind() for _ in range(4)]
    for part in np.array_split(values, 5):
        together.observe(part)
        for channel, observer in enumerate(alone):
            observer.observe(part[:, channel])
    low, high = together.range(UNSIGNED)
    assert low.shape == high.shape == (4,)
    for channel, observer in enumerate(alone):
        assert (low[channel], high[channel]) == tuple(end[0] for end in observer.range(UNSIGNED))


@pytest.mark.parametrize("scheme", [UNSIGNED, SYMMETRIC], ids=["u8", "s8"])
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "values",
    [[0.0], [0.0, -0.0], [5.0], [-(2.0**127), 2.0**127], [2.0**-149], [-(2.0**-149), 2.0**126], [2.0**24], [-1.0]],
    ids=str,
)
def test_odd_tensors_have_a_range_within_what_was_seen(kind, values, scheme):
    observer = kind()
    observer.observe(np.array(values, np.float32))
    observer.observe(np.empty((0, 3), np.float32))
    (low,), (high,) = observer.range(scheme)
    assert min(*values, 0) <= low <= high <= max(*values, 0)
    how = parameters(np.array([low]), np.array([high]), scheme)
    assert np.isfinite(how.scale).all()


@pytest.mark.parametrize("kind", ALL)
def test_what_is_no_number_is_refused_and_nothing_has_no_range(kind):
    with pytest.raises(ValueError, match="nothing was observed"):
        kind().range(UNSIGNED)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            kind().observe(np.array([1.0, bad], np.float32))


def test_memory_does_not_grow():
    histogram = Histogram()
    sizes = {
        sum(part.nbytes for part in vars(watched(histogram, samples("heavy", seed))).values() if part is not None)
        for seed in range(20)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("kind", [Percentile, Mse, Entropy])
def test_one_histogram_serves_several_observers(kind):
    shared = watched(Histogram(), samples("heavy", 5))
    alone = watched(kind(), samples("heavy", 5))
    assert kind(histogram=shared).range(UNSIGNED) == alone.range(UNSIGNED)


def test_squared_errors_are_those_of_quantizing():
    values = samples("normal", 4).astype(np.float64)
    how = parameters(np.array([-2.0]), np.array([2.5]), UNSIGNED)
    direct = ((dequantize(quantize(values, how), how) - values) ** 2).sum()
    computed = squared_errors(values, np.ones(len(values)), np.array([-2.0]), np.array([2.5]), UNSIGNED)
    assert computed[0] == pytest.approx(direct, rel=1e-6)
