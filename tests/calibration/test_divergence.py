import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.divergence import (
    Finding,
    Layer,
    difference,
    differs_in_float,
    differs_in_steps,
    first,
    kind_of_output,
    rounding_db,
)
from calibration.fault_evidence import unlike, wrong_constant, wrong_range
from calibration.quantization import QuantizationParameters, QuantizationScheme, dequantize, parameters, quantize

UINT8 = QuantizationScheme()
INT8 = QuantizationScheme(signed=True, symmetric=True)
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fitted(values: np.ndarray, scheme: QuantizationScheme = UINT8) -> QuantizationParameters:
    return parameters(values.min().reshape(1), values.max().reshape(1), scheme)


def per_channel(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, QuantizationParameters]:
    over = tuple(range(1, weights.ndim))
    how = parameters(weights.min(axis=over), weights.max(axis=over), INT8)
    return quantize(weights, how, 0), how.scale.reshape(-1, *[1] * (weights.ndim - 1)), how


@given(SEEDS)
def test_what_is_rounded_to_a_fitting_range_is_expected(seed):
    values = drawn(seed, 64)
    how = fitted(values)
    assert not differs_in_steps(values, quantize(values, how), how, None)
    assert wrong_range(values, how) is None
    found = difference(values, dequantize(quantize(values, how), how))
    assert found.max_error <= 0.501 * float(how.scale[0])
    assert found.sqnr_db == rounding_db(values, how, None)


@given(SEEDS)
def test_two_steps_are_not_expected(seed):
    values = drawn(seed, 64)
    how = fitted(values)
    off = quantize(values, how)
    off[7] += 2 if off[7] < 128 else -2
    assert differs_in_steps(values, off, how, None)


def test_float_results_may_differ_by_the_order_of_sums():
    values = drawn(0, 100)
    assert not differs_in_float(values, values * (1 + 1e-6))
    assert differs_in_float(values, values + 0.01)
    assert differs_in_float(values, np.where(values > 2, np.nan, values))


@given(SEEDS)
def test_rounded_weights_are_what_they_were_made_from(seed):
    weights = drawn(seed, 6, 4, 3, 3)
    integers, step, how = per_channel(weights)
    assert wrong_constant(weights, dequantize(integers, how, 0), step, 0) is None


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("scale", lambda q, s: q * s * np.where(np.arange(6) == 2, 1.05, 1.0).reshape(-1, 1, 1, 1)),
        ("scale", lambda q, s: q * s * 2),
        ("zero point", lambda q, s: (q - 3) * s),
        ("layout", lambda q, s: q[::-1] * s),
        ("layout", lambda q, s: q.swapaxes(2, 3) * s),
        ("layout", lambda q, s: q[:, ::-1] * s),
        ("layout", lambda q, s: (q * s).transpose(1, 0, 2, 3)),
        ("fusion", lambda q, s: 0.0 * q * s),
        ("weights", lambda q, s: np.tanh(3 * q * s)),
    ],
)
def test_wrong_weights_are_named(kind, spoil):
    weights = drawn(1, 6, 4, 3, 3)
    integers, step, _ = per_channel(weights)
    found = wrong_constant(weights, spoil(integers, step), step, 0)
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("saturation", lambda x: np.clip(x, -1.0, 0.5)),
        ("fusion", lambda x: np.maximum(x, 0)),
        ("layout", lambda x: x[::-1]),
        ("scale", lambda x: 1.5 * x),
        ("zero point", lambda x: x + 0.7),
        ("values", lambda x: np.where(x > 1, np.nan, x)),
        ("fusion", lambda x: x**3),
    ],
)
def test_wrong_results_are_named(kind, spoil):
    target = drawn(2, 500)
    assert kind_of_output(target, spoil(target), 0.01)[0] == kind


def test_a_lost_relu():
    values = drawn(3, 500)
    assert kind_of_output(np.maximum(values, 0), values, 0.01) == (
        "fusion",
        "it has values below zero, where the reference has a ReLU",
    )


@pytest.mark.parametrize(
    ("kind", "scale", "shift"), [("saturation", 0.1, 0), ("scale", 16.0, 0), ("zero point", 1.0, 100)]
)
def test_ranges_that_do_not_fit(kind, scale, shift):
    values = np.abs(drawn(4, 4000))
    how = fitted(values)
    off = QuantizationParameters(UINT8, how.scale * np.float32(scale), how.zero_point + shift)
    found = wrong_range(np.minimum(values, values.max()), off)
    assert found is not None
    assert found[0] == kind


def test_few_values_that_a_tensor_consists_of_must_not_be_clipped():
    """A softmax: most of its values are near zero, and what it says is in the others."""
    values = np.zeros(4000)
    values[:60] = drawn(6, 60) ** 2 + 1
    how = QuantizationParameters(UINT8, np.float32([values.max() / 255]), np.int32([0]))
    assert wrong_range(values, how) is None
    off = QuantizationParameters(UINT8, how.scale * np.float32(0.2), how.zero_point)
    found = wrong_range(values, off)
    assert found is not None
    assert found[0] == "saturation"
    outlier = np.abs(drawn(7, 4000))
    outlier[:20] *= 3
    assert wrong_range(outlier, fitted(np.abs(drawn(7, 4000)))) is None


def test_weights_that_were_rounded_twice_are_said_to_be():
    weights = drawn(1, 6, 4, 3, 3)
    _, step, how = per_channel(weights)
    coarser = 1.5 * step
    twice = np.rint(dequantize(per_channel(weights)[0], how, 0) / coarser) * coarser
    found = wrong_constant(weights, twice, np.broadcast_to(coarser, weights.shape), 0)
    assert found is not None
    assert found[0] == "weights"
    assert "rounded twice" in found[1]


def test_one_scale_of_many_is_told_from_another_order():
    """Among many weights those of one channel hardly change how all are distributed."""
    weights = drawn(8, 64 * 27).reshape(64, 27)
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    integers = np.rint(weights / step)
    wrong = step.copy()
    wrong[3] *= 2
    found = wrong_constant(weights, integers * wrong, wrong, 0)
    assert found is not None
    assert found[0] == "scale"


def test_integers_read_otherwise_than_they_were_made():
    how = fitted(drawn(5, 50))
    assert unlike(how, how) is None
    for kind, scale, zero in (("scale", how.scale * 2, how.zero_point), ("zero point", how.scale, how.zero_point + 1)):
        found = unlike(how, QuantizationParameters(UINT8, scale, zero))
        assert found is not None
        assert found[0] == kind


def test_the_first_is_the_first_in_order():
    findings = [Finding("scale", name, name, "") for name in ("a", "b")]
    layers = [Layer("x", "op", "Conv", "", None, None, None, found) for found in ((), (findings[0],), (findings[1],))]
    assert first(layers) == findings[0]
    assert first(layers[:1]) is None


def test_what_is_not_finite_has_no_signal():
    found = difference(np.ones(3), np.array([1.0, np.inf, 1.0]))
    assert (found.sqnr_db, found.max_error) == (-300.0, np.inf)
