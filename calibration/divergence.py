"""Two executions of one graph, tensor by tensor: how far they differ, how far they may, and where they first do more.

What came in through an operator's inputs says nothing of the operator. So each is judged alone: `target` is what the
reference computes from the very inputs that the artifact's operator had, `found` what the artifact made of them. What
then may differ is the rounding of the result, and the operator whose result differs by more is the one at fault.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calibration.quantization import QuantizationParameters, dequantize, quantize

Kind = Literal["scale", "zero point", "layout", "fusion", "saturation", "weights", "values"]

# Results of one operator in float32, by kernels that sum in another order: share of the largest value.
FLOAT_TOLERANCE = 1e-3
# Ties round either way when sums differ in their last bits.
STEPS_TOLERANCE = 1.0
# What an exact answer counts as: far above what float32 arithmetic in another order leaves.
EXACT_DB = 300.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind, the operator and tensor at fault, and the evidence in words."""

    kind: Kind
    op: str
    tensor: str
    why: str


@dataclass(frozen=True)
class Difference:
    """How far two arrays differ. sqnr_db: 10 log10(signal / noise); max_error; relative: to the largest value."""

    sqnr_db: float
    max_error: float
    relative: float


@dataclass(frozen=True)
class Layer:
    """One tensor of both executions, in the artifact's topological order.

    op, op_type: the operator that computes it. quantized: its integers, such as "uint8 / 0.0123 + 7", or "".
    total: the artifact's execution against the reference's. own: what the operator adds by itself, given its inputs.
    expected_db: the SQNR that rounding to its own scale leaves; None where it is float. None where nothing is known.
    findings: what is wrong with it.
    """

    tensor: str
    op: str
    op_type: str
    quantized: str
    total: Difference | None
    own: Difference | None
    expected_db: float | None
    findings: tuple[Finding, ...]


def first(layers: Iterable[Layer]) -> Finding | None:
    """The first finding in topological order: what comes later may follow from it."""
    return next((finding for layer in layers for finding in layer.findings), None)


def difference(expected: np.ndarray, found: np.ndarray) -> Difference:
    """Of two arrays of one shape. An array that is not finite has no signal left."""
    x, y = expected.astype(np.float64), found.astype(np.float64)
    if np.array_equal(x, y):
        return Difference(EXACT_DB, 0.0, 0.0)
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        return Difference(-EXACT_DB, float("inf"), float("inf"))
    noise, signal = float(np.mean((x - y) ** 2)), float(np.mean(x**2))
    largest, error = float(np.abs(x).max()), float(np.abs(x - y).max())
    db = 10 * np.log10(signal / noise) if signal > 0 and noise > 0 else -EXACT_DB
    return Difference(float(np.clip(db, -EXACT_DB, EXACT_DB)), error, error / largest if largest else float("inf"))


def rounding_db(target: np.ndarray, how: QuantizationParameters, axis: int | None) -> float:
    """The SQNR that quantizing `target` leaves: what may be expected of a perfect operator."""
    return difference(target, dequantize(quantize(target, how, axis), how, axis)).sqnr_db


def steps_apart(target: np.ndarray, found: np.ndarray, how: QuantizationParameters, axis: int | None) -> np.ndarray:
    """How many integers lie between what the operator should have given and `found`, its integers."""
    return np.abs(quantize(target, how, axis).astype(np.int64) - found.astype(np.int64))


def differs_in_steps(target: np.ndarray, found: np.ndarray, how: QuantizationParameters, axis: int | None) -> bool:
    """Whether integers are farther from the target than rounding and float32 arithmetic explain."""
    slack = 1e-5 * float(np.abs(target).max(initial=0.0)) / float(how.scale.min())
    return bool(steps_apart(target, found, how, axis).max(initial=0) > STEPS_TOLERANCE + np.ceil(slack) * (slack > 0.5))


def differs_in_float(target: np.ndarray, found: np.ndarray) -> bool:
    """Whether float values are farther from the target than float32 arithmetic in another order explains."""
    return not difference(target, found).relative <= FLOAT_TOLERANCE


def kind_of_output(target: np.ndarray, found: np.ndarray, tolerance: float) -> tuple[Kind, str]:
    """What a wrong result looks like, by the simplest change that makes it of the target. Values are float."""
    return next(_likenesses(target.ravel().astype(np.float64), found.ravel().astype(np.float64), tolerance))


def _likenesses(x: np.ndarray, y: np.ndarray, tolerance: float) -> Iterator[tuple[Kind, str]]:
    """What makes y of x, the simplest first."""
    if not np.isfinite(y).all():
        yield "values", "it is not finite"
    wrong = np.abs(x - y) > tolerance
    low, high = float(y.min()), float(y.max())
    if (np.abs(np.clip(x, low, high) - y) <= tolerance).all():
        if low == 0.0 and (x < -tolerance).any() and not (x > high + tolerance).any():
            yield "fusion", "it has no values below zero, as behind a ReLU that the reference does not have here"
        yield "saturation", f"{100 * wrong.mean():.2f}% of it is clipped to [{low:.4g}, {high:.4g}]"
    if x.min() >= 0 and (np.abs(np.maximum(y, 0) - x) <= tolerance).all():
        yield "fusion", "it has values below zero, where the reference has a ReLU"
    if np.abs(np.sort(x) - np.sort(y)).max() <= tolerance:
        yield "layout", "its values are those of the reference, at other places"
    gain = float(x @ y / (x @ x)) if x.any() else 0.0
    if gain > 0 and np.abs(gain * x - y).max() <= max(gain, 1.0) * tolerance:
        yield "scale", f"it is {gain:.4g} times the reference's"
    shift = float(np.median(y - x))
    if np.abs(x + shift - y).max() <= tolerance:
        yield "zero point", f"it is the reference's plus {shift:.4g}"
    yield "fusion", f"{100 * wrong.mean():.2f}% of it differ, by up to {np.abs(x - y).max():.4g}"


def joined(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of several samples, one after the other; where shapes depend on the sample, flat."""
    if len({array.shape for array in samples}) == 1:
        return np.stack(samples)
    return np.concatenate([array.ravel() for array in samples])
