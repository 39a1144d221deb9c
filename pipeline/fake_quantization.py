"""Fake quantization: float values rounded to those that integers stand for, with gradients as if they were not.

Learned step size quantization (Esser et al. 2020, arXiv:1902.08153): the rounding passes gradients straight through
where nothing is clipped, and the scale has a gradient of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from calibration.saturation import LARGEST_PAIR

# Weights so small cannot clip a sum of two products, whatever their neighbour.
SEVEN_BITS = 64
# The largest float32 below 2^31.
LARGEST_INT32 = 2**31 - 128
RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.int32: (-LARGEST_INT32, LARGEST_INT32),
}


@dataclass(frozen=True)
class Integers:
    """What integers a tensor may have: from lowest to highest, around zero_point (of float dtype, broadcast to it).

    order: of weights whose pairs must not clip (calibration/saturation.py), the axes in the order of summing, the
        output channels last; None for all other tensors.
    """

    zero_point: Tensor
    lowest: int
    highest: int
    order: tuple[int, ...] | None = None

    def of(self, steps: Tensor) -> Tensor:
        """The integers of values / scale less the zero point, as QuantizeLinear rounds: half to even, saturated."""
        rounded = steps.round().add_(self.zero_point).clamp_(self.lowest, self.highest).sub_(self.zero_point)
        return rounded if self.order is None else without_clipping_pairs(rounded, self.order)

    def keeping(self, before: Tensor, order: tuple[int, ...] | None) -> "Integers":
        """Those that keep a guard that the integers `before` show: seven bits, or no pair that clips, or a free -128.

        order: of summing, where it is known.
        """
        if self.zero_point.any() or self.lowest >= 0 or self.highest > 127:
            return self
        if before.abs().max() <= SEVEN_BITS:
            return replace(self, lowest=-SEVEN_BITS, highest=SEVEN_BITS)
        symmetric = replace(self, lowest=max(self.lowest, int(before.min().clamp(max=-127))))
        if order is not None and torch.equal(without_clipping_pairs(before, order), before):
            return replace(symmetric, order=order)
        return symmetric


def without_clipping_pairs(integers: Tensor, order: tuple[int, ...]) -> Tensor:
    """Weights with both of a pair brought towards zero where their sum could clip; all others as they are."""
    matrix = integers.permute(order)
    shape = matrix.shape
    rows = matrix.reshape(-1, shape[-1])
    even = rows[: len(rows) // 2 * 2].reshape(-1, 2, shape[-1])
    same_sign = even[:, 0] * even[:, 1] > 0
    excess = (even.abs().sum(1) - LARGEST_PAIR).clamp_(min=0) * same_sign
    if not excess.any():
        return integers
    # Neither passes zero: each is larger than the excess, since the other is 127 at most.
    less = torch.stack([(excess / 2).ceil(), (excess / 2).floor()], 1)
    kept = (even - even.sign() * less).reshape(-1, shape[-1])
    whole = torch.cat([kept, rows[len(kept) :]]).reshape(shape)
    return whole.permute([order.index(axis) for axis in range(len(order))]).contiguous()


class _FakeQuantize(torch.autograd.Function):
    """values, scale (broadcast to values), Integers -> values of the same shape."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, integers: Integers) -> Tensor:
        steps = values / scale
        whole = integers.of(steps)
        # What is clipped rounds to an end from more than half a step beyond it.
        inside = (steps >= integers.lowest - integers.zero_point - 0.5) & (
            steps <= integers.highest - integers.zero_point + 0.5
        )
        ctx.save_for_backward(inside, whole - steps * inside)
        ctx.scale_shape = scale.shape
        # The factor of the paper, section 2.2: the steps of scales and weights are then of one order.
        ctx.factor = (values.numel() / scale.numel() * integers.highest) ** -0.5
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors
        [gradient] = gradients
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = (gradient * slope).sum_to_size(ctx.scale_shape) * ctx.factor
        return gradient * inside if ctx.needs_input_grad[0] else None, of_scale, None


fake_quantize: Callable[[Tensor, Tensor, Integers], Tensor] = _FakeQuantize.apply
