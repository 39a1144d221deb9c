"""Affine quantization: real value = scale x (integer - zero point), as ONNX's QuantizeLinear defines it."""

from dataclasses import dataclass

import numpy as np

# Smaller scales are subnormal as float32, where runtimes flush them to zero and divide by it.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class QuantizationScheme:
    """What integers stand for a tensor.

    bits: 8, or 7 of the 8 where two products must fit a 16-bit sum. signed: int8 rather than uint8.
    symmetric: the zero point stands for the middle of the integers, so that -x and x are equally far from it.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False

    @property
    def lowest(self) -> int:
        """The smallest integer; a symmetric signed scheme leaves -2^(bits-1) out, as int8 kernels do."""
        if not self.signed:
            return 0
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def highest(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric scheme."""
        return 0 if self.signed else 2 ** (self.bits - 1)


@dataclass(frozen=True)
class QuantizationParameters:
    """scale ([channels] float32, above 0) and zero_point ([channels] int32) of a tensor; one channel for the whole."""

    scheme: QuantizationScheme
    scale: np.ndarray
    zero_point: np.ndarray


def parameters(low: np.ndarray, high: np.ndarray, scheme: QuantizationScheme) -> QuantizationParameters:
    """The parameters of the range [low, high], both [channels] float64 and finite, widened to take in zero.

    Zero is always exact: padding, ReLU and absent tokens rely on it. A range without width gets the scale 1, which
    keeps an all-zero tensor zero.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if scheme.symmetric:
        reach = np.maximum(-low, high)
        steps = scheme.highest - scheme.middle
        scale = reach / steps
    else:
        # Halves first: a range of +-3e38 has a width that float64 holds and float32 does not.
        scale = high / (scheme.highest - scheme.lowest) - low / (scheme.highest - scheme.lowest)
    scale = np.where((low == 0.0) & (high == 0.0), 1.0, np.clip(scale, SMALLEST_SCALE, LARGEST)).astype(np.float32)
    if scheme.symmetric:
        zero_point = np.full(scale.shape, scheme.middle, np.int32)
    else:
        zero = np.rint(scheme.lowest - low / scale.astype(np.float64))
        zero_point = np.clip(zero, scheme.lowest, scheme.highest).astype(np.int32)
    return QuantizationParameters(scheme, scale, zero_point)


def quantize(values: np.ndarray, how: QuantizationParameters, axis: int | None = None) -> np.ndarray:
    """Integers of `values`, int32 of the same shape: rounded half to even and saturated, as QuantizeLinear does."""
    scale, zero_point = (_along(part, values.ndim, axis) for part in (how.scale, how.zero_point))
    steps = np.rint(values.astype(np.float64) / scale) + zero_point
    return np.clip(steps, how.scheme.lowest, how.scheme.highest).astype(np.int32)


def dequantize(integers: np.ndarray, how: QuantizationParameters, axis: int | None = None) -> np.ndarray:
    """Float32 values that `integers` stand for."""
    scale, zero_point = (_along(part, integers.ndim, axis) for part in (how.scale, how.zero_point))
    return ((integers - zero_point) * scale.astype(np.float64)).astype(np.float32)


def _along(part: np.ndarray, dimensions: int, axis: int | None) -> np.ndarray:
    """[channels] shaped to meet `axis` of an array; a single value meets any."""
    if axis is None:
        return part.reshape(())
    return part.reshape([-1 if d == axis % dimensions else 1 for d in range(dimensions)])
