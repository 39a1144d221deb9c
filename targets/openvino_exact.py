"""A quantized OpenVINO model with the answers of a CPU whose int8 sums are exact, on a CPU that clips them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Model, Node


def spell_out_quantization(model: "Model") -> None:
    """Puts clamping, scaling and rounding in the place of every FakeQuantize, in float32.

    OpenVINO makes int8 kernels of a model for its FakeQuantize operators. Without them it computes the rounded values
    in float32, whose sums are exact to its precision: no sum of two products is clipped.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            node.output(0).replace(_spelled_out(node).output(0))


def _spelled_out(node: "Node") -> "Node":
    """As OpenVINO's specification of FakeQuantize has it."""
    from openvino import opset13 as ops

    x, low, high, out_low, out_high = (node.input_value(position) for position in range(5))
    levels = ops.constant(np.float32(node.get_levels() - 1))
    # Of a range of no width every value is its low end.
    width = ops.maximum(ops.subtract(high, low), ops.constant(np.finfo(np.float32).tiny))
    steps = ops.multiply(ops.divide(ops.subtract(ops.minimum(ops.maximum(x, low), high), low), width), levels)
    whole = ops.round(steps, "half_to_even")
    # First the size of a step: it is 1 where integers are wanted, and they stay whole.
    step = ops.divide(ops.subtract(out_high, out_low), levels)
    return ops.add(ops.multiply(whole, step), out_low)
