"""Constants of an OpenVINO model: their values, and how far these lie apart where they are integers."""

from typing import Any

import numpy as np

# What shapes a constant and leaves its values.
SHAPING = ("Reshape", "Unsqueeze", "Squeeze")


def values_of(node: Any, position: int) -> np.ndarray | None:
    """Of an input that is a constant, which may be reshaped, converted or rounded behind it."""
    source = node.input_value(position).get_node()
    kind = source.get_type_name()
    if kind == "Constant":
        return np.asarray(source.get_data())
    if kind in (*SHAPING, "Convert"):
        found = values_of(source, 0)
        shape = source.output(0).get_partial_shape()
        return found.reshape(shape.to_shape()) if found is not None and shape.is_static else found
    if kind != "FakeQuantize":
        return None
    x, *ends = (values_of(source, i) for i in range(5))
    if x is None or any(end is None for end in ends):
        return None
    low_in, high_in, low, high = (np.asarray(end, np.float64) for end in ends)
    levels = source.get_attributes()["levels"]
    steps = np.rint((np.clip(x, low_in, high_in) - low_in) / (high_in - low_in) * (levels - 1))
    return steps / (levels - 1) * (high - low) + low


def step_of(node: Any) -> np.ndarray:
    """The distance of neighbouring values of what a node gives, broadcast to its shape: of FakeQuantize, of a product
    with integers; else 0.
    """
    if node.get_type_name() == "FakeQuantize":
        low, high = (values_of(node, p) for p in (3, 4))
        if low is not None and high is not None:
            return (high.astype(np.float64) - low) / (node.get_attributes()["levels"] - 1)
    integers = node.get_type_name() == "Multiply" and node.input_value(0).get_node().get_type_name()
    scale = values_of(node, 1) if integers in ("Convert", "Subtract") else None
    # NNCF gives a scale the sign that spares the largest weight from clipping.
    if scale is None:
        return np.zeros(())
    # A scale in float16 is itself rounded: of a weight of 127 steps by a sixteenth of one.
    return np.abs(scale.astype(np.float64)) * (9 / 8 if scale.dtype == np.float16 else 1)
