"""Weights of a quantized ONNX graph made safe, layer by layer, for a CPU that clips sums of two products to 16 bits.

It works on what any quantizer wrote (Q/DQ pairs, QOperator, dynamic), changes numbers only, and so costs no time: of a
chosen layer, the output channels that some input can clip get the finest scale with which none can
(calibration/saturation.py); all others keep their 8 bits.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from calibration.errors import UnsupportedError
from calibration.saturation import LARGEST_WEIGHT, safe_scales
from targets.onnx_products import Product, optimized, products

if TYPE_CHECKING:
    import onnx

# Beyond half a step, float32's rounding: a weight that is further from its integer is not the one it was made of.
HALF_A_STEP = 0.501


def unsaturated(
    graph: "onnx.ModelProto",
    layers: Collection[str] | None = None,
    floats: Mapping[str, np.ndarray] | None = None,
) -> "onnx.ModelProto":
    """The graph with weights that no input can clip in these layers, and nothing else changed.

    layers: names of nodes in the optimized graph, as SaturatingLayer has them; None for all.
    floats: the weights before quantization, by name; where they are known they are rounded once, not twice.
    Raises UnsupportedError naming a layer whose weights cannot be told from the graph.
    """
    repaired = _copy(graph)
    # A weight that two layers read in another order may need a second look: what is safe for one may not be for both.
    found: list[Product] = []
    for _ in range(3):
        found = [p for p in products(optimized(repaired)) if p.can_clip.any() and (layers is None or p.name in layers)]
        # Of two computed operands no scale can be changed.
        found = [product for product in found if product.weights is not None]
        if not found:
            break
        for product in found:
            tensors = _Tensors(repaired, product)
            scale = safe_scales_of(product, tensors.weights(floats or {}), tensors.scale)
            tensors.write(scale, floats or {})
    else:
        raise UnsupportedError(f"the weights of {found[0].name} cannot be made safe")
    return repaired


def weights_of(graph: "onnx.ModelProto") -> dict[str, np.ndarray]:
    """The float32 constants of a graph, by name."""
    import onnx

    found = (tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found}


def rescaled(graph: "onnx.ModelProto", factors: Mapping[str, float]) -> "onnx.ModelProto":
    """The graph with the weights of some layers, by name in the optimized graph, on scales so many times as coarse."""
    coarser = _copy(graph)
    for product in products(optimized(coarser)):
        if product.name in factors and product.weights is not None:
            tensors = _Tensors(coarser, product)
            tensors.write((tensors.scale * factors[product.name]).astype(np.float32), {})
    return coarser


def safe_scales_of(product: Product, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[outputs] or [1] float32: the scales of a product's weights with which nothing is clipped, no finer than `scale`.

    weights: float, in the shape they are stored in.
    """
    outputs = weights.shape[product.output_axis]
    finest = np.broadcast_to(scale, outputs).astype(np.float32)
    each = outputs // product.group
    safe = np.concatenate(
        [
            safe_scales(matrix, finest[i * each : (i + 1) * each])
            for i, matrix in enumerate(product.in_order_of_summing(weights))
        ]
    )
    # One scale for all channels stays one.
    return safe if scale.size > 1 or outputs == 1 else safe.max(keepdims=True)


class _Tensors:
    """Where the weights of a product, their scale and the bias stand in the graph that ships."""

    def __init__(self, graph: "onnx.ModelProto", product: Product) -> None:
        import onnx

        self.graph, self.product = graph.graph, product
        self.arrays = {tensor.name: tensor for tensor in self.graph.initializer}
        made_by = {name: node for node in self.graph.node for name in node.output}
        maker = made_by.get(product.w)
        self.stored = product.w
        if maker is not None and maker.op_type == "QuantizeLinear":
            self.stored = maker.input[0]
        self.scale_name = product.w_scale or f"{product.w.removesuffix('_quantized')}_scale"
        for name, what in ((self.stored, "weights"), (self.scale_name, "scale")):
            if name not in self.arrays:
                raise UnsupportedError(f"layer {product.name}: its {what}, {name}, are not among the graph's constants")
        zero = self.arrays.get(product.w_zero)
        if zero is not None and np.any(onnx.numpy_helper.to_array(zero)):
            raise UnsupportedError(f"layer {product.name}: the zero point of its weights is not 0")
        self.scale = np.atleast_1d(onnx.numpy_helper.to_array(self.arrays[self.scale_name]))

    @property
    def _integers(self) -> bool:
        import onnx

        return self.arrays[self.stored].data_type == onnx.TensorProto.INT8

    def weights(self, floats: Mapping[str, np.ndarray]) -> np.ndarray:
        """Float32, as stored: before quantization where that is known, else what the integers stand for."""
        import onnx

        stored = onnx.numpy_helper.to_array(self.arrays[self.stored])
        if not self._integers:
            return stored
        scale = self._along(self.scale)
        # Every quantizer puts the weights' own name into that of the integers.
        for known in (array for name, array in floats.items() if name in self.stored and array.shape == stored.shape):
            steps = np.clip(known / scale, -LARGEST_WEIGHT - 1, LARGEST_WEIGHT)
            if np.abs(steps - stored).max() <= HALF_A_STEP:
                return known
        return stored.astype(np.float32) * scale

    def write(self, scale: np.ndarray, floats: Mapping[str, np.ndarray]) -> None:
        """Gives the weights another scale, and the bias, if it is an integer, that of its products."""
        import onnx

        weights, ratio = self.weights(floats), self.scale / scale
        changed = scale != self.scale
        if self._integers:
            old = onnx.numpy_helper.to_array(self.arrays[self.stored])
            new = np.clip(np.rint(weights / self._along(scale)), -LARGEST_WEIGHT - 1, LARGEST_WEIGHT).astype(np.int8)
            self._put(self.stored, np.where(np.broadcast_to(self._along(changed), old.shape), new, old))
        self._put(self.scale_name, scale)
        bias = self.arrays.get(self.product.bias)
        if bias is not None and bias.data_type == onnx.TensorProto.INT32:
            old_bias = onnx.numpy_helper.to_array(bias)
            self._put(bias.name, np.rint(old_bias * ratio.astype(np.float64)).astype(np.int32))
            for node in self.graph.node:
                if node.op_type == "DequantizeLinear" and node.input[0] == bias.name:
                    bias_scale = onnx.numpy_helper.to_array(self.arrays[node.input[1]])
                    self._put(node.input[1], (bias_scale / ratio).astype(np.float32))

    def _along(self, values: np.ndarray) -> np.ndarray:
        """[outputs] or [1] values in the shape of the weights' output axis."""
        dims = self.arrays[self.stored].dims
        shape = [1] * len(dims)
        shape[self.product.output_axis] = -1
        return values.reshape(shape)

    def _put(self, name: str, value: np.ndarray) -> None:
        import onnx

        tensor = self.arrays[name]
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.reshape(tuple(tensor.dims)), name))


def _copy(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied
