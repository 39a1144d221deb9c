"""What an int8 kernel computes on an x86-64 CPU without VNNI, and the weights with which it computes the right thing.

There, vpmaddubsw multiplies unsigned activations by signed weights, adds each two neighbouring products and clips the
sum to 16 bits (Intel SDM, PMADDUBSW); only then are the pairs summed in 32 bits. What is clipped is lost in silence.
Neighbours follow each other along the summed dimension: the rows of a matrix; of a convolution's kernel its channels,
then columns, then rows. Signed activations and depthwise convolutions go through other instructions, which are exact.
That is ONNX Runtime. OpenVINO's kernels (2026.4, on a CPU with AVX2 alone) clip signed activations, too, which they
move to unsigned ones, and without groups no pair of theirs spans two places of a kernel: an odd channel is alone.
"""

import numpy as np

from calibration.quantization import SMALLEST_SCALE

LOWEST, HIGHEST = -(2**15), 2**15 - 1
LARGEST_ACTIVATION = 255
# Weights of one sign in a pair may sum up to this, and no activation clips the pair: 255 x 128 < 2^15.
LARGEST_PAIR = HIGHEST // LARGEST_ACTIVATION
LARGEST_WEIGHT = 127
# Widened scales round weights anew, which may lift a pair by one: few rounds settle it.
ROUNDS = 20


def saturating_matmul(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[m, n] int32 sums of [m, k] uint8 activations and [k, n] int8 weights as that kernel gives them, pair by pair."""
    exact = activations.astype(np.int32) @ weights.astype(np.int32)
    for first in range(0, len(weights) - 1, 2):
        a, b = activations[:, first : first + 2].astype(np.int32), weights[first : first + 2].astype(np.int32)
        # Few pairs can clip at all: the others' exact sums stand.
        risky = np.flatnonzero(_largest_pair(weights[first : first + 2]) > LARGEST_PAIR)
        if len(risky):
            pairs = a @ b[:, risky]
            exact[:, risky] -= pairs - np.clip(pairs, LOWEST, HIGHEST)
    return exact


def saturating_conv(
    activations: np.ndarray,
    weights: np.ndarray,
    *,
    zero_point: int,
    group: int = 1,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Int32 sums of a convolution, before its scale: [n, out channels, height, width].

    activations: [n, channels, height, width] uint8 with that zero point, with which they are padded; weights:
    [out channels, channels / group, rows, columns] int8 with zero point 0; pads: top, left, bottom, right.
    """
    n, channels = activations.shape[:2]
    out_channels, depth, rows, columns = weights.shape
    padded = np.pad(activations, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero_point)
    height = (padded.shape[2] - dilations[0] * (rows - 1) - 1) // strides[0] + 1
    width = (padded.shape[3] - dilations[1] * (columns - 1) - 1) // strides[1] + 1
    windows = np.empty((n, height, width, rows, columns, channels), np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * dilations[0], column * dilations[1]
            part = padded[:, :, top : top + height * strides[0], left : left + width * strides[1]]
            windows[:, :, :, row, column] = part[:, :, :: strides[0], :: strides[1]].transpose(0, 2, 3, 1)
    sums = np.empty((n, height, width, out_channels), np.int32)
    each = out_channels // group
    for index in range(group):
        a = windows[..., index * depth : (index + 1) * depth].reshape(n * height * width, -1)
        b = as_matrix(weights[index * each : (index + 1) * each])
        # A depthwise kernel multiplies in 16 bits and adds in 32.
        product = a.astype(np.int32) @ b.astype(np.int32) if is_depthwise(weights, group) else saturating_matmul(a, b)
        product -= zero_point * b.astype(np.int32).sum(axis=0)
        sums[..., index * each : (index + 1) * each] = product.reshape(n, height, width, each)
    return sums.transpose(0, 3, 1, 2)


def is_depthwise(weights: np.ndarray, group: int) -> bool:
    """Has each channel of a convolution one filter of its own?"""
    return weights.shape[1] == 1 and weights.shape[0] == group


def as_matrix(weights: np.ndarray) -> np.ndarray:
    """[k, out channels] of a convolution's [out channels, channels, *kernel], in the order of summing."""
    return weights.transpose(*range(2, weights.ndim), 1, 0).reshape(-1, len(weights))


def largest_pair(weights: np.ndarray) -> np.ndarray:
    """[n]: of [k, n] int8 weights, the largest sum of one sign within a pair. Above LARGEST_PAIR it can clip."""
    return largest_in_pairs(weights).max(axis=0)


def largest_in_pairs(weights: np.ndarray) -> np.ndarray:
    """[pairs, n]: of [k, n] int8 weights, the larger sum of one sign in each pair, the last of an odd k alone."""
    even = weights if len(weights) % 2 == 0 else np.concatenate([weights, np.zeros_like(weights[:1])])
    return _largest_pair(even.reshape(-1, 2, weights.shape[1]).transpose(1, 0, 2))


def _largest_pair(pair: np.ndarray) -> np.ndarray:
    wide = pair.astype(np.int32)
    return np.maximum(np.maximum(wide, 0).sum(axis=0), -np.minimum(wide, 0).sum(axis=0))


def safe_scales(weights: np.ndarray, finest: np.ndarray | None = None) -> np.ndarray:
    """[n] float32: the finest symmetric scale of each output channel with which no activation can clip a pair.

    weights: [k, n] float, in the order of summing. Where no pair is in danger it is the largest weight / 127; seven
    bits would make it twice that. The answers are then the same on every CPU.
    finest: [n] scales to start from instead, where a quantizer has chosen some; larger weights it cut off.
    """
    # As quantizers store scales and divide by them: what is half a step in float64 may be more, or less, in float32.
    weights = weights.astype(np.float32)
    largest = np.abs(weights).max(axis=0)
    scales = np.where(largest > 0, largest / LARGEST_WEIGHT, 1.0) if finest is None else finest
    scales = np.maximum(scales, SMALLEST_SCALE).astype(np.float32)
    for _ in range(ROUNDS):
        pairs = largest_pair(np.clip(np.rint(weights / scales), -LARGEST_WEIGHT - 1, LARGEST_WEIGHT).astype(np.int32))
        if (pairs <= LARGEST_PAIR).all():
            break
        wider = scales * np.maximum(pairs / LARGEST_PAIR, 1 + 1e-3).astype(np.float32)
        scales = np.where(pairs > LARGEST_PAIR, wider, scales)
    return scales
