"""Which weights of an ONNX graph are added up in pairs on a CPU without VNNI, and scales with which none is clipped."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.quantization import SMALLEST_SCALE
from calibration.saturation import LARGEST_PAIR, LARGEST_WEIGHT, as_matrix, is_depthwise, largest_pair, safe_scales

if TYPE_CHECKING:
    import onnx

# Dimensions of the weights of a convolution over images.
IMAGE_KERNEL = 4


def unsaturated_weights(
    model: "onnx.ModelProto", exact: Collection[str] = (), *, within_places: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """The quantizer's settings for the weights of which it is known what kernels add up in pairs: a scale a channel.

    exact: operators whose kernels clip nothing, and whose weights the quantizer gives one scale: the finest.
    within_places: as for in_order_of_summing.
    """
    import onnx
    from onnxruntime.quantization import QuantType

    graph = model.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    settings: dict[str, list[dict[str, Any]]] = {}
    for node in graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        # What several nodes read, each may read in another order.
        if name not in arrays or readers[name] > 1:
            continue
        weights, kind = onnx.numpy_helper.to_array(arrays[name]), {"quant_type": QuantType.QInt8, "zero_point": 0}
        if node.op_type in exact:
            scale = max(np.abs(weights).max() / LARGEST_WEIGHT, SMALLEST_SCALE)
            settings[name] = [kind | {"scale": np.float32(scale)}]
        elif (ordered := in_order_of_summing(node, weights, within_places=within_places)) is not None:
            axis, matrix = ordered
            settings[name] = [kind | {"axis": axis, "scale": scale} for scale in safe_scales(matrix)]
    return settings


def in_order_of_summing(
    node: "onnx.NodeProto", weights: np.ndarray, *, within_places: bool = False
) -> "tuple[int, np.ndarray] | None":
    """The axis of the output channels and the weights as [k, channels]; None where it is not known.

    Of weights that have no neighbours, as those of a depthwise convolution, it is the largest of each channel: [1, n].
    within_places: no pair spans two places of a convolution's kernel (OpenVINO).
    """
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        group, depth = attributes.get("group", 1), weights.shape[1]
        depthwise = is_depthwise(weights, group)
        # Groups go through several kernels there, which pair otherwise, as depthwise ones over volumes do.
        if within_places and group > 1 and (not depthwise or weights.ndim > IMAGE_KERNEL):
            return None
        if depthwise or (within_places and depth == 1):
            return 0, np.abs(weights).reshape(len(weights), -1).max(axis=1)[None]
        # Of an odd number of channels the pairs are others than ONNX Runtime's, which training keeps.
        odd = depth % 2 == 1 and int(np.prod(weights.shape[2:])) > 1
        return None if within_places and odd else (0, as_matrix(weights))
    if node.op_type == "MatMul" and weights.ndim == 2:
        return 1, weights
    if node.op_type == "Gemm" and weights.ndim == 2:
        return (0, weights.T) if attributes.get("transB", 0) else (1, weights)
    return None


def can_clip(model: "onnx.ModelProto", node: "onnx.NodeProto") -> bool:
    """Whether two products of this node's integers can exceed 16 bits, as they may where there is no VNNI."""
    import onnx

    from targets.onnx_integers import QuantizedGraph

    graph = QuantizedGraph(model)
    index = graph.producer.get(node.input[1]) if len(node.input) > 1 else None
    behind = graph.nodes[index].input[0] if index is not None and graph.nodes[index].input else node.input[1]
    integers = graph.arrays.get(behind)
    if integers is None or integers.dtype != np.int8:
        return False
    as_float = onnx.NodeProto()
    as_float.CopyFrom(node)
    as_float.op_type = node.op_type.removesuffix("Integer")
    ordered = in_order_of_summing(as_float, integers)
    return ordered is not None and bool((largest_pair(ordered[1]) > LARGEST_PAIR).any())
