"""What the constants and the quantization parameters of an artifact say for themselves, before anything is run."""

from collections.abc import Iterator

import numpy as np

from calibration.divergence import Kind
from calibration.quantization import QuantizationParameters

# Weights are rounded to the nearest integer: half a step, and what float32 adds.
HALF_STEP = 0.5 + 1e-3
# Quantizers that weigh clipping against rounding may clip so many weights.
CLIPPED_WEIGHTS = 0.02
# The largest integer, less what rounding the scale itself may add to a step.
LARGEST_STEPS = 112
# Clipping may cost this many times the noise of rounding before a range counts as too narrow, and must touch so many
# values: outliers are clipped on purpose.
CLIPPING_NOISE = 100.0
CLIPPED_VALUES = 0.02
# Of fewer, where what clipping takes leaves no more than this, dB: they are what the tensor consists of.
TOO_MUCH_CLIPPED_DB = 15.0
# Other samples than the calibration's reach a little farther: so few values are no range.
FEW_VALUES = 8
# A range that values fill to less than this share gives away three bits.
FILLED = 1 / 8
# Of the range: what lies idle on one side while the other side clips.
IDLE = 0.1


def wrong_constant(
    expected: np.ndarray, found: np.ndarray, step: np.ndarray, axis: int | None
) -> tuple[Kind, str] | None:
    """What is wrong with a constant; None where it is `expected` but for rounding.

    found: the values that the artifact's integers stand for. step: distance of neighbouring values, broadcast to them;
    zero for float constants. axis: the one that scales belong to.
    """
    if expected.shape != found.shape:
        kind: Kind = "layout" if sorted(expected.shape) == sorted(found.shape) else "weights"
        return kind, f"its shape is {list(found.shape)}, the reference's {list(expected.shape)}"
    x, y = expected.astype(np.float64), found.astype(np.float64)
    step = np.broadcast_to(step, x.shape).astype(np.float64)
    allowed = HALF_STEP * step + 1e-5 * np.abs(x).max(initial=0.0)
    wrong = np.abs(x - y) > allowed
    if not wrong.any():
        return None
    # Beyond the largest integer all are clipped alike.
    clipped = wrong & (np.abs(x) > np.abs(y)) & (np.abs(y) >= LARGEST_STEPS * step) & (x * y > 0)
    if (wrong == clipped).all() and clipped.mean() <= CLIPPED_WEIGHTS:
        return None
    if not y.any():
        return "fusion", "it is zero throughout, as if it had been dropped"
    kind, why = next(_likenesses(x, y, step, allowed, axis))
    if kind == "weights" and (wrong == clipped).all():
        kind, why = "saturation", "the largest are clipped"
    return kind, f"{100 * wrong.mean():.1f}% of it differ by more than half a step: {why}"


def _likenesses(
    x: np.ndarray, y: np.ndarray, step: np.ndarray, allowed: np.ndarray, axis: int | None
) -> Iterator[tuple[Kind, str]]:
    """What makes y of x, the simplest first."""
    gain, along = _gains(x, y, allowed)
    if gain is not None and along is not None:
        if axis is not None and along not in (axis % x.ndim, -1):
            yield "layout", f"its scales lie along axis {along}, not {axis % x.ndim}"
        off = gain[np.abs(gain - 1) > 1e-3]
        if off.size:
            yield "scale", f"{off.size} of its {gain.size} scales are off, by up to {_farthest(off):.4g} times"
        less = "none by more than a step, as where they are rounded twice"
        yield "weights", less if step.all() else f"by up to {np.abs(x - y).max():.4g}"
    integers = step.all() and _same_values(np.rint(x / step), np.rint(y / step), np.zeros(()))
    if integers or _same_values(x, y, allowed):
        yield "layout", "its values are the reference's, at other places"
    shift = _shifts(x, y, allowed, axis)
    if shift is not None:
        steps = f" ({np.abs(shift).max() / step.min():.3g} steps)" if step.all() else ""
        yield "zero point", f"it is shifted by up to {np.abs(shift).max():.4g}{steps}"
    yield "weights", f"by up to {np.abs(x - y).max():.4g}"


def _same_values(x: np.ndarray, y: np.ndarray, allowed: np.ndarray) -> bool:
    return bool((np.abs(np.sort(x.ravel()) - np.sort(y.ravel())) <= 2 * allowed.max()).all()) and x.size > 1


def _gains(x: np.ndarray, y: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray | None, int | None]:
    """Factors along one axis (-1: one for all) that make y of x, and the axis."""
    for along in (-1, *range(x.ndim)):
        over = tuple(a for a in range(x.ndim) if a != along)
        power = (x * x).sum(axis=over, keepdims=True)
        if not power.any():
            continue
        gain = np.where(power > 0, (x * y).sum(axis=over, keepdims=True) / np.where(power > 0, power, 1.0), 1.0)
        if (gain > 0).all() and (np.abs(gain * x - y) <= 2 * allowed * np.maximum(gain, 1.0)).all():
            return gain.ravel(), along
    return None, None


def _shifts(x: np.ndarray, y: np.ndarray, allowed: np.ndarray, axis: int | None) -> np.ndarray | None:
    """Offsets along the axis that make y of x."""
    over = tuple(a for a in range(x.ndim) if axis is None or a != axis % x.ndim)
    shift = (y - x).mean(axis=over, keepdims=True)
    return shift.ravel() if (np.abs(x + shift - y) <= 2 * allowed).all() else None


def _farthest(gains: np.ndarray) -> float:
    return float(gains[np.argmax(np.abs(np.log(gains)))]) if gains.size else 1.0


def unlike(quantizer: QuantizationParameters, dequantizer: QuantizationParameters) -> tuple[Kind, str] | None:
    """Whether integers are read by other parameters than they were made with."""
    if quantizer.scale.shape != dequantizer.scale.shape:
        return "layout", "the scales of one are per tensor, of the other per channel"
    if not np.allclose(quantizer.scale, dequantizer.scale, rtol=1e-6, atol=0):
        worst = _farthest(dequantizer.scale.astype(np.float64).ravel() / quantizer.scale.ravel())
        return "scale", f"its integers are read with {worst:.4g} times the scale that they were made with"
    if not np.array_equal(quantizer.zero_point, dequantizer.zero_point):
        apart = int(np.abs(quantizer.zero_point - dequantizer.zero_point).max())
        return "zero point", f"its integers are read with a zero point {apart} away from the one they were made with"
    return None


def misfit(values: np.ndarray, how: QuantizationParameters) -> float:
    """How badly a per-tensor range fits the values: |log2| of their reach over its own, on either side; 0 is a fit."""
    low, high = _reach(how)
    sides = [(max(-float(values.min()), 0.0), -low), (max(float(values.max()), 0.0), high)]
    return sum(
        abs(float(np.log2((seen + 1e-12) / (given + 1e-12)))) for seen, given in sides if max(seen, given) > 1e-9
    )


def wrong_range(values: np.ndarray, how: QuantizationParameters) -> tuple[Kind, str] | None:
    """What is wrong with a per-tensor range for these values, which it has to hold; None where it may pass."""
    if how.scale.size != 1 or not np.isfinite(values).all() or not values.size:
        return None
    scale, zero = float(how.scale.reshape(-1)[0]), int(how.zero_point.reshape(-1)[0])
    steps = values.astype(np.float64) / scale + zero
    lowest, highest = how.scheme.lowest, how.scheme.highest
    over, under = np.maximum(steps - highest, 0.0), np.maximum(lowest - steps, 0.0)
    clipped = (over > 1) | (under > 1)
    levels = highest - lowest
    bottom, top = min(float(steps.min()), zero), max(float(steps.max()), zero)
    idle_low, idle_high = max(bottom - lowest, 0.0) / levels, max(highest - top, 0.0) / levels
    noise = float(np.mean(over**2 + under**2)) * 12
    symmetric = zero == how.scheme.middle
    power = float(np.mean((steps - zero) ** 2)) * 12
    many = clipped.mean() > CLIPPED_VALUES or 10 * np.log10(power / max(noise, 1e-12)) < TOO_MUCH_CLIPPED_DB
    if noise > CLIPPING_NOISE and many and clipped.sum() > FEW_VALUES:
        if not symmetric and ((over.any() and idle_low > IDLE) or (under.any() and idle_high > IDLE)):
            return "zero point", f"{100 * clipped.mean():.1f}% of its values are clipped on one side, the other is idle"
        reach = max((top - zero) / max(highest - zero, 1), (zero - bottom) / max(zero - lowest, 1))
        return "saturation", (
            f"{100 * clipped.mean():.1f}% of its values lie outside its range; they reach {reach:.3g} times as far"
        )
    if not symmetric and noise > 1 and ((over.any() and idle_low > 2 * IDLE) or (under.any() and idle_high > 2 * IDLE)):
        return "zero point", "values are clipped on one side of its range while the other is idle"
    filled = (top - bottom) / levels
    if 0 < filled < FILLED:
        return "scale", f"its values fill {100 * filled:.1f}% of its range"
    return None


def _reach(how: QuantizationParameters) -> tuple[float, float]:
    scale, zero = float(how.scale.reshape(-1)[0]), int(how.zero_point.reshape(-1)[0])
    return scale * (how.scheme.lowest - zero), scale * (how.scheme.highest - zero)
